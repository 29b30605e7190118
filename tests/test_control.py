"""Do, If and While: how they run, and what they refuse."""

import numpy as np
import pytest
from loop_nets import COUNT, count, op

from numscope.arena import Arena
from numscope.errors import BlobTypeError, NumscopeError, OperatorError
from numscope.operators import CompiledOperator, Do, If, Net, While, gradient, register_operator
from numscope.stack import WorkspaceStack


@pytest.fixture
def arena(device):
    with Arena("16 MiB", device=device) as arena:
        yield arena


# Scopes


def test_create_scope_makes_a_stack_that_retains_or_not(ws):
    ws.run(op("CreateScope", "", "s"))
    assert ws["s"].retain
    stack = ws["s"]
    ws.run(op("CreateScope", "", "s"))
    assert ws["s"] is stack
    ws.run(op("CreateScope", "", "s", retain=0))
    assert not ws["s"].retain
    ws["s"] = stack = WorkspaceStack(retain=False)
    ws.run(op("CreateScope", "", "s"))
    assert ws["s"] is stack


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "net must be specified"),
        ({"is_gradient_op": True, "reuse_workspace": 1}, "a gradient Do pops its workspace"),
        ({"copy_external_blobs": 1, "reuse_workspace": 1}, "exclude one another"),
        ({"inner_blobs": ["x", "z"], "outer_blobs_idx": [0]}, "must have one length, got 2 and 1"),
        ({"inner_blobs": ["x", "x"], "outer_blobs_idx": [0, 1]}, "redefinition of inner blob 'x'"),
        ({"inner_blobs": ["x", "z"], "outer_blobs_idx": [0, 2]}, r"index 2 of 'z' is out of bounds \[0, 1\]"),
        ({"inner_blobs": ["x", "z"], "outer_blobs_idx": [-1, 1]}, "index -1 of 'x' is out of bounds"),
        ({"inner_blobs": ["x", "z"], "outer_blobs_idx": [0, 0]}, "reusage of outer name 'X'"),
        ({"inner_blobs": ["x"], "outer_blobs_idx": [0]}, r"not all outer names are bound: \['Z'\]"),
        ({"inner_blobs": "x", "outer_blobs_idx": [0]}, "'inner_blobs' must be of kind strs"),
    ],
)
def test_a_wrong_do_says_why(ws, arguments, message):
    ws["X"] = np.ones(2)
    ws.run(op("CreateScope", "", "s"))
    net = {"net": Net("b", [op("Copy", "x", "z")])} if arguments else {}
    with pytest.raises(OperatorError, match=message):
        ws.run(op("Do", "X s", "Z s", **net, **arguments))
    assert ws["s"].empty()


def test_only_bound_names_are_visible_inside(ws):
    ws["x"], ws["hidden"] = np.ones(2), np.ones(2)
    steps = Do(Net("b", [op("Scale", "x", "t", scale=2.0), op("Neg", "t", "y")]), outputs=["y"])
    ws.run(Net("n", [steps]))
    np.testing.assert_array_equal(ws.fetch("y"), [-2, -2])
    assert "t" not in ws
    do = op("Do", "x s", "y s", net=Net("b", [op("Copy", "hidden", "y")]), inner_blobs=["x", "y"],
            outer_blobs_idx=[0, 1])  # fmt: skip
    with pytest.raises(OperatorError, match="input blob 'hidden' does not exist") as caught:
        ws.run(Net("n", [op("CreateScope", "", "s"), do]))
    assert any("while running Do" in note for note in caught.value.__notes__)


def test_a_do_may_bind_its_own_scope(ws):
    """As any other blob: then it is twice among the inputs, or the outputs."""
    ws.run(op("CreateScope", "", "s"))
    ws.run(op("Do", "s s", "h s", net=Net("b", [op("HasScope", "t", "h")]), inner_blobs=["t", "h"],
              outer_blobs_idx=[0, 1]))  # fmt: skip
    assert ws["h"]
    assert len(ws["s"]) == 1


def test_a_body_that_overwrites_its_input_saves_it_and_nothing_else(ws):
    ws["x"], ws["w"] = np.array([0.5]), np.array([2.0])
    steps = Do(Net("b", [op("Mul", "x w", "t"), op("Tanh", "t", "x")]))
    ws.run(Net("n", [steps]))
    frame = ws["b/workspace_do"].pop_gradient_workspace(ws)
    assert sorted(frame.local_blobs()) == ["t", "x/_DO_OPERATOR_START_"]
    assert frame["x/_DO_OPERATOR_START_"] == 0.5


