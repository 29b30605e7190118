"""What is public, what an import costs, and what a wheel holds."""

import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import numscope as ns

ROOT = Path(__file__).parent.parent
WITH_EXAMPLES = [path for path in sorted(ROOT.glob("numscope/**/*.py")) if ">>> " in path.read_text()]


def test_public_names_are_sorted_and_exist():
    assert ns.__all__ == sorted(ns.__all__)
    for name in ns.__all__:
        assert getattr(ns, name) is not None


def test_public_names_are_documented():
    for name in ns.__all__:
        value = getattr(ns, name)
        if callable(value):
            assert value.__doc__, f"{name} has no docstring"


def test_all_errors_are_numscope_errors_and_built_in_ones():
    built_in = {
        "AccumulationError": RuntimeError,
        "ArenaExhausted": MemoryError,
        "BindingError": ValueError,
        "BlobNotFoundError": KeyError,
        "BlobTypeError": TypeError,
        "DeviceUnavailableError": RuntimeError,
        "OperatorError": RuntimeError,
        "StackError": RuntimeError,
        "UnknownTypeError": TypeError,
    }
    for name, base in built_in.items():
        assert issubclass(getattr(ns, name), ns.NumscopeError)
        assert issubclass(getattr(ns, name), base)


def test_import_is_light():
    heavy = ["numba", "llvmlite", "cupy", "mpi4py", "torch", "jax", "rich", "safetensors", "matplotlib"]
    script = f"import sys, numscope, numscope.kernels; print([m for m in {heavy} if m in sys.modules])"
    # -c, isolated: the test run itself has imported them.
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_subpackage_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"numscope.kernels"}
    for init in ROOT.glob("numscope/**/__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    assert set(listed) == found


def test_the_examples_of_the_readme_run(capsys):
    first, loop = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(first, "README.md", "exec"), {})
    assert "GradientStats(norm=" in capsys.readouterr().out
    exec(compile(loop, "README.md", "exec"), {})
    assert re.search(r"^50 rounds: loss [\d.]+ and at most \d+ bytes", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_docstrings_run(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
