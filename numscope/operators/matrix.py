"""MatMul and FC, with Caffe2's reading of tensors of more than two dimensions as matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from numscope.operators.definition import Operator
from numscope.operators.registry import register_operator
from numscope.operators.tensors import Array, TensorOperator, array_module, wide

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = ["FCGradientOp", "FCOp", "MatMulOp"]


def _matmul_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    dy, a, b = context.output_gradient(0), context.input(0), context.input(1)
    da, db = context.input_gradient(0), context.input_gradient(1)
    trans_a, trans_b = bool(forward.args.get("trans_a")), bool(forward.args.get("trans_b"))
    axis_a, axis_b = forward.args.get("axis_a", 1), forward.args.get("axis_b", 1)
    # Y = op(A) op(B). dA is dY op(B)' or, with trans_a, its transpose; dB likewise.
    if trans_a:
        for_a = {"trans_a": trans_b, "trans_b": True, "axis_a": axis_b, "axis_b": 1}
        read_a = [b, dy, a]
    else:
        for_a = {"trans_a": False, "trans_b": not trans_b, "axis_a": 1, "axis_b": axis_b}
        read_a = [dy, b, a]
    if trans_b:
        for_b = {"trans_a": True, "trans_b": trans_a, "axis_a": 1, "axis_b": axis_a}
        read_b = [dy, a, b]
    else:
        for_b = {"trans_a": not trans_a, "trans_b": False, "axis_a": axis_a, "axis_b": 1}
        read_b = [a, dy, b]
    return [
        Operator("MatMul", read_a, [da], is_gradient_op=True, **for_a),
        Operator("MatMul", read_b, [db], is_gradient_op=True, **for_b),
    ]


def _fc_gradient(context: GradientContext) -> list[Operator]:
    read = [context.input(0), context.input(1), context.output_gradient(0)]
    # The bias's shape is the gradient's last one: b itself is not read.
    made = [context.input_gradient(1), context.input_gradient(2), context.input_gradient(0)]
    return [Operator("FCGradient", read, made, is_gradient_op=True, **context.operator.args)]


def as_matrix(operator: TensorOperator, array: Array, axis: int) -> Array:
    """Return a tensor as a matrix: the dimensions before `axis` are the rows, the others the columns."""
    if axis == 1 and array.ndim == 2:
        return array
    start = axis + array.ndim if axis < 0 else axis
    if not 0 <= start < array.ndim:
        raise operator.fail(f"axis {axis} does not exist in a tensor of shape {array.shape}")
    return array.reshape(math.prod(array.shape[:start]), math.prod(array.shape[start:]))


@register_operator(
    "MatMul",
    inputs=(2, 3),
    outputs=1,
    arguments={
        "trans_a": ("bool", False),
        "trans_b": ("bool", False),
        "axis_a": ("int", 1),
        "axis_b": ("int", 1),
    },
    gradient=_matmul_gradient,
)
class MatMulOp(TensorOperator):
    """Y = A B of matrices, each transposed if asked; a third input gives the shape of the result."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.axes = self.argument("axis_a"), self.argument("axis_b")
        self.transposed = bool(self.argument("trans_a")), bool(self.argument("trans_b"))

    def run(self, ws: Workspace) -> None:
        first, second = self.alike(ws, 0, 1, floating=True)
        a = as_matrix(self, first, self.axes[0])
        b = as_matrix(self, second, self.axes[1])
        a = a.T if self.transposed[0] else a
        b = b.T if self.transposed[1] else b
        if a.shape[1] != b.shape[0]:
            raise self.fail(
                f"the inner dimensions differ: {a.shape} times {b.shape}, of tensors of shapes {first.shape} "
                f"and {second.shape}; trans_a, trans_b, axis_a and axis_b say how they are read"
            )
        shape = (a.shape[0], b.shape[1])
        y = self.output(ws, 0, self.tensor(ws, 2).shape if len(self.inputs) == 3 else shape, a.dtype)
        if y.size != math.prod(shape):
            raise self.fail(f"the third input has shape {y.shape}, the product {shape}")
        array_module(ws.device).matmul(a, b, out=y.reshape(shape))


@register_operator(
    "FC",
    inputs=3,
    outputs=1,
    arguments={"axis": ("int", 1), "axis_w": ("int", 1)},
    gradient=_fc_gradient,
)
class FCOp(TensorOperator):
    """Y = X W' + b: X of shape (..., K) from `axis` on, W (N, K), b (N,), Y (..., N)."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x, w, bias = self.alike(ws, 0, 1, 2, floating=True)
        axis = self.argument("axis")
        rows, weights = as_matrix(self, x, axis), as_matrix(self, w, self.argument("axis_w"))
        if rows.shape[1] != weights.shape[1] or bias.shape != (weights.shape[0],):
            raise self.fail(
                f"shapes do not fit: X {x.shape} is read as {rows.shape}, W {w.shape} as {weights.shape}, "
                f"b is {bias.shape}; expected (M, K), (N, K) and (N,)"
            )
        y = self.output(ws, 0, (*x.shape[:axis], weights.shape[0]), x.dtype)
        flat = y.reshape(rows.shape[0], weights.shape[0])
        xp.matmul(rows, weights.T, out=flat)
        xp.add(flat, bias, out=flat)


@register_operator(
    "FCGradient", inputs=3, outputs=(2, 3), arguments={"axis": ("int", 1), "axis_w": ("int", 1)}
)
class FCGradientOp(TensorOperator):
    """[X, W, dY] -> [dW, db] or [dW, db, dX]."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x, w, dy = self.alike(ws, 0, 1, 2, floating=True)
        rows = as_matrix(self, x, self.argument("axis"))
        weights = as_matrix(self, w, self.argument("axis_w"))
        if dy.size != rows.shape[0] * weights.shape[0]:
            raise self.fail(
                f"gradient {self.inputs[2]!r} has shape {dy.shape}, X is {x.shape} and W {w.shape}"
            )
        errors = dy.reshape(rows.shape[0], weights.shape[0])
        xp.matmul(errors.T, rows, out=self.output(ws, 0, w.shape, w.dtype).reshape(weights.shape))
        self.output(ws, 1, (weights.shape[0],), w.dtype)[...] = xp.sum(wide(errors), axis=0)
        if len(self.outputs) == 3:
            xp.matmul(errors, weights, out=self.output(ws, 2, x.shape, x.dtype).reshape(rows.shape))
