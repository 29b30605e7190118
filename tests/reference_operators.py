"""Central differences: the slow, obvious answer to what a backward net should compute."""

import numpy as np

from numscope.operators import Net, gradient
from numscope.workspace import Workspace

STEP = 1e-6


def run_forward(arena, net, feeds):
    ws = Workspace(arena=arena)
    for name, value in feeds.items():
        ws[name] = value
    assert ws.run(net)
    return ws


def differences(arena, net, feeds, seeds, name):
    """The gradient of sum(seed * y) over all y, by two runs of the net for each element of a feed."""
    value = np.array(feeds[name], dtype=np.float64)
    result = np.zeros_like(value)
    for position in np.ndindex(value.shape):
        sides = []
        for sign in (1, -1):
            moved = value.copy()
            moved[position] += sign * STEP
            ws = run_forward(arena, net, {**feeds, name: moved})
            sides.append(sum(float((seed * ws[y]).sum()) for y, seed in seeds.items()))
            ws.clear()
        result[position] = (sides[0] - sides[1]) / (2 * STEP)
    return result


def run_both(arena, net, feeds, seeds, runs=1):
    """Run a net and its backward net; return the workspace and the map of the gradients."""
    names = {y: f"d_{y}" for y in seeds}
    backward, gradients = gradient(net, names)
    ws = Workspace(arena=arena)
    for _ in range(runs):
        for name, value in feeds.items():
            ws[name] = value
        for y, seed in seeds.items():
            ws[names[y]] = seed
        assert ws.run(net)
        assert ws.run(backward)
    for y, seed in seeds.items():
        np.testing.assert_array_equal(ws[names[y]], seed, err_msg=f"the seed of {y} was overwritten")
    return ws, gradients


def check(arena, operators, feeds, seeds, wrt, runs=2, tolerance=1e-6):
    """Compare the gradients of a net with central differences, in float64."""
    net = operators if isinstance(operators, Net) else Net("net", operators)
    ws, gradients = run_both(arena, net, feeds, seeds, runs)
    for name in wrt:
        expected = differences(arena, net, feeds, seeds, name)
        assert name in gradients, f"no gradient of {name}: {gradients}"
        np.testing.assert_allclose(
            ws[gradients[name]], expected, rtol=tolerance, atol=tolerance, err_msg=name, strict=True
        )
    return ws, gradients
