"""The command line. Nothing else imports it."""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numscope import benchmark, cuda_benchmark, datasets, kernels, storage
from numscope.errors import NumscopeError
from numscope.inventory import take_inventory, version_of
from numscope.optimizers import OPTIMIZERS
from numscope.options import at_least, writable
from numscope.sequences import SequenceTraining
from numscope.training import Settings, Training

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

FAILED, WRONG_ARGUMENTS, INTERRUPTED = 1, 2, 130
STDOUT = "-"
TASKS: dict[str, type[Training] | type[SequenceTraining]] = {
    "digits": Training,
    "sequences": SequenceTraining,
}

RUN_HELP = f"""\
Train a classifier on real data: a multi-layer perceptron, or a recurrent net.
Gradients are accumulated over micro-batches whose activations live in arena
scopes.

DATA is a file with features, one row for each example, and one label a row.
Features are standardised; every fifth example is kept for the test.
  .npz, .safetensors  an array of numbers, shape (examples, ...), named
                      {", ".join(datasets.FEATURE_NAMES)};
                      and one of whole numbers, shape (examples,), named
                      {", ".join(datasets.LABEL_NAMES)};
                      in an .npz these may be text as well
  .csv                one example a line: numbers, and a label (a whole number
                      or text) in the column with one of the headings
                      {", ".join(datasets.LABEL_NAMES)},
                      else in the last column; headings may be left out
Without DATA, 1,797 images of 8x8 pixels are used:
{textwrap.fill(datasets.DIGITS_SOURCE, 78)}."""

