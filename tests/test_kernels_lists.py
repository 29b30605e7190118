"""Lists of arrays of NumPy and PyTorch, which are taken at once where they are simple."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numscope.kernels.lists import simple_pieces

from numscope import kernels

SHAPES = [(3, 5), (0,), (), (1025,), (2, 3, 4)]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def numbers(rng):
    return [rng.standard_normal(shape).astype("float32") for shape in SHAPES]


def as_numpy(arrays):
    return [np.asarray(array) for array in arrays]


def as_torch(arrays):
    return [sys.modules["torch"].tensor(array) for array in arrays]


def test_simple_lists_are_pieces_at_their_addresses():
    arrays = [np.zeros(shape, "f4") for shape in SHAPES]
    pieces = simple_pieces(arrays, like=arrays, writable=True, device="cpu")
    assert pieces.addresses.tolist() == [array.ctypes.data for array in arrays]
    assert pieces.lengths.tolist() == [15, 0, 1, 1025, 24]
    assert simple_pieces(arrays, device="cuda:0") is None
    assert simple_pieces(arrays, like=arrays[::-1]) is None
    assert simple_pieces([]) is None
    assert simple_pieces(["abc"]) is None
    assert simple_pieces([*arrays, [1.0]]) is None
    assert simple_pieces([np.zeros((3, 5), "f4").T]) is None
    arrays[0].flags.writeable = False
    assert simple_pieces(arrays) is not None
    assert simple_pieces(arrays, writable=True) is None


def test_simple_tensors_are_pieces_at_their_addresses(torch):
    tensors = [torch.zeros(shape, dtype=torch.bfloat16) for shape in SHAPES]
    tensors[0] = torch.nn.Parameter(tensors[0])
    pieces = simple_pieces(tensors, like=[np.empty(shape) for shape in SHAPES], device="cpu")
    assert pieces.addresses.tolist() == [tensor.data_ptr() for tensor in tensors]
    assert pieces.lengths.tolist() == [15, 0, 1, 1025, 24]
    assert (pieces.dtype.name, pieces.device) == ("bfloat16", "cpu")
    arrays = [np.empty(shape, "f4") for shape in SHAPES]
    assert simple_pieces(arrays, like=tensors).lengths.tolist() == [15, 0, 1, 1025, 24]
    assert simple_pieces(arrays, like=tensors[::-1]) is None
    assert simple_pieces(tensors, like=arrays[::-1]) is None
    assert simple_pieces(tensors, device="cuda:0") is None


def test_tensors_that_are_not_bare_memory_go_one_by_one(torch):
    whole, values = torch.zeros(3), torch.ones(3, dtype=torch.complex64)
    odd = [
        torch.zeros(2, 3).T,
        torch.zeros(1).expand(3),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.complex64).conj(),
        values[:1].conj().imag,
    ]
    for tensor in odd:
        assert simple_pieces([whole, tensor]) is None
    assert simple_pieces([values]) is not None
    assert simple_pieces([values.conj()]) is None
    assert simple_pieces([values[:1].conj().imag]) is None


@pytest.mark.parametrize("take", [as_numpy, as_torch])
@pytest.mark.parametrize("take_source", [as_numpy, as_torch])
def test_lists_of_either_library_are_one_launch(torch, take, take_source):
    rng = np.random.default_rng(7)
    sums, terms = numbers(rng), numbers(rng)
    target, source = take([array.copy() for array in sums]), take_source(terms)
    before = kernels.launches()
    kernels.accumulate(target, source, alpha=3.0)
    assert kernels.launches() == before + 1
    for found, start, term in zip(target, sums, terms, strict=True):
        np.testing.assert_allclose(np.asarray(found), start + 3 * term, rtol=1e-6, atol=1e-6)
    kernels.copy(target, source)
    expected = sum(float(np.sum(np.square(term, dtype=np.float64))) for term in terms)
    assert kernels.stats(target).sum_of_squares == pytest.approx(expected, rel=1e-8)
    kernels.zero(target)
    assert kernels.launches() == before + 4
    assert not any(np.asarray(array).any() for array in target)


def test_one_tensor_goes_the_short_way_of_arrays(torch):
    target, source = torch.zeros(5), torch.arange(5, dtype=torch.bfloat16)
    kernels.accumulate(target, source, alpha=2)
    kernels.accumulate(target, np.ones(5, "f8"))
    assert target.tolist() == [1, 3, 5, 7, 9]
    assert kernels.stats(target).max_abs == 9
    kernels.accumulate(target, source, zero_source=True)
    assert not source.any()
    whole = torch.zeros(2, 3)
    kernels.copy(whole.T, torch.ones(3, 2))
    assert whole.all()


def test_tensors_that_share_memory_are_right_or_refused(torch):
    whole = torch.arange(8.0)
    kernels.copy([whole[:6]], [whole[2:]])
    assert whole.tolist() == [2, 3, 4, 5, 6, 7, 6, 7]
    with pytest.raises(ValueError, match="overlaps"):
        kernels.accumulate([whole[:4], whole[2:6]], [torch.ones(4), torch.ones(4)])
    with pytest.raises(ValueError, match=r"array 0: source of shape \(3,\), expected"):
        kernels.accumulate([whole], [torch.ones(3)])
    assert whole.tolist() == [2, 3, 4, 5, 6, 7, 6, 7]


def freed(torch):
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)  # as FSDP does between uses
    return tensor


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (freed, r"shape \(3,\) whose memory was freed"),
        (lambda torch: torch._efficientzerotensor((3,)), "gives none"),
        (lambda torch: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested one; use .values"),
        (lambda torch: torch.masked.masked_tensor(torch.ones(3), torch.ones(3) > 0), "got a MaskedTensor"),
        (lambda torch: torch.ones(3).to_sparse(), "layout torch.sparse_coo; use .to_dense"),
        (lambda torch: torch.ones(3, device="meta"), "on meta; use .cpu"),
        (lambda torch: torch.ones(3).to(torch.float8_e4m3fnuz), "float8_e4m3fnuz is not known"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*prototype")
def test_tensors_without_memory_of_their_own_are_refused(torch, make, text):
    tensor, array = make(torch), np.full(3, 7, "f4")
    for call in (
        lambda: kernels.zero(tensor),
        lambda: kernels.zero([tensor]),
        lambda: kernels.copy([tensor], [array]),
        lambda: kernels.accumulate(array, tensor),
        lambda: kernels.accumulate([array], [tensor]),
    ):
        with pytest.raises(TypeError, match=text):
            call()
    assert np.all(array == 7)


def test_tensors_inside_of_transformations_are_refused(torch):
    def function(x):
        with pytest.raises(TypeError, match="gives none"):
            kernels.stats([x])
        return x.sum()

    torch.func.vmap(function)(torch.ones(2, 3))
    torch.func.grad(function)(torch.ones(3))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: kernels.zero(x),
        lambda x: kernels.zero([x]),
        lambda x: kernels.zero(iter([x])),
        lambda x: kernels.scale((x, np.ones(2)), 2),
        lambda x: kernels.copy([x], [np.ones(3, "f4")]),
        lambda x: kernels.accumulate(np.zeros(3, "f4"), x, zero_source=True),
        lambda x: kernels.scatter_add(x, [1], np.ones(1, "f4")),
    ],
)
@pytest.mark.parametrize("takes_one", [False, True])
def test_autograd_notices_what_kernels_write(torch, write, takes_one, monkeypatch):
    if takes_one:  # as in older versions
        one = torch.autograd.graph.increment_version

        def increment(tensor):
            if not isinstance(tensor, torch.Tensor):
                raise RuntimeError("increment_version expect a Tensor as input")
            one(tensor)

        monkeypatch.setattr(torch.autograd.graph, "increment_version", increment)
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    kernels.stats(y)
    kernels.accumulate(np.zeros(3, "f4"), y)
    y.sum().backward(retain_graph=True)
    write(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_tensors_of_inference_can_be_written(torch):
    with torch.inference_mode():
        tensor = torch.ones(3)
    kernels.zero([tensor, torch.ones(2)])
    assert not tensor.any()


def test_whatever_gives_arrays_one_by_one_is_a_list():
    arrays = {n: np.ones(n, "f4") for n in range(1, 5)}
    before = kernels.launches()
    kernels.accumulate(arrays.values(), (array.copy() for array in arrays.values()))
    assert kernels.launches() == before + 1
    assert all(np.all(array == 2) for array in arrays.values())


def test_numbers_of_numpy_are_read_and_not_written():
    total = np.ones((), "f4")
    kernels.accumulate(total, np.float32(2))
    assert total == 3
    with pytest.raises(ValueError, match="read-only"):
        kernels.zero(np.float32(2))
