"""Central differences, and one table of operators with the PyTorch expressions that mean the same.

``python tests/reference_operators.py`` records PyTorch's answers, for where it is not installed.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from numscope.operators import Net, Operator, gradient
from numscope.workspace import Workspace

STEP = 1e-6
RECORDED = Path(__file__).parent / "data" / "operator_answers.json.gz"


def drawing(seed):
    """Return a function that draws normal values of a shape, others at each call."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape)


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
            sides.append(sum(float((seed * ws.fetch(y)).sum()) for y, seed in seeds.items()))
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
        np.testing.assert_array_equal(ws.fetch(names[y]), seed, err_msg=f"the seed of {y} was overwritten")
    return ws, gradients


def check_gradients(arena, operators, feeds, seeds, wrt, runs=2, tolerance=1e-6):
    """Compare the gradients of a net with central differences, in float64."""
    net = operators if isinstance(operators, Net) else Net("net", operators)
    ws, gradients = run_both(arena, net, feeds, seeds, runs)
    for name in wrt:
        expected = differences(arena, net, feeds, seeds, name)
        assert name in gradients, f"no gradient of {name}: {gradients}"
        np.testing.assert_allclose(
            ws.fetch(gradients[name]), expected, rtol=tolerance, atol=tolerance, err_msg=name, strict=True
        )
    return ws, gradients


@dataclass(frozen=True)
class Case:
    """An operator, its feeds, and a PyTorch function of the feeds that gives its first differentiable output.

    `positive` feeds are drawn from 0.5 to 2; others are normal; `fixed` ones are given.
    """

    id: str
    operator: Operator
    shapes: dict[str, tuple[int, ...]]
    torch: Callable[..., Any]
    output: str = "y"
    fixed: dict[str, Any] = field(default_factory=dict)
    positive: bool = False
    no_gradient: tuple[str, ...] = ()

    def feeds(self, dtype):
        rng = np.random.default_rng(sum(map(ord, self.id)))
        draw = (lambda s: rng.uniform(0.5, 2.0, s)) if self.positive else rng.standard_normal
        feeds = {name: np.asarray(draw(shape)).astype(dtype) for name, shape in self.shapes.items()}
        for name, value in self.fixed.items():
            array = np.asarray(value)
            feeds[name] = array.astype(dtype) if array.dtype.kind == "f" else array
        return feeds

    def wrt(self):
        names = [*self.shapes, *(n for n, v in self.fixed.items() if np.asarray(v).dtype.kind == "f")]
        return [name for name in names if name not in self.no_gradient]

    def seed(self, shape, dtype):
        rng = np.random.default_rng(len(self.id))
        return np.asarray(rng.standard_normal(shape)).astype(dtype)


def op(type, inputs, outputs="y", **args):  # noqa: A002
    return Operator(type, inputs.split(), outputs.split(), **args)


def nn(name):
    import torch

    return getattr(torch.nn.functional, name)


def softmax_loss(x, labels, weights=None, scale=1.0):
    losses = nn("cross_entropy")(x, labels, reduction="none")
    if weights is None:
        return scale * losses.mean()
    return scale * (losses * weights).sum() / weights.sum()


def cross_entropy_of_probabilities(x, labels):
    return -(labels * nn("log_softmax")(x, dim=1)).sum() / x.shape[0]


def cat(*tensors, dim):
    import torch

    return torch.cat(tensors, dim)


def stack(*tensors, dim):
    import torch

    return torch.stack(tensors, dim)


X, XY, M = {"x": (2, 3)}, {"x": (2, 3), "w": (2, 3)}, {"x": (2, 3), "w": (3, 4)}
LABELS = {"labels": np.array([2, 0, 1], np.int32)}
PROBABILITIES = {"labels": np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])}
ROWS = {"rows": np.array([[1, 1], [0, 3]], np.int64)}

