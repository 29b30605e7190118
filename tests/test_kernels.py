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


def test_a_sequence_is_one_kernel_call():
    arrays = [np.ones(n, "f4") for n in range(100)]
    sources = [np.full(n, 2, "f4") for n in range(100)]
    for run, expected in (
        (lambda: kernels.accumulate(arrays, sources), 3),
        (lambda: kernels.scale(arrays, 2), 6),
        (lambda: kernels.copy(arrays, sources), 2),
        (lambda: kernels.zero(arrays), 0),
    ):
        before = kernels.launches()
        run()
        assert kernels.launches() == before + 1
        assert all(np.all(array == expected) for array in arrays)


def test_empty_sequences_and_arrays():
    kernels.zero([])
    kernels.copy([], [])
    assert kernels.accumulate([], [], stats=True) == (0, 0, 0)
    assert kernels.stats([]) == (0, 0, 0)
    assert kernels.stats([np.zeros(0, "f4")]) == (0, 0, 0)
    kernels.scale(np.zeros((3, 0), "f4"), 2)


def test_mixed_dtypes_in_one_sequence():
    arrays = [np.ones(5, "f4"), np.ones(3, "f8"), np.ones(5, BFLOAT16)]
    found = kernels.accumulate(arrays, [np.ones(5, "f4"), np.ones(3, "f4"), np.ones(5, "f4")], stats=True)
    assert all(np.all(array == 2) for array in arrays)
    assert found == (4 * 13, 0, 2)


def test_arrays_with_gaps_and_other_orders():
    base = np.arange(24.0).reshape(4, 6)
    target = np.zeros((4, 12))
    kernels.copy(target[:, ::2], base)
    assert np.array_equal(target[:, ::2], base)
    assert not target[:, 1::2].any()
    kernels.accumulate(target[:, ::2], np.asfortranarray(base), alpha=2)
    assert np.array_equal(target[:, ::2], 3 * base)
    kernels.copy(base, base[::-1].copy()[::-1])
    source = base.copy()
    kernels.accumulate(np.zeros((6, 4)), source.T, zero_source=True)
    assert not source.any()
    assert kernels.stats(base.T).sum_of_squares == (base**2).sum()
    number = np.array(3.0)
    kernels.scale(number, 2)
    assert number == 6


def test_overlaps_are_right_or_refused():
    start = np.arange(1000, dtype="f4")
    memory = start.copy()
    kernels.copy(memory[1:], memory[:-1])
    assert np.array_equal(memory[1:], start[:-1])
    memory = start.copy()
    kernels.accumulate(memory[:-3], memory[3:])
    assert np.array_equal(memory[:-3], start[:-3] + start[3:])
    memory = start.copy()
    kernels.accumulate(memory, memory)
    assert np.array_equal(memory, 2 * start)
    kernels.copy(memory[::-1], memory)
    assert np.array_equal(memory[::-1], 2 * start)
    for refused in (
        lambda: kernels.accumulate(memory, memory, zero_source=True),
        lambda: kernels.accumulate(memory[1:], memory[:-1], zero_source=True),
        lambda: kernels.accumulate([start[:9], start[:9]], [memory[:9], memory[:9]]),
        lambda: kernels.scale([start[:9], start[8:12]], 2),
        lambda: kernels.copy([start[:8], start.view("f8")[:4]], [memory[:8], np.zeros(4)]),
    ):
        before = memory.copy()
        with pytest.raises(ValueError, match="overlaps"):
            refused()
        assert np.array_equal(memory, before)
        assert start[5] == 5


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: kernels.copy(x, np.zeros(4, "f4")), ValueError, r"shape \(4,\), expected .* \(3,\)"),
        (lambda x: kernels.copy([x], []), ValueError, "1 destinations and 0 sources"),
        (lambda x: kernels.accumulate(x, x, beta=0.5), ValueError, "beta must be 0 or 1, got 0.5"),
        (lambda x: kernels.accumulate(x, x, stats="max"), ValueError, "True, False or 'norm', got 'max'"),
        (lambda x: kernels.accumulate(x, np.zeros(3, int)), TypeError, "int64 into float32"),
        (lambda x: kernels.accumulate(x, np.zeros(3, FLOAT8[0])), TypeError, "float8_e4m3fn into float32"),
        (lambda x: kernels.scale(np.zeros(3, int), 2), TypeError, "scale is not known for int64"),
        (lambda x: kernels.stats(np.zeros(3, "c8")), TypeError, "stats is not known for complex64"),
        (lambda x: kernels.copy(x, np.zeros(3, bool)), TypeError, "bool into float32"),
        (lambda x: kernels.zero(np.zeros(3, object)), TypeError, "dtype object is not known"),
        (lambda x: kernels.zero(np.zeros(3, ">f4")), TypeError, "foreign byte order"),
        (lambda x: kernels.zero("abc"), TypeError, "got str"),
        (lambda x: kernels.zero([1.0]), TypeError, "got builtins.float"),
        (lambda x: kernels.zero(np.broadcast_to(x, (2, 3))), ValueError, "destination is read-only"),
        (
            lambda x: kernels.accumulate(x, np.broadcast_to(np.float32(1), 3), zero_source=True),
            ValueError,
            "source to be zeroed is read-only",
        ),
        (
            lambda x: kernels.accumulate(x, x, alpha="2"),
            TypeError,
            "alpha must be a real number, got str '2'",
        ),
        (lambda x: kernels.scale(x, None), TypeError, "alpha must be a real number, got NoneType"),
        (lambda x: kernels.scale(x, 1j), TypeError, "alpha must be a real number, got complex"),
        (lambda x: kernels.scale(x, 1 << 2000), ValueError, "alpha must fit a float64"),
        (lambda x: kernels.set_num_threads(0), ValueError, "at least 1, got 0"),
        (lambda x: kernels.set_num_threads(1.5), TypeError, "must be an int, got float"),
    ],
)
def test_wrong_arguments_say_so_and_change_nothing(call, error, text):
    x = np.full(3, 7, np.float32)
    with pytest.raises(error, match=text):
        call(x)
    assert np.all(x == 7)


