"""The figures of a card: each operation against the card's own copy, PyTorch and loops over CuPy arrays.

Calls take turns in random order between device events, on data that is drawn anew and that no cache
holds: either larger than any, or so many copies of it that they are out when their turn comes again.
Sizes are halved until they fit into the memory that is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from numscope import kernels
from numscope.arena import Arena
from numscope.benchmark.cuda_report import Row
from numscope.benchmark.cuda_timing import Call, Times, drawn, drawn_bfloat16, fitting, host_seconds
from numscope.benchmark.sets import SETS
from numscope.kernels.cuda_layout import DESTINATION, EXTRA, LENGTH, RESULTS, SOURCE, Layout
from numscope.kernels.plan import make_plan
from numscope.sizes import format_size
from numscope.workspace import Workspace

__all__ = ["host_times", "large", "sets", "splits"]

_Copies = list[list[list[Any]]]  # turn, side (target, source), tensor

GIB = 1 << 30
LARGEST_HOST_TIME = 8e-6  # seconds of Python for a call
LARGEST_LAUNCH_TIME = 1.5e-6  # and for the launch in it
SMALL = "small"  # the set in which a launch for each tensor costs more than its work
BLOBS = (1, 100, 10_000)


def large(cupy: Any, torch: Any, device: str, most: int = GIB) -> list[Row]:
    """Time one piece of 1 GiB: the bandwidth of each operation, and one pass against several."""
    rng = np.random.default_rng()
    nbytes = fitting(cupy, most, 3)
    count = nbytes // 4
    target, source = (drawn(cupy, rng, count) for _ in range(2))
    words = drawn_bfloat16(cupy, rng, count)
    of = kernels.Pieces
    to, fro = of.of([target]), of.of([source])
    half = of([words.data.ptr], [count], "bfloat16", device)
    zero, copy = kernels.prepare("zero", to), kernels.prepare("copy", to, fro)
    add, add_half = kernels.prepare("accumulate", to, fro), kernels.prepare("accumulate", to, half)
    fused: Any = kernels.prepare("accumulate", to, half, stats=True)
    room = cupy.empty(RESULTS, np.int64)
    calls: dict[str, Call] = {
        "card": lambda _: target.data.copy_from_device_async(source.data, nbytes),
        "zero": lambda _: zero(),
        "copy": lambda _: copy(),
        "accumulate": lambda _: add(1e-3),
        "bfloat16": lambda _: add_half(1e-3),
        "fused": lambda _: fused.measure_into(int(room.data.ptr)),
        "read": lambda _: fused(1e-3),
    }
    if torch is not None:
        calls["torch"] = _torch_passes(torch, target, words)
    times = Times(cupy, calls, ["torch"])
    per_byte = times.seconds["card"] / (2 * nbytes)  # it reads and writes
    size = format_size(nbytes)
    rows = [
        Row(
            f"{name}, {size}",
            times.seconds[name],
            {"card's copy": per_byte * moved},
            {"card's copy": 0.92},
            moved,
        )
        for name, moved in (("zero", nbytes), ("copy", 2 * nbytes), ("accumulate", 3 * nbytes))
    ]
    peers = {"plain accumulate": "bfloat16", "torch": "torch"}
    wanted = {"plain accumulate": 1 / 1.05, "torch": 1.6}
    name = f"bfloat16 into float32 ({size}) with statistics"
    return [
        *rows,
        times.row(name, "fused", peers, wanted, nbytes=10 * count),
        times.row(f"{name}, and the host reads them", "read", peers, {}, nbytes=10 * count),
    ]


def _torch_passes(torch: Any, target: Any, words: Any) -> Call:
    """Return PyTorch's way to add with a weight, to look for what is not finite, and to get the norm.

    Lists of two dtypes are added one tensor after the other, which for one tensor costs nothing: it moves
    10 bytes an element, where one made float32 first moves 18.
    """

    @cache
    def tensors() -> tuple[list[Any], list[Any]]:  # at the first call, which may fail
        words_there = torch.from_dlpack(words.view(np.int16))
        return [torch.from_dlpack(target)], [words_there.view(torch.bfloat16)]

    def passes(_: int) -> None:
        sums, gradients = tensors()
        torch._foreach_add_(sums, gradients, alpha=1e-3)
        torch._foreach_norm(sums, float("inf"))
        torch._foreach_norm(sums)

    return passes


def splits(cupy: Any, device: str, most: int = GIB // 2) -> list[Row]:
    """Time the same memory in 1, 100 and 10,000 pieces.

    They come in random order: of neighbours that follow one another the kernels make one piece.
    """
    rng = np.random.default_rng()
    nbytes = fitting(cupy, most, 2.2)
    count = nbytes // 4
    target, source = (drawn(cupy, rng, count) for _ in range(2))
    calls: dict[str, Call] = {}
    moved: dict[str, int] = {}
    for blobs in BLOBS:
        each = count // blobs // 64 * 64
        pieces = [
            kernels.Pieces(4 * each * rng.permutation(blobs) + a.data.ptr, [each] * blobs, "f4", device)
            for a in (target, source)
        ]
        calls[f"{blobs:,}"] = _adding(kernels.prepare("accumulate", *pieces))
        moved[f"{blobs:,}"] = 12 * each * blobs  # up to 0.3 % less, for all begin at multiples of 256 bytes
    times = Times(cupy, calls)
    fastest = min(times.seconds, key=times.seconds.__getitem__)
    return [
        times.row(
            f"accumulate, {format_size(nbytes)} in {name}",
            name,
            {"the fastest": fastest},
            {"the fastest": 1 / 1.1},
            nbytes=moved[name],
        )
        for name in calls
    ]


def _adding(add: kernels.Prepared) -> Call:
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
                seconds = host_seconds(cupy, call)
                what = f"{blobs:,} blobs" if blobs > 1 else "1 blob"
                rows.append(Row(f"Python of {name}, {what}", seconds, limit=LARGEST_HOST_TIME))
            del calls
            ours.clear()
            other.clear()
    array = cupy.empty(64, np.float32)
    pieces = kernels.Pieces.of([array])
    prepared = kernels.prepare("zero", pieces)
    prepared()
    seconds = host_seconds(cupy, prepared)
    return [
        *rows,
        Row("Python of a prepared call", seconds, limit=LARGEST_HOST_TIME),
        Row("Python of the launch in it", _launch_seconds(cupy, pieces), limit=LARGEST_LAUNCH_TIME),
    ]


def _launch_seconds(cupy: Any, pieces: kernels.Pieces) -> float:
    """Return the median seconds of the launch alone, cuda.core's and the driver's."""
    from numscope.kernels.cuda_launch import config_for, launch_on, load

    layout = Layout.of(make_plan("zero", pieces))
    kernel = load(layout.form, cupy.cuda.runtime.getDevice())
    config = config_for(layout.form, kernel, layout.tiles)
    run = layout.runs[0]
    one = (int(run[DESTINATION]), int(run[SOURCE]), int(run[LENGTH]), int(run[EXTRA]))
    stream = cupy.cuda.get_current_stream()
    arguments = (0, 0, *one, layout.tiles, 1.0, 0, 0, 0, 0, 0)
    return host_seconds(cupy, lambda: launch_on(stream, config, kernel, *arguments))


def sets(cupy: Any, torch: Any, names: Sequence[str] = tuple(SETS)) -> list[Row]:
    """Time sets of tensors against PyTorch's functions for lists and a loop over CuPy arrays."""
    rng = np.random.default_rng()
    rows = []
    cached = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["l2CacheSize"]
    for set_name in names:
        shapes = SETS[set_name]()
        nbytes = 4 * sum(int(np.prod(shape)) for shape in shapes)
        turns = max(2, -(-2 * cached // nbytes))  # so many that no cache holds them
        _check_room(cupy, set_name, 2 * turns * nbytes)
        copies = [[[drawn(cupy, rng, *shape) for shape in shapes] for _ in range(2)] for _ in range(turns)]
        peers = {**_cupy(cupy, copies), **_torch(torch, copies)}
        times = Times(cupy, {**_ours(copies), **peers}, tuple(peers), turns)
        for name in ("add", "zero", "add, norm, check"):
            least = 1.0 if set_name == SMALL or name == "add, norm, check" else 0.97
            called = {peer: f"{peer} {name}" for peer in ("torch", "cupy")}
            rows.append(
                times.row(f"{set_name}: {name}", f"ours {name}", called, dict.fromkeys(called, least))
            )
        called = {peer: f"{peer} add" for peer in ("torch", "cupy")}
        rows.append(times.row(f"{set_name}: add, by kernels.accumulate", "ours add of lists", called, {}))
    return rows


def _check_room(cupy: Any, set_name: str, nbytes: int) -> None:
    free = cupy.cuda.runtime.memGetInfo()[0]
    if 1.1 * nbytes > free:  # PyTorch and CuPy need room of their own
        raise MemoryError(
            f"{set_name} takes {format_size(nbytes)}, {format_size(free)} are free: free memory of other "
            "processes (nvidia-smi lists them), or use a larger card"
        )


def _ours(copies: _Copies) -> dict[str, Call]:
    pieces = [[kernels.Pieces.of(side) for side in pair] for pair in copies]
    adds = [kernels.prepare("accumulate", *pair) for pair in pieces]
    fused = [kernels.prepare("accumulate", *pair, stats=True) for pair in pieces]
    zeros = [kernels.prepare("zero", pair[0]) for pair in pieces]
    return {
        "ours add": lambda n: adds[n % len(adds)](1e-3),
        "ours add of lists": lambda n: kernels.accumulate(*copies[n % len(copies)], alpha=1e-3),
        "ours zero": lambda n: zeros[n % len(zeros)](),
        "ours add, norm, check": lambda n: fused[n % len(fused)](1e-3),
    }


def _cupy(cupy: Any, copies: _Copies) -> dict[str, Call]:
    def add(n: int) -> None:
        for target, source in zip(*copies[n % len(copies)], strict=True):
            target += source

    def zero(n: int) -> None:
        for target in copies[n % len(copies)][0]:
            target.fill(0)

    def passes(n: int) -> None:
        add(n)
        squares = [(target * target).sum() for target in copies[n % len(copies)][0]]
        float(cupy.stack(squares).sum())  # it is finite if all are

    return {"cupy add": add, "cupy zero": zero, "cupy add, norm, check": passes}


def _torch(torch: Any, copies: _Copies) -> dict[str, Call]:
    if torch is None:
        return {}

    @cache
    def tensors(turn: int) -> list[list[Any]]:  # at the first call, which may fail
        return [[torch.from_dlpack(array) for array in side] for side in copies[turn]]

    def add(n: int) -> None:
        torch._foreach_add_(*tensors(n % len(copies)), alpha=1e-3)

    def passes(n: int) -> None:
        add(n)
        norms = torch._foreach_norm(tensors(n % len(copies))[0])
        torch.stack(norms).sum().item()  # it is finite if all are

    return {
        "torch add": add,
        "torch zero": lambda n: torch._foreach_zero_(tensors(n % len(copies))[0]),
        "torch add, norm, check": passes,
    }
