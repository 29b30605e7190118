"""Reductions and losses: SumElements, AveragedLoss, SquaredL2Distance, SoftmaxWithLoss."""

from __future__ import annotations

import math
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numscope.errors import BlobTypeError
from numscope.operators.definition import Operator
from numscope.operators.registry import register_operator
from numscope.operators.tensors import Array, Shape, TensorOperator, array_module, check_indices, wide

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = [
    "AveragedLossGradientOp",
    "AveragedLossOp",
    "SoftmaxWithLossGradientOp",
    "SoftmaxWithLossOp",
    "SquaredL2DistanceGradientOp",
    "SquaredL2DistanceOp",
    "SumElementsGradientOp",
    "SumElementsOp",
]

SMALLEST_PROBABILITY = 1e-20  # Caffe2's, under the logarithm of label_prob
LABEL_SUM_TOLERANCE = 1e-5  # Caffe2's


def _reduction_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    read = [context.input_layout(0), context.output_gradient(0)]
    made = [context.input_gradient(0)]
    return [Operator(f"{forward.type}Gradient", read, made, is_gradient_op=True, **forward.args)]


def _distance_gradient(context: GradientContext) -> list[Operator]:
    read = [context.input(0), context.input(1), context.output_gradient(0)]
    made = [context.input_gradient(0), context.input_gradient(1)]
    return [Operator("SquaredL2DistanceGradient", read, made, is_gradient_op=True)]


def _softmax_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    context.refuse_gradient(0, "only the loss has a gradient; put StopGradient behind the probabilities")
    if context.output_gradient_or_none(1) is None:
        return []
    read = [context.input(i) for i in range(len(forward.inputs))]
    read += [context.output(0), context.output_gradient(1)]
    made = [context.input_gradient(0)]
    return [Operator("SoftmaxWithLossGradient", read, made, is_gradient_op=True, **forward.args)]


@register_operator(
    "SumElements",
    inputs=1,
    outputs=1,
    arguments={"average": ("bool", False)},
    gradient=_reduction_gradient,
)
class SumElementsOp(TensorOperator):
    """The sum of all elements, or their mean, as a tensor without dimensions; 0 of none."""

    def run(self, ws: Workspace) -> None:
        x = self.floating(ws, 0)
        y = self.output(ws, 0, (), x.dtype)
        total = array_module(ws.device).sum(wide(x))
        y[...] = total / x.size if self.averages and x.size else total

    @property
    def averages(self) -> bool:
        """Whether the sum is divided by the number of elements."""
        return bool(self.argument("average"))


@register_operator("AveragedLoss", inputs=1, outputs=1, gradient=_reduction_gradient)
class AveragedLossOp(SumElementsOp):
    """The mean of all elements, as a tensor without dimensions; 0 of none."""

    averages = True


@register_operator("SumElementsGradient", inputs=2, outputs=1, arguments={"average": ("bool", False)})
class SumElementsGradientOp(TensorOperator):
    """[X, dY] -> dX = dY everywhere, or dY / size."""

    def run(self, ws: Workspace) -> None:
        x, dy = self.layout(ws, 0), self.tensor(ws, 1)
        if dy.size != 1:
            raise self.fail(f"gradient {self.inputs[1]!r} must have one element, got shape {dy.shape}")
        dx = self.output(ws, 0, x.shape, x.dtype)
        dx[...] = dy.reshape(())
        if self.averages and dx.size:
            dx /= dx.size

    @property
    def averages(self) -> bool:
        """Whether the sum was divided by the number of elements."""
        return bool(self.argument("average"))


@register_operator("AveragedLossGradient", inputs=2, outputs=1)
class AveragedLossGradientOp(SumElementsGradientOp):
    """[X, dY] -> dX = dY / size everywhere."""

    averages = True


