"""Gradients at the edges: writes that no operator declares, and blobs that no round and no branch makes."""

import numpy as np
import pytest
from loop_nets import COUNT, counter, op
from reference_operators import check_gradients, differences, drawing, run_forward

from numscope.arena import Arena
from numscope.errors import OperatorError
from numscope.operators import Do, If, Net, Operator, While, control_gradient, gradient
from numscope.workspace import Workspace

draw = drawing(13)


@pytest.fixture
def arena(device):
    with Arena("16 MiB", device=device) as arena:
        yield arena


# Caffe2 lets a net inside write blobs that are no outputs of the operator; their gradients flow all the same.


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("outputs", ["", "z"])
@pytest.mark.parametrize("has_else", [True, False])
def test_a_branch_that_writes_what_its_if_does_not_declare(arena, has_else, outputs, holds):
    nets = {"then_net": Net("t", [op("Mul", "x w", "y"), op("Neg", "x", "z")])}
    if has_else:
        nets["else_net"] = Net("e", [op("Tanh", "x", "y")])
    steps = [op("Scale", "y0", "y", scale=2.0), op("Scale", "y0", "z", scale=3.0)]
    net = Net("n", [*steps, op("If", "c", outputs, **nets), op("Mul", "y z", "o")])
    feeds = {"x": draw(3), "w": draw(3), "y0": draw(3), "c": np.array(holds)}
    check_gradients(arena, net, feeds, {"o": draw(3)}, ["x", "w", "y0"])


@pytest.mark.parametrize("outputs", ["s", "z s"])
def test_a_do_that_overwrites_its_input(arena, outputs):
    body = Net("b", [op("Mul", "x y", "y"), op("Copy", "x", "z")])
    do = op("Do", "x y z s", outputs, net=body, inner_blobs=["x", "y", "z"], outer_blobs_idx=[0, 1, 2])
    steps = [op("Scale", "y0", "y", scale=2.0), op("Scale", "y0", "z", scale=3.0), op("CreateScope", "", "s")]
    net = Net("n", [*steps, do, op("Mul", "y z", "o")])
    check_gradients(arena, net, {"x": draw(3), "y0": draw(3)}, {"o": draw(3)}, ["x", "y0"])


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("outputs", ["", "i go s"])
def test_a_loop_that_writes_what_it_does_not_declare(arena, outputs, rounds):
    names = ["x", "w", "i", "one", "n", "go"]
    body = Net("b", [op("Mul", "x w", "t"), op("Tanh", "t", "x"), *COUNT])
    do = Operator("Do", [*names, "s"], ["s"], net=body, inner_blobs=names, outer_blobs_idx=range(6))
    net = Net("n", [op("CreateScope", "", "s"), op("While", "go", outputs, loop_net=Net("l", [do]))])
    feeds = {**counter(rounds), "x": draw(3), "w": draw(3)}
    _, gradients = check_gradients(arena, net, feeds, {"x": draw(3)}, ["x", "w"])
    assert gradients == {"x": "x_grad", "w": "w_grad"}


# What is never made is empty, as is its gradient; those of all other blobs are zeros.


def sometimes():
    """Nets in which y is made by some rounds or branches only."""
    body = [op("Mul", "x w", "y"), op("Tanh", "y", "x")]
    count = [op("ConstantFill", "", "j", value=0), op("LT", "j i", "more")]
    inner = Net("inner", [*body, op("Add", "j one", "j"), op("LT", "j i", "more")])
    branch = Net("t", [op("Mul", "x w", "y")])
    other = Net("u", [op("Mul", "x w", "v"), op("Tanh", "v", "y")])
    branches = [
        *[op("LT", "i one", "first"), op("EQ", "i one", "second")],
        *[If("first", branch, outputs=["y"]), If("second", other, outputs=["y"])],
        *[op("Sigmoid", "x", "p"), op("Copy", "p", "x")],
    ]
    return {
        "loop": While("go", Net("b", [*body, *COUNT]), outputs=["y"]),
        "branches in a loop": While("go", Net("b", [*branches, *COUNT]), outputs=["y"]),
        "a loop in a loop": While(
            "go", Net("b", [*count, While("more", inner, outputs=["y"]), *COUNT]), outputs=["y"]
        ),
        "branch": If("go", branch, outputs=["y"]),
        "branch without a workspace": [op("If", "go x w", "y", then_net=branch)],
        "branch in a Do": Do(Net("d", If("go", branch, outputs=["y"])), outputs=["y"]),
    }


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("of", [["y"], ["y", "x"]], ids=" ".join)
@pytest.mark.parametrize("name", sometimes())
def test_a_blob_that_may_never_be_made(arena, name, of, rounds):
    net = Net("n", sometimes()[name])
    feeds = {**counter(rounds), "x": draw(3), "w": draw(3)}
    backward, gradients = gradient(net, of)
    ws = Workspace(arena=arena)
    for _ in range(2):
        for key, value in feeds.items():
            ws[key] = value
        assert ws.run(net)
        assert ws.run(backward)
    made = [y for y in of if ws[y] is not None]
    assert (ws[gradients["y"]] is None) == ("y" not in made)
    for key in ("x", "w"):
        expected = differences(arena, net, feeds, dict.fromkeys(made, np.ones(3)), key)
        np.testing.assert_allclose(ws.fetch(gradients[key]), expected, rtol=1e-6, atol=1e-6, err_msg=key)


