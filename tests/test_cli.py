"""The command line: exit statuses, what stands on which output, Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from importlib import metadata

import numpy as np
import pytest
from rich.console import Console

from numscope import cli, storage, training
from numscope.benchmark.sets import SETS
from numscope.reporting import ProgressView
from numscope.results import Step

QUICK = ["--steps", "5", "--device", "cpu", "--hidden", "16"]


@pytest.fixture
def data(tmp_path):
    """A file of three classes that are easy to tell apart."""
    rng = np.random.default_rng(8)
    labels = np.arange(120) % 3
    path = tmp_path / "blobs.npz"
    np.savez(path, features=rng.normal(size=(120, 5)) + 4 * np.eye(3, 5)[labels], labels=labels)
    return str(path)


def run(*arguments):
    """Return the exit status, that of wrong arguments too."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


class TestRun:
    def test_table_says_what_happened(self, capsys):
        assert run("run", *QUICK) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert re.search(r"step 5/5  loss [\d.]+  [\d,]+ examples/s", out)
        for row in (
            "data .* digits: 1,437 to train, 360 to test",
            "model .* perceptron 64-16-10",
            r"optimizer .* sgd, learning rate 0\.1",
            "steps .* 5 of 5",
            r"test accuracy .* 0\.\d{4}",
            r"accumulated against one batch .* \d\.\de-\d\d \([wb]\d; \d steps checked\)",
            r"segments taken after the first step .* 0 ",
            r"examples per second .* [\d,]+",
            r"time in kernels, with their checks .* \d\.\d{3} s",
            r"time in matrix products .* \d\.\d{3} s",
            r"time in Python .* \d\.\d{3} s",
        ):
            assert re.search(row, out), row
        planned, reached = re.findall(r"arena peak, \w+ .* ([\d,]+) bytes", out)
        assert planned == reached
        assert "CC BY 4.0" in out

    def test_json_alone_on_standard_output(self, capsys, data):
        assert run("run", data, *QUICK, "--json") == 0
        out, err = capsys.readouterr()
        values = json.loads(out)
        assert values["data"]["name"] == data
        assert values["data"]["classes"] == ["0", "1", "2"]
        assert values["settings"]["device"] == "cpu"
        assert values["settings"]["lr"] == 0.1
        assert values["planned_peak"] == values["reached_peak"]
        assert values["segments_taken"] == 0
        assert values["largest_difference"] <= 1e-5
        assert values["interrupted"] is False
        assert values["steps"] == 5
        assert "test accuracy" in err

    def test_json_file_and_saved_parameters(self, capsys, data, tmp_path):
        options = (
            "--optimizer adam --dtype bfloat16 --micro-batch 7 --accumulate 3 --lr 0.01 --max-norm 2 --seed 4"
        )
        targets = ["--save", tmp_path / "p.safetensors", "--json", tmp_path / "r.json"]
        status = run("run", data, *QUICK, *options.split(), *targets)
        assert status == 0
        values = json.loads((tmp_path / "r.json").read_text())
        expected = {
            "micro_batch": 7,
            "accumulate": 3,
            "steps": 5,
            "lr": 0.01,
            "hidden": [16],
            "optimizer": "adam",
        }
        expected |= {"dtype": "bfloat16", "max_norm": 2.0, "seed": 4, "device": "cpu"}
        assert values["settings"] == expected
        assert storage.load(tmp_path / "p.safetensors")["w1"].shape == (5, 16)
        assert "test accuracy" in capsys.readouterr().out
        assert sorted(os.listdir(tmp_path)) == ["blobs.npz", "p.safetensors", "r.json"]

    def test_trains_on_csv_and_safetensors(self, capsys, data, tmp_path):
        with np.load(data) as arrays:
            features, labels = arrays["features"], arrays["labels"]
        storage.save(tmp_path / "a.safetensors", {"features": features, "labels": labels})
        np.savetxt(tmp_path / "a.csv", np.column_stack([features, labels]), delimiter=",")
        accuracies = []
        for path in (data, tmp_path / "a.safetensors", tmp_path / "a.csv"):
            assert run("run", path, *QUICK, "--steps", "20", "--json") == 0
            accuracies.append(json.loads(capsys.readouterr().out)["accuracy"])
        assert accuracies[0] == accuracies[1] == accuracies[2] >= 0.9

    def test_a_name_like_markup_is_shown_as_it_is(self, capsys, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        os.rename(data, "[red]a[&red].npz")
        assert run("run", "[red]a[&red].npz", *QUICK) == 0
        assert "[red]a[&red].npz: 96 to train" in capsys.readouterr().out

    def test_numbers_that_json_lacks_are_null(self, capsys, monkeypatch):
        monkeypatch.setattr(training.Training, "_accuracy", lambda self: float("nan"))
        assert run("run", *QUICK, "--json") == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] is None


