"""The main job: its memory is as planned, its gradient that of one batch."""

import dataclasses
import os

import numpy as np
import pytest

from numscope import Arena, Workspace, datasets, device, storage, training
from numscope.errors import AccumulationError, ArenaExhausted, DeviceUnavailableError
from numscope.gradients import GradientAccumulator
from numscope.perceptron import Perceptron
from numscope.training import Settings, Training

SMALL = Settings(steps=12, micro_batch=7, accumulate=4, hidden=(9,))


@pytest.fixture(scope="module")
def blobs():
    """Three classes that are easy to tell apart, 100 examples; 80 to train on are no multiple of 28."""
    rng = np.random.default_rng(8)
    labels = np.arange(100) % 3
    return datasets.make_dataset("blobs", rng.normal(size=(100, 5)) + 2 * np.eye(3, 5)[labels], labels)


def train(dataset, settings=SMALL, **changes):
    training = Training(dataset, dataclasses.replace(settings, **changes))
    return training, list(training.steps())


class TestRun:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"optimizer": "adam"},
            {"hidden": (8, 6, 4)},
            {"micro_batch": 1, "accumulate": 1},
            {"micro_batch": 1000, "accumulate": 1000},  # more than there are
            {"max_norm": 1e-3},
            {"steps": 1},
        ],
    )
    def test_plan_is_reached_and_the_gradient_is_that_of_one_batch(self, blobs, changes):
        training, steps = train(blobs, **changes)
        report = training.report()
        assert report.planned_peak == report.reached_peak == training.arena.capacity
        assert report.segments_taken == 0
        assert report.steps == len(steps) == training.settings.steps
        assert set(report.differences) == {
            f"{kind}{i + 1}" for kind in "wb" for i in range(len(training.settings.hidden) + 1)
        }
        assert 0 <= max(report.differences.values()) <= 1e-5
        assert len(report.checked_steps) >= min(3, len(steps))

    def test_bfloat16_gradients_are_summed_in_float32(self, blobs):
        full, short = (train(blobs, dtype=dtype)[0].report() for dtype in ("float32", "bfloat16"))
        # One rounding of each micro-batch's gradient: at most 2^-9 of it; sums in bfloat16 would add more.
        assert 1e-4 < max(short.differences.values()) < 2**-7
        assert short.accuracy >= full.accuracy - 0.1

    def test_every_example_counts_once_an_epoch(self, blobs):
        _, steps = train(blobs, steps=6)
        assert [step.examples for step in steps] == [28, 28, 24] * 2
        assert [step.micro_batches for step in steps] == [4, 4, 4] * 2
        assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6]

    def test_step_with_the_smaller_micro_batch_is_checked(self, blobs):
        training, _ = train(blobs)
        assert 3 in training.report().checked_steps

    def test_a_mean_of_means_would_be_noticed(self, blobs, monkeypatch):
        add = GradientAccumulator.add
        monkeypatch.setattr(
            GradientAccumulator, "add", lambda self, grads, weight: add(self, grads, weight=1)
        )
        training, _ = train(blobs)
        assert min(training.report().differences.values()) > 1e-3

    def test_is_reproducible(self, blobs, tmp_path):
        saved = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            training, _ = train(blobs, seed=seed)
            training.save(tmp_path / name)
            saved.append(storage.load(tmp_path / name))
        np.testing.assert_array_equal(saved[0]["w1"], saved[1]["w1"])
        assert not np.array_equal(saved[0]["w1"], saved[2]["w1"])
        assert {name: array.shape for name, array in saved[0].items()} == {
            "w1": (5, 9),
            "b1": (9,),
            "w2": (9, 3),
            "b2": (3,),
        }

    def test_micro_batches_change_nothing_but_rounding(self, blobs, tmp_path):
        """The same steps, cut into micro-batches in three ways, end with the same parameters."""
        results = []
        for micro_batch, accumulate in ((28, 1), (7, 4), (4, 7)):
            training, steps = train(blobs, micro_batch=micro_batch, accumulate=accumulate)
            training.save(tmp_path / "p")
            results.append((steps, storage.load(tmp_path / "p")))
        for steps, parameters in results[1:]:
            np.testing.assert_allclose([s.loss for s in steps], [s.loss for s in results[0][0]], rtol=1e-4)
            for name, values in parameters.items():
                np.testing.assert_allclose(values, results[0][1][name], rtol=1e-3, atol=1e-5)

    def test_can_be_stopped_after_any_step(self, blobs, tmp_path):
        training = Training(blobs, SMALL)
        assert training.report().steps == 0
        assert training.report().loss is None
        for step in training.steps():
            if step.number == 4:
                break
        report = training.report()
        assert report.steps == 4
        assert report.examples == 28 + 28 + 24 + 28
        training.save(tmp_path / "p")
        assert set(storage.load(tmp_path / "p")) == {"w1", "b1", "w2", "b2"}

    def test_divergence_is_an_error_with_a_cure(self, blobs):
        training = Training(blobs, dataclasses.replace(SMALL, lr=1e30))
        with pytest.raises(AccumulationError, match=r"step 2: .* NaN or infinite .* lower --lr, now 1e\+30"):
            list(training.steps())
        assert training.report().steps == 1

    def test_unknown_device(self, blobs):
        with pytest.raises(DeviceUnavailableError, match="cuda"):
            Training(blobs, dataclasses.replace(SMALL, device="cuda:99"))

    def test_times_add_up(self, blobs):
        training, steps = train(blobs)
        times = training.report().times
        assert times.kernels > 0
        assert times.products > 0
        assert times.python > 0
        assert times.kernels + times.products + times.python == pytest.approx(
            sum(s.seconds for s in steps[1:])
        )
        assert times.first_step == steps[0].seconds

    @pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from /proc")
    def test_steady_state_takes_no_memory(self, blobs):
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        training = Training(blobs, dataclasses.replace(SMALL, steps=300))
        for step in training.steps():
            if step.number == 50:
                before = resident()
        assert resident() - before <= 1 << 20
        assert training.report().segments_taken == 0