# If


@pytest.mark.parametrize("holds", [True, False])
def test_if_runs_one_of_two_nets(ws, holds):
    ws["c"], ws["x"] = np.array([[holds]]), np.array([3.0])
    then = Net("then", [op("Scale", "x", "y", scale=2.0)])
    otherwise = Net("otherwise", [op("Neg", "x", "t"), op("Copy", "t", "y")])
    ws.run(Net("n", [If("c", then, otherwise, outputs=["y"])]))
    assert ws["y"] == (6.0 if holds else -3.0)
    assert "t" not in ws


def test_if_without_an_else_keeps_what_there_is(ws):
    ws["c"], ws["x"], ws["y"] = np.array(False), np.array([3.0]), np.array([5.0])
    net = Net("n", [If("c", Net("then", [op("Copy", "x", "y")]), outputs=["y"])])
    ws.run(net)
    assert ws["y"] == 5.0
    ws["c"] = np.array(True)
    ws.run(net)
    assert ws["y"] == 3.0


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (np.zeros(2, bool), OperatorError, r"single value, got shape \(2,\)"),
        (np.zeros(0, bool), OperatorError, r"single value, got shape \(0,\)"),
        (np.int32(1), BlobTypeError, "must be bool, got int32; compare with"),
        ("yes", BlobTypeError, "must be a tensor, it contains str"),
        (None, BlobTypeError, "must be a tensor, it contains nothing"),
    ],
)
@pytest.mark.parametrize("kind", ["If", "While"])
def test_a_condition_is_one_bool(ws, kind, condition, error, message):
    ws["x"] = np.ones(1)
    if condition is None:
        ws.create_blob("c")
    else:
        ws["c"] = condition
    key = "then_net" if kind == "If" else "loop_net"
    with pytest.raises(error, match=message):
        ws.run(op(kind, "c x", "x", **{key: Net("n", [op("Neg", "x", "x")])}))
    assert ws["x"] == 1


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros(0, bool), OperatorError, r"the nets of this operator have left it with shape \(0,\)"),
        (np.array([3]), BlobTypeError, "'c' must be bool, got int64; compare with"),
        (None, BlobTypeError, "must be a tensor, it contains nothing"),
    ],
)
@pytest.mark.parametrize("by_test", [True, False])
def test_a_condition_that_a_loop_spoils(ws, by_test, source, error, message):
    ws["c"], ws["x"], ws["source"] = np.array(True), np.ones(1), np.ones(1)
    if source is not None:
        ws["source"] = source
    spoil = op("Free", "c", "c") if source is None else op("Copy", "source", "c")
    net = {"cond_net": Net("t", [spoil]), "loop_net": Net("l", [op("Neg", "x", "x")])}
    if not by_test:
        net = {"loop_net": Net("l", [op("Neg", "x", "x"), spoil])}
    with pytest.raises(error, match=message):
        ws.run(op("While", "c x", "x c", **net))
    assert ws["x"] == (1 if by_test else -1)


def test_of_the_conditions_that_a_test_makes_the_first_counts(ws):
    """As in Caffe2: one element is asked for before the loop only, and a bool each time it is read."""
    ws["c"], ws["x"], ws["two"] = np.int32(0), np.ones(1), np.array([False, True])
    loop = {"cond_net": Net("t", [op("Copy", "two", "c")]), "loop_net": Net("l", [op("Neg", "x", "x")])}
    assert ws.run(op("While", "c x", "x c", **loop))
    assert ws["x"] == 1


def test_both_branches_must_be_buildable(ws):
    ws["c"], ws["x"] = np.array(True), np.ones(1)
    operator = op(
        "If", "c x", "y", then_net=Net("t", [op("Copy", "x", "y")]), else_net=Net("e", [op("Neg", "no", "y")])
    )
    with pytest.raises(OperatorError, match="'no' does not exist"):
        ws.run(operator)


@pytest.mark.parametrize("kind", ["If", "While"])
def test_the_net_is_required(ws, kind):
    ws["c"] = np.array(True)
    with pytest.raises(OperatorError, match="_net' must be specified"):
        ws.run(op(kind, "c"))


