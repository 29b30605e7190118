"""Ranges of free bytes: first fit by address, and neighbours that join."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numscope.ranges import Ranges

SIZE = 48


def of(*pieces):
    ranges = Ranges()
    for start, length in pieces:
        ranges.add(start, length)
    return ranges


def test_take_is_first_fit_by_address():
    ranges = of((0, 4), (10, 8), (30, 6))
    assert ranges.take(6) == 10
    assert ranges.take(4) == 0
    assert ranges.take(6) == 30
    assert ranges.take(3) is None
    assert list(ranges) == [(16, 2)]
    assert ranges.total == ranges.largest == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_neighbours_join_in_any_order(order):
    pieces = [(0, 4), (4, 8), (12, 4)]
    assert list(of(*(pieces[i] for i in order))) == [(0, 16)]


def test_remove_cuts_front_middle_and_end():
    ranges = of((0, 20))
    assert ranges.remove(0, 2)
    assert ranges.remove(18, 2)
    assert ranges.remove(8, 4)
    assert list(ranges) == [(2, 6), (12, 6)]
    assert not ranges.remove(6, 4)  # half of it is gone already
    assert not ranges.remove(0, 1)
    assert not ranges.remove(17, 2)
    assert ranges.total == 12


def test_length_before_finds_the_tail():
    ranges = of((4, 4), (12, 8))
    assert ranges.length_before(20) == 8
    assert ranges.length_before(8) == 4
    assert ranges.length_before(12) == ranges.length_before(4) == ranges.length_before(0) == 0


def test_bytes_given_back_twice_are_a_fault():
    ranges = of((4, 4), (12, 4))
    for start, length in ((4, 4), (3, 2), (7, 1), (7, 6), (0, 40), (15, 1)):
        with pytest.raises(RuntimeError, match="given back twice"):
            ranges.add(start, length)
    assert list(ranges) == [(4, 4), (12, 4)]


def test_nothing_added_changes_nothing():
    ranges = of((4, 4))
    ranges.add(6, 0)
    assert list(ranges) == [(4, 4)]
    assert Ranges().largest == Ranges().total == 0


def test_a_first_range_may_be_given():
    ranges = Ranges(4, 8)
    assert list(ranges) == [(4, 8)]
    assert ranges.total == ranges.largest == 8
    assert list(Ranges(4, 0)) == []


def test_the_sum_can_be_counted_again():
    ranges = of((4, 4), (12, 8))
    ranges.total = 0
    ranges.recount()
    assert ranges.total == 12


def pieces(free):
    """The runs of a set of bytes."""
    runs = []
    for byte in sorted(free):
        if runs and sum(runs[-1]) == byte:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((byte, 1))
    return runs


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("atr"), st.integers(0, SIZE - 1), st.integers(1, 9)), max_size=40))
def test_a_set_of_bytes_does_the_same(steps):
    ranges, free = Ranges(), set()
    for action, start, length in steps:
        asked = set(range(start, start + length))
        if action == "a":
            if asked & free:
                with pytest.raises(RuntimeError):
                    ranges.add(start, length)
            else:
                ranges.add(start, length)
                free |= asked
        elif action == "t":
            fitting = [s for s, n in pieces(free) if n >= length]
            assert ranges.find(length) == (fitting[0] if fitting else None)
            taken = ranges.take(length)
            assert taken == (fitting[0] if fitting else None)
            if fitting:
                free -= set(range(taken, taken + length))
        else:
            assert ranges.remove(start, length) == (asked <= free)
            if asked <= free:
                free -= asked
        assert list(ranges) == pieces(free)
        assert ranges.total == len(free)
        assert ranges.largest == max((n for _, n in pieces(free)), default=0)
