"""Training on sequences of different lengths, as a run and from the command line."""

import json
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from numscope import cli, datasets, sequences, storage, training
from numscope.errors import AccumulationError, ArenaExhausted, BindingError
from numscope.sequences import SequenceTraining
from numscope.training import Settings

SMALL = Settings(device="cpu", steps=4, micro_batch=16, accumulate=3, hidden=(32,))
QUICK = ["run", "--task", "sequences", "--steps", "2", "--device", "cpu", "--hidden", "16"]


def train(dataset, **changes):
    training = SequenceTraining(dataset, replace(SMALL, **changes))
    return training, list(training.steps())


def test_a_run_learns_and_accumulates_right(tmp_path):
    training, steps = train(datasets.digits(), steps=60)
    report = training.report()
    assert np.mean([s.loss for s in steps[-5:]]) < 0.5 * steps[0].loss
    assert report.accuracy > 0.6
    assert report.checked_steps == (1, 2, 3, 60)
    assert 0 < max(report.differences.values()) <= 1e-5
    assert (report.steps, report.micro_batches, report.examples) == (60, 180, 2880)
    training.save(tmp_path / "weights.safetensors")
    saved = storage.load(tmp_path / "weights.safetensors")
    assert sorted(saved) == ["b_in", "b_out", "w_in", "w_out", "w_state"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 1, "accumulate": 2},
        {"micro_batch": 700, "accumulate": 5},  # two fill all that there are
        {"micro_batch": 5000},
        {"optimizer": "adam", "hidden": (7,)},
        {"seed": 3},
    ],
)
def test_the_plan_is_reached_and_nothing_is_taken_beyond(changes):
    training, _ = train(datasets.digits(), **changes)
    taken = training.arena.stats().segments_taken
    report = training.report()
    assert report.planned_peak == report.reached_peak == training.arena.capacity
    assert report.segments_taken == 0
    assert training.arena.stats().segments_taken == taken  # the test images have no memory of their own


def test_a_plan_may_need_a_larger_rehearsal(monkeypatch):
    expected = train(datasets.digits(), steps=1)[0].report().planned_peak
    monkeypatch.setattr(sequences, "REHEARSAL_CAPACITY", 1 << 14)
    assert train(datasets.digits(), steps=1)[0].report().planned_peak == expected


def test_a_plan_beyond_the_memory_is_refused(monkeypatch):
    for module in (training, sequences):
        monkeypatch.setattr(module, "host_memory", lambda: 1 << 13)
    for capacity in (1 << 14, 1 << 30):
        monkeypatch.setattr(sequences, "REHEARSAL_CAPACITY", capacity)
        with pytest.raises(ArenaExhausted, match=r"memory or more, the machine has 8\.00 KiB"):
            train(datasets.digits(), steps=1)


def test_gradients_are_those_of_pytorch():
    pytest.importorskip("torch")
    training, _ = train(datasets.digits(), steps=1)
    found = training.report().torch_differences
    assert found.keys() == {"float32", "float64"}
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        assert found[dtype].keys() == {"b_in", "b_out", "w_in", "w_out", "w_state"}
        assert 0 < max(found[dtype].values()) <= tolerance


def test_without_pytorch_nothing_is_compared(monkeypatch, capsys):
    def missing(parameters, inputs):
        raise ImportError

    monkeypatch.setattr(sequences, "recurrent_gradients", missing)
    assert cli.main(QUICK) == 0
    assert re.search(r"against PyTorch's gradients .* - \(it is not installed\)", capsys.readouterr().out)


def test_accuracy_does_not_depend_on_how_the_test_images_are_cut_into_batches():
    data = datasets.digits()
    runs = [SequenceTraining(data, replace(SMALL, micro_batch=m, accumulate=1)) for m in (1, 90, 97, 400)]
    assert len({run.report().accuracy for run in runs}) == 1


def test_a_run_is_a_function_of_its_seed():
    runs = [[step.loss for step in train(datasets.digits(5), seed=5)[1]] for _ in range(2)]
    assert runs[0] == runs[1]


def test_divergence_is_an_error_with_a_cure():
    with pytest.raises(AccumulationError, match=r"step 2: .* NaN or infinite, .*; lower --lr, now 1e\+39"):
        train(datasets.digits(), lr=1e39)


def test_what_the_task_does_not_have_says_why():
    data = datasets.digits()
    with pytest.raises(BindingError, match=r"one hidden layer in float32, got widths \(8, 8\)"):
        SequenceTraining(data, Settings(hidden=(8, 8)))
    with pytest.raises(BindingError, match="dtype bfloat16"):
        SequenceTraining(data, Settings(dtype="bfloat16"))
    narrow = replace(data, train_features=data.train_features[:, :63])
    with pytest.raises(BindingError, match="has 63 features an example; expected 4, 9, 16"):
        SequenceTraining(narrow, Settings())


# From the command line.


def test_the_table_says_what_happened(capsys):
    assert cli.main(QUICK) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for row in (
        "model .* Elman net 8-16-10 in a While",
        "micro-batches .* 4 of at most 64 examples",
        r"test accuracy .* 0\.\d{4}",
        r"accumulated against one batch .* \d\.\de-\d\d \(\w+; 2 steps checked\)",
        r"against PyTorch's gradients .* (- \(it is|\d\.\de-\d\d \(float32\), \d\.\de-\d\d \(float64\))",
        r"segments taken after the first step .* 0 ",
    ):
        assert re.search(row, out), row
    planned, reached = re.findall(r"arena peak, \w+ .* ([\d,]+) bytes", out)
    assert planned == reached


def test_json_has_the_same(capsys, tmp_path):
    assert cli.main([*QUICK, "--save", str(tmp_path / "p.safetensors"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["planned_peak"] == values["reached_peak"]
    assert values["largest_difference"] <= 1e-5
    assert values["settings"]["micro_batch"] == SequenceTraining.defaults.micro_batch
    assert set(values["torch_differences"]) <= {"float32", "float64"}
    assert "w_state" in storage.load(tmp_path / "p.safetensors")


def test_ctrl_c_leaves_the_table_of_a_whole_step(capsys, monkeypatch):
    step = SequenceTraining._step

    def interrupting(self, number, chosen):
        signal.raise_signal(signal.SIGINT)
        return step(self, number, chosen)

    monkeypatch.setattr(SequenceTraining, "_step", interrupting)
    assert cli.main(QUICK) == 130
    out = capsys.readouterr().out
    assert "numscope run (interrupted)" in out
    assert re.search("steps .* 1 of 2", out)