class DistanceOp(TensorOperator):
    """What the distance and its gradient share."""

    def difference(self, ws: Workspace) -> tuple[Array, Array]:
        """Return X, and X - Y as one row for each entry of the first dimension."""
        x, y = self.alike(ws, 0, 1, floating=True)
        if x.shape != y.shape:
            raise self.fail(f"both must have one shape, got {x.shape} and {y.shape}")
        return x, (wide(x) - wide(y)).reshape(x.shape[0] if x.ndim else 1, math.prod(x.shape[1:]))


@register_operator("SquaredL2Distance", inputs=2, outputs=1, gradient=_distance_gradient)
class SquaredL2DistanceOp(DistanceOp):
    """D[n] = sum((X[n] - Y[n])**2) / 2."""

    def run(self, ws: Workspace) -> None:
        x, rows = self.difference(ws)
        rows *= rows
        distance = array_module(ws.device).sum(rows, axis=1) / 2
        self.output(ws, 0, distance.shape, x.dtype)[...] = distance


@register_operator("SquaredL2DistanceGradient", inputs=3, outputs=2)
class SquaredL2DistanceGradientOp(DistanceOp):
    """[X, Y, dD] -> dX = dD * (X - Y), dY = -dX."""

    def run(self, ws: Workspace) -> None:
        x, rows = self.difference(ws)
        gradient = self.tensor(ws, 2)
        if gradient.shape != rows.shape[:1]:
            raise self.fail(
                f"gradient {self.inputs[2]!r} has shape {gradient.shape}, expected {rows.shape[:1]}"
            )
        rows *= gradient.reshape(-1, 1)
        self.output(ws, 0, x.shape, x.dtype)[...] = rows.reshape(x.shape)
        self.output(ws, 1, x.shape, x.dtype)[...] = -rows.reshape(x.shape)


