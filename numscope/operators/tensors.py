"""What the mathematical operators share: their inputs as arrays, their outputs in the arena, broadcasting."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numscope.errors import BlobTypeError, OperatorError
from numscope.operators.registry import CompiledOperator
from numscope.types import is_known_type, known_dtype, register_known_type

if TYPE_CHECKING:
    from types import ModuleType

    from numscope.operators.definition import Operator
    from numscope.workspace import Workspace

__all__ = [
    "BROADCAST",
    "FLOATING",
    "Array",
    "BroadcastingOperator",
    "Shape",
    "TensorLayout",
    "TensorOperator",
    "array_module",
    "broadcast",
    "check_indices",
    "data_type",
    "sum_to",
    "wide",
]

Array = Any  # a numpy.ndarray or a cupy.ndarray
Shape = tuple[int, ...]

FLOATING = frozenset(known_dtype(t) for t in ("float16", "float32", "float64", "bfloat16"))
BROADCAST: dict[str, Any] = {"broadcast": ("bool", False), "axis": ("int", -1)}  # arguments of `broadcast`


class TensorLayout(NamedTuple):
    """The shape and dtype of a tensor: what a `Do` keeps of one whose values its gradient does not need.

    A value of a blob that takes no room in an arena, and that is known without a wait for the device.
    """

    shape: Shape
    dtype: np.dtype[Any]


register_known_type(TensorLayout)

# TensorProto.DataType of Caffe2; the others (STRING, ZERO_COLLISION_HASH, ...) are no dtypes.
DATA_TYPES = {
    1: "float32",
    2: "int32",
    3: "uint8",
    5: "bool",
    6: "uint8",
    7: "int8",
    8: "uint16",
    9: "int16",
    10: "int64",
    12: "float16",
    13: "float64",
}
# Its names in text mean other types than NumPy's of the same name.
DATA_TYPE_NAMES = {"float": "float32", "byte": "uint8"}


@functools.cache
def array_module(device: str) -> ModuleType:
    """Return the array library of a device: numpy for the host, cupy for CUDA.

    This is the one door through which operators get CuPy, which need not be installed.
    """
    return importlib.import_module("cupy") if device.startswith("cuda") else np


class TensorOperator(CompiledOperator):
    """An operator on tensors."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.inputs = definition.inputs
        self.outputs = definition.outputs

    def data_type(self, key: str) -> np.dtype[Any]:
        """Return the dtype that an argument stands for."""
        try:
            return data_type(self.argument(key))
        except OperatorError as error:
            raise self.fail(f"argument {key!r}: {error}") from None

    def tensor(self, ws: Workspace, i: int) -> Array:
        """Return input `i`, which must be a tensor.

        Raises
        ------
        OperatorError
            The blob was removed since the net was built.
        BlobTypeError
            It holds no tensor.
        """
        name = self.inputs[i]
        blob = ws.get_blob(name)
        if blob is None:
            raise OperatorError(
                f"{self.definition!r}: input blob {name!r} does not exist any more; feed it, or run what "
                "makes it"
            )
        if not blob.is_tensor:
            kind = "is empty" if blob.type is None else f"holds a {blob.type.name}"
            raise BlobTypeError(f"{self.definition!r}: input {name!r} must be a tensor, but {kind}")
        return blob.value

    def layout(self, ws: Workspace, i: int) -> Array | TensorLayout:
        """Return input `i` for its shape and dtype: a tensor, or the layout of one."""
        blob = ws.get_blob(self.inputs[i])
        if blob is not None and type(value := blob.value) is TensorLayout:
            return value
        return self.tensor(ws, i)

    def floating(self, ws: Workspace, i: int) -> Array:
        """Return input `i`, which must be a tensor of floating point numbers."""
        array = self.tensor(ws, i)
        if array.dtype not in FLOATING:
            raise BlobTypeError(
                f"{self.definition!r}: input {self.inputs[i]!r} must be floating point, got {array.dtype}; "
                "Cast converts it"
            )
        return array

    def alike(self, ws: Workspace, *positions: int, floating: bool = False) -> list[Array]:
        """Return some inputs, which must be tensors of one dtype, and that of floating point if so told."""
        first = self.floating(ws, positions[0]) if floating else self.tensor(ws, positions[0])
        arrays = [first]
        for i in positions[1:]:
            array = self.tensor(ws, i)
            if array.dtype != first.dtype:
                raise BlobTypeError(
                    f"{self.definition!r}: inputs {self.inputs[positions[0]]!r} and {self.inputs[i]!r} must "
                    f"be of one dtype, got {first.dtype} and {array.dtype}; Cast converts one of them"
                )
            arrays.append(array)
        return arrays

    def output(self, ws: Workspace, j: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Return output `j` as an array of a shape and dtype: the memory of the last run, if these fit."""
        name = self.outputs[j]
        blob = ws.create_blob(name)
        if blob is None:
            raise OperatorError(
                f"{self.definition!r}: output {name!r} is bound to a blob that its parent workspace no "
                "longer has"
            )
        array = blob.tensor(shape, dtype)
        if array is None:
            blob.value  # noqa: B018 - raises: the device has no memory to compute in
        return array

    def empty_output(self, ws: Workspace, j: int) -> None:
        """Empty output `j`, as the input that it follows is empty."""
        blob = ws.get_blob(self.outputs[j])
        if blob is not None:
            blob.reset()

    def fail(self, text: str) -> OperatorError:
        """Return an error that begins with this operator."""
        return OperatorError(f"{self.definition!r}: {text}")


class BroadcastingOperator(TensorOperator):
    """An operator on two tensors of one dtype that are broadcast to one shape."""

    def operands(self, ws: Workspace) -> tuple[Array, Array, Shape]:
        """Return both inputs ready to be combined, and the shape of the result.

        Raises
        ------
        BlobTypeError
            They are no tensors of one dtype.
        OperatorError
            Their shapes do not fit, or one that is overwritten does not have the result's.
        """
        first, second = self.alike(ws, 0, 1)
        a, b, shape = broadcast(self, first, second)
        for name, operand in zip(self.inputs, (first, second), strict=True):
            if name == self.outputs[0] and operand.shape != shape:
                raise self.fail(
                    f"in-place output {name!r} has shape {operand.shape}, the result has {shape}; "
                    "give the output another name"
                )
        return a, b, shape


def data_type(value: int | str) -> np.dtype[Any]:
    """Return the dtype of a ``dtype`` or ``to`` argument.

    That is a number or name of Caffe2's TensorProto.DataType (``"float"`` is float32 and ``"byte"`` uint8),
    or a dtype's name.

    Raises
    ------
    OperatorError
        It is none that a tensor can have.
    """
    if isinstance(value, int):
        name = DATA_TYPES.get(value)
    else:
        name = DATA_TYPE_NAMES.get(value.lower(), value.lower())
    if name is not None and is_known_type(name):
        return known_dtype(name)
    raise OperatorError(
        f"no tensor type {value!r}; expected a dtype's name or one of Caffe2's numbers {DATA_TYPES}"
    )


def broadcast(operator: TensorOperator, a: Array, b: Array) -> tuple[Array, Array, Shape]:
    """Return two arrays ready to be combined, and the shape of the result.

    NumPy's rule; with the argument ``broadcast=1`` Caffe2's older one: the result has the shape of `a`, and
    `b` is aligned with its dimensions from ``axis`` on (-1: with the last ones). Without it, `axis` has no
    effect, as in Caffe2.

    Raises
    ------
    OperatorError
        The shapes do not fit.
    """
    if a.shape == b.shape:
        return a, b, a.shape
    arguments = operator.definition.args
    if arguments.get("broadcast"):
        if b.size == 1:
            return a, b.reshape(()), a.shape
        axis = arguments.get("axis", -1)
        start = a.ndim - b.ndim if axis == -1 else axis
        # Lengths of 1 are stretched at either end of b's shape, but not between others.
        long = [i for i, n in enumerate(b.shape) if n != 1]
        inner = slice(long[0], long[-1] + 1)
        if not 0 <= start <= a.ndim - b.ndim or a.shape[start:][inner] != b.shape[inner]:
            raise operator.fail(
                f"shape {b.shape} of the second input does not fit {a.shape} of the first "
                f"from dimension {start} on"
            )
        return a, b.reshape(b.shape + (1,) * (a.ndim - start - b.ndim)), a.shape
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise operator.fail(
            f"shapes {a.shape} and {b.shape} cannot be broadcast together; they must agree, or be 1, "
            "in each dimension from the last on"
        ) from None
    return a, b, shape


def check_indices(operator: TensorOperator, what: str, indices: Array, length: int) -> None:
    """Check that integers lie in 0 to ``length - 1``; one wait for a device.

    Raises
    ------
    OperatorError
        One does not.
    """
    if indices.size == 1:  # of a loop that goes through rows: 40 ns instead of 5 us
        fits = 0 <= indices.item() < length
    else:
        fits = not bool(((indices < 0) | (indices >= length)).any())
    if not fits:
        low, high = int(indices.min()), int(indices.max())
        raise operator.fail(f"{what} must lie in 0..{length - 1}, got {low}..{high}")


def sum_to(xp: ModuleType, gradient: Array, out: Array, aligned: Shape | None = None) -> None:
    """Sum a gradient over the dimensions in which an operand was broadcast.

    Parameters
    ----------
    xp : module
    gradient : array
        Of the broadcast shape.
    out : array
        Of the operand's shape; overwritten.
    aligned : tuple of int, optional
        The operand's shape as it entered the broadcast, if it was reshaped for that.
    """
    shape = out.shape if aligned is None else aligned
    if gradient.shape == shape:
        xp.copyto(out, gradient.reshape(out.shape))
        return
    extra = gradient.ndim - len(shape)
    axes = (
        *range(extra),
        *(extra + i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1),
    )
    terms = wide(gradient)
    out[...] = xp.sum(terms, axis=axes, keepdims=True, dtype=terms.dtype).reshape(out.shape)


def wide(array: Array) -> Array:
    """Return an array that can be summed: float32 for half precision.

    NumPy adds bfloat16 one by one in bfloat16, which stops at 256: there the next number is 258.
    """
    return array.astype(np.float32) if array.dtype.itemsize == 2 and array.dtype in FLOATING else array