# While


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_while_with_and_without_a_test(ws, rounds):
    for with_test in (False, True):
        count(ws, rounds, x=np.array([1.0]))
        body = [op("Scale", "x", "x", scale=2.0), op("Add", "i one", "i")]
        if with_test:
            loop = While("go", Net("b", body), Net("t", [op("LT", "i n", "go")]))
        else:
            loop = While("go", Net("b", [*body, op("LT", "i n", "go")]))
        ws.run(Net("n", [loop]))
        assert ws["x"] == 2.0**rounds
        assert ws["i"] == rounds
        assert not ws["go"]


def test_a_blob_of_the_last_round_can_be_taken_out(ws):
    count(ws, 3)
    body = Net("b", [op("Cast", "i", "square", to="float32"), op("Mul", "square square", "y"), *COUNT])
    ws.run(Net("n", [While("go", body, outputs=["y"])]))
    assert ws["y"] == 4.0
    assert "square" not in ws


def test_what_a_loop_needs_is_checked_when_it_is_written():
    with pytest.raises(OperatorError, match=r"'b' of a While without a test: \['go'\]"):
        While("go", Net("b", [op("Neg", "x", "x")]))
    with pytest.raises(OperatorError, match=r"net 'b': \['z'\] shall be written outside, but are not"):
        Do(Net("b", [op("Neg", "x", "x")]), outputs=["z"])
    for use in (lambda: Do(Net(None, [])), lambda: While("go", Net("b", COUNT), Net(None, []))):
        with pytest.raises(OperatorError, match="needs a name"):
            use()
    for body in (None, op("Neg", "x", "x"), COUNT):
        for use in (Do, lambda net: If("c", net), lambda net: While("c", net)):
            with pytest.raises(OperatorError, match="expected a Net, got a"):
                use(body)
    with pytest.raises(OperatorError, match="outputs must be a sequence of blob names"):
        Do(Net("b", [op("Neg", "x", "x")]), outputs=5)
    with pytest.raises(OperatorError, match=r"the nets of If on 'c': \['z'\]"):
        If("c", Net("t", [op("Neg", "x", "x")]), outputs=["z"])


def test_each_round_has_a_workspace_of_its_own(ws):
    count(ws, 4, x=np.array([1.0]))
    ws.run(Net("n", [While("go", Net("b", [op("Add", "x x", "y"), op("Copy", "y", "x"), *COUNT]))]))
    stack = ws["b/workspace_loop_body"]
    assert len(stack) == 4
    assert [float(stack.pop_gradient_workspace(ws)["y"][0]) for _ in range(4)] == [16, 8, 4, 2]


def test_a_test_needs_one_workspace_however_often_it_runs(ws):
    count(ws, 50)
    test = Net("t", [op("Add", "i one", "next"), op("LE", "next n", "go")])
    ws.run(Net("n", [While("go", Net("b", [op("Add", "i one", "i")]), test)]))
    assert ws["i"] == 50
    assert len(ws["b/workspace_loop_cond"]) == 1


def test_a_loop_can_be_limited(ws):
    count(ws, 10)
    net = Net("n", [While("go", Net("b", COUNT), max_iterations=10)])
    ws.run(net)
    count(ws, 11)
    with pytest.raises(OperatorError, match="'go' still holds after max_iterations=10 rounds"):
        ws.run(net)
    for limit, message in ((-1, "must not be negative, got -1"), (1.5, "must be of kind int, got 1.5")):
        with pytest.raises(OperatorError, match=message):
            ws.run(Net("n", [While("go", Net("b", COUNT), max_iterations=limit)]))
    ws.run(op("CreateScope", "", "b/workspace_loop_body"))
    count(ws, 3)
    assert ws.run(net)
    assert ws["i"] == 3


@pytest.mark.parametrize("retain", [True, False])
def test_a_second_run_takes_no_segment_with_retain(arena, ws, retain):
    net = Net(
        "n",
        [
            While(
                "go",
                Net("b", [op("Add", "x x", "y"), op("Scale", "y", "x", scale=0.5), *COUNT]),
                retain=retain,
            )
        ],
    )
    used = []
    for _ in range(3):
        count(ws, 200, x=np.ones(8))
        taken = arena.stats().segments_taken
        ws.run(net)
        used.append((arena.used, arena.stats().segments_taken - taken))
    assert used[1] == used[2]
    assert used[1][1] == (0 if retain else 200)


