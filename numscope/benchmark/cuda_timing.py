"""Time calls on a card, and draw the data for them."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numscope.benchmark.cuda_report import Row
from numscope.sizes import format_size

__all__ = ["Call", "Times", "drawn", "drawn_bfloat16", "fitting", "host_seconds"]

Call = Callable[[int], object]

SMALLEST = 64 << 20  # bytes; less than this some caches hold
WARM_UP = 5  # rounds that do not count: clocks rise with work


class Times:
    """Median seconds of calls on the device, taken in turns.

    Parameters
    ----------
    calls : dict
        Each gets a number that grows from call to call, by which it chooses its data.
    peers : sequence of str
        Those of them that may fail, and are left out then.
    turns : int
        How many data sets there are; each is used once by each call before anything is timed.

    Attributes
    ----------
    seconds : dict of str to float
    left_out : dict of str to str
        Peers that failed, and how.
    """

    def __init__(
        self,
        cupy: Any,
        calls: Mapping[str, Call],
        peers: Sequence[str] = (),
        turns: int = 1,
        rounds: int = 15,
    ) -> None:
        self.left_out: dict[str, str] = {}
        for name, call in calls.items():
            try:
                for turn in range(turns):
                    call(turn)
            except Exception as error:  # a peer may raise anything
                if name not in peers:
                    raise
                self.left_out[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
        samples: dict[str, list[float]] = {name: [] for name in calls if name not in self.left_out}
        order = list(samples)
        shuffle = random.Random(0).shuffle
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        following = itertools.count()
        for _ in range(WARM_UP + rounds):
            shuffle(order)
            for name in order:
                start.record()
                calls[name](next(following))
                end.record()
                end.synchronize()
                samples[name].append(cupy.cuda.get_elapsed_time(start, end) * 1e-3)
        self.seconds = {name: statistics.median(found[WARM_UP:]) for name, found in samples.items()}

    def row(
        self, name: str, ours: str, peers: Mapping[str, str], wanted: Mapping[str, float], **more: Any
    ) -> Row:
        """Return a figure of one call against others, which have names of their own in it."""
        return Row(
            name,
            self.seconds[ours],
            {peer: self.seconds[call] for peer, call in peers.items() if call in self.seconds},
            dict(wanted),
            left_out={peer: self.left_out[call] for peer, call in peers.items() if call in self.left_out},
            **more,
        )


def host_seconds(cupy: Any, call: Callable[[], object], repeats: int = 100) -> float:
    """Return the median seconds of Python that a call takes while the device is not waited for.

    There are fewer calls in a row than the device takes in without waiting, which is about 1,000.
    """
    samples = []
    for _ in range(15):
        cupy.cuda.Device().synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        samples.append((time.perf_counter() - begin) / repeats)
    cupy.cuda.Device().synchronize()
    return statistics.median(samples)


def drawn(cupy: Any, rng: np.random.Generator, *shape: int) -> Any:
    """Return fresh random numbers on the device."""
    return _filled(cupy, shape, np.float32, lambda count: rng.random(count, np.float32) - np.float32(0.5))


def drawn_bfloat16(cupy: Any, rng: np.random.Generator, count: int) -> Any:
    """Return fresh random words on the device that, as bfloat16, are below 2."""
    draw = rng.integers
    return _filled(
        cupy, count, np.uint16, lambda n: draw(1 << 16, size=n, dtype=np.uint16) & np.uint16(0xBFFF)
    )


def _filled(cupy: Any, shape: Any, dtype: Any, draw: Callable[[int], NDArray[Any]]) -> Any:
    """Return an array that is drawn on the host: for CuPy's own numbers it needs a library of its own."""
    array = cupy.empty(shape, dtype)
    flat = array.reshape(-1)
    step = 1 << 24
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        part.set(draw(part.size))
    return array


def fitting(cupy: Any, most: int, times: float) -> int:
    """Return how many bytes an array has of which so many are needed at once: halved until they are free."""
    free, total = cupy.cuda.runtime.memGetInfo()
    nbytes = most
    while times * nbytes > free:
        nbytes //= 2
    if nbytes < min(most, SMALLEST):
        raise MemoryError(
            f"{format_size(free)} of {format_size(total)} are free, expected {times:g} times "
            f"{format_size(SMALLEST)}: free memory of other processes (nvidia-smi lists them)"
        )
    return nbytes