EPILOG = "Exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted (Ctrl-C)."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        The exit status. Wrong arguments raise SystemExit, as argparse does.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        kernels.get_num_threads()
    except ValueError as error:  # of the environment variable
        parser.error(str(error))
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print(f"numscope {options.name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (NumscopeError, OSError, MemoryError, ImportError) as error:
        print(f"numscope {options.name}: error: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="numscope",
        description="Scopes of small tensors in one preallocated arena, with exact gradient accumulation.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"numscope {version_of('numscope')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    info = commands.add_parser(
        "info",
        help="show versions, processor, threads, arenas and devices",
        description="Show versions, processor features, threads, arenas and devices.",
        epilog=EPILOG,
    )
    _add_json(info)
    info.set_defaults(command=_info, name="info")
    bench = commands.add_parser(
        "bench",
        help="time the kernels against NumPy, CuPy and PyTorch",
        description=benchmark.__doc__,
        epilog=EPILOG,
    )
    benchmark.add_arguments(bench)
    bench.add_argument(
        "--device",
        type=_device,
        default="cpu",
        help="cpu; cuda, cuda:N: check a card and time all of it; of the options only --json and --markdown "
        "count (default: cpu)",
    )
    bench.add_argument(
        "--markdown",
        type=writable,
        metavar="FILE",
        help="write what is found out about a card as a page with tables (with --device cuda)",
    )
    bench.set_defaults(command=_bench, name="bench")
    return parser


def _add_run(commands: Any) -> None:
    defaults = Training.defaults
    run = commands.add_parser(
        "run",
        help="train a classifier with accumulated gradients",
        description=RUN_HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not said is the task's own to choose
    )
    run.add_argument("data", metavar="DATA", nargs="?", default=None, help="default: the handwritten digits")
    add = run.add_argument
    add(
        "--task",
        choices=sorted(TASKS),
        default="digits",
        help="digits: a perceptron; sequences: a recurrent net that reads square images row by row, each cut "
        "at a random length (default: %(default)s)",
    )
    add(
        "--device",
        type=_device_or_auto,
        help=f"cpu, cuda, cuda:N; auto: a GPU if there is one, else cpu (default: {defaults.device})",
    )
    add(
        "--micro-batch",
        type=at_least(1),
        metavar="N",
        help=f"examples in a micro-batch (default: {_defaults('micro_batch')})",
    )
    add(
        "--accumulate",
        type=at_least(1),
        metavar="N",
        help=f"micro-batches in a step (default: {_defaults('accumulate')})",
    )
    add("--steps", type=at_least(1), metavar="N", help=f"default: {_defaults('steps')}")
    rates = ", ".join(f"{kind.default_lr:g} for {name}" for name, kind in OPTIMIZERS.items())
    add("--lr", type=_positive, metavar="RATE", help=f"learning rate (default: {rates})")
    widths = ",".join(map(str, defaults.hidden))
    add(
        "--hidden",
        type=_widths,
        metavar="N[,N...]",
        help=f"widths of the hidden layers (default: {widths})",
    )
    add(
        "--optimizer",
        choices=sorted(OPTIMIZERS),
        help=f"sgd is with momentum (default: {defaults.optimizer})",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help=f"of a micro-batch's gradients, which are summed in float32 (default: {defaults.dtype})",
    )
    add(
        "--max-norm",
        type=_positive,
        metavar="NORM",
        help=f"clip the gradient to this L2 norm (default: {defaults.max_norm})",
    )
    add("--seed", type=at_least(0), metavar="N", help=f"default: {defaults.seed}")
    add(
        "--save",
        type=_saved,
        default=None,
        metavar="FILE",
        help="write the parameters to this safetensors file; also what an interrupted run came to",
    )
    _add_json(run)
    run.set_defaults(command=_run, name="run")


def _defaults(field: str) -> str:
    """Return a setting's default, and what other tasks have instead."""
    values = {task: getattr(kind.defaults, field) for task, kind in TASKS.items()}
    return "; ".join([str(values.pop("digits")), *(f"{task}: {value}" for task, value in values.items())])


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json",
        nargs="?",
        default=None,
        const=STDOUT,
        type=_json_target,
        metavar="FILE",
        help="write the results as JSON; without FILE to standard output, and nothing else there",
    )


def _run(options: argparse.Namespace) -> int:
    from numscope.reporting import ProgressView, as_json, report_table, report_values

    task = TASKS[options.task]
    given = {f.name: getattr(options, f.name) for f in fields(Settings) if hasattr(options, f.name)}
    settings = replace(task.defaults, **given)
    if options.data is None:
        dataset = datasets.digits(settings.seed)
    else:
        dataset = datasets.load(options.data, settings.seed)
    console = _console(options.json)
    training = task(dataset, settings)
    with ProgressView(console, settings.steps) as progress, _stop_on_interrupt() as stop:
        for step in training.steps():
            progress.show(step)
            if stop.is_set():
                break
    stopped = stop.is_set()
    report = training.report()
    if options.save is not None:
        training.save(options.save)
    if options.json is not None:
        _write_json(options.json, as_json(report_values(training, report, stopped)))
    console.print(report_table(training, report, stopped))
    return INTERRUPTED if stopped else 0


def _info(options: argparse.Namespace) -> int:
    from numscope.reporting import as_json, values_table

    values = take_inventory()
    if options.json is not None:
        _write_json(options.json, as_json(values))
    if options.json != STDOUT:
        _console(options.json).print(values_table("numscope info", values))
    return 0


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Set an event at the first Ctrl-C, so that the step under way is finished; the second one raises."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield event
        return

    def stop(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _console(json_target: str | None) -> Console:
    """Return where people read: standard error where standard output is JSON's."""
    from rich.console import Console

    return Console(stderr=json_target == STDOUT)


def _write_json(target: str, text: str) -> None:
    if target == STDOUT:
        print(text, flush=True)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _widths(text: str) -> tuple[int, ...]:
    return tuple(at_least(1)(part.strip()) for part in text.split(","))


def _bench(options: argparse.Namespace) -> int:
    if options.device.startswith("cuda"):
        return cuda_benchmark.execute(options.device, options.json, options.markdown)
    if options.markdown is not None:
        print("numscope bench: error: --markdown is for a card: add --device cuda", file=sys.stderr)
        return WRONG_ARGUMENTS
    return benchmark.execute(options)


def _device(text: str, others: str = "") -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected {others}cpu, cuda or cuda:N, got {text!r}")
    return text


def _device_or_auto(text: str) -> str:
    return text if text == "auto" else _device(text, "auto, ")


def _json_target(text: str) -> str:
    if Path(text).suffix.lower() in datasets.SUFFIXES:
        raise argparse.ArgumentTypeError(
            f"{text!r} has the suffix of a DATA file and would be overwritten; put DATA before --json"
        )
    return text if text == STDOUT else str(writable(text))


def _saved(text: str) -> Path:
    path = writable(text)
    try:
        storage.check_target(path)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path
