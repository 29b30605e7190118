"""Lists of arrays that were not seen before, from the second call on: tables made by compiled code."""

from __future__ import annotations

import contextlib
import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numscope.kernels import arrays, machine
from numscope.kernels.pieces import OverlapError, Pieces, check_overlap
from numscope.kernels.tables import are_apart, table_of
from numscope.kernels.variants import BLOCK

import numscope as ns
from numscope import kernels

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
LENGTHS = (3, 0, BLOCK, 1, BLOCK + 1, 5, 5, 0)


def fresh(rng, dtype):
    return [rng.standard_normal(length).astype(dtype) for length in LENGTHS]


def bits(found):
    return [array.tobytes() for array in found]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = machine.get_num_threads()
    ns.set_num_threads(request.param)
    yield
    ns.set_num_threads(before)


@pytest.fixture
def no_short_way(monkeypatch):
    """Forget the kernels of earlier calls."""
    monkeypatch.setattr(arrays, "_manys", {})


CALLS = [
    lambda x, y: kernels.copy(x, y),
    lambda x, y: kernels.accumulate(x, y, alpha=0.3),
    lambda x, y: kernels.accumulate(x, y, alpha=0.3, beta=0, stats=True),
    lambda x, y: kernels.accumulate(x, y, stats="norm"),
    lambda x, y: kernels.scale(x, -2.0),
    lambda x, y: kernels.stats(x),
    lambda x, y: kernels.zero(x),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("to", "of"), list(itertools.product(DTYPES, DTYPES)))
def test_later_calls_give_the_bits_of_the_first(no_short_way, threads, call, to, of):
    rng = np.random.default_rng(5)
    target, source = fresh(rng, DTYPES[to]), fresh(rng, DTYPES[of])
    outcomes = []
    for _ in range(2):
        copies = [array.copy() for array in target]
        before = kernels.launches()
        found = call(copies, [array.copy() for array in source])
        assert kernels.launches() == before + 1
        outcomes.append((repr(found), bits(copies)))
    assert len(arrays._manys) == 1
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("dtype", ["complex64", "int16", "bool", "float8_e5m2"])
def test_what_is_only_moved_goes_the_short_way_too(no_short_way, dtype):
    rng = np.random.default_rng(5)
    kind = getattr(ml_dtypes, dtype, dtype)
    for _ in range(3):
        source = [rng.integers(0, 2, length).astype(kind) for length in LENGTHS]
        target = [np.ones_like(array) for array in source]
        kernels.copy(target, source)
        assert bits(target) == bits(source)
        kernels.zero(target)
        assert not any(array.view("u1").any() for array in target)
    assert len(arrays._manys) == 2


def test_many_elements_are_shared_out_to_threads(no_short_way, threads):
    rng = np.random.default_rng(6)
    lengths = [1, 700_000, 0, 300_001, *[100] * 50]
    for _ in range(2):
        target = [rng.standard_normal(length, np.float32) for length in lengths]
        source = [rng.standard_normal(length, np.float32) for length in lengths]
        expected = [x + y for x, y in zip(target, source, strict=True)]
        found = kernels.accumulate(target, source, stats=True)
        assert bits(target) == bits(expected)
        exact = sum(float(np.sum(np.square(x, dtype=np.float64))) for x in expected)
        assert found.sum_of_squares == pytest.approx(exact, rel=1e-8)


def test_writes_past_the_caches_take_the_long_way(no_short_way, monkeypatch):
    source = [np.arange(1000.0), np.arange(9.0)]
    target = [np.zeros(1000), np.zeros(9)]
    kernels.copy(target, source)
    monkeypatch.setattr(machine, "last_level_cache", lambda: 1000)
    for array in target:
        array.fill(0)
    (short,) = arrays._manys.values()
    assert short(Pieces.of(target), Pieces.of(source), 1.0) is False
    kernels.copy(target, source)
    assert bits(target) == bits(source)


def test_what_shares_memory_is_right_or_refused_by_later_calls(no_short_way):
    for _ in range(2):
        whole = np.arange(8.0)
        kernels.accumulate([whole[:4], whole[4:]], [whole[:4], np.ones(4)])
        assert whole.tolist() == [0, 2, 4, 6, 5, 6, 7, 8]
        kernels.accumulate([whole[:2], whole[2:4]], [whole[6:], whole[6:]])
        assert whole.tolist() == [7, 10, 11, 14, 5, 6, 7, 8]
        kernels.accumulate([whole[:3], whole[6:]], [whole[1:4], whole[4:6]])
        assert whole.tolist() == [17, 21, 25, 14, 5, 6, 12, 14]
        with pytest.raises(ValueError, match="overlaps"):
            kernels.accumulate([whole[:4], whole[3:6]], [np.ones(4), np.ones(3)])
        with pytest.raises(ValueError, match="overlaps"):
            kernels.scale([whole[:4], whole[3:6]], 2.0)
        assert whole.tolist() == [17, 21, 25, 14, 5, 6, 12, 14]
        kernels.zero([whole[:4], whole[3:6]])
        assert whole.tolist() == [0] * 6 + [12, 14]


spans = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 3))


@given(st.lists(spans, min_size=1, max_size=5), st.sampled_from([(4, 4), (2, 4), (8, 2)]), st.booleans())
def test_tables_cover_the_pieces_and_overlaps_are_found(pieces, sizes, measures):
    to, of = sizes
    targets, sources, lengths = (np.array(column) for column in zip(*pieces, strict=True))
    targets, sources = 64 + targets * to, 64 + sources * of
    memory = {}
    for number, (target, source, length) in enumerate(zip(targets, sources, lengths, strict=True)):
        for side, start, size in (("to", target, to), ("of", source, of)):
            in_place = (target, length * to) == (source, length * of)
            for byte in range(start, start + length * size) if not (side == "of" and in_place) else ():
                memory.setdefault(byte, []).append((side, number))
    apart = all(len(users) == 1 or {side for side, _ in users} == {"of"} for users in memory.values())
    names = {2: "float16", 4: "float32", 8: "float64"}
    pair = Pieces(targets, lengths, names[to]), Pieces(sources, lengths, names[of])
    with contextlib.nullcontext() if apart else pytest.raises(OverlapError):
        check_overlap([pair])
    table, blocks, spans = table_of(targets, sources, lengths, np.array([to, of, 1]), joins=not measures)
    assert are_apart(spans) == apart

    def elements(rows):
        return [(row[0] + to * n, row[1] + of * n) for row in rows for n in range(row[2])]

    assert elements(table) == elements(zip(targets, sources, lengths, strict=True))
    assert not measures or blocks == np.count_nonzero(lengths)
    if measures:
        assert table[:, 3].tolist() == list(range(len(table)))
