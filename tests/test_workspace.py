"""Workspaces: names, the mapping protocol, tensors, scopes."""

import copy
import pickle
import threading

import numpy as np
import pytest

import numscope as ns


def test_a_child_shares_every_name_of_its_parent(ws):
    child = ns.Workspace(ws)
    ws["x"] = [1.0]
    assert child["x"] is ws["x"]
    assert child.arena is ws.arena
    child["y"] = [2.0]
    assert "y" not in ws
    assert child.local_blobs() == ["y"]
    assert sorted(child) == ["x", "y"]
    child["x"] = [5.0]
    assert ws["x"].tolist() == [5.0]
    child["x"] = [5.0, 6.0]
    assert ws["x"].tolist() == [5.0, 6.0]
    assert child.local_blobs() == ["y"]


def test_a_bound_workspace_sees_only_its_bindings(ws):
    ws["data"], ws["other"] = [1.0], [2.0]
    bound = ns.Workspace(ws, bindings={"x": "data", "again": "data"})
    assert sorted(bound) == ["again", "x"]
    assert bound["x"] is bound["again"] is ws["data"]
    assert "other" not in bound
    bound["x"] = [3.0, 4.0]
    assert ws["data"].tolist() == [3.0, 4.0]
    assert bound["again"].tolist() == [3.0, 4.0]
    assert bound.local_blobs() == []
    del ws["data"]
    assert "x" not in bound
    assert bound.create_blob("x") is None
    with pytest.raises(ns.BindingError, match="'x' is forwarded to 'data', which does not exist"):
        bound["x"] = [1.0]
    with pytest.raises(ns.BindingError, match="forwarded"):
        bound.empty("x", 3)
    ws["data"] = [9.0]
    assert bound["x"].tolist() == [9.0]


def test_forwarded_writes_lie_in_the_arena_of_the_owner(ws):
    ws["x"] = [1.0]
    bound = ns.Workspace(ns.Workspace(ws), bindings={"a": "x"})
    before = bound.nbytes
    bound["a"] = np.zeros(100)
    bound.empty("a", 50)[:] = 1
    assert bound.nbytes == before == 0
    assert ws["x"].shape == (50,)
    local = bound.empty("a", 3, local=True)
    assert bound["a"] is local
    assert ws["x"].shape == (50,)
    assert bound.remove_blob("a")
    assert bound["a"] is ws["x"]


def test_binding_to_a_missing_blob_makes_no_workspace(ws):
    ws["x"] = [1.0]
    with pytest.raises(ns.BindingError, match="Invalid parent workspace blob missing"):
        ns.Workspace(ws, bindings={"a": "x", "b": "missing"})
    ws.clear()
    with pytest.raises(ns.BindingError, match="Invalid parent workspace blob x"):
        ns.Workspace(ws, bindings={"a": "x"})
    for wrong in ({"a": 5}, {5: "a"}, ["a"], "a"):
        with pytest.raises(ns.BlobTypeError):
            ns.Workspace(ws, bindings=wrong)
    with pytest.raises(ns.BindingError, match="Parent workspace must be specified"):
        ns.Workspace(bindings={"a": "x"})


def test_names_that_would_lead_back_are_refused(ws):
    ws["x"] = [1.0]
    child = ns.Workspace(ws)
    child["y"] = [2.0]
    with pytest.raises(ns.BindingError, match="never end"):
        ws.add_blob_mapping(child, {"z": "y"})
    assert "z" not in ws


def test_create_rename_remove(ws):
    child = ns.Workspace(ws)
    blob = ws.create_blob("x")
    assert child.create_blob("x") is child.get_blob("x") is blob
    hiding = child.create_local_blob("x")
    assert child.create_local_blob("x") is hiding is not blob
    assert child.blobs() == ["x", "x"]
    assert list(child) == ["x"]
    assert len(child) == 1
    assert child.remove_blob("x")
    assert not child.remove_blob("x")
    assert child.get_blob("x") is blob
    assert child.get_blob("nothing") is None
    blob.set([1.0])
    assert ws.rename_blob("x", "y") is blob
    assert child["y"].tolist() == [1.0]
    with pytest.raises(ns.BlobNotFoundError, match="Blob x is not in the local blob list"):
        ws.rename_blob("x", "z")
    with pytest.raises(ns.BindingError, match="already in the workspace"):
        ws.rename_blob("y", "y")


