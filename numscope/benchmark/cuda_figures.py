"""The figures of a card: each operation against the card's own copy, PyTorch and loops over CuPy arrays.

Calls take turns in random order between device events, on data that is drawn anew and that no cache
holds: either larger than any, or so many copies of it that they are out when their turn comes again.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numscope import kernels
from numscope.arena import Arena
from numscope.benchmark.sets import SETS
from numscope.kernels.cuda_layout import RESULTS
from numscope.workspace import Workspace

__all__ = ["Row", "host_times", "large", "sets", "splits"]

_Copies = list[list[list[Any]]]  # turn, side (target, source), tensor
_Call = Callable[[int], object]

GIB = 1 << 30
LARGEST_HOST_TIME = 8e-6  # seconds of Python for a call
SMALL = "small"  # the set in which a launch for each tensor costs more than its work


@dataclass(frozen=True)
class Row:
    """One figure and what it is to be.

    Attributes
    ----------
    name : str
    seconds : float
        Of ours: the median.
    peers : dict of str to float
        Seconds of the others on the same data.
    wanted : dict of str to float
        For a peer, the least speed-up over it (``peer / ours``) that will do.
    nbytes : int
        Bytes that must move; 0 where bandwidth is not the matter.
    limit : float
        Seconds that must not be exceeded; 0 for none.
    """

    name: str
    seconds: float
    peers: dict[str, float] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)
    nbytes: int = 0
    limit: float = 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second; 0 where bandwidth is not the matter."""
        return self.nbytes / self.seconds

    @property
    def holds(self) -> bool:
        """Tell whether the figure is what it is to be."""
        fast = all(self.peers[name] / self.seconds >= least for name, least in self.wanted.items())
        return fast and (not self.limit or self.seconds <= self.limit)


# --- timing --------------------------------------------------------------------------------------


def _interleave(cupy: Any, calls: Mapping[str, _Call], turns: int = 1, rounds: int = 15) -> dict[str, float]:
    """Return the median seconds of each call on the device, taken in turns.

    Parameters
    ----------
    calls : dict
        Each gets a number that grows from call to call, by which it chooses its data.
    turns : int
        How many data sets there are; each is used once by each call before anything is timed.
    """
    shuffle = random.Random(0).shuffle
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for name in order:
        for turn in range(turns):
            calls[name](turn)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    following = itertools.count()
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            start.record()
            calls[name](next(following))
            end.record()
            end.synchronize()
            samples[name].append(cupy.cuda.get_elapsed_time(start, end) * 1e-3)
    return {name: statistics.median(found) for name, found in samples.items()}


def _host_seconds(cupy: Any, call: Callable[[], object], repeats: int = 100) -> float:
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


def _drawn(cupy: Any, rng: np.random.Generator, *shape: int) -> Any:
    """Return fresh random numbers on the device; from the host, for CuPy's own need a library of its own."""
    array = cupy.empty(shape, np.float32)
    flat = array.reshape(-1)
    step = 1 << 24
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        part.set(rng.random(part.size, np.float32) - np.float32(0.5))
    return array


# --- figures -------------------------------------------------------------------------------------


def large(cupy: Any, torch: Any, device: str, nbytes: int = GIB) -> list[Row]:
    """Time one piece of 1 GiB: the bandwidth of each operation, and one pass against several."""
    rng = np.random.default_rng()
    count = nbytes // 4
    target, source = (_drawn(cupy, rng, count) for _ in range(2))
    words = source.view(np.uint16)[:count] & np.uint16(0xBFFF)  # as bfloat16: below 2
    of = kernels.Pieces
    to, fro = of.of([target]), of.of([source])
    half = of([words.data.ptr], [count], "bfloat16", device)
    zero, copy = kernels.prepare("zero", to), kernels.prepare("copy", to, fro)
    add, add_half = kernels.prepare("accumulate", to, fro), kernels.prepare("accumulate", to, half)
    fused: Any = kernels.prepare("accumulate", to, half, stats=True)
    room = cupy.empty(RESULTS, np.int64)
    calls: dict[str, _Call] = {
        "card": lambda _: target.data.copy_from_device_async(source.data, nbytes),
        "zero": lambda _: zero(),
        "copy": lambda _: copy(),
        "accumulate": lambda _: add(1e-3),
        "bfloat16": lambda _: add_half(1e-3),
        "fused": lambda _: fused.measure_into(int(room.data.ptr)),
        "read": lambda _: fused(1e-3),
    }
    if torch is not None:
        a = torch.from_dlpack(target)
        g = torch.from_dlpack(words.view(np.int16)).view(torch.bfloat16)

        def passes(_: int) -> None:
            torch._foreach_add_([a], [g.float()], alpha=1e-3)
            torch._foreach_norm([a])
            torch.isfinite(a).all()

        calls["torch"] = passes
    found = _interleave(cupy, calls)
    per_byte = found["card"] / (2 * nbytes)
    rows = [
        Row(f"{name}, 1 GiB", found[name], {"card": per_byte * moved}, {"card": 0.92}, moved)
        for name, moved in (("zero", nbytes), ("copy", 2 * nbytes), ("accumulate", 3 * nbytes))
    ]
    peers, wanted = {"unfused": found["bfloat16"]}, {"unfused": 1 / 1.05}
    if torch is not None:
        peers["torch"], wanted["torch"] = found["torch"], 1.6
    one_pass = Row("bfloat16 into float32 with statistics", found["fused"], peers, wanted, 10 * count)
    return [*rows, one_pass, Row("the same, and the host reads them", found["read"], peers, {}, 10 * count)]


