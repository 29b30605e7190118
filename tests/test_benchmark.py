from __future__ import annotations

import json
import math

import pytest

from numscope import benchmark
from numscope.benchmark.sets import SETS
from numscope.benchmark.timing import interleave


def test_the_sets_are_what_they_say():
    counts = {name: (len(shapes()), sum(map(math.prod, shapes()))) for name, shapes in SETS.items()}
    assert counts["small"][0] == 1000
    assert counts["resnet50"] == (161, 25_557_032)
    assert counts["gpt2"] == (148, 124_439_808)


def test_a_small_run_verifies_times_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(SETS, "small", lambda: [(3,), (40, 5), (1,), (700,)])
    found, drawn = tmp_path / "found.json", tmp_path / "drawn.png"
    arguments = ["--set", "small", "--threads", "1", "--rounds", "2", "--json", str(found)]
    assert benchmark.main(arguments) == 0
    text = capsys.readouterr().out
    assert "unscale + check + accumulate + norm" in text
    values = json.loads(found.read_text())
    assert len(values["rows"]) == 14
    assert values["machine"]["numpy"]
    assert all(row["ours"]["median"] > 0 for row in values["rows"])
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
    counts = {"a": 0, "b": 0, "before": 0}

    def count(name):
        counts[name] += 1

    found = interleave(
        {"a": lambda: count("a"), "b": lambda: count("b")}, rounds=3, before=lambda: count("before")
    )
    assert set(found) == {"a", "b"}
    assert counts["a"] >= 4
    assert counts["before"] >= 6
    assert found["a"].median > 0
