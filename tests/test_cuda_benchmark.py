"""The benchmark of a card, as far as it goes without one: its table, its JSON, its refusals."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import numscope as ns
from numscope import cli, cuda_benchmark
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
    assert set(found) == {"cuda", "checks", "figures"}
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


def test_the_host_is_no_card():
    with pytest.raises(ns.DeviceUnavailableError, match="for a CUDA device, got 'cpu'"):
        cuda_benchmark.execute("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not ns.cuda_available(), reason="no CUDA device")
def test_the_kernels_have_the_bits_of_the_host():
    assert cuda_benchmark.main(["--check-only"]) == 0
