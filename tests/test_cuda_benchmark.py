"""The benchmark of a card, as far as it goes without one: its steps, tables, JSON, its refusals."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import time
import types

import numpy as np
import pytest
from numscope.kernels.plan import make_plan
from rich.console import Console

import numscope as ns
from numscope import cli, cuda_benchmark
from numscope.benchmark import cuda_checks, cuda_commands, cuda_figures
from numscope.benchmark.cuda_report import Check, Row, as_markdown, tables
from numscope.benchmark.cuda_timing import Times, fitting

ROWS = [
    Row("copy, 1 GiB", 1e-3, {"card": 0.95e-3}, {"card": 0.92}, 2 << 30),
    Row("small: add", 2e-4, {"torch": 1e-4, "cupy": 8e-4}, {"torch": 1.0}),
    Row("Python of a call", 5e-6, limit=8e-6),
    Row("Python of a call, slow", 9e-6, limit=8e-6),
    Row("nothing is wanted", 1e-6, {"torch": 1e-6}),
    Row("alone", 1e-6, {}, {"torch": 1.0}, left_out={"torch": "OSError: no libcudart"}),
    Row("slower than one of two", 1e-6, {"cupy": 5e-7}, {"torch": 1.0, "cupy": 0.97}),
]
CHECKS = [Check("bits", "9 cases, 0 differ", True), Check("racecheck", "1 | [hazard]\nat 5", False)]


# --- what is shown ---------------------------------------------------------------------------------


def test_a_figure_is_reached_or_missed_or_has_no_peer():
    verdicts = ["reached", "MISSED", "reached", "MISSED", "", "not compared", "MISSED"]
    assert [row.verdict for row in ROWS] == verdicts
    assert ROWS[0].bandwidth == (2 << 30) / 1e-3


def test_the_tables_show_figures_peers_and_what_was_wanted():
    text = io.StringIO()
    for table in tables(CHECKS, ROWS):
        Console(file=text, width=150).print(table)
    lines = text.getvalue().splitlines()
    assert any("bits" in line and "9 cases, 0 differ" in line and "passed" in line for line in lines)
    assert any("1 | [hazard]" in line for line in lines)
    assert any("1000.0" in line and "2147" in line and "0.92 x card" in line for line in lines)
    assert any("0.50 x torch, 4.00 x cupy" in line and "MISSED" in line for line in lines)
    assert any("at most 8.0 us" in line and "reached" in line for line in lines)
    assert any("without torch: OSError: no libcudart" in line for line in lines)


def test_the_page_has_a_line_for_each_check_and_figure():
    lines = as_markdown({"card": "H100", "driver": None, "versions": {"torch": None}}, CHECKS, ROWS)
    lines = lines.splitlines()
    assert {"- card: H100", "- driver: unknown", "- versions: torch not found"} <= set(lines)
    assert "| racecheck | 1 \\| [hazard] at 5 | FAILED |" in lines
    assert "| copy, 1 GiB | 1000.0 | 2147 | 0.92 x card | 0.95 x card | reached |" in lines


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Return a function that runs the command with steps that are stood in for, and one that reads JSON."""
    monkeypatch.setattr(cuda_benchmark, "resolve_device", lambda name: types.SimpleNamespace(name="cuda:0"))
    monkeypatch.setattr(cuda_benchmark, "_facts", lambda device: {"card": "none", "versions": {}})
    file, page = tmp_path / "found.json", tmp_path / "found.md"

    def run(do, **limits):
        monkeypatch.setattr(cuda_benchmark, "LIMITS", dict.fromkeys(limits, 1.0))
        monkeypatch.setattr(cuda_benchmark, "_do", do)
        return cuda_benchmark.execute("cuda", str(file), page)

    return types.SimpleNamespace(run=run, read=lambda: json.loads(file.read_text()), page=page)


