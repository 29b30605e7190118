"""Gradients of several dtypes, with gaps and missing ones: a kernel call for each group."""

import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numscope.kernels.pieces import Pieces

import numscope as ns
from numscope import kernels

SHAPES = {"w": (4, 10), "v": (4, 10), "b": (7,), "none": (0, 3), "one": ()}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


def drawn(rng, shape, dtype, *, gaps=False):
    """Return an array of small whole numbers, which every dtype has, with gaps between its elements."""
    whole = rng.integers(-8, 8, (*shape, 2)).astype(DTYPES[dtype])
    return whole[..., 0] if gaps else whole[..., 0].copy()


def as_torch(array):
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@pytest.fixture(params=["numpy", "torch"])
def take(request):
    if request.param == "torch":
        pytest.importorskip("torch")
        return as_torch
    return lambda array: array


def test_each_pair_of_dtypes_is_one_call_and_nothing_goes_one_by_one(take, monkeypatch):
    rng = np.random.default_rng(0)
    acc = ns.GradientAccumulator(SHAPES | {"v": ((4, 10), "float64")})
    dtypes = {"w": "bfloat16", "v": "float32", "b": "bfloat16", "none": "float32", "one": "float32"}
    expected = dict.fromkeys(SHAPES, 0)
    for module in (ns.matching, ns.slab):
        monkeypatch.setattr(module, "match_one", None)
    for number in range(3):
        batch = {name: drawn(rng, shape, dtypes[name]) for name, shape in SHAPES.items()}
        expected = {name: expected[name] + batch[name].astype("f8") for name in SHAPES}
        before = kernels.launches()
        acc.add({name: take(array) for name, array in batch.items()})
        assert kernels.launches() == before + 3  # bfloat16 and float32 into float32, float32 into float64
        assert acc.micro_batches == number + 1
    acc.finish(mean=False)
    for name in SHAPES:
        np.testing.assert_array_equal(acc[name], expected[name])


def test_only_gradients_with_gaps_are_copied(take, monkeypatch):
    rng = np.random.default_rng(1)
    acc = ns.GradientAccumulator(SHAPES)
    checked = []
    one = ns.slab.match_one
    monkeypatch.setattr(
        ns.slab, "match_one", lambda name, *args, **kw: checked.append(name) or one(name, *args, **kw)
    )
    expected = dict.fromkeys(SHAPES, 0)
    for gapped in ({"w"}, {"w"}, {"b", "v"}, set(), {"w", "b"}):
        batch = {name: drawn(rng, s, "float32", gaps=name in gapped) for name, s in SHAPES.items()}
        expected = {name: expected[name] + batch[name].astype("f8") for name in SHAPES}
        given_ones = {name: take(array) for name, array in batch.items()}
        checked.clear()
        acc.add(given_ones, zero_source=True)
        assert set(checked) == gapped
        assert not any(array.any() for array in batch.values())
    acc.finish(mean=False)
    for name in SHAPES:
        np.testing.assert_array_equal(acc[name], expected[name])


def test_the_same_places_under_other_names_or_dtypes_are_read_anew(take):
    acc = ns.GradientAccumulator(SHAPES)
    rng = np.random.default_rng(2)
    words = np.full((4, 10), 0x3F80, np.uint16)  # 1 as bfloat16, 1.875 as float16
    batch = {name: drawn(rng, shape, "float32") for name, shape in SHAPES.items()}
    halves = {"w": take(words.view(ml_dtypes.bfloat16)), "v": take(words.view(np.float16))}
    named = {name: take(array) for name, array in batch.items()}
    acc.add(named)
    acc.add(named | {"w": named["v"], "v": named["w"]})
    acc.add(named | {"w": halves["w"], "v": halves["w"]})
    acc.add(named | {"w": halves["v"], "v": halves["v"]})
    acc.finish(mean=False)
    for name in ("w", "v"):
        np.testing.assert_array_equal(acc[name], batch["w"] + batch["v"] + np.float32(2.875))


micro_batches = st.lists(
    st.dictionaries(
        st.sampled_from(sorted(SHAPES)),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.booleans(), st.sampled_from(["numpy", "list", "none"])),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(micro_batches, st.booleans(), st.integers(0, 99))
def test_any_mixture_of_micro_batches_is_summed_right(batches, zero_source, seed):
    rng = np.random.default_rng(seed)
    acc = ns.GradientAccumulator(SHAPES | {"b": ((7,), "float64")}, arena=ns.Arena("1 MiB"))
    expected = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for weight, batch in enumerate(batches, 1):
        grads = {}
        for name, (dtype, gaps, kind) in batch.items():
            array = drawn(rng, SHAPES[name], dtype, gaps=gaps)
            if kind != "none":
                expected[name] += weight * array.astype("f8")
            is_list = kind == "list" and array.size and not zero_source
            grads[name] = None if kind == "none" else array.astype("f8").tolist() if is_list else array
        acc.add(grads, weight=weight, zero_source=zero_source, allow_missing=True)
        assert not zero_source or not any(array.any() for array in grads.values() if array is not None)
    if batches:
        acc.finish(mean=False)
    for name in SHAPES:
        np.testing.assert_array_equal(acc[name], expected[name])


def test_what_is_wrong_in_a_group_changes_nothing(take):
    acc = ns.GradientAccumulator({"w": (4,), "v": (4,), "b": (7,)})
    right = {"w": np.ones(4, "f4"), "v": np.ones((4, 2), "f4")[:, 0], "b": np.ones(7, "f8")}
    right = {name: take(array) for name, array in right.items()}
    acc.add(right)
    wrong = [
        ({"b": take(np.ones(6))}, r"gradient 'b' has shape \(6,\), expected \(7,\)"),
        ({"v": take(np.ones((4, 2), "i4")[:, 0])}, "gradient 'v' is of int32, expected"),
        ({"w": None}, "gradient 'w' is missing"),
        ({"x": take(np.ones(4, "f4"))}, "unknown gradient 'x'"),
        ({"v": "text"}, "gradient 'v'"),
    ]
    for change, text in wrong:
        with pytest.raises(ns.BindingError, match=text):
            acc.add(right | change)
    assert acc.micro_batches == 1
    acc.finish(mean=False)
    assert all((acc[name] == 1).all() for name in acc)


def test_foreign_dtype_objects_are_taken_as_well():
    """NumPy has one object for each dtype of its own; some arrays come with an equal one."""
    other = np.dtype(np.float32).newbyteorder("S").newbyteorder("S")
    arrays = [np.ones(3, np.float32), np.ones(3, np.float32).view(other)]
    acc = ns.GradientAccumulator({"w": (3,), "v": (3,)})
    acc.add(dict(zip(("w", "v"), arrays, strict=True)))
    assert acc["w"].tolist() == acc["v"].tolist() == [1, 1, 1]
    assert Pieces.of(arrays).lengths.tolist() == [3, 3]
