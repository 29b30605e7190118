"""Every benchmark runs once, with each of its parameters, on the first tensors of each set."""

import importlib
import inspect
import itertools
import pkgutil
import sys
from pathlib import Path

import pytest

from numscope.benchmark.sets import SETS

SUITE = Path(__file__).parent.parent / "asv_benchmarks"


def benchmarks():
    sys.path.insert(0, str(SUITE))
    try:
        import benchmarks as package

        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"benchmarks.{info.name}")
            for name, cls in inspect.getmembers(module, inspect.isclass):
                if cls.__module__ == module.__name__ and not name.startswith("_"):
                    yield pytest.param(cls, id=f"{info.name}.{name}")
    finally:
        sys.path.remove(str(SUITE))


@pytest.mark.parametrize("cls", list(benchmarks()))
def test_benchmark_runs(cls, monkeypatch):
    monkeypatch.setenv("NUMSCOPE_LARGE_BENCHMARKS", "1")
    for name, shapes in SETS.items():
        monkeypatch.setitem(SETS, name, lambda shapes=shapes: shapes()[2:8])
    params = getattr(cls, "params", [])
    if params and not isinstance(params[0], list | tuple):
        params = [params]
    for values in itertools.product(*params):
        instance = cls()
        try:
            instance.setup(*values)
        except NotImplementedError:  # asv's word for "not these parameters"
            continue
        timed = [name for name in dir(cls) if name.startswith(("time_", "track_", "peakmem_"))]
        assert timed, f"{cls.__name__} measures nothing"
        for name in timed:
            getattr(instance, name)(*values)