def test_a_step_that_fails_leaves_the_others_and_the_exit_status_says_so(command, capsys):
    found = {"a": [CHECKS[1]], "b": [CHECKS[0], ROWS[3]]}
    assert command.run(lambda step, device: found[step], a=1, b=1) == 1
    values = command.read()
    assert [check["passed"] for check in values["checks"]] == [False, True]
    assert [row["reached"] for row in values["figures"]] == [False]
    assert values["steps_not_done"] == []
    assert "FAILED" in command.page.read_text()
    out = capsys.readouterr().out
    assert "FAILED" in out.partition("b (at most")[0]  # as soon as it is known


def test_missed_figures_and_what_cannot_be_run_here_are_no_failure(command):
    found = [Check("racecheck", "not installed", None), ROWS[3]]
    assert command.run(lambda step, device: found, a=1) == 0


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_what_it_found(command, capsys, ending):
    def do(step, device):
        if step == "b":
            signal.raise_signal(ending)
        return ROWS

    with pytest.raises(KeyboardInterrupt):
        command.run(do, a=1, b=1, c=1)
    assert command.read()["steps_not_done"] == ["b", "c"]
    assert "steps not done: b, c" in command.page.read_text()
    assert "0.50 x torch" in capsys.readouterr().out


def test_json_has_no_numbers_that_json_lacks(command):
    command.run(lambda step, device: [Row("odd", 1e-6, {"card": math.nan})], a=1)
    assert command.read()["figures"][0]["peers"] == {"card": None}


def test_each_step_that_has_a_limit_can_be_done():
    inner = {*cuda_benchmark.STEPS} - {"sanitized kernels"}
    assert {*cuda_benchmark.LIMITS} == inner | {"memcheck", "racecheck", "main job"}


def test_what_a_process_of_a_step_finds_is_read(monkeypatch):
    text = cuda_benchmark._as_text([*CHECKS, *ROWS])
    code = f"print('a word of a library'); print({text!r}); print('and one at exit'); exit(3)"
    monkeypatch.setattr(cuda_benchmark, "_command", lambda step, device: [sys.executable, "-c", code])
    assert cuda_benchmark._do("small", "cuda:0") == [*CHECKS, *ROWS]


def test_a_process_that_dies_is_a_failed_check(monkeypatch):
    code = "raise RuntimeError('cudaErrorIllegalAddress')"
    monkeypatch.setattr(cuda_benchmark, "_command", lambda step, device: [sys.executable, "-c", code])
    [check] = cuda_benchmark._do("small", "cuda:0")
    assert check.verdict == "FAILED"
    assert "cudaErrorIllegalAddress" in check.found


def test_too_little_memory_leaves_a_step_out(monkeypatch):
    device = types.SimpleNamespace(Device=lambda number: io.StringIO())  # any context
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=device))

    def exhaust(*arguments):
        raise MemoryError("gpt2 takes 1.9 GiB")

    monkeypatch.setitem(cuda_benchmark.STEPS, "gpt2", exhaust)
    [check] = cuda_benchmark._run_here("gpt2", "cuda:0")
    assert (check.verdict, check.found) == ("not run", "out of memory: gpt2 takes 1.9 GiB")


def test_the_model_of_pytorch_is_summed_right():
    torch = pytest.importorskip("torch")
    cupy = types.SimpleNamespace(asnumpy=np.asarray)
    [check] = cuda_benchmark._train_torch(cupy, torch, "cpu")
    assert (check.verdict, "of its largest" in check.found) == ("passed", True)
    [check] = cuda_benchmark._train_torch(cupy, None, "cpu")
    assert check.verdict == "not run"


def test_only_some_faults_are_named():
    check = cuda_benchmark._named([f"case {n}" for n in range(3000)] + ["9000 cases, 3000 differ"])
    assert not check.passed
    assert check.found.startswith("9000 cases, 3000 differ; case 0; case 1")
    assert len(check.found) < 200


