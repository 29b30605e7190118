"""Errors: each of the type that fits, and with what, got, expected and the cure in its text."""

import pickle
import re

import numpy as np
import pytest

import numscope as ns

BUILTINS = {
    ns.AccumulationError: RuntimeError,
    ns.ArenaExhausted: MemoryError,
    ns.BindingError: ValueError,
    ns.BlobNotFoundError: KeyError,
    ns.BlobTypeError: TypeError,
    ns.DeviceUnavailableError: RuntimeError,
    ns.OperatorError: RuntimeError,
    ns.StackError: RuntimeError,
    ns.UnknownTypeError: TypeError,
}


def test_the_tree_is_complete():
    assert set(ns.NumscopeError.__subclasses__()) == set(BUILTINS)
    for error, builtin in BUILTINS.items():
        assert issubclass(error, builtin)
        assert error.__doc__


@pytest.mark.parametrize("error", [e for e in BUILTINS if e is not ns.ArenaExhausted])
def test_texts_are_shown_as_they_are_and_survive_pickling(error):
    text = "no 'x' here\nsecond line"
    assert str(error(text)) == text
    copy = pickle.loads(pickle.dumps(error(text)))
    assert (type(copy), str(copy)) == (error, text)


def closed():
    arena = ns.Arena("1 MiB")
    ws = ns.Workspace(arena=arena)
    arena.close()
    return ws


def known_by(parent):
    """Return a stack that expects one parent."""
    stack = ns.WorkspaceStack(debug=True)
    stack.push_forward_workspace(parent)
    return stack


def null():
    ws = ns.Workspace(device="null", name="plan")
    ws.empty("x", 3)
    return ws


def one_like(ws):
    """Return a workspace with a blob x of the same value."""
    other = ns.Workspace(arena=ws.arena)
    other["x"] = ws["x"]
    return other


