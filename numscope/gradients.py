"""Gradient accumulation: one slab of memory, one pass a micro-batch, a ledger of weights.

The order of a step is ``add`` (once a micro-batch), ``finish``, use, ``reset``. The mark "nothing was
added here yet" belongs to each blob, not to a loop index: the first addition overwrites, so that `reset`
touches no memory and no old bit, a NaN for instance, comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from numscope import kernels
from numscope.arena import Arena
from numscope.blob import as_shape
from numscope.errors import (
    AccumulationError,
    BindingError,
    BlobNotFoundError,
    UnknownTypeError,
)
from numscope.exclusive import Exclusive
from numscope.types import known_dtype
from numscope.workspace import Workspace

__all__ = ["GradientAccumulator", "GradientStats"]

ACCUMULATORS = ("float32", "float64")
GRADIENTS = ("float16", "bfloat16", "float32", "float64")

Sources = dict[str, Any]
Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class GradientStats:
    """What `GradientAccumulator.finish` found.

    Attributes
    ----------
    norm : float
        The L2 norm of all gradients after mean and unscale, before clipping. With nonfinite elements it is
        inf, or NaN where one of them is.
    nonfinite : int
        Elements that are NaN or infinite.
    weight : float
        The total weight of the micro-batches that were added.
    micro_batches, skipped : int
        How many were added, and how many left out because of nonfinite elements.
    clip_coefficient : float
        What the gradients were multiplied by so that their norm is at most ``max_norm``: at most 1.
    """

    norm: float
    nonfinite: int
    weight: float
    micro_batches: int
    skipped: int
    clip_coefficient: float


class GradientAccumulator(Mapping[str, Any]):
    """Sums of gradients over micro-batches, in one contiguous piece of an arena for each dtype.

    Parameters
    ----------
    tensors : mapping
        Name -> shape, or an array whose shape is meant, or ``(shape, dtype)``.
    dtype : dtype, default "float32"
        Of the sums where `tensors` says nothing else: float32 or float64. Gradients may be float16,
        bfloat16, float32 or float64 whatever it is.
    device : str, optional
        Whose default arena to use; default ``"cpu"``.
    arena : Arena, optional
        Where to put the sums instead.
    reduction : {"mean", "sum"}
        ``"mean"``: each gradient is the mean over its micro-batch and its weight is what it was averaged
        over (tokens, examples); `add` sums ``weight * gradient``. ``"sum"``: each is the gradient of a
        summed loss, added as it is; its weight enters the ledger only. With either, `finish` divides by
        the total weight, which gives the gradient of one big batch.

    Raises
    ------
    ArenaExhausted, BindingError, BlobTypeError, DeviceUnavailableError, UnknownTypeError
        Too little room, a shape or `reduction` that is none, another dtype, or device.

    Examples
    --------
    >>> acc = GradientAccumulator({"w": (2,)})
    >>> acc.add({"w": [1.0, 2.0]}, weight=3)
    >>> acc.add({"w": [5.0, 6.0]}, weight=1)
    >>> stats = acc.finish()
    >>> acc["w"]
    array([2., 3.], dtype=float32)
    """

    def __init__(
        self,
        tensors: Mapping[str, Any],
        *,
        dtype: DTypeLike = "float32",
        device: str | None = None,
        arena: Arena | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise BindingError(f'reduction must be "mean" or "sum", got {reduction!r}')
        default = known_dtype(dtype)
        self._layout = {name: _parse(name, value, default) for name, value in tensors.items()}
        self._workspace = Workspace(arena=arena, device=device, name="gradients")
        self._workspace.allocate(self._layout)
        self._workspace.zero()  # the padding too, which is seen through `flat`
        self._reduction = reduction
        self._guard = Exclusive("a gradient accumulator")
        self._recent: tuple[list[Any], list[Call]] | None = None
        self.reset()

    # The mapping protocol

    def __getitem__(self, name: str) -> Any:
        """Return the array of a name: zeros before the first addition, final after `finish`."""
        if name not in self._layout:
            raise BlobNotFoundError(f"no gradient {name!r}; expected one of {_listed(self._layout)}")
        self._write_zeros([name])
        return self._workspace[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    # A Mapping compares its items, and arrays have no truth value: an accumulator is equal to itself only.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        state = "finished" if self._finished else f"{self._micro_batches} micro-batches"
        return f"<numscope.GradientAccumulator on {self._workspace.device}: {len(self)} gradients, {state}>"

    @property
    def arena(self) -> Arena:
        """The arena that the sums lie in."""
        return self._workspace.arena

    @property
    def flat(self) -> dict[str, Any]:
        """Name of a dtype -> the 1-D array over all sums of it, the zeros between them included."""
        self._write_zeros(self._layout)
        return {kind.name: self._workspace.flat(names) for kind, names in self._by_dtype().items()}

    # The ledger

    @property
    def weight(self) -> float:
        """The total weight added since `reset`."""
        return self._weight

    @property
    def micro_batches(self) -> int:
        """How many micro-batches were added since `reset`."""
        return self._micro_batches

    @property
    def skipped(self) -> int:
        """How many micro-batches were left out since `reset`, for nonfinite elements."""
        return self._skipped

    # A step

    def add(
        self,
        grads: Mapping[str, Any],
        weight: float = 1.0,
        *,
        zero_source: bool = False,
        skip_nonfinite: bool = False,
        allow_missing: bool = False,
    ) -> None:
        """Add the gradients of a micro-batch, in one pass over all of them.

        Parameters
        ----------
        grads : mapping of str to array
            A gradient for each name, of the same shape, on the same device. PyTorch, JAX and NumPy arrays
            are read without a copy if they are contiguous.
        weight : float, default 1.0
            See `reduction`. With a weight of 0 nothing is added, not even a NaN.
        zero_source : bool, default False
            Fill the gradients with zeros in the same pass.
        skip_nonfinite : bool, default False
            Read the gradients first, and leave out the micro-batch if one of them has a NaN or Inf: sums
            and ledger stay as they were, but for `skipped`.
        allow_missing : bool, default False
            Names may be missing, or None; nothing is added for them.

        Raises
        ------
        AccumulationError
            `finish` was called: `reset` first.
        BindingError
            A gradient has an unknown name, is missing, or has another shape, device or a dtype that is no
            float; nothing was changed.
        """
        with self._guard:
            if self._finished:
                raise AccumulationError(
                    "add() after finish(): the sums are final; call reset() before the next micro-batch"
                )
            weight = _number(weight, "weight")
            sources = self._check(grads, allow_missing, zero_source)
            calls, copies = self._prepare(sources, zero_source)
            if skip_nonfinite and kernels.stats(list(sources.values())).nonfinite:
                self._skipped += 1
                adds = False
            else:
                self._weight += weight
                self._micro_batches += 1
                adds = weight != 0 and math.isfinite(weight)
            if adds:
                for call in calls:
                    call(weight if self._reduction == "mean" else 1.0)
                self._fresh -= sources.keys()
            if zero_source:
                kernels.zero(copies if adds else list(sources.values()))

    def finish(
        self,
        *,
        mean: bool = True,
        max_norm: float | None = None,
        unscale: float = 1.0,
        error_if_nonfinite: bool = False,
        defer: bool = False,
    ) -> GradientStats:
        """Make the sums final: divide by the total weight and by `unscale`, then clip.

        Parameters
        ----------
        mean : bool, default True
            Divide by the total weight.
        max_norm : float, optional
            Scale the gradients so that their L2 norm is at most this: by ``min(1, max_norm / norm)``, by 1
            for a norm of 0.
        unscale : float, default 1.0
            The factor that the loss was multiplied by (loss scaling), which is divided out.
        error_if_nonfinite : bool, default False
            Raise if an element is NaN or infinite.
        defer : bool, default False
            Only measure; `copy_to` applies all factors.

        Returns
        -------
        GradientStats
            With ``nonfinite > 0`` the sums are left as they are, and the clip coefficient is 1.

        Raises
        ------
        AccumulationError
            `finish` was called already; the total weight is zero (and not everything was skipped),
            negative or not finite; or `error_if_nonfinite`. Nothing was changed.
        BindingError
            `max_norm` or `unscale` is no number to clip to or divide by.
        """
        with self._guard:
            factor = self._factor(mean, _divisor(unscale))
            limit = None if max_norm is None else _limit(max_norm)
            self._write_zeros(self._layout)
            measured = self._measure()
            if measured.nonfinite and error_if_nonfinite:
                raise AccumulationError(
                    f"{measured.nonfinite} elements of the gradients are NaN or infinite, expected none; "
                    "reset() and leave this step out, or pass skip_nonfinite=True to add()"
                )
            norm = self._norm(measured) * abs(factor)
            coefficient = 1.0
            if measured.nonfinite:
                factor = 1.0
            elif limit is not None and norm > limit:
                coefficient = limit / norm
                factor *= coefficient
            if not defer and factor != 1.0:
                for call in self._scaling:
                    call(factor)
            self._deferred = factor if defer else 1.0
            self._finished = True
            return GradientStats(
                norm=norm,
                nonfinite=measured.nonfinite,
                weight=self._weight,
                micro_batches=self._micro_batches,
                skipped=self._skipped,
                clip_coefficient=coefficient,
            )

    def copy_to(self, targets: Mapping[str, Any]) -> None:
        """Write the final gradients into other arrays, with the factors that ``finish(defer=True)`` found.

        Parameters
        ----------
        targets : mapping of str to array
            Some or all names; arrays of the same shapes, of any float dtype, that can be written.

        Raises
        ------
        AccumulationError
            `finish` was not called yet.
        BindingError
            An array has an unknown name, another shape, device or a dtype that is no float, or is
            read-only; nothing was written.
        """
        with self._guard:
            if not self._finished:
                raise AccumulationError(
                    "copy_to() before finish(): the sums are not final; call finish() first"
                )
            arrays = self._check(targets, allow_missing=True, writes=True)
            sums = [self._workspace[name] for name in arrays]
            try:
                kernels.accumulate(list(arrays.values()), sums, alpha=self._deferred, beta=0.0)
            except ValueError as error:
                raise BindingError(f"the targets of copy_to(): {error}") from None

    def reset(self) -> None:
        """Begin anew. No memory is touched: the next addition overwrites.

        Arrays handed out before see undefined values until the next `finish`.
        """
        with self._guard:
            self._fresh = set(self._layout)  # names to which nothing was added yet
            self._weight = 0.0
            self._micro_batches = 0
            self._skipped = 0
            self._finished = False
            self._deferred = 1.0

    def all_finite(self) -> bool:
        """Tell whether no element of the sums is NaN or infinite."""
        with self._guard:
            self._write_zeros(self._layout)
            return self._measure().nonfinite == 0

    # Inside

    @cached_property
    def _measuring(self) -> list[Call]:
        return [kernels.prepare("stats", pieces) for pieces in self._workspace.pieces(self._layout).values()]

    @cached_property
    def _scaling(self) -> list[Call]:
        return [kernels.prepare("scale", pieces) for pieces in self._workspace.pieces(self._layout).values()]

    def _measure(self) -> kernels.Stats:
        return kernels.merge([call() for call in self._measuring])

    def _by_dtype(self) -> dict[np.dtype[Any], list[str]]:
        groups: dict[np.dtype[Any], list[str]] = {}
        for name, (_, kind) in self._layout.items():
            groups.setdefault(kind, []).append(name)
        return groups

    def _write_zeros(self, names: Sequence[str] | Mapping[str, Any]) -> None:
        """Make zeros of sums to which nothing was added, before somebody looks at them."""
        fresh = [name for name in names if name in self._fresh] if self._fresh else []
        if fresh:
            self._workspace.zero(fresh)
            self._fresh.difference_update(fresh)

    def _check(self, arrays: Mapping[str, Any], allow_missing: bool, writes: bool) -> Sources:
        """Return the arrays in the order of the layout, after checking each."""
        if not isinstance(arrays, Mapping):
            raise BindingError(f"expected a mapping of names to arrays, got {type(arrays).__name__}")
        unknown = [name for name in arrays if name not in self._layout]
        if unknown:
            raise BindingError(f"unknown gradient {unknown[0]!r}; expected {_listed(self._layout)}")
        source = self._workspace.source
        found: Sources = {}
        for name, (shape, _) in self._layout.items():
            value = arrays.get(name)
            if value is None:
                if not allow_missing:
                    raise BindingError(
                        f"gradient {name!r} is missing, expected one of shape {shape}; "
                        "pass allow_missing=True to add nothing for it"
                    )
                continue
            try:
                array = source(value, f"gradient {name!r}")
            except UnknownTypeError as error:
                raise BindingError(str(error)) from None
            if array.shape != shape:
                raise BindingError(f"gradient {name!r} has shape {tuple(array.shape)}, expected {shape}")
            if array.dtype.name not in GRADIENTS:
                raise BindingError(
                    f"gradient {name!r} is of {array.dtype}, expected {', '.join(GRADIENTS)}; convert it"
                )
            if writes and ((array is not value and not hasattr(value, "dtype")) or not _is_writable(array)):
                raise BindingError(
                    f"{name!r} is read-only, expected an array to write into; pass a copy of it"
                )
            found[name] = array
        return found

    def _prepare(self, sources: Sources, zero_source: bool) -> tuple[list[Call], list[Any]]:
        """Return one kernel call for each pair of dtypes, and sources with gaps, of which copies are read.

        The calls of the last micro-batch serve again where its gradients lay in the same places, as those
        of an arena do.
        """
        gaps: list[Any] = []
        groups: dict[tuple[bool, np.dtype[Any], np.dtype[Any]], tuple[list[str], list[Any]]] = {}
        for name, array in sources.items():
            if not array.flags.c_contiguous:
                gaps.append(array)
                array = array.copy(order="C")
            key = (name in self._fresh, array.dtype, self._layout[name][1])
            names, arrays = groups.setdefault(key, ([], []))
            names.append(name)
            arrays.append(array)
        pieces = [kernels.Pieces.of(arrays) for _, arrays in groups.values()]
        signature: list[Any] = [zero_source, *groups, *(names for names, _ in groups.values())]
        signature += [p.addresses.tolist() for p in pieces]
        if self._recent is not None and not gaps and self._recent[0] == signature:
            return self._recent[1], gaps
        calls: list[Call] = []
        for ((fresh, _, _), (names, _)), source in zip(groups.items(), pieces, strict=True):
            (target,) = self._workspace.pieces(names).values()
            beta = 0.0 if fresh else 1.0
            try:
                call = kernels.prepare("accumulate", target, source, beta=beta, zero_source=zero_source)
            except ValueError as error:
                raise BindingError(f"gradients {_listed(names)}: {error}") from None
            calls.append(call)
        self._recent = None if gaps else (signature, calls)
        return calls, gaps

    def _factor(self, mean: bool, unscale: float) -> float:
        if self._finished:
            raise AccumulationError("finish() was called already: factors apply once; call reset() first")
        everything_skipped = self._skipped > 0 and self._micro_batches == 0
        if not everything_skipped and not (0 < self._weight < math.inf):
            raise AccumulationError(
                f"the total weight of {self._micro_batches} micro-batches is {self._weight}, expected a "
                "positive finite number: there is no mean over nothing; reset() and check the weights"
            )
        return 1.0 / unscale / (self._weight if mean and not everything_skipped else 1.0)

    def _norm(self, measured: kernels.Stats) -> float:
        """Return the L2 norm of the sums as they are.

        Squares of float32 stay in float64's range. Those of float64 may leave it; they are then taken of
        values divided by the largest one.
        """
        total, largest = measured.sum_of_squares, measured.max_abs
        if measured.nonfinite or largest == 0 or math.inf > total > 1e-290:
            return math.sqrt(total)
        arrays = (np.asarray(self._workspace.fetch(name), np.float64) for name in self._layout)
        return largest * math.sqrt(math.fsum(float(np.sum(np.square(a / largest))) for a in arrays))


def _parse(name: str, value: Any, default: np.dtype[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of what describes a gradient."""
    shape, dtype = value, default
    if hasattr(value, "shape"):
        shape = tuple(value.shape)
    elif isinstance(value, tuple) and len(value) == 2 and not hasattr(value[1], "__index__"):
        shape, dtype = value[0], known_dtype(value[1])
    if dtype.name not in ACCUMULATORS:
        raise BindingError(
            f"gradient {name!r}: sums of {dtype} are not known, expected {_listed(ACCUMULATORS)}"
        )
    return as_shape(shape, dtype.itemsize), dtype


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BindingError(f"{what} must be a number, got {value!r}") from None


def _divisor(unscale: Any) -> float:
    value = _number(unscale, "unscale")
    if value == 0 or not math.isfinite(value):
        raise BindingError(f"unscale must be a finite number other than 0, got {value}")
    return value


def _limit(max_norm: Any) -> float:
    value = _number(max_norm, "max_norm")
    if not value >= 0:
        raise BindingError(f"max_norm must be 0 or more, got {value}")
    return value


def _is_writable(array: Any) -> bool:
    flags = getattr(array, "flags", None)
    return bool(getattr(flags, "writeable", True))
