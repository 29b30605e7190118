"""What a training run came to, as plain records, and the tally that they are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numscope.arena import ArenaStats

__all__ = ["Report", "Step", "Tally", "Times"]


@dataclass(frozen=True)
class Step:
    """What happened in a step.

    Attributes
    ----------
    number : int
        From 1 on.
    loss : float
        The mean over its examples.
    examples, micro_batches : int
    norm : float
        Of the gradient, before clipping.
    seconds, kernels, products : float
        The time it took; in kernels and in matrix products of that.
    """

    number: int
    loss: float
    examples: int
    micro_batches: int
    norm: float
    seconds: float
    kernels: float
    products: float


class Tally:
    """Sums over the steps of a run. It does not grow with them.

    Attributes
    ----------
    first, last : Step or None
    examples, micro_batches : int
    later_examples : int
        Without those of the first step, like the times.
    segments : int
        Taken from the arena up to the end of the first step.
    seconds, kernels, products : float
        Of the steps after the first one.
    """

    def __init__(self) -> None:
        self.first: Step | None = None
        self.last: Step | None = None
        self.segments = 0
        self.examples = self.micro_batches = self.later_examples = 0
        self.seconds = self.kernels = self.products = 0.0

    def add(self, step: Step, arena: ArenaStats) -> None:
        """Count a step, after which the arena is as given."""
        self.examples += step.examples
        self.micro_batches += step.micro_batches
        if self.first is None:
            self.first = step
            self.segments = arena.segments_taken
        else:
            self.later_examples += step.examples
            self.seconds += step.seconds
            self.kernels += step.kernels
            self.products += step.products
        self.last = step

    @property
    def steps(self) -> int:
        """How many were counted."""
        return 0 if self.last is None else self.last.number

    @property
    def examples_per_second(self) -> float | None:
        """Of the steps after the first one, or of the first one if it was the only one."""
        if self.seconds:
            return self.later_examples / self.seconds
        return None if self.first is None else self.first.examples / self.first.seconds

    def report(
        self,
        arena: ArenaStats,
        *,
        accuracy: float,
        examples_in_epoch: int,
        differences: Mapping[str, float],
        checked_steps: Sequence[int],
        planned_peak: int,
        preparation: float,
        checks: float,
        times_products: bool,
        torch_differences: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Report:
        """Return what the run came to; the arguments are those of `Report` and `Times`.

        Parameters
        ----------
        arena : ArenaStats
            As it is now.
        times_products : bool
            Whether the steps say how long matrix products took.
        """
        return Report(
            accuracy=accuracy,
            loss=None if self.last is None else self.last.loss,
            steps=self.steps,
            micro_batches=self.micro_batches,
            examples=self.examples,
            epochs=self.examples / examples_in_epoch,
            differences=dict(differences) if checked_steps else {},
            checked_steps=tuple(checked_steps),
            torch_differences=(
                None
                if torch_differences is None
                else {dtype: dict(found) for dtype, found in torch_differences.items()}
            ),
            planned_peak=planned_peak,
            reached_peak=arena.peak,
            segments_taken=0 if self.first is None else arena.segments_taken - self.segments,
            examples_per_second=self.examples_per_second,
            times=Times(
                preparation=preparation,
                first_step=0.0 if self.first is None else self.first.seconds,
                kernels=self.kernels,
                products=self.products if times_products else None,
                python=self.seconds - self.kernels - self.products,
                checks=checks,
            ),
        )


@dataclass(frozen=True)
class Times:
    """Where the seconds went. What a GPU does by itself counts where its result is waited for.

    Attributes
    ----------
    preparation : float
        Planning, taking memory, copying the examples into it.
    first_step : float
        With the compilation of the kernels, where they were not found compiled.
    kernels, products, python : float
        The steps after the first one: in kernels, in matrix products, in all else. `products` is None where
        they are not timed apart.
    checks : float
        Comparing gradients with those of one batch, which is no part of a step.
    """

    preparation: float
    first_step: float
    kernels: float
    products: float | None
    python: float
    checks: float


@dataclass(frozen=True)
class Report:
    """What a run came to.

    Attributes
    ----------
    accuracy : float
        The share of the test examples whose class was found.
    loss : float or None
        Of the last step.
    steps, micro_batches, examples : int
        Trained so far.
    epochs : float
    differences : dict of str to float
        Parameter -> the largest ``|a - b| / |b|`` (L2 norms), where a is its accumulated gradient and b the
        gradient of the same examples as one batch.
    checked_steps : tuple of int
        The steps in which these were compared.
    torch_differences : dict of str to (dict of str to float), or None
        dtype -> parameter -> ``|a - b| / |b|``, where b is PyTorch's gradient for the same weights and
        examples; empty where PyTorch is not installed, None where the task does not compare.
    planned_peak : int
        Bytes of the arena.
    reached_peak : int
        Bytes of the arena.
    segments_taken : int
        From the arena, after the first step.
    examples_per_second : float or None
        Without the first step, if there were others.
    times : Times
    """

    accuracy: float
    loss: float | None
    steps: int
    micro_batches: int
    examples: int
    epochs: float
    differences: dict[str, float]
    checked_steps: tuple[int, ...]
    torch_differences: dict[str, dict[str, float]] | None
    planned_peak: int
    reached_peak: int
    segments_taken: int
    examples_per_second: float | None
    times: Times
