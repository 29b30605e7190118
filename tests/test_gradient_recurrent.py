"""A recurrent net as people train it: against PyTorch, and as the example shows it."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from numscope.arena import Arena
from numscope.interop.torch_reference import recurrent_gradients
from numscope.operators import gradient
from numscope.recurrent import recurrent_net
from numscope.workspace import Workspace

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", [1, 8, 40])
def test_gradients_are_those_of_pytorch(device, dtype, steps):
    pytest.importorskip("torch")
    rng = np.random.default_rng(steps)
    net, parameters = recurrent_net(8, 16, 10, dtype)
    backward, gradients = gradient(net, ["loss"])
    lengths = rng.integers(1, steps + 1, 6)
    lengths[0] = steps
    weights = {
        name: (0.3 * rng.standard_normal(shape)).astype(dtype) for name, (shape, _) in parameters.items()
    }
    inputs = {
        "rows": rng.standard_normal((steps, 6, 8)).astype(dtype),
        "alive": (np.arange(steps)[:, None, None] < lengths[None, :, None]).astype(dtype),
        "start": rng.standard_normal((6, 16)).astype(dtype),
        "labels": rng.integers(0, 10, 6),
        "steps": np.int64(steps),
    }
    expected = recurrent_gradients(weights, inputs)
    with Arena("16 MiB", device=device) as arena:
        ws = Workspace(arena=arena)
        ws.update(weights | inputs)
        for _ in range(2):
            ws.run(net)
            ws.run(backward)
        for name, answer in expected.items():
            error = np.linalg.norm(ws.fetch(gradients[name]) - answer) / np.linalg.norm(answer)
            assert error <= TOLERANCE[dtype], name
        assert gradients["start"] == "start_grad"
        assert "rows" not in gradients
        ws.clear()


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE.items())
def test_the_example_runs(capsys, dtype, tolerance):
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "dynamic_rnn.py"))
    assert example["main"](steps=30, dtype=dtype) > 0.4
    out = capsys.readouterr().out
    assert "accuracy on 360 cut test images" in out
    compared = re.search("largest difference from PyTorch's gradients: (.*)", out)
    assert compared is None or float(compared[1]) <= tolerance
