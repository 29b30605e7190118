"""Operator and Net, the registry, building and running, and what goes wrong there."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

from numscope.arena import Arena
from numscope.errors import BlobTypeError, OperatorError
from numscope.operators import CompiledOperator, Do, If, Net, Operator, build, gradient, register_operator
from numscope.workspace import Workspace


@pytest.fixture
def ws(device):
    with Arena("4 MiB", device=device) as arena:
        yield Workspace(arena=arena)


def test_a_definition_is_plain_data():
    record = {
        "type": "If",
        "input": ["c", "x"],
        "output": ["y"],
        "is_gradient_op": True,
        "name": "choose",
        "arg": {"then_net": {"net": {"name": "t", "op": [], "external_input": ["x"]}}},
    }
    operator = Operator.from_dict(record)
    assert operator.to_dict() == record
    assert operator.name == "choose"
    assert operator.is_gradient_op
    assert operator.args["then_net"].external_input == ("x",)


def test_arguments_of_a_record_may_be_called_as_the_record_s_own_keys():
    record = {"type": "Odd", "input": [], "output": [], "arg": {"name": "n", "type": 3}}
    assert Operator.from_dict(record).to_dict() == record


def test_definitions_are_copied_and_pickled():
    net = Net("n", [Operator("If", "c", "y", then_net=Net("t", [Operator("Scale", "x", "y", scale=2.0)]))])
    for other in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.to_dict() == net.to_dict()
        assert other.operators[0] is not net.operators[0]


def test_a_lone_name_is_one_name_and_not_its_letters():
    operator = Operator("Copy", "data", "result")
    assert operator.inputs == ("data",)
    assert operator.outputs == ("result",)


def test_numpy_values_become_plain_arguments():
    operator = Operator("X", shape=np.array([2, 3]), value=np.float32(0.5), dtype=np.int32, n=np.int64(4))
    assert dict(operator.args) == {"shape": (2, 3), "value": 0.5, "dtype": "int32", "n": 4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Operator("", [], []), "type must be a non-empty text"),
        (lambda: Operator("Copy", [1], ["y"]), r"inputs must be blob names \(text\), got 1"),
        (lambda: Operator("Copy", None, ["y"]), r"a sequence of blob names \(text\), got None"),
        (lambda: Operator("Add", {"x", "y"}, ["z"]), r"inputs must be a sequence of blob names"),
        (lambda: Operator("Copy", ["x"], ["y"], name=3), "an operator's name must be text, got 3"),
        (lambda: Operator("Copy", ["x"], ["y"], how={"a": 1}), "argument 'how' is a dict"),
        (lambda: Net("n", [Net("m", [])]), "expected operators, got a Net"),
        (lambda: Net("n", ["Copy"]), "expected operators, got a str"),
        (lambda: Net(3, []), "a net's name must be text"),
        (lambda: Net("n", None), "expected a list of operators, got None"),
        (lambda: Net("n", Operator("Copy", "x", "y")), "expected a list of operators, got Copy"),
        (lambda: Net("n", [], external_input=3), "external_input must be a sequence of blob names"),
        (lambda: Operator.from_dict({"input": []}), "a mapping with a 'type'"),
        (lambda: Operator.from_dict({"type": "Copy", "inputs": ["x"]}), r"unknown keys \['inputs'\]"),
        (lambda: Operator.from_dict({"type": "Copy", "arg": [1]}), r"'arg' must be a mapping, got \[1\]"),
        (lambda: Net.from_dict({"name": "n"}), "a mapping with 'op'"),
        (lambda: Net.from_dict({"name": "n", "op": None}), "'op' must be a list, got None"),
        (lambda: Net.from_dict({"op": [], "external_inputs": ["x"]}), r"unknown keys \['external_inputs'\]"),
    ],
)
def test_a_wrong_definition_is_an_error(make, message):
    with pytest.raises(OperatorError, match=message):
        make()


def test_running_an_operator_and_a_net(ws):
    ws["x"] = np.array([1.0, 2.0])
    assert ws.run(Operator("Scale", ["x"], ["y"], scale=2.0)) is True
    assert Operator("Neg", ["y"], ["z"]).run(ws) is True
    net = Net("n", [Operator("Add", ["x", "y"], ["s"]), [Operator("Mul", ["s", "z"], ["p"])]])
    assert net.run(ws) is True
    np.testing.assert_array_equal(ws.fetch("p"), [-6.0, -24.0])
    assert ws.run({"name": "d", "op": [{"type": "Copy", "input": ["p"], "output": ["q"]}]}) is True
    np.testing.assert_array_equal(ws.fetch("q"), ws.fetch("p"))


def test_a_net_is_created_once_and_run_by_name(ws):
    ws["x"] = np.array([1.0])
    ws.create_net(Net("n", [Operator("Add", ["x", "x"], ["x"])]))
    assert ws.run_net("n")
    assert ws.run_net("n")
    assert ws["x"] == 4.0
    with pytest.raises(OperatorError, match="has a net 'n' already"):
        ws.create_net(Net("n", []))
    ws.create_net(Net("n", [Operator("Neg", ["x"], ["x"])]), overwrite=True)
    ws.run_net("n")
    assert ws["x"] == -4.0
    with pytest.raises(OperatorError, match="Can't find net m"):
        ws.run_net("m")
    with pytest.raises(OperatorError, match="should have a name"):
        ws.create_net(Net(None, []))


def test_a_net_may_grow_between_runs(ws):
    ws["x"] = np.array([3.0])
    body = Net("t", [Operator("Scale", ["x"], ["y"], scale=2.0)])
    ws["c"] = np.array(True)
    net = Net("n", [Operator("If", ["c"], [], then_net=body)])
    ws.run(net)
    body.operators.append(Operator("Neg", ["y"], ["y"]))
    ws.run(net)
    assert ws["y"] == -6.0


def test_names_are_resolved_when_an_operator_runs(ws):
    ws["x"] = np.ones(2)
    built = ws.create_net(Net("n", [Operator("Scale", ["x"], ["y"], scale=2.0)]))
    ws.remove_blob("x")
    ws.remove_blob("y")
    with pytest.raises(OperatorError, match="input blob 'x' does not exist any more"):
        built.run()
    ws["x"] = np.full((3, 1), 5.0)
    assert built.run()
    np.testing.assert_array_equal(ws.fetch("y"), np.full((3, 1), 10.0))


def test_a_stored_net_does_not_keep_its_workspace_alive():
    with Arena("1 MiB") as arena:
        ws = Workspace(arena=arena)
        ws["x"] = np.ones(100)
        built = ws.create_net(Net("n", [Operator("Neg", ["x"], ["y"])]))
        built.run()
        reference = weakref.ref(ws)
        gc.disable()
        try:
            del ws
            assert reference() is None
            assert arena.used == 0
        finally:
            gc.enable()
        with pytest.raises(OperatorError, match="no longer exists"):
            built.run()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Net("n", [Operator("Tan", ["x"], ["y"])]), "unknown operator type 'Tan'; the nearest are 'Tanh'"),
        (Net("n", [Operator("softmaxwithloss", ["x"], ["y"])]), "nearest are 'SoftmaxWithLoss'"),
        (Net("n", [Operator("Tanh", ["x", "x"], ["y"])]), r"Tanh: .* expected 1 inputs, got 2"),
        (Net("n", [Operator("Concat", ["x"], ["y"])]), "expected 2 outputs, got 1"),
        (Net("n", [Operator("Sum", [], ["y"])]), "expected at least 1 inputs, got 0"),
        (Net("n", [Operator("Pow", ["x"] * 3, ["y"])]), "expected 1 to 2 inputs, got 3"),
        (Net("n", [Operator("Copy", ["x"], ["x"])]), "output 0 must not be the same blob as input 0"),
        (Net("n", [Operator("Scale", ["x"], ["y"], scal=2.0)]), "unknown argument 'scal'; it takes 'scale'"),
        (Net("n", [Operator("Scale", ["x"], ["y"], scale="2")]), "argument 'scale' must be of kind number"),
        (Net("n", [Operator("Reshape", ["x"], ["y", "o"], shape=2)]), "'shape' must be of kind ints, got 2"),
        (Net("n", [Operator("GivenTensorFill", [], ["y"])]), "argument 'values' must be specified"),
        (Net("n", [Operator("Cast", ["x"], ["y"], to="floaty")]), "no tensor type 'floaty'"),
        (Net("n", [Operator("Cast", ["x"], ["y"], to=4)]), "no tensor type 4"),
        (Net("n", [Operator("Neg", ["nope"], ["y"])]), "input blob 'nope' does not exist; feed it"),
        (
            Net("n", [Operator("Neg", ["a"], ["b"]), Operator("Neg", ["b"], ["a"])]),
            r"'a' does not exist; it is made by operator 1 \(Neg: \['b'\] -> \['a'\]\), after it",
        ),
        (Net("n", [Operator("Neg", ["a"], ["a"])]), "it is made by itself"),
        (
            Net("n", [Operator("Neg", ["x"], ["y"])], external_input=["w"]),
            "the source of input 'x' of .* is unknown",
        ),
        (
            Net("n", [Operator("Neg", ["x"], ["y"])], external_output=["z"]),
            "external_output 'z' is produced by none",
        ),
    ],
)
def test_what_cannot_be_built_says_why(ws, net, message):
    ws["x"] = np.ones(3)
    with pytest.raises(OperatorError, match=message):
        ws.run(net)


def test_an_external_input_may_be_handed_on_as_an_output(ws):
    ws["x"] = np.ones(1)
    net = Net("n", [Operator("Copy", ["x"], ["y"])], external_input=["x"], external_output=["x", "y"])
    assert ws.run(net)


def test_only_definitions_can_be_built(ws):
    with pytest.raises(OperatorError, match="expected an Operator or a Net, got a str"):
        build(ws, "Tanh")


@pytest.mark.parametrize(
    ("operator", "error", "message"),
    [
        (Operator("Tanh", ["i"], ["y"]), BlobTypeError, "'i' must be floating point, got int64; Cast"),
        (Operator("Add", ["x", "i"], ["y"]), BlobTypeError, "must be of one dtype, got float64 and int64"),
        (Operator("Add", ["b", "b"], ["y"]), BlobTypeError, "inputs must be numbers, got bool"),
        (
            Operator("Add", ["x", "m"], ["y"]),
            OperatorError,
            r"shapes \(3,\) and \(2, 2\) cannot be broadcast",
        ),
        (Operator("Add", ["one", "m"], ["one"]), OperatorError, r"in-place output 'one' has shape \(1,\)"),
        (Operator("Add", ["m", "x"], ["y"], broadcast=1), OperatorError, "does not fit"),
        (Operator("MatMul", ["m", "x"], ["y"]), OperatorError, r"axis 1 .* in a tensor of shape \(3,\)"),
        (
            Operator("MatMul", ["m", "m"], ["y"], axis_b=0),
            OperatorError,
            r"inner dimensions differ: \(2, 2\) times \(1, 4",
        ),
        (Operator("FC", ["m", "m", "x"], ["y"]), OperatorError, "shapes do not fit"),
        (Operator("Sum", ["x", "m"], ["y"]), OperatorError, "must be of one shape and dtype"),
        (Operator("Tanh", ["text"], ["y"]), BlobTypeError, "must be a tensor, but holds a str"),
        (Operator("Tanh", ["empty"], ["y"]), BlobTypeError, "must be a tensor, but is empty"),
        (Operator("Gather", ["x", "i"], ["y"]), OperatorError, r"indices must lie in 0..2, got 7..7"),
        (Operator("Gather", ["x", "m"], ["y"]), BlobTypeError, "must be integers, got float64"),
        (Operator("Slice", ["x"], ["y"], starts=[2], ends=[1]), OperatorError, "is not a range"),
        (Operator("Slice", ["x"], ["y"], starts=[2]), OperatorError, "expected starts and ends, both as"),
        (Operator("Slice", ["x", "i"], ["y"]), OperatorError, "expected starts and ends, both as"),
        (
            Operator("ConstantFill", [], ["y"], value=1.5, dtype="int32"),
            OperatorError,
            "cannot hold value 1.5",
        ),
        (Operator("ConstantFill", [], ["y"], shape=[-1]), OperatorError, "no negative lengths, got"),
        (Operator("Reshape", ["x", "i0"], ["y", "o"]), OperatorError, "must have one dimension, got shape"),
        (Operator("Reshape", ["x"], ["y", "o"], shape=[2, -1]), OperatorError, "3 elements .* do not fit"),
        (Operator("Reshape", ["x"], ["y", "o"], shape=[-1, -1]), OperatorError, "at most one -1"),
        (Operator("Concat", ["x", "m"], ["y", "o"], axis=0), OperatorError, "does not fit"),
        (Operator("Concat", ["x"], ["y", "o"]), OperatorError, "axis 1 does not exist"),
        (Operator("SoftmaxWithLoss", ["m", "x"], ["p", "l"]), BlobTypeError, "must be integers"),
        (Operator("SoftmaxWithLoss", ["m", "i"], ["p", "l"]), OperatorError, "expected 2 labels"),
        (Operator("SquaredL2Distance", ["x", "m"], ["d"]), OperatorError, "both must have one shape"),
        (Operator("HasScope", ["x"], ["h"]), BlobTypeError, "contains float64 while a WorkspaceStack"),
        (Operator("WeightedSum", ["x", "x"], ["y"]), OperatorError, "must have one element"),
        (Operator("Free", ["x"], ["i"]), OperatorError, "each output must be the input at the same place"),
    ],
)
def test_what_cannot_run_says_why(ws, operator, error, message):
    ws["x"], ws["m"], ws["one"] = np.ones(3), np.ones((2, 2)), np.ones(1)
    ws["i0"] = np.array(3)
    ws["i"], ws["b"], ws["text"] = np.array([7]), np.array([True]), "words"
    ws.create_blob("empty")
    with pytest.raises(error, match=message):
        ws.run(operator)
    np.testing.assert_array_equal(ws.fetch("x"), np.ones(3))


def test_a_net_that_contains_itself_is_refused(ws):
    ws["c"] = np.array(True)
    net = Net("outer", [])
    net.operators.append(Operator("If", ["c"], [], then_net=Net("inner", [])))
    net.operators[0].args["then_net"].operators.append(Operator("If", ["c"], [], then_net=net))
    with pytest.raises(OperatorError, match="contains itself"):
        ws.run(net)
    with pytest.raises(OperatorError, match="contains itself"):
        net.to_dict()
    for use in (lambda: gradient(net, ["c"]), lambda: Do(net), lambda: If("c", Net("t", []), net)):
        with pytest.raises(OperatorError, match="contains itself"):
            use()
    record = {"name": "n", "op": [{"type": "If", "input": ["c"], "output": [], "arg": {}}]}
    record["op"][0]["arg"]["then_net"] = {"net": record}
    with pytest.raises(OperatorError, match="contains itself"):
        Net.from_dict(record)


def test_nets_can_be_nested_but_not_without_end(ws):
    ws["x"], ws["w"] = np.array([0.5]), np.array([2.0])
    net = Net("leaf", [Operator("Mul", ["x", "w"], ["x"])])
    for depth in range(48):
        net = Net(f"level{depth}", Do(net))
    backward, gradients = gradient(net, ["x"])
    assert ws.run(net)
    assert ws.run(backward)
    assert ws[gradients["w"]] == 0.5
    with pytest.raises(OperatorError, match="'b' has more than 50 nets inside one another"):
        ws.run(Net("b", Do(Net("a", Do(net)))))


def square_gradient(context):
    twice = f"{context.input_gradient(0)}_twice"
    return [
        Operator("Scale", [context.output_gradient(0)], [twice], scale=2.0),
        Operator("Mul", [twice, context.input(0)], [f"{context.operator.inputs[0]}_grad"]),
    ]


@register_operator(
    "TestSquare", inputs=1, outputs=1, gradient=square_gradient, arguments={"times": ("int", 1)}
)
class SquareOp(CompiledOperator):
    def run(self, ws):
        ws[self.definition.outputs[0]] = ws[self.definition.inputs[0]] ** 2 * self.argument("times")


def test_registering_an_operator_with_a_gradient(ws):
    ws["x"] = np.array([1.0, 3.0])
    net = Net("n", [Operator("TestSquare", ["x"], ["y"])])
    backward, gradients = gradient(net, ["y"])
    ws.run(net)
    ws.run(backward)
    np.testing.assert_array_equal(ws.fetch("y"), [1.0, 9.0])
    np.testing.assert_array_equal(ws.fetch(gradients["x"]), [2.0, 6.0])
    assert SquareOp.schema.type == "TestSquare"
    with pytest.raises(OperatorError, match="registered already"):

        @register_operator("TestSquare", inputs=1, outputs=1)
        class OtherOp(CompiledOperator):
            pass


@register_operator("TestRefuse", inputs=0, outputs=0)
class RefuseOp(CompiledOperator):
    def run(self, ws):
        return False


def test_an_operator_that_says_false_stops_its_net(ws):
    ws["x"] = np.ones(1)
    net = Net("n", [Operator("Copy", ["x"], ["y"]), Operator("TestRefuse"), Operator("Neg", ["x"], ["x"])])
    assert ws.run(net) is False
    assert ws["x"] == 1.0
    ws["c"] = np.array(True)
    assert ws.run(Operator("While", ["c"], [], loop_net=net)) is False
    assert ws.run(Operator("If", ["c"], [], then_net=net)) is False
    do = Operator("Do", ["x", "s"], ["s"], net=net, inner_blobs=["x"], outer_blobs_idx=[0])
    ws.run(Operator("CreateScope", [], ["s"]))
    assert ws.run(do) is False


@register_operator("TestFail", inputs=0, outputs=0)
class FailOp(CompiledOperator):
    def run(self, ws):
        raise ValueError("out of luck")


def test_an_unexpected_failure_names_its_operator(ws):
    with pytest.raises(OperatorError, match=r"TestFail.* failed: out of luck") as caught:
        ws.run(Operator("TestFail"))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("name", ["a b", "ä/ö", "x" * 10_000, "\n", "'", "_grad", "😀"])
def test_odd_names(ws, name):
    ws[name] = np.array([2.0])
    net = Net("n", [Operator("Mul", [name, name], [name + "2"])])
    backward, gradients = gradient(net, [name + "2"])
    assert ws.run(net)
    assert ws.run(backward)
    assert ws[gradients[name]] == 4.0
    assert Net.from_dict(net.to_dict()).to_dict() == net.to_dict()


def test_one_net_runs_in_many_workspaces_and_threads():
    net = Net("n", [Operator("Tanh", ["x"], ["y"]), Operator("Add", ["y", "x"], ["z"])])
    failures = []

    def work(number):
        with Arena("1 MiB") as arena:
            ws = Workspace(arena=arena)
            for _ in range(50):
                ws["x"] = np.full(10, float(number))
                ws.run(net)
                if not np.array_equal(ws["z"], np.tanh(ws["x"]) + ws["x"]):
                    failures.append(number)
            ws.clear()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
