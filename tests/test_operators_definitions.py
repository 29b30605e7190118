"""Caffe2's definitions of mathematics and data operators where they are not what one would guess.

Each is as the sources of Caffe2 1.9 have it; no trace shows it.
"""

import ml_dtypes
import numpy as np
import pytest
from loop_nets import op
from reference_operators import check_gradients, run_both

from numscope.arena import Arena
from numscope.errors import BlobTypeError, OperatorError
from numscope.operators import Net, Operator, gradient
from numscope.workspace import Workspace


@pytest.fixture
def arena(device):
    with Arena("4 MiB", device=device) as arena:
        yield arena


# Broadcasting


@pytest.mark.parametrize(
    ("shape", "arguments", "aligned"),
    [
        ((1, 3, 1), {}, (1, 3, 1)),
        ((3, 1), {}, (1, 3, 1)),
        ((1, 3), {"axis": 0}, (1, 3, 1)),
        ((2, 1), {"axis": 0}, (2, 1, 1)),
        ((1, 1, 1), {"axis": 2}, (1, 1, 1)),
    ],
)
def test_lengths_of_one_at_the_ends_are_stretched_by_the_older_broadcasting(arena, shape, arguments, aligned):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal(shape)
    step = op("Mul", "a b", "c", broadcast=1, **arguments)
    ws, _ = check_gradients(arena, [step], {"a": a, "b": b}, {"c": rng.standard_normal((2, 3, 4))}, "ab")
    np.testing.assert_array_equal(ws.fetch("c"), a * b.reshape(aligned))


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [((2, 1, 4), {}), ((3,), {}), ((3,), {"axis": 3}), ((3, 4), {"axis": -2}), ((2, 3, 4, 1), {})],
)
def test_the_older_broadcasting_stretches_nothing_else(ws, shape, arguments):
    ws["a"], ws["b"] = np.ones((2, 3, 4)), np.ones(shape)
    with pytest.raises(OperatorError, match="does not fit"):
        ws.run(op("Add", "a b", "c", broadcast=1, **arguments))


def test_axis_has_no_effect_without_broadcast(ws):
    ws["a"], ws["b"] = np.ones((2, 3, 4)), np.arange(4.0)
    ws.run(op("Add", "a b", "c", axis=1))
    np.testing.assert_array_equal(ws.fetch("c"), np.ones((2, 3, 4)) + np.arange(4.0))


@pytest.mark.parametrize("kind", ["Add", "And"])
def test_an_operand_that_is_overwritten_has_the_shape_of_the_result(ws, kind):
    dtype = bool if kind == "And" else float
    ws["a"], ws["b"] = np.ones(2, dtype), np.ones((3, 2), dtype)
    with pytest.raises(OperatorError, match=r"in-place output 'a' has shape \(2,\), the result has \(3, 2\)"):
        ws.run(op(kind, "a b", "a"))
    np.testing.assert_array_equal(ws.fetch("a"), np.ones(2, dtype))


def test_exponents_of_another_shape_need_the_older_broadcasting(arena, ws):
    ws["x"], ws["e"] = np.full((2, 3), 2.0), np.array([3.0, 2.0])
    with pytest.raises(OperatorError, match=r"X has shape \(2, 3\), the exponents have \(2,\); broadcast=1"):
        ws.run(op("Pow", "x e", "y"))
    ws.run(op("Pow", "x e", "y", broadcast=1, axis=0))
    np.testing.assert_array_equal(ws.fetch("y"), [[8.0] * 3, [4.0] * 3])
    feeds = {"x": np.array([[0.5, 1.5, 2.0], [1.0, 3.0, 0.2]]), "e": np.array([2.0, -1.5])}
    seed = np.random.default_rng(0).standard_normal((2, 3))
    check_gradients(arena, [op("Pow", "x e", "y", broadcast=1, axis=0)], feeds, {"y": seed}, ["x", "e"])


# Matrices and losses


@pytest.mark.parametrize("kind", ["MatMul", "FC", "SoftmaxWithLoss"])
def test_the_axis_that_parts_rows_from_columns_exists(ws, kind):
    ws["v"], ws["m"], ws["i"] = np.ones(3), np.ones((3, 3)), np.zeros(3, np.int32)
    read, made = {"MatMul": ("v m", "y"), "FC": ("v m v", "y"), "SoftmaxWithLoss": ("v i", "p loss")}[kind]
    with pytest.raises(OperatorError, match="axis 1 does not exist"):
        ws.run(op(kind, read, made))


