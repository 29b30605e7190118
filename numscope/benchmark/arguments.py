"""The options of the benchmark. All that can be wrong with them is found before anything is timed."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from numscope.benchmark.compiled import FORMS
from numscope.benchmark.operations import OPERATIONS
from numscope.benchmark.sets import SETS
from numscope.options import at_least, writable

__all__ = ["add_arguments"]

_DRAWINGS = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmark to a parser."""
    parser.add_argument("--set", dest="sets", action="append", choices=tuple(SETS), help="default: all")
    parser.add_argument("--threads", type=at_least(1), action="append", metavar="N", help="default: 1 and 2")
    parser.add_argument(
        "--rounds", type=at_least(2), default=9, metavar="N", help="samples of each competitor (default: 9)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=OPERATIONS,
        metavar="OPERATION",
        help="time one row of the table alone; may be given again; by its name: " + "; ".join(OPERATIONS),
    )
    parser.add_argument(
        "--compile",
        choices=FORMS,
        default="flat",
        help="what torch.compile makes programs for: flat, the flat buffers, a second each; lists, the lists "
        "of tensors as well, up to a minute each for 161 tensors and many for 1,000 (default: flat)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        type=_json,
        metavar="FILE",
        help="write all samples as JSON; without FILE to standard output, and nothing else there",
    )
    parser.add_argument(
        "--plot",
        type=_drawing,
        metavar="FILE",
        help=f"draw the ratios, as {', '.join(_DRAWINGS)} (needs matplotlib)",
    )


def _json(text: str) -> str:
    return text if text == "-" else str(writable(text))


def _drawing(text: str) -> Path:
    path = writable(text)
    if path.suffix.lower() not in _DRAWINGS:
        raise argparse.ArgumentTypeError(f"expected a file name with {', '.join(_DRAWINGS)}, got {text!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("drawing needs matplotlib: pip install 'numscope[viz]'")
    return path
