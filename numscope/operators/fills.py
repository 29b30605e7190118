"""Operators that make tensors from their arguments; no gradient flows through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numscope.operators.registry import register_operator
from numscope.operators.tensors import Shape, TensorOperator, array_module

if TYPE_CHECKING:
    from numscope.operators.definition import Operator
    from numscope.workspace import Workspace

__all__ = ["ConstantFillOp", "GivenTensorFillOp", "GivenTensorInt64FillOp"]

INT64 = np.dtype(np.int64)
SHAPE: dict[str, Any] = {
    "shape": ("ints", ()),
    "input_as_shape": ("bool", False),
    "extra_shape": ("ints", ()),
}


class FillOp(TensorOperator):
    """A tensor whose shape is the argument's, or that of the input, followed by `extra_shape`.

    With `input_as_shape` the input's values are the shape.
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.shape: Shape = self.argument("shape")
        self.extra: Shape = self.argument("extra_shape")
        self.shape_in_values = bool(self.argument("input_as_shape"))
        if self.inputs and self.shape:
            raise self.fail("shape and an input exclude one another: the input gives the shape")
        if not self.inputs and (self.extra or self.shape_in_values):
            raise self.fail("input_as_shape and extra_shape need an input")
        self._check_lengths(self.shape)

    def wanted_shape(self, ws: Workspace) -> Shape:
        """Return the shape that the output shall have."""
        if not self.inputs:
            return self.shape
        if not self.shape_in_values:
            return (*self.layout(ws, 0).shape, *self.extra)
        like = self.tensor(ws, 0)
        if like.ndim != 1 or not like.size or like.dtype != INT64:
            raise self.fail(
                f"the input is a shape: a vector of int64, not empty; got {like.dtype} of shape {like.shape}"
            )
        shape = (*(int(n) for n in like.tolist()), *self.extra)
        self._check_lengths(shape)
        return shape

    def _converted(self, values: Sequence[float], dtype: np.dtype[np.generic]) -> np.ndarray[Any, Any]:
        """Return values as an array; they must be whole numbers if the dtype holds only such."""
        if dtype.kind in "iub":
            for value in values:
                if not float(value).is_integer():
                    raise self.fail(f"{dtype.name} cannot hold value {value}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, as in Caffe2
            return np.array(values, dtype)

    def _check_lengths(self, shape: Shape) -> None:
        if any(n < 0 for n in shape):
            raise self.fail(f"a shape has no negative lengths, got {shape}")


@register_operator(
    "ConstantFill",
    inputs=(0, 1),
    outputs=1,
    in_place=[(0, 0)],
    arguments={**SHAPE, "value": ("number", 0.0), "dtype": ("dtype", None)},
    stops_gradient=True,
)
class ConstantFillOp(FillOp):
    """A tensor of one value.

    Its dtype is the argument's, or float32, or int64 if the value is an integer; ``dtype="input"`` takes
    the input's, and makes an empty blob of an empty one, as the gradient of what a branch that was not
    taken would have made.
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.value = self.argument("value")
        dtype = self.argument("dtype")
        self.dtype: np.dtype[np.generic] | None
        if dtype == "input":
            if not self.inputs:
                raise self.fail('dtype="input" needs an input')
            self.dtype = None
        elif dtype is None:
            self.dtype = np.dtype(np.float32 if isinstance(self.value, float) else np.int64)
        else:
            self.dtype = self.data_type("dtype")
            self._converted([self.value], self.dtype)

    def run(self, ws: Workspace) -> None:
        dtype = self.dtype
        if dtype is None:
            if ws[self.inputs[0]] is None:
                self.empty_output(ws, 0)
                return
            dtype = self.layout(ws, 0).dtype
        self.output(ws, 0, self.wanted_shape(ws), dtype).fill(self.value)


class GivenFillOp(FillOp):
    """A tensor of given values, in row-major order."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.dtype = self.data_type("dtype")
        self.values = self._converted(self.argument("values"), self.dtype)
        if not self.inputs:
            self._check_size(self.shape)

    def run(self, ws: Workspace) -> None:
        shape = self.wanted_shape(ws)
        if self.inputs:
            self._check_size(shape)
        values = self.values.reshape(shape)
        y = self.output(ws, 0, shape, values.dtype)
        if array_module(ws.device) is np:
            np.copyto(y, values)
        else:
            y.set(values)  # CuPy's copy from the host

    def _check_size(self, shape: Shape) -> None:
        if math.prod(shape) != self.values.size:
            raise self.fail(
                f"{self.values.size} values do not fill shape {shape}, which has {math.prod(shape)} elements"
            )


@register_operator(
    "GivenTensorFill",
    inputs=(0, 1),
    outputs=1,
    in_place=[(0, 0)],
    arguments={**SHAPE, "values": "numbers", "dtype": ("dtype", "float32")},
    stops_gradient=True,
)
class GivenTensorFillOp(GivenFillOp):
    """A tensor of given values, of float32 unless `dtype` says otherwise."""


@register_operator(
    "GivenTensorInt64Fill",
    inputs=(0, 1),
    outputs=1,
    in_place=[(0, 0)],
    arguments={**SHAPE, "values": "ints", "dtype": ("dtype", "int64")},
    stops_gradient=True,
)
class GivenTensorInt64FillOp(GivenFillOp):
    """An int64 tensor of given values."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        if self.dtype != INT64:
            raise self.fail(f"dtype can only be int64, got {self.dtype}; GivenTensorFill makes others")
