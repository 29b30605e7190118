"""Fixtures that all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import numscope as ns


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
def no_gc() -> Iterator[None]:
    """Switch the garbage collector off: what is freed then was freed by reference counts."""
    gc.disable()
    yield
    gc.enable()
