"""What an accumulator takes as gradients: all that fits, wherever it lies; and what it refuses."""

import math

import numpy as np
import pytest
from reference_gradients import bits, gradients

import numscope as ns
from numscope import kernels


def test_zero_source_clears_in_the_same_pass(acc):
    batch = gradients(0)
    before = kernels.launches()
    acc.add(batch, zero_source=1)  # any true value
    assert kernels.launches() == before + 1
    assert not any(g.any() for g in batch.values())
    np.testing.assert_array_equal(acc["w"], gradients(0)["w"])


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_zero_source_clears_what_was_not_added_too(acc, weight):
    batch = gradients(0)
    batch["b"][0] = math.nan
    acc.add(batch, weight=weight, zero_source=True, skip_nonfinite=weight != 0)
    assert not any(g.any() for g in batch.values())


def test_sources_with_gaps_are_right(acc):
    batch = gradients(0)
    wide = np.zeros((4, 20), "f4")
    wide[:, ::2] = batch["w"]
    batch["w"], batch["b"] = wide[:, ::2], batch["b"][::-1]
    acc.add(batch, zero_source=True)
    np.testing.assert_array_equal(acc["w"], gradients(0)["w"])
    np.testing.assert_array_equal(acc["b"], gradients(0)["b"][::-1])
    assert not wide.any()


def test_read_only_sources_are_read_but_not_cleared(acc):
    batch = gradients(0)
    batch["w"].flags.writeable = False
    acc.add(batch)
    with pytest.raises(ns.BindingError, match="'w' is read-only"):
        acc.add(batch, zero_source=True)
    assert acc.micro_batches == 1


def test_gradients_may_move_between_micro_batches(acc):
    first, second = gradients(0), gradients(1)
    acc.add(first)
    acc.add(first)
    acc.add(second)
    first["w"][:] = 7  # the place of an earlier source
    acc.add(first)
    acc.finish(mean=False)
    expected = gradients(0)["w"] + gradients(0)["w"] + gradients(1)["w"] + 7
    np.testing.assert_allclose(acc["w"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typo": np.ones(3)}, "unknown gradient 'typo'; expected 'w', 'b'"),
        ({"w": None}, "gradient 'w' is missing, expected one of shape \\(4, 10\\)"),
        ({"w": np.ones((10, 4), "f4")}, "gradient 'w' has shape \\(10, 4\\), expected \\(4, 10\\)"),
        ({"w": np.ones((4, 10), "i8")}, "gradient 'w' is of int64, expected float16"),
        ({"w": np.ones((4, 10), ">f4")}, "gradient 'w': dtype '>f4' \\(bytes swapped\\)"),
        ({"w": np.full((4, 10), None)}, "gradient 'w': dtype object is no known type"),
    ],
)
def test_gradients_that_do_not_fit_change_nothing(acc, change, message):
    acc.add(gradients(0))
    before = bits(acc)
    with pytest.raises(ns.BindingError, match=message):
        acc.add(gradients(1) | change)
    assert bits(acc) == before
    assert acc.micro_batches == 1


def test_the_sums_themselves_are_no_gradients(acc):
    acc.add(gradients(0))
    with pytest.raises(ns.BindingError, match="overlap"):
        acc.add(gradients(1) | {"b": acc.flat["float32"][5:15]})


def test_torch_takes_part_without_a_copy(acc):
    torch = pytest.importorskip("torch")
    batch = {name: torch.from_numpy(g).to(torch.bfloat16) for name, g in gradients(0).items()}
    acc.add(batch, weight=2, zero_source=True)
    acc.finish()
    assert torch.from_numpy(acc["w"]).data_ptr() == acc["w"].ctypes.data
    assert not any(g.any() for g in batch.values())
    np.testing.assert_allclose(acc["w"], gradients(0)["w"], rtol=4e-3)


@pytest.mark.filterwarnings("ignore:.*prototype")
def test_tensors_without_memory_are_no_gradients(acc):
    torch = pytest.importorskip("torch")
    batch = {name: torch.from_numpy(g) for name, g in gradients(0).items()}
    acc.add(batch)
    before = bits(acc)
    freed = batch["w"].clone()
    freed.untyped_storage().resize_(0)
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    for wrong, message in ((freed, "memory was freed"), (nested, "nested")):
        with pytest.raises(ns.BindingError, match=f"gradient 'w'.*{message}"):
            acc.add(batch | {"w": wrong})
    assert bits(acc) == before


def test_negated_tensors_are_read_and_not_written():
    torch = pytest.importorskip("torch")
    acc = ns.GradientAccumulator({"w": (3,)})
    negated = torch.full((3,), 1 + 2j).conj().imag
    acc.add({"w": negated})
    with pytest.raises(ns.BindingError, match="'w' is read-only"):
        acc.add({"w": negated}, zero_source=True)
    acc.finish()
    assert acc["w"].tolist() == [-2] * 3
    with pytest.raises(ns.BindingError, match="'w' is read-only"):
        acc.copy_to({"w": negated})


def test_numbers_of_numpy_are_not_written():
    acc = ns.GradientAccumulator({"t": ()})
    acc.add({"t": np.float32(2)})
    with pytest.raises(ns.BindingError, match="'t' is read-only"):
        acc.add({"t": np.float32(2)}, zero_source=True)


def test_autograd_notices_what_an_accumulator_writes(acc):
    torch = pytest.importorskip("torch")
    batch = {name: torch.from_numpy(g) for name, g in gradients(0).items()}
    versions = [tensor._version for tensor in batch.values()]
    acc.add(batch)
    assert [tensor._version for tensor in batch.values()] == versions
    acc.add(batch, zero_source=True)
    acc.finish()
    acc.copy_to(batch)
    assert all(tensor._version >= old + 2 for tensor, old in zip(batch.values(), versions, strict=True))


@pytest.mark.parametrize("dtype", [">f4", object, "V4", "datetime64[s]"])
def test_gradients_that_are_all_of_an_unknown_dtype_are_refused(acc, dtype):
    with pytest.raises(ns.BindingError, match="gradient 'w': dtype"):
        acc.add({name: np.zeros(g.shape, dtype) for name, g in gradients(0).items()})
    assert acc.micro_batches == 0


@pytest.mark.parametrize("earlier", [0, 2])
def test_an_interrupt_in_the_kernel_leaves_sums_and_ledger_alike(acc, monkeypatch, earlier):
    for _ in range(earlier):
        acc.add(gradients(0), weight=3)

    def interrupted(calls, factor):
        calls[0](factor)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(acc._slab, "_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            acc.add(gradients(0), weight=3)
    acc.add(gradients(0), weight=3)
    assert acc.finish().weight == 3 * (earlier + 2)
    np.testing.assert_allclose(acc["w"], gradients(0)["w"], rtol=1e-6)