class SoftmaxOp(TensorOperator):
    """What SoftmaxWithLoss and its gradient share."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        if not self.argument("scale") >= 0:
            raise self.fail(f"scale must not be negative, got {self.argument('scale')}")
        if self.argument("order").upper() != "NCHW":
            raise self.fail(f"order can only be 'NCHW', got {self.argument('order')!r}")

    def read(self, ws: Workspace, has_weights: bool) -> tuple[Array, Array, Array | None]:
        """Return the labels as targets of shape (N, D), the logits as (N, D), and the weights as (N, 1).

        Half precision comes as float32.
        """
        x, labels = self.floating(ws, 0), self.tensor(ws, 1)
        axis = self.argument("axis")
        start = axis if axis >= 0 else axis + x.ndim
        if not 0 <= start < x.ndim:
            raise self.fail(f"axis {axis} does not exist in logits of shape {x.shape}")
        rows = math.prod(x.shape[:start])
        logits = wide(x).reshape(rows, math.prod(x.shape[start:]))
        weights = wide(self.tensor(ws, 2)).reshape(-1, 1) if has_weights else None
        if weights is not None and weights.shape[0] != rows:
            raise self.fail(f"expected {rows} weights, one a row, got {weights.shape[0]}")
        xp = array_module(ws.device)
        read = (math.prod(labels.shape[:start]), math.prod(labels.shape[start:]))
        if self.argument("label_prob"):
            return self._probabilities(xp, labels, read, logits), logits, weights
        return self._one_hot(xp, labels, read, logits), logits, weights

    def factor(self, xp: ModuleType, rows: int, weights: Array | None) -> Any:
        """Return what the sum of the losses is multiplied with; weights stay on their device."""
        scale = float(self.argument("scale"))
        if weights is None:
            return scale / rows if rows else 0.0
        total = weights.sum()
        divisor = max(rows, 1) if self.argument("average_by_batch_size") else total
        return xp.where(total == 0, total, scale / divisor)

    def _probabilities(self, xp: ModuleType, labels: Array, read: Shape, logits: Array) -> Array:
        if read != logits.shape:
            raise self.fail(
                f"with label_prob the labels are read as the logits are, as {logits.shape}; got shape "
                f"{labels.shape}"
            )
        targets = wide(labels).reshape(logits.shape)
        if not bool((targets >= 0).all()):
            raise self.fail("label probabilities must not be negative")
        if not bool((xp.abs(targets.sum(axis=1) - 1) < LABEL_SUM_TOLERANCE).all()):
            raise self.fail("label probabilities must sum to 1 in each row")
        return targets

    def _one_hot(self, xp: ModuleType, labels: Array, read: Shape, logits: Array) -> Array:
        rows, classes = logits.shape
        if labels.dtype.kind not in "iu":
            raise BlobTypeError(
                f"{self.definition!r}: labels {self.inputs[1]!r} must be integers, got {labels.dtype}; "
                "label_prob=1 takes probabilities"
            )
        if read != (rows, 1):
            raise self.fail(f"expected {rows} labels, one a row, got shape {labels.shape}")
        flat = labels.reshape(-1)
        check_indices(self, "labels", flat, classes)
        targets = xp.zeros(logits.shape, logits.dtype)
        targets[xp.arange(rows), flat] = 1
        return targets


SOFTMAX: dict[str, Any] = {
    "label_prob": ("bool", False),
    "scale": ("number", 1.0),
    "axis": ("int", 1),
    "average_by_batch_size": ("bool", False),
    "order": ("str", "NCHW"),
}


@register_operator("SoftmaxWithLoss", inputs=(2, 3), outputs=2, arguments=SOFTMAX, gradient=_softmax_gradient)
class SoftmaxWithLossOp(SoftmaxOp):
    """[X, labels] or [X, labels, weights] -> [P, loss].

    P is softmax of the rows of X; the loss is scale * sum(w * -log P[label]) / sum(w), a tensor without
    dimensions, 0 if the weights sum to 0; with `average_by_batch_size` it is divided by the number of rows
    instead. The labels are integers, one a row, or with `label_prob` one probability for each class.
    """

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        targets, logits, weights = self.read(ws, len(self.inputs) == 3)
        x = self.tensor(ws, 0)
        p = self.output(ws, 0, x.shape, x.dtype)
        probability = p.reshape(logits.shape) if p.dtype == logits.dtype else xp.empty_like(logits)
        loss = self.output(ws, 1, (), x.dtype)
        shifted = logits - logits.max(axis=1, keepdims=True) if logits.size else logits
        xp.exp(shifted, out=probability)
        total = probability.sum(axis=1, keepdims=True)
        xp.divide(probability, total, out=probability)
        if p.dtype != logits.dtype:
            p[...] = probability.reshape(p.shape)
        # Only where there is a target: 0 * -inf would be NaN.
        if self.argument("label_prob"):
            losses = targets * -xp.log(xp.maximum(probability, SMALLEST_PROBABILITY))
        else:
            losses = xp.where(targets != 0, xp.log(total) - shifted, 0)
        if weights is not None:
            losses = losses * weights
        loss[...] = xp.sum(losses) * self.factor(xp, logits.shape[0], weights)


@register_operator("SoftmaxWithLossGradient", inputs=(4, 5), outputs=1, arguments=SOFTMAX)
class SoftmaxWithLossGradientOp(SoftmaxOp):
    """[X, labels, (weights,) P, dloss] -> dX = (P - target) * w * dloss * scale / sum(w)."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        targets, logits, weights = self.read(ws, len(self.inputs) == 5)
        x = self.tensor(ws, 0)
        probability, dloss = self.tensor(ws, len(self.inputs) - 2), self.tensor(ws, len(self.inputs) - 1)
        dx = self.output(ws, 0, x.shape, x.dtype)
        flat = dx.reshape(logits.shape) if dx.dtype == logits.dtype else xp.empty_like(logits)
        xp.subtract(probability.reshape(logits.shape), targets, out=flat)
        if weights is not None:
            flat *= weights
        factor = self.factor(xp, logits.shape[0], weights)
        flat *= dloss.reshape(()) * (flat.dtype.type(factor) if weights is None else factor)
        if dx.dtype != logits.dtype:
            dx[...] = flat.reshape(dx.shape)
