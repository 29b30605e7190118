"""bfloat16 accumulators: nearest stalls, stochastic is right on average, compensated is exact."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import reference
from numscope.kernels import Pieces, prepare

from numscope import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def pieces(*arrays):
    return Pieces.of(arrays)


def test_nearest_stalls_where_the_others_do_not():
    total = np.array([256], BFLOAT16)
    one = np.array([1], BFLOAT16)
    kernels.accumulate(total, one)
    assert total[0] == 256


def test_compensated_sums_are_as_exact_as_float32():
    """10,000 additions of 2**-8 to 1 end within one bfloat16 step of the truth."""
    rng = np.random.default_rng(0)
    total, rest = np.full(300, 1, BFLOAT16), np.zeros(300, np.uint16)
    add = prepare(
        "accumulate",
        pieces(total),
        pieces(step := np.full(300, 2.0**-8, BFLOAT16)),
        rounding="compensated",
        remainder=pieces(rest),
    )
    for _ in range(10_000):
        add()
    truth = 1 + 10_000 * 2.0**-8
    assert np.all(np.abs(total.astype("f8") - truth) <= truth * 2.0**-8)
    exact = np.empty(300, np.float32)
    prepare("copy", pieces(exact), pieces(total), rounding="compensated", remainder=pieces(rest))()
    assert np.all(exact == np.float32(truth))
    # Each further step equals the same step of a float32 accumulator, bit for bit.
    for _ in range(20):
        step[:] = rng.standard_normal(300)
        add(0.3)
        kernels.accumulate(exact, step, alpha=0.3)
        shown = np.empty(300, np.float32)
        prepare("copy", pieces(shown), pieces(total), rounding="compensated", remainder=pieces(rest))()
        assert np.array_equal(shown, exact)
        assert np.all(np.abs(total.astype("f8") - exact) <= np.abs(exact) * 2.0**-8)


def test_compensated_scale_stats_overwrite_and_special_values():
    special = np.array([math.nan, math.inf, -math.inf, -0.0, 3.4028235e38, 1e-45, -1.00390625, 7], "f4")
    total, rest = np.full(8, math.nan, BFLOAT16), np.full(8, 0xFFFF, np.uint16)
    options = {"rounding": "compensated", "remainder": pieces(rest)}
    found = prepare("accumulate", pieces(total), pieces(special), beta=0, stats=True, **options)()
    assert found.nonfinite == 3
    assert math.isnan(found.max_abs)
    shown = np.empty(8, "f4")
    show = prepare("copy", pieces(shown), pieces(total), **options)
    show()
    assert reference.same(shown, special)
    assert np.signbit(shown[3])
    special[:3] = 1
    prepare("accumulate", pieces(total), pieces(special), beta=0, **options)()
    prepare("scale", pieces(total), **options)(0.5)
    show()
    assert np.array_equal(shown, np.float32(0.5) * special)
    measured = prepare("stats", pieces(total), **options)()
    assert measured.max_abs == float(np.float32(3.4028235e38) / 2)


def test_stochastic_rounding_is_unbiased_and_takes_neighbours_only():
    count = 1 << 16
    rng = np.random.default_rng(1)
    for fraction in (0.0, 0.1, 0.5, 0.9):
        low, high = 1.0, 1.0078125
        value = low + fraction * (high - low)
        source = np.full(count, -value, np.float32)
        target = np.zeros(count, BFLOAT16)
        write = prepare("copy", pieces(target), pieces(source), rounding="stochastic")
        write(seed=int(rng.integers(2**62)))
        up = target.astype("f4") == -high
        assert np.all(up | (target.astype("f4") == -low))
        share = float((np.float64(np.float32(value)) - low) / (high - low))
        deviation = math.sqrt(max(share * (1 - share), 1e-12) / count)
        assert abs(np.mean(up) - share) <= 5 * deviation + 1 / 65536
        if 0 < share < 1:  # neighbours are independent: runs of equal choices as long as chance has them
            changes = np.mean(up[1:] != up[:-1])
            expected = 2 * share * (1 - share)
            assert abs(changes - expected) <= 5 * math.sqrt(expected / count)


def test_stochastic_sums_are_right_on_average():
    count = 4096
    total = np.full(count, 256, BFLOAT16)
    ones = np.ones(count, BFLOAT16)
    add = prepare("accumulate", pieces(total), pieces(ones), rounding="stochastic")
    for number in range(100):
        add(seed=number)
    mean = float(total.astype("f8").mean())
    assert abs(mean - 356) < 356 * 0.02


def test_stochastic_bits_depend_on_seed_and_element_only():
    rng = np.random.default_rng(2)
    lengths = (100, 0, 700_001, 65)
    sources = [rng.standard_normal(n).astype("f4") for n in lengths]
    results = []
    before = kernels.get_num_threads()
    for threads, seed, nontemporal in ((1, 5, False), (2, 5, True), (3, 5, None), (1, 6, None)):
        kernels.set_num_threads(threads)
        targets = [np.empty(n, BFLOAT16) for n in lengths]
        options = {"rounding": "stochastic", "nontemporal": nontemporal, "beta": 0}
        prepare("accumulate", Pieces.of(targets), Pieces.of(sources), **options)(seed=seed)
        results.append(b"".join(target.tobytes() for target in targets))
    kernels.set_num_threads(before)
    assert results[0] == results[1] == results[2] != results[3]
    again = [np.empty(n, BFLOAT16) for n in lengths]
    prepare("copy", Pieces.of(again), Pieces.of(sources), rounding="stochastic")(seed=5)
    assert b"".join(target.tobytes() for target in again) == results[0]


def test_stochastic_rounding_keeps_special_values():
    special = np.array([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.5, 2.0**-133], "f4")
    target = np.zeros(7, BFLOAT16)
    write = prepare("copy", pieces(target), pieces(special), rounding="stochastic")
    for seed in range(50):
        write(seed=seed)
        assert reference.same(target, reference.cast(special, BFLOAT16))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rounding": "upwards"}, ValueError, "unknown rounding 'upwards'"),
        ({"rounding": "compensated"}, ValueError, "belong together"),
        ({"rounding": "stochastic", "dtype": "f4"}, TypeError, "is for bfloat16, not for float32"),
        ({"rounding": "compensated", "remainder": "f4"}, TypeError, "of dtype uint16, got float32"),
    ],
)
def test_wrong_rounding_is_refused(options, error, text):
    target = np.zeros(4, options.pop("dtype", BFLOAT16))
    source, rest = np.ones(4, "f4"), np.zeros(4, options.get("remainder", "u2"))
    if "remainder" in options:
        options["remainder"] = pieces(rest)
    with pytest.raises(error, match=text):
        prepare("accumulate", pieces(target), pieces(source), **options)


def test_a_remainder_may_not_overlap():
    memory = np.zeros(16, np.uint16)
    total, source = memory[:8].view(BFLOAT16), np.ones(8, "f4")
    with pytest.raises(ValueError, match="overlaps"):
        prepare(
            "accumulate",
            pieces(total),
            pieces(source),
            rounding="compensated",
            remainder=pieces(memory[4:12]),
        )
