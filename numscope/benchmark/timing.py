"""Time competitors side by side: interleaved, in random order, undisturbed where that can be had."""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Sample", "interleave"]

_TRIES = 6  # a sample that lost its processor is taken again so often


@dataclass(frozen=True)
class Sample:
    """Seconds of one call: the median of the rounds, and half of their interquartile range."""

    median: float
    spread: float


def _interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    shortest: float = 1e-3,
) -> dict[str, Sample]:
    """Time calls against each other in one process.

    Before every sample the same calls are made untimed: they wake the threads and warm the caches. One
    call is too few where the data fill a large part of the last cache: on Zen 4 casts of 12 MB took half
    as long again in the first call and a sixth in the second, and their medians varied as much between runs.
    Calls that use up their data, as zero does, are timed over what they left, which takes no kernel
    another time.

    Parameters
    ----------
    calls : mapping of str to callable
    rounds : int
        Every round takes one sample of each call, in a new random order.
    shortest : float
        Seconds that a sample lasts at least, by repeating the call.

    Returns
    -------
    dict of str to Sample
    """
    shuffle = random.Random(0).shuffle
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, int(shortest / max(_seconds(call, 1), 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            best = (float("inf"), float("inf"))
            for _ in range(_TRIES):
                _seconds(calls[name], repeats[name])
                count = _interruptions()
                seconds = _seconds(calls[name], repeats[name])
                best = min(best, (_interruptions() - count, seconds))
                if best[0] == 0:
                    break
            taken[name].append(best[1])
    samples = {}
    for name, seconds_taken in taken.items():
        low, _, high = statistics.quantiles(seconds_taken, n=4)
        samples[name] = Sample(statistics.median(seconds_taken), (high - low) / 2)
    return samples