def test_progress_is_a_bar_on_a_terminal_and_some_lines_elsewhere():
    steps = [Step(n, 0.25, 30, 1, 1.0, 0.5, 0.1, 0.1) for n in range(1, 101)]
    shown = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
        with ProgressView(console, 100) as progress:
            for step in steps:
                progress.show(step)
        shown[terminal] = console.file.getvalue()
    assert "100/100" in shown[True]
    assert "loss 0.2500  60 examples/s" in shown[True]
    lines = shown[False].splitlines()
    assert lines[0] == "step 1/100  loss 0.2500  60 examples/s"
    assert lines[-1] == "step 100/100  loss 0.2500  60 examples/s"
    assert len(lines) == 11


class TestFailure:
    """Exit status 1, one line on standard error, nothing written."""

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("missing.npz", None, "missing.npz', expected one with examples; check its name"),
            ("a.csv", "", "is empty, expected features and labels"),
            ("a.csv", "1,2,0\n" * 20, "has one class, 0"),
            ("a.csv", "1,nan,0\n1,2,1\n" * 9, "NaN or infinite"),
            ("a.csv", "red,2,0\nblue,2,1\n" * 9, "expected a number"),
            ("a.npz", "no archive", "damaged"),
            ("a.safetensors", "no archive either", "damaged"),
            ("a.parquet", "", "expected one of .npz, .safetensors, .csv"),
        ],
    )
    def test_data_that_is_no_good(self, capsys, tmp_path, name, content, message):
        if content is not None:
            (tmp_path / name).write_text(content)
        assert (
            run("run", tmp_path / name, *QUICK, "--save", tmp_path / "p", "--json", tmp_path / "r.json") == 1
        )
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert err.startswith("numscope run: error: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "p").exists()
        assert not (tmp_path / "r.json").exists()

    def test_an_empty_name_is_not_taken_for_none(self, capsys):
        assert run("run", "", *QUICK) == 1
        assert "expected one of .npz" in capsys.readouterr().err

    def test_divergence(self, capsys, data):
        assert run("run", data, *QUICK, "--lr", "1e30") == 1
        assert "the training diverged; lower --lr, now 1e+30" in capsys.readouterr().err

    def test_no_gpu(self, capsys, data):
        assert run("run", data, *QUICK[:2], "--device", "cuda:99") == 1
        assert "cuda" in capsys.readouterr().err


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "COMMAND"),
            (["walk"], "invalid choice: 'walk'"),
            (["run", "--steps", "0"], "expected a whole number of at least 1, got '0'"),
            (["run", "--steps", "1.5"], "got '1.5'"),
            (["run", "--micro-batch", "-3"], "got '-3'"),
            (["run", "--accumulate", "x"], "got 'x'"),
            (["run", "--lr", "nan"], "expected a positive number, got 'nan'"),
            (["run", "--lr", "inf"], "expected a positive number"),
            (["run", "--lr", "0"], "expected a positive number"),
            (["run", "--max-norm", "fast"], "expected a positive number"),
            (["run", "--hidden", "8,,4"], "expected a whole number of at least 1, got ''"),
            (["run", "--optimizer", "newton"], "invalid choice: 'newton'"),
            (["run", "--task", "chess"], "invalid choice: 'chess'"),
            (["run", "--dtype", "int8"], "invalid choice: 'int8'"),
            (["run", "--device", "null"], "expected auto, cpu, cuda or cuda:N, got 'null'"),
            (["run", "--seed", "-1"], "expected a whole number of at least 0"),
            (["bench", "--device", "auto"], "expected cpu, cuda or cuda:N, got 'auto'"),
            (["bench", "--rounds", "1"], "expected a whole number of at least 2, got '1'"),
            (["bench", "--threads", "no"], "expected a whole number of at least 1, got 'no'"),
            (["run", "one", "two"], "unrecognized arguments: two"),
            (["run", "--json", "mine.csv"], "would be overwritten; put DATA before --json"),
        ],
    )
    def test_exit_status_is_2(self, capsys, arguments, message):
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert out == ""

    @pytest.mark.parametrize("option", ["--save", "--json"])
    def test_places_that_cannot_be_written_are_found_before_the_training(
        self, capsys, data, tmp_path, option
    ):
        for path, message in ((tmp_path, "is a folder"), (tmp_path / "no" / "r", "there is no folder")):
            assert run("run", data, option, path) == 2
            out, err = capsys.readouterr()
            assert message in err
            assert out == ""

    def test_what_is_no_file_is_not_replaced(self, capsys, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert run("run", *QUICK, "--save", tmp_path / "pipe") == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "is no plain file" in err

    def test_number_of_threads_in_the_environment(self):
        environment = os.environ | {"NUMSCOPE_NUM_THREADS": "many"}
        done = subprocess.run(
            [sys.executable, "-m", "numscope", "info"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "NUMSCOPE_NUM_THREADS is 'many'" in done.stderr

    def test_help(self, capsys):
        assert run("run", "--help") == 0
        out = capsys.readouterr().out
        for word in (
            "features",
            "labels",
            ".npz",
            ".csv",
            ".safetensors",
            "--micro-batch",
            "CC BY 4.0",
            "Exit status",
        ):
            assert word in out


class TestInterrupt:
    def test_first_ctrl_c_ends_after_the_step_with_the_table_and_a_whole_file(self, tmp_path):
        command = [sys.executable, "-m", "numscope", "run", "--steps", "1000000", "--device", "cpu"]
        with subprocess.Popen(
            [*command, "--save", str(tmp_path / "p.safetensors")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("step 1/1000000")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == ""
        assert "numscope run (interrupted)" in out
        assert "test accuracy" in out
        assert os.listdir(tmp_path) == ["p.safetensors"]
        assert storage.load(tmp_path / "p.safetensors")["b2"].shape == (10,)

    @pytest.fixture
    def interrupted(self, monkeypatch):
        """Make the first three steps send Ctrl-C to this process; return how many were made."""
        made = []
        step = training.Training._step

        def interrupting(self, number, first):
            made.append(number)
            signal.raise_signal(signal.SIGINT)
            return step(self, number, first)

        monkeypatch.setattr(training.Training, "_step", interrupting)
        return made

    def test_json_says_so(self, capsys, data, interrupted):
        assert run("run", data, *QUICK, "--json") == 130
        values = json.loads(capsys.readouterr().out)
        assert values["interrupted"] is True
        assert values["steps"] == 1
        assert interrupted == [1]

    def test_second_ctrl_c_ends_at_once(self, capsys, data, tmp_path, monkeypatch):
        def impatient(self, number, first):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(training.Training, "_step", impatient)
        handler = signal.getsignal(signal.SIGINT)
        assert run("run", data, *QUICK, "--save", tmp_path / "p.safetensors") == 130
        assert capsys.readouterr().err == "numscope run: interrupted\n"
        assert not (tmp_path / "p.safetensors").exists()
        assert signal.getsignal(signal.SIGINT) is handler

    def test_in_another_thread_signals_are_left_alone(self, capsys, data):
        statuses = []
        thread = threading.Thread(target=lambda: statuses.append(run("run", data, *QUICK, "--json")))
        thread.start()
        thread.join()
        assert statuses == [0]

    def test_output_that_nobody_reads(self):
        command = f"'{sys.executable}' -m numscope info | head -c 1"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.stderr == ""


class TestBench:
    def test_json_alone_on_standard_output(self, capsys, monkeypatch):
        monkeypatch.setitem(SETS, "small", lambda: [(3,), (40, 5)])
        small = ("--set", "small", "--threads", 1, "--rounds", 2, "--only", "zero", "--compile", "none")
        assert run("bench", *small, "--json") == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["rows"][0]["operation"] == "zero"
        assert "zero" in err


class TestInfo:
    def test_a_checkout_that_is_not_installed_has_no_version(self, capsys, monkeypatch):
        def unknown(package):
            raise metadata.PackageNotFoundError(package)

        monkeypatch.setattr(metadata, "version", unknown)
        assert run("--version") == 0
        assert capsys.readouterr().out == "numscope not installed\n"

    def test_table(self, capsys):
        assert run("info") == 0
        out = capsys.readouterr().out
        for word in (
            "versions numpy",
            "processor features",
            "threads",
            "default arena capacity",
            "devices cpu",
        ):
            assert word in out

    def test_json(self, capsys, tmp_path):
        assert run("info", "--json") == 0
        values = json.loads(capsys.readouterr().out)
        assert values["versions"]["numpy"] == np.__version__
        assert values["threads"]["processors"] >= 1
        assert values["devices"]["cpu"] == "available as 'cpu'"
        assert run("info", "--json", tmp_path / "i.json") == 0
        assert json.loads((tmp_path / "i.json").read_text())["versions"] == values["versions"]

    def test_imports_no_heavy_package(self):
        """But for CuPy where it is installed, which alone can tell of GPUs."""
        program = (
            "import sys; from numscope import cli; cli.main(['info', '--json']);"
            "print({'numba', 'torch', 'mpi4py', 'jax'} & set(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stderr == "set()\n"
