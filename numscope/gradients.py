"""Gradient accumulation: one slab of memory, one pass a micro-batch, a ledger of weights.

The order of a step is ``add`` (once a micro-batch), ``finish``, use, ``reset``. The mark "nothing was
added here yet" belongs to each blob, not to a loop index: the first addition overwrites, so that `reset`
touches no memory and no old bit, a NaN for instance, comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import DTypeLike

from numscope.arena import Arena
from numscope.descriptions import as_divisor, as_layout, as_limit, as_number, as_seed, listed
from numscope.errors import AccumulationError, BindingError, BlobNotFoundError
from numscope.exclusive import Exclusive
from numscope.ledger import Ledger
from numscope.slab import Slab
from numscope.types import known_dtype

__all__ = ["GradientAccumulator", "GradientStats"]

ROUNDINGS = ("nearest", "stochastic", "compensated")


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
        Of the sums where `tensors` says nothing else: float32, float64, bfloat16 or float16. Gradients may
        be of any of these whatever it is.
    device : str, optional
        Whose default arena to use: by default the `device_scope`'s, else ``"cpu"``.
    arena : Arena, optional
        Where to put the sums instead.
    reduction : {"mean", "sum"}
        ``"mean"``: each gradient is the mean over its micro-batch and its weight is what it was averaged
        over (tokens, examples); `add` sums ``weight * gradient``. ``"sum"``: each is the gradient of a
        summed loss, added as it is; its weight enters the ledger only. With either, `finish` divides by
        the total weight, which gives the gradient of one big batch.
    rounding : {"nearest", "stochastic", "compensated"}
        Of bfloat16 sums. ``"nearest"`` loses gradients that are small beside their sum (256 + 1 is 256).
        ``"stochastic"`` rounds to either neighbour, so that sums are right in the mean. ``"compensated"``
        keeps what was rounded off in 16 more bits, and is as exact as float32. Float16 is rounded to
        nearest.
    seed : int, default 0
        Of stochastic rounding: the same seed and calls give the same bits, on any number of threads.

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
        rounding: Literal["nearest", "stochastic", "compensated"] = "nearest",
        seed: int = 0,
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise BindingError(f'reduction must be "mean" or "sum", got {reduction!r}')
        if rounding not in ROUNDINGS:
            raise BindingError(f"rounding must be {listed(ROUNDINGS)}, got {rounding!r}")
        layout = as_layout(tensors, known_dtype(dtype))
        self._slab = Slab(layout, arena, device, rounding, as_seed(seed))
        self._reduction = reduction
        self._guard = Exclusive("a gradient accumulator")
        self._ledger = Ledger(self._slab.read)
        self.reset()

    # The mapping protocol

    def __getitem__(self, name: str) -> Any:
        """Return the array of a name: zeros before the first addition, final after `finish`."""
        if name not in self._slab.layout:
            raise BlobNotFoundError(f"no gradient {name!r}; expected one of {listed(self._slab.layout)}")
        self._slab.write_zeros([name])
        return self._slab.workspace[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slab.layout)

    def __len__(self) -> int:
        return len(self._slab.layout)

    # A Mapping compares its items, and arrays have no truth value: an accumulator is equal to itself only.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        state = "finished" if self._finished else f"{self.micro_batches} micro-batches"
        return f"<numscope.GradientAccumulator on {self.arena.device}: {len(self)} gradients, {state}>"

    @property
    def arena(self) -> Arena:
        """The arena that the sums lie in."""
        return self._slab.workspace.arena

    @property
    def flat(self) -> dict[str, Any]:
        """Name of a dtype -> the 1-D array over all sums of it, the zeros between them included."""
        return self._slab.flat()

    # The ledger

    @property
    def weight(self) -> float:
        """The total weight added since `reset`; after a `skip_nonfinite` on a card this waits for it."""
        return self._ledger.weight

    @property
    def micro_batches(self) -> int:
        """How many micro-batches were added since `reset`; it waits as `weight` does."""
        return self._ledger.micro_batches

    @property
    def skipped(self) -> int:
        """How many micro-batches were left out since `reset`, for nonfinite elements; it waits likewise."""
        return self._ledger.skipped

    # A step

    def add(
        self,
        grads: Mapping[str, Any],
        weight: float = 1.0,
        *,
        zero_source: bool = False,
        skip_nonfinite: bool = False,
        allow_missing: bool = False,
        stream: Any = None,
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
            and ledger stay as they were, but for `skipped`. On a card that is decided there, and
            nothing waits to know it before the ledger is read.
        allow_missing : bool, default False
            Names may be missing, or None; nothing is added for them.
        stream : stream, optional
            Of CUDA, for this call, instead of CuPy's current one.

        Raises
        ------
        AccumulationError
            `finish` was called: `reset` first.
        BindingError
            A gradient has an unknown name, is missing, or has another shape, device or a dtype that is no
            float; `stream` is none of this device. Nothing was changed.
        DeviceUnavailableError
            The arena was closed.
        """
        with self._guard, self._slab.on(stream):
            if self._finished:
                raise AccumulationError(
                    "add() after finish(): the sums are final; call reset() before the next micro-batch"
                )
            weight = as_number(weight, "weight")
            slab = self._slab
            addition = slab.addition(grads, zero_source=bool(zero_source), allow_missing=allow_missing)
            finite = addition.is_finite(slab.gates) if skip_nonfinite else True
            added = finite if weight != 0 and math.isfinite(weight) else False
            # Before the kernel: Ctrl-C in the middle of it is raised after it, when all is in the sums. Of
            # 130 interrupts of a loop over 8 MiB, 4 part sums and ledger; the other way round, 80 did.
            self._ledger.enter(weight, finite)
            if added is False:
                slab.pass_over()
            else:
                slab.add(addition, weight if self._reduction == "mean" else 1.0, added)
            if zero_source:
                addition.zero(added)
            slab.give_back(grads.values(), written=bool(zero_source))

    def finish(
        self,
        *,
        mean: bool = True,
        max_norm: float | None = None,
        unscale: float = 1.0,
        error_if_nonfinite: bool = False,
        defer: bool = False,
        stream: Any = None,
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
        stream : stream, optional
            Of CUDA, for this call, instead of CuPy's current one.

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
            `max_norm` or `unscale` is no number to clip to or divide by; `stream` is none of this device.
            Nothing was changed.
        """
        with self._guard, self._slab.on(stream):
            factor = self._factor(mean, as_divisor(unscale))
            limit = None if max_norm is None else as_limit(max_norm)
            measured = self._slab.measure()
            if measured.nonfinite and error_if_nonfinite:
                raise AccumulationError(
                    f"{measured.nonfinite} elements of the gradients are NaN or infinite, expected none; "
                    "reset() and leave this step out, or pass skip_nonfinite=True to add()"
                )
            norm = self._slab.norm(measured) * abs(factor)
            coefficient = 1.0
            if measured.nonfinite:
                factor = 1.0
            elif limit is not None and norm > limit:
                coefficient = limit / norm
                factor *= coefficient
            if not defer and factor != 1.0:
                self._slab.scale(factor)
            self._deferred = factor if defer else 1.0
            self._finished = True
            return GradientStats(
                norm=norm,
                nonfinite=measured.nonfinite,
                weight=self._ledger.weight,
                micro_batches=self._ledger.micro_batches,
                skipped=self._ledger.skipped,
                clip_coefficient=coefficient,
            )

    def copy_to(self, targets: Mapping[str, Any], *, stream: Any = None) -> None:
        """Write the final gradients into other arrays, with the factors that ``finish(defer=True)`` found.

        Parameters
        ----------
        targets : mapping of str to array
            Some or all names; arrays of the same shapes, of any float dtype, that can be written.
        stream : stream, optional
            Of CUDA, for this call, instead of CuPy's current one.

        Raises
        ------
        AccumulationError
            `finish` was not called yet.
        BindingError
            An array has an unknown name, another shape, device or a dtype that is no float, or is
            read-only; `stream` is none of this device. Nothing was written.
        """
        with self._guard, self._slab.on(stream):
            if not self._finished:
                raise AccumulationError(
                    "copy_to() before finish(): the sums are not final; call finish() first"
                )
            arrays = self._slab.check(targets, allow_missing=True, writes=True)
            self._slab.copy_to(arrays, self._deferred)
            self._slab.give_back(targets.values(), written=True)

    def reset(self) -> None:
        """Begin anew. No memory is touched: the next addition overwrites.

        Arrays handed out before see undefined values until the next `finish`.
        """
        with self._guard:
            self._slab.reset()
            self._ledger.reset()
            self._finished = False
            self._deferred = 1.0

    def all_finite(self) -> bool:
        """Tell whether no element of the sums is NaN or infinite."""
        with self._guard:
            return self._slab.measure().nonfinite == 0

    # Inside

    def _factor(self, mean: bool, unscale: float) -> float:
        if self._finished:
            raise AccumulationError("finish() was called already: factors apply once; call reset() first")
        ledger = self._ledger
        everything_skipped = ledger.skipped > 0 and ledger.micro_batches == 0
        if not everything_skipped and not (0 < ledger.weight < math.inf):
            raise AccumulationError(
                f"the total weight of {ledger.micro_batches} micro-batches is {ledger.weight}, expected a "
                "positive finite number: there is no mean over nothing; reset() and check the weights"
            )
        factor = 1.0 / unscale / (ledger.weight if mean and not everything_skipped else 1.0)
        if not math.isfinite(factor):
            raise BindingError(
                f"dividing by unscale = {unscale} and a total weight of {ledger.weight} gives infinity, "
                "expected a finite factor; pass the loss scale, and weights such as numbers of tokens"
            )
        return factor