@pytest.mark.parametrize(
    ("kind", "read"), [("MatMul", "m m"), ("FC", "m m v"), ("SquaredL2Distance", "v v"), ("Div", "v v")]
)
def test_what_computes_with_real_numbers_takes_no_integers(ws, kind, read):
    ws["m"], ws["v"] = np.ones((2, 2), np.int64), np.ones(2, np.int64)
    with pytest.raises(BlobTypeError, match="must be floating point, got int64"):
        ws.run(op(kind, read, "y"))


def test_the_bias_has_the_dtype_of_the_rest(ws):
    ws["x"], ws["w"], ws["b"] = np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), np.ones(3)
    with pytest.raises(BlobTypeError, match="'x' and 'b' must be of one dtype, got float32 and float64"):
        ws.run(op("FC", "x w b", "y"))


@pytest.mark.parametrize("labels", [np.full((4, 3), 0.25), np.full(12, 0.25), np.full((1, 3, 4), 0.25)])
def test_probabilities_of_another_shape_are_not_those_of_the_classes(ws, labels):
    ws["x"], ws["labels"] = np.ones((3, 4)), labels
    with pytest.raises(OperatorError, match=r"read as the logits are, as \(3, 4\); got shape"):
        ws.run(op("SoftmaxWithLoss", "x labels", "p loss", label_prob=1))


@pytest.mark.parametrize(
    ("row", "message"),
    [([0.5, 0.6], "sum to 1"), ([1.5, -0.5], "not be negative"), ([np.nan, 1.0], "not be negative")],
)
def test_probabilities_are_checked(ws, row, message):
    ws["x"], ws["labels"] = np.ones((2, 2)), np.array([[0.5, 0.5], row])
    with pytest.raises(OperatorError, match=f"label probabilities must {message}"):
        ws.run(op("SoftmaxWithLoss", "x labels", "p loss", label_prob=1))


def test_labels_may_have_a_column_and_are_parted_as_the_logits(ws):
    ws["x"] = x = np.random.default_rng(0).standard_normal((2, 3, 4))
    for labels, axis in ((np.array([[5], [0]]), 1), (np.array([[0, 1, 2], [3, 0, 1]]), 2)):
        ws["labels"] = labels
        ws.run(op("SoftmaxWithLoss", "x labels", "p loss", axis=axis))
        rows = np.exp(x).reshape(labels.size, -1)
        expected = -np.log(rows[range(labels.size), labels.ravel()] / rows.sum(axis=1)).mean()
        np.testing.assert_allclose(ws.fetch("loss"), expected)
    ws["labels"] = np.array([[0, 1, 2]])
    with pytest.raises(OperatorError, match=r"expected 2 labels, one a row, got shape \(1, 3\)"):
        ws.run(op("SoftmaxWithLoss", "x labels", "p loss"))


def test_a_weighted_loss_can_be_averaged_over_the_rows(arena):
    feeds = {
        "x": np.random.default_rng(0).standard_normal((3, 4)),
        "labels": np.array([2, 0, 1], np.int32),
        "weights": np.array([0.5, 0.0, 2.0]),
    }
    step = op("SoftmaxWithLoss", "x labels weights", "p loss", average_by_batch_size=1, order="NCHW")
    ws, _ = check_gradients(arena, [step], feeds, {"loss": np.array(1.0)}, ["x"])
    ws.run(op("SoftmaxWithLoss", "x labels weights", "p other"))
    np.testing.assert_allclose(ws.fetch("loss"), ws.fetch("other") * 2.5 / 3)
    for name in feeds:
        ws[name] = feeds[name][:0]
    ws.run(step)
    assert ws["loss"] == 0


@pytest.mark.parametrize(("key", "value"), [("scale", -1.0), ("order", "NHWC")])
def test_the_loss_is_neither_turned_round_nor_of_another_order(ws, key, value):
    ws["x"], ws["labels"] = np.ones((1, 2)), np.zeros(1, np.int32)
    with pytest.raises(OperatorError, match=f"{key} (must not be negative|can only be)"):
        ws.run(op("SoftmaxWithLoss", "x labels", "p loss", **{key: value}))


