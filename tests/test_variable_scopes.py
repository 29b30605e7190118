"""Variable scopes against TensorFlow's recorded answers."""

import asyncio
import contextlib
import gzip
import json
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from numscope import initializers, scopes, variable_scopes
from numscope.arena import Arena
from numscope.errors import (
    BindingError,
    BlobNotFoundError,
    BlobTypeError,
    StackError,
    UnknownTypeError,
)
from numscope.scopes import name_scope, scoped_name
from numscope.variable_scopes import AUTO_REUSE, get_variable_scope, variable_scope
from numscope.variables import get_variable
from numscope.workspace import Workspace

RECORDED = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "tensorflow_names.json.gz").read_bytes())
)
SCENARIOS = {s["scenario"]: (s["steps"], s["answers"]) for s in RECORDED["scenarios"]}

# TensorFlow's kind of error -> ours.
KINDS = {
    "exists": (BindingError, "exists already: it was made at "),
    "missing": (BlobNotFoundError, "does not exist"),
    "shape": (BindingError, ": shape: it has "),
    "dtype": (BindingError, ": dtype: it has "),
    "constant and shape": (BindingError, ": shape: a constant initializer has its own"),
    "constant and dtype": (BindingError, ": dtype: the constant initializer has "),
    "no shape": (BindingError, ": shape: a new variable needs all lengths"),
    "no initializer": (BindingError, ": initializer: complex64 has no default"),
    "reuse without name": (BindingError, "needs name_or_scope"),
    "no name": (BlobTypeError, "needs a name"),
    "reuse": (BindingError, "reuse is True, False, None or AUTO_REUSE"),
    "order": (StackError, "out of order"),
    "scope type": (BlobTypeError, "the name of a variable scope is a str"),
    "negative length": (BindingError, "must not be negative"),
    "name": (BindingError, "is no name for a "),
    "value": (BlobTypeError, "cannot be written as bool"),
}

# Where numscope differs from TensorFlow: step -> (TensorFlow's answer, ours).
DIFFERENCES = {
    # Name scopes are Caffe2's. They are not made unique: a training loop opens its scopes in every iteration,
    "difference: a name scope opened twice": {3: ({"name": "a_1/x"}, {"name": "a/x"})},
    # and a slash at the end does not begin anew.
    "difference: the name scope of a name with a slash at its end": {
        3: ({"name": "b/x"}, {"name": "a/b//x"})
    },
}


INITIALIZERS = {
    "zeros": initializers.Zeros,
    "ones": initializers.Ones,
    "twos": initializers.Constant(2),
    "fives": lambda shape, dtype: np.full(shape, 5, dtype),
    "sevens": lambda: np.array([7.0, 7.0]),
}


class Player:
    """Runs the steps of a recorded scenario; naming_rules.py says what they mean."""

    def __init__(self, workspace):
        self.workspace = workspace
        self.scopes = {"root": get_variable_scope()}
        self.managers = {}
        self.entered = {}

    def play(self, steps):
        with self.workspace:
            return [self.answer(*step) for step in steps]

    def answer(self, act, *arguments):
        try:
            return getattr(self, act)(*arguments)
        except tuple({error for error, _ in KINDS.values()}) as error:
            kinds = [k for k, (cls, text) in KINDS.items() if isinstance(error, cls) and text in str(error)]
            return {"error": " or ".join(kinds) or str(error)}

    def options(self, options):
        options = dict(options)
        if options.get("reuse") == "auto":
            options["reuse"] = AUTO_REUSE
        if isinstance(options.get("initializer"), str):
            options["initializer"] = INITIALIZERS[options["initializer"]]
        return options

    def enter(self, key, options):
        options = self.options(options)
        scope = options.pop("scope", None)
        name = self.scopes[scope] if scope is not None else options.pop("name", None)
        return self.enter_manager(key, variable_scope(name, options.pop("default", None), **options))

    def again(self, key):
        return self.enter_manager(key, self.managers[key])

    def enter_manager(self, key, manager):
        opened = self.scopes[key] = manager.__enter__()
        self.entered[key] = self.managers[key] = manager
        return {"scope": opened.name, "reuse": reuse_of(opened)}

    def current(self):
        scope = get_variable_scope()
        return {"scope": scope.name, "reuse": reuse_of(scope), "dtype": scope.dtype.name}

    def names(self, key, prefix):
        self.entered[key] = name_scope(prefix)
        self.entered[key].__enter__()

    def exit(self, key):
        manager = self.entered.pop(key, None)
        if manager is not None:
            manager.__exit__(None, None, None)

    def get(self, name, options):
        array = get_variable(name, **self.options(options))
        full = next(key for key, value in self.workspace.variables().items() if value is array)
        answer = {"variable": full, "shape": list(array.shape), "dtype": array.dtype.name}
        assert self.workspace[full] is array
        if ">" in full or "\\" in full:  # TensorFlow has no session for these
            return answer
        if array.size and np.all(array == array.flat[0]) and float(array.flat[0].real).is_integer():
            answer["value"] = float(array.flat[0].real)
        return answer

    def variables(self, trainable):
        return {"variables": list(self.workspace.variables(trainable))}

    def name(self, name):
        return {"name": scoped_name(name)}

    def thread(self, steps):
        return in_thread(lambda: self.play(steps))


