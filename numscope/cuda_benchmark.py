"""Everything that is to be known of a card in one command: right, clean, and how fast.

``numscope bench --device cuda``, or ``python -m numscope.cuda_benchmark``. The kernels are first held
to the host's bits, then run under compute-sanitizer where that is installed, then timed by device
events against the card's own copy, PyTorch's ``_foreach`` functions and loops over CuPy arrays, which
take turns in random order on data that no cache holds. PyTorch is optional.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from numscope import kernels
from numscope.benchmark.cuda_checks import check
from numscope.benchmark.sets import SETS
from numscope.cuda_device import describe
from numscope.device import resolve_device
from numscope.errors import DeviceUnavailableError
from numscope.gradients import GradientAccumulator

__all__ = ["Row", "as_json", "execute", "main", "table"]

_Copies = list[list[list[Any]]]  # turn, side (target, source), tensor
_Call = Callable[[int], object]

GIB = 1 << 30
SANITIZED_SIZES = (0, 1, 33, 2049, 70_001)
LARGEST_HOST_TIME = 8e-6  # seconds of Python for a prepared call


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


def table(rows: Sequence[Row]) -> Table:
    """Return a table of figures, for a terminal or a text file."""
    shown = Table("what", "us", "GB/s", "speed-up over", "holds", title="numscope on a CUDA device")
    for row in rows:
        peers = [f"{name} {seconds / row.seconds:.2f}" for name, seconds in row.peers.items()]
        wanted = [f"(at least {least:.2f})" if (least := row.wanted.get(name)) else "" for name in row.peers]
        texts = [f"{peer} {least}".strip() for peer, least in zip(peers, wanted, strict=True)]
        if row.limit:
            texts.append(f"at most {row.limit * 1e6:.1f} us")
        shown.add_row(
            row.name,
            f"{row.seconds * 1e6:.1f}",
            f"{row.bandwidth / 1e9:.0f}" if row.nbytes else "",
            ", ".join(texts),
            "yes" if row.holds else "NO",
        )
    return shown


def as_json(rows: Sequence[Row], checks: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, checks and figures as plain values."""
    return {
        "cuda": asdict(describe()),
        "checks": dict(checks),
        "figures": [{**asdict(row), "bandwidth": row.bandwidth, "holds": row.holds} for row in rows],
    }


# --- timing --------------------------------------------------------------------------------------


def _interleave(
    cupy: Any, calls: Mapping[str, Callable[[int], object]], rounds: int = 15
) -> dict[str, float]:
    """Return the median seconds of each call on the device, taken in turns.

    A call gets the number of the round, by which it chooses its data.
    """
    shuffle = random.Random(0).shuffle
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    for number in range(-2, rounds):  # the first two warm up
        shuffle(order)
        for name in order:
            start.record()
            calls[name](number % rounds)
            end.record()
            end.synchronize()
            if number >= 0:
                samples[name].append(cupy.cuda.get_elapsed_time(start, end) * 1e-3)
    return {name: statistics.median(found) for name, found in samples.items()}


def _host_seconds(cupy: Any, call: Callable[[], object], repeats: int = 200) -> float:
    """Return the median seconds of Python that a call takes while the device is not waited for."""
    samples = []
    for _ in range(15):
        cupy.cuda.Device().synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        samples.append((time.perf_counter() - begin) / repeats)
    cupy.cuda.Device().synchronize()
    return statistics.median(samples)


# --- figures -------------------------------------------------------------------------------------


