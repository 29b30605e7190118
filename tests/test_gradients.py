"""The gradient accumulator against arithmetic: what goes wrong with accumulation elsewhere, case by case."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_gradients import SHAPES, bits, gradients, norm_of, weighted_mean

import numscope as ns
from numscope import kernels
from numscope.ledger import Ledger

FLOATS = ["float16", ml_dtypes.bfloat16, "float32", "float64"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_weighted_mean_of_micro_batches_is_the_gradient_of_one_batch(acc, dtype):
    weights = [1, 4389, 17]
    batches = [gradients(seed, dtype) for seed in range(3)]
    for batch, weight in zip(batches, weights, strict=True):
        acc.add(batch, weight=weight)
    stats = acc.finish()
    expected = weighted_mean(batches, weights)
    for name in SHAPES:
        np.testing.assert_allclose(acc[name], expected[name], rtol=3e-6, atol=1e-6)
    assert stats.norm == pytest.approx(norm_of(expected), rel=1e-6)
    assert (stats.weight, stats.micro_batches, stats.skipped) == (4407, 3, 0)
    assert stats.clip_coefficient == 1.0


def test_both_reductions_give_the_gradient_of_one_batch(arena):
    batches, weights = [gradients(seed) for seed in range(3)], [3, 5, 8]
    of_means = ns.GradientAccumulator(SHAPES, arena=arena)
    of_sums = ns.GradientAccumulator(SHAPES, arena=arena, reduction="sum")
    for batch, weight in zip(batches, weights, strict=True):
        of_means.add(batch, weight=weight)
        of_sums.add({name: g * np.float32(weight) for name, g in batch.items()}, weight=weight)
    of_means.finish()
    of_sums.finish()
    for name in SHAPES:
        np.testing.assert_allclose(of_means[name], of_sums[name], rtol=1e-6, atol=1e-7)


def test_sums_of_bfloat16_gradients_do_not_stall(arena):
    acc = ns.GradientAccumulator({"x": 1}, arena=arena)
    acc.add({"x": np.array([256], ml_dtypes.bfloat16)})
    acc.add({"x": np.array([1], ml_dtypes.bfloat16)})
    acc.finish(mean=False)
    assert acc["x"][0] == 257


def test_sums_of_float16_gradients_do_not_stall(arena):
    acc = ns.GradientAccumulator({"x": 1}, arena=arena)
    step = np.array([0.01], np.float16)
    for _ in range(10_000):
        acc.add({"x": step})
    acc.finish(mean=False)
    assert acc["x"][0] == pytest.approx(10_000 * float(step[0]), rel=1e-4)


def test_a_skipped_micro_batch_leaves_sums_and_ledger_bit_for_bit(acc):
    acc.add(gradients(0), weight=3)
    before, ledger = bits(acc), (acc.weight, acc.micro_batches)
    for bad in (math.nan, math.inf, -math.inf):
        broken = gradients(1)
        broken["b"][7] = bad
        acc.add(broken, weight=5, skip_nonfinite=True)
    assert bits(acc) == before
    assert (acc.weight, acc.micro_batches) == ledger
    assert acc.skipped == 3
    acc.add(gradients(2), weight=1, skip_nonfinite=True)
    assert acc.finish().nonfinite == 0


def test_a_nan_is_reported_once_and_gone_after_reset(acc):
    broken = gradients(0)
    broken["w"][2, 3] = math.nan
    acc.add(gradients(1))
    acc.add(broken)
    assert not acc.all_finite()
    stats = acc.finish(max_norm=1.0)
    assert stats.nonfinite == 1
    assert stats.clip_coefficient == 1.0
    assert math.isnan(stats.norm)
    np.testing.assert_array_equal(
        acc["b"], gradients(1)["b"] + broken["b"]
    )  # as it was: not divided, not clipped
    acc.reset()
    acc.add(gradients(2))
    assert acc.finish().nonfinite == 0
    np.testing.assert_array_equal(acc["w"], gradients(2)["w"])


def test_weight_zero_adds_nothing_not_even_a_nan(acc):
    acc.add(gradients(0), weight=2)
    acc.add({name: np.full(shape, np.nan, "f4") for name, shape in SHAPES.items()}, weight=0)
    stats = acc.finish()
    assert (stats.weight, stats.micro_batches, stats.nonfinite) == (2, 2, 0)
    np.testing.assert_array_equal(acc["w"], gradients(0)["w"])


@pytest.mark.parametrize("weights", [[], [0], [0, 0], [1, -1], [-2], [math.nan], [math.inf]])
def test_a_total_weight_without_a_mean_is_an_error(acc, weights):
    for weight in weights:
        acc.add(gradients(0), weight=weight)
    with pytest.raises(ns.AccumulationError, match=r"total weight .* expected a positive finite number"):
        acc.finish()


def test_everything_skipped_is_a_step_of_zeros(acc):
    broken = gradients(0)
    broken["b"][0] = math.nan
    acc.add(broken, skip_nonfinite=True)
    stats = acc.finish(max_norm=1.0)
    assert (stats.norm, stats.clip_coefficient, stats.weight, stats.skipped) == (0.0, 1.0, 0.0, 1)
    assert not acc["w"].any()


def test_reading_before_the_first_addition_gives_zeros(acc):
    acc.add(gradients(0))
    acc.finish()
    acc.reset()
    assert not any(acc[name].any() for name in acc)
    acc.add(gradients(1))
    np.testing.assert_array_equal(acc["w"], gradients(1)["w"])


def test_reset_touches_no_memory_and_the_next_addition_overwrites(acc):
    view = acc["w"]
    acc.add({name: np.full(shape, np.nan, "f4") for name, shape in SHAPES.items()})
    before = kernels.launches()
    acc.reset()
    assert kernels.launches() == before
    assert np.isnan(view).all()
    acc.add(gradients(3))
    np.testing.assert_array_equal(view, gradients(3)["w"])


def test_the_mark_of_a_fresh_sum_belongs_to_the_blob(acc):
    acc.add(gradients(0))
    acc.finish()
    acc.reset()
    acc.add({"w": gradients(1)["w"]}, allow_missing=True)
    acc.add(gradients(2) | {"one": None}, allow_missing=True)
    acc.finish(mean=False)
    np.testing.assert_array_equal(acc["w"], gradients(1)["w"] + gradients(2)["w"])
    np.testing.assert_array_equal(acc["b"], gradients(2)["b"])
    assert acc["one"] == 0


def test_one_kernel_call_a_micro_batch_whatever_the_number_of_blobs(arena):
    shapes = {f"x{i}": (i % 7,) for i in range(1000)}
    acc = ns.GradientAccumulator(shapes, arena=arena)
    for _ in range(2):
        before = kernels.launches()
        acc.add(gradients(0, shapes=shapes))
        assert kernels.launches() == before + 1


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 2**100])
def test_any_int_is_a_seed(arena, seed):
    acc = ns.GradientAccumulator({"w": 2}, dtype="bfloat16", rounding="stochastic", seed=seed, arena=arena)
    for _ in range(3):
        acc.add({"w": [1.0, 2.0]})
    acc.finish()
    assert acc["w"].tolist() == [1, 2]


def test_a_ledger_waits_for_decisions_only_when_it_is_read():
    asked = []

    def read(verdicts):
        asked.append(verdicts)
        return [verdict == "finite" for verdict in verdicts]

    ledger = Ledger(read)
    weights = [0.1, 0.7, 0.2, 0.3]
    for weight, verdict in zip(weights, [True, "finite", "broken", True], strict=True):
        ledger.enter(weight, verdict)
    assert asked == []
    assert (ledger.weight, ledger.micro_batches, ledger.skipped) == (0.1 + 0.7 + 0.3, 3, 1)
    assert asked == [["finite", "broken"]]
    ledger.enter(1.0, False)
    assert ledger.skipped == 2
    ledger.enter(1.0, "finite")
    ledger.reset()
    assert (ledger.weight, ledger.micro_batches, ledger.skipped) == (0.0, 0, 0)
    assert len(asked) == 1


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.floats(0.5, 4096), min_size=1, max_size=6),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    sums=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_weights_and_dtypes(weights, dtype, sums, seed):
    acc = ns.GradientAccumulator(SHAPES, dtype=sums)
    batches = [gradients(seed + i, dtype) for i in range(len(weights))]
    for batch, weight in zip(batches, weights, strict=True):
        acc.add(batch, weight=weight)
    stats = acc.finish()
    expected = weighted_mean(batches, weights)
    tolerance = 2e-6 if sums == "float32" else 1e-13
    for name in SHAPES:
        np.testing.assert_allclose(acc[name], expected[name], rtol=tolerance, atol=tolerance)
    assert stats.norm == pytest.approx(norm_of(expected), rel=tolerance)
