"""The gradient accumulator against arithmetic: what goes wrong with accumulation elsewhere, case by case."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numscope as ns
from numscope import kernels
from numscope.ledger import Ledger

SHAPES = {"w": (4, 10), "b": (10,), "none": (0, 3), "one": ()}
FLOATS = ["float16", ml_dtypes.bfloat16, "float32", "float64"]


@pytest.fixture
def arena():
    return ns.Arena("8 MiB")


@pytest.fixture
def acc(arena):
    return ns.GradientAccumulator(SHAPES, arena=arena)


def gradients(seed, dtype="float32", shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def weighted_mean(batches, weights):
    total = math.fsum(weights)
    return {
        name: sum(w * b[name].astype(np.float64) for b, w in zip(batches, weights, strict=True)) / total
        for name in batches[0]
    }


def norm_of(arrays):
    return math.sqrt(math.fsum(float(np.sum(np.square(a.astype(np.float64)))) for a in arrays.values()))


def bits(acc):
    return {name: acc[name].tobytes() for name in acc}


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


def test_an_error_on_request_changes_nothing(acc):
    broken = gradients(0)
    broken["w"][0, 0] = math.inf
    acc.add(broken)
    with pytest.raises(ns.AccumulationError, match="1 elements of the gradients"):
        acc.finish(error_if_nonfinite=True)
    assert acc.finish().nonfinite == 1


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


def test_nothing_is_allocated_after_construction(arena):
    acc = ns.GradientAccumulator(SHAPES, arena=arena)
    peak, taken = arena.peak, arena.stats().segments_taken
    for _ in range(3):
        acc.add(gradients(0))
        acc.add(gradients(1), skip_nonfinite=True)
        acc.finish(max_norm=1.0)
        acc.reset()
    assert (arena.peak, arena.stats().segments_taken) == (peak, taken)


def test_memory_returns_with_the_accumulator(arena):
    acc = ns.GradientAccumulator(SHAPES, arena=arena)
    acc.add(gradients(0))
    assert arena.used > 0
    del acc
    assert arena.used == 0


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_a_closed_arena_is_an_error_and_no_fault(rounding):
    batch = {"w": np.ones(3, "f4")}
    uses = (
        lambda: acc.add(batch),
        lambda: acc.finish(),
        lambda: acc.copy_to({"w": np.zeros(3)}),
        lambda: acc["w"],
        lambda: acc.flat,
        lambda: acc.all_finite(),
    )
    for finished in (False, True):
        arena = ns.Arena("1 MiB")
        acc = ns.GradientAccumulator({"w": 3}, arena=arena, dtype="bfloat16", rounding=rounding)
        for _ in range(2):  # the second one keeps its call, with addresses in it
            acc.reset()
            acc.add(batch)
            acc.add(batch)
            if finished:
                acc.finish(max_norm=1.0)
        arena.close()
        right = (ns.DeviceUnavailableError, ns.AccumulationError)
        for use in uses:
            with pytest.raises(right, match=r"closed; make a new one|after finish|before finish|already"):
                use()
        acc.reset()
        for use in uses[:1] + uses[3:]:
            with pytest.raises(ns.DeviceUnavailableError, match="closed; make a new one"):
                use()


def test_zero_source_clears_in_the_same_pass(acc):
    batch = gradients(0)
    before = kernels.launches()
    acc.add(batch, zero_source=1)  # any true value
    assert kernels.launches() == before + 1
    assert not any(g.any() for g in batch.values())
    np.testing.assert_array_equal(acc["w"], gradients(0)["w"])


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_zero_source_clears_what_was_not_added_too(acc, weight):
    batch = gradients(0)
    batch["b"][0] = math.nan
    acc.add(batch, weight=weight, zero_source=True, skip_nonfinite=weight != 0)
    assert not any(g.any() for g in batch.values())


def test_sources_with_gaps_are_right(acc):
    batch = gradients(0)
    wide = np.zeros((4, 20), "f4")
    wide[:, ::2] = batch["w"]
    batch["w"], batch["b"] = wide[:, ::2], batch["b"][::-1]
    acc.add(batch, zero_source=True)
    np.testing.assert_array_equal(acc["w"], gradients(0)["w"])
    np.testing.assert_array_equal(acc["b"], gradients(0)["b"][::-1])
    assert not wide.any()


def test_read_only_sources_are_read_but_not_cleared(acc):
    batch = gradients(0)
    batch["w"].flags.writeable = False
    acc.add(batch)
    with pytest.raises(ns.BindingError, match="'w' is read-only"):
        acc.add(batch, zero_source=True)
    assert acc.micro_batches == 1


def test_gradients_may_move_between_micro_batches(acc):
    first, second = gradients(0), gradients(1)
    acc.add(first)
    acc.add(first)
    acc.add(second)
    first["w"][:] = 7  # the place of an earlier source
    acc.add(first)
    acc.finish(mean=False)
    expected = gradients(0)["w"] + gradients(0)["w"] + gradients(1)["w"] + 7
    np.testing.assert_allclose(acc["w"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typo": np.ones(3)}, "unknown gradient 'typo'; expected 'w', 'b'"),
        ({"w": None}, "gradient 'w' is missing, expected one of shape \\(4, 10\\)"),
        ({"w": np.ones((10, 4), "f4")}, "gradient 'w' has shape \\(10, 4\\), expected \\(4, 10\\)"),
        ({"w": np.ones((4, 10), "i8")}, "gradient 'w' is of int64, expected float16"),
        ({"w": np.ones((4, 10), ">f4")}, "gradient 'w': dtype '>f4' \\(bytes swapped\\)"),
        ({"w": np.full((4, 10), None)}, "gradient 'w': dtype object is no known type"),
    ],
)
def test_gradients_that_do_not_fit_change_nothing(acc, change, message):
    acc.add(gradients(0))
    before = bits(acc)
    with pytest.raises(ns.BindingError, match=message):
        acc.add(gradients(1) | change)
    assert bits(acc) == before
    assert acc.micro_batches == 1


def test_the_sums_themselves_are_no_gradients(acc):
    acc.add(gradients(0))
    with pytest.raises(ns.BindingError, match="overlap"):
        acc.add(gradients(1) | {"b": acc.flat["float32"][5:15]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensors": {"w": (3, -1)}}, "'w': the lengths of a shape must not be negative"),
        ({"tensors": {"w": ((3,), "int32")}}, "sums of int32 are not known, expected 'float32', 'float64'"),
        ({"tensors": {"w": ((3,), np.int64)}}, "'w': sums of int64 are not known"),
        ({"tensors": {}, "reduction": "max"}, "reduction must be"),
    ],
)
def test_bad_descriptions(arguments, message):
    with pytest.raises(ns.BindingError, match=message):
        ns.GradientAccumulator(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensors": [("w", (3,))]}, "mapping of names to shapes, .* got list; pass a dict"),
        ({"tensors": {"w": "long"}}, "'w': a shape is an int or a sequence of ints, got 'long'"),
        ({"tensors": {"w": ((3,), "float31")}}, "'w': the name 'float31' is no known type"),
        ({"tensors": {}, "seed": 1.5}, "a seed is an int, got float 1.5"),
    ],
)
def test_descriptions_of_the_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=message) as caught:
        ns.GradientAccumulator(**arguments)
    assert isinstance(caught.value, ns.NumscopeError)


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 2**100])
def test_any_int_is_a_seed(arena, seed):
    acc = ns.GradientAccumulator({"w": 2}, dtype="bfloat16", rounding="stochastic", seed=seed, arena=arena)
    for _ in range(3):
        acc.add({"w": [1.0, 2.0]})
    acc.finish()
    assert acc["w"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [{"unscale": 0}, {"unscale": math.nan}, {"unscale": 1e-310}, {"max_norm": -1}, {"max_norm": math.nan}],
)
def test_bad_factors_change_nothing(acc, bad):
    acc.add(gradients(0))
    with pytest.raises(ns.BindingError, match=r"must be|gives infinity, expected a finite factor"):
        acc.finish(**bad)
    assert acc.finish().norm > 0


def test_shapes_come_from_arrays_and_dtypes_from_pairs(arena):
    acc = ns.GradientAccumulator(
        {"a": np.zeros((2, 3), "f8"), "b": ((2,), "float64"), "c": 5}, arena=arena, dtype="float32"
    )
    assert {name: (a.shape, a.dtype.name) for name, a in acc.items()} == {
        "a": ((2, 3), "float32"),
        "b": ((2,), "float64"),
        "c": ((5,), "float32"),
    }
    assert {kind: flat.size for kind, flat in acc.flat.items()} == {"float32": 128, "float64": 32}


def test_flat_is_the_memory_of_the_sums(acc):
    acc.add(gradients(0))
    acc.flat["float32"][:] = 1
    assert all((acc[name] == 1).all() for name in acc)


def test_a_plan_needs_no_memory():
    arena = ns.Arena("1 TiB", device="null")
    acc = ns.GradientAccumulator({"w": (1 << 30,)}, arena=arena)
    assert arena.used == 4 << 30
    with pytest.raises(ns.DeviceUnavailableError, match="no memory"):
        acc.all_finite()


def test_torch_takes_part_without_a_copy(acc):
    torch = pytest.importorskip("torch")
    batch = {name: torch.from_numpy(g).to(torch.bfloat16) for name, g in gradients(0).items()}
    acc.add(batch, weight=2, zero_source=True)
    acc.finish()
    assert torch.from_numpy(acc["w"]).data_ptr() == acc["w"].ctypes.data
    assert not any(g.any() for g in batch.values())
    np.testing.assert_allclose(acc["w"], gradients(0)["w"], rtol=4e-3)


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
