"""The comparison with NumPy and PyTorch: what it times is right, what it leaves out it says."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys

import pytest

from numscope import benchmark
from numscope.benchmark.operations import OPERATIONS
from numscope.benchmark.sets import SETS
from numscope.benchmark.timing import interleave


def test_the_sets_are_what_they_say():
    counts = {name: (len(shapes()), sum(map(math.prod, shapes()))) for name, shapes in SETS.items()}
    assert counts["small"][0] == 1000
    assert counts["resnet50"] == (161, 25_557_032)
    assert counts["gpt2"] == (148, 124_439_808)


def test_a_small_run_verifies_times_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SETS, "small", lambda: [(3,), (40, 5), (1,), (700,)])
    monkeypatch.setattr("numscope.benchmark.costs.TOTALS", (10_000, 20_000))
    found, drawn = tmp_path / "found.json", tmp_path / "drawn.png"
    arguments = [
        "--set",
        "small",
        "--threads",
        "1",
        "--rounds",
        "2",
        "--compile",
        "none",
        "--json",
        str(found),
    ]
    assert benchmark.main(arguments) == 0
    text = capsys.readouterr().out
    assert "unscale + check + accumulate + norm" in text
    values = json.loads(found.read_text())
    assert [row["operation"] for row in values["rows"]] == list(OPERATIONS)
    assert values["machine"]["numpy"]
    assert all(row["ours"]["median"] > 0 for row in values["rows"])
    single, *totals = values["costs"].values()
    assert set(single) == {"numpy add", "accumulate", "numpy copyto", "copy"}
    assert [len(seconds) for blobs in totals for seconds in blobs.values()] == 8 * [3]
    pytest.importorskip("matplotlib")
    assert benchmark.main([*arguments, "--only", "zero", "--plot", str(drawn)]) == 0
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_wrong_result_is_not_timed():
    slabs = benchmark.Slabs([(100,), (7,)])
    zero = next(row for row in benchmark.operations(slabs) if row.name == "zero")
    broken = type(zero)(**{**vars(zero), "flats": {"lazy": lambda: None}})
    with pytest.raises(AssertionError, match="zero by lazy is off by"):
        benchmark.verify(slabs, broken)


def test_interleave_takes_every_call_in_every_round():
    counts = {"a": 0, "b": 0}

    def count(name):
        counts[name] += 1

    found = interleave({"a": lambda: count("a"), "b": lambda: count("b")}, rounds=3, shortest=1e-6)
    assert set(found) == {"a", "b"}
    assert min(counts.values()) >= 2 + 2 * 3  # two to learn how long it takes, two for each sample
    assert found["a"].median > 0


@pytest.mark.parametrize("form", ["flat", "lists"])
def test_the_programs_for_torch_compile_are_right(monkeypatch, form):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda program, **options: program)  # a second for each
    slabs = benchmark.Slabs([(100,), (7, 3)])
    rows = benchmark.operations(slabs, form)
    assert {row.name for row in rows if row.compiled} == set(OPERATIONS[:-1])
    for row in rows:
        benchmark.verify(slabs, row)


def test_without_a_cpp_compiler_the_output_says_so(capsys, monkeypatch):
    torch = pytest.importorskip("torch")

    def refuse(program, **options):
        raise RuntimeError("no working C++ compiler\nin many words")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setitem(SETS, "small", lambda: [(3,)])
    assert benchmark.main(["--set", "small", "--threads", "1", "--rounds", "2", "--only", "zero"]) == 0
    assert "torch.compile is left out: no working C++ compiler\n" in capsys.readouterr().out


def test_without_tools_the_output_says_so(capsys, monkeypatch):
    for module in ("benchmark", "benchmark.operations", "benchmark.slabs"):
        monkeypatch.setattr(sys.modules[f"numscope.{module}"], "HAS_TORCH", False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(SETS, "small", lambda: [(3,)])
    assert benchmark.main(["--set", "small", "--threads", "1", "--rounds", "2", "--only", "zero"]) == 0
    out = capsys.readouterr().out
    assert "PyTorch is left out: it is not installed" in out
    assert "the machine's limits are left out: they need x86-64 and a C compiler, cc" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "walk"], "argument --only: invalid choice: 'walk' (choose from"),
        (["--set", "walk"], "argument --set: invalid choice: 'walk' (choose from"),
        (["--threads", "0"], "argument --threads: expected a whole number of at least 1, got '0'"),
        (["--rounds", "0"], "argument --rounds: expected a whole number of at least 2, got '0'"),
        (["--compile", "all"], "argument --compile: invalid choice: 'all' (choose from"),
        (
            ["--json", "nowhere/found.json"],
            "argument --json: 'nowhere/found.json' cannot be written: there is no",
        ),
        (["--json", "."], "argument --json: '.' is a folder, expected the name of a file to write"),
        (
            ["--plot", "nowhere/drawn.png"],
            "argument --plot: 'nowhere/drawn.png' cannot be written: there is no",
        ),
        (
            ["--plot", "drawn.doc"],
            "argument --plot: expected a file name with .png, .svg, .pdf, got 'drawn.doc'",
        ),
        (["--plot", "drawn.png"], "argument --plot: drawing needs matplotlib: pip install 'numscope[viz]'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_timed(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(benchmark, "run", lambda *args, **options: pytest.fail("something was timed"))
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_read_only_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        benchmark.main(["--json", str(tmp_path / "found.json")])
    assert "cannot be written: it is read-only for you" in capsys.readouterr().err
