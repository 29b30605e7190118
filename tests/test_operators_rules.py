"""Caffe2's rules for scopes and control flow that no recorded trace shows, as its sources have them."""

import numpy as np
import pytest
from loop_nets import op

from numscope.arena import Arena
from numscope.errors import BindingError, BlobTypeError, OperatorError
from numscope.operators import CompiledOperator, Net, Operator, gradient, register_operator
from numscope.stack import WorkspaceStack
from numscope.workspace import Workspace


@pytest.fixture
def ws(device):
    with Arena("4 MiB", device=device) as arena:
        ws = Workspace(arena=arena)
        ws.run(op("CreateScope", "", "s"))
        ws["x"] = np.array([1.0, 2.0])
        yield ws


def do(read, made, net, bindings, **args):
    """A Do that binds {inner: index}."""
    return op(
        "Do", read, made, net=net, inner_blobs=[*bindings], outer_blobs_idx=[*bindings.values()], **args
    )


# Scopes


def test_has_scope_retypes_its_output_and_leaves_the_stack_alone(ws):
    ws["h"] = np.zeros((3, 2))
    ws["s"].push_forward_workspace(ws)
    for _ in range(2):
        ws.run(op("HasScope", "s", "h"))
        np.testing.assert_array_equal(ws.fetch("h"), np.array([True]), strict=True)
    assert len(ws["s"]) == 1
    with pytest.raises(OperatorError, match="must not be the same blob"):
        ws.run(op("HasScope", "s", "s"))


@pytest.mark.parametrize("kind", ["CreateScope", "HasScope"])
def test_scopes_have_no_gradient(kind):
    step = op("CreateScope", "", "y") if kind == "CreateScope" else op("HasScope", "s", "y")
    with pytest.raises(OperatorError, match=f"{kind}: .* cannot be differentiated"):
        gradient(Net("n", [step]), {"y": "dy"})


# Do


@pytest.mark.parametrize("index", [0, 1])
def test_a_name_that_is_read_and_written_is_bound_once_by_either_place(ws, index):
    assert ws.run(do("x s", "x s", Net("b", [op("Neg", "a", "a")]), {"a": index}))
    np.testing.assert_array_equal(ws.fetch("x"), [-1, -2])


def test_a_do_takes_its_scope_as_an_output(ws):
    """A blob of another type becomes an empty stack; one that does not exist is no input."""
    ws["t"] = np.ones(3)
    assert ws.run(do("x t", "y t", Net("b", [op("Neg", "a", "b")]), {"a": 0, "b": 1}))
    assert len(ws["t"]) == 1
    with pytest.raises(OperatorError, match="'u' does not exist"):
        ws.run(do("x u", "y u", Net("b", [op("Neg", "a", "b")]), {"a": 0, "b": 1}))


def test_outputs_are_made_before_arguments_are_checked(ws):
    with pytest.raises(OperatorError, match="redefinition of inner blob 'a'"):
        ws.run(op("Do", "x s", "y s", net=Net("b"), inner_blobs=["a", "a"], outer_blobs_idx=[0, 1]))
    assert ws.has_blob("y")
    with pytest.raises(OperatorError, match="expected at least 1 outputs"):
        ws.run(op("Do", "x s", "", net=Net("b")))


def test_copies_are_those_of_the_end_of_the_body(ws):
    net = Net("b", [op("Copy", "a", "c"), op("Neg", "a", "a")])
    ws.run(do("x s", "x s", net, {"a": 0}, copy_external_blobs=1))
    ws["x"] = np.array([5.0, 5.0])
    frame = ws["s"].pop_gradient_workspace(ws)
    np.testing.assert_array_equal(frame.fetch("a"), [-1, -2])
    np.testing.assert_array_equal(frame.fetch("c"), [1, 2])


@register_operator("TestSayNo", inputs=0, outputs=0)
class SayNoOp(CompiledOperator):
    def run(self, ws):
        return False


def test_copies_are_made_of_a_body_that_returns_false(ws):
    net = Net("b", [op("Neg", "a", "a"), op("TestSayNo"), op("Neg", "a", "a")])
    assert ws.run(do("x s", "x s", net, {"a": 0}, copy_external_blobs=1)) is False
    assert ws["s"].pop_gradient_workspace(ws).local_blobs() == ["a"]


def test_what_is_not_a_tensor_cannot_be_copied(ws):
    ws["words"] = "some"
    for _ in range(2):
        with pytest.raises(BlobTypeError, match="expected blob with tensor value: 'words'"):
            ws.run(do("words s", "s", Net("b"), {"a": 0}, copy_external_blobs=1))
    assert len(ws["s"]) == 2


def test_a_scope_inside_is_local_and_has_a_stack_for_each_push(ws):
    inside = do("a t", "b t", Net("inner", [op("Neg", "p", "q")]), {"p": 0, "q": 1})
    body = Net("b", [op("CreateScope", "", "t"), inside, inside])
    for _ in range(3):
        ws.run(do("x s", "y s", body, {"a": 0, "b": 1}))
    assert "t" not in ws
    stacks = [ws["s"].pop_gradient_workspace(ws)["t"] for _ in range(3)]
    assert len(set(map(id, stacks))) == 3
    assert [len(stack) for stack in stacks] == [2, 2, 2]


