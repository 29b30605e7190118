"""Bulk work: what is written, what is refused before a byte is, and how many kernel calls it takes."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import numscope as ns
from numscope import kernels

BFLOAT16 = ml_dtypes.bfloat16


@pytest.fixture
def pair(arena):
    """Two workspaces with the same blobs."""
    a, b = ns.Workspace(arena=arena, name="a"), ns.Workspace(arena=arena, name="b")
    for ws, value in ((a, 2), (b, 10)):
        ws.full("x", (3, 4), value)
        ws.full("y", 70, value + 1)
        ws.full("none", 0, 0)
    return a, b


def launched(work):
    before = kernels.launches()
    work()
    return kernels.launches() - before


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("placing", ["one piece", "with gaps"])
def test_the_number_of_kernel_calls_does_not_depend_on_the_number_of_blobs(count, placing):
    arena = ns.Arena("64 MiB")
    a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
    for i in range(count):
        for ws in (a, b):
            ws.full(f"x{i}", 1 + i % 300, i)
            if placing == "with gaps":
                ns.Workspace(arena=arena).empty("gap", 1)
    for _ in range(2):  # planned, then remembered
        assert launched(lambda: a.merge_into(b)) == 1
        assert launched(lambda: a.merge_into(b, op="copy", alpha=0.5)) == 1
        assert launched(lambda: a.merge_into(b, clear=True)) == 1
        assert launched(lambda: a.copy_to(b)) == 1
        assert launched(a.zero) == 1
    assert all((b[f"x{i}"] == 0).all() for i in range(count))


def test_zero(pair):
    a, b = pair
    a["text"] = "stays"
    array = a["x"]
    a.zero(names=["x"])
    assert (array == 0).all()
    assert (a["y"] == 3).all()
    a["x"][:] = 1
    a.zero(lambda name: name != "x")
    assert (a["x"] == 1).all()
    assert (a["y"] == 0).all()
    a.zero(name for name in ("x", "y"))
    assert (a["x"] == 0).all()
    a.zero(set())
    assert (b["x"] == 10).all()
    assert a["text"] == "stays"


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint64", "float16", BFLOAT16, "float64", "complex128", ml_dtypes.float8_e5m2]
)
def test_zero_and_copy_know_every_type(arena, dtype):
    a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
    a["x"] = np.ones((7, 3), dtype)
    b["x"] = np.zeros((7, 3), dtype)
    a.copy_to(b)
    assert (b["x"] == a["x"]).all()
    a.merge_into(b, op="copy", clear=True)
    assert (b["x"] == np.ones((7, 3), dtype)).all()
    assert not a["x"].astype(bool).any()
    b.zero()
    assert not b["x"].astype(bool).any()


def test_merge_adds_scales_and_clears(pair):
    a, b = pair
    a.merge_into(b)
    assert (b["x"] == 12).all()
    assert (b["y"] == 14).all()
    a.merge_into(b, "add", -0.5)
    assert (b["x"] == 11).all()
    a.merge_into(b, op="copy", alpha=4, names=["x"])
    assert (b["x"] == 8).all()
    assert (b["y"] == 12.5).all()
    a.merge_into(b, clear=True, names=["y"])
    assert (b["y"] == 15.5).all()
    assert (a["y"] == 0).all()
    assert (a["x"] == 2).all()


def test_what_lies_between_chosen_blobs_stays(arena):
    a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
    names = [f"x{i}" for i in range(40)]
    for ws, value in ((a, 2), (b, 10)):
        for name in names:
            ws.full(name, 64 if len(name) == 2 else 7, value)  # with padding behind it and without
    chosen = names[3:10] + names[11:20] + names[30:31]
    a.merge_into(b, names=reversed(chosen), clear=True)
    for name in names:
        assert (a[name] == (0 if name in chosen else 2)).all()
        assert (b[name] == (12 if name in chosen else 10)).all()


@pytest.mark.parametrize(("source", "target"), [("float32", "float8_e4m3fn"), ("float8_e5m2", "bfloat16")])
def test_stored_floats_are_cast_and_cleared(arena, source, target):
    a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
    a.full("x", 300, 3, source)
    b.full("x", 300, 1, target)
    a.merge_into(b, op="copy", clear=True)
    assert (b["x"] == 3).all()
    assert (a["x"] == 0).all()


def test_copies_keep_the_bits(arena):
    a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
    bits = np.array([0x7FC01234, 0x80000000, 1, 0xFF800000, 0x7F7FFFFF], np.uint32)
    for clear in (False, True):
        a["x"] = bits.view(np.float32)
        b["x"] = np.full(5, np.nan, np.float32)
        a.merge_into(b, op="copy", clear=clear)
        assert b["x"].view(np.uint32).tolist() == bits.tolist()
    assert (a["x"].view(np.uint32) == 0).all()


@pytest.mark.parametrize("op", ["add", "copy"])
@pytest.mark.parametrize(
    ("source", "target"),
    list(itertools.product(["float16", BFLOAT16, "float32", "float64"], ["float32", "float64"])),
)
def test_known_float_pairs_are_cast(arena, source, target, op):
    a, b = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
    values = np.arange(-9, 10).astype(source)
    a["x"], b["x"] = values, np.ones(19, target)
    a.merge_into(b, op=op, alpha=2)
    assert b["x"].dtype == target
    assert (b["x"] == 2 * values.astype(target) + (op == "add")).all()
    if op == "copy":
        a.copy_to(b)
        assert (b["x"] == values.astype(target)).all()


def test_targets_are_what_is_visible_there(pair):
    a, b = pair
    child = ns.Workspace(b)
    bound = ns.Workspace(b, bindings={"x": "y", "y": "x"})
    a.merge_into(child)
    assert (b["x"] == 12).all()
    assert child.is_empty()
    with pytest.raises(ns.BindingError, match="shape"):
        a.merge_into(bound)
    twice = ns.Workspace(arena=a.arena)
    twice["p"] = twice["q"] = np.ones((3, 4), np.float32)
    with pytest.raises(ns.BindingError, match="one blob"):
        twice.merge_into(ns.Workspace(b, bindings={"p": "x", "q": "x"}))
    assert (b["x"] == 12).all()


def test_everything_is_checked_before_a_byte_is_written(pair):
    a, b = pair

    def refused(match, error=ns.BindingError, **kwargs):
        for call in (a.copy_to, a.merge_into):
            with pytest.raises(error, match=match):
                call(b, **kwargs)
        assert (b["x"] == 10).all()
        assert (a["x"] == 2).all()

    a["z"] = [1.0]
    refused("'z' of workspace 'a' has no blob to go into")
    b["z"] = "text"
    refused("where it holds str")
    b.get_blob("z").reset()
    refused("where it holds nothing")
    b["z"] = [1.0, 2.0]
    refused(r"has shape \(1,\), in 'b' it has \(2,\)")
    b["z"] = [[1.0]]
    refused("shape")
    b["z"] = [1]
    refused("float64.*int64")
    b["z"] = [1 + 1j]
    refused("complex128")
    b["z"] = np.array([1], "bool")
    refused("bool")
    refused("no local blob 'nothing'", ns.BlobNotFoundError, names=["x", "nothing"])
    a["text"] = "no tensor"
    refused("holds str, expected a tensor", ns.BlobTypeError, names=["x", "text"])
    refused("iterable of names or a predicate", ns.BlobTypeError, names="x")
    refused("iterable of names or a predicate", ns.BlobTypeError, names=5)
    refused("str", ns.BlobTypeError, names=["x", 5])
    refused("str", ns.BlobTypeError, names=[["x"]])
    for wrong in (None, "b", {}):
        with pytest.raises(ns.BlobTypeError, match="Workspace"):
            a.copy_to(wrong)
    with pytest.raises(ns.BindingError, match='"add" or "copy"'):
        a.merge_into(b, op="max", names=["x"])
    for alpha in (None, 1j, "x", "2", 10**400):
        with pytest.raises(ns.BlobTypeError, match="alpha"):
            a.merge_into(b, alpha=alpha, names=["x"])
    with pytest.raises(ns.BindingError, match="same blob"):
        a.merge_into(a)
    with pytest.raises(ns.BindingError, match="same blob"):
        a.merge_into(ns.Workspace(a), names=["x"])
    ns.Workspace(a).merge_into(b)  # nothing is local there
    assert (b["x"] == 10).all()


def test_devices_have_to_match(pair):
    a, _ = pair
    null = ns.Workspace(device="null")
    null.empty("x", (3, 4))
    with pytest.raises(ns.BindingError, match=r"'x'.*on cpu.*on null"):
        a.copy_to(null, names=["x"])
    other = ns.Workspace(device="null")
    other.empty("x", (3, 4))
    null.merge_into(other, alpha=3, clear=True)
    null.zero()
    null.clear(release=False)


CHANGES = {
    "the source is replaced": lambda a, b, p: a.feed("x", np.full((4, 3), 2.0, np.float32)),
    "the target is replaced": lambda a, b, p: b.feed("x", np.full((4, 3), 9.0, np.float32)),
    "the source is removed": lambda a, b, p: a.remove_blob("x"),
    "the target is removed": lambda a, b, p: b.remove_blob("x"),
    "the source is renamed": lambda a, b, p: a.rename_blob("x", "z"),
    "the target is renamed": lambda a, b, p: b.rename_blob("x", "z"),
    "the target is hidden": lambda a, b, p: b.full("x", (3, 4), 7, local=True),
    "the target is emptied": lambda a, b, p: b.get_blob("x").reset(),
    "the target becomes text": lambda a, b, p: b.feed("x", "text"),
    "the target changes its dtype": lambda a, b, p: b.feed("x", np.full((3, 4), 5.0)),
    "the source changes its dtype": lambda a, b, p: a.feed("x", np.full((3, 4), 5.0)),
    "a blob is added": lambda a, b, p: a.feed("new", [1.0]),
    "an empty blob is fed": lambda a, b, p: a.feed("empty", np.zeros(0)),
    "the source is cleared": lambda a, b, p: a.clear(),
    "the target is cleared": lambda a, b, p: b.clear(),
    "the source moves": lambda a, b, p: (a.remove_blob("x"), a.full("k", 3, 1), a.full("x", (3, 4), 6)),
    "the target moves": lambda a, b, p: (b.remove_blob("x"), b.full("k", 3, 1), b.full("x", (3, 4), 6)),
    "the parent's blob is replaced": lambda a, b, p: p.feed("far", np.full((3, 4), 5.0)),
    "the parent's blob is removed": lambda a, b, p: p.remove_blob("far"),
    "the parent's blob is renamed": lambda a, b, p: p.rename_blob("far", "z"),
    "the grandparent's blob is hidden": lambda a, b, p: p.full("y", 70, 3, local=True),
    "forwarded names become local": lambda a, b, p: b.copy_forwarded_tensors(["bound"]),
    "nothing": lambda a, b, p: None,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["local", "above"])
def test_remembered_layouts_go_stale(arena, change, where):
    def world():
        grandparent = ns.Workspace(arena=arena)
        parent = ns.Workspace(grandparent)
        target = ns.Workspace(parent)
        source = ns.Workspace(arena=arena)
        parent.full("far", (3, 4), 3)
        target.add_blob_mapping(parent, {"bound": "far"})
        (target if where == "local" else parent).full("x", (3, 4), 10)
        grandparent.full("y", 70, 20)
        for name, shape in (("x", (3, 4)), ("y", 70), ("far", (3, 4)), ("bound", (3, 4))):
            source.full(name, shape, 2)
        source.remove_blob("far")
        source.create_blob("empty")
        return source, target, parent, grandparent

    def outcome(source, target, parent, grandparent):
        failed = None
        try:
            source.merge_into(target, alpha=3)
            source.zero()
        except ns.BindingError as error:
            failed = str(error)
        values = [(n, w[n].tolist()) for w in (source, target, parent, grandparent) for n in w.local_blobs()
                  if w.get_blob(n).is_tensor]  # fmt: skip
        return failed and failed.split(":")[0], values

    used, fresh = world(), world()
    used[0].merge_into(used[1])
    used[0].zero()
    for name, value in (("x", 10), ("y", 20), ("bound", 3)):
        used[1][name][...] = value
        used[0][name][...] = 2
    for one in (used, fresh):
        try:
            CHANGES[change](*one[:3])
        except ns.BlobNotFoundError:
            return  # the blob is not local there, and nothing was changed
    assert outcome(*used) == outcome(*fresh)


def test_a_predicate_is_asked_each_time(pair):
    a, _ = pair
    wanted = {"x"}
    a.zero(wanted.__contains__)
    a["x"][:] = 1
    wanted.clear()
    a.zero(wanted.__contains__)
    assert (a["x"] == 1).all()


def test_a_dead_target_is_not_taken_for_a_new_one(pair):
    a, _ = pair
    for value in range(20):
        target = ns.Workspace(arena=a.arena)
        target.full("x", (3, 4), value)
        a.merge_into(target, names=["x"])
        assert (target["x"] == value + 2).all()
        del target
    assert len(a._plans) <= 64


def test_clear_without_release_is_one_call(pair):
    a, _ = pair
    a["i"] = [1, 2]
    assert launched(lambda: a.clear(release=False)) == 1
    assert not any(a[name].any() for name in a)


def test_pieces_tell_where_tensors_lie(pair):
    a, _ = pair
    a["i"] = [1, 2]
    pieces = a.pieces(["x", "i", "y"])
    assert [(k.name, p.lengths.tolist()) for k, p in pieces.items()] == [
        ("float32", [12, 70]),
        ("int64", [2]),
    ]
    assert pieces[np.dtype("float32")].addresses[1] == a["y"].__array_interface__["data"][0]
    with pytest.raises(ns.DeviceUnavailableError, match="no memory"):
        ns.Workspace(device="null").pieces()
