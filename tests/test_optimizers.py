"""Optimizers against their definitions in float64, and against PyTorch."""

import numpy as np
import pytest

import numscope as ns
from numscope.optimizers import OPTIMIZERS, Adam, Momentum

LAYOUT = {"w": ((3, 5), "float32"), "b": ((5,), "float32"), "none": ((0, 2), "float32")}
STEPS = 20


def run(kind, lr):
    """Run an optimizer over random gradients; return the gradients, and the parameters after each step."""
    rng = np.random.default_rng(3)
    with ns.Arena("1 MiB") as arena:
        parameters = ns.Workspace(arena=arena).allocate(LAYOUT)
        for array in parameters.values():
            array[...] = rng.normal(size=array.shape)
        trace, slopes = [{name: array.copy() for name, array in parameters.items()}], []
        optimizer = kind(ns.Workspace(arena=arena), LAYOUT, lr)
        taken = arena.stats().segments_taken
        for _ in range(STEPS):
            slopes.append({n: rng.normal(size=a.shape).astype(np.float32) for n, a in parameters.items()})
            optimizer.step(np, parameters, slopes[-1])
            trace.append({name: array.copy() for name, array in parameters.items()})
        assert arena.stats().segments_taken == taken
        del array, parameters, optimizer
    return slopes, trace


def momentum_by_definition(values, slopes, lr):
    velocity = np.zeros_like(values)
    for slope in slopes:
        velocity = 0.9 * velocity + slope
        values = values - lr * velocity
        yield values


def adam_by_definition(values, slopes, lr):
    mean, square = np.zeros_like(values), np.zeros_like(values)
    for t, slope in enumerate(slopes, start=1):
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        values = values - lr * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        yield values


@pytest.mark.parametrize(
    ("kind", "definition", "lr"), [(Momentum, momentum_by_definition, 0.05), (Adam, adam_by_definition, 0.01)]
)
def test_equals_its_definition_in_float64(kind, definition, lr):
    slopes, trace = run(kind, lr)
    for name in LAYOUT:
        exact = definition(
            trace[0][name].astype(np.float64), [s[name].astype(np.float64) for s in slopes], lr
        )
        for values, expected in zip(trace[1:], exact, strict=True):
            np.testing.assert_allclose(values[name], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("kind", "lr"), [(Momentum, 0.05), (Adam, 0.01)])
def test_equals_pytorch(kind, lr):
    torch = pytest.importorskip("torch")
    slopes, trace = run(kind, lr)
    guests = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in trace[0].items()}
    if kind is Momentum:
        guest = torch.optim.SGD(guests.values(), lr=lr, momentum=0.9)
    else:
        guest = torch.optim.Adam(guests.values(), lr=lr)
    for gradients, values in zip(slopes, trace[1:], strict=True):
        for name, parameter in guests.items():
            parameter.grad = torch.from_numpy(gradients[name])
        guest.step()
        for name, parameter in guests.items():
            np.testing.assert_allclose(values[name], parameter.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_state_is_planned_as_it_is_made(kind):
    with ns.Arena("1 MiB") as arena, ns.Arena(1 << 60, device="null") as plan:
        kind(ns.Workspace(arena=arena), LAYOUT, 0.1)
        kind(ns.Workspace(arena=plan), LAYOUT, 0.1)
        assert arena.peak == plan.peak > 0


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_minimises(kind):
    with ns.Arena("1 MiB") as arena:
        ws = ns.Workspace(arena=arena)
        x = ws.full("x", (4,), 3.0)
        optimizer = kind(ns.Workspace(arena=arena), {"x": ((4,), "float32")}, kind.default_lr)
        before = float(np.abs(x).max())
        for _ in range(50):
            optimizer.step(np, ws, {"x": 2 * x})
        assert float(np.abs(x).max()) < before
        del x
