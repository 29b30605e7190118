"""Every kernel against an independent oracle: dtypes, sizes, offsets, special values and threads."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import reference
from numscope.kernels import Pieces, prepare
from reference import same, values

from numscope import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype("float16"), BFLOAT16, np.dtype("float32"), np.dtype("float64")]
FLOAT8 = [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]
OTHERS = [np.dtype(name) for name in ("?", "b", "B", "i2", "u2", "i4", "u4", "i8", "u8", "c8", "c16")]
SIZES = [0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 2047, 2048, 2049, 65535, 65536, 65537, 1000003]
GUARD = 64


def guarded(array: np.ndarray, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Copy an array to `offset` bytes after 64 bytes of guard; return it and the memory around it."""
    memory = np.full(array.nbytes + 2 * GUARD + offset, 0xA5, np.uint8)
    view = memory[GUARD + offset : GUARD + offset + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view, memory


def guards_hold(view: np.ndarray, memory: np.ndarray, offset: int = 0) -> bool:
    start = GUARD + offset
    return bool(np.all(memory[:start] == 0xA5) and np.all(memory[start + view.nbytes :] == 0xA5))


@pytest.fixture(params=[1, 2])
def threads(request):
    before = kernels.get_num_threads()
    kernels.set_num_threads(request.param)
    yield request.param
    kernels.set_num_threads(before)


def pair_id(pair):
    return "-".join(dtype.name for dtype in pair)


@pytest.mark.parametrize("dtype", FLOATS + FLOAT8 + OTHERS, ids=str)
def test_zero_and_copy_every_type_bit_for_bit(dtype):
    rng = np.random.default_rng(0)
    for size, offset, nontemporal in itertools.product(
        (0, 1, 3, 65, 1000), (0, dtype.itemsize), (False, True)
    ):
        words = rng.integers(0, 2 if dtype.kind == "b" else 256, size * dtype.itemsize).astype(np.uint8)
        source = words.view(dtype)
        view, memory = guarded(np.zeros(size, dtype), offset)
        kernels.copy(view, source, nontemporal=nontemporal)
        assert view.tobytes() == source.tobytes()
        assert guards_hold(view, memory, offset)
        kernels.zero(view, nontemporal=nontemporal)
        assert view.tobytes() == bytes(view.nbytes)
        assert guards_hold(view, memory, offset)


@pytest.mark.parametrize("pair", list(itertools.product(FLOATS + FLOAT8, repeat=2)), ids=pair_id)
def test_casts_round_to_nearest_even(pair):
    to, of = pair
    rng = np.random.default_rng(1)
    if of.itemsize <= 2:  # every value there is
        source = np.arange(1 << 8 * of.itemsize, dtype=f"u{of.itemsize}").view(of)
    else:
        # Values beside the borders between neighbours of the shorter type, and all over the range.
        words = np.arange(1 << 16, dtype=np.uint32) << 16
        borders = np.concatenate([words + d for d in (0, 0x7FFF, 0x8000, 0x8001, 0x0FFF, 0x1000, 0x1001)])
        source = reference.cast(borders.view(np.float32), of)
        if of == np.float64:
            with np.errstate(all="ignore"):
                source = np.concatenate([source, source * (1 + 1e-12), rng.standard_normal(1000) * 1e-310])
    view, memory = guarded(np.zeros(source.size, to))
    kernels.copy(view, source)
    assert same(view, reference.cast(source, to))
    assert guards_hold(view, memory)


@pytest.mark.parametrize("pair", list(itertools.product(FLOATS, repeat=2)), ids=pair_id)
def test_accumulate_every_pair(pair):
    to, of = pair
    rng = np.random.default_rng(2)
    for size, offset in ((0, 0), (1, 0), (17, 0), (64, 1), (257, 0), (4099, 2)):
        start, source = values(rng, size, to), values(rng, size, of)
        view, memory = guarded(start, offset * to.itemsize)
        kernels.accumulate(view, source, alpha=0.3)
        assert same(view, reference.accumulate(start, source, 0.3), units=1)
        assert guards_hold(view, memory, offset * to.itemsize)


def test_accumulate_every_size_offset_and_thread_count(threads):
    rng = np.random.default_rng(3)
    for size, (left, right) in itertools.product(SIZES, [(0, 0), (4, 8), (60, 4)]):
        start, source = values(rng, size, "f4"), values(rng, size, "f4")
        view, memory = guarded(start, left)
        origin, _ = guarded(source, right)
        kernels.accumulate(view, origin, alpha=-1.5)
        assert same(view, reference.accumulate(start, source, -1.5), units=1)
        assert guards_hold(view, memory, left)


@pytest.mark.parametrize("nontemporal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_overwriting_lets_no_old_bit_through(dtype, nontemporal, threads):
    rng = np.random.default_rng(4)
    to = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    for size, offset in itertools.product((1, 63, 64, 1000, 300001), (0, 4)):
        start = np.full(size, np.nan, to)
        source = values(rng, size, "f4", special=False)
        view, memory = guarded(start, offset)
        kernels.accumulate(view, source, alpha=2.0, beta=0.0, nontemporal=nontemporal)
        assert same(view, reference.accumulate(start, source, 2.0, 0.0))
        assert guards_hold(view, memory, offset)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_accumulate_with_zeroed_source_and_stats(dtype):
    rng = np.random.default_rng(5)
    for size, special in itertools.product((1, 65, 5000), (False, True)):
        start, source = values(rng, size, "f4", special), values(rng, size, dtype, special)
        expected = reference.accumulate(start, source, 0.5)
        found = kernels.accumulate(start, source, alpha=0.5, zero_source=True, stats=True)
        assert same(start, expected, units=1)
        assert source.tobytes() == bytes(source.nbytes)
        assert_stats(found, reference.stats([start]))


def assert_stats(found, expected):
    assert found.nonfinite == expected.nonfinite
    assert found.max_abs == expected.max_abs or (math.isnan(found.max_abs) and math.isnan(expected.max_abs))
    if expected.nonfinite:
        assert repr(found.sum_of_squares) == repr(found.max_abs)
    else:
        assert found.sum_of_squares == pytest.approx(expected.sum_of_squares, rel=1e-12, abs=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_stats(dtype):
    rng = np.random.default_rng(6)
    for size, special in itertools.product((0, 1, 2, 31, 2047, 2048, 2049, 70000), (False, True)):
        array = values(rng, size, dtype, special)
        assert_stats(kernels.stats(array), reference.stats([array]))


@pytest.mark.parametrize("value", [1.4e-45, 1e-30, 0.1, 3.4028235e38])
def test_stats_over_the_whole_range_of_float32(value):
    for size in (1, 100, 2048, 100000):
        array = np.full(size, value, np.float32)
        expected = size * float(np.float32(value)) ** 2
        assert kernels.stats(array).sum_of_squares == pytest.approx(expected, rel=1e-12, abs=0)
        assert kernels.stats(array).nonfinite == 0


def test_stats_count_every_nonfinite_value_and_canonicalise_nan():
    array = np.ones(5000, np.float32)
    array[[0, 2048, 4999]] = -np.inf
    assert kernels.stats(array) == (math.inf, 3, math.inf)
    array.view(np.uint32)[7] = 0xFFC01234
    found = kernels.stats(array)
    assert found.nonfinite == 4
    for number in (found.sum_of_squares, found.max_abs):
        assert np.float64(number).view(np.uint64) == 0x7FF8000000000000


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_norm_alone_has_the_bits_of_all_statistics(dtype, threads):
    rng = np.random.default_rng(6)
    for size, special in itertools.product((0, 1, 31, 255, 257, 2049, 70000, 400000), (False, True)):
        source = values(rng, size, dtype, special)
        for beta in (0.0, 1.0):
            whole, norm = (np.ones(size, np.float32) for _ in range(2))
            expected = kernels.accumulate(whole, source, alpha=0.5, beta=beta, stats=True)
            found = kernels.accumulate(norm, source, alpha=0.5, beta=beta, stats="norm")
            assert norm.tobytes() == whole.tobytes()
            assert found.nonfinite == expected.nonfinite
            assert np.float64(found.sum_of_squares).tobytes() == np.float64(expected.sum_of_squares).tobytes()
            assert math.isnan(found.max_abs)


def test_squares_of_float64_that_overflow_are_no_nonfinite_values():
    array = np.full(3000, 1e200)
    assert kernels.stats(array) == (math.inf, 0, 1e200)
    array[5] = np.nan
    assert kernels.stats(array).nonfinite == 1


def test_stats_have_the_same_bits_for_threads_addresses_and_ways():
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(n).astype("f4") for n in (1, 0, 5000, 300001, 2048, 700000)]
    before = kernels.get_num_threads()
    found = set()
    for count, offset in itertools.product((1, 2, 3), (0, 4, 52)):
        kernels.set_num_threads(count)
        moved = [guarded(array, offset)[0] for array in arrays]
        found.add(kernels.stats(moved))
        fresh = [np.empty_like(array) for array in arrays]
        found.add(kernels.accumulate(fresh, moved, beta=0.0, stats=True))
        found.add(kernels.accumulate(fresh, moved, beta=0.0, stats=True, nontemporal=True))
    kernels.set_num_threads(before)
    assert len(found) == 1
    assert_stats(found.pop(), reference.stats(arrays))


def test_scale():
    rng = np.random.default_rng(8)
    for dtype in FLOATS:
        array = values(rng, 1000, dtype)
        expected = reference.accumulate(array, array, 0.7, 0.0)
        kernels.scale(array, 0.7)
        assert same(array, expected, units=1)
    numbers = rng.standard_normal(100) + 1j * rng.standard_normal(100)
    expected = 0.5 * numbers
    kernels.scale(numbers, 0.5)
    assert np.array_equal(numbers, expected)


@pytest.mark.parametrize(("dtype", "real"), [("c8", "f4"), ("c16", "f8")])
def test_complex_numbers_the_first_time_and_later(dtype, real):
    rng = np.random.default_rng(9)
    for size, beta in itertools.product((0, 1, 3, 17, 1000), (1.0, 1.0, 0.0, 0.0)):
        start, source = rng.standard_normal((2, 2 * size)).astype(real).view(dtype)
        view, memory = guarded(start)
        kernels.accumulate(view, source, alpha=0.5, beta=beta)
        assert np.allclose(view, beta * start + 0.5 * source, rtol=1e-6)
        kernels.scale(view, 2)
        assert np.allclose(view, 2 * beta * start + source, rtol=1e-6)
        assert guards_hold(view, memory)


def test_float16_without_the_processors_help(monkeypatch):
    from numscope.kernels import floats

    monkeypatch.setattr(floats, "NATIVE_HALF", False)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = np.empty(1 << 16, np.float32)
    prepare("copy", Pieces.of([wide]), Pieces.of([halves]))()
    assert same(wide, reference.cast(halves, np.float32))
    singles = np.concatenate([values(np.random.default_rng(9), 50_000, "f4"), np.nextafter(wide, 0), wide])
    narrow = np.empty(len(singles), np.float16)
    prepare("copy", Pieces.of([narrow]), Pieces.of([singles]))()
    assert same(narrow, reference.cast(singles, np.float16))


def test_import_is_free_of_numba():
    code = "import sys, numscope.kernels as k; k.get_num_threads(); print('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