def test_digits_with_the_defaults():
    training, _ = train(datasets.digits(), Settings(device="cpu"))
    report = training.report()
    assert report.accuracy >= 0.95
    assert max(report.differences.values()) <= 1e-5
    assert report.planned_peak == report.reached_peak
    assert report.segments_taken == 0


class TestPerceptron:
    ROWS = 6

    @pytest.fixture
    def frame(self):
        model = Perceptron((4, 5, 7, 3), rows=self.ROWS + 2)
        arena = Arena("1 MiB", device="cpu")
        ws = Workspace(arena=arena)
        ws.allocate(model.shared)
        model.initialise(ws, seed=1)
        model.create(ws)
        rng = np.random.default_rng(2)
        ws["h0"][: self.ROWS] = rng.normal(size=(self.ROWS, 4))
        ws["labels"][: self.ROWS] = rng.integers(3, size=(self.ROWS, 1))
        for name in model.parameters:
            if name.startswith("b"):
                ws[name] += rng.normal(size=ws[name].shape).astype(np.float32)
        return model, ws

    def loss_by_definition(self, parameters, x, labels):
        """Mean cross-entropy in float64."""
        for layer in (1, 2, 3):
            x = x @ parameters[f"w{layer}"] + parameters[f"b{layer}"]
            x = np.maximum(x, 0) if layer < 3 else x
        x = x - x.max(axis=1, keepdims=True)
        return float((np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), labels]).mean())

    def test_gradients_are_central_differences(self, frame):
        model, ws = frame
        parameters = {name: ws[name].astype(np.float64) for name in model.parameters}
        x, labels = ws["h0"][: self.ROWS].astype(np.float64), ws["labels"][: self.ROWS, 0].copy()
        model.forward(np, ws, self.ROWS)
        gradients = model.backward(np, ws, self.ROWS)
        assert ws["loss"][0] / self.ROWS == pytest.approx(
            self.loss_by_definition(parameters, x, labels), rel=1e-6
        )
        for name, array in parameters.items():
            for place in np.ndindex(array.shape):
                value, losses = array[place], []
                for shift in (1e-6, -1e-6):
                    array[place] = value + shift
                    losses.append(self.loss_by_definition(parameters, x, labels))
                array[place] = value
                assert gradients[name][place] == pytest.approx(
                    (losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-6
                )

    def test_a_pass_makes_no_blobs(self, frame):
        model, ws = frame
        names, peak = ws.local_blobs(), ws.arena.peak
        for rows in (self.ROWS, 1):
            model.forward(np, ws, rows)
            model.backward(np, ws, rows)
        assert (ws.local_blobs(), ws.arena.peak) == (names, peak)

    def test_loss_of_large_scores_is_finite(self, frame):
        model, ws = frame
        ws["w3"] *= 1e30
        model.forward(np, ws, self.ROWS)
        gradients = model.backward(np, ws, self.ROWS)
        assert np.isfinite(ws["loss"]).all()
        assert all(np.isfinite(gradients[name]).all() for name in ("w3", "b3"))


def test_a_plan_beyond_the_memory_is_refused_before_it_is_taken(blobs, monkeypatch):
    monkeypatch.setattr(training, "host_memory", lambda: 10_000)
    with pytest.raises(
        ArenaExhausted, match=r"this run needs .* of memory or more, the machine has 9.77 KiB"
    ):
        train(blobs)
    for unknown in (lambda: None, lambda: 1 << 40):
        monkeypatch.setattr(training, "host_memory", unknown)
        train(blobs, steps=1)


def test_a_container_may_use_less_than_there_is(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(device, "CONTAINER_LIMIT", limit)
    there = device.host_memory()
    assert there > 1 << 20
    for text, expected in (("max\n", there), ("1048576\n", 1 << 20)):
        limit.write_text(text)
        assert device.host_memory() == expected
