"""Arrays with gaps that share memory: right where nothing is written twice, refused where something is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numscope.kernels import gaps

from numscope import kernels

as_strided = np.lib.stride_tricks.as_strided


def test_neighbours_and_columns_are_apart():
    memory = np.arange(64, dtype="f4").reshape(8, 8)
    start = memory.copy()
    kernels.accumulate(memory[:, ::2], memory[:, 1::2], zero_source=True)
    assert np.array_equal(memory[:, ::2], start[:, ::2] + start[:, 1::2])
    assert not memory[:, 1::2].any()
    memory[...] = start
    kernels.scale([memory[:, 0], memory[::-1, 5], memory[:3, 2:4], memory[3:, 2:4], memory[:, 6:]], 2)
    doubled = [0, 2, 3, 5, 6, 7]
    start[:, doubled] *= 2
    assert np.array_equal(memory, start)


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: kernels.accumulate([x[::2], x[::4]], [np.ones(8, "f4"), np.ones(4, "f4")]),
        lambda x: kernels.scale([x, x[::2]], 2),
        lambda x: kernels.scale([x[1::3], x[4:]], 2),
        lambda x: kernels.copy([x[::2], x[::-2][::-1][:4]] * 2, [np.ones(8, "f4"), np.ones(4, "f4")] * 2),
        lambda x: kernels.accumulate(x[::2], x[::2], zero_source=True),
        lambda x: kernels.accumulate(x[:8], x[::2], zero_source=True),
        lambda x: kernels.accumulate(x.reshape(4, 4), x.reshape(4, 4).T, zero_source=True),
        lambda x: kernels.accumulate([x[::2], x.view("f8")], [np.ones(8, "f4"), np.ones(8)]),
        lambda x: kernels.scatter_add([x[::2], x[::3]], [[0], [0]], [np.ones(1, "f4"), np.ones(1, "f4")]),
        lambda x: kernels.scatter_add(as_strided(x, (2, 3), (0, 4)), [0, 1], np.ones((2, 3), "f4")),
        lambda x: kernels.scale(as_strided(x, (4,), (0,)), 2),
        lambda x: kernels.copy(as_strided(x, (4, 3), (4, 4)), np.ones((4, 3), "f4")),
    ],
)
def test_memory_that_is_written_twice_is_refused(refused):
    x = np.arange(16, dtype="f4")
    with pytest.raises(ValueError, match="shares memory"):
        refused(x)
    assert np.array_equal(x, np.arange(16))


def test_sources_with_gaps_may_share_what_they_like():
    x = np.arange(16, dtype="f4")
    kernels.accumulate([x[::4], x[1::4]], [x[4:8], as_strided(x[3:], (4,), (0,))])
    assert x[::4].tolist() == [4, 9, 14, 19]
    assert x[1::4].tolist() == [4, 8, 12, 16]


def test_zeros_may_be_written_twice():
    x = np.ones(16, "f4")
    kernels.zero([x[:4], x.view("i4")[2:9:2], x[2:3], as_strided(x[12:], (3,), (0,))])
    assert x.tolist() == [0] * 4 + [0, 1] * 3 + [1, 1, 0] + [1] * 3


def test_a_tensor_expanded_over_one_number_is_refused():
    torch = pytest.importorskip("torch")
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="shares memory with itself"):
        kernels.accumulate(x.expand(4), np.ones(4, "f4"))
    kernels.accumulate(np.ones(4, "f4"), x.expand(4))


def test_subclasses_are_taken_as_their_memory():
    class Stubborn(np.ndarray):
        def copy(self, *args, **options):
            raise NotImplementedError

        __setitem__ = copy

    masked = np.ma.masked_array(np.ones(8, "f4"), mask=[1, 0, 0, 0] * 2, hard_mask=True)
    for array in (masked, np.ones(8, "f4").view(Stubborn)):
        kernels.scale(array[..., ::2], 2)
        kernels.scale(array, 2)
        assert np.asarray(array).tolist() == [4, 2] * 4


slices = st.tuples(st.integers(0, 12), st.integers(1, 12), st.integers(-4, 4).filter(bool))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(slices, slices, st.sampled_from(["f4", "u2"])), min_size=1, max_size=5))
def test_sharing_is_found_exactly(chosen):
    memory = np.zeros((12, 12), "f4")
    arrays = []
    for (start, count, step), (column, width, pace), dtype in chosen:
        arrays.append(memory.view(dtype)[start::step, column::pace][:count, :width])
    shared = any(np.shares_memory(one, other) for one, other in itertools.combinations(arrays, 2))
    if shared:
        with pytest.raises(ValueError, match="shares memory"):
            gaps.check_apart(arrays)
    else:
        gaps.check_apart(arrays)
