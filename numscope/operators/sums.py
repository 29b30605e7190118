"""Sums of several tensors, and the accumulation of gradients over the rounds of a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numscope import kernels
from numscope.errors import BlobTypeError
from numscope.operators.definition import Operator
from numscope.operators.registry import register_operator
from numscope.operators.tensors import FLOATING, Array, TensorOperator, array_module, wide

if TYPE_CHECKING:
    from numscope.kernels import Prepared
    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = ["AccumulateOp", "SumOp", "WeightedSumGradientOp", "WeightedSumOp"]

MAX_PREPARED = 1024  # kernel calls that an Accumulate remembers: a loop's rounds


def _sum_gradient(context: GradientContext) -> list[Operator]:
    """Every input has the output's gradient: no operator is needed."""
    for i in range(len(context.operator.inputs)):
        context.pass_through(i, context.output_gradient(0))
    return []


def _weighted_sum_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    read = [context.output_gradient(0)]
    made = [context.input_gradient(i) for i in range(0, len(forward.inputs), 2)]
    on_weights = forward.args.get("grad_on_w", False)
    for i in range(0, len(forward.inputs), 2):
        read += [context.input(i) if on_weights else context.input_layout(i), context.input(i + 1)]
    if on_weights:
        made += [context.input_gradient(i) for i in range(1, len(forward.inputs), 2)]
    return [Operator("WeightedSumGradient", read, made, is_gradient_op=True, **forward.args)]


def _in_pairs(operator: Operator) -> str | None:
    count = len(operator.inputs)
    return f"expected pairs of a tensor and its weight, got {count} inputs" if count % 2 else None


class SameShapeOp(TensorOperator):
    """An operator on numbers of one shape and dtype."""

    def terms(self, ws: Workspace, positions: range) -> list[Array]:
        """Return the inputs at some positions, which must be alike."""
        arrays = [self.tensor(ws, i) for i in positions]
        for i, array in zip(positions, arrays, strict=True):
            if array.dtype.kind == "b":
                raise BlobTypeError(f"{self.definition!r}: {self.inputs[i]!r} must be numbers, got bool")
            if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
                raise self.fail(
                    f"the terms must be of one shape and dtype: {self.inputs[positions[0]]!r} is "
                    f"{arrays[0].dtype}{list(arrays[0].shape)}, {self.inputs[i]!r} is "
                    f"{array.dtype}{list(array.shape)}"
                )
        return arrays


