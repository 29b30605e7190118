"""Operators that move or convert values without computing with them: Copy, Cast, StopGradient, Free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numscope.operators.definition import Operator
from numscope.operators.registry import CompiledOperator, register_operator
from numscope.operators.tensors import FLOATING, TensorOperator, array_module, data_type

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = ["CastGradientOp", "CastOp", "CopyOnDeviceLikeOp", "CopyOp", "FreeOp", "StopGradientOp"]

FLOAT = 1  # of TensorProto.DataType


def _copy_gradient(context: GradientContext) -> list[Operator]:
    read = [context.output_gradient(0), context.input_or_gradient(0)]
    return [Operator("CopyOnDeviceLike", read, [context.input_gradient(0)], is_gradient_op=True)]


def _cast_gradient(context: GradientContext) -> list[Operator]:
    if data_type(context.operator.args.get("to", FLOAT)) not in FLOATING:
        return []
    read = [context.output_gradient(0), context.input_layout(0)]
    return [Operator("CastGradient", read, [context.input_gradient(0)], is_gradient_op=True)]


class CopyingOp(TensorOperator):
    """Y = X."""

    def run(self, ws: Workspace) -> None:
        x = self.tensor(ws, 0)
        array_module(ws.device).copyto(self.output(ws, 0, x.shape, x.dtype), x)


@register_operator(
    "Copy", inputs=1, outputs=1, arguments={"allow_empty": ("bool", False)}, gradient=_copy_gradient
)
class CopyOp(CopyingOp):
    """Y = X; with `allow_empty`, which generated nets use, an empty Y of an empty X."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.allows_empty = bool(self.argument("allow_empty"))

    def run(self, ws: Workspace) -> None:
        if self.allows_empty:
            blob = ws.get_blob(self.inputs[0])
            if blob is not None and blob.value is None:
                self.empty_output(ws, 0)
                return
        super().run(ws)


@register_operator("CopyOnDeviceLike", inputs=2, outputs=1, gradient=_copy_gradient)
class CopyOnDeviceLikeOp(CopyingOp):
    """Y = X, on the device of the second input; a workspace has one device, so this is Copy."""


@register_operator("StopGradient", inputs=1, outputs=1, in_place=[(0, 0)], stops_gradient=True)
class StopGradientOp(CopyingOp):
    """Y = X, and no gradient flows back."""


@register_operator(
    "Cast",
    inputs=1,
    outputs=1,
    arguments={"to": ("dtype", FLOAT), "from_type": ("dtype", FLOAT)},
    gradient=_cast_gradient,
)
class CastOp(TensorOperator):
    """Y = X converted to the dtype `to`, a name or one of Caffe2's numbers; float32 if it is left out.

    Caffe2 needs `from_type` for the gradient; here X tells it, and the argument has no effect. A gradient
    flows between floating point types; that of an integer or bool input is zero.
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.dtype = self.data_type("to")

    def run(self, ws: Workspace) -> None:
        x = self.tensor(ws, 0)
        array_module(ws.device).copyto(self.output(ws, 0, x.shape, self.dtype), x, casting="unsafe")


@register_operator("CastGradient", inputs=2, outputs=1)
class CastGradientOp(TensorOperator):
    """[dY, X] -> dX: dY converted to the dtype of X, and 0 if that is not floating point."""

    def run(self, ws: Workspace) -> None:
        dy, x = self.tensor(ws, 0), self.layout(ws, 1)
        dx = self.output(ws, 0, x.shape, x.dtype)
        if x.dtype in FLOATING:
            array_module(ws.device).copyto(dx, dy, casting="unsafe")
        else:
            dx.fill(0)


def _each_in_place(operator: Operator) -> str | None:
    return None if operator.inputs == operator.outputs else "each output must be the input at the same place"


@register_operator(
    "Free", inputs=(1, None), outputs=(1, None), in_place=True, stops_gradient=True, rule=_each_in_place
)
class FreeOp(CompiledOperator):
    """Empty blobs of any type; each output is the input at the same place. The names stay."""

    def run(self, ws: Workspace) -> None:
        for name in self.definition.outputs:
            blob = ws.get_blob(name)
            if blob is not None:
                blob.reset()
