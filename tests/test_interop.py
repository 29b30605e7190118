"""Arrays in and out of guest libraries; each test runs where its guest is installed."""

import sys

import ml_dtypes
import numpy as np
import pytest

import numscope as ns
from numscope import kernels

TYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64"]
WORDS = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]


@pytest.fixture
def ws():
    return ns.Workspace(arena=ns.Arena("1 MiB"))


@pytest.mark.parametrize("dtype", TYPES + WORDS)
def test_torch_shares_memory_both_ways(ws, dtype):
    torch = pytest.importorskip("torch")
    array = ws.full("x", (2, 3), 1, dtype)
    tensor = ns.interop.to_torch(array)
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert tensor.data_ptr() == array.ctypes.data
    ws["y"] = tensor
    assert ws["y"].dtype == array.dtype
    np.testing.assert_array_equal(ws["y"].view("u1"), array.view("u1"))
    tensor.copy_(torch.zeros(2, 3).to(tensor.dtype))
    assert not array.astype("complex64").any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_tensors_are_read_without_a_copy(ws, dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, 4, dtype=getattr(torch, dtype))
    assert ws.source(tensor, "x").ctypes.data == tensor.data_ptr()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax_arrays_are_read_without_a_copy(ws, dtype):
    jax = pytest.importorskip("jax")
    array = jax.numpy.ones((3, 4), dtype)
    assert ws.source(array, "x").ctypes.data == array.unsafe_buffer_pointer()
    assert kernels.Pieces.of([array]).addresses[0] == array.unsafe_buffer_pointer()
    with pytest.raises(ValueError, match="read-only"):
        kernels.zero(array)


def deleted(jax):
    array = jax.numpy.ones(3)
    array.delete()
    return array


def test_jax_arrays_without_elements_are_refused():
    jax = pytest.importorskip("jax")
    acc = ns.GradientAccumulator({"w": (3,)})

    def check(array):
        text = "expected an array with its elements on one device, got a "
        for take in (kernels.stats, lambda array: kernels.stats([array])):
            with pytest.raises(TypeError, match=text):
                take(array)
        with pytest.raises(ns.BindingError, match=f"gradient 'w': .*{text}"):
            acc.add({"w": array})
        return 1.0

    check(deleted(jax))
    for transform in (jax.jit, jax.grad, jax.vmap):
        transform(lambda x: check(x) * x.sum())(jax.numpy.ones((3, 3) if transform is jax.vmap else 3))


def test_a_tensor_keeps_its_memory(ws):
    pytest.importorskip("torch")
    tensor = ns.interop.to_torch(ws.full("x", 4, 7.0))
    arena = ws.arena
    ws.clear()
    assert arena.stats().held_by_views == 256
    ws.full("other", 4, 1.0)
    assert tensor.tolist() == [7.0] * 4
    del tensor
    assert arena.used == 256


def test_torch_tensors_that_need_gradients_come_in(ws):
    torch = pytest.importorskip("torch")
    ws["x"] = torch.ones(2, 3, requires_grad=True)
    ws["t"] = torch.arange(6.0).reshape(2, 3).T
    assert ws["x"].sum() == 6
    np.testing.assert_array_equal(ws["t"], np.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("dtype", ["int32", "float32", "bfloat16", "float8_e5m2"])
def test_jax_both_ways(ws, dtype):
    jax = pytest.importorskip("jax")
    out = ns.interop.to_jax(ws.full("x", (2, 3), 2, dtype))
    assert out.dtype.name == dtype
    ws["y"] = out + jax.numpy.ones_like(out)
    assert ws["y"].dtype.name == dtype
    assert (ws["y"].astype("f4") == 3).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax_takes_other_arrays_by_dlpack(dtype):
    jax = pytest.importorskip("jax")

    class Array:  # as those of CuPy: they have no __array__
        def __init__(self, array):
            self.array, self.dtype = array, array.dtype

        def view(self, dtype):
            return Array(self.array.view(dtype))

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    host = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype, dtype))
    out = ns.interop.to_jax(Array(host))
    assert (out.dtype.name, out.shape) == (dtype, (2, 3))
    assert (np.asarray(out, "f4") == host.astype("f4")).all()
    assert isinstance(out, jax.Array)


@pytest.mark.parametrize("guest", ["torch", "jax"])
def test_a_missing_guest_says_what_to_install(ws, guest, monkeypatch):
    monkeypatch.setitem(sys.modules, guest, None)
    with pytest.raises(ImportError, match=f"pip install {guest}"):
        getattr(ns.interop, f"to_{guest}")(ws.zeros("x", 2))


@pytest.mark.parametrize("guest", ["torch", "jax"])
@pytest.mark.parametrize("value", [[1.0], 1.0, None, "float32"])
def test_what_is_no_array_is_refused(guest, value):
    pytest.importorskip(guest)
    with pytest.raises(
        ns.UnknownTypeError, match=rf"to_{guest}\(\) takes an array .* got {type(value).__name__};"
    ):
        getattr(ns.interop, f"to_{guest}")(value)


def test_words_of_bfloat16_are_the_same_everywhere(ws):
    torch = pytest.importorskip("torch")
    values = np.array([1.0, -0.0, np.inf, 3.14], ml_dtypes.bfloat16)
    ws["x"] = torch.tensor([1.0, -0.0, np.inf, 3.14], dtype=torch.bfloat16)
    assert ws["x"].tobytes() == values.tobytes()
