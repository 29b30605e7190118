"""Blobs: values, types, and what feeding does to memory."""

import ml_dtypes
import numpy as np
import pytest

import numscope as ns

DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
]


def address(array):
    return array.__array_interface__["data"][0]


def torch():
    return pytest.importorskip("torch")


class OnlyInterface:
    """As an old library's array."""

    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


class OnlyDLPack:
    """As a new library's array."""

    def __init__(self, array, kind=None):
        self.array = array
        self.kind = kind

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return (self.kind, 0) if self.kind else self.array.__dlpack_device__()


class OnlyArray:
    """As JAX's bfloat16 arrays."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class OnGPU:
    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


def test_a_new_blob_is_empty(ws):
    blob = ws.create_blob("x")
    assert (blob.type, blob.value, blob.is_tensor) == (None, None, False)
    assert not blob.is_type("float32")
    with pytest.raises(ns.BlobTypeError, match="empty"):
        blob.get("float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_follows_the_value(ws, dtype):
    source = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype, dtype))
    ws["x"] = source
    blob = ws.get_blob("x")
    assert blob.type == ns.known_type(dtype)
    assert blob.value is ws["x"]
    assert ws["x"].dtype == source.dtype
    assert ws["x"].tobytes() == source.tobytes()
    assert not np.shares_memory(ws["x"], source)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        ([1.5, 2], np.array([1.5, 2])),
        ((True, False), np.array([True, False])),
        (3, np.array(3)),
        (2.5, np.array(2.5)),
        (1j, np.array(1j)),
        ([], np.array([])),
        (np.float32(7), np.float32(7)),
        (range(3), np.arange(3)),
        (memoryview(b"ab"), np.frombuffer(b"ab", np.uint8)),
        (bytearray(b"ab"), np.frombuffer(b"ab", np.uint8)),
        (OnlyInterface(np.arange(4.0)[::2]), np.array([0.0, 2.0])),
        (OnlyDLPack(np.arange(4.0).reshape(2, 2).T), np.array([[0.0, 2.0], [1.0, 3.0]])),
        (OnlyDLPack(np.arange(4, dtype=np.int8)), np.arange(4, dtype=np.int8)),
        (OnlyArray(np.ones(2, ml_dtypes.bfloat16)), np.ones(2, ml_dtypes.bfloat16)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_whatever_numpy_would_take_is_fed(ws, value, expected):
    ws["x"] = value
    assert ws["x"].dtype == expected.dtype
    assert ws["x"].shape == expected.shape
    assert (ws["x"] == expected).all()


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "int64", "bool", "complex64"]
)
@pytest.mark.parametrize("how", ["plain", "transposed", "strided", "scalar", "empty"])
def test_torch_tensors_are_fed(ws, dtype, how):
    tensor = (torch().arange(24) % 5).reshape(4, 6).to(getattr(torch(), dtype))
    tensor = {
        "plain": tensor,
        "transposed": tensor.T,
        "strided": tensor[::2, 1::3],
        "scalar": tensor[1, 2],
        "empty": tensor[:0],
    }[how]
    ws["x"] = tensor
    assert ws.get_blob("x").type.name == dtype
    assert ws["x"].shape == tuple(tensor.shape)
    # float64 holds all of these, but for the imaginary parts, which are 0.
    assert (ws["x"].astype(np.complex128) == tensor.to(torch().complex128).numpy()).all()


def test_torch_tensors_with_gradients_and_lazy_conjugates_are_fed(ws):
    ws["x"] = torch().ones(3, requires_grad=True)
    assert ws["x"].tolist() == [1, 1, 1]
    ws["c"] = torch().tensor([1 + 2j]).conj()
    assert ws["c"].tolist() == [1 - 2j]


def test_torch_tensors_that_are_not_on_the_host_or_dense_are_refused(ws):
    with pytest.raises(ns.BindingError, match="torch tensor on meta"):
        ws["x"] = torch().zeros(3, device="meta")
    with pytest.raises(ns.UnknownTypeError, match="to_dense"):
        ws["x"] = torch().eye(3).to_sparse()
    assert "x" not in ws


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, ns.UnknownTypeError, "NoneType"),
        (object(), ns.UnknownTypeError, "object is no known type.*register_known_type"),
        ({"a": 1}, ns.UnknownTypeError, "dict"),
        ([1, [2]], ns.UnknownTypeError, "inhomogeneous"),
        (["text"], ns.UnknownTypeError, "<U4"),
        (np.array([None, 1]), ns.UnknownTypeError, "object"),
        (np.arange(3, dtype=">i4"), ns.UnknownTypeError, r"bytes swapped.*astype\('int32'\)"),
        (np.zeros(2, "M8[s]"), ns.UnknownTypeError, "datetime64"),
        (np.zeros(2, np.longdouble), ns.UnknownTypeError, "float128|longdouble|no known type"),
        (np.zeros(2, [("a", "f4")]), ns.UnknownTypeError, "known are"),
        (np.ma.array([1, 2], mask=[0, 1]), ns.UnknownTypeError, "filled"),
        (2**70, ns.UnknownTypeError, "known are"),
        (OnGPU(), ns.BindingError, "GPU memory, expected one in host memory"),
        (OnlyDLPack(np.ones(2), kind=2), ns.BindingError, "expected host memory"),
    ],
    ids=lambda x: getattr(x, "__name__", type(x).__name__),
)
@pytest.mark.parametrize("exists", [False, True])
def test_what_is_no_known_type_is_refused_and_changes_nothing(ws, value, error, words, exists):
    if exists:
        ws["x"] = [1, 2]
    before = ws.arena.stats()
    with pytest.raises(error, match=f"(?s)'x'.*({words})"):
        ws["x"] = value
    assert ws.arena.stats() == before
    assert ("x" in ws) == exists
    assert not exists or ws["x"].tolist() == [1, 2]


def test_same_shape_and_dtype_is_written_in_place(ws):
    ws["x"] = np.zeros(4, np.float32)
    array, view = ws["x"], ws["x"][1:]
    ws["x"] = np.arange(4, dtype=np.float32)
    assert ws["x"] is array
    assert view.tolist() == [1, 2, 3]
    ws.feed("x", np.ones(4, np.float32))
    assert view.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "value", [np.zeros(5, np.float32), np.zeros(4), np.zeros((2, 2), np.float32), "text"]
)
def test_anything_else_gets_new_memory(ws, value):
    ws["x"] = np.arange(4, dtype=np.float32)
    old = ws["x"]
    ws["x"] = value
    assert ws["x"] is not old
    assert old.tolist() == [0, 1, 2, 3]
    del old
    assert ws.arena.used == (256 if isinstance(value, np.ndarray) else 0)


def test_the_same_array_is_a_no_op(ws):
    ws["x"] = [1.0, 2.0]
    array = ws["x"]
    ws["x"] = array
    ws["x"] += 1
    assert ws["x"] is array
    assert array.tolist() == [2, 3]


def test_overlap_is_right(ws):
    ws["x"] = np.arange(6)
    ws["x"] = ws["x"][::-1]
    assert ws["x"].tolist() == [5, 4, 3, 2, 1, 0]
    ws["x"] = ws["x"].reshape(2, 3)
    ws["x"] = ws["x"][:, 1:]
    assert ws["x"].tolist() == [[4, 3], [1, 0]]
    ws["x"] = ws["x"].T
    assert ws["x"].tolist() == [[4, 1], [3, 0]]


def test_read_only_and_non_contiguous_sources_are_copied(ws):
    source = np.arange(12.0).reshape(3, 4)
    source.flags.writeable = False
    for view in (source, source.T, source[::-1, ::2], np.broadcast_to(source[:1], (5, 4))):
        ws["x"] = view
        assert (ws["x"] == view).all()
        assert ws["x"].flags.writeable
        assert ws["x"].flags.c_contiguous


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2**40)])
def test_blobs_without_elements_take_no_room(ws, shape):
    array = ws.empty("x", shape)
    assert array.shape == shape
    assert ws.arena.used == 0
    assert ws.empty("x", shape) is array
    ws.remove_blob("x")
    ws["x"] = np.zeros((0, 3), np.int8)
    assert ws["x"].shape == (0, 3)


def test_text_bytes_and_stacks_are_held_as_they_are(ws):
    stack = ns.WorkspaceStack()
    for value in ("text", b"bytes", stack):
        ws["x"] = value
        assert ws["x"] is value
        assert ws.get_blob("x").get(type(value)) is value
        assert ws.fetch("x") is value
        assert not ws.get_blob("x").is_tensor


def test_get_asks_for_the_type(ws):
    ws["x"] = [1.0]
    blob = ws.get_blob("x")
    assert blob.get(np.float64) is blob.get("float64") is blob.get(np.ndarray) is ws["x"]
    assert blob.is_type(np.ndarray)
    assert not blob.is_type(str)
    with pytest.raises(
        ns.BlobTypeError, match=r"wrong type for blob 'x': it contains float64.* expects int32"
    ):
        blob.get("int32")
    with pytest.raises(ns.UnknownTypeError):
        blob.get("float31")


def test_get_mutable_replaces_a_value_of_another_type(ws):
    blob = ws.create_blob("x")
    blob.set([1.0, 2.0])
    assert blob.get_mutable("float64").tolist() == [1, 2]
    assert blob.get_mutable(np.float32).shape == (0,)
    assert blob.type.name == "float32"
    stack = blob.get_mutable(ns.WorkspaceStack)
    assert isinstance(stack, ns.WorkspaceStack)
    assert blob.get_mutable(ns.WorkspaceStack) is stack
    assert blob.get_mutable(np.ndarray).size == 0
    assert ws.arena.used == 0

    class NeedsAnArgument:
        def __init__(self, argument):
            self.argument = argument

    ns.register_known_type(NeedsAnArgument)
    blob.set("before")
    with pytest.raises(ns.BlobTypeError, match=r"cannot be made without arguments.*set\(\)"):
        blob.get_mutable(NeedsAnArgument)
    assert blob.value == "before"


def test_reset_empties_and_keeps_the_name(ws):
    ws["x"] = [1.0]
    ws.get_blob("x").reset()
    assert "x" in ws
    assert ws["x"] is None
    assert ws.arena.used == 0
    ws["x"] = [2.0]
    assert ws["x"].tolist() == [2.0]


@pytest.mark.parametrize("how", ["remove", "clear"])
def test_a_removed_blob_takes_no_memory(ws, how):
    ws["x"] = [1.0]
    blob = ws.get_blob("x")
    if how == "remove":
        del ws["x"]
    else:
        ws.clear()
    assert blob.value is None
    for value in ([1.0], "text"):
        with pytest.raises(ns.BlobNotFoundError, match="'x' was removed"):
            blob.set(value)
    assert ws.arena.used == 0
    assert ws.create_blob("x") is not blob
