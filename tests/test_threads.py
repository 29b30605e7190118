"""Threads: arenas are shared, workspaces and stacks turn a second thread away."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

import numscope as ns


@pytest.fixture(autouse=True)
def _switch_often():
    """Let threads change a hundred times as often, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def elsewhere(call):
    """Run a call in another thread and return what came of it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).exception()


def while_inside(ws, call):
    """Run a call in another thread while this one is inside a call of the workspace."""
    found = []

    def predicate(name):
        found.append(elsewhere(call))
        return False

    ws.zero(predicate)
    return found[0]


def test_a_second_thread_is_turned_away_from_a_workspace(ws):
    ws["x"] = [1.0]
    child, other = ns.Workspace(ws), ns.Workspace(arena=ws.arena)
    other["o"] = [1.0]
    calls = {
        "feed": lambda: ws.feed("x", [2.0]),
        "new": lambda: ws.feed("y", [2.0]),
        "empty": lambda: ws.empty("y", 3),
        "create": lambda: ws.create_blob("y"),
        "create_local": lambda: ws.create_local_blob("y"),
        "remove": lambda: ws.remove_blob("x"),
        "rename": lambda: ws.rename_blob("x", "y"),
        "clear": lambda: ws.clear(),
        "zero": lambda: ws.zero(),
        "allocate": lambda: ws.allocate({"y": (3, "float32")}),
        "merge": lambda: child.merge_into(ws),
        "save": lambda: ws.save("nowhere"),
        "bind": lambda: ws.add_blob_mapping(other, {"y": "o"}),
    }
    for name, call in calls.items():
        error = while_inside(ws, call)
        assert isinstance(error, ns.StackError), (name, error)
        assert isinstance(error, RuntimeError)
        assert "'main' is in use by another thread" in str(error)
    assert ws["x"].tolist() == [1.0]
    assert list(ws) == ["x"]
    assert elsewhere(lambda: ws.feed("x", [3.0])) is None  # one after the other is fine
    assert ws["x"].tolist() == [3.0]


def test_a_second_thread_is_turned_away_from_a_stack(ws):
    stack = ns.WorkspaceStack()
    with stack._guard:
        for call in (
            lambda: stack.push_forward_workspace(ws),
            lambda: stack.pop_gradient_workspace(ws),
            lambda: stack.reuse_last_forward_workspace(ws),
            stack.clear,
            stack.trim,
        ):
            assert isinstance(elsewhere(call), ns.StackError)
    assert stack.empty()


def race(work, threads=4):
    """Start threads at once; return the errors they met."""
    barrier, errors = threading.Barrier(threads), []

    def run(number):
        barrier.wait()
        for i in range(150):
            try:
                work(number, i)
            except ns.StackError:
                pass
            except BaseException as error:  # any other is a fault, reported by the main thread
                errors.append(error)
                return

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return errors


def test_two_threads_at_one_stack_corrupt_nothing(ws):
    ws["x"] = [1.0]
    stack, seen = ns.WorkspaceStack(), []

    def work(number, i):
        if i % 3 == 2:
            stack.pop_gradient_workspace(ws, {"x": "x"})
        else:
            seen.append(stack.push_forward_workspace(ws, {"x": "x"}))

    assert race(work) == []
    stack.check_stack()
    stack.clear()
    frames = [stack.push_forward_workspace(ws, {"x": "x"}) for _ in range(len(set(map(id, seen))))]
    assert len(set(map(id, frames))) == len(frames)
    assert {id(f) for f in frames} == {id(f) for f in seen}
    assert all(frame["x"] is ws["x"] for frame in frames)


def test_two_threads_at_one_workspace_corrupt_nothing(ws):
    def work(number, i):
        name = f"x{i % 5}"
        match (number + i) % 5:
            case 0:
                ws.full(name, 1 + i, number)
            case 1:
                ws.remove_blob(name)
            case 2:
                ws.zero()
            case 3:
                ws.allocate({name: (i + 1, "float32"), "y": (3, "int8")})
            case 4:
                if i % 25 == 0:
                    ws.clear()
                list(ws)

    assert race(work) == []
    spans = sorted((ws[n].__array_interface__["data"][0], ws[n].nbytes) for n in ws)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(spans))
    ws.clear()
    assert ws.arena.used == 0


def test_an_arena_serves_many_threads(arena):
    """Each thread fills blobs with its own number, in workspaces, scopes and views that come and go."""

    def work(number, i):
        ws = workspaces[number]
        value = number * 150 + i
        ws.full(f"x{i % 7}", 50 + i, value)
        with ws.scope("s") as scope:
            scope.full("h", 400, -value)
            kept[number].append((scope.full("v", 100, value)[10:], value))
            assert (scope["h"] == -value).all()
        if i % 11 == 0:
            ws.clear()
            kept[number].clear()
        for view, expected in kept[number]:
            assert (view == expected).all()
        arena.stats()

    workspaces = [ns.Workspace(arena=arena) for _ in range(4)]
    kept = [[] for _ in workspaces]
    assert race(work) == []
    stats = arena.stats()
    assert stats.used + stats.free == stats.capacity
    workspaces.clear()
    kept.clear()
    assert (arena.used, arena.largest_free) == (0, arena.capacity)


def test_threads_that_exhaust_an_arena_fail_alone(arena):
    def work(number, i):
        ws = ns.Workspace(arena=arena)
        try:
            ws.full("x", 1 << 18, number)
            assert (ws["x"] == number).all()
        except ns.ArenaExhausted as error:
            exhausted.append(error.requested)

    exhausted = []
    assert race(work, threads=8) == []
    assert arena.used == 0
    assert set(exhausted) <= {1 << 20}


def test_arrays_may_die_in_any_thread(arena):
    ws = ns.Workspace(arena=arena)
    views = [ws.full(f"x{i}", 100, i)[1:] for i in range(100)]
    ws.clear()
    assert race(lambda number, i: views.pop() if views else None) == []
    assert arena.used == 0
    assert np.all(ws.full("x", 100, 1) == 1)
