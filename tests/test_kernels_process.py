"""What the kernels do to a process: caches, forks, threads, the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numscope import kernels

RUN = """
import numpy as np
from numscope import kernels
from numscope.kernels import cache, leaves
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event): pass
    def on_end(self, event): compiled.append(str(event.data))
with event.install_listener("numba:compile", Listener()):
    x = np.ones(1 << 19, "f4")
    kernels.accumulate(x, x)
    assert (x == 2).all()
print(len(compiled), cache._root())
"""


def run(code: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_new_process_compiles_nothing(tmp_path: Path):
    cold = run(RUN, NUMBA_CACHE_DIR=str(tmp_path))
    warm = run(RUN, NUMBA_CACHE_DIR=str(tmp_path))
    assert int(cold.split()[0]) > 0
    assert int(warm.split()[0]) == 0
    assert warm.split()[1].startswith(str(tmp_path))


@pytest.fixture
def compile_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Get a function compiled, or from a cache of its own; tell how often the compiler was at work."""
    from numba.core import event
    from numscope.kernels import cache, headers

    class Listener(event.Listener):
        def on_start(self, event):
            pass

        def on_end(self, event):
            compiled.append(event)

    def compile_one() -> int:
        compiled.clear()
        with event.install_listener("numba:compile", Listener()):
            same_shapes = cache.compiled(
                headers._same_shapes, headers._SIGNATURES[headers._same_shapes], "one"
            )
        assert same_shapes(0, 0, 0)
        return len(compiled)

    compiled: list[object] = []
    monkeypatch.setattr(cache, "_root", lambda: tmp_path)
    return compile_one


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_broken_cache_is_made_anew(compile_one, tmp_path: Path, suffix: str, kept: float):
    assert compile_one() > 0
    assert compile_one() == 0
    (file,) = tmp_path.rglob(f"*.{suffix}")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    assert compile_one() > 0
    assert compile_one() == 0


def test_a_full_disk_costs_the_cache_alone(compile_one, monkeypatch: pytest.MonkeyPatch):
    def save(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", save)
    assert compile_one() > 0
    assert compile_one() > 0


def test_without_a_home_or_a_temporary_folder_nothing_is_cached_elsewhere(monkeypatch: pytest.MonkeyPatch):
    from numscope.kernels import cache

    def nowhere() -> str:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    assert list(cache._roots()) == [Path(cache.__file__).parent / "__pycache__"]


def test_a_read_only_install_uses_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from numscope.kernels import cache

    cache._root.cache_clear()
    refused = str(Path(cache.__file__).parent)
    usable = cache._is_usable
    monkeypatch.setattr(cache, "_is_usable", lambda path: refused not in str(path) and usable(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    assert str(cache._root()).startswith(str(tmp_path / "numscope"))
    cache._root.cache_clear()
    monkeypatch.setattr(cache, "_is_usable", lambda path: False)
    assert cache._root() is None
    with cache.directory("anything") as cached:
        assert not cached
    cache._root.cache_clear()


def test_a_folder_that_strangers_can_write_is_not_trusted(tmp_path: Path):
    from numscope.kernels import cache

    assert cache._is_usable(tmp_path / "mine")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert not cache._is_usable(shared)
    file = tmp_path / "file"
    file.touch()
    assert not cache._is_usable(file)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_runs_on_one_thread():
    code = """
import os
import numpy as np
from numscope import kernels
from numscope.kernels import Pieces, prepare
kernels.set_num_threads(2)
x, y = np.ones(1 << 20, "f4"), np.ones(1 << 20, "f4")
add = prepare("accumulate", Pieces.of([x]), Pieces.of([y]))
add()
pid = os.fork()
add()
kernels.accumulate(x, y)
good = bool((x == 4).all()) and kernels.get_num_threads() == (2 if pid else 1)
if not pid:
    os._exit(0 if good else 1)
_, status = os.waitpid(pid, 0)
print(good, os.waitstatus_to_exitcode(status))
"""
    assert run(code).split() == ["True", "0"]


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"NUMSCOPE_NUM_THREADS": "3", "OMP_NUM_THREADS": "1"}, "3"),
        ({"OMP_NUM_THREADS": "1,2"}, "1"),
        ({"OMP_NUM_THREADS": "many"}, str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1)),
    ],
)
def test_threads_from_the_environment(environment, threads):
    code = "from numscope import kernels; print(kernels.get_num_threads())"
    clean = {"NUMSCOPE_NUM_THREADS": "", "OMP_NUM_THREADS": "", **environment}
    kept = {name: value for name, value in clean.items() if value}
    for name in clean:
        os.environ.pop(name, None)
    assert run(code, **kept).strip() == threads


def test_a_wrong_number_of_threads_in_the_environment_says_so(monkeypatch):
    from numscope.kernels import machine

    monkeypatch.setattr(machine._Threads, "wanted", None)
    monkeypatch.setenv("NUMSCOPE_NUM_THREADS", "two")
    with pytest.raises(ValueError, match="NUMSCOPE_NUM_THREADS is 'two': expected a positive whole number"):
        kernels.get_num_threads()


def test_the_gil_is_released():
    import threading

    x = np.zeros(1 << 22, "f4")
    done = threading.Event()
    progress = []

    def work():
        for _ in range(30):
            kernels.accumulate(x, x)
        done.set()

    kernels.accumulate(x, x)
    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        progress.append(0)
    worker.join()
    assert len(progress) > 100


def test_warmup_leaves_nothing_of_the_usual_to_compile():
    code = """
import numpy as np
from numscope import kernels
kernels.warmup()
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event): pass
    def on_end(self, event): compiled.append(event)
with event.install_listener("numba:compile", Listener()):
    x = np.ones(1 << 20, "f4")
    kernels.zero(x); kernels.copy(x, x); kernels.accumulate(x, x, stats=True); kernels.stats(x)
print(len(compiled))
"""
    assert run(code).strip() == "0"


def test_without_a_compiler_the_first_kernel_says_what_to_do():
    code = """
import numpy as np, numscope as ns
try:
    ns.kernels.zero(np.ones(3))
except ImportError as error:
    print(error)
"""
    assert "unset NUMBA_DISABLE_JIT" in run(code, NUMBA_DISABLE_JIT="1")
