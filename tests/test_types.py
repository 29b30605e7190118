"""Known types: names and numbers, guests' dtypes, registered classes, the limit."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import numscope as ns

TENSOR_TYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
]


@pytest.mark.parametrize("name", TENSOR_TYPES)
def test_a_tensor_type_is_known_by_name_dtype_class_and_array(name):
    scalar = getattr(ml_dtypes, name, None) or getattr(np, name if name != "bool" else "bool_")
    dtype = np.dtype(scalar)
    record = ns.known_type(name)
    assert (record.name, record.itemsize, record.dtype) == (name, dtype.itemsize, dtype)
    for x in (dtype, scalar, np.zeros(3, dtype), np.zeros(3, dtype)[0]):
        assert ns.known_type(x) == record
        assert ns.is_known_type(x)


def test_ids_are_distinct_and_stay():
    ids = [ns.known_type(name).id for name in TENSOR_TYPES]
    assert len(set(ids)) == len(ids)
    # c10::ScalarType's
    assert [ns.known_type(n).id for n in ("uint8", "float16", "float32", "bool", "bfloat16")] == [
        0,
        5,
        6,
        11,
        15,
    ]


def test_other_values_are_known_by_class_and_instance():
    for cls in (str, bytes, ns.WorkspaceStack):
        record = ns.known_type(cls)
        assert record.itemsize == 0
        assert record.dtype is None
    assert ns.known_type(ns.WorkspaceStack()) == ns.known_type(ns.WorkspaceStack)
    assert ns.known_type(b"text") == ns.known_type(bytes)


def test_python_and_numpy_words_for_the_same_type():
    assert ns.known_type(float).name == "float64"
    assert ns.known_type("f4").name == "float32"
    assert ns.known_type(np.longlong).name == "int64"
    assert ns.known_type(np.dtype(np.uintp)).name == "uint64"


def test_guests_dtypes_are_known():
    torch = pytest.importorskip("torch")
    for name in ("float32", "bfloat16", "float8_e5m2", "bool", "int64", "complex64", "uint16"):
        assert ns.known_type(getattr(torch, name)).name == name
    assert ns.known_type(torch.zeros(2, dtype=torch.half)).name == "float16"
    assert not ns.is_known_type(torch.complex32)
    with pytest.raises(ns.UnknownTypeError, match=r"dtype torch\.complex32 is no known type; .* Convert"):
        ns.known_type(torch.complex32)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "float31",
        object,
        dict,
        [1, 2],
        3,
        2.5,
        np.dtype(">f4"),
        np.dtype("M8[s]"),
        np.dtype("U3"),
        np.longdouble,
        np.dtype([("a", "f4")]),
        np.array(["text"]),
        np.array([None]),
    ],
    ids=repr,
)
def test_anything_else_is_an_error_that_lists_what_is_known(wrong):
    assert not ns.is_known_type(wrong)
    with pytest.raises(ns.UnknownTypeError, match=r"known are: .*bfloat16.*float32") as error:
        ns.known_type(wrong)
    assert isinstance(error.value, TypeError)


def test_swapped_bytes_are_named_with_the_cure():
    with pytest.raises(ns.UnknownTypeError, match=r"'>f4' \(bytes swapped\).*astype\('float32'\)"):
        ns.known_type(np.zeros(2, ">f4"))


def test_a_registered_class_can_stand_in_blobs(ws):
    class Tokenizer:
        pass

    value = Tokenizer()
    with pytest.raises(ns.UnknownTypeError, match="Tokenizer"):
        ws["tokenizer"] = value
    assert "tokenizer" not in ws
    record = ns.register_known_type(Tokenizer)
    assert ns.register_known_type(Tokenizer) is record
    assert ns.known_type(value) == record == ns.known_type(Tokenizer) == ns.known_type(record.name)
    ws["tokenizer"] = value
    assert ws["tokenizer"] is value
    assert ws.get_blob("tokenizer").is_type(Tokenizer)

    class Subclass(Tokenizer):
        pass

    assert not ns.is_known_type(Subclass)


def test_classes_of_the_same_name_are_told_apart():
    def make():
        class Twin:
            pass

        return Twin

    first, second, third = make(), make(), make()
    second.__module__ = "elsewhere"
    records = [ns.register_known_type(first), ns.register_known_type(second)]
    assert records[0].name != records[1].name
    assert ns.known_type(records[1].name) == records[1]
    third.__module__ = "elsewhere"
    with pytest.raises(ns.UnknownTypeError, match="__qualname__"):
        ns.register_known_type(third)


@pytest.mark.parametrize("wrong", [3, "name", np.ndarray, np.float32, None])
def test_only_classes_that_are_no_arrays_are_registered(wrong):
    with pytest.raises(ns.UnknownTypeError):
        ns.register_known_type(wrong)


def test_at_most_255_types_are_known():
    script = """
import numscope as ns
made = []
for i in range(300):
    cls = type(f"Class{i}", (), {})
    try:
        made.append(ns.register_known_type(cls))
    except ns.UnknownTypeError as error:
        assert "255" in str(error), error
        break
assert len({record.id for record in made}) == len(made)
assert not ns.is_known_type(cls)
assert ns.register_known_type(str) == ns.known_type(str)
try:
    ns.known_type(cls)
except ns.UnknownTypeError as error:
    known = str(error).split("known are: ")[1].split(".")[0]
    print(len(known.split(", ")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 255
