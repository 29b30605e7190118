"""Run commands with a limit of time, and kernels under compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from numscope.benchmark.cuda_report import Check

__all__ = ["Finished", "find_sanitizer", "run", "sanitize"]

TOOLKITS = ("/usr/local/cuda",)
PACKAGES = ("nvidia/cu13",)  # in pip's package for CUDA 12 the tool is not executable
INSTALL = "pip install nvidia-cuda-sanitizer-api (for CUDA 12: the CUDA toolkit)"
CANNOT_START = 126  # as shells have it
_LONGEST = 1500  # characters of a failed command's output that are shown


@dataclass(frozen=True)
class Finished:
    """What a command came to.

    Attributes
    ----------
    status : int or None
        None: it was not done in time.
    output, errors : str
    limit : float
        Seconds that it had.
    """

    status: int | None
    output: str
    errors: str
    limit: float

    @property
    def trouble(self) -> str:
        """Say why there is no result: the last that the command said."""
        said = f"{self.output}\n{self.errors}".strip()[-_LONGEST:]
        if self.status is None:
            return f"not done after {self.limit:g} seconds {said}".strip()
        return said or f"exit status {self.status}"


def run(command: Sequence[str], limit: float) -> Finished:
    """Run a command, and end it and all that it started when its time is over.

    Killing the sanitizer alone would leave the program that it looks at on the card.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:  # a tool for another processor
        return Finished(CANNOT_START, "", str(error), limit)
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _end(process)
        output, errors = process.communicate()
        return Finished(None, output, errors, limit)
    except BaseException:  # Ctrl-C does not reach another session
        _end(process)
        process.communicate()
        raise
    return Finished(process.returncode, output, errors, limit)


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def find_sanitizer() -> str | None:
    """Find compute-sanitizer: on the path, or where CUDA's toolkit or pip puts it."""
    site = Path(sysconfig.get_path("purelib"))
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), *TOOLKITS]
    roots += [str(site / package) for package in PACKAGES]
    folders = [str(Path(root) / "bin") for root in roots if root]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def sanitize(kind: str, command: Sequence[str], limit: float) -> Check:
    """Run a command under a tool of compute-sanitizer, ``"memcheck"`` or ``"racecheck"``.

    What counts is the tool's own summary. Without one it could not look, which with some options and
    versions has the exit status 0; that is no error of a kernel's either.
    """
    name = f"compute-sanitizer {kind}"
    tool = find_sanitizer()
    if tool is None:
        return Check(name, f"compute-sanitizer is not installed: {INSTALL}", None)
    options = ["--tool", kind, "--error-exitcode", "9", "--target-processes", "application-only"]
    options += ["--launch-timeout", "60"]  # of old versions 10, which a cold start of Python may take
    if kind == "memcheck":
        # cuda.bindings asks the driver for functions that an older one lacks, which would count as errors.
        options += ["--report-api-errors", "no"]
    done = run([tool, *options, *command], limit)
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.output)
    if summary is None:
        return Check(name, f"no verdict: {done.trouble}", False if done.status is None else None)
    clean = done.status == 0 and re.search(r"\b[1-9]\d* (?:error|hazard)", summary[1]) is None
    found = summary[1].strip()
    return Check(
        name, found if clean else f"{found}: {done.output[:_LONGEST]}{done.errors[-_LONGEST:]}", clean
    )