@register_operator("Sum", inputs=(1, None), outputs=1, in_place=[(0, 0)], gradient=_sum_gradient)
class SumOp(SameShapeOp):
    """Y = X0 + X1 + ...; only the first input may be overwritten."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        terms = self.terms(ws, range(len(self.inputs)))
        y = self.output(ws, 0, terms[0].shape, terms[0].dtype)
        if len(terms) == 1:
            xp.copyto(y, terms[0])
            return
        xp.add(terms[0], terms[1], out=y)
        for term in terms[2:]:
            xp.add(y, term, out=y)


@register_operator(
    "WeightedSum",
    inputs=(2, None),
    outputs=1,
    in_place=[(0, 0)],
    arguments={"grad_on_w": ("bool", False)},
    gradient=_weighted_sum_gradient,
    rule=_in_pairs,
)
class WeightedSumOp(SameShapeOp):
    """[X0, w0, X1, w1, ...] -> X0 * w0 + X1 * w1 + ...; each weight has one element.

    As in Caffe2 the weights get a gradient only with ``grad_on_w``.
    """

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        terms = self.terms(ws, range(0, len(self.inputs), 2))
        weights = [self.weight(ws, i) for i in range(1, len(self.inputs), 2)]
        y = self.output(ws, 0, terms[0].shape, terms[0].dtype)
        xp.multiply(terms[0], weights[0], out=y)
        for term, weight in zip(terms[1:], weights[1:], strict=True):
            y += term * weight

    def weight(self, ws: Workspace, i: int) -> Array:
        """Return a weight as an array without dimensions."""
        weight = self.floating(ws, i)
        if weight.size != 1:
            raise self.fail(f"weight {self.inputs[i]!r} must have one element, got shape {weight.shape}")
        return weight.reshape(())


@register_operator(
    "WeightedSumGradient", inputs=(3, None), outputs=(1, None), arguments={"grad_on_w": ("bool", False)}
)
class WeightedSumGradientOp(TensorOperator):
    """[dY, X0, w0, X1, w1, ...] -> dX0, dX1, ... and, with `grad_on_w`, dw0, dw1, ..."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        dy = self.tensor(ws, 0)
        count = len(self.inputs) // 2
        wanted = 2 * count if self.argument("grad_on_w") else count
        if len(self.inputs) % 2 == 0 or len(self.outputs) != wanted:
            raise self.fail(
                f"expected a gradient, then tensors with their weights, and {wanted} outputs; got "
                f"{len(self.inputs)} inputs and {len(self.outputs)} outputs"
            )
        for k in range(count):
            weight = self.floating(ws, 2 * k + 2).reshape(())
            xp.multiply(dy, weight, out=self.output(ws, k, dy.shape, dy.dtype))
        for k in range(len(self.outputs) - count):
            x, weight = self.tensor(ws, 2 * k + 1), self.tensor(ws, 2 * k + 2)
            slope = xp.sum(wide(x) * wide(dy))
            self.output(ws, count + k, weight.shape, weight.dtype)[...] = slope.reshape(weight.shape)


@register_operator("Accumulate", inputs=(2, None), outputs=(1, None), in_place=True)
class AccumulateOp(TensorOperator):
    """[A0, A1, ..., g0, g1, ...] -> [A0, A1, ...]: each A += g, all in one kernel call.

    Generated loops sum the gradients of what does not change between their rounds with it. Each output is
    the input at the same place; dtypes may differ (a bfloat16 gradient is added to a float32 sum).
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        count = len(self.outputs)
        if len(self.inputs) != 2 * count or self.inputs[:count] != self.outputs:
            raise self.fail("expected the outputs as the first inputs, then as many tensors to add to them")
        self._prepared: dict[object, Prepared] = {}

    def run(self, ws: Workspace) -> None:
        count = len(self.outputs)
        sums = [self.tensor(ws, i) for i in range(count)]
        terms = [self.tensor(ws, count + i) for i in range(count)]
        for i, (total, term) in enumerate(zip(sums, terms, strict=True)):
            if total.shape != term.shape:
                raise self.fail(
                    f"{self.inputs[count + i]!r} has shape {term.shape}, "
                    f"{self.outputs[i]!r} has {total.shape}"
                )
        # The gradient of integers is 0: there is nothing to add.
        pairs = [(total, term) for total, term in zip(sums, terms, strict=True) if total.dtype in FLOATING]
        if not pairs:
            return
        sums, terms = [total for total, _ in pairs], [term for _, term in pairs]
        dtypes = {(total.dtype, term.dtype) for total, term in zip(sums, terms, strict=True)}
        if len(dtypes) > 1:
            kernels.accumulate(sums, terms)
            return
        # The rounds of a loop lie at the same addresses in each run. Checking and laying out a call takes
        # 80 us, more than the rest of a small round; a prepared one 2 us. It holds addresses, no arrays.
        arrays = (*sums, *terms)
        on_host = array_module(ws.device) is np
        key = tuple(
            (a.__array_interface__["data"][0] if on_host else a.data.ptr, a.size, a.dtype) for a in arrays
        )
        call = self._prepared.get(key)
        if call is None:
            if len(self._prepared) >= MAX_PREPARED:
                self._prepared.clear()
            call = kernels.prepare("accumulate", kernels.Pieces.of(sums), kernels.Pieces.of(terms))
            self._prepared[key] = call
        call()