def test_the_gradient_of_a_distance_has_one_element_a_row(ws):
    ws["x"], ws["d"] = np.ones((3, 2)), np.ones(1)
    with pytest.raises(OperatorError, match=r"gradient 'd' has shape \(1,\), expected \(3,\)"):
        ws.run(op("SquaredL2DistanceGradient", "x x d", "dx dy"))


# Shapes


@pytest.mark.parametrize(
    ("old", "wanted", "new"),
    [
        ((2, 0), (0, 5), (0, 5)),
        ((2, 0), (3, 0), (3, 0)),
        ((0, 5), (7, 0), (7, 0)),
        ((0, 5), (-1, 4), (0, 4)),
        ((2, 0), (0, -1), (0, 0)),
        ((0,), (0, 0, 3), (0, 0, 3)),
    ],
)
def test_a_zero_is_a_length_of_an_empty_tensor(arena, old, wanted, new):
    """It is also what the gradient needs, which gets back the old shape by such a Reshape."""
    net = Net("n", [op("Reshape", "x", "y old", shape=wanted)])
    ws, gradients = run_both(arena, net, {"x": np.zeros(old)}, {"y": np.zeros(new)})
    assert ws["y"].shape == new
    assert ws[gradients["x"]].shape == old


def test_concat_finds_the_channels_by_the_order_of_dimensions(arena):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1, 3, 2)), rng.standard_normal((2, 1, 3, 2))
    for order, axis in (("NCHW", 1), ("NHWC", 3)):
        expected = np.concatenate([a, b], axis)
        step, seed = op("Concat", "a b", "c lengths", order=order), {"c": expected}
        ws, gradients = run_both(arena, Net("n", [step]), {"a": a, "b": b}, seed)
        np.testing.assert_array_equal(ws.fetch("c"), expected)
        np.testing.assert_array_equal(ws.fetch(gradients["b"]), b)
    ws = Workspace(arena=arena)
    ws["a"] = a
    for arguments, message in (
        ({"order": "CNHW"}, "must be 'NCHW' or"),
        ({"axis": 1, "order": "NHWC"}, "excl"),
    ):
        with pytest.raises(OperatorError, match=message):
            ws.run(op("Concat", "a a", "c lengths", **arguments))


def test_starts_and_ends_have_one_dimension(ws):
    ws["x"], ws["start"], ws["end"] = np.ones(3), np.array(0), np.array([1])
    with pytest.raises(OperatorError, match=r"starts and ends have one dimension, got shape \(\)"):
        ws.run(op("Slice", "x start end", "y"))


def test_gather_of_rows_without_elements_looks_nothing_up(ws):
    ws["x"], ws["i"] = np.zeros((3, 0)), np.array([7, 1], np.int32)
    ws.run(op("Gather", "x i", "y"))
    assert ws["y"].shape == (2, 0)
    ws["x"], ws["i"] = np.zeros((0, 3)), np.array([0])
    with pytest.raises(OperatorError, match="indices must lie in"):
        ws.run(op("Gather", "x i", "y"))


def test_a_gradient_that_does_not_fit_the_indices_is_refused(ws):
    ws["x"], ws["i"], ws["d"] = np.zeros((3, 2)), np.array([1, 1, 2]), np.ones((2, 3))
    with pytest.raises(
        OperatorError, match=r"a gradient of shape \(2, 3\) does not fit data of shape \(3, 2"
    ):
        ws.run(op("GatherGradient", "x i d", "dx"))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sums_of_half_precision_do_not_stop(ws, dtype):
    """Nor does a mean overflow whose sum would."""
    n = 1024
    ws["x"], ws["one"], ws["many"] = np.full(n, 128, dtype), np.ones((), dtype), np.ones((n, 1), dtype)
    ws["logits"], ws["labels"] = np.ones((2, n), dtype), np.zeros(2, np.int32)
    ws["w"], ws["v"], ws["none"] = np.ones((1, 1), dtype), np.ones(n, dtype), np.zeros(n, dtype)
    ws.run(op("AveragedLoss", "x", "mean"))
    ws.run(op("AddGradient", "v v one", "da db"))
    ws.run(op("FCGradient", "many w many", "dw dbias"))
    ws.run(op("WeightedSumGradient", "v v one", "dv dweight", grad_on_w=1))
    ws.run(op("SoftmaxWithLoss", "logits labels", "p loss"))
    ws.run(op("SoftmaxWithLossGradient", "logits labels p one", "dx"))
    ws["zero"] = np.zeros((2, n), dtype)
    ws.run(op("SquaredL2Distance", "logits zero", "d"))
    expected = {"mean": 128, "db": n, "dbias": n, "dweight": n, "loss": np.log(n), "p": 1 / n, "d": n / 2}
    for name, value in expected.items():
        assert ws[name].dtype == dtype
        np.testing.assert_allclose(ws.fetch(name).astype(float), value, rtol=4e-3, err_msg=name)
    np.testing.assert_allclose(
        ws.fetch("dx").astype(float)[:, :2], [[(1 / n - 1) / 2, 0.5 / n]] * 2, rtol=4e-3
    )


