"""Everything that is to be known of a card in one command: right, clean, and how fast.

``numscope bench --device cuda``, or ``python -m numscope.cuda_benchmark``. The kernels are first held
to the host's bits, then run under compute-sanitizer where that is installed; then the main job runs,
and a PyTorch model whose bfloat16 gradients are summed in float32; then everything is timed
(`numscope.benchmark.cuda_figures`). PyTorch is optional.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from numscope.arena import Arena
from numscope.benchmark import cuda_figures as figures
from numscope.benchmark.cuda_checks import check
from numscope.benchmark.cuda_figures import Row
from numscope.cuda_device import describe, toolchain
from numscope.device import resolve_device
from numscope.errors import DeviceUnavailableError
from numscope.gradients import GradientAccumulator

__all__ = ["Row", "as_json", "execute", "main", "table"]

SANITIZED_SIZES = (0, 1, 33, 2049, 70_001)
PATIENCE = 1800  # seconds for one tool of the sanitizer, or for the main job
TOOLKITS = ("/usr/local/cuda",)
VERSIONS = ("numscope", "numpy", "numba", "torch")


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
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cuda": asdict(describe()),
        "versions": {name: _version(name) for name in VERSIONS} | toolchain(),
        "checks": dict(checks),
        "figures": [{**asdict(row), "bandwidth": row.bandwidth, "holds": row.holds} for row in rows],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- checks --------------------------------------------------------------------------------------


def _sanitizer() -> str | None:
    """Find compute-sanitizer: on the path, or where CUDA's toolkit puts it."""
    roots = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(root) / "bin") for root in (*roots, *TOOLKITS) if root]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def _sanitize(device: str) -> dict[str, str]:
    """Run the table of checks under compute-sanitizer; say so where it is not installed."""
    tool = _sanitizer()
    if tool is None:
        return {"compute-sanitizer": "not installed (it comes with the CUDA toolkit)"}
    module = [sys.executable, "-m", "numscope.cuda_benchmark", "--check-only", "--device", device]
    return {
        kind: _ran([tool, "--tool", kind, "--error-exitcode", "9", *module], "0 errors")
        for kind in ("memcheck", "racecheck")
    }


def _ran(command: Sequence[str], success: str) -> str:
    """Run a command; return what to say of it."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"FAILED: not done after {PATIENCE} seconds"
    return success if run.returncode == 0 else f"FAILED: {run.stdout[-2000:]}{run.stderr[-2000:]}"


def _train_torch(torch: Any, device: str) -> str:
    """Accumulate the bfloat16 gradients of a PyTorch model in a float32 arena; compare with float64."""
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 64))
    model = model.to(device=device, dtype=torch.bfloat16)
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    exact = {name: np.zeros(shape) for name, shape in shapes.items()}
    with Arena("16 MiB", device=device) as arena:
        sums = GradientAccumulator(shapes, arena=arena)
        for weight in (1.0, 4.0, 7.0):
            model.zero_grad()
            model(torch.randn(32, 256, device=device, dtype=torch.bfloat16)).square().mean().backward()
            sums.add({name: p.grad for name, p in parameters.items()}, weight=weight, skip_nonfinite=True)
            for name, p in parameters.items():
                exact[name] += weight / 12 * p.grad.double().cpu().numpy()
        sums.finish()
        off = {name: float(np.abs(sums[name].get() - total).max()) for name, total in exact.items()}
        del sums
    wrong = [name for name, total in exact.items() if not off[name] <= 1e-6 * float(np.abs(total).max())]
    return f"FAILED: {wrong[0]} is off by {off[wrong[0]]}" if wrong else "exact to float32"


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
        main_job = [sys.executable, "-m", "numscope", "run", "--device", name, "--steps", "20"]
        checks: dict[str, Any] = {
            "host's bits": check(cupy),
            **_sanitize(name),
            "numscope run": _ran(main_job, "ran"),
            "PyTorch model": _train_torch(torch, name) if torch else "PyTorch has no CUDA device",
        }
        console.print(checks)
        rows = [
            *figures.large(cupy, torch, name),
            *figures.splits(cupy, name),
            *figures.host_times(cupy, name),
            *figures.sets(cupy, torch),
        ]
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
        name = resolve_device(options.device).name
        import cupy

        cupy.cuda.set_allocator(None)  # a pool would hide accesses beyond an array from the sanitizer
        with cupy.cuda.Device(int(name.partition(":")[2])):
            found = check(cupy, sizes=SANITIZED_SIZES)
        print("\n".join(found))
        return int(len(found) > 1)
    return execute(options.device, options.json)


if __name__ == "__main__":
    sys.exit(main())
