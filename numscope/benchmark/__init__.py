"""Time the kernels against NumPy and PyTorch, side by side in one process.

Every competitor's result is first compared with float64; then samples are taken in turns, in random
order, and medians compared. PyTorch is optional, and torch.compile needs a C++ compiler; the machine's
limits need a C compiler. What is missing is left out, and the output says so.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from numscope import kernels
from numscope.benchmark import costs
from numscope.benchmark.arguments import add_arguments
from numscope.benchmark.compiled import compiler, forget
from numscope.benchmark.limits import LIMITS, build, limits
from numscope.benchmark.operations import Operation, operations
from numscope.benchmark.report import Row, as_json, plot, tables
from numscope.benchmark.sets import SETS
from numscope.benchmark.slabs import HAS_TORCH, Slabs
from numscope.benchmark.timing import interleave
from numscope.inventory import describe_processor

__all__ = ["add_arguments", "execute", "main", "run"]

_PEERS_NORM = 5e-2
"""Relative error allowed to the peers' norms: they sum in float32, and are 1.3 % off for GPT-2."""

_WIDTH = 180
"""Columns of a table that is written to a file."""


def describe_machine() -> dict[str, Any]:
    """Return what a reader must know of the machine: processor, caches, versions."""
    names = ("numscope", "numpy", "numba", "llvmlite", *(("torch",) if HAS_TORCH else ()))
    return {
        "processor": describe_processor()["model"],
        "processors": os.cpu_count(),
        "last_level_cache": kernels.machine.last_level_cache(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def verify(slabs: Slabs, operation: Operation) -> None:
    """Compare what every competitor leaves behind with float64.

    Raises
    ------
    AssertionError
        Naming the competitor: a time without the result is none.
    """
    competitors = {"numscope": operation.ours, **operation.lists, **operation.flats, **operation.compiled}
    for name, call in competitors.items():
        slabs.restore()
        returned = call()
        what = f"{operation.name} by {name}"
        if operation.expected is not None:
            wrong = np.abs(slabs.windows(operation.changes) - operation.expected(slabs.first_windows)).max()
            if not wrong <= operation.tolerance:
                raise AssertionError(f"{what} is off by {wrong}, allowed are {operation.tolerance}")
        if operation.norm_of:
            exact = slabs.exact_norm(operation.norm_of)
            allowed = 1e-8 if name == "numscope" else _PEERS_NORM
            if not abs(returned - exact) <= allowed * exact:
                raise AssertionError(f"{what} has the norm {returned}, exact is {exact}")


def run(
    sets: Sequence[str] = tuple(SETS),
    threads: Sequence[int] = (1, 2),
    *,
    rounds: int = 9,
    only: Sequence[str] = (),
    compiled: str = "flat",
    progress: Callable[[str], None] = lambda text: None,
    leave_out: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Verify and time all operations.

    Parameters
    ----------
    sets : sequence of str
        Of ``"small"``, ``"resnet50"`` and ``"gpt2"``.
    threads : sequence of int
    rounds : int
        Samples of each competitor.
    only : sequence of str
        Of `OPERATIONS`; all by default.
    compiled : str
        What PyTorch is to compile, of `FORMS`: nothing, the flat buffers, or the lists as well.
    progress : callable
        Told what comes next.
    leave_out : callable
        Told what is left out and why.
    """
    rows = []
    before = kernels.get_num_threads()
    progress("preparing")
    with _tools(compiled, leave_out) as (library, form):
        for set_name in sets:
            slabs = Slabs(SETS[set_name]())
            wanted = [row for row in operations(slabs, form) if not only or row.name in only]
            for number, count in enumerate(threads):
                _set_threads(count)
                loops = limits(library, slabs, count)
                for operation in wanted:
                    progress(f"{set_name}, {count} threads: {operation.name}")
                    if operation.compiled:
                        forget()
                    if number == 0:
                        verify(slabs, operation)
                    rows.append(_time(slabs, operation, set_name, count, loops, rounds))
    _set_threads(before)
    return rows


@contextmanager
def _tools(compiled: str, leave_out: Callable[[str], None]) -> Iterator[tuple[ctypes.CDLL | None, str]]:
    """Get the compilers ready: the loops in C, and what PyTorch is to compile (nothing where it cannot)."""
    if not HAS_TORCH:
        leave_out("PyTorch is left out: it is not installed")
    with tempfile.TemporaryDirectory() as name:
        library = build(Path(name))
        if library is None:
            leave_out("the machine's limits are left out: they need x86-64 and a C compiler, cc")
        if compiled == "none" or not HAS_TORCH:
            yield library, "none"
            return
        with compiler() as trouble:
            if trouble:
                leave_out(f"torch.compile is left out: {trouble}")
            yield library, "none" if trouble else compiled


def _set_threads(count: int) -> None:
    kernels.set_num_threads(count)
    if HAS_TORCH:
        import torch

        torch.set_num_threads(count)


def _time(
    slabs: Slabs,
    operation: Operation,
    set_name: str,
    threads: int,
    loops: dict[str, Callable[[], object]],
    rounds: int,
) -> Row:
    slabs.restore()
    calls = {"ours": operation.ours}
    calls |= {f"list {name}": call for name, call in operation.lists.items()}
    calls |= {f"flat {name}": call for name, call in operation.flats.items()}
    calls |= {f"compiled {name}": call for name, call in operation.compiled.items()}
    limiting = [name for name in LIMITS.get(operation.name, ()) if name in loops]
    calls |= {f"limit {name}": loops[name] for name in limiting}
    samples = interleave(calls, rounds=rounds)
    return Row(
        set_name,
        threads,
        operation.name,
        samples["ours"],
        {name: samples[f"list {name}"] for name in operation.lists},
        {name: samples[f"flat {name}"] for name in operation.flats},
        min((samples[f"limit {name}"] for name in limiting), key=lambda found: found.median, default=None),
        {name: samples[f"compiled {name}"] for name in operation.compiled},
    )


def _costs(threads: Sequence[int], tell: Callable[[str], None]) -> dict[str, Any]:
    """Time single calls, and scopes of few and many blobs; tell a line for each, and return them."""
    single = costs.of_calls()
    tell("one array of 100: " + ", ".join(f"{name} {cost * 1e6:.2f} us" for name, cost in single.items()))
    found: dict[str, Any] = {"one array of 100": single}
    before = kernels.get_num_threads()
    blobs = " / ".join(f"{number:,}" for number in costs.BLOBS)
    for count, total in itertools.product(threads, costs.TOTALS):
        _set_threads(count)
        what = f"{total:,} elements in {blobs} blobs, {count}T"
        found[what] = several = costs.of_blobs(total)
        for name, seconds in several.items():
            times = " / ".join(f"{cost * 1e6:,.0f}" for cost in seconds)
            tell(f"{what}, {name}: {times} us, the last {seconds[-1] / seconds[0]:.2f} of the first")
    _set_threads(before)
    return found


def execute(options: argparse.Namespace) -> int:
    """Run the benchmark with parsed options, print its tables, write its files; return the exit status."""
    console = Console(stderr=options.json == "-")
    if not console.is_terminal:
        console.width = _WIDTH
    machine = describe_machine()
    left_out: list[str] = []
    threads = options.threads or (1, 2)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    with console.status("benchmark") as status:
        rows = run(
            options.sets or tuple(SETS),
            threads,
            rounds=options.rounds,
            only=options.only,
            compiled=options.compile,
            progress=status.update,
            leave_out=left_out.append,
        )
    for text in left_out:
        console.print(text)
    for table in tables(rows):
        console.print(table)
    found = {} if options.only else _costs(threads, console.print)
    if options.json:
        text = as_json(machine, rows, found, left_out)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text)
    if options.plot:
        plot(machine, rows, options.plot)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    return execute(parser.parse_args(arguments))