# A value from before that a branch or a loop may leave alone, and that it does not read.


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("build", [If, While], ids=lambda build: build.__name__)
@pytest.mark.parametrize("known", ["read before", "declared"])
def test_a_value_from_before_that_is_not_read(arena, known, build, holds):
    body = Net("b", [op("Mul", "x w", "y"), *COUNT])
    steps = build("go", body, outputs=["y"])
    if known == "read before":
        net = Net("n", [op("Tanh", "y", "t"), *steps, op("Add", "y t", "o")])
    else:
        net = Net("n", [*steps, op("Tanh", "y", "o")], external_input=["x", "y", "w", *counter(0)])
    feeds = {**counter(int(holds)), "x": draw(3), "w": draw(3), "y": draw(3)}
    check_gradients(arena, net, feeds, {"o": draw(3)}, ["x", "w", "y"])


# Nesting


def test_nested_branches_are_differentiated_once_each(arena, monkeypatch):
    """Twice each would be 2**12 times for the innermost: 3 s instead of 12 ms."""
    passes = []

    class Counted(control_gradient.Differentiation):
        def __init__(self, *args, **kwargs):
            passes.append(1)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(control_gradient, "Differentiation", Counted)
    net = Net("leaf", [op("Mul", "x w", "t"), op("Tanh", "t", "x")])
    for depth in range(12):
        net = Net(f"level{depth}", If("go", net))
    _, gradients = gradient(net, {"x": "dx"})
    assert gradients == {"x": "x_grad", "w": "w_grad"}
    assert len(passes) <= 3 * 12  # for each If both branches, one of which is empty, and a Do


# Names


@pytest.mark.parametrize(
    "name", ["a b", "ä/ö", "\n", "'", "_grad", "x_grad", "_x_grad_autosplit_0", "/", "😀"]
)
@pytest.mark.parametrize("build", [Do, lambda body: While("go", body), lambda body: If("go", body)])
def test_odd_names_in_nets_of_their_own(arena, build, name):
    steps = [Operator("Mul", ["x", "w"], [name]), Operator("Tanh", [name], ["x"]), *COUNT]
    net = Net(f"n{name}", build(Net(f"b{name}", steps)))
    feeds = {**counter(1), "x": draw(3), "w": draw(3)}
    check_gradients(arena, net, feeds, {"x": draw(3)}, ["x", "w"])


@pytest.mark.parametrize("name", ["x/_DO_OPERATOR_START_", "w/_DO_OPERATOR_INNER_GRAD_COPY_w_grad"])
def test_names_that_gradients_use_themselves_are_refused(arena, name):
    body = Net("b", [Operator("Mul", ["x", "w"], [name]), Operator("Tanh", [name], ["x"]), *COUNT])
    for steps in (Do(body), While("go", body), If("go", body)):
        net = Net("n", steps)
        with pytest.raises(
            OperatorError, match=rf"Do: .* the names \['{name}'\] in its net 'b' are kept for"
        ):
            gradient(net, ["x"])
        ws = run_forward(arena, net, {**counter(2), "x": np.ones(1), "w": np.full(1, 0.5)})
        assert ws["x"] > 0.2


def test_a_backward_net_is_not_differentiated(arena):
    net = Net("n", Do(Net("b", [op("Scale", "x", "y", scale=2.0)]), outputs=["y"]))
    backward, _ = gradient(net, {"y": "dy"})
    with pytest.raises(OperatorError, match=r"Do \(gradient\): .* it is of a backward net, which has popped"):
        gradient(Net("both", [*net.operators, *backward.operators]), ["x_grad"])
