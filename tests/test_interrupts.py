"""Ctrl-C at every step of a program: no byte is handed out twice, none is lost, nothing stays locked."""

import _thread
import contextlib
import dis
import itertools
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

import numscope as ns

PACKAGE = Path(ns.__file__).parent
EVERYWHERE = [path.stem for path in PACKAGE.glob("*.py")]
TOOL = 4  # of sys.monitoring: none that has a name


class Program:
    """Workspaces, blobs and views that come and go. Each view that is kept has a byte of its own."""

    def __init__(self, device="cpu"):
        self.arena = ns.Arena("256 KiB", device=device)
        self.root = ns.Workspace(arena=self.arena, name="root")
        self.other = ns.Workspace(arena=self.arena, name="other")
        self.views = []
        self.numbers = iter((1, 2))  # of runs
        self.bytes = itertools.cycle(range(1, 251))

    def keep(self, array):
        byte = next(self.bytes)
        if array is not None:
            array.fill(byte)
            self.views.append((array[1:], byte))

    def run(self):
        root, other, n = self.root, self.other, next(self.numbers)
        other.clear()  # after an interrupt it may hold all memory
        self.keep(root.empty(f"a{n}", 300, "uint8"))
        root.empty(f"b{n}", 1000, "uint8")
        other.empty("wall", 100, "uint8")
        root.feed("c", np.ones(700, "uint8"))
        root.remove_blob(f"b{n}")
        root.rename_blob("c", f"c{n}")
        with root.scope("s") as scope:
            self.keep(scope.empty("x", 3000, "uint8"))
        self.keep(root.empty(f"a{n}", 700, "uint8"))
        many = other.allocate({f"m{i}": (300 * i, "uint8") for i in range(3)})
        self.keep(many[f"m{n}"])
        del many
        if len(self.views) > 3:
            del self.views[1:3]
        root.empty("most", 16 << 10, "uint8")
        root.clear()
        root.empty("little", 10, "uint8")
        with contextlib.suppress(ns.ArenaExhausted):  # what was interrupted may lie in between
            other.empty("large", self.arena.largest_free + 1024, "uint8")  # the root holds more for later
        other.clear()

    def check(self):
        """Check what must hold whatever was interrupted."""
        arena = self.arena
        assert all((view == byte).all() for view, byte in self.views)
        assert arena.used + arena.free == arena.capacity
        stats = arena.stats()
        assert stats.segments == stats.segments_taken - stats.segments_returned >= 0
        for reference in arena._segments.values():
            segment = reference.segment()
            for ranges in [reference.ranges, *([segment.free] if segment else [])]:
                assert ranges.total == sum(length for _, length in ranges)
        blobs = {*self.root._blobs.values(), *self.other._blobs.values()}
        places = [blob._place for blob in blobs if blob.is_tensor]
        pieces = sorted((place.offset, place.nbytes) for place in places)
        assert all(start + n <= following for (start, n), (following, _) in itertools.pairwise(pieces))
        assert sum(n for _, n in pieces) <= arena.used

    def end(self, other_thread):
        """Check that another thread may use everything, and that all memory comes back."""
        other_thread.submit(self.enter_everywhere).result()
        self.check()
        self.views.clear()
        self.root.clear()
        self.other.clear()
        assert (self.arena.used, self.arena.largest_free) == (0, self.arena.capacity)

    def enter_everywhere(self):
        assert self.arena._lock.acquire(blocking=False)
        self.arena._lock.release()
        for workspace in (self.root, self.other):
            workspace.feed("of another thread", 1.0)


@cache
def steps(code):
    """Return the bytecodes of a function by their offsets."""
    return {step.offset: step for step in dis.get_instructions(code)}


@cache
def leaving(code):
    """Return the offsets where a with statement is left: the interpreter looks for no signals there."""
    found, run = set(), []
    for step in steps(code).values():
        if step.opname == "PRECALL":  # Python 3.11
            continue
        if step.opname == "CALL" and [s.opname for s in run[-3:]] == ["LOAD_CONST"] * 3:
            found |= {*range(run[0].offset, step.offset + 1)}
        is_none = step.opname == "LOAD_CONST" and step.argval is None
        run = [*run, step] if is_none or step.opname == "SWAP" else []
    return found


def can_fail(code, offset):
    """Whether a `with` around a bytecode sees what it raises; a `try` in it is a NOP that does not."""
    return offset not in leaving(code) and steps(code)[offset].opname != "NOP"


def looks_for_signals(code, offset):
    """Whether the interpreter does behind a bytecode, or at the door of a function that it calls."""
    return steps(code)[offset].opname.startswith(
        ("CALL", "RESUME", "JUMP_BACKWARD", "BEFORE_WITH", "LOAD_ATTR")
    )


