"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from reference_gradients import SHAPES

import numscope as ns


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Let SIGINT interrupt: a shell without job control has it ignored by what is started with ``&``."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that is there."""
    if request.param == "cuda" and not ns.cuda_available():
        pytest.skip("no CUDA device")
    return str(request.param)


@pytest.fixture
def arena() -> ns.Arena:
    """A fresh arena of the host."""
    return ns.Arena("4 MiB")


@pytest.fixture
def ws(arena: ns.Arena) -> ns.Workspace:
    """A workspace in a fresh arena of the host."""
    return ns.Workspace(arena=arena, name="main")


@pytest.fixture
def acc(arena: ns.Arena) -> ns.GradientAccumulator:
    """An accumulator of a few small blobs on the host."""
    return ns.GradientAccumulator(SHAPES, arena=arena)


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Switch the garbage collector off: what is freed then was freed by reference counts."""
    gc.disable()
    yield
    gc.enable()
