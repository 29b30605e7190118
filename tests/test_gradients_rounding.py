"""Sums of gradients in 16 bits: where rounding to nearest stalls, and what does not."""

import ml_dtypes
import numpy as np
import pytest

import numscope as ns

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def accumulator(rounding, size=1, **arguments):
    return ns.GradientAccumulator({"x": size}, dtype="bfloat16", rounding=rounding, **arguments)


def ten_thousand_small_steps(acc, size=1):
    acc.add({"x": np.ones(size, BFLOAT16)})
    step = np.full(size, 2.0**-8, BFLOAT16)
    for _ in range(10_000):
        acc.add({"x": step})
    acc.finish(mean=False)
    return acc["x"].astype(np.float64)


TRUTH = 1 + 10_000 * 2.0**-8
STEP = 0.25  # between neighbours of 40 in bfloat16


def test_nearest_stalls():
    assert ten_thousand_small_steps(accumulator("nearest")) == 1.0


def test_compensated_sums_are_right_to_one_step():
    assert abs(ten_thousand_small_steps(accumulator("compensated")) - TRUTH) <= STEP


def test_stochastic_sums_are_right_in_the_mean():
    sums = ten_thousand_small_steps(accumulator("stochastic", 512), 512)
    # One sum's deviation is about sqrt(10,000 / 12) steps of at most 0.25; the mean's is 1/22 of that.
    assert abs(sums.mean() - TRUTH) < 1.0
    assert sums.std() > 0.2


def test_stochastic_sums_depend_on_the_seed_alone():
    def run(seed, threads):
        before = ns.get_num_threads()
        ns.set_num_threads(threads)
        try:
            acc = accumulator("stochastic", 200_003, seed=seed)
            rng = np.random.default_rng(1)
            for _ in range(3):
                acc.add({"x": rng.normal(size=200_003).astype("f4")})
            acc.finish()
            return acc["x"].tobytes()
        finally:
            ns.set_num_threads(before)

    assert run(0, 1) == run(0, 2)
    assert run(0, 1) != run(1, 1)


def test_a_batch_that_is_left_out_takes_its_random_numbers_with_it(device):
    rng = np.random.default_rng(1)
    grads = ns.Workspace(device=device)
    for name in ("first", "last"):
        grads[name] = rng.normal(size=5000).astype("f4")

    def run(*between):
        acc = ns.GradientAccumulator({"x": (5000, "bfloat16")}, rounding="stochastic", device=device)
        acc.add({"x": grads["first"]})
        for value, options in between:
            acc.add({"x": grads.full("between", 5000, value)}, **options)
        acc.add({"x": grads["last"]})
        sums = ns.Workspace(device=device)
        sums["x"] = acc["x"]
        return sums.fetch("x").tobytes()

    without = run()
    skipped = run((np.nan, {"skip_nonfinite": True}))
    assert skipped == run((1.0, {"weight": 0}))
    assert skipped != without


@pytest.mark.parametrize("defer", [False, True])
def test_compensated_sums_keep_their_rest_to_the_end(defer):
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=1000).astype("f4") for _ in range(20)]
    acc = accumulator("compensated", 1000)
    for batch in batches:
        acc.add({"x": batch}, weight=3)
    stats = acc.finish(max_norm=1.0, defer=defer)
    mean = np.mean(batches, axis=0, dtype=np.float64)
    norm = np.linalg.norm(mean)
    assert stats.norm == pytest.approx(norm, rel=1e-6)
    out = np.empty(1000, "f4")
    acc.copy_to({"x": out})
    np.testing.assert_allclose(out, mean / norm, rtol=1e-5, atol=1e-7)
    if not defer:
        np.testing.assert_array_equal(acc["x"], out.astype(BFLOAT16))


def test_a_fresh_compensated_sum_has_no_old_rest():
    acc = accumulator("compensated", 2)
    acc.add({"x": np.array([np.nan, 1.0 + 2.0**-20], "f4")})
    acc.finish()
    acc.reset()
    assert not acc["x"].any()
    acc.add({"x": np.array([1.0, 1.0], "f4")})
    out = np.empty(2, "f4")
    acc.finish()
    acc.copy_to({"x": out})
    assert out.tolist() == [1.0, 1.0]


def test_float16_sums_round_to_nearest():
    acc = ns.GradientAccumulator({"x": 1}, dtype="float16")
    acc.add({"x": np.array([2048], "f2")})
    acc.add({"x": np.array([1], "f2")})
    acc.add({"x": np.array([3], "f2")})
    acc.finish(mean=False)
    assert acc["x"][0] == 2052  # 2048 + 1 -> 2048, ties to even; 2051 -> 2052


def test_unknown_rounding():
    with pytest.raises(ns.BindingError, match="rounding must be 'nearest', 'stochastic', 'compensated'"):
        accumulator("up")
