"""Elementwise mathematics: one or two tensors in, one out, and the gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from numscope.errors import BlobTypeError
from numscope.operators.definition import Operator
from numscope.operators.registry import register_operator
from numscope.operators.tensors import (
    BROADCAST,
    Array,
    BroadcastingOperator,
    TensorLayout,
    TensorOperator,
    array_module,
    broadcast,
    sum_to,
)

if TYPE_CHECKING:
    from types import ModuleType

    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = [
    "AddGradientOp",
    "AddOp",
    "DivOp",
    "ExpOp",
    "LogOp",
    "MulGradientOp",
    "MulOp",
    "NegOp",
    "NegativeOp",
    "ReluGradientOp",
    "ReluOp",
    "ScaleOp",
    "SigmoidGradientOp",
    "SigmoidOp",
    "SubGradientOp",
    "SubOp",
    "TanhGradientOp",
    "TanhOp",
]

Pair = tuple[Array, Array]


class UnaryOp(TensorOperator):
    """Y = f(X) for one of NumPy's functions."""

    function: ClassVar[str]

    def run(self, ws: Workspace) -> None:
        x = self.floating(ws, 0)
        getattr(array_module(ws.device), self.function)(x, out=self.output(ws, 0, x.shape, x.dtype))


class BinaryOp(BroadcastingOperator):
    """C = f(A, B) for one of NumPy's functions, with broadcasting."""

    function: ClassVar[str]

    def run(self, ws: Workspace) -> None:
        a, b, shape = self.operands(ws)
        if a.dtype.kind == "b":
            raise BlobTypeError(
                f"{self.definition!r}: inputs must be numbers, got bool; And and Or take these"
            )
        getattr(array_module(ws.device), self.function)(a, b, out=self.output(ws, 0, shape, a.dtype))


def _from_output(type: str, context: GradientContext) -> list[Operator]:  # noqa: A002 - as in Operator
    read = [context.output(0), context.output_gradient(0)]
    return [Operator(type, read, [context.input_gradient(0)], is_gradient_op=True)]


def _tanh_gradient(context: GradientContext) -> list[Operator]:
    return _from_output("TanhGradient", context)


def _sigmoid_gradient(context: GradientContext) -> list[Operator]:
    return _from_output("SigmoidGradient", context)


def _relu_gradient(context: GradientContext) -> list[Operator]:
    return _from_output("ReluGradient", context)


def _exp_gradient(context: GradientContext) -> list[Operator]:
    return _from_output("Mul", context)


def _log_gradient(context: GradientContext) -> list[Operator]:
    read = [context.output_gradient(0), context.input(0)]
    return [Operator("Div", read, [context.input_gradient(0)], is_gradient_op=True)]


def _linear_gradient(context: GradientContext) -> list[Operator]:
    """Apply the operator itself to the gradient: right for Neg and Scale."""
    forward = context.operator
    read = [context.output_gradient(0)]
    return [Operator(forward.type, read, [context.input_gradient(0)], is_gradient_op=True, **forward.args)]


def _sum_gradient(context: GradientContext) -> list[Operator]:
    """Add and Sub: only the shapes of the inputs matter."""
    read = [context.output_gradient(0), context.input_layout(0), context.input_layout(1)]
    return _binary_gradient(context, read)


def _mul_gradient(context: GradientContext) -> list[Operator]:
    return _binary_gradient(context, [context.output_gradient(0), context.input(0), context.input(1)])


def _binary_gradient(context: GradientContext, read: list[str]) -> list[Operator]:
    forward = context.operator
    made = [context.input_gradient(0), context.input_gradient(1)]
    return [Operator(f"{forward.type}Gradient", read, made, is_gradient_op=True, **forward.args)]


@register_operator("Tanh", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_tanh_gradient)
class TanhOp(UnaryOp):
    """Y = tanh(X)."""

    function = "tanh"


@register_operator("Exp", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_exp_gradient)
class ExpOp(UnaryOp):
    """Y = exp(X)."""

    function = "exp"


