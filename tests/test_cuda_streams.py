"""Device memory, streams and guests with CuPy installed, but no card.

Arrays are addresses, shapes and owners then, of which nothing is read; streams and PyTorch are stood for.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import types
import weakref
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from numscope.kernels.lists import simple_pieces

import numscope as ns
from numscope import cuda_memory, kernels


class Streams:
    """Stands for the register of streams, and notes who is made to wait for whom."""

    def __init__(self):
        self.waits = []

    def current(self, device):
        return "home"

    def others(self, device, stream):
        return ["other"]

    def wait_for(self, stream, awaited):
        self.waits.append((stream, awaited))

    def on_device(self, device):
        return contextlib.nullcontext()


@pytest.fixture
def streams(monkeypatch):
    found = Streams()
    monkeypatch.setattr(cuda_memory, "streams", lambda: found)
    return found


@pytest.fixture
def memory(streams):
    cupy = pytest.importorskip("cupy")
    address = (1 << 40) + 40

    def allocate(nbytes):
        return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(address, nbytes, None, 0), 0)

    with cupy.cuda.using_allocator(allocate):
        return cuda_memory.CudaMemory(cupy, 0, 1 << 20)


def test_streams_are_waited_for_when_bytes_change_hands(memory, streams):
    memory.hand_out()
    assert streams.waits == [("home", ["other"])]


def test_a_block_goes_back_after_the_last_view_of_it(streams):
    cupy = pytest.importorskip("cupy")
    pointer = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(1 << 40, 1 << 20, None, 0), 0)
    with cupy.cuda.using_allocator(lambda nbytes: pointer):
        memory = cuda_memory.CudaMemory(cupy, 0, 1 << 16)
    view = memory.array(memory.token(), 0, (3,), np.dtype("float32"))[1:]
    del memory
    assert streams.waits == []
    del view
    assert streams.waits == [("home", ["other"])]


def test_blocks_come_from_the_current_allocator_and_are_aligned(memory):
    assert memory.address == (1 << 40) + 256
    array = memory.array(memory.token(), 512, (3, 4), np.dtype(ml_dtypes.bfloat16))
    assert array.data.ptr == memory.address + 512
    assert (array.shape, array.dtype.name, array.strides) == ((3, 4), "bfloat16", (8, 2))


def test_a_token_lives_as_long_as_the_last_view(memory):
    keeps = types.ModuleType("keeps")
    token = memory.token(keeps=keeps)
    watched, kept = weakref.ref(token), weakref.ref(keeps)
    blob = memory.array(token, 0, (4, 4), np.dtype("float32"))
    blob_watched = weakref.ref(blob)
    view = blob[1:].view("int32")[::2]
    del token, keeps, blob
    gc.collect()
    assert all(reference() is not None for reference in (watched, kept, blob_watched))
    assert view.base is blob_watched()
    del view
    assert all(reference() is None for reference in (watched, kept, blob_watched))


def elsewhere(memory, array):
    """Return an array like another one, on the next card."""
    cuda = memory._cupy.cuda
    there = cuda.UnownedMemory(1 << 41, array.nbytes, None, 1)
    return memory._cupy.ndarray(array.shape, array.dtype, cuda.MemoryPointer(there, 0))


def test_pieces_of_device_arrays(memory):
    arrays = [memory.array(memory.token(), 256 * n, (n,), np.dtype("float32")) for n in range(3)]
    pieces = kernels.Pieces.of(arrays)
    assert pieces.device == "cuda:0"
    assert pieces.addresses.tolist() == [memory.address + 256 * n for n in range(3)]
    assert pieces.lengths.tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match="the arrays are on cpu, cuda:0: expected one device"):
        kernels.Pieces.of([arrays[0], np.zeros(3, "f4")])
    with pytest.raises(TypeError, match="the arrays are on cuda:0, cuda:1: expected one device"):
        kernels.Pieces.of([arrays[1], elsewhere(memory, arrays[1])])
    with pytest.raises(ValueError, match="destination on cuda:1 and source on cuda:0: copy one to the other"):
        kernels.copy(elsewhere(memory, arrays[1]), arrays[1])
    host = [np.zeros(n, "f4") for n in range(3)]
    for call in (lambda: kernels.copy(host, arrays), lambda: kernels.accumulate(arrays, host)):
        with pytest.raises(ValueError, match=r"destination on .* and source on .*: copy one to the other"):
            call()


def test_arrays_that_lie_simply_are_read_at_once(memory):
    shapes = [(2, 3), (4,)]
    like = [np.empty(shape) for shape in shapes]
    arrays = [memory.array(memory.token(), 256 * n, s, np.dtype("float32")) for n, s in enumerate(shapes)]
    pieces = simple_pieces(arrays, like=like, device="cuda:0")
    assert pieces.addresses.tolist() == [memory.address, memory.address + 256]
    assert (pieces.lengths.tolist(), pieces.dtype.name, pieces.device) == ([6, 4], "float32", "cuda:0")
    assert simple_pieces(arrays).device == "cuda:0"
    assert simple_pieces(arrays, device="cuda:1") is None
    assert simple_pieces([arrays[0], elsewhere(memory, arrays[1])]) is None
    assert simple_pieces(arrays, like=[np.empty((3, 2)), like[1]]) is None
    assert simple_pieces([arrays[0].T, arrays[1]]) is None
    assert simple_pieces([arrays[0], arrays[1].view("int32")]) is None
    assert simple_pieces([*arrays, np.zeros(3)]) is None


@pytest.mark.parametrize(
    ("stream", "device", "error", "text"),
    [
        (object(), "cpu", ValueError, "for arrays on a CUDA device, these are on cpu; leave it out"),
        (7, "cuda:0", TypeError, r"takes a CUDA stream \(of CuPy, PyTorch or cuda.core\), got int"),
    ],
)
def test_what_is_no_stream_is_refused(stream, device, error, text):
    pytest.importorskip("cupy")
    from numscope.kernels import cuda_streams

    with pytest.raises(error, match=text):
        cuda_streams.resolve(stream, device)


def test_streams_that_are_done_are_forgotten(monkeypatch):
    pytest.importorskip("cupy")
    from numscope.kernels import cuda_streams

    monkeypatch.setattr(cuda_streams, "_known", {})
    made = [types.SimpleNamespace(ptr=100 + n, done=n % 2 == 0) for n in range(40)]
    for stream in made:
        cuda_streams._note(0, stream)
    others = cuda_streams.others(0, made[-1])
    assert made[1] in others  # still at work
    assert made[-1] not in others
    assert len(others) < 39
    assert cuda_streams.others(1, made[0]) == []


def test_the_device_of_a_stream_is_found_out(monkeypatch):
    pytest.importorskip("cupy")
    from numscope.kernels import cuda_streams

    monkeypatch.setattr(cuda_streams, "on_device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(cuda_streams, "_home", lambda handle: 1)
    stream = types.SimpleNamespace(__cuda_stream__=lambda: (0, 1234))
    with pytest.raises(ValueError, match="the stream belongs to cuda:1, expected one of cuda:0, where the"):
        cuda_streams.resolve(stream, "cuda:0")


class CupyStream:
    """A stream of CuPy 14: `use` is forgotten by a block that is left."""

    current, blocks = [], []
    ptr = device_id = 0

    def use(self):
        self.current[:] = [self]

    def __enter__(self):
        self.blocks.append(self)
        self.use()

    def __exit__(self, *exception):
        self.blocks.pop()
        self.blocks[-1].use()


def test_the_stream_before_is_current_again_however_it_became_so(monkeypatch):
    cupy = pytest.importorskip("cupy")
    from numscope.kernels import cuda_streams

    null, used, ours = (CupyStream() for _ in range(3))
    monkeypatch.setattr(CupyStream, "blocks", [null])
    monkeypatch.setattr(cuda_streams, "on_device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(cuda_streams, "resolve", lambda stream, device: stream)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: CupyStream.current[0])
    used.use()
    with cuda_streams.given(ours, "cuda:0"):
        assert CupyStream.current == [ours]
    assert CupyStream.current == [used]
    with pytest.raises(ZeroDivisionError), null, cuda_streams.on_stream(ours, 0):
        raise ZeroDivisionError
    assert CupyStream.current == [null]


def test_arrays_without_a_device_take_no_stream():
    with pytest.raises(ValueError, match="stream= is for arrays on a CUDA device, these are not"):
        kernels.zero([np.zeros(3)], stream=object())
    ws = ns.Workspace(arena=ns.Arena("1 KiB"))
    ws.zeros("x", 3)
    acc = ns.GradientAccumulator({"x": 3}, arena=ws.arena)
    for call in (ws.zero, acc.finish, lambda stream: ws.merge_into(ws, stream=stream)):
        with pytest.raises(ns.BindingError, match="stream= is for memory of a CUDA device, this is on 'cpu'"):
            call(stream=object())


@pytest.mark.parametrize(
    ("ours", "theirs", "found"), [(0, 0, None), (7, 7, None), (7, 0, "stream 7"), (0, 7, "default")]
)
def test_pytorch_hears_of_another_stream(ours, theirs, found):
    from numscope.kernels import cuda_arrays

    place = types.SimpleNamespace(index=0)
    cupy = types.SimpleNamespace(
        cuda=types.SimpleNamespace(get_current_stream=lambda device: types.SimpleNamespace(ptr=ours))
    )
    cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=theirs),
        default_stream=lambda device: "default",  # an ExternalStream of 0 would be a new one
        ExternalStream=lambda pointer, device: f"stream {pointer}",
    )
    assert cuda_arrays._other_stream(types.SimpleNamespace(cuda=cuda), cupy, place) == found


def test_what_lies_in_an_arena_or_in_cupys_pool_is_no_guest(memory):
    from numscope.kernels import cuda_arrays

    array = memory.array(memory.token(), 0, (3,), np.dtype("float32"))
    assert cuda_arrays._in_arena(array)
    assert not cuda_arrays.is_guest(array)


class Place(NamedTuple):
    type: str
    index: int


class Tensor:
    """What is asked of a tensor of PyTorch on a card."""

    is_nested = False

    def __init__(self, shape, dtype="bfloat16", device=0, address=4096, layout="strided", contiguous=True):
        self.shape, self.dtype, self.layout = shape, f"torch.{dtype}", layout
        self.device = Place("cuda", device)
        self.address, self.contiguous, self.recorded = address, contiguous, []

    def is_contiguous(self):
        return self.contiguous

    def is_neg(self):
        return False

    def data_ptr(self):
        return self.address

    def numel(self):
        return int(np.prod(self.shape))

    def record_stream(self, stream):
        self.recorded.append(stream)


@pytest.fixture
def torch(monkeypatch):
    """Stand for PyTorch, whose current stream is another one than CuPy's; note who waits for whom."""
    from numscope.kernels import cuda_arrays

    pytest.importorskip("cupy")
    waits = []

    class Stream(str):
        def wait_stream(self, other):
            waits.append((str(self), str(other)))

    module = types.SimpleNamespace(
        Tensor=Tensor,
        strided="strided",
        nn=types.SimpleNamespace(Parameter=Tensor),
        cuda=types.SimpleNamespace(current_stream=lambda device: Stream("theirs")),
        waits=waits,
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setattr(cuda_arrays, "_other_stream", lambda torch, cupy, device: Stream("ours"))
    return module


def test_tensors_of_pytorch_are_read_at_once_in_the_order_of_its_stream(torch):
    tensors = [Tensor((2, 3)), Tensor((4,), address=8192)]
    pieces = simple_pieces(tensors, like=[np.empty((2, 3)), np.empty(4)], device="cuda:0")
    assert (pieces.addresses.tolist(), pieces.lengths.tolist()) == ([4096, 8192], [6, 4])
    assert (pieces.dtype.name, pieces.device) == ("bfloat16", "cuda:0")
    assert torch.waits == [("ours", "theirs")]
    assert [tensor.recorded for tensor in tensors] == [["ours"], ["ours"]]


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor((3, 2)),
        Tensor((2, 3), device=1),
        Tensor((2, 3), layout="sparse"),
        Tensor((2, 3), contiguous=False),
        Tensor((2, 3), dtype="complex32"),
    ],
)
def test_tensors_that_are_not_simple_go_one_by_one(torch, tensor):
    assert simple_pieces([tensor], like=[np.empty((2, 3))], device="cuda:0") is None
    assert torch.waits == []