@pytest.mark.parametrize("alpha", [2, True + 1, np.array(2.0), np.float32(2), np.int8(2), np.float64(2)])
def test_any_real_number_is_a_factor_the_first_time_and_later(alpha):
    for operation in (kernels.scale, lambda x, alpha: kernels.accumulate(x, x.copy(), alpha=alpha - 1)):
        x = np.ones(5, "f4")
        for power in range(1, 4):
            operation(x, alpha)
            assert np.all(x == 2**power)


@pytest.mark.parametrize("count", [1, 5])
def test_any_true_value_zeroes_the_source(count):
    for yes in (1, "yes", np.True_):
        targets, sources = ([np.full(3, i, "f4") for _ in range(count)] for i in (2, 3))
        kernels.accumulate(targets, sources, zero_source=yes)
        assert np.all(np.array(targets) == 5)
        assert not np.any(sources)


def test_dtypes_that_dlpack_lacks_are_read_and_not_written():
    class Guest:  # as JAX: __dlpack__ for NumPy's types, __array__ for all
        def __dlpack_device__(self):
            return 1, 0

        def __dlpack__(self, **arguments):
            raise BufferError("no such type")

        def __array__(self, dtype=None, copy=None):
            return np.full(3, 2, BFLOAT16)

    total = np.ones(3, "f4")
    kernels.accumulate(total, Guest())
    assert np.all(total == 3)
    assert kernels.stats(Guest()).sum_of_squares == 12
    with pytest.raises(ValueError, match="destination is read-only"):
        kernels.zero(Guest())


def test_prepared_calls_see_the_memory_as_it_is():
    dst, src = np.zeros(100, "f4"), np.ones(100, "f4")
    add = prepare("accumulate", Pieces.of([dst]), Pieces.of([src]))
    add(2.0)
    src[:] = 3
    add()
    assert np.all(dst == 5)
    measure = prepare("stats", Pieces.of([dst[:50], dst[50:]]))
    assert measure() == (2500, 0, 5)
    prepare("zero", Pieces(Pieces.of([dst]).addresses, [100], "float32"))()
    assert not dst.any()


def test_prepared_calls_follow_a_change_of_threads():
    dst, src = np.zeros(1 << 20, "f4"), np.ones(1 << 20, "f4")
    add = prepare("accumulate", Pieces.of([dst]), Pieces.of([src]), stats=True)
    before = kernels.get_num_threads()
    for count in (2, 1, 3):
        kernels.set_num_threads(count)
        add()
    kernels.set_num_threads(before)
    assert np.all(dst == 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("turn", [4], [4]), "unknown operation 'turn'"),
        (("copy", [4], None), "copy takes a source"),
        (("zero", [4], [4]), "zero takes no source"),
        (("copy", [4, 5], [4]), "2 destinations and 1 sources"),
        (("copy", [4, 5], [4, 6]), "piece 1 has 5 elements in the destination and 6 in the source"),
    ],
)
def test_prepare_refuses(arguments, text):
    operation, *lengths = arguments

    def pieces(wanted, base):
        return None if wanted is None else Pieces([base + 64 * n for n in range(len(wanted))], wanted, "f4")

    with pytest.raises(ValueError, match=text):
        prepare(operation, pieces(lengths[0], 0), pieces(lengths[1], 4096))


def test_torch_tensors_of_every_float_type():
    torch = pytest.importorskip("torch")
    for name in ("float32", "float64", "float16", "bfloat16"):
        tensor = torch.ones(100, dtype=getattr(torch, name))
        kernels.accumulate(tensor, torch.ones(100, dtype=torch.bfloat16), alpha=2)
        assert bool((tensor == 3).all())
    storage = torch.zeros(4, dtype=torch.float8_e5m2)
    kernels.copy(storage, torch.ones(4))
    assert storage.to(torch.float32).tolist() == [1, 1, 1, 1]


def test_tensors_that_are_another_view_of_their_memory_are_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.full((3,), 1 + 2j).conj()
    for lazy in (tensor, tensor.imag):
        with pytest.raises(TypeError, match="resolve_conj"):
            kernels.zero(lazy)
    total = np.zeros(3, "f4")
    kernels.copy(total, tensor.imag.resolve_neg())
    assert np.all(total == -2)


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
