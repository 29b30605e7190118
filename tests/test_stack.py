"""Workspace stacks against a model, and what they do to memory."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reference_workspace import ReferenceStack, ReferenceWorkspace, RefusedError

import numscope as ns

NAMES = st.sampled_from("abcd")
BINDINGS = st.dictionaries(NAMES, NAMES, max_size=2)


class WorkspaceMachine(RuleBasedStateMachine):
    """Workspaces, children, bindings and a stack, each step done by numscope and by the model."""

    @initialize(retain=st.booleans())
    def start(self, retain):
        self.arena = ns.Arena("1 MiB")
        self.pairs = [(ns.Workspace(arena=self.arena), ReferenceWorkspace())]
        self.stack, self.model = ns.WorkspaceStack(retain=retain), ReferenceStack(retain)
        self.value = 0
        for name in "ab":
            self.write(0, name)

    def both(self, real, model):
        """Do a step on both sides; they return alike, or fail alike."""
        try:
            expected, error = model(), None
        except RefusedError as refused:
            expected, error = None, refused.args[0]
        if error is not None:
            with pytest.raises(getattr(ns, error)):
                real()
            return None
        found = real()
        assert (found is None) == (expected is None)
        if isinstance(found, ns.Workspace):
            known = [pair for pair in self.pairs if pair[0] is found or pair[1] is expected]
            assert all(pair == (found, expected) for pair in known)
            if not known:
                self.pairs.append((found, expected))
        return found

    def write(self, i, name):
        real, model = self.pairs[i]
        self.value += 1
        self.both(lambda: real.feed(name, [self.value]), lambda: model.write(name, self.value))

    def pick(self, data, label="workspace"):
        return self.pairs[data.draw(st.integers(0, len(self.pairs) - 1), label=label)]

    @rule(data=st.data(), name=NAMES)
    def feed(self, data, name):
        self.write(self.pairs.index(self.pick(data)), name)

    @rule(data=st.data(), name=NAMES, local=st.booleans())
    def create(self, data, name, local):
        real, model = self.pick(data)
        if local:
            self.both(lambda: real.create_local_blob(name), lambda: model.create_local(name))
        else:
            self.both(lambda: real.create_blob(name), lambda: model.create(name))

    @rule(data=st.data(), name=NAMES)
    def remove(self, data, name):
        real, model = self.pick(data)
        assert real.remove_blob(name) == model.remove(name)

    @rule(data=st.data(), old=NAMES, new=NAMES)
    def rename(self, data, old, new):
        real, model = self.pick(data)
        self.both(lambda: real.rename_blob(old, new), lambda: model.rename(old, new))

    @rule(data=st.data(), bindings=BINDINGS, skip=st.booleans())
    def bind(self, data, bindings, skip):
        real, model = self.pick(data)
        parent, parent_model = self.pick(data, "parent")
        if not parent_model.reaches(model):
            self.both(
                lambda: real.add_blob_mapping(parent, bindings, skip),
                lambda: model.bind(parent_model, bindings, skip),
            )

    @rule(data=st.data(), names=st.lists(NAMES, max_size=2))
    def copy_forwarded(self, data, names):
        real, model = self.pick(data)
        self.both(lambda: real.copy_forwarded_tensors(names), lambda: model.copy_forwarded(names))

    @rule(data=st.data())
    def clear(self, data):
        real, model = self.pick(data)
        real.clear()
        model.local.clear()

    @precondition(lambda self: len(self.pairs) < 6)
    @rule(data=st.data(), bindings=st.none() | BINDINGS)
    def child(self, data, bindings):
        real, model = self.pick(data)
        if bindings is None:
            self.both(lambda: ns.Workspace(real), lambda: ReferenceWorkspace(model))
        else:

            def bound():
                child = ReferenceWorkspace(made_in=model)
                child.bind(model, bindings)
                return child

            self.both(lambda: ns.Workspace(real, bindings=bindings), bound)

    @rule(data=st.data(), bindings=BINDINGS, how=st.sampled_from(["push", "push", "pop", "reuse"]))
    def use_stack(self, data, bindings, how):
        real, model = self.pick(data)
        # A frame that is taken again must not become its own ancestor.
        frames = self.model.frames[max(self.model.top, 0) : self.model.top + 2]
        if any(model.reaches(frame) for frame in frames):
            return
        call = {
            "push": self.stack.push_forward_workspace,
            "pop": self.stack.pop_gradient_workspace,
            "reuse": self.stack.reuse_last_forward_workspace,
        }[how]
        self.both(lambda: call(real, bindings), lambda: getattr(self.model, how)(model, bindings))

    @rule(trim=st.booleans())
    def empty_stack(self, trim):
        if trim:
            self.stack.trim()
            self.model.trim()
        else:
            self.stack.clear()
            self.model.clear()

    @invariant()
    def both_show_the_same(self):
        assert len(self.stack) == self.model.top + 1
        assert self.stack.empty() == (self.model.top < 0)
        for real, model in self.pairs:
            assert real.local_blobs() == list(model.local)
            assert sorted(real.blobs()) == sorted(model.blobs())
            for name in "abcd":
                blob, expected = real.get_blob(name), model.get(name)
                assert real.has_blob(name) == (name in real) == (expected is not None)
                if expected is not None:
                    value = blob.value
                    assert (None if value is None else value.item()) == expected[0]

    def teardown(self):
        if hasattr(self, "arena"):
            del self.stack
            self.pairs.clear()
            assert self.arena.used == 0


TestWorkspaceMachine = WorkspaceMachine.TestCase
TestWorkspaceMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def fill(frame, scale=1):
    """What a step of a forward pass makes: big before small, and some in one piece."""
    for name, size in (("h", 3000), ("mask", 10), ("z", 500)):
        frame.full(name, size * scale, 1)
    frame.allocate({"u": (70, "float32"), "v": (5, "int64")})


def addresses(frame):
    return [frame[name].__array_interface__["data"][0] for name in frame.local_blobs()]


def test_a_steady_loop_takes_no_segment_and_repeats_its_addresses(arena, ws):
    ws["x"] = np.ones(10)
    stack, rounds = ns.WorkspaceStack(), []
    for _ in range(5):
        seen = []
        for _ in range(4):
            frame = stack.push_forward_workspace(ws, {"x": "x"})
            fill(frame)
            frame.copy_forwarded_tensors(["x"])
            seen.append(addresses(frame))
        while not stack.empty():
            frame = stack.pop_gradient_workspace(ws, {"x": "x"})
            frame.full("dh", 3000, 1)
            seen.append(addresses(frame))
        stack.clear()
        stats = arena.stats()
        rounds.append((seen, stats.segments_taken, stats.segments_returned, stats.used, stats.peak))
    assert [r[1:] for r in rounds] == [rounds[0][1:]] * 5
    assert all(seen == rounds[1][0] for seen, *_ in rounds[1:])


def test_numbering(ws):
    stack = ns.WorkspaceStack()
    first = stack.push_forward_workspace(ws)
    second = stack.push_forward_workspace(ws)
    assert stack.pop_gradient_workspace(ws) is second
    assert stack.push_forward_workspace(ws) is second
    stack.clear()
    assert len(stack) == 0
    assert bool(stack)
    assert stack.push_forward_workspace(ws) is first
    assert stack.reuse_last_forward_workspace(ws) is first
    stack.check_stack()


def test_an_empty_stack_gives_none(ws):
    stack = ns.WorkspaceStack()
    assert stack.empty()
    assert stack.pop_gradient_workspace(ws) is None
    assert stack.reuse_last_forward_workspace(ws) is None


def test_an_invalid_binding_pushes_nothing(ws):
    for retain in (True, False):
        stack = ns.WorkspaceStack(retain=retain)
        for _ in range(2):  # a new slot, then one that was used
            with pytest.raises(ns.BindingError, match="Invalid parent workspace blob missing"):
                stack.push_forward_workspace(ws, {"a": "missing"})
            assert stack.empty()
            if retain:
                break  # a used slot looks at bindings only where copies hide them
            stack.push_forward_workspace(ws)
            stack.clear()


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("wrong", [None, 5, "parent"])
def test_a_parent_that_is_no_workspace_is_refused(ws, debug, wrong):
    stack = ns.WorkspaceStack(debug=debug)
    for _ in range(2):  # a new slot, and one that is used again
        with pytest.raises(ns.NumscopeError, match="workspace"):
            stack.push_forward_workspace(wrong)
        assert stack.empty()
        stack.push_forward_workspace(ws)
        stack.clear()


@pytest.mark.parametrize("debug", [False, True])
def test_bindings_that_are_no_mapping_are_refused(ws, debug):
    stack = ns.WorkspaceStack(debug=debug)
    calls = (
        stack.push_forward_workspace,
        stack.pop_gradient_workspace,
        stack.reuse_last_forward_workspace,
    )
    for _ in range(2):  # a new slot, and one that is used again
        stack.push_forward_workspace(ws)
        for call in calls:
            with pytest.raises(ns.BlobTypeError, match=r"bindings are a mapping .* got list"):
                call(ws, ["x"])
        assert len(stack) == 1
        stack.clear()
    with pytest.raises(ns.BlobTypeError, match=r"bindings are a mapping .* got list"):
        ns.WorkspaceStack.check_bindings_match({}, ["x"])


def test_the_peak_without_retain_is_the_forward_frames_and_one_gradient_frame(ws):
    for arena in (ws.arena, ns.Arena("4 MiB", device="null")):
        root, stack = ns.Workspace(arena=arena), ns.WorkspaceStack(retain=False)
        frames, forward, backward = 6, 16 << 10, 40 << 10
        for _ in range(3):
            arena.reset_peak()
            for _ in range(frames):
                stack.push_forward_workspace(root).empty("h", forward, "uint8")
            while not stack.empty():
                with stack.pop_gradient_workspace(root) as gradient:
                    gradient.empty("dh", backward, "uint8")
            stack.clear()
            assert arena.peak == frames * forward + backward
            assert arena.used == 0


def test_with_retain_all_of_it_stays(ws):
    stack = ns.WorkspaceStack()
    for _ in range(3):
        stack.push_forward_workspace(ws).empty("h", 1024, "uint8")
    for _ in range(3):
        with stack.pop_gradient_workspace(ws) as gradient:
            gradient.empty("dh", 2048, "uint8")
    stack.clear()
    assert ws.arena.used == 3 * 3072
    assert gradient["dh"].size == 2048


def test_without_retain_memory_stays_until_left_cleared_or_pushed_again(ws):
    stack = ns.WorkspaceStack(retain=False)
    for end in ("leave", "clear", "push"):
        stack.push_forward_workspace(ws)["h"] = np.ones(100)
        frame = stack.pop_gradient_workspace(ws)
        assert frame["h"].sum() == 100
        assert ws.arena.used == 1024
        match end:
            case "leave":
                with frame:
                    assert ns.current_workspace() is frame
            case "clear":
                frame.clear()
            case "push":
                stack.push_forward_workspace(ws)
        assert frame.is_empty()
        assert ws.arena.used == 0


def test_a_frame_that_is_pushed_is_not_cleared_by_a_with_statement(ws):
    stack = ns.WorkspaceStack(retain=False)
    for _ in range(2):
        with stack.push_forward_workspace(ws) as frame:
            frame["h"] = [1.0]
        assert frame["h"].tolist() == [1.0]
        with stack.pop_gradient_workspace(ws):
            pass
        assert frame.is_empty()


def test_without_retain_nothing_stale_is_seen(ws):
    ws["p"], ws["q"] = [1.0], [2.0]
    other = ns.Workspace(arena=ws.arena)
    other["p"] = [3.0]
    stack = ns.WorkspaceStack(retain=False)
    frame = stack.push_forward_workspace(ws, {"a": "p", "b": "q"})
    frame["local"] = [4.0]
    stack.pop_gradient_workspace(ws, {"c": "p"})
    assert stack.push_forward_workspace(other, {"a": "p"}) is frame
    assert frame["a"].tolist() == [3.0]
    assert list(frame) == ["a"]
    stack.clear()
    assert stack.push_forward_workspace(ws, {"b": "p"}) is frame
    assert list(frame) == ["b"]


@pytest.mark.parametrize("where", ["the same arena", "another"])
def test_without_retain_a_frame_lies_and_makes_variables_with_its_new_parent(ws, where):
    other = ns.Workspace(arena=ws.arena if where == "the same arena" else ns.Arena("1 MiB"), name="other")
    stack = ns.WorkspaceStack(retain=False)
    stack.push_forward_workspace(ws)["h"] = [1.0]
    stack.pop_gradient_workspace(ws)
    frame = stack.push_forward_workspace(other)
    assert ws.is_empty()
    assert (frame.name, frame.root, frame.arena) == ("other/frame", other, other.arena)
    with frame:
        ns.get_variable("v", 2)
    assert other.local_blobs() == ["v"]
    if where == "another":
        assert ws.arena.used == 0
        ws.arena.close()
        frame["h"] = [1.0]


def test_without_retain_clear_releases_all(ws):
    stack = ns.WorkspaceStack(retain=False)
    for _ in range(3):
        stack.push_forward_workspace(ws)["h"] = [1.0]
    stack.pop_gradient_workspace(ws)
    stack.clear()
    assert ws.arena.used == 0


def test_trim_drops_what_lies_above_the_top(ws):
    stack = ns.WorkspaceStack()
    for _ in range(4):
        stack.push_forward_workspace(ws)["h"] = [1.0]
    stack.pop_gradient_workspace(ws)
    last = stack.pop_gradient_workspace(ws)
    assert ws.arena.used == 4 * 256
    stack.trim()
    assert (ws.arena.used, len(stack)) == (512, 2)
    assert stack.push_forward_workspace(ws) is not last
    stack.clear()
    stack.trim()
    assert ws.arena.used == 0


def test_debug_remembers_parent_and_bindings(ws):
    ws["x"] = ws["y"] = [1.0]
    other = ns.Workspace(arena=ws.arena, name="other")
    other["x"] = [1.0]
    stack = ns.WorkspaceStack(debug=True)
    stack.push_forward_workspace(ws)
    stack.push_forward_workspace(ws, {"a": "x"})
    with pytest.raises(ns.BindingError, match="Blob bindings mismatch: 'a' -> 'y', expected 'x'"):
        stack.push_forward_workspace(ws, {"a": "y"})
    with pytest.raises(ns.BindingError, match="mismatch"):
        stack.push_forward_workspace(ws)
    with pytest.raises(ns.StackError, match="Parent workspace mismatch: got 'other', expected 'main'"):
        stack.push_forward_workspace(other, {"a": "x"})
    with pytest.raises(ns.StackError, match="Parent workspace mismatch"):
        stack.pop_gradient_workspace(other)
    assert len(stack) == 2
    ns.WorkspaceStack.check_bindings_match({"a": "x"}, {"a": "x"})
    with pytest.raises(ns.BindingError, match="'b'"):
        stack.check_bindings_match({"a": "x"}, {"a": "x", "b": "y"})


def test_popping_binds_gradients_and_leaves_defined_names_alone(ws):
    ws["x"], ws["dx"] = [1.0], [0.0]
    stack = ns.WorkspaceStack()
    frame = stack.push_forward_workspace(ws, {"x": "x"})
    frame["dh"] = [5.0]
    stack.pop_gradient_workspace(ws, {"x": "x", "dx": "dx", "dh": "dx"})
    frame["dx"] += 2
    assert ws["dx"].tolist() == [2.0]
    assert frame["dh"].tolist() == [5.0]
