"""Replay what the real Caffe2 did: 300 random scripts on its Workspace and WorkspaceStack.

The recording: C++ classes of the torch 1.9.1 wheel; ``state`` is a workspace after a step.
"""

import gzip
import json
from pathlib import Path

import pytest

import numscope as ns

TRACES = Path(__file__).parent / "data" / "workspace_traces.json.gz"

# Caffe2 goes through several bindings in hash order: which one fails first is not defined.
BINDING_ERRORS = ("Redefinition of blob", "Invalid parent workspace blob")
# Caffe2's words for a kind of error -> ours, where theirs say nothing.
ERRORS = {"from_blob is null": "is forwarded to .*, which does not exist"}


def scripts():
    with gzip.open(TRACES, "rt") as file:
        return json.load(file)["scripts"]


class Replay:
    """Runs the steps of a script."""

    def __init__(self, debug):
        root = ns.Workspace(arena=ns.Arena("1 MiB"), name="0")
        self.workspaces = [root, ns.Workspace(root, name="1")]
        self.stack = ns.WorkspaceStack(debug=debug)

    def number(self, workspace):
        """Give workspaces numbers in the order in which the stack first returns them."""
        if workspace is None:
            return None
        if workspace not in self.workspaces:
            self.workspaces.append(workspace)
        return self.workspaces.index(workspace)

    def call(self, step):
        kind = step["do"]
        workspace = (
            self.workspaces[step["ws"]] if kind not in ("push", "pop", "reuse") and "ws" in step else None
        )
        parent = self.workspaces[step["parent"]] if "parent" in step else None
        match kind:
            case "push":
                return self.number(self.stack.push_forward_workspace(parent, step["map"]))
            case "pop":
                return self.number(self.stack.pop_gradient_workspace(parent, step["map"]))
            case "reuse":
                return self.number(self.stack.reuse_last_forward_workspace(parent, step["map"]))
            case "clear":
                return self.stack.clear()
            case "empty":
                return self.stack.empty()
            case "create_blob" | "create_local_blob" | "write":
                make = workspace.create_local_blob if kind == "create_local_blob" else workspace.create_blob
                blob = make(step["name"]) if kind != "write" else workspace.get_blob(step["name"])
                if blob is not None and "write" in step:
                    blob.set([step["write"]])
                return content(blob)
            case "remove_blob":
                return workspace.remove_blob(step["name"])
            case "rename_blob":
                return content(workspace.rename_blob(step["name"], step["to"]))
            case "add_blob_mapping":
                return workspace.add_blob_mapping(parent, step["map"], step["skip"])
            case "copy_forwarded_tensors":
                return workspace.copy_forwarded_tensors(step["names"])
        raise ValueError(f"the recording has an unknown step {kind!r}")


def content(blob):
    if blob is None:
        return None
    return "empty" if blob.value is None else blob.value.item()


def state(workspace):
    return {
        "local": sorted(workspace.local_blobs()),
        "blobs": sorted(workspace.blobs()),
        "get": {name: content(workspace.get_blob(name)) for name in workspace},
    }


@pytest.mark.parametrize("part", range(10))
def test_workspaces_and_stacks_do_what_caffe2_does(part):
    for script in scripts()[part::10]:
        replay = Replay(script["debug"])
        for i, step in enumerate(script["steps"]):
            where = f"script {script['seed']}, step {i}: {step}"
            if "err" in step:
                kind = ERRORS.get(step["err"], step["err"])
                if len(step.get("map", ())) > 1 and kind in BINDING_ERRORS:
                    kind = "|".join(BINDING_ERRORS)
                with pytest.raises(ns.NumscopeError, match=kind):
                    replay.call(step)
            else:
                value = replay.call(step)
                if step["do"] in ("push", "pop", "reuse"):
                    assert value == step["ws"], where
                elif "value" in step:
                    assert value == step["value"], where
            if "empty" in step:
                assert replay.stack.empty() == step["empty"], where
            if "state" in step and step.get("ws") is not None:
                assert state(replay.workspaces[step["ws"]]) == step["state"], where
        if "final" in script:
            assert [state(w) for w in replay.workspaces] == script["final"], script["seed"]
