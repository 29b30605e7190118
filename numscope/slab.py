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
from numscope.arrangement import Group, partition
from numscope.descriptions import Layout, listed
from numscope.errors import BindingError, DeviceUnavailableError
from numscope.kernels.lists import simple_pieces
from numscope.kernels.plan import merge
from numscope.kernels.versions import mark_written
from numscope.matching import GRADIENTS, match, match_one
from numscope.workspace import Workspace

__all__ = ["Slab"]

_AS_IT_IS = nullcontext()

_SMALLEST, _LARGEST = (float(bound) for bound in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
_LARGE = 2.0**126

_SEEDS = 64
"""How many seeds a micro-batch has for itself, at least as many as there are pairs of dtypes. One that is
left out has them as well: a card decides that when the host has long counted on."""


_MOST_GROUPINGS = 8
"""Ways in which micro-batches fall into groups that are remembered: the first and the rest, mostly."""


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
        # Arrays of the sums' shapes without memory of their own: views of the sums would keep these alive.
        self._like = {name: np.broadcast_to(np.uint8(0), shape) for name, (shape, _) in layout.items()}
        self._groups: dict[Any, list[Group]] = {}
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
        """Return arrays that belong to the sums, in the order of the layout: see `matching.match`."""
        return match(arrays, self.layout, self.workspace, allow_missing=allow_missing, writes=writes)

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
        addition = self._quick_addition(gradients, zero_source, allow_missing)
        if addition is not None:
            return addition
        checked = self.check(gradients, allow_missing=allow_missing, writes=zero_source)
        names, arrays = list(checked), list(checked.values())
        addition = self._of_groups(self._arrange(names, arrays), names, arrays, zero_source, checked=True)
        assert addition is not None, "checked arrays fall into groups"
        return addition

    def _quick_addition(self, gradients: object, zero_source: bool, allow_missing: bool) -> Addition | None:
        """Return an addition of arrays of NumPy, CuPy or PyTorch that can be read many at once.

        None where anything is of another kind, or wrong.
        """
        layout = self.layout
        if not isinstance(gradients, Mapping):
            return None
        names: Collection[str] = layout
        arrays = [gradients.get(name) for name in layout]
        if type(None) in set(map(type, arrays)) or len(gradients) != len(layout):
            if not allow_missing or any(name not in layout for name in gradients):
                return None
            names = [name for name, array in zip(layout, arrays, strict=True) if array is not None]
            arrays = [array for array in arrays if array is not None]
        some = 0 < len(self._fresh) < len(layout)
        key = (frozenset(self._fresh) if some else bool(self._fresh), names is layout or tuple(names))
        addition = self._of_groups(self._groups.get(key, []), names, arrays, zero_source)  # as the last time
        if addition is None:
            groups = self._arrange(names, arrays)
            addition = self._of_groups(groups, names, arrays, zero_source)
            if addition is not None:
                if len(self._groups) >= _MOST_GROUPINGS:
                    self._groups.clear()
                self._groups[key] = groups
        return addition

    def _arrange(self, names: Collection[str], arrays: list[Any]) -> list[Group]:
        """Return the groups that gradients fall into; none where some are of another kind."""
        names = list(names)
        parts = partition(names, arrays, self.layout, self._fresh)
        groups = []
        for (fresh, gapless, *_), indices in parts.items():
            members = [names[index] for index in indices]
            (target,) = self.workspace.pieces(members).values()
            like = [self._like[name] for name in members]
            rounded = self._rounded(target.dtype, members)
            groups.append(Group(members, indices, like, fresh, gapless, target, rounded))
        return groups

    def _of_groups(
        self,
        groups: list[Group],
        names: Collection[str],
        arrays: list[Any],
        zero_source: bool,
        *,
        checked: bool = False,
    ) -> Addition | None:
        """Return an addition of gradients in groups; None where they are not as these say.

        Those that were `checked` already may be more than simple.
        """
        if sum(len(group.indices) for group in groups) < len(arrays):
            return None
        gaps: list[Any] = []
        copies: list[Any] = []
        sources: list[kernels.Pieces] = []
        for group in groups:
            chosen = group.chosen(arrays)
            if not group.gapless:
                if group.has_changed(chosen):
                    return None
                whole = [
                    match_one(name, array, self.layout[name][0], self.workspace, writes=zero_source)
                    for name, array in zip(group.names, chosen, strict=True)
                ]
                gaps += whole
                chosen = [array.copy(order="C") for array in whole]
                copies.append(chosen)
            pieces = simple_pieces(
                chosen, like=group.like, writable=zero_source, device=self.workspace.device
            )
            if pieces is None and checked:
                pieces = kernels.Pieces.of(chosen)
            if pieces is None or pieces.dtype.name not in GRADIENTS:
                return None
            sources.append(pieces)
        recent = []
        for group, pieces in zip(groups, sources, strict=True):
            try:
                recent.append(group.recently(pieces, zero_source))
            except ValueError as error:
                raise BindingError(f"gradients {listed(group.names)}: {error}") from None
        calls, measuring = [each.call for each in recent], [each.measuring for each in recent]
        return Addition(names, calls, sources, measuring, gaps, (arrays, copies))

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
    def _measuring(self) -> list[Call]:
        return self._over_all("stats", stats="norm")

    @cached_property
    def _scaling(self) -> list[Call]:
        return self._over_all("scale")

    def _over_all(self, operation: str, **options: Any) -> list[Call]:
        """Return one kernel call for each dtype of sums."""
        calls: list[Call] = []
        for dtype, pieces in self.workspace.pieces(self.layout).items():
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