def test_copy_forwarded_tensors(ws):
    ws["x"] = [1.0, 2.0]
    ws.create_blob("empty")
    bound = ns.Workspace(ws, bindings={"a": "x", "e": "empty"})
    bound.copy_forwarded_tensors(["a", "unknown"])
    assert bound.local_blobs() == ["a"]
    bound["a"] += 1
    assert ws["x"].tolist() == [1, 2]
    with pytest.raises(ns.BlobTypeError, match="expected blob with tensor value"):
        bound.copy_forwarded_tensors(["e"])
    ws.remove_blob("empty")
    with pytest.raises(ns.BlobNotFoundError):
        bound.copy_forwarded_tensors(["e"])


def test_the_mapping_protocol(ws):
    ws["b"], ws["a"] = [1.0], "text"
    child = ns.Workspace(ws)
    child["c"] = [3]
    assert list(child) == ["c", "b", "a"]
    assert len(child) == 3
    assert "a" in child
    assert 5 not in child
    assert child.get("nothing") is None
    assert dict(child)["a"] == "text"
    assert [name for name, _ in child.items()] == list(child.keys())
    assert len(list(child.values())) == 3
    with pytest.raises(ns.BlobNotFoundError, match="'a'") as error:
        del child["a"]
    assert isinstance(error.value, KeyError)
    assert str(error.value)[0] not in "'\""
    with pytest.raises(ns.BlobNotFoundError, match="no visible blob 'nothing' in workspace"):
        child["nothing"]
    with pytest.raises(KeyError):
        child.fetch("nothing")
    del child["c"]
    assert "c" not in child
    with pytest.raises(ns.BlobTypeError, match="str"):
        ws[5] = [1]
    ws.update({"d": [4]})
    assert ws.pop("d").tolist() == [4]
    assert "d" not in ws
    assert child != ws
    assert child == child
    assert bool(ns.Workspace(arena=ws.arena))


def test_fetch_is_a_copy(ws):
    ws["x"] = [1.0]
    fetched = ws.fetch("x")
    fetched[0] = 5
    assert ws["x"].tolist() == [1.0]
    assert fetched.flags.owndata


def test_empty_zeros_full(ws):
    first = ws.empty("x", (2, 3))
    assert first.dtype == np.float32
    first[:] = 7
    assert ws.empty("x", [2, 3], np.float32) is first
    assert (first == 7).all()
    assert ws.zeros("x", (2, 3)) is first
    assert (first == 0).all()
    assert ws.full("x", (2, 3), 2.5) is first
    assert (first == 2.5).all()
    assert ws.zeros("x", (3, 2)) is not first
    assert ws.full("i", 4, -3, "int8").tolist() == [-3] * 4
    assert ws.full("c", 1, 1 + 2j, "complex64")[0] == 1 + 2j
    assert ws.full("h", 2, 1.5, "bfloat16")[1] == 1.5
    assert ws.empty("x", np.int64(3)).shape == (3,)
    assert ws.empty("x", np.array([3, 2])).shape == (3, 2)
    assert ws.empty("x", iter([3, 2])).shape == (3, 2)
    assert ws.empty("s", ()).shape == ()


@pytest.mark.parametrize(("value", "dtype"), [("abc", "float32"), (300, "uint8"), (float("nan"), "int32")])
def test_a_value_that_the_dtype_cannot_hold_makes_no_blob(ws, value, dtype):
    with pytest.raises(ns.BindingError, match=r"'x'.*cannot be filled"):
        ws.full("x", 3, value, dtype)
    assert ws.is_empty()


