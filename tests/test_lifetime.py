"""Memory returns with the last reference, at once: nothing here waits for the garbage collector."""

import gc

import numpy as np

import numscope as ns
from numscope import operators


def test_memory_returns_with_the_last_reference(arena, no_gc):
    ws = ns.Workspace(arena=arena)
    ws["x"] = np.zeros(1000)
    child = ns.Workspace(ws)
    child["y"] = np.zeros(1000)
    other = ns.Workspace(arena=arena)
    other["x"] = np.zeros(1000)
    ws.merge_into(other)
    with ws, ws.scope("s") as scope:
        scope["z"] = np.zeros(10)
    del ws, scope
    assert arena.used == 3 * 8192  # the child keeps its parent
    del child
    assert arena.used == 8192
    del other
    assert arena.used == 0
    assert not gc.isenabled()


def test_a_workspace_with_nets_returns_its_memory_too(arena, no_gc):
    ws = ns.Workspace(arena=arena)
    ws.create_net(operators.Net("net", [operators.Operator("CreateScope", [], ["s"])]))
    ws.run_net("net")
    ws["x"] = np.zeros(1000)
    del ws
    assert arena.used == 0


def test_a_stack_in_a_blob_of_its_parent_makes_no_cycle(arena, no_gc):
    parent = ns.Workspace(arena=arena)
    parent["x"] = [1.0]
    parent["s"] = ns.WorkspaceStack()
    for _ in range(2):
        frame = parent["s"].push_forward_workspace(parent, {"x": "x"})
        frame["h"] = np.ones(100)
        frame.copy_forwarded_tensors(["x"])
        inner = frame.create_blob("s").get_mutable(ns.WorkspaceStack)
        inner.push_forward_workspace(frame, {"h": "h"})["g"] = np.ones(100)
    assert arena.used > 0
    del parent, frame, inner
    assert arena.used == 0
    assert not gc.isenabled()


def test_workspaces_of_all_kinds_and_stacks_in_blobs_leave_nothing(arena, no_gc):
    ws = ns.Workspace(arena=arena)
    child = ns.Workspace(ws)
    bound = ns.Workspace(ws, bindings={})
    for workspace in (ws, child, bound):
        workspace.allocate({"x": (100, "float32"), "y": (7, "bool")})
        workspace.zero()
    stack = ws["stack"] = ns.WorkspaceStack()
    stack.push_forward_workspace(ws, {"x": "x"}).empty("h", 1000)
    ws.get_blob("stack").get(ns.WorkspaceStack).push_forward_workspace(ws).empty("h", 1000)
    del ws, child, bound, stack, workspace
    assert arena.used == 0
    assert not gc.isenabled()
