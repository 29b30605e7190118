"""Comparisons and logic: bool tensors, through which no gradient flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from numscope.errors import BlobTypeError
from numscope.operators.registry import register_operator
from numscope.operators.tensors import BROADCAST, BroadcastingOperator, TensorOperator, array_module

if TYPE_CHECKING:
    from numscope.workspace import Workspace

__all__ = ["AndOp", "EQOp", "GEOp", "GTOp", "LEOp", "LTOp", "NotOp", "OrOp"]

BOOL = np.dtype(np.bool_)


class ComparisonOp(BroadcastingOperator):
    """C = f(A, B), a bool tensor of the broadcast shape; A and B are of one dtype."""

    function: ClassVar[str]

    def run(self, ws: Workspace) -> None:
        a, b, shape = self.operands(ws)
        getattr(array_module(ws.device), self.function)(a, b, out=self.output(ws, 0, shape, BOOL))


class LogicalOp(ComparisonOp):
    """C = f(A, B) of bool tensors."""

    def run(self, ws: Workspace) -> None:
        for i, name in enumerate(self.inputs):
            dtype = self.tensor(ws, i).dtype
            if dtype != BOOL:
                raise BlobTypeError(f"{self.definition!r}: input {name!r} must be bool, got {dtype}")
        super().run(ws)


@register_operator("LT", inputs=2, outputs=1, arguments=BROADCAST, stops_gradient=True)
class LTOp(ComparisonOp):
    """C = A < B."""

    function = "less"


@register_operator("LE", inputs=2, outputs=1, arguments=BROADCAST, stops_gradient=True)
class LEOp(ComparisonOp):
    """C = A <= B."""

    function = "less_equal"


@register_operator("GT", inputs=2, outputs=1, arguments=BROADCAST, stops_gradient=True)
class GTOp(ComparisonOp):
    """C = A > B."""

    function = "greater"


@register_operator("GE", inputs=2, outputs=1, arguments=BROADCAST, stops_gradient=True)
class GEOp(ComparisonOp):
    """C = A >= B."""

    function = "greater_equal"


@register_operator("EQ", inputs=2, outputs=1, arguments=BROADCAST, stops_gradient=True)
class EQOp(ComparisonOp):
    """C = A == B."""

    function = "equal"


@register_operator("And", inputs=2, outputs=1, in_place=[(0, 0)], arguments=BROADCAST, stops_gradient=True)
class AndOp(LogicalOp):
    """C = A and B."""

    function = "logical_and"


@register_operator("Or", inputs=2, outputs=1, in_place=[(0, 0)], arguments=BROADCAST, stops_gradient=True)
class OrOp(LogicalOp):
    """C = A or B."""

    function = "logical_or"


@register_operator("Not", inputs=1, outputs=1, in_place=[(0, 0)], stops_gradient=True)
class NotOp(TensorOperator):
    """Y = not X."""

    def run(self, ws: Workspace) -> None:
        x = self.tensor(ws, 0)
        if x.dtype != BOOL:
            raise BlobTypeError(f"{self.definition!r}: input {self.inputs[0]!r} must be bool, got {x.dtype}")
        array_module(ws.device).logical_not(x, out=self.output(ws, 0, x.shape, BOOL))