def test_a_scope_from_outside_can_be_bound(ws):
    ws.run(op("CreateScope", "", "t"))
    inside = do("a u", "b u", Net("inner", [op("Neg", "p", "q")]), {"p": 0, "q": 1})
    for _ in range(3):
        ws.run(do("x t s", "y s", Net("b", [inside]), {"a": 0, "u": 1, "b": 2}))
    assert len(ws["t"]) == 3
    np.testing.assert_array_equal(ws.fetch("y"), [-1, -2])


def test_changed_bindings_of_a_kept_slot_are_errors_only_where_they_hide_copies(ws):
    ws["y"] = np.array([3.0, 4.0])
    net = Net("b", [op("Copy", "a", "c")])
    ws.run(do("x s", "s", net, {"a": 0}, copy_external_blobs=1))
    ws.run(op("CreateScope", "", "s"))
    ws.run(do("x s", "s", net, {"a": 0}))
    ws.run(op("CreateScope", "", "s"))
    ws.run(do("y s", "s", net, {"a": 0}))  # ignored: the slot still has x
    np.testing.assert_array_equal(ws["s"].reuse_last_forward_workspace(ws).fetch("c"), [1, 2])
    with pytest.raises(BindingError, match="Redefinition of blob a"):
        ws.run(do("y s", "s", net, {"a": 0}, reuse_workspace=1))


def test_a_removed_target_is_no_input_inside_until_it_is_made_again(ws):
    net = Net("b", [op("Neg", "a", "c")])
    step = do("x s", "s", net, {"a": 0}, reuse_workspace=1)
    ws.run(step)
    ws.remove_blob("x")
    frame = ws["s"].reuse_last_forward_workspace(ws)
    with pytest.raises(OperatorError, match="input blob 'a' does not exist"):
        frame.run(net)
    with pytest.raises(OperatorError, match="output 'a' is bound to a blob that its parent"):
        frame.run(op("Neg", "c", "a"))
    ws["x"] = np.array([7.0])
    assert frame.run(net)
    np.testing.assert_array_equal(frame.fetch("c"), [-7])


# If and While


@pytest.mark.parametrize("kind", ["If", "While"])
def test_all_nets_are_built_at_once_with_their_outputs(ws, kind):
    ws["go"] = np.array(False)
    names = ("then_net", "else_net") if kind == "If" else ("loop_net", "cond_net")
    nets = {
        names[0]: Net("first", [op("Neg", "x", "p"), op("Neg", "p", "q")]),
        names[1]: Net("second", [op("Copy", "x", "r")]),
    }
    assert ws.run(op(kind, "go x", "z", **nets))
    assert {"p", "q", "r", "z"} <= set(ws)
    assert ws["p"] is ws["q"] is ws["z"] is None
    with pytest.raises(OperatorError, match="'nope' does not exist"):
        ws.run(op(kind, "go nope", "", **nets))


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_the_test_runs_once_more_than_the_body(ws, rounds):
    ws["i"], ws["one"], ws["n"], ws["go"] = np.int64(0), np.int64(1), np.int64(rounds), np.array(False)
    ws["tests"] = np.int64(0)
    test = Net("t", [op("Add", "tests one", "tests"), op("LT", "i n", "go")])
    ws.run(op("While", "go", "", loop_net=Net("l", [op("Add", "i one", "i")]), cond_net=test))
    assert ws["i"] == rounds
    assert ws["tests"] == rounds + 1


@pytest.mark.parametrize("stops", ["loop_net", "cond_net"])
def test_a_net_that_returns_false_ends_a_loop(ws, stops):
    ws["go"] = np.array(True)
    nets = {"loop_net": Net("l", [op("Neg", "x", "x")]), "cond_net": Net("t", [op("Copy", "x", "y")])}
    nets[stops].operators.append(op("TestSayNo"))
    assert ws.run(op("While", "go", "", **nets)) is False
    np.testing.assert_array_equal(ws.fetch("x"), [-1, -2] if stops == "loop_net" else [1, 2])


def test_the_stack_of_a_given_loop_is_emptied_by_its_gradient_and_kept_for_the_next_run(ws):
    ws["i"], ws["one"], ws["n"], ws["go"] = np.int64(0), np.int64(1), np.int64(3), np.array(True)
    names = ["x", "i", "one", "n", "go"]
    body = Net("b", [op("Tanh", "x", "x"), op("Add", "i one", "i"), op("LT", "i n", "go")])
    step = Operator("Do", [*names, "s"], ["x", "i", "go", "s"], net=body, inner_blobs=names,
                    outer_blobs_idx=range(5), copy_external_blobs=1)  # fmt: skip
    loop = Operator("While", ["go", *names, "s"], ["x", "i", "go", "s"], loop_net=Net("l", [step]))
    backward, _ = gradient(Net("n", [loop]), ["x"])
    ws.run(loop)
    assert len(ws["s"]) == 3
    ws.run(backward)
    assert isinstance(ws["s"], WorkspaceStack)
    assert ws["s"].empty()
    assert "3 in the list" in repr(ws["s"])