# What is done to a workspace "main" with blobs x (float64, shape (2,)) and t (text) and a child that sees
# both; the error; and what its text has to say, in this order.
CASES = {
    "missing": (
        lambda ws, child: child["y"],
        ns.BlobNotFoundError,
        "'y' in workspace 'child', which has: t, x",
    ),
    "missing of many": (
        lambda ws, child: (ws.update({f"b{i}": 1 for i in range(20)}), ws["y"]),
        ns.BlobNotFoundError,
        "'y'.*b0, b1, .*, ...$",
    ),
    "not local": (lambda ws, child: child.pop("x"), ns.BlobNotFoundError, "no local blob 'x'.*'child'.*none"),
    "rename": (lambda ws, child: child.rename_blob("x", "y"), ns.BlobNotFoundError, "Blob x .*local.*'y'"),
    "rename onto": (
        lambda ws, child: ws.rename_blob("x", "t"),
        ns.BindingError,
        "Blob t is already.*another name",
    ),
    "name": (lambda ws, child: ws.feed(3, [1]), ns.BlobTypeError, "str, got int 3"),
    "workspace name": (
        lambda ws, child: ns.Workspace(ws, name=3),
        ns.BlobTypeError,
        "name of a workspace is a str, got int 3",
    ),
    "scope name": (
        lambda ws, child: ws.scope(["x"]).__enter__(),
        ns.BlobTypeError,
        r"name of a scope is a str, got list \['x'\]",
    ),
    "object": (
        lambda ws, child: ws.feed("y", object()),
        ns.UnknownTypeError,
        "'y': object .*float32.*Register",
    ),
    "dtype": (
        lambda ws, child: ws.empty("y", 3, "float31"),
        ns.UnknownTypeError,
        "'float31'.*known are: .*float32",
    ),
    "text as dtype": (
        lambda ws, child: ws.empty("y", 3, str),
        ns.UnknownTypeError,
        "str is no tensor.*expected one",
    ),
    "swapped": (
        lambda ws, child: ws.feed("y", np.zeros(2, ">f8")),
        ns.UnknownTypeError,
        r"'y'.*'>f8' \(bytes swapped\).*float64.*astype\('float64'\)",
    ),
    "masked": (lambda ws, child: ws.feed("y", np.ma.array([1])), ns.UnknownTypeError, r"'y'.*masked.*filled"),
    "negative": (
        lambda ws, child: ws.empty("y", (2, -3)),
        ns.BindingError,
        r"not be negative, got \(2, -3\)",
    ),
    "huge": (
        lambda ws, child: ws.empty("y", 2**62),
        ns.BindingError,
        r"4611686018427387904.*4-byte.*2\*\*63",
    ),
    "exhausted": (
        lambda ws, child: child.empty("y", 2**30),
        ns.ArenaExhausted,
        r"'y' needs 4.00 GiB \(4294967296 bytes\).* on cpu.*of 4194304 bytes are free.*'x' 256 B.*larger A",
    ),
    "fill": (lambda ws, child: ws.full("y", 3, "a"), ns.BindingError, "'y' of float32.*'a'.*number"),
    "allocate": (
        lambda ws, child: ws.allocate({"y": 3}),
        ns.BlobTypeError,
        r"'y': expected \(shape, dtype\), got 3; write",
    ),
    "allocate many": (
        lambda ws, child: ws.allocate({"a": (3, "f4"), "y": ((2, -3), "f4")}),
        ns.BindingError,
        r"'y'.*not be negative, got \(2, -3\)",
    ),
    "get": (
        lambda ws, child: ws.get_blob("t").get(bytes),
        ns.BlobTypeError,
        "'t'.*contains str.*expects bytes; set",
    ),
    "binding": (
        lambda ws, child: ns.Workspace(ws, bindings={"a": "y"}),
        ns.BindingError,
        "blob y: workspace 'main'.*'a'.*make it there first",
    ),
    "no parent": (
        lambda ws, child: ns.Workspace(bindings={}),
        ns.BindingError,
        "must be specified.*pass the",
    ),
    "bindings": (
        lambda ws, child: ns.Workspace(ws, bindings=["x"]),
        ns.BlobTypeError,
        r"mapping.*\['x'\]; pass a dict",
    ),
    "redefinition": (
        lambda ws, child: child.add_blob_mapping(ws, {"x": "t"}),
        ns.BindingError,
        "Redefinition of blob x: workspace 'child'.*remove it first",
    ),
    "circle": (
        lambda ws, child: ws.add_blob_mapping(child, {"y": "x"}),
        ns.BindingError,
        "'main' cannot forward.*'child'.*bind to one",
    ),
    "merge target": (lambda ws, child: ws.merge_into(5), ns.BlobTypeError, "Workspace, got int 5"),
    "merge op": (
        lambda ws, child: ws.merge_into(child, op="max"),
        ns.BindingError,
        """"add" or "copy", got 'max'""",
    ),
    "merge scaled": (
        lambda ws, child: (ws.feed("x", [1, 2]), one_like(ws).merge_into(ws, "copy", 2.0)),
        ns.BindingError,
        "'x' of int64.*cannot be scaled and copied into int64 in 'main'.*expected float16",
    ),
    "merge names": (
        lambda ws, child: ws.zero("x"),
        ns.BlobTypeError,
        "iterable of names or a predicate, got .*'x'",
    ),
    "merge text": (
        lambda ws, child: ws.zero(["t"]),
        ns.BlobTypeError,
        "'t' holds str, expected a tensor; leave",
    ),
    "copy names": (
        lambda ws, child: child.copy_forwarded_tensors("x"),
        ns.BlobTypeError,
        "iterable of str, got str 'x'; pass a list",
    ),
    "null": (
        lambda ws, child: null()["x"],
        ns.DeviceUnavailableError,
        "'x'.*'null'.*no memory.*device=\"cpu\"",
    ),
    "null kernels": (
        lambda ws, child: null().pieces(),
        ns.DeviceUnavailableError,
        "'null'.*use device=\"cpu\"",
    ),
    "device": (
        lambda ws, child: ns.Arena(9, device="tpu"),
        ns.DeviceUnavailableError,
        "'tpu'.*'cpu', .*'null'",
    ),
    "closed": (
        lambda ws, child: closed().empty("x", 3),
        ns.DeviceUnavailableError,
        "on cpu is closed; make a new",
    ),
    "closed kernels": (
        lambda ws, child: closed().pieces(),
        ns.DeviceUnavailableError,
        "on cpu is closed; make a new",
    ),
    "size": (lambda ws, child: ns.Arena("12 parsecs"), ns.BindingError, "'12 parsecs'.*expected.*64 MiB"),
    "no size": (lambda ws, child: ns.Arena(-5), ns.BindingError, "positive, got -5"),
    "too large": (lambda ws, child: ns.Arena("5000 PiB"), ns.ArenaExhausted, "refuses.*smaller arena"),
    "arena": (lambda ws, child: ns.Workspace(arena=5), ns.BlobTypeError, "Arena, got int"),
    "two arenas": (
        lambda ws, child: ns.Workspace(ws, arena=ns.Arena(99)),
        ns.BindingError,
        "parent's arena: pass a parent or an arena",
    ),
    "parent": (
        lambda ws, child: known_by(ws).push_forward_workspace(child),
        ns.StackError,
        "got 'child', expected 'main'; use one stack",
    ),
    "mismatch": (
        lambda ws, child: ns.WorkspaceStack.check_bindings_match({"a": "x"}, {"a": "t"}),
        ns.BindingError,
        "'a' -> 't', expected 'x'",
    ),
    "complex file": (
        lambda ws, child: (ws.feed("x", [1j]), ws.save("never")),
        ns.BlobTypeError,
        "'x' holds a tensor of complex128.*expected text or a tensor of .*float32.*names=",
    ),
    "class": (lambda ws, child: ns.register_known_type(3), ns.UnknownTypeError, "a class .*got 3"),
    "net": (lambda ws, child: ws.run_net("nothing"), ns.OperatorError, "Can't find net nothing.*create_net"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_text_says_what_got_expected_and_the_cure(ws, case):
    ws["x"], ws["t"] = [1.0, 2.0], "text"
    child = ns.Workspace(ws, name="child")
    call, error, words = CASES[case]
    with pytest.raises(error) as raised:
        call(ws, child)
    text = str(raised.value)
    assert type(raised.value) is error
    assert re.search(words, text, re.DOTALL), text
    assert text == text.strip()
    assert child.is_empty()
    assert "x" in ws


@pytest.mark.parametrize("size", ["12 parsecs", "0", "-1 GiB"])
def test_a_wrong_environment_variable_is_named(monkeypatch, size):
    monkeypatch.setenv("NUMSCOPE_ARENA", size)
    monkeypatch.setattr("numscope.defaults._defaults", {})
    with pytest.raises(ns.BindingError, match=f"NUMSCOPE_ARENA: .*{size}"):
        ns.default_arena()


def test_the_environment_sets_the_size_of_the_default_arena(monkeypatch):
    monkeypatch.setenv("NUMSCOPE_ARENA", "3 MiB")
    monkeypatch.setattr("numscope.defaults._defaults", {})
    assert ns.default_arena().capacity == 3 << 20


def test_default_capacity_is_address_space_of_64_gib(monkeypatch):
    monkeypatch.delenv("NUMSCOPE_ARENA", raising=False)
    monkeypatch.setattr("numscope.defaults._defaults", {})
    arena = ns.default_arena()
    assert arena.capacity == 64 << 30
    arena.close()
