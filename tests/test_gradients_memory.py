"""What an accumulator is made of: descriptions of its sums, their slab, and the arena it lies in."""

import numpy as np
import pytest
from reference_gradients import SHAPES, gradients

import numscope as ns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensors": {"w": (3, -1)}}, "'w': the lengths of a shape must not be negative"),
        ({"tensors": {"w": ((3,), "int32")}}, "sums of int32 are not known, expected 'float32', 'float64'"),
        ({"tensors": {"w": ((3,), np.int64)}}, "'w': sums of int64 are not known"),
        ({"tensors": {}, "reduction": "max"}, "reduction must be"),
    ],
)
def test_bad_descriptions(arguments, message):
    with pytest.raises(ns.BindingError, match=message):
        ns.GradientAccumulator(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensors": [("w", (3,))]}, "mapping of names to shapes, .* got list; pass a dict"),
        ({"tensors": {"w": "long"}}, "'w': a shape is an int or a sequence of ints, got 'long'"),
        ({"tensors": {"w": ((3,), "float31")}}, "'w': the name 'float31' is no known type"),
        ({"tensors": {}, "seed": 1.5}, "a seed is an int, got float 1.5"),
    ],
)
def test_descriptions_of_the_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=message) as caught:
        ns.GradientAccumulator(**arguments)
    assert isinstance(caught.value, ns.NumscopeError)


def test_shapes_come_from_arrays_and_dtypes_from_pairs(arena):
    acc = ns.GradientAccumulator(
        {"a": np.zeros((2, 3), "f8"), "b": ((2,), "float64"), "c": 5}, arena=arena, dtype="float32"
    )
    assert {name: (a.shape, a.dtype.name) for name, a in acc.items()} == {
        "a": ((2, 3), "float32"),
        "b": ((2,), "float64"),
        "c": ((5,), "float32"),
    }
    assert {kind: flat.size for kind, flat in acc.flat.items()} == {"float32": 128, "float64": 32}


def test_flat_is_the_memory_of_the_sums(acc):
    acc.add(gradients(0))
    acc.flat["float32"][:] = 1
    assert all((acc[name] == 1).all() for name in acc)


def test_a_plan_needs_no_memory():
    arena = ns.Arena("1 TiB", device="null")
    acc = ns.GradientAccumulator({"w": (1 << 30,)}, arena=arena)
    assert arena.used == 4 << 30
    with pytest.raises(ns.DeviceUnavailableError, match="no memory"):
        acc.all_finite()


def test_nothing_is_allocated_after_construction(arena):
    acc = ns.GradientAccumulator(SHAPES, arena=arena)
    peak, taken = arena.peak, arena.stats().segments_taken
    for _ in range(3):
        acc.add(gradients(0))
        acc.add(gradients(1), skip_nonfinite=True)
        acc.finish(max_norm=1.0)
        acc.reset()
    assert (arena.peak, arena.stats().segments_taken) == (peak, taken)


def test_memory_returns_with_the_accumulator(arena):
    acc = ns.GradientAccumulator(SHAPES, arena=arena)
    acc.add(gradients(0))
    assert arena.used > 0
    del acc
    assert arena.used == 0


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_a_closed_arena_is_an_error_and_no_fault(rounding):
    batch = {"w": np.ones(3, "f4")}
    uses = (
        lambda: acc.add(batch),
        lambda: acc.finish(),
        lambda: acc.copy_to({"w": np.zeros(3)}),
        lambda: acc["w"],
        lambda: acc.flat,
        lambda: acc.all_finite(),
    )
    for finished in (False, True):
        arena = ns.Arena("1 MiB")
        acc = ns.GradientAccumulator({"w": 3}, arena=arena, dtype="bfloat16", rounding=rounding)
        for _ in range(2):  # the second one keeps its call, with addresses in it
            acc.reset()
            acc.add(batch)
            acc.add(batch)
            if finished:
                acc.finish(max_norm=1.0)
        arena.close()
        right = (ns.DeviceUnavailableError, ns.AccumulationError)
        for use in uses:
            with pytest.raises(right, match=r"closed; make a new one|after finish|before finish|already"):
                use()
        acc.reset()
        for use in uses[:1] + uses[3:]:
            with pytest.raises(ns.DeviceUnavailableError, match="closed; make a new one"):
                use()