def _large(cupy: Any, torch: Any, device: str) -> list[Row]:
    """Time one piece of 1 GiB: the bandwidth of each operation, and one pass against several."""
    count = GIB // 4
    target, source = (cupy.random.standard_normal(count, dtype=np.float32) for _ in range(2))
    short = cupy.random.standard_normal(count, dtype=np.float32).astype(np.float16)
    words = short.view(np.uint16) & np.uint16(0xBFFF)  # as bfloat16: nothing beyond 2
    of = kernels.Pieces
    to, fro = of.of([target]), of.of([source])
    half = of([words.data.ptr], [count], "bfloat16", device)
    zero, copy = kernels.prepare("zero", to), kernels.prepare("copy", to, fro)
    add, add_half = kernels.prepare("accumulate", to, fro), kernels.prepare("accumulate", to, half)
    fused = kernels.prepare("accumulate", to, half, stats=True)
    calls: dict[str, _Call] = {
        "card": lambda _: target.data.copy_from_device_async(source.data, GIB),
        "zero": lambda _: zero(),
        "copy": lambda _: copy(),
        "accumulate": lambda _: add(1e-3),
        "bfloat16": lambda _: add_half(1e-3),
        "fused": lambda _: fused(1e-3),
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
    per_byte = found["card"] / (2 * GIB)
    rows = [
        Row(f"{name}, 1 GiB", found[name], {"card": per_byte * moved}, {"card": 0.92}, moved)
        for name, moved in (("zero", GIB), ("copy", 2 * GIB), ("accumulate", 3 * GIB))
    ]
    peers, wanted = {"unfused": found["bfloat16"]}, {"unfused": 1 / 1.05}
    if torch is not None:
        peers["torch"], wanted["torch"] = found["torch"], 1.6
    return [*rows, Row("bfloat16 into float32 with statistics", found["fused"], peers, wanted, 10 * count)]


def _splits(cupy: Any, device: str) -> list[Row]:
    """Time the same memory in 1, 100 and 10,000 pieces, and the Python of a call."""
    count = GIB // 8
    target, source = (cupy.random.standard_normal(count, dtype=np.float32) for _ in range(2))
    calls: dict[str, _Call] = {}
    for blobs in (1, 100, 10_000):
        each = count // blobs // 64 * 64
        starts = 4 * each * np.arange(blobs)
        pieces = [kernels.Pieces(starts + a.data.ptr, [each] * blobs, "f4", device) for a in (target, source)]
        add = kernels.prepare("accumulate", *pieces)
        calls[f"{blobs:,}"] = partial(_add, add)
    found = _interleave(cupy, calls)
    rows = [
        Row(f"accumulate, 512 MiB in {name}", seconds, {"in 1": found["1"]}, {"in 1": 0.9}, 12 * count)
        for name, seconds in found.items()
    ]
    small = [cupy.zeros(64, np.float32) for _ in range(10_000)]
    for blobs in (1, 10_000):
        pieces = [kernels.Pieces.of(small[:blobs])] * 2
        call = kernels.prepare("accumulate", *pieces)
        seconds = _host_seconds(cupy, call, 50 if blobs > 1 else 200)
        rows.append(Row(f"Python of a call, {blobs:,} arrays", seconds, limit=LARGEST_HOST_TIME))
    return rows


def _add(add: kernels.Prepared, _: int) -> None:
    add(1e-3)


def _sets(cupy: Any, torch: Any) -> list[Row]:
    """Time sets of tensors against PyTorch's functions for lists and a loop over CuPy arrays."""
    rows = []
    cached = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["l2CacheSize"]
    for set_name, shapes in SETS.items():
        nbytes = 4 * sum(int(np.prod(shape)) for shape in shapes())
        copies = [  # so many that no cache holds them
            [[cupy.random.standard_normal(shape, dtype=np.float32) for shape in shapes()] for _ in range(2)]
            for _ in range(max(2, -(-2 * cached // nbytes)))
        ]
        found = _interleave(cupy, {**_ours(copies), **_cupy(copies), **_torch(torch, copies)})
        for name in ("add", "zero", "add, norm, check"):
            peers = {peer: found[f"{peer} {name}"] for peer in ("torch", "cupy") if f"{peer} {name}" in found}
            least = 1.0 if set_name == "small" or name == "add, norm, check" else 0.97
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


# --- checks --------------------------------------------------------------------------------------


def _sanitize() -> dict[str, str]:
    """Run the table of checks under compute-sanitizer; say so where it is not installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"compute-sanitizer": "not installed (it comes with the CUDA toolkit)"}
    found = {}
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9"]
        command += [sys.executable, "-m", "numscope.cuda_benchmark", "--check-only"]
        run = subprocess.run(command, capture_output=True, text=True)
        found[kind] = (
            "0 errors" if run.returncode == 0 else f"FAILED: {run.stdout[-2000:]}{run.stderr[-2000:]}"
        )
    return found


def _train(device: str) -> str:
    """Run the main job on the card."""
    command = [sys.executable, "-m", "numscope", "run", "--device", device, "--steps", "20"]
    run = subprocess.run(command, capture_output=True, text=True)
    return "ran" if run.returncode == 0 else f"FAILED: {run.stdout[-1000:]}{run.stderr[-1000:]}"


def _train_torch(torch: Any, device: str) -> str:
    """Accumulate the bfloat16 gradients of a PyTorch model in a float32 arena; compare with float64."""
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 64))
    model = model.to(device=device, dtype=torch.bfloat16)
    parameters = dict(model.named_parameters())
    sums = GradientAccumulator({name: tuple(p.shape) for name, p in parameters.items()}, device=device)
    exact = {name: np.zeros(tuple(p.shape)) for name, p in parameters.items()}
    for weight in (1.0, 4.0, 7.0):
        model.zero_grad()
        model(torch.randn(32, 256, device=device, dtype=torch.bfloat16)).square().mean().backward()
        sums.add({name: p.grad for name, p in parameters.items()}, weight=weight)
        for name, p in parameters.items():
            exact[name] += weight / 12 * p.grad.double().cpu().numpy()
    sums.finish()
    worst = max(float(np.abs(sums[name].get() - total).max()) for name, total in exact.items())
    return "exact to float32" if worst < 1e-6 else f"FAILED: off by {worst}"


# --- the command ---------------------------------------------------------------------------------


def execute(device: str = "cuda", json_file: str | None = None) -> int:
    """Check and time a card, print the table, and write JSON to a file; to standard output for ``"-"``.

    Returns
    -------
    int
        0; 1 where a check failed. A figure that does not hold is no failure.

    Raises
    ------
    DeviceUnavailableError
        There is no such card.
    """
    name = resolve_device(device).name
    if not name.startswith("cuda"):
        raise DeviceUnavailableError(f"this benchmark is for a CUDA device, got {device!r}")
    import cupy

    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and not torch.cuda.is_available():
        torch = None
    console = Console(stderr=json_file == "-")
    with cupy.cuda.Device(int(name.partition(":")[2])):
        checks: dict[str, Any] = {"host's bits": check(cupy), **_sanitize(), "numscope run": _train(name)}
        checks["PyTorch model"] = "PyTorch has no CUDA device" if torch is None else _train_torch(torch, name)
        console.print(checks)
        rows = [*_large(cupy, torch, name), *_splits(cupy, name), *_sets(cupy, torch)]
    console.print(table(rows))
    text = json.dumps(as_json(rows, checks), indent=1) + "\n"
    if json_file == "-":
        sys.stdout.write(text)
    elif json_file is not None:
        Path(json_file).write_text(text)
    failed = len(checks["host's bits"]) > 1 or any(str(text).startswith("FAILED") for text in checks.values())
    return int(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="numscope.cuda_benchmark", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write versions, checks and figures there")
    parser.add_argument("--check-only", action="store_true", help="compare with the host, and nothing else")
    options = parser.parse_args(arguments)
    if options.check_only:
        resolve_device(options.device)
        import cupy

        cupy.cuda.set_allocator(None)  # a pool would hide accesses beyond an array from the sanitizer
        found = check(cupy, sizes=SANITIZED_SIZES)
        print("\n".join(found))
        return int(len(found) > 1)
    return execute(options.device, options.json)


if __name__ == "__main__":
    sys.exit(main())