@pytest.mark.skipif(ns.cuda_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_without_a_card_it_says_what_is_missing(device):
    with pytest.raises(ns.DeviceUnavailableError, match="cannot be used"):
        cuda_benchmark.execute(device)


@pytest.mark.skipif(ns.cuda_available(), reason="there is a CUDA device")
def test_the_command_line_says_so_too(capsys):
    assert cli.main(["bench", "--device", "cuda"]) == 1
    assert 'numscope bench: error: device "cuda" cannot be used' in capsys.readouterr().err


def test_the_command_line_says_where_to_write(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cuda_benchmark, "execute", lambda *arguments: seen.append(arguments) or 0)
    page = tmp_path / "card.md"
    assert cli.main(["bench", "--device", "cuda:1", "--json", "--markdown", str(page)]) == 0
    assert seen == [("cuda:1", "-", page)]


def test_the_page_is_for_a_card(capsys, tmp_path):
    assert cli.main(["bench", "--markdown", str(tmp_path / "found.md")]) == 2
    assert "--markdown is for a card: add --device cuda" in capsys.readouterr().err


def test_the_host_is_no_card():
    with pytest.raises(ns.DeviceUnavailableError, match="for a CUDA device, got 'cpu'"):
        cuda_benchmark.execute("cpu")


# --- commands --------------------------------------------------------------------------------------


@pytest.fixture
def sanitizer(monkeypatch, tmp_path):
    """Return a function that puts a tool in compute-sanitizer's place, which says and returns this."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_commands, "TOOLKITS", (str(tmp_path / "cuda"),))
    monkeypatch.setattr(cuda_commands, "PACKAGES", ())

    def install(says, status):
        tool = tmp_path / "cuda" / "bin" / "compute-sanitizer"
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(f'#!/bin/sh\n/bin/echo "$@"\n/bin/echo "{says}"\nexit {status}\n')
        tool.chmod(0o755)

    return install


def test_a_sanitizer_that_is_not_installed_is_no_failure(sanitizer):
    check = cuda_commands.sanitize("memcheck", ["true"], 5)
    assert check.passed is None
    assert "pip install nvidia-cuda-sanitizer-api" in check.found


@pytest.mark.parametrize(
    ("says", "status", "passed"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, True),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, True),
        ("========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)", 0, False),
        ("========= ERROR SUMMARY: 10 errors", 9, False),
        ("========= ERROR SUMMARY: 0 errors", 3, False),  # the command itself found a fault
        ("========= Error: No attachable process found", 0, None),
        ("========= Error: Target application terminated before first instrumented API call", 255, None),
    ],
)
def test_a_sanitizer_must_say_that_there_are_no_errors(sanitizer, says, status, passed):
    sanitizer(says, status)
    check = cuda_commands.sanitize("memcheck", ["true"], 5)
    assert check.passed is passed
    assert says.partition("SUMMARY: ")[2] in check.found


def test_a_command_that_hangs_under_the_sanitizer_has_failed(sanitizer):
    sanitizer("", 0)
    tool = cuda_commands.find_sanitizer()
    with open(tool, "w") as file:
        file.write("#!/bin/sh\nexec /bin/sleep 60\n")
    check = cuda_commands.sanitize("racecheck", ["true"], 0.2)
    assert (check.passed, check.found) == (False, "no verdict: not done after 0.2 seconds")


def test_calls_that_the_driver_refuses_are_no_errors_of_memory(sanitizer):
    sanitizer("no summary", 0)
    asked = {kind: cuda_commands.sanitize(kind, ["run"], 5).found for kind in ("memcheck", "racecheck")}
    assert "--tool memcheck --error-exitcode 9" in asked["memcheck"]
    assert "--report-api-errors no run" in asked["memcheck"]
    assert "--report-api-errors" not in asked["racecheck"]


def test_a_sanitizer_that_pip_installed_is_found(sanitizer, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_commands, "TOOLKITS", ())
    monkeypatch.setattr(cuda_commands, "PACKAGES", ("cuda",))
    monkeypatch.setattr(cuda_commands.sysconfig, "get_path", lambda name: str(tmp_path))
    assert cuda_commands.find_sanitizer() is None
    sanitizer("", 0)
    assert cuda_commands.find_sanitizer() == str(tmp_path / "cuda" / "bin" / "compute-sanitizer")


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    file, begin = tmp_path / "pid", time.monotonic()
    done = cuda_commands.run(["sh", "-c", f"sleep 60 & echo $! > {file}; echo begun; wait"], 0.5)
    assert time.monotonic() - begin < 30
    assert (done.status, done.output) == (None, "begun\n")
    assert done.trouble == "not done after 0.5 seconds begun"
    assert _ends(int(file.read_text()))


def test_a_tool_for_another_processor_is_no_failure(sanitizer):
    sanitizer("", 0)
    with open(cuda_commands.find_sanitizer(), "wb") as file:
        file.write(b"\x7fELF of another kind")
    check = cuda_commands.sanitize("memcheck", ["true"], 5)
    assert (check.passed, "Exec format error" in check.found) == (None, True)


def _ends(number):
    """Tell whether a process ends within a second; one that is dead may wait to be collected."""
    for _ in range(100):
        try:
            os.kill(number, 0)
            with open(f"/proc/{number}/stat") as state:
                if state.read().split()[2] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


# --- figures ---------------------------------------------------------------------------------------


class HostArray(np.ndarray):
    """As much of a CuPy array as the figures' data need, in host memory."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])

    def set(self, values):
        self[...] = values

    def __setitem__(self, place, values):
        assert place is ..., "CuPy would compile a kernel for this"
        super().__setitem__(place, values)


@pytest.fixture
def cupy():
    """Stand in for CuPy: events that take 2 ms, and a card with 64 MiB left."""
    events = types.SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            Event=lambda: events,
            get_elapsed_time=lambda start, end: 2.0,
            runtime=types.SimpleNamespace(
                memGetInfo=lambda: (64 << 20, 8 << 30),
                getDevice=lambda: 0,
                getDeviceProperties=lambda number: {"l2CacheSize": 50 << 20},
            ),
        ),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(HostArray),
    )


