"""How kernels take their arrays: one or many, of which kinds and layouts, and what they refuse."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numscope.kernels import Pieces, prepare

from numscope import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]


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