def test_pytorch_waits_for_what_reads_its_tensors(torch, monkeypatch):
    from numscope.kernels import cuda_arrays, cuda_streams

    kept = []
    stream = types.SimpleNamespace(ptr=7)
    cuda = types.SimpleNamespace(get_current_stream=lambda device: stream)
    cupy = types.SimpleNamespace(cuda=cuda, ndarray=type("ndarray", (), {}))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda_streams, "keep", lambda device, values: kept.append((device, values)))
    cuda_arrays.give_back([Tensor((3,)), None], "cuda:1")
    assert torch.waits == [("theirs", "ours")]
    assert kept == []
    cuda_arrays.give_back(["an array of another library"], "cuda:1")
    assert kept == [(1, ["an array of another library"])]


def test_a_tensor_reaches_cupy_whatever_stream_and_device_are_current(torch):
    """PyTorch gives nothing away for stream 2, a thread's default one, nor from what is not current."""
    from numscope.kernels import cuda_arrays

    class Exporting(Tensor):
        def detach(self):
            return self

        is_conj = Tensor.is_neg

        def __dlpack__(self, **options):
            raise BufferError("per-thread default stream is not supported.")

    torch.utils = types.SimpleNamespace(
        dlpack=types.SimpleNamespace(to_dlpack=lambda tensor: ("capsule", tensor))
    )
    cupy = types.SimpleNamespace(from_dlpack=lambda capsule: capsule)
    tensor = Exporting((3,), dtype="float32", device=1)
    assert cuda_arrays._from_torch(tensor, torch, cupy) == ("capsule", tensor)
    assert torch.waits == [("ours", "theirs")]
    assert tensor.recorded == ["ours"]


def test_a_tensor_without_memory_is_refused(torch):
    from numscope.kernels import cuda_arrays

    class Freed(Tensor):
        is_conj = Tensor.is_neg

        def detach(self):
            return self

    torch.utils = types.SimpleNamespace(dlpack=types.SimpleNamespace(to_dlpack=lambda tensor: "capsule"))
    cupy = types.SimpleNamespace(from_dlpack=lambda capsule: capsule)
    with pytest.raises(TypeError, match=r"got one of shape \(3,\) whose memory was freed"):
        cuda_arrays._from_torch(Freed((3,), dtype="float32", address=0), torch, cupy)


@pytest.mark.parametrize("kind", ["conj", "neg"])
def test_a_tensor_that_is_more_than_its_memory_is_refused(kind):
    torch = pytest.importorskip("torch")
    from numscope.kernels import cuda_arrays

    conjugated = torch.tensor([1 + 2j, 3 + 4j]).conj()
    tensor = conjugated if kind == "conj" else conjugated.imag  # whose sign DLPack passes over
    with pytest.raises(TypeError, match=r"negated when it is read; pass tensor.resolve_conj"):
        cuda_arrays._from_torch(tensor, torch, None)
