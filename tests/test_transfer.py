"""A workspace on another device, or another arena: a copy that shares nothing."""

from __future__ import annotations

import numpy as np
import pytest

import numscope as ns
from numscope.transfer import transfer


@pytest.fixture
def source():
    with ns.Arena("1 MiB") as arena:
        ws = ns.Workspace(arena=arena, name="train")
        rng = np.random.default_rng(0)
        for name, shape, dtype in (("a", (3, 5), "f4"), ("b", 300, "f8"), ("c", 0, "f4"), ("d", (), "i8")):
            ws[name] = (rng.standard_normal(shape) * 100).astype(dtype)
        ws["title"] = "text"
        ws.create_blob("nothing")
        yield ws
        ws.clear()


def check(copy, source):
    assert copy.local_blobs() == source.local_blobs()
    for name in source:
        assert np.array_equal(copy.fetch(name), source.fetch(name))
    assert copy["a"].dtype == np.float32
    source["a"][...] = -1
    assert copy.fetch("a").max() > -1


def test_everything_is_copied_and_nothing_is_shared(source):
    with ns.Arena("1 MiB") as arena:
        copy = ns.Workspace(arena=arena)
        transfer(source, copy)
        check(copy, source)
        copy.clear()


def test_one_copy_for_what_lies_side_by_side(source, monkeypatch):
    device = source._region.device
    copies = []
    whole = type(device).to_host

    def counted(self, array, out=None):
        copies.append(array.nbytes)
        return whole(self, array, out)

    with ns.Arena("1 MiB") as arena:
        copy = ns.Workspace(arena=arena)
        monkeypatch.setattr(type(device), "to_host", counted)
        transfer(source, copy)
        assert len(copies) == 1
        monkeypatch.undo()
        source.remove_blob("b")
        again = ns.Workspace(arena=arena)
        transfer(source, again)
        check(again, source)
        del again
        copy.clear()


def test_too_little_room_leaves_the_target_empty(source):
    with ns.Arena("256", device="cpu") as arena:
        copy = ns.Workspace(arena=arena)
        with pytest.raises(ns.ArenaExhausted, match="all of 'train'"):
            transfer(source, copy)
        assert copy.is_empty()


def test_a_workspace_moves_to_a_device(source, device):
    moved = source.to(device)
    assert (moved is source) == (device == "cpu")
    if moved is not source:
        check(moved, source)
        check(moved.to("cpu"), moved)


def test_devices_that_are_not_there(source):
    with pytest.raises(ns.DeviceUnavailableError):
        source.to("cuda:99")
