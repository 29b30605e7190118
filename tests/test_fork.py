"""A forked child: its arena is its own, and works. Each script runs in a process of its own.

(Python warns of forking where threads run, and here warnings are errors.)
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

START = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np
import numscope as ns

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print("child:", type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

"""


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", START + script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_child_writes_into_memory_of_its_own():
    run("""
ws = ns.Workspace(arena=ns.Arena("64 MiB"))
x = ws.full("x", 1000, 1)
default = ns.Workspace().full("d", 10, 1)

def child():
    assert (ws["x"] == 1).all()
    x[:] = 2
    ws["y"] = np.arange(10)
    ws.remove_blob("x")
    ns.Workspace().full("d2", 10, 2)
    with ns.Workspace(arena=ns.Arena("1 MiB")).scope("s") as scope:
        scope.zeros("z", 10)
    ws.clear()

in_child(child)
assert (x == 1).all() and (default == 1).all()
assert list(ws) == ["x"]
ws.full("y", 1000, 3)
assert (x == 1).all()
""")


def test_kernels_work_in_a_child_after_they_ran_in_parallel():
    run("""
arena = ns.Arena("256 MiB")
a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
for ws in (a, b):
    ws.full("x", 8 << 20, 1)
a.merge_into(b)

def child():
    a.merge_into(b)
    assert (b["x"] == 3).all()
    b.zero()
    assert not b["x"].any()
    in_child(lambda: a.merge_into(b))

in_child(child)
assert (b["x"] == 2).all()
a.merge_into(b)
assert (b["x"] == 3).all()
""")


def test_what_another_thread_was_doing_does_not_lock_a_child_out():
    run("""
arena = ns.Arena("16 MiB")
ws, stack = ns.Workspace(arena=arena, name="busy"), ns.WorkspaceStack()
ws.full("x", 10, 1)
inside, go_on = threading.Event(), threading.Event()

def predicate(name):
    inside.set()
    go_on.wait()
    return False

def hold():
    with stack._guard:
        ws.zero(predicate)

thread = threading.Thread(target=hold)
thread.start()
inside.wait()

def child():
    ws["y"] = [1.0]
    stack.push_forward_workspace(ws, {"y": "y"})["z"] = [2.0]
    assert arena.used == 3 * 256

in_child(child)
try:
    ws["y"] = [1.0]
    raise SystemExit("the parent's thread is inside")
except ns.StackError:
    go_on.set()
thread.join()
ws["y"] = [1.0]
""")


def test_a_fork_waits_for_the_book_keeping_of_other_threads():
    run("""
arena = ns.Arena("16 MiB")
stop = threading.Event()

def work():
    while not stop.is_set():
        ws = ns.Workspace(arena=arena)
        for i in range(10):
            ws.empty(f"x{i}", 100 + i)
            ws.remove_blob(f"x{i - 2}")

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()

def child():
    for i in range(20):
        ws = ns.Workspace(arena=arena)
        ws.full("x", 1000, 1)
        stats = arena.stats()
        assert stats.used + stats.free == stats.capacity
    ns.default_arena("null")

sys.setswitchinterval(1e-5)
for _ in range(30):
    in_child(child)
stop.set()
for thread in threads:
    thread.join()
""")


def test_multiprocessing_with_fork_works():
    run("""
import multiprocessing
context = multiprocessing.get_context("fork")
ws = ns.Workspace(arena=ns.Arena("1 MiB"))
ws["x"] = np.arange(10.0)

def total(scale):
    ws["x"] *= scale
    return ws["x"].sum()

with context.Pool(2) as pool:
    assert sorted(set(pool.map(total, [1.0, 1.0]))) == [45.0]
assert ws["x"].sum() == 45
""")


def test_an_exhausted_arena_can_be_told_to_another_process():
    run("""
import pickle
try:
    ns.Workspace(arena=ns.Arena("1 MiB"), name="w").empty("x", 2**30)
except ns.ArenaExhausted as error:
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.requested, copy.available, copy.capacity) == (2**32, 2**20, 2**20)
    assert str(copy) == str(error)
""")


def test_a_child_makes_variables_while_another_thread_was_making_one():
    run("""
ws = ns.Workspace(arena=ns.Arena("1 MiB"))
begun, go_on = threading.Event(), threading.Event()

def slow(shape, dtype):
    begun.set()
    go_on.wait(0.2)
    return np.zeros(shape, dtype)

def make():
    with ws:
        ns.get_variable("slow", 3, initializer=slow)

thread = threading.Thread(target=make)
thread.start()
begun.wait()

def child():
    with ns.Workspace(arena=ns.Arena("1 MiB")):
        ns.get_variable("w", 3)

in_child(child)
thread.join()
with ws:
    ns.get_variable("w", 3)
""")


def test_a_fork_waits_for_a_thread_that_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    run("""
import signal
from numscope.kernels import cache

x = np.ones(3)
ns.kernels.zero(x)
entered = threading.Event()
load = cache._Loader.load_overload

def enter(self, signature, context):
    entered.set()
    return load(self, signature, context)

cache._Loader.load_overload = enter
thread = threading.Thread(target=ns.kernels.scale, args=[np.ones(3, "f2"), 2])
thread.start()
entered.wait()

def child():
    signal.alarm(30)
    ns.kernels.copy(x, np.ones(3, "f4"))
    assert (x == 1).all()

in_child(child)
thread.join()
""")
