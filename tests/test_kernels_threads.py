"""Teams of threads: whose they are, how few may come, and that results do not depend on them."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from numscope.kernels import Pieces, host, machine, prepare
from numscope.kernels import threads as teams

from numscope import kernels

WORK = """
import sys
import numpy as np
from numscope import kernels
from numscope.kernels import threads
kernels.set_num_threads(2)
x = np.arange(1 << 20, dtype="f4")
found = kernels.accumulate(x, x.copy(), stats=True)
table, rows = np.zeros((50, 1 << 14), "f4"), np.ones((100, 1 << 14), "f4")
kernels.scatter_add(table, np.arange(100) % 50, rows)
assert (x == 2 * np.arange(1 << 20)).all() and (table == 2).all()
print(found.sum_of_squares, threads.has_openmp(), any("omppool" in name for name in sys.modules))
"""


def run(code, **environment):
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@pytest.fixture
def two_threads(monkeypatch):
    """Let kernels run on two threads, also where there is one processor."""
    monkeypatch.setattr(host, "processors", lambda: 2)
    before = kernels.get_num_threads()
    kernels.set_num_threads(2)
    yield
    kernels.set_num_threads(before)


def test_a_team_may_be_smaller_than_was_asked_for():
    whole = run(WORK)
    assert run(WORK, OMP_THREAD_LIMIT="1") == whole
    assert run(WORK, OMP_DYNAMIC="true") == whole
    assert whole[2] == "False", "Numba's parallel layer is slow to load and not needed"


def test_without_openmp_there_is_one_thread(two_threads, monkeypatch):
    x = np.ones(1 << 20, "f4")
    pieces = Pieces.of([x])
    assert host._workers(1 << 30) == 2
    teams._entries.cache_clear()
    monkeypatch.setattr(teams, "_libraries", lambda beside_torch: iter([]))
    try:
        assert not teams.has_openmp()
        assert host._workers(1 << 30) == 1
        prepare("scale", pieces)(3.0)
    finally:
        teams._entries.cache_clear()
    assert (x == 3).all()


def test_a_library_without_openmp_is_passed_over(tmp_path, monkeypatch):
    broken = tmp_path / "omppool.so"
    broken.write_bytes(b"no library")
    libraries = [broken, *teams._libraries(beside_torch=False)]
    expected = teams._entries(beside_torch=False)
    teams._entries.cache_clear()
    monkeypatch.setattr(teams, "_libraries", lambda beside_torch: iter(libraries))
    try:
        assert teams._entries(beside_torch=False) == expected
    finally:
        teams._entries.cache_clear()


def test_beside_torch_its_threads_are_used():
    pytest.importorskip("torch")
    code = """
import torch
from numscope.kernels import threads
assert threads.has_openmp()
with open("/proc/self/maps") as maps:
    print(*{line.split()[-1] for line in maps if "gomp" in line or "omp5" in line})
"""
    loaded = run(code)
    assert loaded
    assert all("torch" in name for name in loaded), "one pool of threads, and that is PyTorch's"


def test_python_threads_may_launch_teams_at_a_time(two_threads):
    xs = [np.ones(1 << 20, "f4") for _ in range(4)]
    calls = [prepare("scale", Pieces.of([x]), stats=True) for x in xs]
    sums = []

    def work(call):
        for _ in range(30):
            sums.append(call(-1.0).sum_of_squares)

    running = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert sums == [float(1 << 20)] * 120
    assert all((x == 1).all() for x in xs)


def test_processors_are_counted_where_the_system_does_not_say(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.processors.__wrapped__() == 1


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["48K\n", "2048K\n", "32M\n"], 32 << 20),
        (["", "1024K", "?"], 1 << 20),
        (["0K"], 32 << 20),
        ([], 32 << 20),
    ],
)
def test_the_largest_cache_is_read_where_the_system_says_it(tmp_path, monkeypatch, texts, expected):
    for number, text in enumerate(texts):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(text)
    (tmp_path / "index9" / "size").mkdir(parents=True)  # cannot be read
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path)
    assert machine.last_level_cache.__wrapped__() == expected
