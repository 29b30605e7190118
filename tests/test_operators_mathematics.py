"""Each differentiable operator against PyTorch and central differences, each other one against NumPy."""

import importlib.util

import ml_dtypes
import numpy as np
import pytest
from reference_operators import (
    CASES,
    check_gradients,
    recorded_answers,
    run_both,
    run_forward,
    torch_answers,
)

from numscope.arena import Arena
from numscope.errors import BlobTypeError, OperatorError
from numscope.operators import Net, Operator

HAS_TORCH = importlib.util.find_spec("torch") is not None
ANSWERS = recorded_answers()
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.fixture
def arena(device):
    with Arena("4 MiB", device=device) as arena:
        yield arena


@each_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_output_and_gradients_are_those_of_pytorch(arena, case, dtype):
    expected = ANSWERS[case.id]
    shape = expected["y"].shape
    seeds = {case.output: case.seed(shape, dtype)}
    ws, gradients = run_both(arena, Net("net", [case.operator]), case.feeds(dtype), seeds, runs=2)
    assert ws[case.output].shape == shape
    for name, answer in expected.items():
        ours = ws.fetch(case.output if name == "y" else gradients[name])
        error = np.linalg.norm(ours - answer) / max(np.linalg.norm(answer), 1e-30)
        assert error <= TOLERANCE[dtype] or np.abs(ours - answer).max() < 1e-30, name
    for name in case.feeds(dtype):
        if name not in case.wrt() and name != "labels":
            assert name not in gradients


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@each_case
def test_recorded_answers_are_those_of_the_installed_pytorch(case):
    answers = torch_answers(case, "float64")
    assert list(answers) == list(ANSWERS[case.id])
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, ANSWERS[case.id][name], rtol=1e-12, atol=1e-14)


@each_case
def test_gradients_are_those_of_central_differences(arena, case):
    shape = ANSWERS[case.id]["y"].shape
    seeds = {case.output: case.seed(shape, "float64")}
    check_gradients(arena, [case.operator], case.feeds("float64"), seeds, case.wrt(), tolerance=1e-7)


IN_PLACE = ["Tanh", "Sigmoid", "Relu", "Scale", "Neg", "Negative", "Exp"]


@pytest.mark.parametrize("kind", IN_PLACE)
def test_in_place_operators_have_the_same_gradient(arena, kind):
    x = np.array([-1.5, 0.3, 2.0])
    seed = np.array([1.0, -2.0, 0.5])
    plain, plain_gradients = run_both(arena, Net("n", [Operator(kind, "x", "y")]), {"x": x}, {"y": seed})
    ours, gradients = run_both(
        arena, Net("n", [Operator("Copy", "x0", "x"), Operator(kind, "x", "x")]), {"x0": x}, {"x": seed}
    )
    np.testing.assert_array_equal(ours.fetch("x"), plain.fetch("y"))
    np.testing.assert_array_equal(ours.fetch(gradients["x0"]), plain.fetch(plain_gradients["x"]))


@pytest.mark.parametrize("exponent", [3.0, 0.5, -1.0])
def test_pow_in_place_takes_its_gradient_from_the_result(arena, exponent):
    x = np.array([0.5, 1.5, 2.0]) if exponent == 0.5 else np.array([-0.5, 1.5, -2.0])
    check_gradients(
        arena,
        [Operator("Copy", "x0", "x"), Operator("Pow", "x", "x", exponent=exponent)],
        {"x0": x},
        {"x": np.array([1.0, 2.0, 3.0])},
        ["x0"],
    )


def test_an_even_power_in_place_is_refused_as_its_base_is_gone(arena):
    net = Net("n", [Operator("Copy", "x0", "x"), Operator("Pow", "x", "x", exponent=2.0)])
    with pytest.raises(OperatorError, match=r"Pow.*needs 'x'"):
        run_both(arena, net, {"x0": np.ones(3)}, {"x": np.ones(3)})


