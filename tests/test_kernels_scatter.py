"""Rows added at their indices: duplicates in order, lists of destinations, and what is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from numscope import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def by_hand(dst, indices, rows, alpha):
    """Add row by row, rounding as one fused multiply-add does for short factors."""
    result = dst.copy()
    for index, row in zip(indices, rows, strict=True):
        total = result[index].astype("f8") + np.float64(np.float32(alpha)) * row.astype("f8")
        result[index] = total.astype(np.float32).astype(dst.dtype)
    return result


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f4", BFLOAT16), (BFLOAT16, "f4")])
@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 65), (7, 4, 5)])
def test_duplicates_add_in_order_for_any_number_of_threads(shape, dtypes):
    rng = np.random.default_rng(0)
    dst = rng.integers(-8, 8, shape).astype(dtypes[0])
    indices = rng.integers(0, shape[0], 400)
    rows = rng.integers(-8, 8, (400, *shape[1:])).astype(dtypes[1])
    expected = by_hand(dst, indices, rows, 0.5)
    before = kernels.get_num_threads()
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        got = dst.copy()
        kernels.scatter_add(got, indices, rows, alpha=0.5)
        assert got.tobytes() == expected.tobytes()
    kernels.set_num_threads(before)


def test_large_scatter_has_the_same_bits_on_two_threads():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3000, 256)).astype("f4")
    indices = rng.integers(0, 100, 3000, dtype=np.int32)
    results = []
    before = kernels.get_num_threads()
    for threads in (1, 2):
        kernels.set_num_threads(threads)
        table = np.zeros((100, 256), "f4")
        kernels.scatter_add(table, indices, rows)
        results.append(table.tobytes())
    kernels.set_num_threads(before)
    assert results[0] == results[1]
    expected = np.zeros((100, 256))
    np.add.at(expected, indices, rows.astype("f8"))
    assert np.allclose(np.frombuffer(results[0], "f4").reshape(100, 256), expected, atol=1e-4)


def test_gaps_overlaps_and_nothing():
    table = np.zeros((4, 6), "f4")
    kernels.scatter_add(table[:, ::2], [1, 1], np.ones((2, 3), "f8"))
    assert table.sum() == 6
    assert table[1, ::2].tolist() == [2, 2, 2]
    table[:] = np.arange(24).reshape(4, 6)
    kernels.scatter_add(table, [0], table[1:2])
    assert table[0].tolist() == [6, 8, 10, 12, 14, 16]
    kernels.scatter_add(table, [], np.empty((0, 6), "f4"))
    kernels.scatter_add(np.empty((3, 0), "f4"), [1], np.empty((1, 0), "f4"))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([0, 4], np.ones((2, 3), "f4")), ValueError, "index 4 at place 1 is out of range: expected 0 to 3"),
        (([-1], np.ones((1, 3), "f4")), ValueError, "index -1 at place 0"),
        (([0], np.ones((1, 2), "f4")), ValueError, r"rows of shape \(1, 2\) .* expected indices \(k,\)"),
        (([0, 1], np.ones((1, 3), "f4")), ValueError, r"rows of shape \(1, 3\) at indices of shape \(2,\)"),
        (([0.5], np.ones((1, 3), "f4")), TypeError, "indices must be integers, got float64"),
        (([0], np.ones((1, 3), "i4")), TypeError, "scatter_add is not known for int32"),
    ],
)
def test_wrong_arguments_change_nothing(arguments, error, text):
    table = np.full((4, 3), 7, "f4")
    with pytest.raises(error, match=text):
        kernels.scatter_add(table, *arguments)
    assert np.all(table == 7)


def test_a_destination_without_rows_takes_none():
    with pytest.raises(ValueError, match="1 indices into a destination without rows: expected none"):
        kernels.scatter_add(np.empty((0, 3), "f4"), [0], np.ones((1, 3), "f4"))
    kernels.scatter_add(np.empty((0, 3), "f4"), [], np.ones((0, 3), "f4"))


def test_the_factor_is_a_real_number():
    with pytest.raises(TypeError, match="alpha must be a real number, got str 'x'"):
        kernels.scatter_add(np.zeros((2, 1), "f4"), [0], np.ones((1, 1), "f4"), alpha="x")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_list_is_one_call_for_each_pair_of_dtypes(threads):
    rng = np.random.default_rng(0)
    shapes = [(int(rng.integers(1, 9)), int(rng.integers(0, 70))) for _ in range(300)] + [(8, 60_000)]
    tables = [np.zeros(shape, "f4" if i % 3 else "f8") for i, shape in enumerate(shapes)]
    indices = [rng.integers(0, rows, 20 - i % 20) for i, (rows, _) in enumerate(shapes)]
    added = [
        rng.integers(-9, 9, (len(numbers), width)).astype("f4")
        for numbers, (_, width) in zip(indices, shapes, strict=True)
    ]
    expected = [np.zeros_like(table) for table in tables]
    for table, numbers, rows in zip(expected, indices, added, strict=True):
        np.add.at(table, numbers, 2 * rows)
    before, launches = kernels.get_num_threads(), kernels.launches()
    kernels.set_num_threads(threads)
    try:
        kernels.scatter_add(tables, indices, added, alpha=2.0)
    finally:
        kernels.set_num_threads(before)
    assert kernels.launches() - launches == 2
    for table, right in zip(tables, expected, strict=True):
        np.testing.assert_array_equal(table, right)


def test_lists_of_destinations():
    tables = [np.arange(15, dtype="f4").reshape(5, 3), np.arange(4.0), np.empty((0, 2), "f4")]
    indices = [[4, 0, 4], np.array([1, 1], "u1"), []]
    rows = [np.ones((3, 3), "f2"), np.ones(2, "f4"), np.ones((0, 2), "f4")]
    expected = [by_hand(*each, 2.0) for each in zip(tables, map(np.asarray, indices), rows, strict=True)]
    kernels.scatter_add(tables, indices, rows, alpha=2.0)
    for got, want in zip(tables, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    kernels.scatter_add([], [], [])


def test_rows_in_another_destination_are_read_before_it_changes():
    first, second = np.zeros((2, 2), "f4"), np.ones((2, 2), "f4")
    kernels.scatter_add([second, first], [[0], [1]], [second[1:], second[:1]])
    assert second.tolist() == [[2, 2], [1, 1]]
    assert first.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([0], [np.ones((1, 3), "f4")]), ValueError, "2 destinations and 1 indices: expected as many"),
        (([[0], [0]], np.ones((2, 3), "f4")), TypeError, "rows as one ndarray: expected a list of as many"),
        (([[0], [4]], [np.ones((1, 3), "f4")] * 2), ValueError, "index 4 at place 0 is out of range"),
    ],
)
def test_wrong_lists_change_nothing(arguments, error, text):
    tables = [np.full((4, 3), 7, "f4") for _ in range(2)]
    with pytest.raises(error, match=text):
        kernels.scatter_add(tables, *arguments)
    assert np.all(np.array(tables) == 7)
    with pytest.raises(ValueError, match="overlaps another"):
        kernels.scatter_add([tables[0], tables[0][1:]], [[0], [0]], [np.ones((1, 3), "f4")] * 2)
    assert np.all(np.array(tables) == 7)