@pytest.mark.parametrize(
    ("shape", "error", "words"),
    [
        (-1, ns.BindingError, "negative"),
        ((2, -3), ns.BindingError, "negative"),
        ((2**62, 2**62), ns.BindingError, "address space"),
        ((0, 2**70), ns.BindingError, "address space"),
        ((1,) * 65, ns.BindingError, "64 dimensions"),
        ((1.5,), ns.BlobTypeError, "sequence of ints"),
        ("ab", ns.BlobTypeError, "sequence of ints"),
        (None, ns.BlobTypeError, "sequence of ints"),
        ({2}, ns.BlobTypeError, "sequence of ints"),
        ({2: 3}, ns.BlobTypeError, "sequence of ints"),
        (2**40, ns.ArenaExhausted, "'x' needs"),
    ],
    ids=str,
)
def test_bad_shapes_change_nothing(ws, shape, error, words):
    for make in (
        lambda: ws.empty("x", shape),
        lambda: ws.zeros("x", shape),
        lambda: ws.allocate({"x": (shape, "f4")}),
    ):
        with pytest.raises(error, match=words):
            make()
    assert ws.is_empty()
    assert ws.arena.used == 0


def test_allocate_is_contiguous_per_dtype_and_the_same_again(ws):
    wanted = {
        "a": ((4, 10), "float32"),
        "n": (5, "int64"),
        "b": ((64,), np.float32),
        "none": (0, "float32"),
        "m": ((), "int64"),
        "c": (1, "float32"),
    }
    arrays = ws.allocate(wanted)
    assert list(arrays) == list(wanted) == sorted(ws.local_blobs(), key=list(wanted).index)
    for name, (shape, dtype) in wanted.items():
        assert arrays[name] is ws[name]
        assert arrays[name].shape == (shape if isinstance(shape, tuple) else (shape,))
        assert arrays[name].dtype == dtype
    for group in (["a", "b", "c"], ["n", "m"]):
        starts = [ws[n].__array_interface__["data"][0] for n in group]
        ends = [s + -(-ws[n].nbytes // 256) * 256 for s, n in zip(starts, group, strict=True)]
        assert ends[:-1] == starts[1:]
    used = ws.arena.used
    again = ws.allocate(wanted)
    assert all(again[name] is arrays[name] for name in wanted)
    assert ws.arena.used == used


def test_allocate_is_all_or_nothing(ws):
    ws["b"] = [1.0]
    old, before = ws["b"], ws.arena.stats()
    quarter = 1 << 18
    for wanted, error in (
        ({"a": (quarter, "float32"), "b": (4 * quarter, "float32")}, ns.ArenaExhausted),
        ({"a": (3, "float32"), "b": (-1, "float32")}, ns.BindingError),
        ({"a": (3, "float32"), "b": (3, "float31")}, ns.UnknownTypeError),
        ({"a": (3, "float32"), "b": (3,)}, ns.BlobTypeError),
        ({"a": (3, "float32"), "b": (4, 10)}, ns.UnknownTypeError),
        ({"a": (3, "float32"), 5: (3, "float32")}, ns.BlobTypeError),
        ([("a", (3, "float32"))], ns.BlobTypeError),
    ):
        with pytest.raises(error):
            ws.allocate(wanted)
        assert ws.local_blobs() == ["b"]
        assert ws["b"] is old
        assert ws.arena.stats() == before


def test_allocate_makes_local_blobs(ws):
    ws["x"] = [1.0]
    child = ns.Workspace(ws)
    child.allocate({"x": (5, "float32")})
    assert ws["x"].tolist() == [1.0]
    assert child["x"].shape == (5,)


def test_clear(ws):
    array = ws.full("x", 1000, 3)
    ws["text"] = "kept by release=False"
    ws.clear(release=False)
    assert ws["x"] is array
    assert (array == 0).all()
    assert ws["text"].startswith("kept")
    array[:] = 3
    ws.clear()
    assert ws.is_empty()
    assert ws.nbytes == 0
    assert ws.arena.used == 4096  # the array is alive
    assert (array == 3).all()
    del array
    assert ws.arena.used == 0


def test_clear_leaves_mappings_and_parents_alone(ws):
    ws["x"] = [1.0]
    child, bound = ns.Workspace(ws), ns.Workspace(ws, bindings={"a": "x"})
    child["y"] = bound["b"] = [2.0]
    child.clear()
    bound.clear()
    assert child["x"] is bound["a"] is ws["x"]
    assert list(child) == ["x"]


def test_properties(ws):
    assert ws.is_empty()
    ws["x"] = np.zeros(10, np.float32)
    ws["y"] = np.zeros(3, np.int8)
    assert not ws.is_empty()
    assert ws.nbytes == 43
    assert (ws.name, ws.device) == ("main", "cpu")
    assert "2 local blobs" in repr(ws)
    assert ns.Workspace(arena=ws.arena).name == "workspace"


def test_contradictions_are_refused(ws):
    other = ns.Arena("1 MiB")
    for wrong in (
        {"parent": ws, "arena": other},
        {"arena": other, "device": "null"},
        {"parent": ws, "device": "null"},
    ):
        parent = wrong.pop("parent", None)
        with pytest.raises(ns.BindingError):
            ns.Workspace(parent, **wrong)
    assert ns.Workspace(ws, arena=ws.arena, device="cpu").arena is ws.arena
    for wrong in (5, "train", ns.WorkspaceStack()):
        with pytest.raises(ns.BlobTypeError):
            ns.Workspace(wrong)
    with pytest.raises(ns.BlobTypeError):
        ns.Workspace(arena="1 MiB")
    with pytest.raises(ns.DeviceUnavailableError, match="tpu"):
        ns.Workspace(device="tpu")


def test_a_scope_is_cleared_on_leaving(ws):
    ws["x"] = [1.0]
    with ws.scope("step") as scope:
        assert scope["x"] is ws["x"]
        scope.empty("h", 1000)
        assert "h" not in ws
    assert scope.is_empty()

    def fail():
        with ws.scope("step") as scope:
            scopes.append(scope)
            scope.empty("h", 1000)
            raise ZeroDivisionError

    scopes = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert scopes[0].is_empty()
    assert ws.arena.used == 256


def test_a_scope_of_the_same_name_takes_one_segment(ws):
    for _ in range(3):
        taken = ws.arena.stats().segments_taken
        with ws.scope("step") as scope:
            other = ns.Workspace(arena=ws.arena)
            for i in range(5):
                scope.empty(f"a{i}", 100)
                other.empty(f"b{i}", 100)
        del other
    assert ws.arena.stats().segments_taken == taken + 2


def test_the_current_workspace_is_a_threads_own(ws):
    outside = ns.current_workspace()
    assert ns.current_workspace() is outside
    found = []
    with ws:
        assert ns.current_workspace() is ws
        with ns.Workspace(ws) as child:
            assert ns.current_workspace() is child
            thread = threading.Thread(target=lambda: found.append(ns.current_workspace()))
            thread.start()
            thread.join()
        assert ns.current_workspace() is ws
    assert ns.current_workspace() is outside is found[0]
    with pytest.raises(ZeroDivisionError), ws:
        raise ZeroDivisionError
    assert ns.current_workspace() is outside


def test_leaving_out_of_order_is_an_error(ws):
    other = ns.Workspace(ws)
    with ws:
        other.__enter__()
        with pytest.raises(ns.StackError, match="out of order"):
            ws.__exit__(None, None, None)
        other.__exit__(None, None, None)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_arenas_nor_workspaces_are_copied_by_python(ws, duplicate):
    """Two of them would hand out the same bytes."""
    ws["x"] = [1.0]
    for original, cure in ((ws.arena, "make another Arena"), (ws, r"copy_to\(\) it")):
        with pytest.raises(TypeError, match=f"can be neither copied nor pickled: .*{cure}"):
            duplicate(original)
    assert ws["x"].tolist() == [1.0]