COMPARISONS = {"LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal}


@pytest.mark.parametrize("kind", COMPARISONS)
def test_comparisons_broadcast_and_give_bool(ws, kind):
    ws["a"] = a = np.array([[1, 2, 3], [3, 2, 1]], np.int32)
    ws["b"] = b = np.array([2, 2, 2], np.int32)
    ws.run(Operator(kind, ["a", "b"], ["c"]))
    np.testing.assert_array_equal(ws.fetch("c"), COMPARISONS[kind](a, b), strict=True)


def test_logic_takes_bool_only(ws):
    ws["a"] = a = np.array([True, True, False, False])
    ws["b"] = b = np.array([True, False, True, False])
    for kind, function in (("And", np.logical_and), ("Or", np.logical_or)):
        ws.run(Operator(kind, ["a", "b"], ["c"]))
        np.testing.assert_array_equal(ws.fetch("c"), function(a, b), strict=True)
    ws.run(Operator("Not", ["a"], ["a"]))
    np.testing.assert_array_equal(ws.fetch("a"), ~a)
    ws["i"] = np.array([1, 0, 1, 0])
    with pytest.raises(BlobTypeError, match="must be bool, got int64"):
        ws.run(Operator("And", ["i", "b"], ["c"]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, np.array(0.0, np.float32)),
        ({"shape": [2], "value": 4.0}, np.full(2, 4.0, np.float32)),
        ({"shape": [2, 0]}, np.zeros((2, 0), np.float32)),
        ({"shape": [2], "value": 3}, np.full(2, 3, np.int64)),
        ({"shape": [1], "value": 1, "dtype": 5}, np.array([True])),
        ({"shape": [1], "value": 1.5, "dtype": "float16"}, np.array([1.5], np.float16)),
        ({"shape": [1], "value": 1.5, "dtype": "FLOAT"}, np.array([1.5], np.float32)),
        ({"shape": [1], "value": 200, "dtype": "byte"}, np.array([200], np.uint8)),
    ],
)
def test_constant_fill(ws, arguments, expected):
    ws.run(Operator("ConstantFill", [], ["x"], **arguments))
    np.testing.assert_array_equal(ws.fetch("x"), expected, strict=True)


def test_constant_fill_takes_its_shape_from_an_input(ws):
    ws["like"] = np.zeros((2, 3))
    ws.run(Operator("ConstantFill", ["like"], ["x"], value=2.0, extra_shape=[4]))
    np.testing.assert_array_equal(ws.fetch("x"), np.full((2, 3, 4), 2.0, np.float32), strict=True)
    ws.run(Operator("ConstantFill", ["like"], ["x"], value=2.0, dtype="input"))
    np.testing.assert_array_equal(ws.fetch("x"), np.full((2, 3), 2.0), strict=True)
    ws["shape"] = np.array([3, 1])
    ws.run(Operator("ConstantFill", ["shape"], ["x"], input_as_shape=1))
    assert ws["x"].shape == (3, 1)
    for other in (np.array([3, 1], np.int32), np.array([[3, 1]]), np.zeros(0, np.int64), np.ones(2)):
        ws["shape"] = other
        with pytest.raises(OperatorError, match="the input is a shape: a vector of int64, not empty"):
            ws.run(Operator("ConstantFill", ["shape"], ["x"], input_as_shape=1))


def test_given_fills(ws):
    ws.run(Operator("GivenTensorFill", [], ["x"], shape=[2, 2], values=[1, 2.5, 3, 4]))
    np.testing.assert_array_equal(ws.fetch("x"), np.array([[1, 2.5], [3, 4]], np.float32), strict=True)
    ws.run(Operator("GivenTensorInt64Fill", [], ["i"], shape=[], values=[2**40]))
    np.testing.assert_array_equal(ws.fetch("i"), np.array(2**40), strict=True)
    ws.run(Operator("GivenTensorFill", [], ["x"], shape=[2], values=[1, 2], dtype="int32"))
    np.testing.assert_array_equal(ws.fetch("x"), np.array([1, 2], np.int32), strict=True)
    ws.run(Operator("GivenTensorFill", ["x"], ["y"], extra_shape=[1], values=[3, 4]))
    np.testing.assert_array_equal(ws.fetch("y"), np.array([[3], [4]], np.float32), strict=True)
    ws["x"] = np.array([1, 2])
    with pytest.raises(OperatorError, match=r"2 values do not fill shape \(1, 2, 2\)"):
        ws.run(
            Operator("GivenTensorInt64Fill", ["x"], ["y"], input_as_shape=1, extra_shape=[2], values=[3, 4])
        )
    with pytest.raises(OperatorError, match="3 values do not fill shape"):
        ws.run(Operator("GivenTensorFill", [], ["x"], shape=[2], values=[1, 2, 3]))