@register_operator("Log", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_log_gradient)
class LogOp(UnaryOp):
    """Y = log(X), the natural logarithm."""

    function = "log"


@register_operator("Neg", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_linear_gradient)
class NegOp(TensorOperator):
    """Y = -X, also of integers."""

    def run(self, ws: Workspace) -> None:
        x = self.tensor(ws, 0)
        if x.dtype.kind == "b":
            raise BlobTypeError(
                f"{self.definition!r}: {self.inputs[0]!r} is bool, which has no negative; use Not"
            )
        array_module(ws.device).negative(x, out=self.output(ws, 0, x.shape, x.dtype))


@register_operator("Negative", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_linear_gradient)
class NegativeOp(NegOp):
    """Neg, by the name that it has in Caffe2's nets."""


@register_operator("Sigmoid", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_sigmoid_gradient)
class SigmoidOp(TensorOperator):
    """Y = 1 / (1 + exp(-X))."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x = self.floating(ws, 0)
        y = self.output(ws, 0, x.shape, x.dtype)
        # An overflow of exp gives 1 / inf = 0, the right limit; tanh(x / 2) would lose the small values.
        xp.negative(x, out=y)
        xp.exp(y, out=y)
        xp.add(y, 1, out=y)
        xp.divide(1, y, out=y)


@register_operator("Relu", inputs=1, outputs=1, in_place=[(0, 0)], gradient=_relu_gradient)
class ReluOp(TensorOperator):
    """Y = max(X, 0)."""

    def run(self, ws: Workspace) -> None:
        x = self.floating(ws, 0)
        array_module(ws.device).maximum(x, x.dtype.type(0), out=self.output(ws, 0, x.shape, x.dtype))


@register_operator(
    "Scale",
    inputs=1,
    outputs=1,
    in_place=[(0, 0)],
    arguments={"scale": ("number", 1.0)},
    gradient=_linear_gradient,
)
class ScaleOp(TensorOperator):
    """Y = scale * X."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.scale = float(self.argument("scale"))

    def run(self, ws: Workspace) -> None:
        x = self.floating(ws, 0)
        y = self.output(ws, 0, x.shape, x.dtype)
        array_module(ws.device).multiply(x, x.dtype.type(self.scale), out=y)


@register_operator(
    "Add",
    inputs=2,
    outputs=1,
    in_place=[(0, 0), (1, 0)],
    arguments=BROADCAST,
    gradient=_sum_gradient,
)
class AddOp(BinaryOp):
    """C = A + B."""

    function = "add"


@register_operator(
    "Sub",
    inputs=2,
    outputs=1,
    in_place=[(0, 0), (1, 0)],
    arguments=BROADCAST,
    gradient=_sum_gradient,
)
class SubOp(BinaryOp):
    """C = A - B."""

    function = "subtract"


@register_operator(
    "Mul",
    inputs=2,
    outputs=1,
    in_place=[(0, 0), (1, 0)],
    arguments=BROADCAST,
    gradient=_mul_gradient,
)
class MulOp(BinaryOp):
    """C = A * B, element by element."""

    function = "multiply"


@register_operator("Div", inputs=2, outputs=1, in_place=[(0, 0)], arguments=BROADCAST)
class DivOp(BroadcastingOperator):
    """C = A / B of floating point numbers: the gradient of Log, as in Caffe2's nets."""

    def run(self, ws: Workspace) -> None:
        self.floating(ws, 0)
        a, b, shape = self.operands(ws)
        array_module(ws.device).divide(a, b, out=self.output(ws, 0, shape, a.dtype))


# Gradients


@register_operator("TanhGradient", inputs=2, outputs=1, in_place=[(1, 0)])
class TanhGradientOp(TensorOperator):
    """dX = dY * (1 - Y**2)."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        y, dy = self.alike(ws, 0, 1)
        dx = self.output(ws, 0, y.shape, y.dtype)
        slope = xp.empty_like(dx) if dx is dy else dx
        xp.multiply(y, y, out=slope)
        xp.subtract(1, slope, out=slope)
        xp.multiply(slope, dy, out=dx)


@register_operator("SigmoidGradient", inputs=2, outputs=1, in_place=[(1, 0)])
class SigmoidGradientOp(TensorOperator):
    """dX = dY * Y * (1 - Y)."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        y, dy = self.alike(ws, 0, 1)
        dx = self.output(ws, 0, y.shape, y.dtype)
        slope = xp.empty_like(dx) if dx is dy else dx
        xp.subtract(1, y, out=slope)
        xp.multiply(slope, y, out=slope)
        xp.multiply(slope, dy, out=dx)


