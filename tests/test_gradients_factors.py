"""What `finish` applies, once: the mean, the unscaling and the clipping, and the norm they rest on."""

import math

import ml_dtypes
import numpy as np
import pytest
from reference_gradients import SHAPES, bits, gradients, norm_of

import numscope as ns
from numscope import kernels


def test_an_error_on_request_changes_nothing(acc):
    broken = gradients(0)
    broken["w"][0, 0] = math.inf
    acc.add(broken)
    with pytest.raises(ns.AccumulationError, match="1 elements of the gradients"):
        acc.finish(error_if_nonfinite=True)
    assert acc.finish().nonfinite == 1


def test_factors_apply_once(acc):
    acc.add(gradients(0))
    acc.finish(unscale=65536.0)
    np.testing.assert_allclose(acc["w"], gradients(0)["w"] / 65536, rtol=1e-6)
    with pytest.raises(ns.AccumulationError, match="finish\\(\\) was called already"):
        acc.finish(unscale=65536.0)
    with pytest.raises(ns.AccumulationError, match="add\\(\\) after finish"):
        acc.add(gradients(1))
    np.testing.assert_allclose(acc["w"], gradients(0)["w"] / 65536, rtol=1e-6)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
def test_clipping(acc, max_norm):
    acc.add(gradients(0), weight=3)
    norm = norm_of(gradients(0))
    stats = acc.finish(max_norm=max_norm)
    assert stats.norm == pytest.approx(norm, rel=1e-6)
    assert stats.clip_coefficient == pytest.approx(min(1.0, max_norm / norm), rel=1e-6)
    assert norm_of({name: acc[name] for name in acc}) == pytest.approx(min(norm, max_norm), rel=1e-6)


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_clipping_is_right_where_float32_has_few_digits_of_the_factor(arena, dtype, defer):
    size = 100_000
    acc = ns.GradientAccumulator({"x": size}, dtype=dtype, rounding="compensated", arena=arena)
    acc.add({"x": np.full(size, 3e38, "f4")})
    stats = acc.finish(max_norm=1.0, defer=defer)  # the factor is 1.1e-41
    assert stats.norm == pytest.approx(3e38 * math.sqrt(size), rel=1e-7)
    clipped = acc["x"]
    if defer:
        clipped = np.empty(size, "f4")
        acc.copy_to({"x": clipped})
    tolerance = 1e-2 if clipped.dtype == "bfloat16" else 1e-6
    assert np.linalg.norm(clipped.astype("f8")) == pytest.approx(1.0, rel=tolerance)


def test_a_factor_beyond_float32_leaves_zeros_zero(arena):
    acc = ns.GradientAccumulator({"x": 2}, arena=arena)
    acc.add({"x": [0.0, 2.0**-140]})
    acc.finish(unscale=2.0**-200)
    assert acc["x"].tolist() == [0, 2.0**60]


def test_deferred_factors_are_applied_on_the_way_out(acc):
    acc.add(gradients(0), weight=4)
    summed = bits(acc)
    stats = acc.finish(max_norm=0.25, unscale=8.0, defer=True)
    assert bits(acc) == summed
    out = {"w": np.empty(SHAPES["w"]), "b": np.empty(SHAPES["b"], ml_dtypes.bfloat16)}
    acc.copy_to(out)
    factor = stats.clip_coefficient / 8
    np.testing.assert_allclose(out["w"], gradients(0)["w"] * factor, rtol=1e-6)
    np.testing.assert_allclose(out["b"].astype("f4"), gradients(0)["b"] * factor, rtol=4e-3)
    acc.reset()
    with pytest.raises(ns.AccumulationError, match="copy_to\\(\\) before finish"):
        acc.copy_to(out)


@pytest.mark.parametrize("value", [1e19, 3.4e38, 1e-45, 1e-30])
def test_norms_neither_overflow_nor_vanish(arena, value):
    acc = ns.GradientAccumulator({"x": 128}, arena=arena)
    acc.add({"x": np.full(128, value, "f4")})
    assert acc.finish().norm == pytest.approx(float(np.float32(value)) * math.sqrt(128), rel=1e-8)


@pytest.mark.parametrize("value", [1e300, 1e-300, 5e-324])
def test_norms_of_float64_sums_neither_overflow_nor_vanish(arena, value):
    acc = ns.GradientAccumulator({"x": 4, "y": 5}, dtype="float64", arena=arena)
    acc.add({"x": np.full(4, value), "y": np.zeros(5)})
    assert acc.finish().norm == pytest.approx(2 * value, rel=1e-8)


def test_the_norm_has_the_same_bits_for_any_number_of_threads(arena):
    acc = ns.GradientAccumulator({"x": 300_001, "y": 70_001}, arena=arena)
    norms = set()
    threads = kernels.get_num_threads()
    try:
        for n in (1, 2):
            kernels.set_num_threads(n)
            acc.reset()
            acc.add(gradients(0, shapes={"x": 300_001, "y": 70_001}))
            norms.add(acc.finish().norm.hex())
    finally:
        kernels.set_num_threads(threads)
    assert len(norms) == 1


@pytest.mark.parametrize(
    "bad",
    [{"unscale": 0}, {"unscale": math.nan}, {"unscale": 1e-310}, {"max_norm": -1}, {"max_norm": math.nan}],
)
def test_bad_factors_change_nothing(acc, bad):
    acc.add(gradients(0))
    with pytest.raises(ns.BindingError, match=r"must be|gives infinity, expected a finite factor"):
        acc.finish(**bad)
    assert acc.finish().norm > 0


@pytest.mark.parametrize("wrong", ["2", b"1", 10**400, 1j])
def test_what_is_no_number_changes_nothing(acc, wrong):
    acc.add(gradients(0))
    before = bits(acc)
    with pytest.raises(ns.BindingError, match="weight must"):
        acc.add(gradients(1), weight=wrong)
    for argument in ("unscale", "max_norm"):
        with pytest.raises(ns.BindingError, match=f"{argument} must"):
            acc.finish(**{argument: wrong})
    assert bits(acc) == before
    assert acc.micro_batches == 1