def test_calls_take_turns_on_data_of_their_own(cupy):
    """Each call sees each data set before anything is timed, and then another one than the call before."""
    seen = {"a": [], "b": []}
    calls = {name: turns.append for name, turns in seen.items()}
    found = Times(cupy, calls, turns=4, rounds=3)
    assert found.seconds == {"a": 2e-3, "b": 2e-3}
    assert [turns[:4] for turns in seen.values()] == [[0, 1, 2, 3]] * 2
    assert sorted(seen["a"][4:] + seen["b"][4:]) == list(range(16))


def test_rounds_in_which_the_clocks_rise_do_not_count(cupy):
    slow_at_first = iter([50.0] * 5 + [2.0] * 3)
    cupy.cuda.get_elapsed_time = lambda start, end: next(slow_at_first)
    assert Times(cupy, {"a": lambda turn: None}, rounds=3).seconds == {"a": 2e-3}


def test_a_peer_that_fails_is_left_out_by_name(cupy):
    def refuse(turn):
        raise ImportError("no libnvrtc\nin many words")

    times = Times(cupy, {"ours add": lambda turn: None, "cupy add": refuse}, ["cupy add"])
    row = times.row("small: add", "ours add", {"cupy": "cupy add", "torch": "torch add"}, {"cupy": 1.0})
    assert row.left_out == {"cupy": "ImportError: no libnvrtc"}
    assert (row.peers, row.verdict) == ({}, "not compared")
    with pytest.raises(ImportError):
        Times(cupy, {"ours add": refuse}, ["cupy add"])


def test_sizes_are_halved_until_they_fit(cupy, monkeypatch):
    monkeypatch.setattr("numscope.benchmark.cuda_timing.SMALLEST", 16 << 20)
    assert fitting(cupy, 64 << 20, 2) == 32 << 20
    assert fitting(cupy, 1 << 30, 3) == 16 << 20
    with pytest.raises(MemoryError, match=r"64.00 MiB of 8.00 GiB are free, expected 5 times 16.00 MiB"):
        fitting(cupy, 1 << 30, 5)


