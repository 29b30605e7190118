"""What needs a card: kernels held to the host's bits, arenas, streams, guests."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import reference
from reference import same, values

import numscope as ns
from numscope import kernels

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not ns.cuda_available(), reason="no CUDA device")]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype("float16"), BFLOAT16, np.dtype("float32"), np.dtype("float64")]
FLOAT8 = [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]
SIZES = [0, 1, 3, 4, 5, 31, 32, 33, 2047, 2048, 2049, 65535, 65536, 65537]


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def place(cupy):
    """Return a function that copies a host array to the card, some elements behind an aligned address."""

    def copy(array, offset=0):
        memory = cupy.full((array.size + offset) * array.itemsize + 64, 0xA5, np.uint8)
        start = offset * array.itemsize
        memory[start : start + array.nbytes] = cupy.asarray(array.view(np.uint8))
        return memory[start : start + array.nbytes].view(array.dtype)

    return copy


def guard_holds(view):
    memory = view.base
    end = view.data.ptr - memory.data.ptr + view.nbytes
    return bool((memory[end : end + 64] == 0xA5).all())


def pair_id(pair):
    return "-".join(dtype.name for dtype in pair)


@pytest.mark.parametrize("pair", list(itertools.product(FLOATS, repeat=2)), ids=pair_id)
def test_accumulate_every_pair_size_and_offset(place, pair):
    rng = np.random.default_rng(1)
    for size, (left, right) in itertools.product(SIZES, [(0, 0), (1, 1), (3, 2)]):
        start, source = values(rng, size, pair[0]), values(rng, size, pair[1])
        on_card, on_host = place(start, left), start.copy()
        found = kernels.accumulate(on_card, place(source, right), alpha=0.3, stats=True)
        expected = kernels.accumulate(on_host, source, alpha=0.3, stats=True)
        assert same(on_card.get(), on_host)
        assert repr(found) == repr(expected)
        assert guard_holds(on_card)


@pytest.mark.parametrize("pair", list(itertools.product(FLOATS + FLOAT8, repeat=2)), ids=pair_id)
def test_casts(place, pair):
    rng = np.random.default_rng(2)
    for size, offset in ((1, 0), (33, 1), (70001, 0)):
        source = values(rng, size, pair[1])
        target = place(np.zeros(size, pair[0]), offset)
        kernels.copy(target, place(source))
        assert same(target.get(), reference.cast(source, pair[0]))
        assert guard_holds(target)


@pytest.mark.parametrize(
    "dtype", [*FLOATS, *FLOAT8, *map(np.dtype, ("?", "b", "i2", "u4", "i8", "c8", "c16"))], ids=str
)
def test_zero_and_copy_bit_for_bit(place, dtype):
    rng = np.random.default_rng(3)
    for size, left, right in itertools.product(SIZES, (0, 1), (0, 1)):
        words = rng.integers(0, 2 if dtype.kind == "b" else 256, size * dtype.itemsize).astype(np.uint8)
        source, target = words.view(dtype), place(np.zeros(size, dtype), left)
        kernels.copy(target, place(source, right))
        assert target.get().tobytes() == source.tobytes()
        kernels.zero(target)
        assert not target.view(np.uint8).any()
        assert guard_holds(target)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scale_overwrite_and_zeroed_source(place, dtype):
    rng = np.random.default_rng(4)
    for size, offset in itertools.product(SIZES, (0, 1)):
        start, source = values(rng, size, dtype), values(rng, size, "f4")
        on_card, on_host, taken = place(start, offset), start.copy(), place(source, offset)
        for array in (on_card, on_host):
            kernels.scale(array, 0.7)
        assert same(on_card.get(), on_host)
        kernels.accumulate(on_card, taken, alpha=-2, beta=0, zero_source=True)
        kernels.accumulate(on_host, source, alpha=-2, beta=0)
        assert same(on_card.get(), on_host)
        assert not taken.view(np.uint8).any()


def test_stats_of_lists_are_the_bits_of_the_host(place):
    rng = np.random.default_rng(5)
    arrays = [values(rng, n, "f4", False) for n in (*SIZES, 3_000_001)]
    for offset in (0, 1):
        on_card = [place(array, offset) for array in arrays]
        before = kernels.launches()
        assert repr(kernels.stats(on_card)) == repr(kernels.stats(arrays))
        assert kernels.launches() == before + 2


def test_ten_thousand_blobs_in_one_launch(place, cupy):
    lengths = np.arange(10_000) % 700
    ends = np.cumsum(-(-lengths // 64) * 64)
    target, source = cupy.zeros(int(ends[-1]), "f4"), cupy.ones(int(ends[-1]), "f4")
    starts = 4 * (ends - -(-lengths // 64) * 64)
    pieces = [kernels.Pieces(starts + a.data.ptr, lengths, "f4", "cuda:0") for a in (target, source)]
    call = kernels.prepare("accumulate", *pieces, stats=True)
    for number in (1, 2, 3):
        assert call() == (number**2 * int(lengths.sum()), 0, number)
    assert int(target.sum()) == 3 * int(lengths.sum())


def test_calls_again_work_on_the_arrays_that_are_given(cupy):
    target = [cupy.zeros(n, "f4") for n in (5, 0, 3000)]
    for number in range(1, 6):
        source = [cupy.full(n, number, "f4") for n in (5, 0, 3000)]  # often where the last ones were
        for _ in range(3):
            kernels.accumulate(target, source)
        assert kernels.stats(target).max_abs == 3 * number * (number + 1) / 2
        kernels.copy(source[0], target[0])
        assert float(source[0][4]) == 3 * number * (number + 1) / 2


def test_scatter_add_in_order(place, cupy):
    rng = np.random.default_rng(6)
    indices = rng.integers(0, 50, 1000)
    start, rows = values(rng, 50 * 33, "f4", False), values(rng, 1000 * 33, BFLOAT16, False)
    on_host, on_card = start.reshape(50, 33).copy(), place(start).reshape(50, 33)
    kernels.scatter_add(on_host, indices, rows.reshape(1000, 33), alpha=0.3)
    kernels.scatter_add(on_card, cupy.asarray(indices), place(rows).reshape(1000, 33), alpha=0.3)
    assert np.array_equal(on_card.get(), on_host)
    with pytest.raises(ValueError, match="index 50 at place 1 is out of range"):
        kernels.scatter_add(on_card, [0, 50], on_card[:2])


@pytest.mark.parametrize("kinds", [("host",), ("i8",), ("host", "i8", "u1", "i4")], ids=str)
@pytest.mark.parametrize("count", [2, 9, 1000])
def test_scatter_add_to_many_destinations_in_one_launch(place, cupy, count, kinds):
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, [9, 40, 12], (count, 3)).tolist()
    here = [values(rng, rows * width, "f4", False).reshape(rows, width) for rows, width, _ in sizes]
    indices = [rng.integers(0, rows, added) for rows, _, added in sizes]
    added = [values(rng, n * width, BFLOAT16, False).reshape(n, width) for _, width, n in sizes]
    there = [place(array.ravel(), n % 4).reshape(array.shape) for n, array in enumerate(here)]
    rows = [place(array.ravel(), n % 3).reshape(array.shape) for n, array in enumerate(added)]
    numbers = [
        array if kind == "host" else cupy.asarray(array.astype(kind))
        for array, kind in zip(indices, itertools.cycle(kinds), strict=False)
    ]
    before = kernels.launches()
    kernels.scatter_add(there, numbers, rows, alpha=0.3)
    assert kernels.launches() == before + 1
    kernels.scatter_add(here, indices, added, alpha=0.3)
    assert all(np.array_equal(left.get(), right) for left, right in zip(there, here, strict=True))


def test_a_wrong_index_among_many_destinations_leaves_the_others_right(cupy):
    tables, rows = [cupy.zeros((n, 2), "f4") for n in (3, 4)], [cupy.ones((3, 2), "f4")] * 2
    kernels.scatter_add(tables, [cupy.asarray([0, 3, 0]), cupy.asarray([3, 1 << 40, 3])], rows)
    with pytest.raises(
        ValueError, match=r"index (3|1099511627776) of an earlier scatter_add on cuda:0 is out"
    ):
        kernels.stats(tables)
    assert [table.get().sum(axis=1).tolist() for table in tables] == [[4, 0, 0], [0, 0, 0, 4]]


def test_a_wrong_index_on_the_card_writes_nothing_and_is_told_later(cupy):
    target, rows = cupy.zeros((5, 3), "f4"), cupy.ones((3, 3), "f4")
    kernels.scatter_add(target, cupy.asarray([1, 5, 1]), rows)  # nothing waits for it
    with pytest.raises(ValueError, match="index 5 of an earlier scatter_add on cuda:0 is out of range"):
        kernels.stats(target)
    assert target.get().tolist() == [[0] * 3, [2] * 3, [0] * 3, [0] * 3, [0] * 3]
    assert kernels.stats(target).sum_of_squares == 12


def test_gaps_and_overlaps(cupy):
    base = cupy.arange(1000, dtype="f4")
    kernels.copy(base[1:], base[:-1])
    assert cupy.array_equal(base[1:], cupy.arange(999, dtype="f4"))
    target = cupy.zeros((4, 12), "f4")
    kernels.accumulate(target[:, ::2], cupy.ones((6, 4), "f4").T, alpha=2)
    assert float(target.sum()) == 48
    with pytest.raises(ValueError, match="overlaps"):
        kernels.accumulate(base[1:], base[:-1], zero_source=True)


def test_streams_and_threads_share_nothing(cupy):
    target = [cupy.zeros(1 << 20, "f4") for _ in range(2)]
    calls = [
        kernels.prepare("accumulate", kernels.Pieces.of([a]), kernels.Pieces.of([a]), stats=True)
        for a in target
    ]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in target]
    for array in target:
        array[...] = 1
    cupy.cuda.get_current_stream().synchronize()
    for _ in range(3):
        for call, stream in zip(calls, streams, strict=True):
            with stream:
                call()
    assert all(float(array[0]) == 8 for array in target)


def test_calls_return_before_kernels_end(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        array = cupy.zeros(1 << 28, "u1")
        add = kernels.prepare("zero", kernels.Pieces.of([array]))
        add()
        stream.synchronize()
        for _ in range(500):
            add()
        assert not stream.done
        stream.synchronize()


def test_a_micro_batch_is_skipped_on_the_card_without_waiting(cupy):
    shapes = {"w": (4, 10), "b": (10,), "none": (0, 3), "one": ()}
    rng = np.random.default_rng(8)
    with ns.Arena("1 MiB") as here, ns.Arena("1 MiB", device="cuda") as there:
        on_host, on_card = (ns.GradientAccumulator(shapes, arena=arena) for arena in (here, there))
        memory = cupy.zeros(1 << 28, "u1")
        busy = kernels.prepare("zero", kernels.Pieces.of([memory]))
        for first in (np.nan, 0.5):
            for number, value in enumerate((first, 1.0, np.inf, 2.0)):
                grads = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
                grads["b"][3] = value
                on_host.add(grads, weight=number + 1, skip_nonfinite=True)
                moved = {name: cupy.asarray(g) for name, g in grads.items()}
                on_card.add(moved, weight=number + 1, skip_nonfinite=True)  # compiled, loaded, laid out
                on_host.add(grads, weight=0, skip_nonfinite=True)
                for _ in range(200):
                    busy()
                on_card.add(moved, weight=0, skip_nonfinite=True)
                assert not cupy.cuda.get_current_stream().done
            assert on_card.skipped == on_host.skipped
            assert repr(on_card.finish(max_norm=1.0)) == repr(on_host.finish(max_norm=1.0))
            assert all(np.array_equal(on_card[name].get(), on_host[name]) for name in shapes)
            on_host.reset()
            on_card.reset()
        del on_host, on_card


def test_a_stream_may_be_given(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    array = cupy.ones(1 << 20, "f4")
    cupy.cuda.get_current_stream().synchronize()
    kernels.scale(array, 3.0, stream=stream)
    assert kernels.stats(array, stream=stream).max_abs == 3
    with ns.Arena("1 MiB", device="cuda") as arena:
        ws = ns.Workspace(arena=arena)
        ws.full("x", 5, 2.0)
        cupy.cuda.get_current_stream().synchronize()
        ws.zero(stream=stream)
        stream.synchronize()
        assert not ws.fetch("x").any()
        ws.clear()
    if cupy.cuda.runtime.getDeviceCount() > 1:
        with cupy.cuda.Device(1):
            other = cupy.cuda.Stream()
        with pytest.raises(ValueError, match="the stream belongs to cuda:1, expected one of cuda:0"):
            kernels.zero(array, stream=other)


def test_an_array_may_die_while_its_kernel_runs(cupy):
    target = cupy.zeros(1 << 26, "f4")
    cupy.cuda.get_current_stream().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    kernels.zero(target)  # two streams are known
    cupy.cuda.get_current_stream().synchronize()
    for _ in range(10):
        source = cupy.ones(1 << 26, "f4")
        cupy.cuda.get_current_stream().synchronize()
        kernels.accumulate(target, source, stream=stream)
        del source
        cupy.full(1 << 26, 1e9, "f4")  # of the same size, on the stream that the pool thinks is done
    stream.synchronize()
    assert kernels.stats(target).max_abs == 10


def test_single_numbers_and_what_has_gaps_come_in(cupy):
    with ns.Arena("1 MiB", device="cuda") as arena, ns.Arena("1 MiB", pinned=True) as pinned:
        ws = ns.Workspace(arena=arena)
        ws["x"] = 3.0
        assert ws.fetch("x") == 3
        ws["y"] = np.arange(6, dtype="f4").reshape(2, 3).T
        assert ws.fetch("y").tolist() == [[0, 3], [1, 4], [2, 5]]
        host = ns.Workspace(arena=pinned)
        host.full("z", 1 << 16, 7.0)
        for value in (1.0, 2.0, 3.0):
            host["z"][...] = value
            ws["z"] = host["z"]
            host["z"][...] = -1  # the copy is done
            assert (ws.fetch("z") == value).all()
        ws.clear()
        host.clear()


def test_more_than_two_to_the_31_elements(cupy):
    if cupy.cuda.runtime.memGetInfo()[0] < 6 << 30:
        pytest.skip("needs 6 GiB of free memory")
    array = cupy.full(2**31 + 5, 3, np.uint8)
    kernels.zero(array[1:])
    assert (int(array[0]), int(array[-1]), int(array[2**31 - 2 : 2**31 + 2].max())) == (3, 0, 0)


def test_workspaces_and_their_arena(cupy):
    with ns.Arena("1 MiB", device="cuda") as arena:
        ws = ns.Workspace(arena=arena, name="train")
        x = ws.zeros("x", (3, 4), "bfloat16")
        assert isinstance(x, cupy.ndarray)
        assert x.data.ptr % 256 == 0
        ws["y"] = np.arange(5, dtype="f4")
        ws["y"] += 1
        assert ws.fetch("y").tolist() == [1, 2, 3, 4, 5]
        view = ws["y"][2:]
        ws.remove_blob("y")
        used = arena.used
        ws.zeros("z", 100_000)
        assert view.get().tolist() == [3, 4, 5]
        assert arena.stats().held_by_views > 0
        del view
        assert arena.stats().held_by_views == 0
        assert used > 0
        del x
        ws.clear()
    total = cupy.cuda.runtime.memGetInfo()[1]
    with pytest.raises(ns.ArenaExhausted, match="bytes are free there") as caught:
        ns.Arena(2 * total, device="cuda")
    assert caught.value.capacity == total


def test_pinned_arenas_are_host_arrays():
    with ns.Arena("1 MiB", pinned=True) as arena:
        ws = ns.Workspace(arena=arena)
        assert isinstance(ws.zeros("x", 10), np.ndarray)
        ws["x"] += 1
        with ns.Arena("1 MiB", device="cuda") as there:
            copy = ns.Workspace(arena=there)
            copy["x"] = ws["x"]
            assert copy.fetch("x").tolist() == [1] * 10
            copy.clear()
        ws.clear()


def test_gradients_of_a_torch_model(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA device")
    layer = torch.nn.Linear(64, 32, dtype=torch.bfloat16, device="cuda")
    names = dict(layer.named_parameters())
    acc = ns.GradientAccumulator({name: tuple(p.shape) for name, p in names.items()}, device="cuda")
    exact = {name: np.zeros(tuple(p.shape)) for name, p in names.items()}
    for weight in (3.0, 5.0):
        layer.zero_grad()
        layer(torch.randn(16, 64, dtype=torch.bfloat16, device="cuda")).square().mean().backward()
        with cupy.cuda.Stream(non_blocking=True):  # another one than PyTorch's
            acc.add({name: p.grad for name, p in names.items()}, weight=weight)
        for name, p in names.items():
            exact[name] += weight * p.grad.double().cpu().numpy()
        cupy.cuda.Device().synchronize()
    stats = acc.finish()
    assert stats.nonfinite == 0
    for name, total in exact.items():
        assert np.allclose(acc[name].get(), total / 8, rtol=1e-6, atol=1e-12)


def test_pytorch_waits_for_kernels_on_another_stream(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA device")
    with ns.Arena("2 GiB", device="cuda") as arena:
        acc = ns.GradientAccumulator({"w": 1 << 26}, arena=arena)
        stream = cupy.cuda.Stream(non_blocking=True)
        for _ in range(5):
            gradient = torch.ones(1 << 26, device="cuda")
            acc.add({"w": gradient}, stream=stream)
            gradient.fill_(float("nan"))  # while the kernel reads, but for the wait
        stream.synchronize()
        stats = acc.finish()
        assert (stats.nonfinite, float(acc["w"].max())) == (0, 1.0)
        del acc


def test_arrays_of_two_places_are_refused(cupy):
    on_card, on_host = cupy.zeros(3, "f4"), np.zeros(3, "f4")
    with pytest.raises(ValueError, match="copy one to the other first"):
        kernels.copy(on_card, on_host)
    with pytest.raises(TypeError, match="expected one device"):
        kernels.zero([on_card, on_host])
    acc = ns.GradientAccumulator({"w": 3}, device="cuda")
    with pytest.raises(ns.BindingError, match="on cpu"):
        acc.add({"w": on_host})
