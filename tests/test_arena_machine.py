"""A model of an arena: workspaces, blobs and views at random, a byte of its own in each."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import numscope as ns


def address(array):
    return array.__array_interface__["data"][0]


def padded(nbytes):
    return -(-nbytes // 256) * 256


class ArenaMachine(RuleBasedStateMachine):
    """Workspaces in one small arena. Each blob is filled with a byte of its own, and so are views kept."""

    CAPACITY = 64 << 10

    @initialize(device=st.sampled_from(["cpu", "null"]))
    def start(self, device):
        self.device = device
        self.arena = ns.Arena(self.CAPACITY, device=device)
        self.workspaces = [ns.Workspace(arena=self.arena)]
        self.patterns = [{}]  # for each workspace: name -> byte
        self.views = []  # (array, byte)
        self.count = 0

    def workspace(self, data):
        return data.draw(st.integers(0, len(self.workspaces) - 1), label="workspace")

    @precondition(lambda self: len(self.workspaces) < 4)
    @rule()
    def add_workspace(self):
        self.workspaces.append(ns.Workspace(arena=self.arena))
        self.patterns.append({})

    @rule(data=st.data(), name=st.sampled_from("abcd"), nbytes=st.integers(0, 20_000))
    def make(self, data, name, nbytes):
        i = self.workspace(data)
        before = self.arrays(i)
        used = self.arena.used
        try:
            array = self.workspaces[i].empty(name, nbytes, "uint8")
        except ns.ArenaExhausted as error:
            asked = error.requested
        else:
            asked = 0
            self.fill(i, before, {name: array})
        assert asked in (0, padded(nbytes))
        if asked:
            assert self.arena.largest_free < asked
            assert self.arena.used == used

    @rule(data=st.data(), sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=3))
    def allocate(self, data, sizes):
        i = self.workspace(data)
        before = self.arrays(i)
        try:
            arrays = self.workspaces[i].allocate({f"m{k}": (n, "uint8") for k, n in enumerate(sizes)})
        except ns.ArenaExhausted:
            return
        self.fill(i, before, arrays)

    def arrays(self, i):
        return dict(self.workspaces[i]) if self.device == "cpu" else {}

    def fill(self, i, before, arrays):
        """Give each new array a byte of its own, for the whole of its life."""
        for name, array in arrays.items():
            if array is None or array is not before.get(name):
                self.count = self.count % 250 + 1
                self.patterns[i][name] = self.count
                if array is not None:
                    array.fill(self.count)

    @rule(data=st.data(), name=st.sampled_from(["a", "b", "c", "d", "m0", "m1"]))
    def remove(self, data, name):
        i = self.workspace(data)
        assert self.workspaces[i].remove_blob(name) == (self.patterns[i].pop(name, None) is not None)

    @rule(data=st.data())
    def clear(self, data):
        i = self.workspace(data)
        self.workspaces[i].clear()
        self.patterns[i].clear()

    @precondition(lambda self: len(self.workspaces) > 1)
    @rule(data=st.data())
    def drop_workspace(self, data):
        i = self.workspace(data)
        del self.workspaces[i], self.patterns[i]

    @precondition(lambda self: self.device == "cpu")
    @rule(data=st.data(), name=st.sampled_from("abcd"), step=st.sampled_from([1, 2, -1]))
    def keep_view(self, data, name, step):
        i = self.workspace(data)
        if name in self.patterns[i]:
            self.views.append((self.workspaces[i][name][1:][::step], self.patterns[i][name]))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def drop_view(self, data):
        del self.views[data.draw(st.integers(0, len(self.views) - 1), label="view")]

    @invariant()
    def patterns_are_whole(self):
        for workspace, pattern in zip(self.workspaces, self.patterns, strict=True):
            assert set(workspace.local_blobs()) == set(pattern)
            if self.device == "cpu":
                for name, byte in pattern.items():
                    assert (workspace[name] == byte).all()
        for view, byte in self.views:
            assert (view == byte).all()

    @invariant()
    def no_two_blobs_overlap(self):
        if self.device == "cpu":
            arrays = [w[n] for w in self.workspaces for n in w]
            ends = sorted((address(a), address(a) + a.size) for a in arrays if a.size)
            assert all(end <= start for (_, end), (start, _) in pairwise(ends))
            assert all(start % 256 == 0 for start, _ in ends)

    @invariant()
    def bytes_add_up(self):
        stats = self.arena.stats()
        assert stats.used + stats.free == stats.capacity == self.CAPACITY
        assert stats.largest_free <= stats.free
        assert stats.used <= stats.peak <= stats.capacity
        live = sum(padded(w.get_blob(n)._value.nbytes) for w in self.workspaces for n in w)
        assert stats.used >= live
        assert stats.held_by_views <= stats.used
        if not self.views:
            assert stats.held_by_views == 0
        assert stats.segments == stats.segments_taken - stats.segments_returned

    def teardown(self):
        if hasattr(self, "arena"):
            self.views.clear()
            self.workspaces.clear()
            assert (self.arena.used, self.arena.largest_free) == (0, self.CAPACITY)
            self.arena.close()


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
