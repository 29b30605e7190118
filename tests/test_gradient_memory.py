"""What the frames of a differentiated loop hold: what its backward pass needs, and nothing else."""

import numpy as np
import pytest
from loop_nets import MULTIPLY, counter, loop, op
from reference_operators import check_gradients, drawing, run_forward

from numscope.arena import Arena
from numscope.operators import If, Net, gradient
from numscope.workspace import Workspace

draw = drawing(17)


@pytest.fixture
def arena(device):
    with Arena("64 MiB", device=device) as arena:
        yield arena


def recurrent(retain):
    body = [op("MatMul", "h w", "a"), op("Add", "a b", "z"), op("Tanh", "z", "h")]
    return Net("n", [op("Copy", "h0", "h"), loop(body, retain=retain), op("SumElements", "h", "loss")])


def frames(retain, rounds=200, runs=3):
    """Bytes in use before, after the forward pass, at the peak and at the end of the last run."""
    with Arena("64 MiB") as arena:
        ws = Workspace(arena=arena)
        net = recurrent(retain)
        backward, _ = gradient(net, ["loss"])
        for name, shape in {"h0": (32, 64), "w": (64, 64), "b": (64,)}.items():
            ws[name] = 0.1 * draw(*shape)
        for _ in range(runs):
            for name, value in counter(rounds).items():
                ws[name] = value
            arena.reset_peak()
            before = arena.used
            ws.run(net)
            forward = arena.used
            ws.run(backward)
        result = before, forward, arena.peak, arena.used
        ws.clear()
        return result


def test_a_backward_pass_needs_the_forward_frames_and_one_gradient_frame():
    _, forward, peak, after = frames(retain=False)
    frame = forward / 200
    assert peak <= 1.05 * (forward + 2 * frame)
    assert after < 5 * frame
    _, _, retained, _ = frames(retain=True)
    assert retained > 2 * peak


def test_no_weight_is_copied_each_round():
    with Arena("64 MiB") as arena:
        ws = Workspace(arena=arena)
        for name, shape in {"h0": (1, 64), "w": (64, 64), "b": (64,)}.items():
            ws[name] = 0.1 * draw(*shape)
        for name, value in counter(50).items():
            ws[name] = value
        ws.run(recurrent(retain=False))
        stack = ws["b/workspace_loop_body"]
        frame = stack.pop_gradient_workspace(ws)
        names = ["a", "h/_DO_OPERATOR_END_", "h/_DO_OPERATOR_START_", "z"]
        assert sorted(frame.local_blobs()) == names
        assert frame.nbytes == 4 * 64 * 8
        ws.clear()


def test_of_a_sum_only_the_layout_is_saved(arena):
    body = [op("Add", "x b", "y"), op("Scale", "y", "x", scale=0.5)]
    net = Net("n", [loop(body)])
    ws = Workspace(arena=arena)
    for name, value in {**counter(2), "x": draw(2, 500), "b": draw(500)}.items():
        ws[name] = value
    ws.run(net)
    frame = ws["b/workspace_loop_body"].pop_gradient_workspace(ws)
    assert sorted(frame.local_blobs()) == ["x/_DO_OPERATOR_START_LAYOUT_", "y"]
    assert frame["x/_DO_OPERATOR_START_LAYOUT_"] == ((2, 500), np.float64)
    check_gradients(arena, net, {**counter(3), "x": draw(2, 3), "b": draw(3)}, {"x": draw(2, 3)}, ["x", "b"])


def test_of_what_is_gathered_sliced_and_reduced_only_the_layout_is_saved(arena):
    body = [
        *[
            op("AveragedLoss", "x", "m"),
            op("Gather", "x i", "r"),
            op("Slice", "x", "p", starts=[0], ends=[1]),
        ],
        *[
            op("Add", "p m", "q"),
            op("Add", "q r", "s"),
            op("Add", "x s", "y"),
            op("Scale", "y", "x", scale=0.3),
        ],
    ]
    net = Net("n", [loop(body)])
    feeds = {**counter(2), "x": draw(2, 5)}
    check_gradients(arena, net, feeds, {"x": draw(2, 5)}, ["x"])
    ws = run_forward(arena, net, feeds)
    frame = ws["b/workspace_loop_body"].pop_gradient_workspace(ws)
    layouts = {name for name in frame.local_blobs() if name.startswith("x/")}
    assert layouts == {"x/_DO_OPERATOR_START_LAYOUT_"}
    assert set(frame.local_blobs()) - layouts - {"i/_DO_OPERATOR_START_"} == set("mrpqsy")


def test_backward_nets_of_several_gradients_share_a_workspace(arena):
    net = Net("n", [loop(MULTIPLY, retain=True), op("Scale", "x", "y", scale=2.0)])
    ws = Workspace(arena=arena)
    results = []
    for of in ({"y": "first"}, {"y": "second"}, {"x": "third"}):
        backward, gradients = gradient(net, of)
        for name, value in {**counter(3), "x": np.array([0.5, 1.0]), "w": np.array([2.0, 0.5])}.items():
            ws[name] = value
        ws[next(iter(of.values()))] = np.ones(2)
        ws.run(net)
        ws.run(backward)
        results.append(ws.fetch(gradients["w"]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], 2 * results[2])


def test_what_is_saved_does_not_depend_on_what_is_differentiated(arena):
    """Only y is: x is then needed for nothing but the shape of zeros, where the branch does not use it."""
    body = [
        op("LT", "i one", "first"),
        If("first", Net("t", [op("Mul", "x w", "y")]), Net("e", [op("Tanh", "w", "y")]), outputs=["y"]),
        op("Tanh", "y", "x"),
    ]
    net = Net("n", [loop(body, outputs=["y"])])
    feeds = {**counter(3), "x": draw(3), "w": draw(3), "y": draw(3)}
    check_gradients(arena, net, feeds, {"y": draw(3)}, ["w"])
