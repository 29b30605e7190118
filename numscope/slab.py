"""The memory of a gradient accumulator: one piece of an arena for each dtype, and kernel calls over it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from numscope import kernels
from numscope.addition import Addition, Call
from numscope.arena import Arena
from numscope.descriptions import Layout, listed
from numscope.errors import BindingError, DeviceUnavailableError, UnknownTypeError
from numscope.kernels.lists import simple_pieces
from numscope.kernels.pieces import device_of
from numscope.kernels.plan import merge
from numscope.kernels.versions import mark_written
from numscope.workspace import Workspace

__all__ = ["Slab"]

GRADIENTS = ("float16", "bfloat16", "float32", "float64")

_AS_IT_IS = nullcontext()

_SMALLEST, _LARGEST = (float(bound) for bound in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
_LARGE = 2.0**126

_SEEDS = 64
"""How many seeds a micro-batch has for itself, at least as many as there are pairs of dtypes. One that is
left out has them as well: a card decides that when the host has long counted on."""


class Slab:
    """Sums of gradients, each with a mark that nothing was added to it yet.

    Parameters
    ----------
    layout : dict
        Name -> shape and dtype.
    arena, device : optional
        As for a workspace.
    rounding : str
        Of bfloat16 sums: ``"nearest"``, ``"stochastic"`` or ``"compensated"``.
    seed : int
        Of stochastic rounding.
    """

    def __init__(
        self, layout: Layout, arena: Arena | None, device: str | None, rounding: str, seed: int
    ) -> None:
        self.layout = layout
        self.workspace = Workspace(arena=arena, device=device, name="gradients")
        self.workspace.allocate(layout)
        self.workspace.zero()  # the padding too, which is seen through `flat`
        self._rounding = rounding
        self._seed = seed
        # The exact rest of each compensated sum, in 16 more bits: with them it is a float32. Kahan's
        # summation in two bfloat16 takes as much memory and is not exact.
        self._rests = Workspace(arena=self.workspace.arena, name="rests of gradients")
        if rounding == "compensated":
            kinds = {n: (s, "uint16") for n, (s, kind) in layout.items() if kind.name == "bfloat16"}
            self._rests.allocate(kinds)
            self._rests.zero()
        self._fresh: set[str] = set(layout)
        self._kinds = {kind for _, kind in layout.values()}
        # Arrays of the sums' shapes without memory of their own: views of the sums would keep these alive.
        self._like = [np.broadcast_to(np.uint8(0), shape) for shape, _ in layout.values()]
        self._recent: dict[Any, tuple[Any, list[Call], list[Call]]] = {}
        self._zeroes: tuple[list[str], list[Call]] | None = None
        self.gates = self.workspace._region.device.gates()

    def reset(self) -> None:
        """Mark all sums as fresh, without touching their memory."""
        self._fresh = set(self.layout)

    def check_open(self) -> None:
        """Raise a DeviceUnavailableError if the arena is closed: prepared calls have addresses in it."""
        if self.workspace.arena.closed:
            raise DeviceUnavailableError(
                f"the arena on {self.workspace.device} that the gradients lay in is closed; "
                "make a new one, with an accumulator in it"
            )

    def write_zeros(self, names: Iterable[str] | None = None) -> None:
        """Make zeros of fresh sums, before somebody looks at them."""
        self.check_open()
        if self._fresh:
            fresh = [name for name in (self.layout if names is None else names) if name in self._fresh]
            if fresh:
                self.workspace.zero(fresh)
                self._rests.zero([name for name in fresh if name in self._rests])
                self._fresh.difference_update(fresh)

    def check(
        self, arrays: Mapping[str, Any], *, allow_missing: bool = False, writes: bool = False
    ) -> dict[str, Any]:
        """Return arrays that belong to the sums, in the order of the layout, after checking each.

        Raises
        ------
        BindingError
            An array has an unknown name, is missing, or has another shape, device or a dtype that is no
            float; or it is to be written and cannot be.
        """
        if not isinstance(arrays, Mapping):
            raise BindingError(f"expected a mapping of names to arrays, got {type(arrays).__name__}")
        unknown = [name for name in arrays if name not in self.layout]
        if unknown:
            raise BindingError(f"unknown gradient {unknown[0]!r}; expected {listed(self.layout)}")
        found: dict[str, Any] = {}
        for name, (shape, _) in self.layout.items():
            value = arrays.get(name)
            if value is not None:
                found[name] = self._check_one(name, value, shape, writes)
            elif not allow_missing:
                raise BindingError(
                    f"gradient {name!r} is missing, expected one of shape {shape}; "
                    "pass allow_missing=True to add nothing for it"
                )
        return found

    def _check_one(self, name: str, value: Any, shape: tuple[int, ...], writes: bool) -> Any:
        try:
            array = self.workspace.source(value, f"gradient {name!r}")
        except UnknownTypeError as error:
            raise BindingError(str(error)) from None
        if array.shape != shape:
            raise BindingError(f"gradient {name!r} has shape {tuple(array.shape)}, expected {shape}")
        if array.dtype.name not in GRADIENTS:
            raise BindingError(
                f"gradient {name!r} is of {array.dtype}, expected {', '.join(GRADIENTS)}; convert it"
            )
        here, there = self.workspace.device, device_of(array)
        if here.startswith("cuda") and there != here:  # a host's workspace takes no other arrays anyway
            raise BindingError(f"gradient {name!r} is on {there}, expected it on {here}; copy it there first")
        # A list has no dtype: what NumPy made of it would be written in vain.
        if writes and not (hasattr(value, "dtype") and _is_writable(array)):
            raise BindingError(f"{name!r} is read-only, expected an array to write into; pass a copy of it")
        return array

    def addition(self, gradients: Mapping[str, Any], *, zero_source: bool, allow_missing: bool) -> Addition:
        """Check gradients, and return the calls that add them.

        The calls of an earlier micro-batch serve again where its gradients lay in the same places, as
        those of an arena do.

        Raises
        ------
        BindingError
            As `check`; or gradients overlap the sums, or one another while they are to be zeroed.
        """
        self.check_open()
        return self._quick_addition(gradients, zero_source) or self._addition(
            self.check(gradients, allow_missing=allow_missing, writes=zero_source), zero_source
        )

    def _quick_addition(self, gradients: Mapping[str, Any], zero_source: bool) -> Addition | None:
        """Return an addition where all gradients are simple: there, contiguous and of one dtype.

        None where anything is not simple, or wrong.
        """
        layout, fresh = self.layout, bool(self._fresh)
        is_simple = isinstance(gradients, Mapping) and len(gradients) == len(layout)
        if not is_simple or len(self._kinds) != 1 or (fresh and len(self._fresh) < len(layout)):
            return None
        arrays = [gradients.get(name) for name in layout]
        pieces = simple_pieces(arrays, like=self._like, writable=zero_source, device=self.workspace.device)
        if pieces is None or pieces.dtype.name not in GRADIENTS:
            return None
        key = (zero_source, fresh, pieces.dtype)
        addresses, calls, measuring = self._recent.get(key, (None, [], []))
        if addresses is None or not np.array_equal(addresses, pieces.addresses):
            calls, measuring = [self._call(layout, pieces, fresh, zero_source)], []
            self._recent[key] = pieces.addresses, calls, measuring
        return Addition(layout, calls, [pieces], measuring, [], arrays)

    def _addition(self, sources: dict[str, Any], zero_source: bool) -> Addition:
        """Return an addition of any checked gradients."""
        gaps: list[Any] = []
        groups: dict[tuple[bool, np.dtype[Any], np.dtype[Any]], tuple[list[str], list[Any]]] = {}
        for name, array in sources.items():
            if not array.flags.c_contiguous:
                gaps.append(array)
                array = array.copy(order="C")
            key = (name in self._fresh, array.dtype, self.layout[name][1])
            names, arrays = groups.setdefault(key, ([], []))
            names.append(name)
            arrays.append(array)
        pieces = [kernels.Pieces.of(arrays) for _, arrays in groups.values()]
        calls = [
            self._call(names, source, fresh, zero_source)
            for ((fresh, _, _), (names, _)), source in zip(groups.items(), pieces, strict=True)
        ]
        return Addition(sources, calls, pieces, [], gaps, groups)

    def _call(self, names: Collection[str], source: kernels.Pieces, fresh: bool, zero_source: bool) -> Call:
        """Prepare the kernel call that adds gradients of one dtype to sums of one dtype."""
        held = self._pieces if names is self.layout else self.workspace.pieces(names)
        (target,) = held.values()
        try:
            return kernels.prepare(
                "accumulate",
                target,
                source,
                beta=0.0 if fresh else 1.0,
                zero_source=zero_source,
                **self._rounded(target.dtype, names),
            )
        except ValueError as error:
            raise BindingError(f"gradients {listed(names)}: {error}") from None

    def measure(self) -> kernels.Stats:
        """Return the statistics of all sums, without the largest magnitude."""
        self.write_zeros()
        return merge([call() for call in self._measuring])

    def add(self, addition: Addition, factor: float, finite: Any = True) -> None:
        """Add gradients times a factor: now, or under a condition that is decided on the device.

        Where that one does not hold, fresh sums become zeros, which is what they stand for.
        """
        fresh = [] if finite is True else [name for name in addition.names if name in self._fresh]
        self._fresh.difference_update(addition.names)  # before the kernel, as the ledger
        if finite is True:
            self._run(addition.calls, factor)
        else:
            self._run(addition.calls, factor, finite.if_open)
            for zero in self._zeroing(fresh):
                zero(1.0, 0, finite.if_closed)

    def read(self, conditions: Sequence[Any]) -> list[bool]:
        """Return which conditions, that `Addition.is_finite` has returned, hold; this waits."""
        return self.gates.read(conditions) if self.gates is not None else []

    def give_back(self, arrays: Iterable[Any], *, written: bool) -> None:
        """Let arrays be used, and die, as if the kernels that read or wrote them had run already."""
        if written:
            mark_written(arrays)
        self.workspace._region.device.give_back(arrays)

    def on(self, stream: Any) -> AbstractContextManager[None]:
        """Return a context in which work on the sums goes to a CUDA stream; None for the current one."""
        return _AS_IT_IS if stream is None else self.workspace._region.device.on(stream)

    def norm(self, measured: kernels.Stats) -> float:
        """Return the L2 norm of the sums as they are.

        Squares of float32 stay in float64's range. Those of float64 may leave it; they are then taken of
        values divided by the largest one.
        """
        total = measured.sum_of_squares
        if measured.nonfinite or math.inf > total > 1e-290:
            return math.sqrt(total)
        largest = merge([call() for call in self._over_all("stats")]).max_abs
        if largest == 0:
            return 0.0
        arrays = (np.asarray(self.workspace.fetch(name), np.float64) for name in self.layout)
        return float(largest) * math.sqrt(math.fsum(float(np.sum(np.square(a / largest))) for a in arrays))

    def scale(self, factor: float) -> None:
        """Multiply all sums by a finite number."""
        for part in _parts(factor):
            self._run(self._scaling, part)

    def copy_to(self, targets: dict[str, Any], factor: float) -> None:
        """Write sums times a factor into checked arrays.

        Raises
        ------
        BindingError
            The arrays overlap one another, or the sums.
        """
        self.check_open()
        sums = {name: self.workspace[name] for name in targets}
        completed = [name for name in sums if name in self._rests]
        device = self.workspace._region.device
        if completed:
            whole = {name: device.empty(self.layout[name][0], np.dtype(np.float32)) for name in completed}
            source = self.workspace.pieces(completed)[sums[completed[0]].dtype]
            rests = self._rounded(source.dtype, completed)
            kernels.prepare("copy", kernels.Pieces.of(list(whole.values())), source, **rests)()
            sums |= whole
        if len(_parts(factor)) > 1:  # the arithmetic is float64's where one side is
            longer = {name: device.empty(a.shape, np.dtype(np.float64)) for name, a in sums.items()}
            kernels.copy(list(longer.values()), list(sums.values()))
            sums = longer
        try:
            kernels.accumulate(list(targets.values()), list(sums.values()), alpha=factor, beta=0.0)
        except ValueError as error:
            raise BindingError(f"the targets of copy_to(): {error}") from None

    def flat(self) -> dict[str, Any]:
        """Return the 1-D array over all sums of each dtype, by its name."""
        self.write_zeros()
        names: dict[str, list[str]] = {}
        for name, (_, dtype) in self.layout.items():
            names.setdefault(dtype.name, []).append(name)
        return {kind: self.workspace.flat(group) for kind, group in names.items()}

    def pass_over(self) -> None:
        """Count a micro-batch that is left out, as `add` does where a device decides that."""
        self._seed += _SEEDS

    def _run(self, calls: list[Call], factor: float, *gate: Any) -> None:
        """Run calls with random bits of their own, which only stochastic rounding uses."""
        for number, call in enumerate(calls):
            call(factor, self._seed + number, *gate)
        self._seed += _SEEDS

    def _zeroing(self, names: list[str]) -> list[Call]:
        """Return the calls that make zeros of some sums, which are mostly those of the time before."""
        if self._zeroes is None or self._zeroes[0] != names:
            held = [*self.workspace.pieces(names).values()] if names else []
            rests = [name for name in names if name in self._rests]
            held += self._rests.pieces(rests).values() if rests else []
            self._zeroes = names, [kernels.prepare("zero", pieces) for pieces in held]
        return self._zeroes[1]

    def _rounded(self, dtype: np.dtype[Any], names: Iterable[str]) -> dict[str, Any]:
        """Return the arguments of `prepare` that say how sums of a dtype are rounded."""
        if dtype.name != "bfloat16":
            return {}
        if self._rounding != "compensated":
            return {"rounding": self._rounding}
        (rests,) = self._rests.pieces(names).values()
        return {"rounding": self._rounding, "remainder": rests}

    @cached_property
    def _pieces(self) -> dict[np.dtype[Any], kernels.Pieces]:
        """Where all sums lie; finding that out takes 0.7 us a name, as long as reading PyTorch's."""
        return self.workspace.pieces(self.layout)

    @cached_property
    def _measuring(self) -> list[Call]:
        return self._over_all("stats", stats="norm")

    @cached_property
    def _scaling(self) -> list[Call]:
        return self._over_all("scale")

    def _over_all(self, operation: str, **options: Any) -> list[Call]:
        """Return one kernel call for each dtype of sums."""
        calls: list[Call] = []
        for dtype, pieces in self._pieces.items():
            rounded = self._rounded(dtype, [name for name, (_, kind) in self.layout.items() if kind == dtype])
            if operation == "stats" and "remainder" not in rounded:
                rounded = {}
            calls.append(kernels.prepare(operation, pieces, **rounded, **options))
        return calls


def _parts(factor: float) -> list[float]:
    """Return factors with this product which float32 holds with all its digits.

    Gradients up to float32's largest number have a norm beyond it: a million of 3e38, clipped to a norm of 1
    by the one factor 3.3e-42, which float32 has to 4 digits, had a norm of 1.0001.
    """
    parts = []
    while factor != 0 and not _SMALLEST <= abs(factor) <= _LARGEST:
        parts.append(_LARGE if abs(factor) > 1 else 1 / _LARGE)
        factor /= parts[-1]
    return [*parts, factor]


def _is_writable(array: Any) -> bool:
    return bool(getattr(array.flags, "writeable", True))  # CuPy's arrays always are, and have no such flag