def test_reshape_tells_the_old_shape_in_the_type_of_the_new(ws):
    ws["x"], ws["shape"] = np.zeros((2, 3)), np.array([3, -1], np.int32)
    ws.run(Operator("Reshape", ["x", "shape"], ["y", "old"]))
    assert ws["y"].shape == (3, 2)
    np.testing.assert_array_equal(ws.fetch("old"), np.array([2, 3], np.int32), strict=True)
    ws.run(Operator("Reshape", ["x"], ["x", "old"], shape=[6]))
    np.testing.assert_array_equal(ws.fetch("old"), np.array([2, 3]), strict=True)
    assert ws["x"].shape == (6,)
    for shape in ((2, 12), (0, 12)):
        ws["x"] = np.zeros(shape)
        ws.run(Operator("Reshape", ["x"], ["y", "old"], shape=[0, 3, -1]))
        assert ws["y"].shape == (shape[0], 3, 4)


def test_slices_of_nothing_and_of_a_tensor_without_dimensions(ws):
    ws["x"], ws["none"] = np.array(3.0), np.zeros((2, 0))
    ws.run(Operator("Slice", ["x"], ["y"], starts=[], ends=[]))
    ws.run(Operator("SliceGradient", ["x", "y"], ["dx"], starts=[], ends=[]))
    assert ws["y"] == ws["dx"] == 3.0
    ws.run(Operator("Slice", ["none"], ["y"], starts=[0, 5], ends=[1, -3]))
    assert ws["y"].shape == (1, 0)


def test_free_empties_blobs_and_keeps_their_names(ws):
    ws["x"] = np.ones(1000)
    ws.run(Operator("CreateScope", [], ["s"]))
    assert ws.run(Operator("Free", ["x", "s"], ["x", "s"]))
    assert ws["x"] is None
    assert ws["s"] is None
    assert ws.nbytes == 0


def test_accumulate_adds_all_in_one_call(ws):
    from numscope import kernels

    ws["a"], ws["b"] = np.ones(3, np.float32), np.ones((2, 2), np.float32)
    ws["g"], ws["h"] = np.arange(3, dtype=np.float32), np.full((2, 2), 2.0, np.float32)
    operator = Operator("Accumulate", ["a", "b", "g", "h"], ["a", "b"])
    ws.run(operator)
    before = kernels.launches()
    ws.run(operator)
    assert kernels.launches() == before + 1
    np.testing.assert_array_equal(ws.fetch("a"), [1, 3, 5])
    np.testing.assert_array_equal(ws.fetch("b"), np.full((2, 2), 5.0))


