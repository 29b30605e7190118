"""Variables: blobs of the root workspace, their texts, files and second names."""

import gc
import inspect

import ml_dtypes
import numpy as np
import pytest

from numscope import initializers, storage
from numscope.arena import Arena
from numscope.errors import (
    ArenaExhausted,
    BindingError,
    BlobNotFoundError,
    BlobTypeError,
    UnknownTypeError,
)
from numscope.operators import Operator
from numscope.scopes import device_scope, name_scope
from numscope.sharing import share_variables
from numscope.stack import WorkspaceStack
from numscope.variable_scopes import AUTO_REUSE, get_variable_scope, variable_scope
from numscope.variables import get_variable
from numscope.workspace import Workspace, current_workspace


@pytest.fixture
def ws(ws):
    """The fresh workspace of all tests, as the current one."""
    with ws:
        yield ws


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
            share_variables("a", "b")
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
        with pytest.raises(BlobNotFoundError, match=r"'v' does not exist in workspace 'main'.*there: w\."):
            get_variable("v")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": 3}, BlobTypeError, "the name of a variable is a str, got int 3"),
        ({"name": "a\n"}, BindingError, "letters A-Z and a-z, digits and"),
        ({"name": "\ud800"}, BindingError, "letters A-Z and a-z, digits and"),
        ({"name": "a\u200bb"}, BindingError, "letters A-Z and a-z, digits and"),
        ({"name": "/w"}, BindingError, "the first one a letter, a digit or '.'; put '_' in the place"),
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


@pytest.mark.parametrize("odd", ["a-b", "a.b", ".", "9", "..", "a\\b", "a>b", "a//b", "a/"])
def test_odd_names_are_saved_and_loaded(ws, odd, tmp_path):
    with variable_scope(odd), variable_scope(""):
        w = get_variable(f"_{odd}", (2,), initializer=initializers.Ones)
    name = f"{odd}//_{odd}"
    assert ws[name] is w
    ws.save(tmp_path / "odd.safetensors")
    copy = Workspace(arena=ws.arena)
    copy.load(tmp_path / "odd.safetensors")
    np.testing.assert_array_equal(copy[name], w)


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
    assert ws.local_blobs() == ["encoder/w", "encoder/deep/b", "decoder/own"]
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


def test_a_second_name_is_one_for_blobs_too(ws, tmp_path):
    w = get_variable("a/w", (2,), initializer=initializers.Ones)
    share_variables("a", "b")
    assert ws["b/w"] is w
    ws.run(Operator("Scale", ["b/w"], ["b/w"], scale=3.0))
    np.testing.assert_array_equal(w, 3)
    ws["b/w"] = [4.0, 4.0, 4.0]
    assert ws["a/w"] is ws["b/w"]
    assert ws["a/w"].shape == (3,)
    frame = WorkspaceStack().push_forward_workspace(ws, {"x": "b/w"})
    assert frame["x"] is Workspace(ws)["b/w"] is ws["a/w"]
    other = Workspace(arena=ws.arena)
    other.zeros("a/w", (3,), dtype="float64")
    ws.merge_into(other)  # meets the memory once
    np.testing.assert_array_equal(other["a/w"], 4)
    ws.save(tmp_path / "model.safetensors")
    assert storage.load(tmp_path / "model.safetensors").keys() == {"a/w"}


def test_a_second_name_in_another_workspace_is_one_for_blobs_too(ws):
    other, third = Workspace(arena=ws.arena, name="other"), Workspace(arena=ws.arena, name="third")
    w = get_variable("a/w", (2,))
    share_variables("a", "b", workspace=other)
    with other:
        share_variables("b", "c")  # a second name of what is not local
        share_variables("c", "d", workspace=third)
        share_variables("c", "e", workspace=ws)  # and back to where it is
    assert other["b/w"] is other["c/w"] is third["d/w"] is ws["e/w"] is w
    assert list(ws.variables()) == ["a/w"]
    with other:
        get_variable("own", (1,))
        with pytest.raises(
            BindingError, match="'own' cannot be shared with workspace 'main': its own, 'other', sees"
        ):
            share_variables("own", "own", workspace=ws)
    assert "own" not in ws


@pytest.mark.parametrize("make_again", [False, True])
def test_the_second_name_of_a_variable_that_is_gone_is_free(ws, make_again):
    other = Workspace(arena=ws.arena)
    get_variable("a", (2,))
    share_variables("a", "b")
    share_variables("a", "c", workspace=other)
    ws.remove_blob("a")
    again = get_variable("a", (2,)) if make_again else None
    b = get_variable("b", (5,))
    assert b is ws["b"] is not again
    assert "b" in ws.local_blobs()
    with other:
        c = get_variable("c", (4,))
    assert other["c"] is c
    assert share_variables("b", "d")["d"] is ws["d"] is b
    ws.remove_blob("b")
    get_variable("e", (1,))
    assert share_variables("e", "d")["d"] is ws["d"] is ws["e"]


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


def test_names_with_empty_parts_are_shared_apart(ws):
    with variable_scope("a"):
        w = get_variable("w", (1,))
        with variable_scope(""):
            v = get_variable("w", (1,))
    shared = share_variables("a", "b")
    assert shared.keys() == {"b/w", "b//w"}
    assert shared["b/w"] is w
    assert shared["b//w"] is v
    assert share_variables("a/", "c").keys() == {"c/w"}
    assert share_variables("a/", "d/")["d//w"] is v
    with pytest.raises(BindingError, match="'a/w' cannot be shared as '': give it a name"):
        share_variables("a/w", "")
    with pytest.raises(BindingError, match="'é/w' is no name for a variable"):
        share_variables("a", "é")
