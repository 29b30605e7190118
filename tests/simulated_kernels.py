"""The CUDA kernels in Numba's simulator; `test_cuda_simulator` runs this file in a process of its own."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import reference
from numba import cuda
from numscope.kernels import Pieces
from numscope.kernels.cuda import body
from numscope.kernels.cuda_forms import ADD_UP, THREADS, TREE, Form
from numscope.kernels.cuda_layout import NONFINITE, RESULTS, Layout, addition_runs, read_stats
from numscope.kernels.host import Prepared
from numscope.kernels.plan import Plan, Stats, make_plan, scatter_variant
from reference import same, values

from numscope import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype("float16"), BFLOAT16, np.dtype("float32"), np.dtype("float64")]
FLOAT8 = [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]
ALL = [*FLOATS, *FLOAT8, *(np.dtype(name) for name in ("?", "b", "i2", "u4", "i8", "c8", "c16"))]


def launch(
    plan: Plan,
    alpha: float = 1.0,
    seed: int = 0,
    blocks: int = 2,
    one: bool = True,
    gate: tuple[int, int] = (0, 0),
    whole: bool = False,
) -> Stats | None:
    """Run a plan as `cuda_launch` does, in host memory.

    The second launch of what measures takes a thousand Python threads, a second: only if `whole`.
    """
    layout = Layout.of(plan)
    table, rows = np.ascontiguousarray(layout.runs), layout.row_of_tile
    blocks = max(1, min(blocks, -(-layout.tiles * layout.form.team // THREADS)))
    partials, slots = np.full(layout.tiles + 1, np.nan), np.full((blocks, 2), -1)
    found = np.zeros(RESULTS, np.int64)
    if one and len(table) == 1:
        addresses, run = (0, 0), [int(value) for value in table[0, :3]] + [int(table[0, 4])]
    else:
        addresses, run = (rows.ctypes.data, table.ctypes.data), [0, 0, 0, 0]
    room = (partials.ctypes.data, slots.ctypes.data)
    if layout.tiles:
        kernel = cuda.jit(body(layout.form))
        kernel[blocks, THREADS](*addresses, *run, layout.tiles, alpha, seed, *room, *gate)
        if plan.variant.measure and not whole:
            found[:] = add_up(partials[: layout.tiles], slots)
        elif plan.variant.measure:
            last = (0, 0, found.ctypes.data, 0, blocks, 0, layout.tiles)
            cuda.jit(body(ADD_UP))[1, ADD_UP.threads](*last, 1.0, 0, *room, 0, 0)
    return read_stats(found, plan.variant) if plan.variant.measure else None


def add_up(partials: np.ndarray, slots: np.ndarray) -> list[int]:
    """Put together what tiles and CUDA blocks have found, as `plan.Stats` says."""
    rows = np.concatenate([partials, np.zeros(-len(partials) % TREE)]).reshape(-1, TREE)
    sums = np.zeros(TREE)
    for row in rows:
        sums = sums + row
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return [int(sums.view(np.int64)[0]), int(slots[:, 0].max()), int(slots[:, 1].sum())]


def of(array: np.ndarray) -> Pieces:
    return Pieces.of([array])


def placed(array: np.ndarray, offset: int) -> np.ndarray:
    """Copy an array to `offset` elements behind a multiple of 256 bytes."""
    memory = np.zeros(array.nbytes + 512 + offset * array.itemsize, np.uint8)
    start = -memory.ctypes.data % 256 + offset * array.itemsize
    view = memory[start : start + array.nbytes].view(array.dtype)
    view[...] = array
    return view


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_zero_and_copy_every_type_bit_for_bit(dtype):
    rng = np.random.default_rng(0)
    for size, left, right in ((0, 0, 0), (1, 0, 0), (33, 1, 1), (257, 0, 3), (1000, 0, 0)):
        words = rng.integers(0, 2 if dtype.kind == "b" else 256, size * dtype.itemsize).astype(np.uint8)
        source, target = placed(words.view(dtype), right), placed(np.ones(size, dtype), left)
        launch(make_plan("copy", of(target), of(source)))
        assert target.tobytes() == source.tobytes()
        launch(make_plan("zero", of(target)))
        assert target.tobytes() == bytes(target.nbytes)


@pytest.mark.parametrize("pair", list(itertools.product(FLOATS + FLOAT8, repeat=2)), ids=str)
def test_casts(pair):
    to, origin = pair
    rng = np.random.default_rng(1)
    source = values(rng, 300, origin)
    target = np.zeros(300, to)
    launch(make_plan("copy", of(target), of(source)))
    assert same(target, reference.cast(source, to))


@pytest.mark.parametrize("pair", list(itertools.product(FLOATS, repeat=2)), ids=str)
def test_accumulate_every_pair_size_and_offset(pair):
    to, origin = pair
    rng = np.random.default_rng(2)
    cases = ((1, 0, 0), (3, 0, 0), (5, 1, 1), (33, 1, 0), (65, 3, 3), (600, 0, 0), (641, 2, 2))
    # The oracle multiplies and adds float64 with one rounding only where neither overflows nor vanishes.
    for (size, left, right), (alpha, special) in zip(cases, itertools.cycle([(1.0, True), (0.3, False)])):
        start = placed(values(rng, size, to, special), left)
        source = placed(values(rng, size, origin, special), right)
        target = placed(start, left)
        launch(make_plan("accumulate", of(target), of(source)), alpha)
        assert same(target, reference.accumulate(start, source, alpha), units=1)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scale_overwrite_and_zeroed_source(dtype):
    rng = np.random.default_rng(3)
    for size, offset in ((7, 1), (700, 0)):
        start, source = values(rng, size, dtype), placed(values(rng, size, "f4"), offset)
        target = placed(start, offset)
        launch(make_plan("scale", of(target)), 0.7)
        assert same(target, reference.accumulate(start, start, 0.7, 0.0), units=1)
        target[...] = np.nan
        expected = reference.accumulate(target, source, -2.0, 0.0)
        launch(make_plan("accumulate", of(target), of(source), beta=0.0, zero_source=True), -2.0)
        assert same(target, expected)
        assert source.tobytes() == bytes(source.nbytes)


@pytest.mark.parametrize(
    ("dtype", "size", "offset", "special"),
    [
        ("f4", 1, 0, False),
        ("f4", 2047, 1, False),
        ("f4", 33, 0, True),
        (BFLOAT16, 2100, 0, True),
        ("f2", 2100, 0, False),
        ("f8", 2100, 0, False),
    ],
    ids=str,
)
def test_stats_are_the_bits_of_the_host(dtype, size, offset, special):
    array = placed(values(np.random.default_rng(4), size, dtype, special), offset)
    assert repr(launch(make_plan("stats", of(array)))) == repr(kernels.stats(array))


@pytest.mark.parametrize("pair", [("f4", BFLOAT16), ("f4", "f4"), (BFLOAT16, "f4"), ("f8", "f4")], ids=str)
def test_one_pass_adds_zeroes_and_measures(pair):
    rng = np.random.default_rng(5)
    size = 2500
    start, source = values(rng, size, pair[0]), values(rng, size, pair[1])
    on_host, on_card = start.copy(), start.copy()
    taken = source.copy()
    options = {"zero_source": True, "stats": True}
    expected = kernels.accumulate(on_host, taken, alpha=1.7, **options)
    found = launch(make_plan("accumulate", of(on_card), of(source), **options), 1.7)
    assert same(on_card, on_host)
    assert not source.view(f"u{source.itemsize}").any()
    assert repr(found) == repr(expected)


def test_one_launch_for_a_list_with_empty_pieces():
    rng = np.random.default_rng(6)
    sizes = [0, 1, 3, 2048, 0, 2049, 31, 5, 600, 0]
    targets = [placed(values(rng, n, "f4", False), n % 4) for n in sizes]
    sources = [placed(values(rng, n, "f4", False), n % 3) for n in sizes]
    on_host = [target.copy() for target in targets]
    expected = kernels.accumulate(on_host, sources, alpha=0.5, stats=True)
    on_card = [placed(target, n % 4) for n, target in zip(sizes, targets, strict=True)]
    plan = make_plan("accumulate", Pieces.of(on_card), Pieces.of(sources), stats=True)
    assert repr(launch(plan, 0.5, blocks=3, whole=True)) == repr(expected)
    launch(make_plan("accumulate", Pieces.of(targets), Pieces.of(sources)), 0.5, blocks=3)
    for left, right, wanted in zip(on_card, targets, on_host, strict=True):
        assert np.array_equal(left, wanted)
        assert np.array_equal(right, wanted)


def test_more_tiles_than_sums_side_by_side():
    tiles = TREE + 3
    array = values(np.random.default_rng(7), tiles, BFLOAT16, False)
    many = Pieces(array.ctypes.data + 2 * np.arange(tiles), [1] * tiles, BFLOAT16)
    expected = kernels.prepare("stats", many)()
    assert repr(launch(make_plan("stats", many), blocks=4, whole=True)) == repr(expected)


def test_the_second_launch_adds_in_the_order_of_the_tiles():
    rng = np.random.default_rng(10)
    tiles, blocks = 17 * TREE + 5, 3 * TREE + 1  # more rows than are under way at once
    partials, slots = rng.random(tiles), rng.integers(0, 1 << 40, (blocks, 2))
    found = np.zeros(RESULTS, np.int64)
    arguments = (
        0,
        0,
        found.ctypes.data,
        0,
        blocks,
        0,
        tiles,
        1.0,
        0,
        partials.ctypes.data,
        slots.ctypes.data,
    )
    cuda.jit(body(ADD_UP))[1, ADD_UP.threads](*arguments, 0, 0)
    assert found.tolist() == add_up(partials, slots)


def test_bfloat16_with_stochastic_rounding_and_with_a_remainder():
    rng = np.random.default_rng(8)
    start, source = values(rng, 700, BFLOAT16), values(rng, 700, "f4")
    for rounding in ("stochastic", "compensated"):
        results = []
        for run in (lambda plan: Prepared(plan)(0.3, 42), lambda plan: launch(plan, 0.3, 42)):
            target, rest = placed(start, 0), np.zeros(700, np.uint16)
            remainder = of(rest) if rounding == "compensated" else None
            run(make_plan("accumulate", of(target), of(source), rounding=rounding, remainder=remainder))
            results.append((target, rest))
        assert same(results[0][0], results[1][0])
        assert np.array_equal(results[0][1], results[1][1])


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # destination (n, width), indices, rows (k, width)


def scatter(*additions: Rows, blocks: int = 2) -> int:
    """Add rows as `cuda_scatter` does; return what index was wrong."""
    target, _, rows = additions[0]
    form = Form("scatter", scatter_variant(target.dtype, rows.dtype))
    counts = [len(indices) for _, indices, _ in additions]
    places = [
        (place.ctypes.data, added.ctypes.data, place.shape[1], len(place), len(added))
        for place, _, added in additions
    ]
    runs = addition_runs(form, places)
    numbers = np.repeat(np.arange(len(additions), dtype=np.int32), counts)
    indices = np.concatenate([indices for _, indices, _ in additions])
    order = np.lexsort((indices, numbers))
    ordered, wrong = indices[order], np.zeros(1, np.int64)
    several = len(additions) > 1
    one = (0, 0, 0, 0) if several else places[0][:4]
    tables = (numbers.ctypes.data, runs.ctypes.data) if several else (0, 0)
    kernel = cuda.jit(body(form))
    addresses = (order.ctypes.data, ordered.ctypes.data)
    kernel[blocks, THREADS](*addresses, *one, len(order), 0.3, 0, wrong.ctypes.data, *tables, 0)
    return int(wrong[0])


def matrices(rng: np.random.Generator, dtypes: tuple, rows: int, added: int, width: int, offset: int) -> Rows:
    """Draw a destination and rows to add, `offset` elements behind an aligned address."""
    target = values(rng, rows * width, dtypes[0], False)
    more = values(rng, added * width, dtypes[1], False)
    indices = rng.integers(0, rows, added)
    return placed(target, offset).reshape(rows, width), indices, placed(more, offset).reshape(added, width)


@pytest.mark.parametrize("width", [1, 5, 700])
def test_scatter_add_in_the_order_of_the_indices(width):
    on_card, _, rows = matrices(np.random.default_rng(9), ("f4", BFLOAT16), 6, 6, width, 0)
    indices, on_host = np.array([3, 0, 3, 5, 3, 0]), on_card.copy()
    kernels.scatter_add(on_host, indices, rows, alpha=0.3)
    assert scatter((on_card, indices, rows)) == 0
    assert np.array_equal(on_card, on_host)


@pytest.mark.parametrize("dtypes", [("f4", BFLOAT16), ("f8", "f4"), (BFLOAT16, "f4")], ids=str)
def test_scatter_add_to_many_destinations_in_one_launch(dtypes):
    rng = np.random.default_rng(11)
    shapes = [(int(rng.integers(1, 6)), int(rng.integers(1, 9)), width, width % 4) for width in range(1, 34)]
    additions = [matrices(rng, dtypes, *shape) for shape in shapes]
    on_host = [target.copy() for target, _, _ in additions]
    kernels.scatter_add(on_host, *map(list, list(zip(*additions, strict=True))[1:]), alpha=0.3)
    assert scatter(*additions, blocks=3) == 0
    for (on_card, _, _), expected in zip(additions, on_host, strict=True):
        assert np.array_equal(on_card, expected)


@pytest.mark.parametrize("wrong", [6, -1])
@pytest.mark.parametrize("neighbours", [0, 2])
def test_an_index_out_of_range_is_reported_and_writes_nothing(wrong, neighbours):
    rows, start = np.ones((3, 2), "f4"), np.zeros((9, 2), "f4")
    target = (placed(start[:6].ravel(), 0).reshape(6, 2), np.array([2, wrong, 2]), rows)
    others = [(start.copy(), np.array([6, 8, 6]), rows) for _ in range(neighbours)]  # 6 is right there
    assert scatter(*others[:1], target, *others[1:]) == wrong
    added = np.float32(0.3) * np.ones(2, "f4")
    assert np.allclose(target[0], [2 * added if row == 2 else 0 * added for row in range(6)])
    for other, _, _ in others:
        assert np.allclose(other, [{6: 2, 8: 1}.get(row, 0) * added for row in range(9)])


@pytest.mark.parametrize("found", [(0, 0), (0, 3), (2, 0)], ids=str)
def test_what_was_measured_decides_on_the_card_what_is_added(found):
    results = np.zeros((len(found), RESULTS), np.int64)
    results[:, NONFINITE] = found
    finite = not any(found)
    for checks, takes_place in ((2, finite), (-2, not finite), (0, True)):
        target, source = np.ones(100, "f4"), np.full(100, np.nan, "f4")
        gate = (results.ctypes.data, checks)
        launch(make_plan("accumulate", of(target), of(source)), gate=gate)
        assert np.isnan(target).all() == takes_place
        assert takes_place or np.array_equal(target, np.ones(100))
        launch(make_plan("zero", of(target)), gate=gate)
        assert (target == 0).all() == takes_place
