import contextlib
import gc
import inspect
import json
import threading
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from numscope import initializers
from numscope.arena import Arena
from numscope.errors import (
    ArenaExhausted,
    BindingError,
    BlobNotFoundError,
    BlobTypeError,
    StackError,
    UnknownTypeError,
)
from numscope.scopes import device_scope, name_scope, scoped_name
from numscope.variable_scopes import AUTO_REUSE, get_variable_scope, variable_scope
from numscope.variables import get_variable, share_variables
from numscope.workspace import Workspace, current_workspace

RECORDED = json.loads((Path(__file__).parent / "data" / "tensorflow_names.json").read_text(encoding="utf-8"))
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
}

# Where numscope differs from TensorFlow: step -> (TensorFlow's answer, ours).
DIFFERENCES = {
    # A training loop opens its scopes in every iteration; Caffe2's name scopes are not made unique either.
    "difference: a name scope opened twice": {3: ({"name": "a_1/x"}, {"name": "a/x"})},
    # "" adds nothing anywhere, not only at the outermost.
    "difference: an empty name inside": {
        1: ({"scope": "a/", "reuse": False}, {"scope": "a", "reuse": False}),
        2: (
            {"variable": "a//w", "shape": [1], "dtype": "float32"},
            {"variable": "a/w", "shape": [1], "dtype": "float32"},
        ),
    },
    # A name has no empty parts ...
    "difference: empty parts": {
        0: ({"scope": "a/", "reuse": False}, {"error": "name"}),
        1: ({"variable": "a//x//w", "shape": [1], "dtype": "float32"}, {"error": "name"}),
        2: ({"variable": "a//", "shape": [1], "dtype": "float32"}, {"error": "name"}),
    },
    # ... and printable characters, where TensorFlow has what its graphs allow.
    "difference: odd characters": {
        i: ({"error": "name"}, {"variable": name, "shape": [1], "dtype": "float32"})
        for i, name in enumerate(["a b", "é", "_w"])
    },
    # A dtype that is given is never ignored.
    "difference: an inherited constant of another dtype": {
        1: ({"variable": "a/w", "shape": [], "dtype": "int32", "value": 2.0}, {"error": "constant and dtype"})
    },
}


INITIALIZERS = {
    "zeros": initializers.Zeros,
    "ones": initializers.Ones,
    "fives": lambda shape, dtype: np.full(shape, 5, dtype),
    "sevens": lambda: np.array([7.0, 7.0]),
}


class Player:
    """Runs the steps of a recorded scenario; record_tensorflow.py says what they mean."""

    def __init__(self, workspace):
        self.workspace = workspace
        self.scopes = {"root": get_variable_scope()}
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
        manager = variable_scope(name, options.pop("default", None), **options)
        opened = self.scopes[key] = manager.__enter__()
        self.entered[key] = manager
        return {"scope": opened.name, "reuse": "auto" if opened.reuse is AUTO_REUSE else opened.reuse}

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
        if array.size and np.all(array == array.flat[0]) and float(array.flat[0].real).is_integer():
            answer["value"] = float(array.flat[0].real)
        return answer

    def name(self, name):
        return {"name": scoped_name(name)}

    def thread(self, steps):
        return in_thread(lambda: self.play(steps))


