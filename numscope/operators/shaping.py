"""Operators that rearrange elements: Reshape, Concat, Split, Slice, Gather."""

from __future__ import annotations

import math
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from numscope import kernels
from numscope.errors import BlobTypeError
from numscope.operators.definition import Operator
from numscope.operators.registry import register_operator
from numscope.operators.tensors import (
    Array,
    Shape,
    TensorLayout,
    TensorOperator,
    array_module,
    check_indices,
)

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientContext
    from numscope.workspace import Workspace

__all__ = [
    "BatchGatherGradientOp",
    "ConcatOp",
    "GatherGradientOp",
    "GatherOp",
    "ReshapeOp",
    "SliceGradientOp",
    "SliceOp",
    "SparseToDenseOp",
    "SplitOp",
]

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)


def _reshape_gradient(context: GradientContext) -> list[Operator]:
    made = context.input_gradient(0)
    read = [context.output_gradient(0), context.output(1)]
    return [Operator("Reshape", read, [made, f"_{made}_dims"], is_gradient_op=True)]


def _concat_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    made = [context.input_gradient(i) for i in range(len(forward.inputs))]
    read = [context.output_gradient(0), context.output(1)]
    return [Operator("Split", read, made, is_gradient_op=True, **forward.args)]


def _slice_gradient(context: GradientContext) -> list[Operator]:
    forward = context.operator
    read = [context.input_layout(0)]
    read += [context.input(i) for i in range(1, len(forward.inputs))]
    read += [context.output_gradient(0)]
    return [Operator("SliceGradient", read, [context.input_gradient(0)], is_gradient_op=True, **forward.args)]


def _gather_gradient(context: GradientContext) -> list[Operator]:
    read = [context.input_layout(0), context.input(1), context.output_gradient(0)]
    made = [context.input_gradient(0)]
    return [Operator("GatherGradient", read, made, is_gradient_op=True, **context.operator.args)]


def integers(operator: TensorOperator, ws: Workspace, i: int) -> Array:
    """Return input `i`, which must be a tensor of integers."""
    array = operator.tensor(ws, i)
    if array.dtype.kind not in "iu":
        raise BlobTypeError(
            f"{operator.definition!r}: {operator.inputs[i]!r} must be integers, got {array.dtype}"
        )
    return array


@register_operator(
    "Reshape",
    inputs=(1, 2),
    outputs=2,
    in_place=[(0, 0)],
    arguments={"shape": ("ints", None)},
    gradient=_reshape_gradient,
)
class ReshapeOp(TensorOperator):
    """[X] or [X, shape] -> [Y, old shape]: 0 keeps a dimension of X, one -1 takes what is left."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.shape = self.argument("shape")
        if (self.shape is None) == (len(self.inputs) == 1):
            raise self.fail("expected one shape: the argument shape= or a second input")

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x = self.tensor(ws, 0)
        wanted, dtype = self.shape, INT64
        if wanted is None:
            given = integers(self, ws, 1)
            if given.ndim != 1:
                raise self.fail(f"the new shape must have one dimension, got shape {given.shape}")
            wanted, dtype = tuple(given.tolist()), given.dtype
        shape = self.resolve(x, wanted)
        y = self.output(ws, 0, shape, x.dtype)
        if y is not x:
            xp.copyto(y, x.reshape(shape))
        old = self.output(ws, 1, (x.ndim,), dtype)
        if x.ndim:
            old[...] = xp.asarray(x.shape, dtype)

    def resolve(self, x: Array, wanted: Shape) -> Shape:
        """Return the shape that is meant by one with zeros and at most one -1."""
        if any(n < -1 for n in wanted) or wanted.count(-1) > 1:
            raise self.fail(f"a shape has lengths, zeros and at most one -1, got {wanted}")
        shape = wanted
        if x.size:  # of an empty tensor, 0 is a length: its gradient gets back any old shape
            if any(n == 0 and i >= x.ndim for i, n in enumerate(wanted)):
                raise self.fail(f"shape {wanted} copies a dimension that {x.shape} does not have")
            shape = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(wanted))
        if -1 in shape:
            # Copied lengths cancel out, which tells the rest also of a batch without examples.
            size = math.prod(n for i, n in enumerate(x.shape) if i >= len(wanted) or wanted[i] != 0)
            rest = math.prod(n for n in wanted if n > 0)
            if size % rest == 0:
                shape = tuple(size // rest if n == -1 else n for n in shape)
        if -1 in shape or math.prod(shape) != x.size:
            raise self.fail(f"{x.size} elements of shape {x.shape} do not fit shape {wanted}")
        return shape


JOIN: dict[str, Any] = {"axis": ("int", None), "add_axis": ("bool", False), "order": ("str", "NCHW")}


class JoiningOp(TensorOperator):
    """What Concat and Split share: an axis, which is that of the channels in `order` if it is not given."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        order = self.argument("order").upper()
        if order not in ("NCHW", "NHWC"):
            raise self.fail(f"order must be 'NCHW' or 'NHWC', got {self.argument('order')!r}")
        axis = self.argument("axis")
        if axis is not None and "order" in definition.args:
            raise self.fail("axis and order exclude one another: order stands for the axis of its C")
        self.given_axis: int = order.index("C") if axis is None else axis

    def axis_of(self, dimensions: int) -> int:
        """Return the axis, counted from the first of some dimensions."""
        axis = self.given_axis + dimensions if self.given_axis < 0 else self.given_axis
        if not 0 <= axis < dimensions:
            raise self.fail(f"axis {self.given_axis} does not exist in a tensor of {dimensions} dimensions")
        return axis