def test_a_power_of_zero_is_constant(ws):
    ws["x"], ws["e"], ws["y"], ws["dy"] = np.zeros(2), np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.ones(2)
    ws.run(op("PowGradient", "x e y dy", "dx de"))
    np.testing.assert_array_equal(ws.fetch("dx"), [0, 1])
    np.testing.assert_array_equal(ws.fetch("de"), [0, 0])


# Types and arguments


def test_sum_takes_numbers(ws):
    ws["b"], ws["i"] = np.array([True]), np.array([1, 2], np.int32)
    for read in ("b", "b b"):
        with pytest.raises(BlobTypeError, match="'b' must be numbers, got bool"):
            ws.run(op("Sum", read, "y"))
    ws.run(op("Sum", "i i i", "y"))
    np.testing.assert_array_equal(ws.fetch("y"), np.array([3, 6], np.int32), strict=True)
    ws.run(op("Sum", "i", "i"))
    np.testing.assert_array_equal(ws.fetch("i"), np.array([1, 2], np.int32), strict=True)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (op("ConstantFill", "", "y", value=float("nan"), dtype=2), "int32 cannot hold value nan"),
        (op("ConstantFill", "", "y", value=0.5, dtype=5), "bool cannot hold value 0.5"),
        (op("ConstantFill", "", "y", value=300, dtype=6), "300 out of bounds for uint8"),
        (op("ConstantFill", "", "y", dtype=4), "ConstantFill: .* argument 'dtype': no tensor type 4"),
        (op("GivenTensorFill", "", "y", values=[1.5], dtype="int32"), "int32 cannot hold value 1.5"),
        (op("GivenTensorFill", "", "y", values=[-1], dtype="uint8"), "-1 out of bounds for uint8"),
        (op("GivenTensorInt64Fill", "", "y", values=[2**70]), "GivenTensorInt64Fill: .* too large"),
        (op("GivenTensorInt64Fill", "", "y", values=[1], dtype=1), "dtype can only be int64, got float32"),
        (op("Scale", "x", "y", scale=2**2000), "Scale: .* cannot be built: int too large"),
        (op("Cast", "x", "y", to="string"), "Cast: .* argument 'to': no tensor type 'string'"),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_refused(ws, step, message):
    ws["x"] = np.ones(1)
    with pytest.raises(OperatorError, match=message):
        ws.run(step)


def test_a_value_beyond_float32_is_infinite(ws):
    ws.run(op("GivenTensorFill", "", "y", shape=[1], values=[1e300]))
    ws.run(op("ConstantFill", "", "z", shape=[1], value=1e300))
    assert ws["y"] == ws["z"] == np.inf


def test_cast_is_to_float32_unless_told_otherwise(arena):
    step = op("Cast", "x", "y", from_type=13)
    ws, gradients = run_both(arena, Net("n", [step]), {"x": np.ones(2)}, {"y": np.ones(2, np.float32)})
    assert ws["y"].dtype == np.float32
    assert ws[gradients["x"]].dtype == np.float64


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (op("Free", "x y", "y x"), "each output must be the input at the same place"),
        (op("Free", "x", "new"), "each output must be the input at the same place"),
        (op("WeightedSum", "x y x", "new"), "expected pairs of a tensor and its weight, got 3 inputs"),
        (op("Sum", "x y", "y"), "output 0 must not be the same blob as input 1"),
        (op("Copy", "x", "new newer"), "expected 1 outputs, got 2"),
    ],
)
def test_a_definition_against_its_schema_leaves_no_output_behind(ws, step, message):
    ws["x"] = ws["y"] = np.ones(1)
    for use in (lambda: ws.run(step), lambda: gradient(Net("n", [step]), [step.outputs[0]])):
        with pytest.raises(OperatorError, match=message):
            use()
    assert sorted(ws) == ["x", "y"]


