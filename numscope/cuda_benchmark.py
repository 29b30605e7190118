"""Everything that is to be known of a card in one command: right, clean, and how fast.

``numscope bench --device cuda``. The kernels are first held to the host's bits, then run under
compute-sanitizer where that is installed; then everything is timed (`numscope.benchmark.cuda_figures`);
then the main job runs, and a PyTorch model whose bfloat16 gradients are summed in float32. PyTorch is
optional. Each step is a process of its own with a limit of time: one that fails or hangs leaves the card
and the time to the others, and what was found so far is written after each.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from numscope.arena import Arena
from numscope.benchmark import cuda_figures as figures
from numscope.benchmark.cuda_checks import check
from numscope.benchmark.cuda_commands import run, sanitize
from numscope.benchmark.cuda_report import Check, Row, as_markdown, as_values, lines_of, tables
from numscope.cuda_device import describe, driver_release, toolchain
from numscope.device import resolve_device
from numscope.errors import DeviceUnavailableError
from numscope.gradients import GradientAccumulator
from numscope.reporting import as_json

__all__ = ["execute", "main"]

SANITIZED_SIZES = (0, 1, 33, 2049, 70_001)
PACKAGES = ("numscope", "numpy", "numba", "torch")
WIDTH = 180  # columns, where the output is no terminal
MOST_FAULTS = 10  # that are named
DIFFERS = 3  # exit status of a step that ran and found a fault

_KERNELS, _SANITIZED, _MAIN_JOB = "kernels", "sanitized kernels", "main job"
_SANITIZER = dict.fromkeys(("memcheck", "racecheck"), 150.0)

LIMITS = {
    _KERNELS: 300.0,
    **_SANITIZER,
    **dict.fromkeys(("1 GiB", "many blobs", "Python", "small", "resnet50", "gpt2"), 90.0),
    _MAIN_JOB: 120.0,
    "PyTorch model": 90.0,
}
"""The steps in their order, and the seconds that each has: all that is usual several times over."""

_Found = list[Check | Row]


@dataclass
class _Record:
    """What was found so far, and what is still to be done."""

    facts: dict[str, Any]
    left: list[str]
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def add(self, found: _Found) -> None:
        self.checks += [one for one in found if isinstance(one, Check)]
        self.rows += [one for one in found if isinstance(one, Row)]

    def json(self) -> str:
        return as_json({**as_values(self.facts, self.checks, self.rows), "steps_not_done": self.left}) + "\n"

    def markdown(self) -> str:
        left = {"steps not done": ", ".join(self.left)} if self.left else {}
        return as_markdown({**self.facts, **left}, self.checks, self.rows)


def _facts(device: str) -> dict[str, Any]:
    """Return what a reader must know of the machine."""
    state = describe()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"numscope bench --device {device}",
        "card": state.cards[int(device.partition(":")[2])],
        "system": platform.platform(),
        "python": platform.python_version(),
        "driver": driver_release(),
        "cuda": {"driver": state.driver, "runtime": state.runtime},
        "versions": {name: _version(name) for name in PACKAGES} | state.versions | toolchain(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- steps, each in a process of its own -----------------------------------------------------------


def _check_kernels(cupy: Any, torch: Any, device: str) -> _Found:
    return [_named(check(cupy))]


def _check_sanitized(cupy: Any, torch: Any, device: str) -> _Found:
    cupy.cuda.set_allocator(None)  # a pool would hide accesses beyond an array from the sanitizer
    return [_named(check(cupy, sizes=SANITIZED_SIZES))]


def _named(found: list[str]) -> Check:
    *faults, count = found
    text = "; ".join([count, *faults[:MOST_FAULTS]])
    return Check("kernels and statistics have the host's bits", text, not faults)


def _train_torch(cupy: Any, torch: Any, device: str) -> _Found:
    """Accumulate the bfloat16 gradients of a PyTorch model in a float32 arena; compare with float64."""
    name = "PyTorch model: bfloat16 gradients in a float32 arena"
    if torch is None:
        return [Check(name, "PyTorch is not installed, or sees no CUDA device", None)]
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
            for parameter, p in parameters.items():
                exact[parameter] += weight / 12 * p.grad.double().cpu().numpy()
        sums.finish()
        off = {
            parameter: float(np.abs(cupy.asnumpy(sums[parameter]) - total).max() / np.abs(total).max())
            for parameter, total in exact.items()
        }
        del sums
    worst = max(off, key=off.__getitem__)
    return [Check(name, f"{worst} is off by {off[worst]:.1e} of its largest", max(off.values()) <= 1e-6)]


STEPS: dict[str, Callable[[Any, Any, str], _Found]] = {
    _KERNELS: _check_kernels,
    _SANITIZED: _check_sanitized,
    "1 GiB": lambda cupy, torch, device: [*figures.large(cupy, torch, device)],
    "many blobs": lambda cupy, torch, device: [*figures.splits(cupy, device)],
    "Python": lambda cupy, torch, device: [*figures.host_times(cupy, device)],
    "small": lambda cupy, torch, device: [*figures.sets(cupy, torch, ["small"])],
    "resnet50": lambda cupy, torch, device: [*figures.sets(cupy, torch, ["resnet50"])],
    "gpt2": lambda cupy, torch, device: [*figures.sets(cupy, torch, ["gpt2"])],
    "PyTorch model": _train_torch,
}
"""What runs in this module's own processes."""