@contextlib.contextmanager
def watching(codes, reached):
    """Call ``reached(code, offset)`` before each bytecode of some functions."""
    if sys.version_info >= (3, 12):
        event = sys.monitoring.events.INSTRUCTION
        sys.monitoring.use_tool_id(TOOL, __name__)
        sys.monitoring.register_callback(TOOL, event, reached)
        for code in codes:
            sys.monitoring.set_local_events(TOOL, code, event)
        try:
            yield
        finally:
            for code in codes:
                sys.monitoring.set_local_events(TOOL, code, 0)
            sys.monitoring.register_callback(TOOL, event, None)
            sys.monitoring.free_tool_id(TOOL)
        return

    def enter(frame, event, arg):
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        return step

    def step(frame, event, arg):
        if event == "opcode":
            reached(frame.f_code, frame.f_lasti)
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def stop_watching(code):
    """Let a function go on as if nobody had watched it: a signal would come at the door of the watcher."""
    if sys.version_info >= (3, 12):
        sys.monitoring.set_local_events(TOOL, code, 0)
    else:
        sys.settrace(None)


def functions(program, modules):
    """Run a program, and return the code of the functions in some modules that it calls."""
    files = {str(PACKAGE / f"{name}.py") for name in modules}
    found = set()
    sys.setprofile(lambda frame, event, arg: found.add(frame.f_code))
    try:
        program.run()
    finally:
        sys.setprofile(None)
    return {code for code in found if code.co_filename in files}


def moments(make, modules, wanted, stride):
    """Return when to interrupt a program: as (code, offset, how many times it was there before).

    That is the first time at each bytecode that is wanted, and then every few.
    """
    times, found = Counter(), []

    def note(code, offset):
        if wanted(code, offset):
            if (code, offset) not in times or times.total() % stride == 0:
                found.append((code, offset, times[code, offset]))
            times[code, offset] += 1

    program = make()
    with watching(functions(make(), modules), note):
        program.run()
    return found


def by_raising():
    raise KeyboardInterrupt


def by_signal():
    """Send SIGINT, but without a call from Python, behind which the interpreter would look for signals.

    So it looks where the interrupted function itself comes to such a place.
    """
    for _ in iter(_thread.interrupt_main, None):
        pass


def was_interrupted(function, moment, interrupt):
    """Run a function, and tell whether the interrupt that comes at a moment has ended it."""
    code, offset, left = moment

    def reached(_, here):
        nonlocal left
        if here == offset:
            left -= 1
            if left == -1:
                stop_watching(code)
                interrupt()

    try:
        with watching({code}, reached):
            function()
            for _ in range(3):  # a signal that came with the last bytecode is seen here
                pass
    except KeyboardInterrupt:
        return True
    return False


@pytest.fixture(scope="module")
def other_thread():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def interrupt_all(found, make, interrupt, other_thread):
    """Interrupt a program at many moments, and run it again; return how many interrupts were seen."""
    seen = 0
    for moment in found:
        program = make()
        seen += was_interrupted(program.run, moment, interrupt)
        program.check()
        program.run()
        program.end(other_thread)
    return seen


@pytest.mark.parametrize(
    ("device", "modules", "stride"),
    [
        ("cpu", ("ranges", "arena", "segments", "region", "blob", "namespace", "contents", "workspace"), 37),
        ("null", ("ranges", "arena", "region"), 101),
    ],
)
def test_an_error_at_any_bytecode_of_the_book_keeping_loses_nothing(device, modules, stride, other_thread):
    make = partial(Program, device)
    found = moments(make, modules, can_fail, stride)
    assert len(found) > 500
    assert interrupt_all(found, make, by_raising, other_thread) == len(found)


# Python prints one that comes in a callback of a weak reference, and goes on: WeakSet has such.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_anywhere_loses_nothing(other_thread):
    found = moments(Program, EVERYWHERE, looks_for_signals, 11)
    assert len(found) > 500
    assert interrupt_all(found, Program, by_signal, other_thread) >= len(found) - 5


class Leaving:
    """A blob that is left to its view, after a kernel call was laid out for it."""

    def __init__(self, how):
        self.how = how
        self.ws = ns.Workspace(arena=ns.Arena("64 KiB"))
        self.view = self.ws.zeros("x", 10)[:]
        self.ws.zero()
        self.view.fill(7)

    def run(self):
        if self.how == "remove":
            self.ws.remove_blob("x")
        elif self.how == "reset":
            self.ws.get_blob("x").reset()
        else:
            self.ws.clear()


@pytest.mark.parametrize("how", ["remove", "reset", "clear"])
def test_after_ctrl_c_no_kernel_writes_into_the_view_of_a_blob_that_is_gone(how):
    make = partial(Leaving, how)
    for moment in moments(make, EVERYWHERE, can_fail, 1):
        program = make()
        assert was_interrupted(program.run, moment, by_raising)
        blob = program.ws.get_blob("x")
        is_there = blob is not None and blob.is_tensor
        program.ws.zero()
        assert (program.view == (0 if is_there else 7)).all()