@register_operator("ReluGradient", inputs=2, outputs=1, in_place=[(1, 0)])
class ReluGradientOp(TensorOperator):
    """dX = dY where Y > 0, else 0."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        y, dy = self.alike(ws, 0, 1)
        dx = self.output(ws, 0, y.shape, y.dtype)
        # Not a product with 0 and 1: an infinite gradient where Y is 0 shall give 0, not NaN.
        xp.copyto(dx, xp.where(y > 0, dy, dy.dtype.type(0)))


class BinaryGradientOp(TensorOperator):
    """[dC, A, B] -> [dA, dB], summed over the dimensions in which an operand was broadcast."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        dc = self.tensor(ws, 0)
        first, second = self.operand(ws, 1), self.operand(ws, 2)
        a, b, shape = broadcast(self, first, second)
        if dc.shape != shape:
            raise self.fail(f"gradient {self.inputs[0]!r} has shape {dc.shape}, the operands make {shape}")
        names = self.outputs
        if self.inputs[0] in names or self.inputs[1] in names or self.inputs[2] in names:
            dc, a, b = dc.copy(), a.copy(), b.copy()  # an output overwrites what the other still needs
        for side, operand in enumerate((first, second)):
            self.differentiate(xp, dc, (a, b), side, self.output(ws, side, operand.shape, dc.dtype))

    def operand(self, ws: Workspace, i: int) -> Array:
        """Return an operand."""
        return self.tensor(ws, i)

    def differentiate(self, xp: ModuleType, dc: Array, operands: Pair, side: int, out: Array) -> None:
        """Write the gradient of operand 0 or 1."""
        raise NotImplementedError


class SumGradientOp(BinaryGradientOp):
    """The gradient of an operator that needs the operands' shapes only."""

    def operand(self, ws: Workspace, i: int) -> Array:
        """Return an operand, or a host array without memory of its shape: nothing else of it is used."""
        operand = self.layout(ws, i)
        return np.broadcast_to(np.int8(0), operand.shape) if type(operand) is TensorLayout else operand


@register_operator("AddGradient", inputs=3, outputs=2, in_place=True, arguments=BROADCAST)
class AddGradientOp(SumGradientOp):
    """dA = dC and dB = dC, summed to the operands' shapes."""

    def differentiate(self, xp: ModuleType, dc: Array, operands: Pair, side: int, out: Array) -> None:
        """Write the gradient of operand 0 or 1."""
        sum_to(xp, dc, out, operands[side].shape)


@register_operator("SubGradient", inputs=3, outputs=2, in_place=True, arguments=BROADCAST)
class SubGradientOp(SumGradientOp):
    """dA = dC and dB = -dC, summed to the operands' shapes."""

    def differentiate(self, xp: ModuleType, dc: Array, operands: Pair, side: int, out: Array) -> None:
        """Write the gradient of operand 0 or 1."""
        sum_to(xp, dc, out, operands[side].shape)
        if side == 1:
            xp.negative(out, out=out)


@register_operator("MulGradient", inputs=3, outputs=2, in_place=[(0, 0), (0, 1)], arguments=BROADCAST)
class MulGradientOp(BinaryGradientOp):
    """dA = dC * B and dB = dC * A, summed to the operands' shapes."""

    def differentiate(self, xp: ModuleType, dc: Array, operands: Pair, side: int, out: Array) -> None:
        """Write the gradient of operand 0 or 1."""
        other = operands[1 - side]
        if out.shape == dc.shape:
            xp.multiply(dc, other, out=out)
        else:
            sum_to(xp, dc * other, out, operands[side].shape)
