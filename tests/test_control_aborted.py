"""Nets with loops that end early: by Ctrl-C, by an error, for want of room; and what they leave behind."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from loop_nets import COUNT, count, op

from numscope.arena import Arena
from numscope.operators import CompiledOperator, Net, While, register_operator
from numscope.workspace import Workspace


@pytest.fixture
def arena(device):
    with Arena("16 MiB", device=device) as arena:
        yield arena


class Presses:
    """Ctrl-C, some seconds from now, once or more often."""

    def __init__(self, *delays):
        press = (os.getpid(), signal.SIGINT)
        self.timers = [threading.Timer(delay, os.kill, press) for delay in delays]

    def __enter__(self):
        for timer in self.timers:
            timer.start()

    def __exit__(self, *_):
        for timer in self.timers:
            timer.join()


def test_ctrl_c_ends_an_endless_loop(ws):
    count(ws, 1)
    ws["zero"] = np.int64(0)
    body = Net("b", [op("Add", "i zero", "i"), op("LT", "i n", "go")])
    endless = Net("m", [op("While", "go i zero n", "go i", loop_net=body)])
    for net in (endless, op("While", "go", "", loop_net=Net("empty", []))):
        with pytest.raises(KeyboardInterrupt), Presses(0.1):
            ws.run(net)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    count(ws, 0)
    assert ws.run(endless)


def test_ctrl_c_comes_between_operators(arena, ws):
    """In the middle of the arena's book-keeping it would leave bytes that nobody has, or more."""
    count(ws, 1, x=np.ones(3), zero=np.int64(0))
    steps = [op("Tanh", "x", "t"), op("Copy", "t", "x"), op("Add", "i zero", "i"), op("LT", "i n", "go")]
    net = Net("n", While("go", Net("b", steps)))
    ws.run(op("CreateScope", "", "b/workspace_loop_body", retain=False))
    before = arena.used
    for delay in np.random.default_rng(5).uniform(0.002, 0.006, 60):
        with pytest.raises(KeyboardInterrupt), Presses(delay):
            ws.run(net)
        ws["b/workspace_loop_body"].clear()
        assert arena.used == before
    ws["zero"] = np.int64(1)
    assert ws.run(net)


@register_operator("TestSleep", inputs=0, outputs=0)
class SleepOp(CompiledOperator):
    def run(self, ws):
        time.sleep(30)


def test_a_second_ctrl_c_comes_at_once(ws):
    ws["go"] = np.array(True)
    with pytest.raises(KeyboardInterrupt), Presses(0.1, 0.2):
        ws.run(op("If", "go", "", then_net=Net("t", [op("TestSleep")])))


@register_operator("TestPress", inputs=0, outputs=0)
class PressOp(CompiledOperator):
    def run(self, ws):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_after_the_last_operator_is_not_lost(ws):
    ws["go"] = np.array(True)
    with pytest.raises(KeyboardInterrupt):
        ws.run(op("If", "go", "", then_net=Net("t", [op("TestPress")])))
    assert ws.run(op("If", "go", "", then_net=Net("t", [op("Copy", "go", "gone")])))


def test_ctrl_c_is_for_the_main_thread(ws):
    """A net in another thread ends by itself, and leaves the handler alone."""
    count(ws, 300)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(ws.run(Net("n", While("go", Net("b", COUNT))))))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    thread.join()
    assert ended == [True]


@register_operator("TestFailAt", inputs=1, outputs=0, arguments={"round": "int"})
class FailAtOp(CompiledOperator):
    def run(self, ws):
        if ws[self.definition.inputs[0]] == self.argument("round"):
            raise RuntimeWarning("a bug in an operator, of no type that is wrapped")


@pytest.mark.parametrize("retain", [True, False])
def test_a_body_that_fails_in_round_57_can_be_cleared(arena, ws, retain):
    body = [op("Add", "x x", "y"), op("TestFailAt", "i", round=57), op("Scale", "y", "x", scale=0.5), *COUNT]
    net = Net("n", [While("go", Net("b", body), retain=retain)])
    count(ws, 100, x=np.ones(1000))
    ws.run(op("CreateScope", "", "b/workspace_loop_body", retain=retain))
    before = arena.used
    with pytest.raises(RuntimeWarning):
        ws.run(net)
    stack = ws["b/workspace_loop_body"]
    assert len(stack) == 58
    assert arena.used > before
    stack.clear()
    assert stack.empty()
    if retain:
        stack.trim()
    assert arena.used == before
    count(ws, 3, x=np.ones(1000))
    assert ws.run(net)
    np.testing.assert_array_equal(ws.fetch("x"), 1.0)


def test_too_little_room_in_a_round_can_be_cleared():
    with Arena("64 KiB") as arena:
        ws = Workspace(arena=arena)
        count(ws, 100, x=np.ones(256))
        net = Net("n", [While("go", Net("b", [op("Add", "x x", "y"), op("Copy", "y", "x"), *COUNT]))])
        with pytest.raises(MemoryError, match="of 65536 bytes are free"):
            ws.run(net)
        ws["b/workspace_loop_body"].clear()
        count(ws, 3, x=np.ones(256))
        assert ws.run(net)
        np.testing.assert_array_equal(ws.fetch("x"), 8.0)
        ws.clear()
