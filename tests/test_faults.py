"""Fail the n-th allocation, for n = 1, 2, ... until a program passes: a failing call changes nothing."""

import numpy as np
import pytest

import numscope as ns
from numscope.region import Region


class FaultError(ns.ArenaExhausted):
    """The one that this test raises."""


class Faults:
    """Counts requests for memory and fails one of them."""

    def __init__(self, monkeypatch):
        self.left = None
        find = Region._find

        def failing(region, length):
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    raise FaultError("no room", requested=length, available=0, capacity=0)
            return find(region, length)

        monkeypatch.setattr(Region, "_find", failing)


@pytest.fixture
def faults(monkeypatch):
    return Faults(monkeypatch)


def snapshot(workspaces, arena):
    """Everything that can be seen of workspaces, addresses and bytes included."""
    seen = []
    for ws in workspaces:
        for name in ws.local_blobs():
            blob = ws.get_blob(name)
            value = blob.value
            if blob.is_tensor:
                value = (value.__array_interface__["data"], value.shape, value.dtype, value.tobytes())
            seen.append((ws.name, name, value))
        seen.append((ws.name, tuple(ws.blobs()), tuple(ws._forwarded)))
    return seen, arena.used, arena.free, arena.largest_free


def program(tmp_path):
    """Return the steps of a program that uses every way to memory, and what it works on."""
    arena = ns.Arena("8 MiB")
    root = ns.Workspace(arena=arena, name="root")
    child = ns.Workspace(root, name="child")
    root["x"] = np.arange(5.0)
    bound = ns.Workspace(root, bindings={"a": "x"}, name="bound")
    stack = ns.WorkspaceStack()
    frame = stack.push_forward_workspace(root, {"x": "x"})
    saved = ns.Workspace(arena=ns.Arena("1 MiB"))
    saved.update({"x": np.ones(7), "l1": np.ones(3), "l2": np.ones((2, 2)), "t": "text"})
    saved.save(tmp_path / "saved")
    steps = [
        lambda: root.empty("e", 100).fill(3),
        lambda: child.zeros("z", (10, 10)),
        lambda: child.full("x", 6, 2.5),
        lambda: child.full("x", 5, 1, "int8", local=True),
        lambda: root.feed("f", [1, 2, 3]),
        lambda: root.feed("f", [1.0, 2.0]),
        lambda: child.feed("x", "text now"),
        lambda: root.allocate({"w": ((3, 4), "float32"), "e": (7, "int64"), "b": (4, "float32")}),
        lambda: bound.feed("a", np.ones(50)),
        lambda: bound.copy_forwarded_tensors(["a"]),
        lambda: frame.empty("h", 1000).fill(1),
        lambda: frame.copy_forwarded_tensors(["x"]),
        lambda: root.get_blob("f").set(np.ones((3, 3))),
        lambda: root.get_blob("b").tensor((9,), np.dtype("int8")).fill(1),
        lambda: child.load(tmp_path / "saved"),
        lambda: root.full("last", 5, 5),
    ]
    return steps, [root, child, bound, frame], arena


def test_the_tree_is_as_before_each_failing_call(faults, tmp_path):
    n, failed = 0, set()
    while True:
        n += 1
        steps, workspaces, arena = program(tmp_path)
        faults.left = n
        for number, step in enumerate(steps):
            before = snapshot(workspaces, arena)
            try:
                step()
            except FaultError:
                failed.add(number)
                assert snapshot(workspaces, arena) == before, f"step {number}, allocation {n}"
                step()  # the second try finds its memory
        if faults.left > 0:
            break
        # After the failure everything went on as without it.
        clean_steps, clean, _ = program(tmp_path)
        faults.left = None
        for step in clean_steps:
            step()
        values = [[(k, np.asarray(w[k]).tolist()) for k in w] for w in workspaces]
        assert values == [[(k, np.asarray(w[k]).tolist()) for k in w] for w in clean]
        del step, steps, workspaces, before
    assert n > 15
    assert len(failed) >= 14  # every step that needs memory


def test_a_small_arena_runs_out_at_every_size():
    """The same with true exhaustion: arenas of every size, until a program fits."""
    capacity = 0
    while True:
        capacity += 256
        arena = ns.Arena(capacity)
        root = ns.Workspace(arena=arena, name="root")
        scope = ns.Workspace(root, name="scope")
        steps = [
            lambda root=root: root.full("a", 100, 1),
            lambda scope=scope: scope.allocate({"b": (70, "float32"), "c": (3, "int8")}),
            lambda root=root: root.full("a", 40, 2),
            lambda scope=scope: scope.feed("a", np.ones(130)),
            lambda scope=scope: scope.full("d", 65, 4),
        ]
        failure = None
        for step in steps:
            before = snapshot([root, scope], arena)
            try:
                step()
            except ns.ArenaExhausted as error:
                failure = error
                assert snapshot([root, scope], arena) == before
        root.clear()
        scope.clear()
        assert (arena.used, arena.largest_free) == (0, capacity)
        if failure is None:
            break
        assert failure.capacity == capacity
        assert failure.requested > 0
    assert capacity <= 4096
