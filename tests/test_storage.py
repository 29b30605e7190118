"""Files: whole or absent, all or nothing."""

import json
import os
import stat
import struct

import ml_dtypes
import numpy as np
import pytest

import numscope as ns
from numscope import storage

SAVED = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32"),
    *("float64", "complex64", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "blobs.safetensors"


def files(path):
    return sorted(os.listdir(path.parent))


def test_every_dtype_comes_back(ws, path):
    for i, dtype in enumerate(SAVED):
        ws[f"x{i}"] = np.arange(24).reshape(2, 3, 4).astype(dtype)
    ws["scalar"], ws["none"] = 2.5, np.zeros((0, 3), np.int8)
    ws["text"], ws["empty text"], ws["ä/日本"] = "line\nbreak ✓", "", [1.0]
    ws.save(path)
    other = ns.Workspace(arena=ns.Arena("1 MiB"))
    other.load(path)
    assert sorted(other) == sorted(ws)
    for name in ws:
        if isinstance(ws[name], str):
            assert other[name] == ws[name]
        else:
            assert other[name].dtype == ws[name].dtype
            assert other[name].shape == ws[name].shape
            assert other[name].tobytes() == ws[name].tobytes()
    assert files(path) == ["blobs.safetensors"]


def test_a_load_has_one_order(ws, path):
    for i in range(20):
        ws[f"x{i}"], ws[f"t{i}"] = [1.0], "text"
    ws.save(path)
    first, second = (list(storage.load(path)) for _ in range(2))
    assert first == second
    assert sorted(first) == sorted(ws)


def test_others_read_what_was_saved(ws, path):
    numpy_reader = pytest.importorskip("safetensors.numpy")
    ws["x"] = np.arange(6.0).reshape(2, 3)
    ws.save(path)
    assert (numpy_reader.load_file(path)["x"] == ws["x"]).all()


def test_arrays_with_gaps_are_right(path):
    x = np.arange(24.0).reshape(4, 6)
    storage.save(path, {"t": x.T, "s": x[::2, ::-3], "b": np.broadcast_to(x[0], (3, 6))})
    back = storage.load(path)
    assert (back["t"] == x.T).all()
    assert (back["s"] == x[::2, ::-3]).all()
    assert (back["b"] == x[0]).all()


def test_local_blobs_are_saved_or_those_that_are_chosen(ws, path):
    ws["a"], ws["b"] = [1.0], [2.0]
    child = ns.Workspace(ws)
    child["c"] = [3.0]
    child.save(path)
    assert list(storage.load(path)) == ["c"]
    ws.save(path, names=["b"])
    assert list(storage.load(path)) == ["b"]
    ws.save(str(path), names=lambda name: name < "b")
    assert list(storage.load(path)) == ["a"]
    with pytest.raises(ns.BlobNotFoundError):
        ws.save(path, names=["a", "c"])
    assert list(storage.load(path)) == ["a"]


@pytest.mark.parametrize("value", [b"bytes", ns.WorkspaceStack(), np.ones(2, np.complex128), None])
@pytest.mark.parametrize("exists", [False, True])
def test_other_values_are_refused_before_anything_is_written(ws, path, value, exists):
    ws["good"] = [1.0]
    if exists:
        ws.save(path)
    ws.create_blob("bad") if value is None else ws.feed("bad", value)
    with pytest.raises(ns.BlobTypeError, match=r"'bad' holds .*names="):
        ws.save(path)
    assert files(path) == ["blobs.safetensors"] * exists
    assert not exists or list(storage.load(path)) == ["good"]


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_reserved_names_are_refused(ws, path, name):
    for value in ([1.0], "text"):
        ws[name] = value
        with pytest.raises(ns.BlobTypeError, match=r"reserved|Unicode"):
            ws.save(path)
    assert files(path) == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize(
    "where", ["os.fsync", "os.replace", "os.chmod", "os.close", "safetensors.serialize_file"]
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_save_is_whole_or_absent(ws, path, monkeypatch, error, where, exists):
    ws["x"] = [1.0]
    if exists:
        ws.save(path)
    ws["x"] = [2.0]

    def fail(*args, **kwargs):
        if where == "os.close":
            real_close(*args)
        raise error

    real_close = os.close
    monkeypatch.setattr(where, fail)
    with pytest.raises(type(error)):
        ws.save(path)
    monkeypatch.undo()
    assert files(path) == ["blobs.safetensors"] * exists
    assert not exists or storage.load(path)["x"].tolist() == [1.0]


def test_an_interrupt_after_the_last_step_is_the_one_seen(ws, path, monkeypatch):
    ws["x"] = [1.0]

    def replace(*args):
        real_replace(*args)
        raise KeyboardInterrupt

    real_replace = os.replace
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        ws.save(path)
    assert storage.load(path)["x"].tolist() == [1.0]
    assert files(path) == ["blobs.safetensors"]


def test_a_saved_file_has_the_rights_of_any_new_file(ws, path):
    ws["x"] = [1.0]
    ws.save(path)
    (path.parent / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "plain").stat().st_mode)


def test_a_path_is_text_bytes_or_a_path(ws, path):
    ws["x"] = [1.0]
    for kind in (str, os.fsencode):
        ws.save(kind(path))
        ws.load(kind(path))
    for wrong in (None, 0):  # 0 is standard input
        for call in (ws.save, ws.load):
            with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object"):
                call(wrong)


def test_only_files_are_replaced(ws, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="is no plain file, expected one to replace, or a new name"):
            ws.save(path)
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_a_link_names_is_replaced_and_the_link_stays(ws, path, tmp_path):
    ws["x"] = np.ones(2)
    (tmp_path / "latest").symlink_to(path)
    for _ in range(2):
        ws.save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    np.testing.assert_array_equal(storage.load(path)["x"], 1)


def test_a_folder_that_is_not_there_is_an_os_error(ws, path):
    ws["x"] = [1.0]
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere/x\.safetensors'"):
        ws.save(path.parent / "nowhere" / "x.safetensors")
    with pytest.raises(IsADirectoryError, match="is no plain file"):
        ws.save(path.parent)
    with pytest.raises(FileNotFoundError):
        ws.load(path)
    assert files(path) == []


def test_loading_overwrites_in_place_what_fits(ws, path):
    ws["x"], ws["y"], ws["t"] = np.arange(4.0), np.arange(3), "old"
    ws.save(path)
    array = ws["x"]
    array[:] = 0
    ws["y"], ws["t"], ws["other"] = "no tensor any more", [1.0], [7.0]
    child = ns.Workspace(ws)
    child.load(path)
    assert ws["x"] is array
    assert array.tolist() == [0, 1, 2, 3]
    assert ws["y"].tolist() == [0, 1, 2]
    assert ws["t"] == "old"
    assert ws["other"].tolist() == [7.0]
    assert child.is_empty()


def damaged(content):
    header = int.from_bytes(content[:8], "little")
    yield "nothing", b""
    yield "a few bytes", content[:5]
    yield "no header", content[:8]
    yield "half a header", content[: 8 + header // 2]
    yield "half the data", content[:-8]
    yield "no data", content[: 8 + header]
    yield "too much", content + b"\0" * 8
    yield "text", b"feature,label\n1.0,2\n" * 20
    yield "a huge header", struct.pack("<Q", 2**62) + content[8:]
    yield "no JSON", content[:8] + b"?" + content[9:]
    for name, change in {
        "a wrong shape": {"shape": [5]},
        "a negative shape": {"shape": [-4]},
        "a wrong dtype": {"dtype": "F16"},
        "no such dtype": {"dtype": "F7"},
        "offsets beyond": {"data_offsets": [0, 2**40]},
        "offsets reversed": {"data_offsets": [32, 0]},
    }.items():
        described = json.loads(content[8 : 8 + header])
        described["x"] |= change
        text = json.dumps(described).encode()
        yield name, struct.pack("<Q", len(text)) + text + content[8 + header :]


def test_damaged_and_truncated_files_change_nothing(ws, path):
    ws["x"] = np.arange(4.0)
    ws.save(path)
    ws["x"] += 10
    before = ws.arena.stats()
    for what, content in list(damaged(path.read_bytes())):
        path.write_bytes(content)
        with pytest.raises(ns.NumscopeError, match=r"damaged or no safetensors file|not known") as error:
            ws.load(path)
        assert str(path) in str(error.value), what
        assert ws["x"].tolist() == [10, 11, 12, 13], what
        assert ws.arena.stats() == before


def test_a_load_is_all_or_nothing(ws, path):
    big = ns.Workspace(arena=ns.Arena("16 MiB"))
    for name in "abc":
        big[name] = np.ones(1 << 18)
    big["t"] = "text"
    big.save(path)
    ws["a"], ws["b"] = [1.0], "old"
    view, before = ws["a"], ws.arena.used
    with pytest.raises(ns.ArenaExhausted, match=r"'c'|'b'|'a'"):
        ws.load(path)
    assert ws["a"] is view
    assert ws["a"].tolist() == [1.0]
    assert ws["b"] == "old"
    assert sorted(ws) == ["a", "b"]
    assert ws.arena.used == before
    ws.zeros("fits", ws.arena.largest_free, "uint8")


def test_a_dangling_name_stops_the_load(ws, path):
    ws["a"], ws["x"] = np.ones(100), [1.0]
    ws.save(path)
    parent = ns.Workspace(arena=ws.arena)
    parent["p"] = [1.0]
    bound = ns.Workspace(parent, bindings={"x": "p"})
    del parent["p"]
    used = ws.arena.used
    with pytest.raises(ns.BindingError, match="'x' is forwarded"):
        bound.load(path)
    assert bound.is_empty()
    assert ws.arena.used == used


def test_two_names_of_one_blob_can_be_loaded(ws, path):
    ws["a"] = ws["b"] = np.ones(100)
    ws.save(path)
    parent = ns.Workspace(arena=ws.arena)
    parent["p"] = [1.0]
    used = ws.arena.used
    bound = ns.Workspace(parent, bindings={"a": "p", "b": "p"})
    bound.load(path)
    assert parent["p"].tolist() == [1.0] * 100
    assert ws.arena.used == used - 256 + 1024
