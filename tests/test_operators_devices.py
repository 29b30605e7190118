"""Operators on devices: what they call exists in CuPy, and no tensor of another device gets in."""

import ast
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest

import numscope.operators
from numscope.arena import Arena
from numscope.errors import OperatorError
from numscope.operators import Do, Net, Operator
from numscope.types import known_dtype
from numscope.workspace import Workspace

FILES = sorted(Path(numscope.operators.__file__).parent.glob("*.py"))
# These look at dtypes, shapes and host values; no array of a device gets into them.
HOST_ONLY = {"array", "bool_", "broadcast_shapes", "broadcast_to", "dtype", "errstate", "floating", "float32"}
HOST_ONLY |= {"generic", "int8", "int32", "int64", "integer", "ndarray"}
UFUNC = {"out", "casting", "dtype"}


def is_module(node):
    """Whether an expression is the array module of a device: `xp`, or a call of `array_module`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "array_module"
    return isinstance(node, ast.Name) and node.id == "xp"


def calls():
    """Each function of the array module that an operator calls, and the keywords that it passes."""
    found = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if is_module(node.func.value):
                    found.setdefault(node.func.attr, set()).update(k.arg for k in node.keywords if k.arg)
            elif isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == [
                "function"
            ]:
                found.setdefault(node.value.value, {"out"})  # of a class: the ufunc that it stands for
    return found


def test_the_calls_are_found():
    found = calls()
    assert {"copyto", "matmul", "concatenate", "logical_and", "tanh", "less"} <= set(found)
    assert found["sum"] == {"axis", "dtype", "keepdims"}


@pytest.mark.parametrize("library", ["numpy", "cupy"])
def test_what_operators_call_exists_and_takes_these_arguments(library):
    module = pytest.importorskip(library)
    for name, keywords in calls().items():
        function = getattr(module, name)
        if type(function).__name__ == "ufunc":
            assert keywords <= UFUNC, name
        elif library == "cupy":  # NumPy's own have no signatures
            parameters = inspect.signature(function).parameters
            assert keywords <= set(parameters), name


def test_arrays_are_not_given_to_numpy_by_name():
    """Such a function would fetch a CuPy array to the host, or refuse it."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                # The fills copy given values, which are on the host, if that is the device.
                assert node.attr in HOST_ONLY | ({"copyto"} if file.name == "fills.py" else set()), (
                    f"np.{node.attr} in {file.name}, line {node.lineno}"
                )


def test_bfloat16_scalars_are_scalars_for_cupy():
    scalars = importlib.import_module(pytest.importorskip("cupy").__name__ + "._core._scalar")
    for dtype in ("float16", "float32", "float64", "bfloat16"):
        number = known_dtype(dtype).type(2)
        assert scalars.CScalar(number).dtype == number.dtype


@pytest.mark.parametrize(
    "definition",
    [
        Operator("Neg", ["x"], ["y"]),
        Operator("ConstantFill", [], ["x"], value=1.0),
        Net("n", Do(Net("b", [Operator("Neg", ["x"], ["y"])]), outputs=["y"])),
        Net("n", [Operator("If", ["go"], [], then_net=Net("t", [Operator("Neg", ["x"], ["x"])]))]),
    ],
    ids=["read", "written", "in a Do", "undeclared in an If"],
)
def test_a_blob_on_another_device_is_refused_before_anything_is_changed(definition):
    with Arena("1 MiB") as arena:
        there = Workspace(arena=arena, name="there")
        there["x"] = np.ones(3)
        here = Workspace(arena=Arena("1 MiB", device="null"), name="here")
        here.add_blob_mapping(there, {"x": "x"})
        here.create_blob("go")
        before = sorted(here.blobs())
        with pytest.raises(
            OperatorError, match=r"blob 'x' is on cpu, workspace 'here' computes on null; copy the blob"
        ):
            here.run(definition)
        assert sorted(here.blobs()) == before
        np.testing.assert_array_equal(there["x"], np.ones(3))
        # What does not touch it runs, or says itself what it lacks.
        assert here.run(Operator("CreateScope", [], ["s"]))
        there.clear()


def test_a_blob_on_another_device_is_found_through_other_workspaces():
    with Arena("1 MiB") as arena:
        there = Workspace(arena=arena)
        there["x"] = np.ones(3)
        between = Workspace(arena=Arena("1 MiB", device="null"))
        between.add_blob_mapping(there, {"x": "x"})
        here = Workspace(Workspace(between, bindings={"x": "x"}))
        with pytest.raises(OperatorError, match=r"blob 'x' is on cpu, workspace .* computes on null"):
            here.run(Operator("Neg", ["x"], ["y"]))
        there.clear()


def test_a_blob_in_another_arena_of_the_same_device_is_welcome():
    with Arena("1 MiB") as first, Arena("1 MiB") as second:
        there, here = Workspace(arena=first), Workspace(arena=second)
        there["x"] = np.ones(3)
        here.add_blob_mapping(there, {"x": "x"})
        assert here.run(Operator("Neg", ["x"], ["y"]))
        assert here.arena.used > 0
        np.testing.assert_array_equal(here["y"], -np.ones(3))
        here.clear()
        there.clear()
