"""Pow: powers with a constant exponent or a tensor of exponents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numscope.errors import OperatorError
from numscope.operators.definition import Operator
from numscope.operators.registry import register_operator
from numscope.operators.tensors import (
    BROADCAST,
    BroadcastingOperator,
    TensorOperator,
    array_module,
    broadcast,
    sum_to,
)

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = ["PowGradientOp", "PowOp"]

ONE_EXPONENT = "expected one exponent: the argument exponent= or a second input"


def _pow_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    if len(forward.inputs) == 2:
        read = [context.input(0), context.input(1), context.output(0), context.output_gradient(0)]
        made = [context.input_gradient(0), context.input_gradient(1)]
        return [Operator("PowGradient", read, made, is_gradient_op=True, **forward.args)]
    if "exponent" not in forward.args:
        raise OperatorError(f"{forward!r}: {ONE_EXPONENT}")
    exponent = float(forward.args["exponent"])
    # In place, the base is gone. Caffe2 takes it back from the result by a root, which is wrong for a
    # negative base and an even exponent; all other exponents give one base for each result.
    from_output = forward.inputs[0] == forward.outputs[0] and exponent % 2 != 0
    read = [context.output(0) if from_output else context.input(0), context.output_gradient(0)]
    made = [context.input_gradient(0)]
    return [
        Operator("PowGradient", read, made, is_gradient_op=True, exponent=exponent, from_output=from_output)
    ]


@register_operator(
    "Pow",
    inputs=(1, 2),
    outputs=1,
    in_place=[(0, 0), (1, 0)],
    arguments={**BROADCAST, "exponent": ("number", None)},
    gradient=_pow_gradient,
)
class PowOp(BroadcastingOperator):
    """Y = X ** exponent; the exponent is the argument or the second input.

    Exponents of another shape than X need ``broadcast=1``, as in Caffe2.
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        exponent = self.argument("exponent")
        if (exponent is None) == (len(self.inputs) == 1):
            raise self.fail(ONE_EXPONENT)
        self.exponent = exponent

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x = self.floating(ws, 0)
        if self.exponent is not None:
            xp.power(x, x.dtype.type(self.exponent), out=self.output(ws, 0, x.shape, x.dtype))
            return
        exponents = self.tensor(ws, 1)
        if x.shape != exponents.shape and not self.definition.args.get("broadcast"):
            raise self.fail(
                f"X has shape {x.shape}, the exponents have {exponents.shape}; broadcast=1 allows that"
            )
        base, exponent, shape = self.operands(ws)
        xp.power(base, exponent, out=self.output(ws, 0, shape, x.dtype))


@register_operator(
    "PowGradient",
    inputs=(2, 4),
    outputs=(1, 2),
    in_place=[(1, 0)],
    arguments={**BROADCAST, "exponent": ("number", None), "from_output": ("bool", False)},
)
class PowGradientOp(TensorOperator):
    """The gradients of Pow.

    [X, dY] -> dX = dY * e * X**(e-1), or with `from_output` [Y, dY] -> dX = dY * e * abs(Y)**((e-1)/e);
    [X, E, Y, dY] -> dX = dY * E * X**(E-1) and dE = dY * Y * log(X), 0 where X is 0 and E is not negative.
    """

    def run(self, ws: Workspace) -> None:
        exponent = self.argument("exponent")
        if exponent is None:
            self._by_tensor(ws)
            return
        xp = array_module(ws.device)
        base, dy = self.alike(ws, 0, 1)
        number = base.dtype.type
        if exponent == 0:
            slope = xp.zeros_like(base)
        elif self.argument("from_output"):
            slope = xp.power(xp.abs(base), number((exponent - 1) / exponent))
        else:
            slope = xp.power(base, number(exponent - 1))
        xp.multiply(slope * number(exponent), dy, out=self.output(ws, 0, base.shape, base.dtype))

    def _by_tensor(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x, e = self.alike(ws, 0, 1)
        y, dy = self.alike(ws, 2, 3)
        base, exponent, _ = broadcast(self, x, e)
        # The power is constant where E is 0, also at X = 0, where the product would be 0 * infinity.
        slope = xp.where(exponent == 0, x.dtype.type(0), dy * exponent * xp.power(base, exponent - 1))
        sum_to(xp, slope, self.output(ws, 0, x.shape, x.dtype), base.shape)
        flat = (base == 0) & (exponent >= 0)
        slope = dy * xp.where(flat, x.dtype.type(0), y * xp.log(base))
        sum_to(xp, slope, self.output(ws, 1, e.shape, e.dtype), exponent.shape)