def reuse_of(scope):
    return "auto" if scope.reuse is AUTO_REUSE else scope.reuse


def in_thread(function):
    """Return what a function returns in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def ws(ws):
    """The fresh workspace of all tests, as the current one."""
    with ws:
        yield ws


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_names_reuse_and_mismatches_are_tensorflows(scenario):
    steps, answers = SCENARIOS[scenario]
    expected = list(answers)
    for step, (tensorflows, ours) in DIFFERENCES.get(scenario, {}).items():
        assert expected[step] == tensorflows
        expected[step] = ours
    # In a thread of its own, for a scenario may not leave its scopes.
    assert in_thread(lambda: Player(Workspace(arena=Arena("64 KiB"))).play(steps)) == expected


def test_every_difference_is_listed():
    assert set(DIFFERENCES) == {name for name in SCENARIOS if name.startswith("difference")}
    assert len(SCENARIOS) >= 640


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name_or_scope": None}, BlobTypeError, "give name_or_scope or default_name"),
        ({"name_or_scope": 3}, BlobTypeError, "the name of a variable scope is a str, got int 3"),
        ({"name_or_scope": "a b"}, BindingError, "'a b' is no name for a variable scope: expected letters"),
        ({"name_or_scope": "_a"}, BindingError, "the first one a letter, a digit or '.'; put '_' in"),
        ({"name_or_scope": None, "default_name": "ä"}, BindingError, "'ä' is no name for a variable scope"),
        ({"name_or_scope": "a", "reuse": 1}, BindingError, "got 1"),
        ({"name_or_scope": "a", "dtype": "float31"}, UnknownTypeError, "float31"),
        ({"name_or_scope": "a", "trainable": "no"}, BlobTypeError, "got 'no'"),
        ({"name_or_scope": "a", "seed": -1}, BindingError, "an int from 0 up, got -1"),
        ({"name_or_scope": "a", "seed": 0.5}, BindingError, "an int from 0 up, got 0.5"),
    ],
)
def test_a_variable_scope_that_cannot_be_entered_changes_nothing(ws, arguments, error, text):
    with pytest.raises(error, match=text), variable_scope(**arguments):
        pass
    assert get_variable_scope().name == ""
    assert scoped_name("") == ""


def test_leaving_out_of_order_is_an_error_that_changes_nothing(ws):
    outer, inner = variable_scope("outer"), variable_scope("inner")
    outer.__enter__()
    opened = inner.__enter__()
    with pytest.raises(StackError, match=r"variable_scope\('outer'\) is left out of order"):
        outer.__exit__(None, None, None)
    assert get_variable_scope() is opened
    names = name_scope("n")
    names.__enter__()
    with pytest.raises(StackError, match=r"name_scope\('inner'\) is left out of order: name_scope\('n'\)"):
        inner.__exit__(None, None, None)
    assert get_variable_scope() is opened
    assert scoped_name("x") == "outer/inner/n/x"
    for scope in (names, inner, outer):
        scope.__exit__(None, None, None)
    assert get_variable_scope().name == scoped_name("") == ""


def test_scopes_are_restored_after_an_exception(ws):
    with pytest.raises(ZeroDivisionError), variable_scope("a", reuse=True):
        raise ZeroDivisionError
    assert get_variable_scope().name == scoped_name("") == ""
    assert get_variable_scope().reuse is False


# Scopes: threads, counts, and how they scale.


def test_two_threads_make_the_same_variables_of_one_workspace(ws):
    def build():
        with ws, variable_scope("net", reuse=AUTO_REUSE):
            found = []
            for _ in range(20):
                with variable_scope(None, "layer"):
                    found.append(get_variable("w", (8,)))
        return found

    results = []
    threads = [threading.Thread(target=lambda: results.append(build())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ws.variables()) == 20
    assert len(results) == 4
    assert all(a is b for found in results for a, b in zip(found, results[0], strict=True))


def test_default_names_begin_anew_over_another_workspace():
    names = []
    for _ in range(2):
        with Workspace(arena=Arena("64 KiB")) as ws:
            for _ in range(2):
                with variable_scope(None, "layer"):
                    get_variable("w", (2,))
            names.append(list(ws.variables()))
    assert names == [["layer/w", "layer_1/w"]] * 2


def test_a_scope_entered_over_another_workspace_keeps_its_name(ws):
    other = Workspace(arena=ws.arena)
    with variable_scope("a"), variable_scope("b"):
        with other, variable_scope("c"), variable_scope(None, "l"):
            get_variable("w", (2,))
        with variable_scope(None, "l") as scope:
            assert scope.name == "a/b/l"
    assert list(other.variables()) == ["a/b/c/l/w"]


def test_a_scope_can_be_entered_again_by_the_same_manager(ws):
    scope = variable_scope("a")
    for _ in range(2):
        with scope as opened, variable_scope(None, "l") as inner:
            assert (opened.name, inner.name) == ("a", "a/l")
    with scope, pytest.raises(StackError, match="entered already"):
        scope.__enter__()


def test_ten_thousand_nested_scopes(ws):
    tracemalloc.start()
    with contextlib.ExitStack() as entered:
        for i in range(10_000):
            scope = entered.enter_context(variable_scope(f"scope{i}"))
        w = get_variable("w", (2,))
        name = scope.full_name("w")
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ws[name] is w
    assert name.count("/") == 10_000
    assert peak < 64 << 20
    assert get_variable_scope().name == ""


def test_ten_thousand_scopes_one_after_the_other(ws):
    for _ in range(10_000):
        with variable_scope(None, "layer") as scope:
            pass
    assert scope.name == "layer_9999"
    with variable_scope("net") as net:
        pass
    for i in range(10_000):
        with variable_scope(net), variable_scope(f"layer{i}"):
            pass


def test_a_training_loop_in_a_scope_that_was_entered_by_its_object_takes_no_memory(ws):
    def step():
        with variable_scope("layer"), variable_scope(None, "cell") as scope:
            return scope.name

    with variable_scope("net") as net:
        step()
    with variable_scope(net), variable_scope(net):
        names = {step() for _ in range(10)}
        tracemalloc.start()
        for _ in range(1000):
            names.add(step())
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert names == {"net/layer/cell"}
    assert held < 4096  # 700 kB with a note of every change


def test_asyncio_tasks_have_scopes_of_their_own_over_one_count_of_names(ws):
    with variable_scope("net") as net:
        pass

    async def task(by_object, delay):
        with variable_scope(net if by_object else "other"):
            await asyncio.sleep(delay)
            with variable_scope(None, "layer") as scope:
                await asyncio.sleep(0.003)
                return scope.name

    async def main():
        return await asyncio.gather(task(True, 0), task(False, 0.001), task(True, 0.002))

    assert asyncio.run(main()) == ["net/layer", "other/layer", "net/layer_1"]
    with variable_scope(net), variable_scope(None, "layer") as scope:
        assert scope.name == "net/layer"
    assert get_variable_scope().name == scoped_name("") == ""


def test_a_generator_cannot_be_left_in_a_scope_that_it_did_not_enter(ws):
    def layers():
        with variable_scope("generator"):
            yield get_variable_scope().name
            yield get_variable_scope().name

    running = layers()
    assert next(running) == "generator"
    with variable_scope("caller"):
        assert next(running) == "generator/caller"  # scopes are the thread's, also in generators
        with pytest.raises(StackError, match=r"'generator'\) is left out of order.*'caller'\) is innermost"):
            next(running)
    # The generator is gone and so is its way out: what it left behind ends with this test's context.
    variable_scopes._scopes.set(None)
    scopes._names.set(None)


def test_a_thread_that_ends_in_its_scopes_leaves_nothing_to_others(ws):
    def enter():
        with ws:
            for _ in range(1000):
                variable_scope("a").__enter__()
        return get_variable_scope().name

    assert in_thread(enter).count("/") == 999
    assert in_thread(lambda: get_variable_scope().name) == get_variable_scope().name == ""


def test_default_names_of_ten_thousand_nested_scopes(ws):
    with contextlib.ExitStack() as entered:
        for _ in range(10_000):
            scope = entered.enter_context(variable_scope(None, "l"))
        assert scope.name.count("/") == 9_999
        assert entered.enter_context(variable_scope(scope)).name == scope.name
    assert get_variable_scope().name == scoped_name("") == ""
