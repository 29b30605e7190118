"""Tables of pieces: random ones by Hypothesis, and the readers of array headers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numscope.kernels import Pieces, headers, plan, prepare

from numscope import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
GAP = 40  # bytes between pieces, never to be written
gaps = st.sampled_from([0, GAP])  # without one, pieces may follow one another

tables = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 15)), min_size=0, max_size=30)


def lay_out(table, dtype, rng, gap=GAP):
    """Place pieces in one block of memory at odd distances; return it and views of the pieces."""
    size = sum(n * dtype.itemsize + gap + shift * dtype.itemsize for n, shift in table) + 2 * GAP
    memory = rng.integers(0, 256, size).astype(np.uint8)
    views, at = [], GAP
    for length, shift in table:
        at += shift * dtype.itemsize
        views.append(memory[at : at + length * dtype.itemsize].view(dtype))
        at += length * dtype.itemsize + gap
    for view in views:
        view[...] = reference.values(rng, len(view), dtype, special=False)
    return memory, views


@settings(max_examples=60, deadline=None)
@given(
    tables,
    st.sampled_from(["f4", "f8", BFLOAT16]),
    st.sampled_from(["f4", BFLOAT16]),
    st.sampled_from([0, 1]),
    st.integers(1, 3),
    gaps,
    st.integers(0, 2**32),
)
def test_any_table_is_right_and_nothing_else_is_touched(table, to, of, beta, threads, gap, seed):
    rng = np.random.default_rng(seed)
    memory, targets = lay_out(table, np.dtype(to), rng, gap)
    origin, sources = lay_out(table, np.dtype(of), rng, gap)
    expected = memory.copy()
    for target, source in zip(targets, sources, strict=True):
        start = target.ctypes.data - memory.ctypes.data
        value = reference.accumulate(target, source, 0.75, beta)
        expected[start : start + target.nbytes] = value.view(np.uint8)
    untouched = origin.copy()
    addresses = [[view.ctypes.data for view in views] for views in (targets, sources)]
    lengths = [n for n, _ in table]
    before = kernels.get_num_threads()
    kernels.set_num_threads(threads)
    call = prepare(
        "accumulate",
        Pieces(addresses[0], lengths, to),
        Pieces(addresses[1], lengths, of),
        beta=beta,
        stats=True,
    )
    found = call(0.75)
    kernels.set_num_threads(before)
    assert np.array_equal(origin, untouched)
    got = [memory[v.ctypes.data - memory.ctypes.data :][: v.nbytes].view(v.dtype) for v in targets]
    want = [expected[v.ctypes.data - memory.ctypes.data :][: v.nbytes].view(v.dtype) for v in targets]
    assert all(reference.same(g, w, units=1) for g, w in zip(got, want, strict=True))
    truth = reference.stats(got)
    assert (found.nonfinite, found.max_abs) == (truth.nonfinite, truth.max_abs)
    assert found.sum_of_squares == pytest.approx(truth.sum_of_squares, rel=1e-12)
    for g, w in zip(got, want, strict=True):
        g[...] = w
    assert np.array_equal(memory, expected)


def test_a_hundred_thousand_pieces_are_one_call():
    count = 100_000
    memory = np.ones((2, count, 4), "f4")
    lengths = np.full(count, 3)
    lengths[::7] = 0
    starts = memory.ctypes.data + 16 * np.arange(count)
    call = prepare(
        "accumulate", Pieces(starts, lengths, "f4"), Pieces(starts + 16 * count, lengths, "f4"), stats=True
    )
    before = kernels.launches()
    found = call(2.0)
    assert kernels.launches() == before + 1
    assert found.sum_of_squares == 9 * lengths.sum()
    assert np.all(memory[0, :, 3] == 1)
    assert np.array_equal(memory[0, :, 0], np.where(lengths, 3, 1))


def test_pieces_of_many_arrays_are_read_at_once():
    arrays = [np.empty((n, 3), "f4") for n in range(50)]
    found = Pieces.of(arrays)
    assert found.addresses.tolist() == [array.ctypes.data for array in arrays]
    assert found.lengths.tolist() == [array.size for array in arrays]
    assert found.dtype == np.float32
    assert Pieces.of([np.empty(2, BFLOAT16)] * 20).dtype == BFLOAT16


def test_what_is_not_simple_is_not_read():
    arrays = [np.empty(4, "f4") for _ in range(20)]
    assert headers.read((*arrays, 3.0), 0) is None
    assert Pieces.read([*arrays, np.empty(8, "f4")[::2]]) is None
    assert Pieces.read([*arrays, np.empty(4, "f8")]) is None
    read_only = np.empty(4, "f4")
    read_only.flags.writeable = False
    assert Pieces.read([*arrays, read_only]) is not None
    assert Pieces.read([*arrays, read_only], writable=True) is None
    assert Pieces.read(arrays, shaped_as=[*arrays[1:], np.empty((2, 2), "f4")]) is None
    assert Pieces.read(arrays, shaped_as=arrays[::-1]) is not None


def test_pieces_refuse_what_they_cannot_take():
    with pytest.raises(ValueError, match="not contiguous"):
        Pieces.of([np.empty((4, 4), "f4")[:, :2]])
    with pytest.raises(TypeError, match="array 1 has dtype float64, expected float32"):
        Pieces.of([np.empty(4, "f4"), np.empty(4, "f8")])
    with pytest.raises(ValueError, match="no dtype"):
        Pieces.of([])
    with pytest.raises(ValueError, match="as many addresses as lengths"):
        Pieces([0, 64], [1], "f4")
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        Pieces([0], [-1], "f4")


def test_lists_of_many_arrays_take_every_way():
    rng = np.random.default_rng(0)
    sources = [rng.standard_normal((n, 2)).astype("f4") for n in range(40)]
    targets = [np.zeros((n, 2), "f4") for n in range(40)]
    kernels.accumulate(targets, sources, alpha=2)
    assert all(np.array_equal(t, 2 * s) for t, s in zip(targets, sources, strict=True))
    with pytest.raises(ValueError, match=r"array 0: source of shape \(39, 2\), expected .*\(0, 2\)"):
        kernels.accumulate(targets, sources[::-1])
    with pytest.raises(ValueError, match="40 destinations and 39 sources"):
        kernels.accumulate(targets, sources[1:])
    mixed = [*targets[:-1], targets[-1].astype("f8")]
    kernels.copy(mixed, sources)
    assert all(np.array_equal(t, s) for t, s in zip(mixed, sources, strict=True))
    shifted = np.arange(100, dtype="f4")
    kernels.copy([shifted[i + 1 : i + 2] for i in range(20)], [shifted[i : i + 1] for i in range(20)])
    assert shifted[:22].tolist() == [0, *range(20), 21]
    kernels.zero(targets)
    assert kernels.stats(targets) == (0, 0, 0)


def test_more_than_two_to_the_31_elements():
    """Pages that nobody wrote share one page of zeros, so reading them costs little memory."""
    count = 2**31 + 100
    memory = np.zeros(count, np.float16)
    memory[-50:] = 2
    assert kernels.stats(memory) == (200, 0, 2)
    last = Pieces([memory.ctypes.data], [count], "f2")
    assert prepare("stats", last)() == (200, 0, 2)


@pytest.mark.parametrize(
    ("operation", "options", "expected"),
    [
        ("zero", {}, [30, 40]),
        ("scale", {}, [30, 40]),
        ("accumulate", {}, [30, 40]),
        ("accumulate", {"zero_source": True}, [30, 40]),
        ("accumulate", {"stats": "norm"}, [10, 20, 40]),
        ("stats", {}, [10, 20, 40]),
        ("accumulate", {"rounding": "stochastic"}, [10, 20, 40]),
    ],
)
def test_neighbours_are_one_piece_where_it_counts_for_nobody(operation, options, expected):
    to = np.zeros(200, BFLOAT16 if "rounding" in options else "f4")
    of = np.zeros(200, "f4")
    lengths = [10, 20, 40]
    target = Pieces.of([to[:10], to[10:30], to[31:71]])
    source = Pieces.of([of[100:110], of[110:130], of[130:170]]) if operation == "accumulate" else None
    made = plan.make_plan(operation, target, source, **options)
    unit = made.destination.dtype.itemsize
    factor = to.itemsize // unit if operation == "zero" else 1
    assert (made.destination.lengths / factor).tolist() == expected
    assert made.source.addresses[-1] == (target if source is None else source).addresses[-1]
    assert target.lengths.tolist() == lengths, "what was given is as it was"