def test_nested_loops_and_branches(ws):
    """Collatz: the number of steps from n to 1, for each n below 20."""
    for name, value in {"one": 1, "three": 3, "half": 2, "limit": 20, "n": 1}.items():
        ws[name] = np.int64(value)
    ws["more"] = np.array(True)
    parity = [
        op("Cast", "v", "f", to="float64"), op("Scale", "f", "h", scale=0.5),
        op("Cast", "h", "q", to="int64"), op("Add", "q q", "e"), op("EQ", "e v", "even"),
    ]  # fmt: skip
    odd = Net("odd", [op("Mul", "v three", "t"), op("Add", "t one", "v")])
    even = Net("even", [op("Copy", "q", "v")])
    inner = Net("inner", [*parity, If("even", even, odd, outputs=["v"]), op("Add", "steps one", "steps")])
    outer = Net(
        "outer",
        [
            op("Copy", "n", "v"),
            op("GivenTensorInt64Fill", "", "steps", values=[0], shape=[]),
            While("walk", inner, Net("walking", [op("GT", "v one", "walk")])),
            op("Add", "total steps", "total"),
            op("Add", "n one", "n"),
            op("LT", "n limit", "more"),
        ],
    )
    ws["total"] = np.int64(0)
    ws.run(Net("collatz", [While("more", outer)]))

    def steps(n):
        return 0 if n == 1 else 1 + steps(3 * n + 1 if n % 2 else n // 2)

    assert ws["total"] == sum(steps(n) for n in range(1, 20))


def test_dynamic_scopes_and_operators_go_together(arena, ws):
    net = Net("n", [op("Add", "x x", "y"), op("Tanh", "y", "z")])
    before = arena.used
    for t in range(10):
        with ws.scope(f"step{t}") as scope:
            scope["x"] = np.full(t + 1, 0.5)
            assert scope.run(net)
            assert scope["z"].shape == (t + 1,)
    assert arena.used == before


def test_errors_of_nested_nets_name_their_place(ws):
    count(ws, 2, x=np.ones(2))
    inner = Net("inner", [op("MatMul", "x x", "y")])
    net = Net("n", [While("go", Net("b", [Do(inner, outputs=["y"]), op("Copy", "y", "x"), *COUNT]))])
    with pytest.raises(NumscopeError, match=r"MatMul.*axis 1 does not exist") as caught:
        ws.run(net)
    assert [note.split(":")[0] for note in caught.value.__notes__] == [
        "while running Do",
        "while running Do",
        "while running While",
    ]


def test_what_cannot_be_differentiated_runs_forward(ws):
    """The operators of a body that has no gradient: what is to be saved for it is nobody's business then."""
    shared = op("Do", "x s", "x s", net=Net("r", [op("Scale", "x", "x", scale=2.0)]), inner_blobs=["x"],
                outer_blobs_idx=[0], reuse_workspace=1)  # fmt: skip
    endless = op(
        "While", "more x", "x more", loop_net=Net("l", [op("Neg", "x", "x"), op("Not", "more", "more")])
    )
    body = Net("b", [op("CreateScope", "", "s"), shared, op("LT", "i n", "more"), endless, *COUNT])
    count(ws, 3, x=np.array([1.0]))
    assert ws.run(Net("n", [While("go", body)]))
    assert ws["x"] == -8.0


def refuse(context):
    raise NotImplementedError(f"no gradient of {context.operator!r}")


@register_operator("TestFussy", inputs=1, outputs=1, in_place=[(0, 0)], gradient=refuse)
class FussyOp(CompiledOperator):
    def run(self, ws):
        ws[self.definition.outputs[0]] = 2 * ws[self.definition.inputs[0]]


def test_an_operator_whose_gradient_cannot_be_made_runs_forward(ws):
    """A Do asks it for what to save, before its net runs."""
    net = Net("n", Do(Net("b", [op("Tanh", "x", "t"), op("TestFussy", "x", "x")])))
    ws["x"] = np.array([1.0])
    assert ws.run(net)
    assert ws["x"] == 2.0
    with pytest.raises(NotImplementedError, match=r"no gradient of TestFussy: \['x'\]"):
        gradient(net, ["x"])


def test_what_never_runs_in_a_loop_is_not_built(ws):
    count(ws, 0, x=np.array([1.0]))
    wrong = op("Do", "x i", "x go", net=Net("w", []))
    body = Net("b", [op("Tanhh", "x", "y"), wrong, *COUNT])
    loop = While("go", body)
    assert ws.run(Net("n", [loop]))
    count(ws, 1, x=np.array([1.0]))
    with pytest.raises(OperatorError, match="unknown operator type 'Tanhh'"):
        ws.run(Net("n", [loop]))
