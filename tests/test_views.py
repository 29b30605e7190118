"""Views: no byte is handed out again while an array over it lives, however the array was made."""

import weakref

import numpy as np
import pytest

import numscope as ns

SIZE = 1000


def torch():
    return pytest.importorskip("torch")


def test_blob_arrays_are_plain_and_stand_on_an_exporter_that_is_no_array(ws):
    array = ws.empty("x", (4, 6))
    assert type(array) is np.ndarray
    assert not isinstance(array.base, np.ndarray)
    assert array[1:].base is array
    assert array[1:][1:].T.base is array


VIEWS = {
    "the array": lambda x: x,
    "slice": lambda x: x[3:],
    "slice of slice": lambda x: x[3:][5:][::2][1:],
    "transposed": lambda x: x.reshape(10, -1).T,
    "slice of transposed": lambda x: x.reshape(10, -1).T[3:, 1].T,
    "reversed": lambda x: x[::-1],
    "asarray": lambda x: np.asarray(x[1:]),
    "other dtype": lambda x: x.view(np.uint8)[7:],
    "subclass": lambda x: x.view(np.recarray)[1:],
    "strided": lambda x: np.lib.stride_tricks.as_strided(x[2:], (5, 5), (4, 4)),
    "windows": lambda x: np.lib.stride_tricks.sliding_window_view(x, 5)[3],
    "broadcast": lambda x: np.broadcast_to(x[5:6], (3, 3)),
    "real part": lambda x: x.real,
    "flat iterator": lambda x: x.flat,
    "memoryview": lambda x: memoryview(x)[4:],
    "bytes of memoryview": lambda x: memoryview(x).cast("B")[8:],
    "frombuffer": lambda x: np.frombuffer(x, np.uint8)[5:],
    "dlpack": lambda x: np.from_dlpack(x)[2:],
    "dlpack capsule": lambda x: x[2:].__dlpack__(),
    "ctypes": lambda x: np.ctypeslib.as_array(np.ctypeslib.as_ctypes(x[1:])),
    "torch.from_numpy": lambda x: torch().from_numpy(x)[3:],
    "torch.from_dlpack": lambda x: torch().from_dlpack(x).view(10, -1).T,
    "torch.as_tensor": lambda x: torch().as_tensor(x[2:]),
    "torch and back": lambda x: torch().from_numpy(x)[1:].numpy()[1:],
}


@pytest.mark.parametrize("how", VIEWS)
@pytest.mark.parametrize("end", ["remove", "clear", "replace", "drop", "leave"])
def test_bytes_wait_for_the_last_view(arena, how, end, no_gc):
    if how.startswith("torch"):
        torch()  # what its import leaves behind would hold the frame of a view's maker
    ws = ns.Workspace(arena=arena)
    if end == "leave":
        scope = ws.scope("step")
        ws = scope.__enter__()
    ws.full("x", SIZE, 7)
    address = ws["x"].__array_interface__["data"][0]
    view = VIEWS[how](ws["x"])
    match end:
        case "remove":
            ws.remove_blob("x")
        case "clear":
            ws.clear()
        case "replace":
            ws["x"] = [1.0]
        case "drop":
            del ws
        case "leave":
            scope.__exit__(None, None, None)
    other = ns.Workspace(arena=arena)
    for i in range(20):
        assert not 0 <= other.full(f"y{i}", SIZE, i).__array_interface__["data"][0] - address < 4096
    if not how.endswith("capsule"):
        flat = list(view) if how == "flat iterator" else bytes(np.ascontiguousarray(view))
        assert set(flat) <= {7.0, *bytes(np.float32(7))}
    assert arena.stats().held_by_views == 4096
    used = arena.used
    del view
    assert arena.used == used - 4096
    assert arena.stats().held_by_views == 0


def test_a_view_of_one_blob_does_not_hold_its_neighbours_after_removal(arena, ws):
    ws.allocate(dict.fromkeys("abc", (SIZE, "float32")))
    view = ws["b"][1:]
    for name in "abc":
        ws.remove_blob(name)
    assert arena.stats().held_by_views == arena.used == 4096
    del view
    assert arena.used == 0