# Backward nets as Caffe2 generates them: each gradient operator has the forward one's arguments too


@pytest.mark.parametrize(
    ("forward", "backward", "feeds"),
    [
        (
            op("Log", "x", "y"),
            [op("Div", "dy x", "dx")],
            {"x": [0.5, 2.0, 3.0]},
        ),
        (
            op("Exp", "x", "y"),
            [op("Mul", "y dy", "dx")],
            {"x": [0.5, -2.0, 3.0]},
        ),
        (
            op("Pow", "x", "y", exponent=3.0),
            [
                op("Pow", "x", "dx", exponent=2.0),
                op("Mul", "dx dy", "dx"),
                op("Scale", "dx", "dx", scale=3.0),
            ],
            {"x": [0.5, -2.0, 3.0]},
        ),
        (
            op("WeightedSum", "x a z b", "y", grad_on_w=1),
            [op("WeightedSumGradient", "dy x a z b", "dx dz da db", grad_on_w=1)],
            {"x": [0.5, -2.0, 3.0], "a": [2.0], "z": [1.0, 2.0, 4.0], "b": [-1.0]},
        ),
        (
            op("WeightedSum", "x a z b", "y", grad_on_w=0),
            [op("WeightedSumGradient", "dy x a z b", "dx dz", grad_on_w=0)],
            {"x": [0.5, -2.0, 3.0], "a": [2.0], "z": [1.0, 2.0, 4.0], "b": [-1.0]},
        ),
        (
            op("Gather", "x i", "y", dense_gradient=1),
            [op("SparseToDense", "i dy x", "dx")],
            {"x": [[0.5, -2.0], [3.0, 1.0]], "i": [1, 0, 1]},
        ),
        (
            op("Gather", "x i", "y", axis=1),
            [op("BatchGatherGradient", "x i dy", "dx", axis=1)],
            {"x": [[0.5, -2.0], [3.0, 1.0]], "i": [1, 0, 1]},
        ),
        (
            op("Cast", "x", "y", to=13, from_type=1),
            [op("Cast", "dy", "dx", to=1, from_type=13)],
            {"x": [0.5, -2.0, 3.0]},
        ),
        (
            op("Concat", "x z", "y lengths", axis=0, add_axis=1),
            [op("Split", "dy lengths", "dx dz", axis=0, add_axis=1)],
            {"x": [0.5, -2.0, 3.0], "z": [1.0, 2.0, 4.0]},
        ),
        (
            op("Reshape", "x", "y old", shape=[3, -1]),
            [op("Reshape", "dy old", "dx _dx_dims")],
            {"x": [0.5, -2.0, 3.0]},
        ),
    ],
    ids=lambda value: value.type if isinstance(value, Operator) else "",
)
def test_backward_nets_of_caffe2_give_our_gradients(arena, forward, backward, feeds):
    feeds = {name: np.array(value) for name, value in feeds.items()}
    ws = Workspace(arena=arena)
    for name, value in feeds.items():
        ws[name] = value
    ws.run(forward)
    seed = np.random.default_rng(0).standard_normal(ws["y"].shape)
    ws["dy"] = seed
    ws.run(Net("backward", backward))
    ours, gradients = run_both(arena, Net("n", [forward]), feeds, {"y": seed})
    assert gradients
    for name, made in gradients.items():
        if name != "y":
            np.testing.assert_allclose(ws.fetch(f"d{name}"), ours.fetch(made), rtol=1e-6, err_msg=name)


def test_the_outputs_of_a_weighted_sum_gradient_are_counted(ws):
    ws["d"], ws["x"], ws["w"] = np.ones(2), np.ones(2), np.ones(1)
    for read, made, arguments in (
        ("d x w", "dx dw", {}),
        ("d x w", "dx", {"grad_on_w": 1}),
        ("d x w x", "dx", {}),
    ):
        with pytest.raises(OperatorError, match="expected a gradient, then tensors with their"):
            ws.run(op("WeightedSumGradient", read, made, **arguments))