def splits(cupy: Any, device: str, nbytes: int = GIB // 2) -> list[Row]:
    """Time the same memory in 1, 100 and 10,000 pieces."""
    rng = np.random.default_rng()
    count = nbytes // 4
    target, source = (_drawn(cupy, rng, count) for _ in range(2))
    calls: dict[str, _Call] = {}
    moved: dict[str, int] = {}
    for blobs in (1, 100, 10_000):
        each = count // blobs // 64 * 64
        starts = 4 * each * np.arange(blobs)
        pieces = [kernels.Pieces(starts + a.data.ptr, [each] * blobs, "f4", device) for a in (target, source)]
        calls[f"{blobs:,}"] = _adding(kernels.prepare("accumulate", *pieces))
        moved[f"{blobs:,}"] = 12 * each * blobs  # up to 0.3 % less, for all begin at multiples of 256 bytes
    found = _interleave(cupy, calls)
    return [
        Row(f"accumulate, 512 MiB in {name}", seconds, {"in 1": found["1"]}, {"in 1": 0.9}, moved[name])
        for name, seconds in found.items()
    ]


def _adding(add: kernels.Prepared) -> _Call:
    return lambda _: add(1e-3)


def host_times(cupy: Any, device: str) -> list[Row]:
    """Time the Python of a call, from arena to arena, for one blob and for 10,000."""
    rows = []
    for blobs in (1, 10_000):
        with Arena(2 * 256 * blobs + 4096, device=device) as arena:
            ours, other = (Workspace(arena=arena, name=name) for name in ("ours", "other"))
            layout = {f"x{number}": ((64,), "float32") for number in range(blobs)}
            for workspace in (ours, other):
                workspace.allocate(layout)
                workspace.zero()
            calls: dict[str, Callable[[], object]] = {
                "merge_into": lambda ours=ours, other=other: ours.merge_into(other),  # type: ignore[misc]
                "zero": ours.zero,
            }
            for name, call in calls.items():
                call()
                seconds = _host_seconds(cupy, call)
                rows.append(Row(f"Python of {name}, {blobs:,} blobs", seconds, limit=LARGEST_HOST_TIME))
            del calls
            ours.clear()
            other.clear()
    array = cupy.zeros(64, np.float32)
    launch = kernels.prepare("zero", kernels.Pieces.of([array]))
    launch()
    return [*rows, Row("Python of a prepared call", _host_seconds(cupy, launch), limit=LARGEST_HOST_TIME)]


def sets(cupy: Any, torch: Any, names: tuple[str, ...] = tuple(SETS)) -> list[Row]:
    """Time sets of tensors against PyTorch's functions for lists and a loop over CuPy arrays."""
    rng = np.random.default_rng()
    rows = []
    cached = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["l2CacheSize"]
    for set_name in names:
        shapes = SETS[set_name]()
        nbytes = 4 * sum(int(np.prod(shape)) for shape in shapes)
        copies = [  # so many that no cache holds them
            [[_drawn(cupy, rng, *shape) for shape in shapes] for _ in range(2)]
            for _ in range(max(2, -(-2 * cached // nbytes)))
        ]
        calls = {**_ours(copies), **_cupy(copies), **_torch(torch, copies)}
        found = _interleave(cupy, calls, len(copies))
        for name in ("add", "zero", "add, norm, check"):
            peers = {peer: found[f"{peer} {name}"] for peer in ("torch", "cupy") if f"{peer} {name}" in found}
            least = 1.0 if set_name == SMALL or name == "add, norm, check" else 0.97
            rows.append(Row(f"{set_name}: {name}", found[f"ours {name}"], peers, dict.fromkeys(peers, least)))
    return rows


def _ours(copies: _Copies) -> dict[str, _Call]:
    pieces = [[kernels.Pieces.of(side) for side in pair] for pair in copies]
    adds = [kernels.prepare("accumulate", *pair) for pair in pieces]
    fused = [kernels.prepare("accumulate", *pair, stats=True) for pair in pieces]
    zeros = [kernels.prepare("zero", pair[0]) for pair in pieces]
    return {
        "ours add": lambda n: adds[n % len(adds)](1e-3),
        "ours zero": lambda n: zeros[n % len(zeros)](),
        "ours add, norm, check": lambda n: fused[n % len(fused)](1e-3),
    }


def _cupy(copies: _Copies) -> dict[str, _Call]:
    def add(n: int) -> None:
        for target, source in zip(*copies[n % len(copies)], strict=True):
            target += source

    def zero(n: int) -> None:
        for target in copies[n % len(copies)][0]:
            target.fill(0)

    return {"cupy add": add, "cupy zero": zero}


def _torch(torch: Any, copies: _Copies) -> dict[str, _Call]:
    if torch is None:
        return {}
    tensors = [[[torch.from_dlpack(array) for array in side] for side in pair] for pair in copies]

    def add(n: int) -> None:
        torch._foreach_add_(*tensors[n % len(tensors)], alpha=1e-3)

    def passes(n: int) -> None:
        add(n)
        norms = torch._foreach_norm(tensors[n % len(tensors)][0])
        torch.isfinite(torch.stack(norms).sum()).item()

    return {
        "torch add": add,
        "torch zero": lambda n: torch._foreach_zero_(tensors[n % len(tensors)][0]),
        "torch add, norm, check": passes,
    }