def in_thread(function):
    """Return what a function returns in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def ws():
    with Arena("8 MiB") as arena:
        workspace = Workspace(arena=arena, name="test")
        with workspace:
            yield workspace
        workspace.clear()


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
    assert len(SCENARIOS) >= 300


# Variables are blobs of the root workspace.


def test_a_variable_is_the_blobs_array(ws):
    with variable_scope("layer"):
        w = get_variable("w", (4, 10))
    assert type(w) is np.ndarray
    assert ws["layer/w"] is w
    ws["layer/w"] = np.ones((4, 10), np.float32)
    np.testing.assert_array_equal(w, 1)
    with variable_scope("layer", reuse=True):
        assert get_variable("w") is w


def test_variables_live_in_the_root_of_the_current_workspace(ws):
    child = Workspace(ws)
    with child, ws.scope("step") as step, step:
        w = get_variable("w", (2,))
    bound = Workspace(Workspace(ws), bindings={"x": "w"})
    with bound, variable_scope("", reuse=True):
        assert get_variable("w") is w
    assert ws.local_blobs() == ["w"]
    assert child.is_empty()
    assert list(child.variables()) == list(bound.variables()) == ["w"]


def test_without_a_workspace_the_default_one_is_used():
    try:
        w = get_variable("test_variables/w", (2,))
        assert current_workspace()["test_variables/w"] is w
    finally:
        current_workspace().remove_blob("test_variables/w")
    assert current_workspace().variables() == {}


def test_variables_lists_what_is_trained_and_what_is_not(ws):
    get_variable("w", (2,))
    with variable_scope("frozen", trainable=False):
        get_variable("w", (2,))
        get_variable("v", (2,), trainable=True)
        with variable_scope("deep"):
            get_variable("w", (2,))
    assert list(ws.variables()) == ["w", "frozen/w", "frozen/v", "frozen/deep/w"]
    assert list(ws.variables(trainable=True)) == ["w", "frozen/v"]
    assert list(ws.variables(trainable=False)) == ["frozen/w", "frozen/deep/w"]
    assert all(ws[name] is array for name, array in ws.variables().items())


def test_a_removed_renamed_or_cleared_variable_is_gone(ws):
    for gone in (lambda: ws.remove_blob("w"), lambda: ws.rename_blob("w", "v"), lambda: ws.clear()):
        get_variable("w", (2,))
        gone()
        assert ws.variables() == {}
        with variable_scope("", reuse=True), pytest.raises(BlobNotFoundError, match="'w' does not exist"):
            get_variable("w")
    get_variable("w", (3,))
    ws.clear(release=False)
    assert list(ws.variables()) == ["w"]


def test_a_blob_that_is_no_variable_is_not_aliased(ws):
    ws.zeros("w", (2,))
    for reuse in (None, AUTO_REUSE):
        with (
            variable_scope("", reuse=reuse),
            pytest.raises(BindingError, match="blob 'w' that is no variable"),
        ):
            get_variable("w", (2,))
    with variable_scope("", reuse=True), pytest.raises(BlobNotFoundError):
        get_variable("w")


def test_a_saved_variable_is_loaded_in_place(ws, tmp_path):
    w = get_variable("w", (3,), initializer=initializers.Ones)
    ws.save(tmp_path / "model.safetensors")
    w[:] = 0
    ws.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(w, 1)


def test_a_workspace_with_variables_dies_at_once():
    arena = Arena("1 MiB")
    gc.disable()
    try:
        ws = Workspace(arena=arena)
        with ws, variable_scope("a") as scope:
            get_variable("w", (100,))
        assert arena.used == 512
        del ws
        assert arena.used == 0
        assert scope.name == "a"
    finally:
        gc.enable()


def test_on_the_null_device_variables_are_planned():
    ws = Workspace(arena=Arena("1 TiB", device="null"))
    with ws:
        assert get_variable("w", (1 << 30, 8)) is None
        with variable_scope("", reuse=True):
            assert get_variable("w", (1 << 30, 8)) is None
            with pytest.raises(BindingError, match=r"shape: it has \(1073741824, 8\), got \(8,\)"):
                get_variable("w", 8)
    assert ws.variables() == {"w": None}
    assert ws.arena.used == 32 << 30


# What can go wrong, and what the text says.


def test_the_text_says_where_a_variable_was_made(ws):
    get_variable("w", (2,))
    line = inspect.currentframe().f_lineno - 1
    with pytest.raises(BindingError) as raised:
        get_variable("w", (2,))
    assert f"{__file__}:{line}. " in str(raised.value)
    assert "reuse=AUTO_REUSE" in str(raised.value)


def test_the_text_names_the_field_that_differs(ws):
    get_variable("w", (2, 3), dtype="float64")
    with variable_scope("", reuse=True):
        with pytest.raises(
            BindingError, match=r"shape: it has \(2, 3\), got \(3, 2\); it was made at .*py:\d+"
        ):
            get_variable("w", (3, 2), dtype="float64")
        with pytest.raises(BindingError, match=r"dtype: it has float64, got float32 .* Pass dtype='float64'"):
            get_variable("w", (2, 3))
        with pytest.raises(BlobNotFoundError, match=r"'v' does not exist in workspace 'test'.*there: w\."):
            get_variable("v")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": 3}, BlobTypeError, "the name of a variable is a str, got int 3"),
        ({"name": "a\n"}, BindingError, "printable parts"),
        ({"name": "\ud800"}, BindingError, "printable parts"),
        ({"name": "a\u200bb"}, BindingError, "printable parts"),
        ({"name": "/w"}, BindingError, "none of them empty"),
        ({"trainable": 1}, BlobTypeError, "trainable is True, False or None, got 1"),
        ({"shape": "ab"}, BlobTypeError, "a shape is an int or a sequence of ints"),
        ({"shape": (2.5,)}, BlobTypeError, "a shape is an int or a sequence of ints"),
        ({"dtype": "float31"}, UnknownTypeError, "float31"),
        ({"dtype": "complex64"}, BindingError, "initializer: complex64 has no default"),
        ({"initializer": initializers.Normal, "dtype": "int32"}, BlobTypeError, "dtype: Normal draws real"),
        (
            {"initializer": lambda s, dtype: np.zeros(3)},
            BindingError,
            r"shape: the initializer returned \(3,\)",
        ),
        ({"initializer": lambda s, dtype: np.zeros(s, complex)}, BindingError, "dtype: .* complex128, which"),
        (
            {"initializer": lambda s, dtype: np.zeros(s), "dtype": "int32"},
            BindingError,
            "dtype: .* float64, which",
        ),
        ({"initializer": lambda s, dtype: {}}, UnknownTypeError, "dict"),
        ({"initializer": "zeros", "shape": None}, UnknownTypeError, "initializer of variable 'w'"),
        (
            {"initializer": np.zeros((1 << 10, 1 << 12)), "shape": None},
            ArenaExhausted,
            "blob 'w' needs 32.00 MiB",
        ),
        ({"initializer": lambda s, dtype: 1 / 0}, ZeroDivisionError, "division by zero"),
    ],
)
def test_a_variable_that_cannot_be_made_leaves_nothing(ws, arguments, error, text):
    with pytest.raises(error, match=text):
        get_variable(**({"name": "w", "shape": (2,)} | arguments))
    assert ws.is_empty()
    assert ws.variables() == {}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name_or_scope": None}, BlobTypeError, "give name_or_scope or default_name"),
        ({"name_or_scope": 3}, BlobTypeError, "the name of a variable scope is a str, got int 3"),
        ({"name_or_scope": "a//b"}, BindingError, "none of them empty"),
        ({"name_or_scope": None, "default_name": ""}, BindingError, "none of them empty"),
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


@pytest.mark.parametrize(
    "odd", ["a b", "näme", "日本", "\N{PILE OF POO}", "a\\b", "..", "{}%", "__metadata__x"]
)
def test_names_of_printable_characters_are_allowed(ws, odd, tmp_path):
    with variable_scope(odd):
        w = get_variable(odd, (2,), initializer=initializers.Ones)
    name = f"{odd}/{odd}"
    assert ws[name] is w
    ws.save(tmp_path / "odd.safetensors")
    copy = Workspace(arena=ws.arena)
    copy.load(tmp_path / "odd.safetensors")
    np.testing.assert_array_equal(copy[name], w)


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


# Initial values.


def test_values_depend_on_seed_and_name_and_not_on_the_order(ws):
    def build(names, **options):
        with Workspace(arena=ws.arena), variable_scope("net", **options):
            return {name: get_variable(name, (3, 4)).copy() for name in names}

    forward, backward = build(["a", "b", "c"]), build(["c", "b", "a"])
    for name in "abc":
        np.testing.assert_array_equal(forward[name], backward[name])
    assert not np.array_equal(forward["a"], forward["b"])
    assert not np.array_equal(build(["a"], seed=1)["a"], forward["a"])
    np.testing.assert_array_equal(build(["a"], seed=0)["a"], forward["a"])
    fixed = build(["a", "b"], initializer=initializers.Normal(seed=5))
    np.testing.assert_array_equal(fixed["a"], fixed["b"])


def test_the_seed_is_inherited(ws):
    with variable_scope("a", seed=7) as a, variable_scope("b"):
        assert get_variable_scope().seed == 7
    with variable_scope("c", seed=8), variable_scope(a):
        assert get_variable_scope().seed == 7


def test_the_dtype_does_not_change_the_values(ws):
    with variable_scope("", initializer=initializers.HeNormal):
        exact = get_variable("w", (64, 8), dtype="float64").copy()
        for dtype in ("float32", "float16", "bfloat16"):
            ws.clear()
            np.testing.assert_array_equal(get_variable("w", (64, 8), dtype=dtype), exact.astype(dtype))


def test_initializers_of_other_kinds(ws):
    np.testing.assert_array_equal(get_variable("a", (2,), initializer=initializers.Constant(3)), [3, 3])
    np.testing.assert_array_equal(
        get_variable("b", (2,), initializer=lambda s, dtype: np.full(s, 4.0)), [4, 4]
    )
    values = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    held = get_variable("c", initializer=values)
    assert held.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(held, values)
    assert not np.shares_memory(held, values)
    assert get_variable("d", initializer=2**40).dtype == np.int64
    assert get_variable("e", initializer=np.float64(1)).dtype == np.float64


def test_scopes_of_names_and_devices_do_not_move_a_variable(ws):
    with name_scope("n"), device_scope("null"):
        w = get_variable("w", (2,))
    assert ws["w"] is w


# Shared scopes.


def test_a_scope_shared_under_another_name_is_the_same_variables(ws):
    with variable_scope("encoder") as encoder:
        w = get_variable("w", (2, 2))
        with variable_scope("deep"):
            b = get_variable("b", (2,), trainable=False)
    shared = share_variables(encoder, "decoder")
    assert shared.keys() == {"decoder/w", "decoder/deep/b"}
    assert shared["decoder/w"] is w
    with variable_scope("decoder", reuse=True):
        assert get_variable("w", (2, 2)) is w
        assert get_variable("deep/b") is b
    with variable_scope("decoder"):
        with pytest.raises(BindingError, match="'decoder/w' exists already"):
            get_variable("w", (2, 2))
        get_variable("own", (1,))
    assert list(ws.variables()) == ["encoder/w", "encoder/deep/b", "decoder/own"]  # each once
    assert list(ws) == ["encoder/w", "encoder/deep/b", "decoder/own"]
    assert share_variables(encoder, "decoder").keys() == shared.keys()  # again is no error


def test_one_variable_is_shared(ws):
    table = get_variable("embedding/table", (4, 2))
    get_variable("embedding/table_2", (4, 2))
    assert share_variables("embedding/table", "output/w") == {"output/w": table}


def test_variables_are_shared_with_another_workspace(ws):
    other = Workspace(arena=ws.arena, name="other")
    with variable_scope("net"):
        w = get_variable("w", (2,), initializer=initializers.Ones)
    used = ws.arena.used
    share_variables("net", "copy/of/net", workspace=Workspace(other))
    share_variables("", "", workspace=other)
    with other, variable_scope("copy/of/net", reuse=True):
        get_variable("w")[:] = 5
    np.testing.assert_array_equal(w, 5)
    assert list(other.variables()) == ["copy/of/net/w"]
    assert ws.arena.used == used
    with other, variable_scope("net", reuse=True):
        assert get_variable("w") is w


def test_a_shared_variable_outlives_the_workspace_that_made_it():
    arena = Arena("64 KiB")
    first, second = Workspace(arena=arena), Workspace(arena=arena)
    with first:
        get_variable("w", (2,), initializer=initializers.Ones)
        share_variables("w", "w", workspace=second)
    del first
    with second, variable_scope("", reuse=True):
        np.testing.assert_array_equal(get_variable("w"), 1)
    del second
    assert arena.used == 0


def test_a_pair_that_would_alias_by_accident_is_refused(ws):
    for name in ("a/v", "a/w", "b/w"):
        get_variable(name, (2,))
    with pytest.raises(
        BindingError, match=r"'a/w' cannot be shared as 'b/w': .* made at .*test_variables.py:\d+"
    ):
        share_variables("a", "b")
    ws.zeros("c/w", (2,))
    with pytest.raises(BindingError, match=r"'a/w' cannot be shared as 'c/w': .* has a blob of that name"):
        share_variables("a", "c")
    for target in ("a", "a/deeper"):
        with pytest.raises(BindingError, match="cannot be shared with themselves"):
            share_variables("a", target)
    with pytest.raises(BindingError, match="cannot be shared with themselves"):
        share_variables("", "all")
    with pytest.raises(BlobNotFoundError, match="has no variables at 'none'"):
        share_variables("none", "b")
    with pytest.raises(BlobTypeError, match="is a str, got int"):
        share_variables("a", 3)
    with pytest.raises(BlobTypeError, match="workspace= takes a Workspace, got str 'other'"):
        share_variables("a", "a", workspace="other")
    planned = Workspace(arena=Arena("64 KiB", device="null"), name="planned")
    with pytest.raises(BindingError, match="'planned' is on null, the variables are on cpu"):
        share_variables("a", "a", workspace=planned)
    assert list(ws.variables()) == ["a/v", "a/w", "b/w"]  # and nothing of "a" was shared with "b" or "c"
    with variable_scope("b", reuse=True), pytest.raises(BlobNotFoundError):
        get_variable("v")