def test_a_set_that_does_not_fit_is_refused(cupy):
    with pytest.raises(MemoryError, match=r"gpt2 takes 1\.85 GiB, 64\.00 MiB are free"):
        cuda_figures.sets(cupy, None, ["gpt2"])


def test_the_pieces_of_a_split_are_as_many_as_it_says(cupy, monkeypatch):
    """Of neighbours that follow one another the kernels make one piece, and many would cost what one does."""
    pieces = []

    def prepare(operation, *sides):
        pieces.append(len(make_plan(operation, *sides).destination))
        return lambda alpha: None

    monkeypatch.setattr(cuda_figures.kernels, "prepare", prepare)
    rows = cuda_figures.splits(cupy, "cpu", 1 << 22)
    assert pieces[0] == 1
    assert pieces[1] > 95
    assert pieces[2] > 9990
    assert [row.name for row in rows] == [f"accumulate, 4.00 MiB in {n}" for n in ("1", "100", "10,000")]
    assert {row.verdict for row in rows} == {"reached"}


def test_every_row_of_a_set_has_both_peers(cupy, monkeypatch):
    torch = pytest.importorskip("torch")
    cupy.stack = np.stack
    cupy.cuda.runtime.getDeviceProperties = lambda number: {"l2CacheSize": 1 << 20}
    monkeypatch.setitem(cuda_figures.SETS, "small", lambda: [(500, 100), (3, 5), (7,)])
    found = cuda_figures.sets(cupy, torch, ["small"])
    assert [row.name for row in found[:-1]] == ["small: add", "small: zero", "small: add, norm, check"]
    assert found[-1].peers.keys() == {"torch", "cupy"}
    for row in found[:-1]:
        assert row.peers.keys() == row.wanted.keys() == {"torch", "cupy"}
        assert row.verdict == "reached"
    without = cuda_figures.sets(cupy, None, ["small"])
    assert [row.verdict for row in without] == [*["not compared"] * 3, ""]


def test_the_passes_of_pytorch_add_bfloat16_to_float32(cupy):
    torch = pytest.importorskip("torch")
    words = np.array([0x3F80, 0x4000], np.uint16)  # 1 and 2 as bfloat16
    target = np.array([1, 1], np.float32)
    cuda_figures._torch_passes(torch, target, words)(0)
    np.testing.assert_allclose(target, [1.001, 1.002], rtol=1e-6)


def test_a_part_of_the_table_that_ends_early_leaves_the_others(monkeypatch):
    def stop(*arguments):
        yield "one", cupy_array, np.ones(3), None, None
        raise RuntimeError("cudaErrorInvalidValue")

    def differ(*arguments):
        yield "two", cupy_array, np.zeros(3), None, None

    cupy_array = types.SimpleNamespace(get=lambda: np.ones(3))
    for part in ("casts", "lists", "scattered", "accumulated"):
        monkeypatch.setattr(
            cuda_checks, f"_{part}", differ if part == "scattered" else lambda *parts: iter(())
        )
    monkeypatch.setattr(cuda_checks, "_elementwise", stop)
    monkeypatch.setattr(cuda_checks, "_holds", lambda cupy, dtype: True)
    assert cuda_checks.check(None) == [
        "single arrays ended after 1 cases: RuntimeError: cudaErrorInvalidValue",
        "two: the card has None, the host None",
        "2 cases, 2 differ",
    ]


def test_arrays_come_to_the_card_without_a_kernel_of_cupy(cupy):
    """And end where their memory does, so that the sanitizer sees what is beyond."""
    array = np.arange(5, dtype="float32")
    moved = cuda_checks._on_card(cupy, array, 3)
    assert moved.tolist() == array.tolist()
    assert cuda_checks._on_card(cupy, array[:0], 1).size == 0


@pytest.mark.cuda
@pytest.mark.skipif(not ns.cuda_available(), reason="no CUDA device")
def test_the_kernels_have_the_bits_of_the_host():
    assert cuda_benchmark.main(["--step", "kernels", "--device", "cuda"]) == 0
