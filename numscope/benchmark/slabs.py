"""The memory of one set: three slabs with the same layout, and the views that competitors work on."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from numscope import kernels
from numscope.arena import Arena
from numscope.benchmark.sets import Shape
from numscope.workspace import Workspace

__all__ = ["HAS_TORCH", "Slabs"]

HAS_TORCH = importlib.util.find_spec("torch") is not None
_WINDOW = 1 << 16  # elements of a blob that are compared
_MULTIPLE = 64  # elements: every blob begins at a multiple of it, in each slab at the same one
_DTYPES = {"a": "float32", "g": "float32", "b": "bfloat16", "h": "float16", "t": "float32"}


class Slabs:
    """An accumulator ``a``, gradients ``g`` (also as bfloat16 ``b`` and float16 ``h``), a temporary ``t``.

    For each there are the arrays (``arrays["a"]``), the flat slab they lie in (``flat["a"]``), their
    pieces, without and with the padding behind each (``padded``), and the same as PyTorch tensors. They
    are blobs of one workspace; all values are random, because memory of zeros is faster to write on some
    processors.
    """

    def __init__(self, shapes: list[Shape]):
        sizes = [math.prod(shape) for shape in shapes]
        starts = np.cumsum([0, *(-(-size // _MULTIPLE) * _MULTIPLE for size in sizes)]).tolist()
        length = starts[-1]
        arena = Arena(18 * length + (8 << 20))
        self._workspace = Workspace(arena=arena)
        self.flat: dict[str, NDArray[Any]] = {
            name: self._workspace.empty(name, length, dtype) for name, dtype in _DTYPES.items()
        }
        places = list(zip(shapes, starts, sizes, strict=False))
        self.arrays: dict[str, list[NDArray[Any]]] = {
            name: [slab[start : start + size].reshape(shape) for shape, start, size in places]
            for name, slab in self.flat.items()
        }
        self._ends = [(start, start + size) for _, start, size in places]
        self.pieces = {name: kernels.Pieces.of(arrays) for name, arrays in self.arrays.items()}
        room = np.diff(starts)
        self.padded = {
            name: kernels.Pieces(pieces.addresses, room, pieces.dtype) for name, pieces in self.pieces.items()
        }
        self.tensors: dict[str, list[Any]] = {}
        self.flat_tensors: dict[str, Any] = {}
        draw = np.random.default_rng(0)
        first = draw.standard_normal(length, np.float32) * np.float32(1e-3)
        second = draw.standard_normal(length, np.float32) * np.float32(1e-3)
        for (_, end), following in zip(
            self._ends, starts[1:], strict=True
        ):  # a flat norm is that of the blobs
            first[end:following] = second[end:following] = 0
        self._masters = {"a": first, "g": second, "t": first}
        self._masters |= {"b": second.astype(ml_dtypes.bfloat16), "h": second.astype(np.float16)}
        self.restore()
        if HAS_TORCH:
            self._add_tensors()

    def _add_tensors(self) -> None:
        import torch

        for name, arrays in self.arrays.items():
            views = [*arrays, self.flat[name]]
            if name == "b":
                tensors = [torch.from_numpy(view.view(np.int16)).view(torch.bfloat16) for view in views]
            else:
                tensors = [torch.from_numpy(view) for view in views]
            self.flat_tensors[name] = tensors.pop()
            self.tensors[name] = tensors

    def restore(self, *names: str) -> None:
        """Give slabs their first values again, by default all."""
        for name in names or self._masters:
            kernels.copy(self.flat[name], self._masters[name])

    def windows(self, name: str) -> NDArray[np.float64]:
        """Return the last values of some blobs all over a slab, as float64."""
        return self._parts(self.flat[name])

    def first_windows(self, name: str) -> NDArray[np.float64]:
        """Return the first values at the same places."""
        return self._parts(self._masters[name])

    def _parts(self, slab: NDArray[Any]) -> NDArray[np.float64]:
        chosen = np.linspace(0, len(self._ends) - 1, 12).astype(int)
        parts = []
        for start, end in (self._ends[number] for number in chosen):
            parts.append(slab[max(start, end - _WINDOW) : end])
        return np.concatenate(parts).astype(np.float64)

    def exact_norm(self, name: str) -> float:
        """Return the norm of all blobs of one kind, in float64."""
        return math.sqrt(
            sum(float(np.vdot(x := array.astype("f8").ravel(), x)) for array in self.arrays[name])
        )