CASES = [
    Case("copy", op("Copy", "x"), X, lambda x: x.clone()),
    Case("copy_on_device_like", op("CopyOnDeviceLike", "x like"), X, lambda x, like: x.clone(),
         fixed={"like": np.array([1, 2], np.int64)}),
    Case("cast", op("Cast", "x", to="float64"), X, lambda x: x.double()),
    Case("scale", op("Scale", "x", scale=-2.5), X, lambda x: -2.5 * x),
    Case("add", op("Add", "x w"), XY, lambda x, w: x + w),
    Case("add_broadcast", op("Add", "x w"), {"x": (2, 1, 3), "w": (4, 1)}, lambda x, w: x + w),
    Case("add_scalar", op("Add", "x w"), {"x": (2, 3), "w": ()}, lambda x, w: x + w),
    Case("add_axis", op("Add", "x w", broadcast=1, axis=1), {"x": (2, 3, 4), "w": (3,)},
         lambda x, w: x + w[:, None]),
    Case("add_axis_of_one", op("Add", "x w", broadcast=1), {"x": (2, 3), "w": (1, 1, 1)},
         lambda x, w: x + w.reshape(())),
    Case("sub", op("Sub", "x w"), XY, lambda x, w: x - w),
    Case("sub_broadcast", op("Sub", "x w"), {"x": (3,), "w": (2, 3)}, lambda x, w: x - w),
    Case("mul", op("Mul", "x w"), XY, lambda x, w: x * w),
    Case("mul_itself", op("Mul", "x x"), X, lambda x: x * x),
    Case("mul_broadcast", op("Mul", "x w"), {"x": (2, 3), "w": (2, 1)}, lambda x, w: x * w),
    Case("mul_axis", op("Mul", "x w", broadcast=1, axis=0), {"x": (2, 3), "w": (2,)},
         lambda x, w: x * w[:, None]),
    Case("neg", op("Neg", "x"), X, lambda x: -x),
    Case("sum", op("Sum", "x w v"), {**XY, "v": (2, 3)}, lambda x, w, v: x + w + v),
    Case("sum_twice", op("Sum", "x w x"), XY, lambda x, w: 2 * x + w),
    Case("weighted_sum", op("WeightedSum", "x a w b", grad_on_w=1), {**XY, "a": (1,), "b": (1,)},
         lambda x, w, a, b: x * a + w * b),
    Case("weighted_sum_fixed", op("WeightedSum", "x a w b"), {**XY, "a": (1,), "b": (1,)},
         lambda x, w, a, b: x * a + w * b, no_gradient=("a", "b")),
    Case("pow", op("Pow", "x", exponent=2.5), X, lambda x: x**2.5, positive=True),
    Case("pow_cube", op("Pow", "x", exponent=3.0), X, lambda x: x**3),
    Case("pow_inverse", op("Pow", "x", exponent=-1), X, lambda x: x**-1.0),
    Case("pow_zero", op("Pow", "x", exponent=0.0), X, lambda x: x**0.0),
    Case("pow_tensor", op("Pow", "x w", broadcast=1), {"x": (2, 3), "w": (3,)}, lambda x, w: x**w,
         positive=True),
    Case("exp", op("Exp", "x"), X, lambda x: x.exp()),
    Case("log", op("Log", "x"), X, lambda x: x.log(), positive=True),
    Case("tanh", op("Tanh", "x"), X, lambda x: x.tanh()),
    Case("sigmoid", op("Sigmoid", "x"), X, lambda x: x.sigmoid()),
    Case("relu", op("Relu", "x"), X, lambda x: x.relu()),
    Case("matmul", op("MatMul", "x w"), M, lambda x, w: x @ w),
    Case("matmul_ta", op("MatMul", "x w", trans_a=1), {"x": (3, 2), "w": (3, 4)}, lambda x, w: x.T @ w),
    Case("matmul_tb", op("MatMul", "x w", trans_b=1), {"x": (2, 3), "w": (4, 3)}, lambda x, w: x @ w.T),
    Case("matmul_tatb", op("MatMul", "x w", trans_a=1, trans_b=1), {"x": (3, 2), "w": (4, 3)},
         lambda x, w: x.T @ w.T),
    Case("matmul_axes", op("MatMul", "x w", axis_a=2, axis_b=1), {"x": (2, 3, 4), "w": (4, 2, 3)},
         lambda x, w: x.reshape(6, 4) @ w.reshape(4, 6)),
    Case("matmul_axes_tb", op("MatMul", "x w", axis_b=2, trans_b=1), {"x": (2, 3), "w": (4, 5, 3)},
         lambda x, w: x @ w.reshape(20, 3).T),
    Case("fc", op("FC", "x w b"), {"x": (2, 3), "w": (4, 3), "b": (4,)}, lambda x, w, b: x @ w.T + b),
    Case("fc_axis", op("FC", "x w b", axis=2), {"x": (2, 3, 4), "w": (5, 4), "b": (5,)},
         lambda x, w, b: x @ w.T + b),
    Case("fc_flat", op("FC", "x w b"), {"x": (2, 3, 4), "w": (5, 12), "b": (5,)},
         lambda x, w, b: x.reshape(2, 12) @ w.T + b),
    Case("reshape", op("Reshape", "x", "y old", shape=[0, -1, 2]), {"x": (3, 4)},
         lambda x: x.reshape(3, 2, 2)),
    Case("reshape_by_input", op("Reshape", "x shape", "y old"), {"x": (3, 4)},
         lambda x, shape: x.reshape(2, 6), fixed={"shape": np.array([2, 6])}),
    Case("concat", op("Concat", "x w", "y lengths"), {"x": (2, 3), "w": (2, 1)},
         lambda x, w: cat(x, w, dim=1)),
    Case("concat_axis", op("Concat", "x w", "y lengths", axis=-2), {"x": (1, 3), "w": (2, 3)},
         lambda x, w: cat(x, w, dim=0)),
    Case("concat_add_axis", op("Concat", "x w", "y lengths", axis=0, add_axis=1), XY,
         lambda x, w: stack(x, w, dim=0)),
    Case("slice", op("Slice", "x", starts=[0, 1], ends=[-1, 3]), {"x": (2, 4)}, lambda x: x[:, 1:3]),
    Case("slice_by_inputs", op("Slice", "x starts ends"), {"x": (3, 4)}, lambda x, starts, ends: x[1:3],
         fixed={"starts": np.array([1, 0], np.int32), "ends": np.array([3, -1], np.int32)}),
    Case("gather", op("Gather", "x rows"), {"x": (4, 3)}, lambda x, rows: x[rows], fixed=ROWS),
    Case("gather_vector", op("Gather", "x rows"), {"x": (4,)}, lambda x, rows: x[rows], fixed=ROWS),
    Case("gather_axis", op("Gather", "x rows", axis=1), {"x": (2, 4, 3)},
         lambda x, rows: x[:, rows], fixed=ROWS),
    Case("sum_elements", op("SumElements", "x"), X, lambda x: x.sum()),
    Case("mean_elements", op("SumElements", "x", average=1), X, lambda x: x.mean()),
    Case("averaged_loss", op("AveragedLoss", "x"), X, lambda x: x.mean()),
    Case("distance", op("SquaredL2Distance", "x w"), {"x": (4, 2, 3), "w": (4, 2, 3)},
         lambda x, w: ((x - w) ** 2).sum((1, 2)) / 2),
    Case("softmax_loss", op("SoftmaxWithLoss", "x labels", "p y"), {"x": (3, 4)}, softmax_loss, fixed=LABELS),
    Case("softmax_loss_scaled", op("SoftmaxWithLoss", "x labels", "p y", scale=3.0), {"x": (3, 4)},
         lambda x, labels: softmax_loss(x, labels, scale=3.0), fixed=LABELS),
    Case("softmax_loss_weighted", op("SoftmaxWithLoss", "x labels weights", "p y"), {"x": (3, 4)},
         softmax_loss, fixed={**LABELS, "weights": np.array([0.5, 0.0, 2.0])}, no_gradient=("weights",)),
    Case("softmax_loss_probabilities", op("SoftmaxWithLoss", "x labels", "p y", label_prob=1), {"x": (3, 4)},
         cross_entropy_of_probabilities, fixed=PROBABILITIES, no_gradient=("labels",)),
]  # fmt: skip


def torch_answers(case, dtype):
    """PyTorch's output and gradients for a case."""
    import torch

    tensors = {}
    for name, value in case.feeds(dtype).items():
        tensor = torch.tensor(value.astype(np.int64) if value.dtype.kind == "i" else value)
        tensors[name] = tensor.requires_grad_(name in case.wrt())
    y = case.torch(**tensors)
    y.backward(torch.tensor(case.seed(tuple(y.shape), dtype), dtype=y.dtype))
    gradients = {name: tensors[name].grad.numpy() for name in case.wrt()}
    return {"y": y.detach().numpy(), **gradients}


def recorded_answers():
    with gzip.open(RECORDED, "rt") as file:
        answers = json.load(file)
    return {
        case: {name: np.array(value["data"]).reshape(value["shape"]) for name, value in values.items()}
        for case, values in answers.items()
    }


def record():
    answers = {
        case.id: {
            name: {"shape": list(value.shape), "data": value.ravel().tolist()}
            for name, value in torch_answers(case, "float64").items()
        }
        for case in CASES
    }
    RECORDED.write_bytes(gzip.compress(json.dumps(answers).encode(), mtime=0))


if __name__ == "__main__":
    record()
