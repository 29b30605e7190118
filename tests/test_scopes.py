"""Name and device scopes: Caffe2's rules, threads, and every way out."""

import ast
import asyncio
import contextlib
import inspect
import sys
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numscope import scopes
from numscope.errors import BlobTypeError, StackError
from numscope.scopes import current_device, device_scope, name_scope, scoped_name

# What caffe2.python.scope gives: (prefix, reset) of the nested scopes -> the current scope.
CAFFE2 = [
    ([], ""),
    ([("a", False)], "a/"),
    ([("a", False), ("b", False)], "a/b/"),
    ([("x/y", False)], "x/y/"),
    ([("z/", False)], "z//"),
    ([("a", False), ("/", False)], "a///"),
    ([("a", False), ("", False)], "a/"),
    ([("a", False), (None, False)], "a/"),
    ([("a", False), ("b", True)], "b/"),
    ([("a", False), ("", True)], ""),
    ([("a", False), (None, True), ("c", False)], "c/"),
    ([("a", False), ("b", True), ("c", False), ("d", True)], "d/"),
]


@pytest.mark.parametrize(("nested", "expected"), CAFFE2)
def test_the_current_scope_is_caffe2s(nested, expected):
    with contextlib.ExitStack() as entered:
        for prefix, reset in nested:
            entered.enter_context(name_scope(prefix, reset))
        assert scoped_name("") == expected
        assert scoped_name("x") == expected + "x"
    assert scoped_name("") == ""


@given(st.lists(st.tuples(st.none() | st.text("ab/", max_size=3), st.booleans()), max_size=6))
def test_names_add_up_and_come_back(nested):
    expected = [""]
    with contextlib.ExitStack() as entered:
        for prefix, reset in nested:
            entered.enter_context(name_scope(prefix, reset=reset))
            expected.append(("" if reset else expected[-1]) + (f"{prefix}/" if prefix else ""))
            assert scoped_name("x") == expected[-1] + "x"
    assert scoped_name("x") == "x"


@pytest.mark.parametrize("make", [lambda: name_scope("a"), lambda: device_scope("null")])
def test_an_exception_passes_and_the_outer_scope_is_back(make):
    with name_scope("outer"), device_scope("cpu"):
        with pytest.raises(ZeroDivisionError), make():
            raise ZeroDivisionError
        assert (scoped_name(""), current_device()) == ("outer/", "cpu")


@pytest.mark.parametrize("empty", [lambda: name_scope(None, reset=True), lambda: device_scope(None)])
def test_an_empty_scope_swallows_nothing(empty):  # Caffe2's EmptyNameScope and EmptyDeviceScope do
    with pytest.raises(KeyError), empty():
        raise KeyError


def test_devices_replace_each_other():
    assert current_device() is None
    with device_scope("cuda:0"):
        with device_scope("cpu"):
            assert current_device() == "cpu"
        with device_scope(None):
            assert current_device() is None
        assert current_device() == "cuda:0"
    assert current_device() is None


@pytest.mark.parametrize("scope", [name_scope, device_scope])
@pytest.mark.parametrize("bad", [b"a", 3, ["a"], object])
def test_a_scope_takes_text(scope, bad):
    with pytest.raises(BlobTypeError, match=r"is a str or None, got (bytes|int|list|type)"):
        scope(bad)


def test_a_name_is_text():
    with pytest.raises(BlobTypeError, match="a blob's name is a str, got bytes b'a'"):
        scoped_name(b"a")


def test_leaving_out_of_order_is_an_error_that_changes_nothing():
    outer, inner = name_scope("outer"), name_scope("inner")
    outer.__enter__()
    inner.__enter__()
    message = r"name_scope\('outer'\) is left out of order: name_scope\('inner'\) is innermost"
    with pytest.raises(StackError, match=message):
        outer.__exit__(None, None, None)
    assert scoped_name("") == "outer/inner/"
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    with pytest.raises(StackError, match="no scope is entered"):
        outer.__exit__(None, None, None)
    assert scoped_name("") == ""


def test_a_generator_that_outlives_a_scope_cannot_leave_it_later():
    def steps():
        with name_scope("generator"):
            yield

    running = steps()
    next(running)
    with name_scope("caller"):
        with pytest.raises(StackError, match=r"'caller'.* is innermost"):
            running.close()
        assert scoped_name("") == "generator/caller/"
    # The generator is gone and so is its way out: what it left behind ends with this test's context.
    scopes._names.set(None)


def test_one_object_is_one_level_at_a_time():
    scope = name_scope("a")
    with scope, pytest.raises(StackError, match="entered already; make a new scope"):
        scope.__enter__()
    with scope:
        assert scoped_name("") == "a/"


def test_a_thread_starts_without_scopes():
    seen = []

    def look():
        seen.append((scoped_name("x"), current_device()))
        with name_scope("thread"):
            seen.append(scoped_name("x"))

    with name_scope("main"), device_scope("cpu"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert scoped_name("x") == "main/x"
    assert seen == [("x", None), "thread/x"]


def test_a_scope_is_left_in_the_thread_that_entered_it():
    errors = []

    def leave(scope):
        try:
            scope.__exit__(None, None, None)
        except StackError as error:
            errors.append(str(error))

    with name_scope("main") as _, name_scope("inner") as _:
        scope = name_scope("x")
        scope.__enter__()
        thread = threading.Thread(target=leave, args=(scope,))
        thread.start()
        thread.join()
        assert scoped_name("") == "main/inner/x/"
        scope.__exit__(None, None, None)
    assert "no scope is entered in this thread" in errors[0]


def test_asyncio_tasks_do_not_see_each_others_scopes():
    async def task(name, wait_first):
        with name_scope(name):
            await asyncio.sleep(0.002 if wait_first else 0)
            with name_scope("inner"):
                await asyncio.sleep(0 if wait_first else 0.004)
                return scoped_name("x")

    async def main():
        with name_scope("main"):
            started = [asyncio.create_task(task("a", True)), asyncio.create_task(task("b", False))]
        # The tasks began inside "main" and still see it, though it is left here.
        return await asyncio.gather(*started)

    assert asyncio.run(main()) == ["main/a/inner/x", "main/b/inner/x"]


def test_ten_thousand_nested_scopes():
    tracemalloc.start()
    with contextlib.ExitStack() as entered:
        for i in range(10_000):
            entered.enter_context(name_scope(f"scope{i}"))
            entered.enter_context(device_scope("cpu"))
        name = scoped_name("x")
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert name.startswith("scope0/scope1/")
    assert name.endswith("/scope9999/x")
    assert peak < 32 << 20  # whole names at every level would be 500 MB
    assert (scoped_name("x"), current_device()) == ("x", None)


def test_ten_thousand_scopes_one_after_the_other():
    for i in range(10_000):
        with name_scope(f"scope{i}"):
            pass
    assert scoped_name("x") == "x"


@pytest.mark.parametrize("odd", ["a b", "tab\t", "näme", "日本", "\N{PILE OF POO}", "a\\b", "..", "\0"])
def test_a_name_scope_takes_any_text(odd):
    with name_scope(odd):
        assert scoped_name("x") == f"{odd}/x"


def test_the_module_imports_the_standard_library_and_the_errors_only():
    tree = ast.parse(inspect.getsource(scopes))
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert {m for m in modules if m.split(".")[0] not in sys.stdlib_module_names} == {"numscope.errors"}
