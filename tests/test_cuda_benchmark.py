"""The benchmark of a card, as far as it goes without one: its table, its JSON, its refusals."""

from __future__ import annotations

import io
import json
import sys
import types

import numpy as np
import pytest
from rich.console import Console

import numscope as ns
from numscope import cli, cuda_benchmark
from numscope.benchmark import cuda_figures
from numscope.cuda_benchmark import Row, as_json, table

ROWS = [
    Row("copy, 1 GiB", 1e-3, {"card": 0.95e-3}, {"card": 0.92}, 2 << 30),
    Row("small: add", 2e-4, {"torch": 1e-4, "cupy": 8e-4}, {"torch": 1.0}),
    Row("Python of a call", 5e-6, limit=8e-6),
    Row("Python of a call, slow", 9e-6, limit=8e-6),
]


def test_a_figure_holds_or_does_not():
    assert [row.holds for row in ROWS] == [True, False, True, False]
    assert ROWS[0].bandwidth == (2 << 30) / 1e-3


def test_the_table_shows_figures_peers_and_what_was_wanted():
    text = io.StringIO()
    Console(file=text, width=120).print(table(ROWS))
    lines = text.getvalue().splitlines()
    assert any("1000.0" in line and "2147" in line and "card 0.95 (at least 0.92)" in line for line in lines)
    assert any("torch 0.50 (at least 1.00), cupy 4.00" in line and "NO" in line for line in lines)
    assert any("at most 8.0 us" in line and "yes" in line for line in lines)


def test_json_has_versions_checks_and_figures():
    found = json.loads(json.dumps(as_json(ROWS, {"host's bits": ["9 cases, 0 differ"]})))
    assert set(found) == {"date", "cuda", "versions", "checks", "figures"}
    assert found["versions"]["numpy"] == np.__version__
    assert found["figures"][1]["peers"] == {"torch": 1e-4, "cupy": 8e-4}
    assert [row["holds"] for row in found["figures"]] == [True, False, True, False]
    assert "cupy" in found["cuda"]["versions"]


@pytest.mark.skipif(ns.cuda_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [[], ["--check-only"], ["--device", "cuda:1"]])
def test_without_a_card_it_says_what_is_missing(arguments):
    with pytest.raises(ns.DeviceUnavailableError, match="cannot be used"):
        cuda_benchmark.main(arguments)


@pytest.mark.skipif(ns.cuda_available(), reason="there is a CUDA device")
def test_the_command_line_says_so_too(capsys):
    assert cli.main(["bench", "--device", "cuda"]) == 1
    assert 'numscope bench: error: device "cuda" cannot be used' in capsys.readouterr().err


def test_the_sanitizer_is_looked_for_where_the_toolkit_puts_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_benchmark, "TOOLKITS", (str(tmp_path / "cuda"),))
    assert "not installed" in cuda_benchmark._sanitize("cuda:0")["compute-sanitizer"]
    tool = tmp_path / "cuda" / "bin" / "compute-sanitizer"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\n/bin/echo $2 $3 $4\nexit $CODE\n")
    tool.chmod(0o755)
    monkeypatch.setenv("CODE", "0")
    assert cuda_benchmark._sanitize("cuda:0") == {"memcheck": "0 errors", "racecheck": "0 errors"}
    monkeypatch.setenv("CODE", "9")
    found = cuda_benchmark._sanitize("cuda:0")
    assert found["racecheck"] == "FAILED: racecheck --error-exitcode 9\n"


def test_what_takes_too_long_has_failed(monkeypatch):
    monkeypatch.setattr(cuda_benchmark, "PATIENCE", 0.01)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert cuda_benchmark._ran(command, "ran") == "FAILED: not done after 0.01 seconds"


def test_calls_take_turns_on_data_of_their_own(monkeypatch):
    """Each call sees each data set before anything is timed, and then another one than the call before."""
    seen = {"a": [], "b": []}
    events = types.SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    cuda = types.SimpleNamespace(Event=lambda: events, get_elapsed_time=lambda start, end: 2.0)
    calls = {name: turns.append for name, turns in seen.items()}
    found = cuda_figures._interleave(types.SimpleNamespace(cuda=cuda), calls, turns=4, rounds=3)
    assert found == {"a": 2e-3, "b": 2e-3}
    assert [turns[:4] for turns in seen.values()] == [[0, 1, 2, 3]] * 2
    assert sorted(seen["a"][4:] + seen["b"][4:]) == list(range(6))


def test_the_host_is_no_card():
    with pytest.raises(ns.DeviceUnavailableError, match="for a CUDA device, got 'cpu'"):
        cuda_benchmark.execute("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not ns.cuda_available(), reason="no CUDA device")
def test_the_kernels_have_the_bits_of_the_host():
    assert cuda_benchmark.main(["--check-only"]) == 0
