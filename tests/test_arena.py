"""Arenas: sizes, first fit, exhaustion, closing, null devices."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import numscope as ns


def address(array):
    return array.__array_interface__["data"][0]


def padded(nbytes):
    return -(-nbytes // 256) * 256


def test_a_new_arena_is_free():
    arena = ns.Arena("64 MiB")
    assert (arena.capacity, arena.used, arena.peak, arena.free) == (64 << 20, 0, 0, 64 << 20)
    assert arena.largest_free == arena.capacity
    assert arena.device == "cpu"
    assert "64.00 MiB" in repr(arena)


def test_device_is_keyword_only():
    with pytest.raises(TypeError):
        ns.Arena("1 MiB", "cpu")


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (64,), (65,), (1000,)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "complex128"])
def test_every_blob_starts_at_a_multiple_of_256_bytes(ws, shape, dtype):
    ws.empty("before", 3, "uint8")
    array = ws.empty("x", shape, dtype)
    assert address(array) % 256 == 0
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert type(array) is np.ndarray


def test_used_counts_padded_bytes_and_peak_stays(arena, ws):
    ws.empty("a", 100, "uint8")
    ws.empty("b", 300, "uint8")
    assert arena.used == 256 + 512
    assert arena.used + arena.free == arena.capacity
    ws.clear()
    assert (arena.used, arena.peak) == (0, 768)
    arena.reset_peak()
    assert arena.peak == 0
    ws.empty("a", 10)
    assert arena.peak >= arena.used > 0


def test_scopes_used_last_in_first_out_get_the_same_addresses(ws):
    seen = []
    for _ in range(3):
        found = []
        with ws.scope("a") as a:
            found.append(address(a.empty("x", 100)))
            with a.scope("b") as b:
                found.append(address(b.empty("x", 1000)))
            with a.scope("c") as c:
                found.append(address(c.empty("x", 1000)))
            found.append(address(a.empty("y", 10)))
        seen.append(found)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1] == seen[0][2]


def test_any_live_workspace_may_allocate_at_any_time(arena):
    workspaces = [ns.Workspace(arena=arena) for _ in range(4)]
    for i in range(12):
        workspaces[i % 4].full(f"x{i}", 70, i)
    for i in range(12):
        assert (workspaces[i % 4][f"x{i}"] == i).all()
    used = arena.used
    workspaces[1].clear()
    assert arena.used == used - 3 * 512
    workspaces[3].empty("fits", 3 * 512, "uint8")
    assert arena.used == used


def test_neighbours_coalesce(arena):
    workspaces = [ns.Workspace(arena=arena) for _ in range(4)]
    for workspace in workspaces:
        workspace.empty("x", arena.capacity // 4, "uint8")
    assert (arena.free, arena.largest_free) == (0, 0)
    for i in (0, 2, 1):
        workspaces[i].clear()
    assert arena.largest_free == arena.free == arena.capacity // 4 * 3
    workspaces[0].empty("x", arena.capacity // 4 * 3, "uint8")


def test_a_workspace_filled_again_asks_at_once_for_what_it_needed(arena, ws):
    for _ in range(2):
        ws.clear()
        taken = arena.stats().segments_taken
        other = ns.Workspace(arena=arena)
        for i in range(10):
            ws.empty(f"x{i}", 100)
            other.empty(f"y{i}", 100)
    # Ten at first, because the other one's blobs lay behind each; now one, and so the newcomer can grow.
    assert (taken, arena.stats().segments_taken) == (20, 22)


def test_what_a_workspace_holds_for_later_is_there_for_others(arena, ws):
    ws.empty("x", 3 << 20, "uint8")
    ws.clear()
    ws.full("x", 10, 3)
    assert arena.used == 3 << 20
    before = arena.stats()
    other = ns.Workspace(arena=arena)
    with pytest.raises(ns.ArenaExhausted):
        other.empty("y", arena.capacity, "uint8")
    assert arena.stats() == before
    other.full("y", (4 << 20) - 256, 4, "uint8")
    assert arena.free == 0
    assert (ws["x"] == 3).all()
    other.clear()
    ws.full("z", 1000, 5)
    assert (ws["x"] == 3).all()


def test_replaced_blobs_do_not_wander_through_the_arena(arena, ws):
    ws.empty("fixed", 100)
    for i in range(200):
        ws.empty("x", 1000 + i % 7 * 100)
        ws.empty("y", 500 + i % 3 * 100)
    assert arena.peak <= 6 * 8192
    assert address(ws["x"]) - address(ws["fixed"]) < 6 * 8192
    assert address(ws["y"]) - address(ws["fixed"]) < 6 * 8192
    assert arena.stats().segments <= 4


def test_exhaustion_says_what_and_changes_nothing(arena, ws):
    ws.full("weights", 1000, 7)
    ws.empty("bias", 10)
    before = arena.stats()
    with pytest.raises(ns.ArenaExhausted) as error:
        ws.empty("big", 2**20)
    assert isinstance(error.value, MemoryError)
    assert error.value.requested == 4 << 20
    assert error.value.available == arena.free
    assert error.value.capacity == arena.capacity
    for word in ("'big'", "cpu", "'weights'", "'bias'", "larger Arena"):
        assert word in str(error.value)
    assert arena.stats() == before
    assert ws.local_blobs() == ["weights", "bias"]
    assert (ws["weights"] == 7).all()
    ws.empty("big", arena.largest_free, "uint8")  # what is free can still be had


def test_a_blob_that_does_not_fit_keeps_its_old_value(arena, ws):
    ws["x"] = [1.0, 2.0]
    for shape in (2**20, 2**30, 2**50):
        with pytest.raises(ns.ArenaExhausted):
            ws.empty("x", shape)
    with pytest.raises(ns.ArenaExhausted):
        ws["x"] = np.broadcast_to(np.float64(0), 2**40)
    assert ws["x"].tolist() == [1.0, 2.0]


def test_garbage_cycles_are_collected_before_giving_up(arena, no_gc):
    scope = ns.Workspace(arena=arena)
    scope.empty("x", 3 << 20, "uint8")
    scope.me = scope  # a cycle that holds the memory
    del scope
    assert arena.used >= 3 << 20
    ns.Workspace(arena=arena).empty("y", 3 << 20, "uint8")
    view = ns.Workspace(arena=arena).empty("z", 100, "uint8")
    assert view.size == 100


def test_stats_is_frozen_and_adds_up(arena, ws):
    ws.empty("x", 1000)
    stats = arena.stats()
    assert dataclasses.is_dataclass(stats)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.used = 0
    assert (stats.capacity, stats.used, stats.free) == (arena.capacity, 4096, arena.capacity - 4096)
    assert (stats.segments, stats.segments_taken, stats.segments_returned, stats.held_by_views) == (
        1,
        1,
        0,
        0,
    )
    ws.clear()
    stats = arena.stats()
    assert (stats.segments, stats.segments_taken, stats.segments_returned) == (0, 1, 1)


def test_a_removed_blob_in_a_released_segment_is_counted_once(arena, ws):
    view = ws.empty("x", 100)[1:]
    ws.empty("y", 100)
    ws.remove_blob("x")
    assert arena.stats().held_by_views == 512
    ws.clear()
    assert arena.stats().held_by_views == arena.used == 1024
    del view
    assert arena.stats().held_by_views == arena.used == 0


def test_close_names_the_blobs_that_have_views(arena, ws):
    ws.empty("plain", 10)
    view = ws.empty("weights", (4, 10)).T[1:]
    with pytest.raises(BufferError, match="'weights'") as error:
        arena.close()
    assert "plain" not in str(error.value)
    assert ws["weights"].shape == (4, 10)
    del view
    del error
    arena.close()
    arena.close()
    with pytest.raises(ns.DeviceUnavailableError, match="closed"):
        ws.empty("x", 10)
    with pytest.raises(ns.DeviceUnavailableError, match="closed"):
        ns.Workspace(arena=arena)
    assert "closed" in repr(arena)


@pytest.mark.parametrize("how", ["clear", "remove", "replace"])
def test_close_names_blobs_that_are_gone(arena, ws, how):
    view = ws.empty("old", 100)[3:]
    if how == "clear":
        ws.clear()
    elif how == "remove":
        ws.remove_blob("old")
    else:
        ws["old"] = [1]
    with pytest.raises(BufferError, match="'old'"):
        arena.close()
    view[:] = 3
    del view
    arena.close()


def test_close_sees_views_of_workspaces_that_are_gone(arena):
    view = ns.Workspace(arena=arena).empty("x", 100)
    with pytest.raises(BufferError, match="512 bytes"):
        arena.close()
    del view
    arena.close()


def test_with_closes_and_lets_an_error_through():
    with ns.Arena("1 MiB") as arena:
        ns.Workspace(arena=arena).empty("x", 10)
    with pytest.raises(ns.DeviceUnavailableError):
        ns.Workspace(arena=arena)

    def fail(view):
        with arena:
            raise ZeroDivisionError(view)

    arena = ns.Arena("1 MiB")
    with pytest.raises(ZeroDivisionError):
        fail(ns.Workspace(arena=arena).empty("x", 10))


def test_the_default_arena_is_one_a_device(monkeypatch):
    assert ns.default_arena() is ns.default_arena("cpu") is ns.default_arena(device="cpu")
    assert ns.Workspace().arena is ns.default_arena()
    assert ns.Workspace(device="null").arena is ns.default_arena("null")
    before, other = ns.default_arena(), ns.Arena("1 MiB")
    try:
        ns.set_default_arena(other)
        assert ns.Workspace().arena is other
        other.close()
        assert ns.default_arena() is not other
    finally:
        ns.set_default_arena(before)


def test_a_null_arena_plans_without_memory():
    arena = ns.Arena("1 PiB", device="null")
    ws = ns.Workspace(arena=arena)
    assert ws.empty("x", 2**45) is None
    assert ws.allocate({"a": (3, "float32"), "b": ((2, 2), "bool")}) == {"a": None, "b": None}
    assert ws.zeros("z", 3) is None
    assert arena.used == 2**47 + 3 * 256
    ws["y"] = np.ones(100)
    for read in (lambda: ws["x"], lambda: ws.fetch("y"), lambda: ws.get_blob("y").value):
        with pytest.raises(ns.DeviceUnavailableError, match="null"):
            read()
    ws["text"] = "values that are no tensors are there"
    assert ws["text"].startswith("values")
    with pytest.raises(ns.ArenaExhausted):
        ws.empty("w", 2**50)
    ws.zero()
    ws.clear()
    assert (arena.used, arena.peak) == (0, 2**47 + 4 * 256 + 768)
    arena.close()


def train(device):
    """A program with a stack, scopes, bulk work and blobs that come and go; its used bytes, step by step."""
    arena = ns.Arena("1 MiB", device=device)
    root, stack, seen = ns.Workspace(arena=arena), ns.WorkspaceStack(retain=False), []
    root.allocate({f"w{i}": ((i + 1, 50), "float32") for i in range(5)})
    for _ in range(3):
        for i in range(4):
            frame = stack.push_forward_workspace(root, {"w": f"w{i}"})
            frame.empty("h", 100 * (i + 1))
            frame["copy"] = np.ones(300)
            with root.scope("inner") as scope:
                scope.zeros("t", 999)
                seen.append(arena.used)
            frame.remove_blob("copy")
            seen.append(arena.used)
        while not stack.empty():
            with stack.pop_gradient_workspace(root) as frame:
                frame.full("dh", 777, 1)
                frame.zero()
                seen.append(arena.used)
        stack.clear()
    return seen, arena.peak, arena.stats()


def test_a_null_plan_equals_what_is_reached():
    assert train("null") == train("cpu")


def test_blobs_and_capacities_beyond_2_to_31():
    arena = ns.Arena("20 GiB")
    ws = ns.Workspace(arena=arena)
    for name in ("a", "b"):
        array = ws.empty(name, 2**32 + 5, "uint8")
        array[0], array[2**31 + 1], array[-1] = 1, 2, 3
    ws.empty("small", 3)
    assert [ws["a"][i] for i in (0, 2**31 + 1, -1)] == [1, 2, 3]
    assert address(ws["b"]) == address(ws["a"]) + 2**32 + 256
    assert arena.used == 2 * (2**32 + 256) + 256
    del array
    ws.remove_blob("a")
    assert arena.largest_free > 2**33
    arena.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_host_memory_is_private_unreserved_aligned_and_asks_for_huge_pages():
    arena = ns.Arena("8 GiB")
    first = ns.Workspace(arena=arena).empty("x", 1)
    start = address(first)
    assert start % (2 << 20) == 0
    lines = Path("/proc/self/smaps").read_text().splitlines()
    heads = [i for i, line in enumerate(lines) if "-" in line.split(" ")[0] and line.split(" ")[0][-1] != ":"]
    for i, following in zip(heads, [*heads[1:], len(lines)], strict=True):
        low, high = (int(part, 16) for part in lines[i].split(" ")[0].split("-"))
        if low <= start < high:
            facts = dict(line.split(":", 1) for line in lines[i + 1 : following])
            break
    assert lines[i].split(" ")[1] == "rw-p"
    assert int(facts["Rss"].split()[0]) < 16 * 1024  # kB; nothing was touched
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert "hg" in facts["VmFlags"].split()
        assert "nr" in facts["VmFlags"].split()
