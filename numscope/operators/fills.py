"""Operators that make tensors from their arguments; no gradient flows through them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from numscope.operators.registry import register_operator
from numscope.operators.tensors import Shape, TensorOperator, array_module, data_type, read_layout

if TYPE_CHECKING:
    from numscope.operators.definition import Operator
    from numscope.workspace import Workspace

__all__ = ["ConstantFillOp", "GivenTensorFillOp", "GivenTensorInt64FillOp"]


@register_operator(
    "ConstantFill",
    inputs=(0, 1),
    outputs=1,
    in_place=[(0, 0)],
    arguments={
        "shape": ("ints", ()),
        "value": ("number", 0.0),
        "dtype": ("dtype", None),
        "input_as_shape": ("bool", False),
        "extra_shape": ("ints", ()),
    },
    stops_gradient=True,
)
class ConstantFillOp(TensorOperator):
    """A tensor of one value.

    Its shape is the argument's; or that of the input (with `input_as_shape`, the input's values) followed
    by `extra_shape`. Its dtype is the argument's, or float32, or int64 if the value is an integer;
    ``dtype="input"`` takes the input's, and makes an empty blob of an empty one, as the gradient of what
    a branch that was not taken would have made.
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.shape: Shape = self.argument("shape")
        self.extra: Shape = self.argument("extra_shape")
        self.value = self.argument("value")
        self.shape_in_values = bool(self.argument("input_as_shape"))
        if self.inputs and self.shape:
            raise self.fail("shape and an input exclude one another: the input gives the shape")
        if not self.inputs and (self.extra or self.shape_in_values):
            raise self.fail("input_as_shape and extra_shape need an input")
        dtype = self.argument("dtype")
        self.dtype: np.dtype[np.generic] | None
        if dtype == "input":
            if not self.inputs:
                raise self.fail('dtype="input" needs an input')
            self.dtype = None
        elif dtype is None:
            self.dtype = np.dtype(np.float32 if isinstance(self.value, float) else np.int64)
        else:
            self.dtype = data_type(dtype)

    def run(self, ws: Workspace) -> None:
        shape, dtype = self.shape, self.dtype
        if self.inputs:
            if dtype is None and ws[self.inputs[0]] is None:
                self.empty_output(ws, 0)
                return
            like = self.tensor(ws, 0)
            if self.shape_in_values:
                if like.ndim != 1 or like.dtype.kind not in "iu":
                    raise self.fail(
                        "the input is a shape: one dimension of integers; "
                        f"got {like.dtype} of shape {like.shape}"
                    )
                shape = tuple(int(n) for n in like.tolist())
            else:
                shape = like.shape
            shape = (*shape, *self.extra)
            dtype = like.dtype if dtype is None else dtype
        if dtype is None or any(n < 0 for n in shape):
            raise self.fail(f"a shape has no negative lengths, got {shape}")
        self.output(ws, 0, shape, dtype).fill(self.value)


class GivenFillOp(TensorOperator):
    """A tensor of given values, in row-major order."""

    dtype: ClassVar[str]

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        shape, values = self.argument("shape"), self.argument("values")
        if math.prod(shape) != len(values):
            raise self.fail(
                f"{len(values)} values do not fill shape {shape}, which has {math.prod(shape)} elements"
            )
        self.values = np.array(values, self.dtype).reshape(shape)

    def run(self, ws: Workspace) -> None:
        y = self.output(ws, 0, self.values.shape, self.values.dtype)
        if array_module(ws.device) is np:
            np.copyto(y, self.values)
        else:
            y.set(self.values)  # CuPy's copy from the host


@register_operator(
    "GivenTensorFill",
    inputs=0,
    outputs=1,
    arguments={"shape": ("ints", ()), "values": "numbers"},
    stops_gradient=True,
)
class GivenTensorFillOp(GivenFillOp):
    """A float32 tensor of given values."""

    dtype = "float32"


@register_operator(
    "GivenTensorInt64Fill",
    inputs=0,
    outputs=1,
    arguments={"shape": ("ints", ()), "values": "ints"},
    stops_gradient=True,
)
class GivenTensorInt64FillOp(GivenFillOp):
    """An int64 tensor of given values."""

    dtype = "int64"


@register_operator("LayoutFill", inputs=1, outputs=1, stops_gradient=True)
class LayoutFillOp(TensorOperator):
    """Zeros of the layout that a vector tells: what a `Do` keeps of a tensor whose values are not needed."""

    def run(self, ws: Workspace) -> None:
        if ws[self.inputs[0]] is None:
            self.empty_output(ws, 0)
            return
        shape, dtype = read_layout(self.tensor(ws, 0))
        self.output(ws, 0, shape, dtype).fill(0)
