"""Calls on the same CuPy arrays again, over memory that is not looked at: there need not be a card."""

from __future__ import annotations

import gc

import numpy as np
import pytest

cupy = pytest.importorskip("cupy")
recent = pytest.importorskip("numscope.kernels.cuda_recent")

OPTIONS = {"beta": 1.0, "zero_source": False, "stats": False, "nontemporal": None}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Nothing is remembered yet."""
    known = {}
    monkeypatch.setattr(recent, "_known", known)
    return known


def arrays(count):
    memory = cupy.cuda.UnownedMemory(1 << 20, 1 << 20, object(), 0)
    return [cupy.ndarray((4,), np.float32, cupy.cuda.MemoryPointer(memory, 256 * n)) for n in range(count)]


def remember(operation, dst, src, used=None, **options):
    called = []
    given = list(dst) + list(src or [])
    recent.remember(operation, dst, src, OPTIONS | options, given if used is None else used, called.append)
    return called


def test_the_same_arrays_find_their_kernel(monkeypatch):
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda device: None)
    monkeypatch.setattr(recent.streams, "others", lambda device, stream: [])
    a, b, c, d = arrays(4)
    called = remember("accumulate", [a, b], [c, d])
    recent.find("accumulate", (a, b), [c, d], OPTIONS)(0.5)
    assert called == [0.5]


def test_arrays_may_die_after_a_call_where_there_are_several_streams(monkeypatch):
    given_back = []
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda device: None)
    monkeypatch.setattr(recent.streams, "others", lambda device, stream: ["another"])
    monkeypatch.setattr(recent.cuda_arrays, "give_back", lambda *arguments: given_back.append(arguments))
    a, b = arrays(2)
    remember("copy", [a], [b])
    recent.find("copy", a, b, OPTIONS)(1.0)
    assert len(given_back) == 1
    assert [array is expected for array, expected in zip(given_back[0][0], (a, b), strict=True)] == [True] * 2
    assert given_back[0][1] == "cuda:0"


def test_anything_else_does_not():
    a, b, c, d = arrays(4)
    remember("accumulate", [a, b], [c, d])
    for operation, dst, src, options in (
        ("copy", [a, b], [c, d], {}),
        ("accumulate", [a, b], [d, c], {}),
        ("accumulate", [a], [b, c, d], {}),  # as many arrays, of which these are destinations
        ("accumulate", [a, b], [c, d], {"stats": True}),
        ("accumulate", [a, b], [c, d], {"stats": []}),  # which cannot be hashed
        ("accumulate", [a, b], [c, d.view()], {}),
    ):
        assert recent.find(operation, dst, src, OPTIONS | options) is None


def test_copies_and_what_is_not_cupys_are_not_remembered(known):
    a, b = arrays(2)
    remember("copy", [a], [b], used=[a, b.view()])
    remember("copy", [a], [np.zeros(4, "f4")])
    assert not known


def test_arrays_that_die_are_forgotten(known, no_gc):
    a, b = arrays(2)
    remember("copy", [a], [b])
    del b
    assert not known
    remember("zero", [a], None)
    assert len(known) == 1
    del a
    assert not known
    gc.collect()


def test_only_so_many_are_remembered(known, monkeypatch):
    monkeypatch.setattr(recent, "_MOST", 3)
    kept = arrays(10)
    for array in kept:
        remember("zero", [array], None)
    assert 0 < len(known) <= 3
    assert recent.find("zero", kept[-1], None, OPTIONS) is not None