def test_accumulate_of_a_narrower_type_adds_to_a_wider_sum(ws):
    ws["a"] = np.ones(300, np.float32)
    ws["g"] = np.full(300, 2**-9, ml_dtypes.bfloat16)
    for _ in range(512):
        ws.run(Operator("Accumulate", ["a", "g"], ["a"]))
    np.testing.assert_array_equal(ws.fetch("a"), 2.0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_elementwise_operators_keep_half_precision(ws, dtype):
    ws["x"] = np.array([-1.0, 0.5, 2.0], dtype)
    for kind in ("Tanh", "Sigmoid", "Relu", "Exp", "Scale", "Neg"):
        ws.run(Operator(kind, ["x"], ["y"]))
        assert ws["y"].dtype == dtype
    ws.run(Operator("Add", ["x", "x"], ["y"]))
    np.testing.assert_array_equal(ws.fetch("y").astype(float), [-2, 1, 4])


def test_extreme_values_give_ieee_results_without_warnings(ws):
    ws["x"] = np.array([-1e4, -80.0, 0.0, 80.0, 1e4], np.float32)
    ws.run(Operator("Sigmoid", ["x"], ["y"]))
    np.testing.assert_allclose(ws.fetch("y"), [0, 1.8048513e-35, 0.5, 1, 1], rtol=1e-5)
    ws.run(Operator("Exp", ["x"], ["y"]))
    assert ws["y"][-1] == np.inf
    ws["x"] = np.zeros(2, np.float32)
    ws.run(Operator("Log", ["x"], ["y"]))
    assert (ws["y"] == -np.inf).all()
    ws["x"] = np.array([[1e30, 0.0]], np.float32)
    ws["label"] = np.array([1], np.int32)
    ws.run(Operator("SoftmaxWithLoss", ["x", "label"], ["p", "loss"]))
    np.testing.assert_allclose(ws.fetch("loss"), 1e30)
    np.testing.assert_array_equal(ws.fetch("p"), [[1, 0]])


WITH_BATCHES = (
    "tanh sum mul fc reshape concat slice averaged_loss distance softmax_loss softmax_loss_weighted"
)
WITH_BATCHES = [case for case in CASES if case.id in WITH_BATCHES.split()]


@pytest.mark.parametrize("case", WITH_BATCHES, ids=lambda case: case.id)
def test_batches_without_examples(arena, case):
    """Of all that has as many rows as x, no row is left."""
    feeds = case.feeds("float64")
    count = len(feeds["x"])
    weights = {"w", "b"} if case.id == "fc" else set()
    feeds = {n: v[:0] if len(v) == count and n not in weights else v for n, v in feeds.items()}
    ws = run_forward(arena, Net("net", [case.operator]), feeds)
    ws, gradients = run_both(arena, Net("net", [case.operator]), feeds, {case.output: ws.fetch(case.output)})
    for name in case.wrt():
        np.testing.assert_array_equal(ws.fetch(gradients[name]), np.zeros(feeds[name].shape), strict=True)


@pytest.mark.parametrize("rows", [0, 2])
def test_losses_without_weight_are_zero(ws, rows):
    ws["x"], ws["labels"] = np.ones((rows, 3), np.float32), np.zeros(rows, np.int32)
    ws["weights"], ws["dloss"] = np.zeros(rows, np.float32), np.array(1, np.float32)
    for read in ("x labels", "x labels weights"):
        if rows and read == "x labels":
            continue
        ws.run(Operator("SoftmaxWithLoss", read.split(), ["p", "loss"]))
        ws.run(Operator("SoftmaxWithLossGradient", [*read.split(), "p", "dloss"], ["dx"]))
        np.testing.assert_array_equal(ws.fetch("loss"), np.array(0, np.float32), strict=True)
        np.testing.assert_array_equal(ws.fetch("dx"), np.zeros((rows, 3), np.float32), strict=True)


def test_reductions_of_nothing_are_zero(ws):
    ws["x"] = np.zeros((0, 3), np.float32)
    for kind in ("SumElements", "AveragedLoss"):
        ws.run(Operator(kind, ["x"], ["y"]))
        np.testing.assert_array_equal(ws.fetch("y"), np.array(0, np.float32), strict=True)


def test_running_again_takes_no_new_memory(arena, ws):
    feeds = {"x": (4, 8), "w": (8, 8), "b": (8,)}
    for name, shape in feeds.items():
        ws[name] = np.ones(shape, np.float32)
    net = Net("n", [
        Operator("FC", ["x", "w", "b"], ["y"]), Operator("Tanh", ["y"], ["y"]),
        Operator("Mul", ["y", "x"], ["z"]),
        Operator("Concat", ["y", "z"], ["c", "lengths"]), Operator("AveragedLoss", ["c"], ["loss"]),
    ])  # fmt: skip
    ws.run(net)
    arrays = [ws[name] for name in ("y", "z", "c", "loss")]
    taken = arena.stats().segments_taken
    ws.run(net)
    assert all(ws[name] is array for name, array in zip(("y", "z", "c", "loss"), arrays, strict=True))
    assert arena.stats().segments_taken == taken