@register_operator("Concat", inputs=(1, None), outputs=2, arguments=JOIN, gradient=_concat_gradient)
class ConcatOp(JoiningOp):
    """[X0, X1, ...] -> [Y, lengths along the axis]; with `add_axis` along a new axis."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        parts = [self.tensor(ws, i) for i in range(len(self.inputs))]
        adds = bool(self.argument("add_axis"))
        axis = self.axis_of(parts[0].ndim + adds)
        if adds:
            parts = [xp.expand_dims(part, axis) for part in parts]
        first = parts[0]
        for i, part in enumerate(parts):
            around = (*part.shape[:axis], first.shape[axis], *part.shape[axis + 1 :])
            if part.ndim != first.ndim or around != first.shape or part.dtype != first.dtype:
                raise self.fail(
                    f"{self.inputs[i]!r} is {part.dtype}{list(part.shape)}, which does not fit "
                    f"{first.dtype}{list(first.shape)} outside of axis {axis}"
                )
        length = sum(part.shape[axis] for part in parts)
        shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
        xp.concatenate(parts, axis=axis, out=self.output(ws, 0, shape, first.dtype))
        self.output(ws, 1, (len(parts),), INT32)[...] = xp.asarray([p.shape[axis] for p in parts], INT32)


@register_operator("Split", inputs=2, outputs=(1, None), arguments=JOIN)
class SplitOp(JoiningOp):
    """[Y, lengths] -> [X0, X1, ...]: the inverse of Concat, and its gradient."""

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        y = self.tensor(ws, 0)
        lengths = [int(n) for n in integers(self, ws, 1).tolist()]
        axis = self.axis_of(y.ndim)
        if len(lengths) != len(self.outputs) or min(lengths) < 0 or sum(lengths) != y.shape[axis]:
            raise self.fail(f"lengths {lengths} do not divide axis {axis} of shape {y.shape}")
        start = 0
        before = (slice(None),) * axis
        for j, length in enumerate(lengths):
            part = y[(*before, slice(start, start + length))]
            start += length
            if self.argument("add_axis"):
                part = part.squeeze(axis)
            xp.copyto(self.output(ws, j, part.shape, y.dtype), part)


class SlicingOp(TensorOperator):
    """What Slice and its gradient share."""

    tensors: ClassVar[int]  # inputs beside the starts and ends

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        windows = len(self.inputs) - self.tensors
        given = self.argument("starts") is not None and self.argument("ends") is not None
        if windows not in (0, 2) or given == (windows == 2):
            raise self.fail("expected starts and ends, both as arguments or both as inputs")

    def places(self, ws: Workspace, i: int) -> Shape:
        """Return input `i`: the starts or the ends."""
        places = integers(self, ws, i)
        if places.ndim != 1:
            raise self.fail(f"starts and ends have one dimension, got shape {places.shape}")
        return tuple(places.tolist())

    def window(self, ws: Workspace, shape: Shape) -> tuple[slice | EllipsisType, ...]:
        """Return the slices; negative starts and ends count from the length plus one, as in Caffe2."""
        if len(self.inputs) > self.tensors:
            starts, ends = self.places(ws, 1), self.places(ws, 2)
        else:
            starts, ends = self.argument("starts"), self.argument("ends")
        if len(starts) != len(ends) or len(starts) > len(shape):
            raise self.fail(f"starts {starts} and ends {ends} do not fit a tensor of shape {shape}")
        window: list[slice | EllipsisType] = []
        for start, end, length in zip(starts, ends, shape, strict=False):
            first = min(start + length + 1 if start < 0 else start, length)
            last = min(end + length + 1 if end < 0 else end, length)
            if not length:
                first = last = 0  # whatever was asked for, as in Caffe2
            if not 0 <= first <= last:
                raise self.fail(f"the slice {start}:{end} of {length} elements is not a range")
            window.append(slice(first, last))
        return (*window, ...)  # with the ellipsis it is a view also of a tensor without dimensions


SLICE: dict[str, Any] = {"starts": ("ints", None), "ends": ("ints", None)}


@register_operator("Slice", inputs=(1, 3), outputs=1, arguments=SLICE, gradient=_slice_gradient)
class SliceOp(SlicingOp):
    """Y = X[starts:ends]; these are arguments, or the second and third input. An end of -1 is the length."""

    tensors = 1

    def run(self, ws: Workspace) -> None:
        x = self.tensor(ws, 0)
        part = x[self.window(ws, x.shape)]
        array_module(ws.device).copyto(self.output(ws, 0, part.shape, x.dtype), part)


@register_operator("SliceGradient", inputs=(2, 4), outputs=1, arguments=SLICE)
class SliceGradientOp(SlicingOp):
    """[X, (starts, ends,) dY] -> dX: dY in the slice, 0 around it."""

    tensors = 2

    def run(self, ws: Workspace) -> None:
        xp = array_module(ws.device)
        x, dy = self.layout(ws, 0), self.tensor(ws, len(self.inputs) - 1)
        window = self.window(ws, x.shape)
        dx = self.output(ws, 0, x.shape, x.dtype)
        dx.fill(0)
        xp.copyto(dx[window], dy)


# A dense gradient must be asked for in Caffe2; here there is no other one.
GATHER: dict[str, Any] = {"axis": ("int", 0), "dense_gradient": ("bool", True)}


class GatheringOp(TensorOperator):
    """What Gather and its gradient share."""

    position: ClassVar[int] = 1  # of the indices

    def place(self, ws: Workspace, shape: Shape) -> tuple[Array, int]:
        """Return the indices, which must lie in data of a shape, and the axis that they count along."""
        indices = integers(self, ws, self.position)
        axis = self.argument("axis")
        axis = axis + len(shape) if axis < 0 else axis
        if not 0 <= axis < len(shape):
            raise self.fail(f"axis {self.argument('axis')} does not exist in data of shape {shape}")
        if math.prod(shape[:axis]) * math.prod(shape[axis + 1 :]):  # else nothing is looked up
            check_indices(self, "indices", indices, shape[axis])
        return indices, axis


@register_operator("Gather", inputs=2, outputs=1, arguments=GATHER, gradient=_gather_gradient)
class GatherOp(GatheringOp):
    """[data, indices] -> data at the indices along an axis: data[indices] for axis 0."""

    def run(self, ws: Workspace) -> None:
        data = self.tensor(ws, 0)
        indices, axis = self.place(ws, data.shape)
        shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
        y = self.output(ws, 0, shape, data.dtype)
        if not y.size:
            return
        # The range is checked above; NumPy's default mode would go through a buffer (CuPy has no modes).
        xp = array_module(ws.device)
        xp.take(data, indices, axis=axis, out=y, **({"mode": "clip"} if xp is np else {}))


@register_operator("GatherGradient", inputs=3, outputs=1, arguments=GATHER)
class GatherGradientOp(GatheringOp):
    """[data, indices, dY] -> a dense gradient of the data; repeated indices add up."""

    def run(self, ws: Workspace) -> None:
        self.scatter(ws, self.layout(ws, 0), self.tensor(ws, 2))

    def scatter(self, ws: Workspace, data: Array | TensorLayout, dy: Array) -> None:
        """Write the gradient of data of some layout."""
        xp = array_module(ws.device)
        indices, axis = self.place(ws, data.shape)
        if dy.shape != (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]):
            raise self.fail(
                f"a gradient of shape {dy.shape} does not fit data of shape {data.shape} and indices of "
                f"shape {indices.shape}"
            )
        gradient = self.output(ws, 0, data.shape, data.dtype)
        gradient.fill(0)
        if not gradient.size:
            return
        # The kernel adds rows, in order and on every device alike: the axis goes to the front.
        first = gradient if axis == 0 else xp.zeros_like(xp.moveaxis(gradient, axis, 0), order="C")
        counted = tuple(range(indices.ndim))
        rows = xp.moveaxis(dy, tuple(axis + i for i in counted), counted)
        width = gradient.size // data.shape[axis]
        kernels.scatter_add(
            first.reshape(-1, width), indices.reshape(-1), xp.ascontiguousarray(rows).reshape(-1, width)
        )
        if axis:
            xp.copyto(gradient, xp.moveaxis(first, 0, axis))


@register_operator("BatchGatherGradient", inputs=3, outputs=1, arguments={**GATHER, "axis": ("int", 1)})
class BatchGatherGradientOp(GatherGradientOp):
    """GatherGradient by the name that it has in Caffe2's nets, along another axis than the first."""


@register_operator("SparseToDense", inputs=3, outputs=1, arguments=GATHER)
class SparseToDenseOp(GatherGradientOp):
    """[indices, dY, data] -> the gradient of the data, as Caffe2's nets have it along the first axis."""

    position = 0

    def run(self, ws: Workspace) -> None:
        self.scatter(ws, self.layout(ws, 2), self.tensor(ws, 1))