def _run_here(step: str, device: str) -> _Found:
    """Do a step in this process."""
    import cupy

    number = int(device.partition(":")[2])
    with cupy.cuda.Device(number):
        try:
            return STEPS[step](cupy, _torch(number), device)
        except MemoryError as error:  # also of a card
            return [Check(step, f"out of memory: {error}", None)]


def _torch(number: int) -> Any:
    """Return PyTorch if it can use the card."""
    try:
        import torch
    except (ImportError, OSError):  # a library that it is linked to is missing
        return None
    if not torch.cuda.is_available():
        return None
    torch.cuda.set_device(number)
    return torch


def _as_text(found: _Found) -> str:
    return json.dumps([[type(one).__name__, asdict(one)] for one in found])


def _from_text(text: str) -> _Found:
    """Read what a step found from its output, where libraries may have had their say as well."""
    kinds: dict[str, Callable[..., Check | Row]] = {"Check": Check, "Row": Row}
    line = next(line for line in reversed(text.splitlines()) if line.startswith("[["))
    return [kinds[kind](**values) for kind, values in json.loads(line)]


# --- the command -----------------------------------------------------------------------------------


def _do(step: str, device: str) -> _Found:
    """Do a step in a process of its own."""
    limit = LIMITS[step]
    if step in _SANITIZER:
        return [sanitize(step, _command(_SANITIZED, device), limit)]
    if step == _MAIN_JOB:
        return [_run_main_job(device, limit)]
    done = run(_command(step, device), limit)
    if done.status in (0, DIFFERS):
        return _from_text(done.output)
    return [Check(step, done.trouble, False)]


def _command(step: str, device: str) -> list[str]:
    return [sys.executable, "-m", "numscope.cuda_benchmark", "--step", step, "--device", device]


def _run_main_job(device: str, limit: float) -> Check:
    command = [sys.executable, "-m", "numscope", "run", "--device", device, "--steps", "20", "--json"]
    done = run(command, limit)
    name = "numscope run, 20 steps"
    if done.status != 0:
        return Check(name, done.trouble, False)
    found = json.loads(done.output)
    rate, off = found["examples_per_second"] or 0.0, found["largest_difference"] or 0.0
    text = f"test accuracy {found['accuracy']:.4f}, {rate:,.0f} examples/s, gradients off by {off:.1e}"
    return Check(name, text, True)


def execute(device: str = "cuda", json_file: str | None = None, markdown_file: Path | None = None) -> int:
    """Check and time a card, print tables, and write JSON to a file; to standard output for ``"-"``.

    Parameters
    ----------
    device : str
    json_file : str, optional
    markdown_file : Path, optional
        Written after each step: what ends the command leaves what was found so far.

    Returns
    -------
    int
        0; 1 where a check failed. A figure that is missed is no failure.

    Raises
    ------
    DeviceUnavailableError
        There is no such card.
    """
    name = resolve_device(device).name
    if not name.startswith("cuda"):
        raise DeviceUnavailableError(f"this benchmark is for a CUDA device, got {device!r}")
    console = Console(stderr=json_file == "-")
    if not console.is_terminal:
        console.width = WIDTH
    record = _Record(_facts(name), list(LIMITS))
    for line in lines_of(record.facts):
        console.print(escape(line), highlight=False)
    try:
        with _termination_interrupts():
            while record.left:
                step = record.left[0]
                console.print(escape(f"{step} (at most {LIMITS[step]:.0f} s) ..."), highlight=False)
                found = _do(step, name)
                record.add(found)
                del record.left[0]
                for one in found:
                    console.print(escape("  " + "  ".join(filter(None, one.texts))), highlight=False)
                _write(record, json_file, markdown_file)
    finally:
        for table in tables(record.checks, record.rows):
            console.print(table)
        if json_file == "-":
            sys.stdout.write(record.json())
    return int(any(one.passed is False for one in record.checks))


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Take SIGTERM, as `timeout` sends it, for Ctrl-C: else the step under way would stay on the card."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(record: _Record, json_file: str | None, markdown_file: Path | None) -> None:
    if json_file not in (None, "-"):
        Path(str(json_file)).write_text(record.json(), encoding="utf-8")
    if markdown_file is not None:
        markdown_file.write_text(record.markdown(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one step, and write what is found as a line of JSON."""
    parser = argparse.ArgumentParser(prog="numscope.cuda_benchmark", description=main.__doc__)
    parser.add_argument("--device", required=True, help="cuda:N")
    parser.add_argument("--step", required=True, choices=tuple(STEPS))
    options = parser.parse_args(arguments)
    found = _run_here(options.step, resolve_device(options.device).name)
    print(_as_text(found))
    return DIFFERS if any(isinstance(one, Check) and one.passed is False for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