def test_a_view_of_one_blob_holds_its_segment_after_clear(arena, ws):
    ws.allocate(dict.fromkeys("abc", (SIZE, "float32")))
    view = ws["b"][1:]
    ws.clear()
    assert arena.stats().held_by_views == arena.used == 3 * 4096
    del view
    assert arena.used == 0


def test_an_array_over_several_blobs_holds_each(arena, ws):
    ws.allocate(dict.fromkeys("abc", (SIZE, "float32")))
    for name in "abc":
        ws[name][:] = 5
    flat = ws.flat(["a", "b", "c"])[10:20]
    for name in "abc":
        ws.remove_blob(name)
    assert arena.used == arena.stats().held_by_views == 3 * 4096
    for i in range(3):
        ns.Workspace(arena=arena).full(f"y{i}", SIZE, 9)
    assert (flat == 5).all()
    with pytest.raises(BufferError, match="'b'"):
        arena.close()
    del flat
    assert arena.used == 0


def test_flat_says_what_does_not_lie_so(ws):
    ws.allocate({"a": (3, "float32"), "b": (3, "float32")})
    ws["i"] = [1]
    ws["text"] = "no tensor"
    assert ws.flat(["a", "b"]).shape == (128,)
    for names, error in (
        (["b", "a"], ns.BindingError),
        (["a", "i"], ns.BindingError),
        ([], ns.BindingError),
        (["a", "nowhere"], ns.BlobNotFoundError),
        (["text"], ns.BlobTypeError),
    ):
        with pytest.raises(error):
            ws.flat(names)


def test_old_views_keep_their_bytes_and_in_place_writes_are_seen(ws):
    ws["x"] = np.arange(5, dtype=np.float32)
    old = ws["x"][1:]
    ws["x"] = np.full(5, 9, np.float32)
    assert (old == 9).all()
    ws["x"] = np.zeros(6, np.float32)
    assert (old == 9).all()
    ws["x"][:] = 1
    assert (old == 9).all()


def test_exhaustion_tells_of_bytes_held_by_views(arena, ws):
    view = ws.empty("x", 3 << 20, "uint8")[:1]
    ws.clear()
    with pytest.raises(ns.ArenaExhausted, match="held back by views"):
        ws.empty("y", 2 << 20, "uint8")
    del view
    ws.empty("y", 2 << 20, "uint8")


def test_views_in_garbage_cycles_are_collected_before_giving_up(arena, ws, no_gc):
    cycle = [ws.empty("x", 3 << 20, "uint8")[:1]]
    cycle.append(cycle)
    ws.clear()
    del cycle
    assert arena.stats().held_by_views == 3 << 20
    ws.empty("y", 3 << 20, "uint8")
    assert arena.stats().held_by_views == 0


def test_an_array_outlives_arena_and_workspace():
    arena = ns.Arena("1 MiB")
    watch = weakref.ref(arena)
    array = ns.Workspace(arena=arena).full("x", 100, 3)
    del arena
    assert watch() is None
    array += 1
    assert (array == 4).all()


def test_arrays_go_out_without_a_copy(ws):
    x = ws.zeros("x", (3, 4))
    np.add(x, 1, out=ws["x"])
    assert (x == 1).all()
    tensor = torch().from_dlpack(ws["x"])
    tensor += 1
    assert (x == 2).all()
    assert tensor.data_ptr() == x.__array_interface__["data"][0]
    ws["x"] += 1
    assert (tensor == 3).all()


def test_a_second_view_of_a_released_segment_does_not_free_it_early(arena, ws):
    first, second = ws.empty("x", SIZE)[1:], ws.empty("y", SIZE)[1:]
    ws.clear()
    del first
    assert arena.stats().held_by_views == 8192
    ws.full("x", SIZE, 1)
    second[:] = 2
    assert (ws["x"] == 1).all()
    del second
    assert arena.used == 4096 * 2  # the workspace asked at once for what it had before
