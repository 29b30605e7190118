"""Every trace of the real Caffe2, replayed step by step."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from numscope.arena import Arena
from numscope.errors import NumscopeError
from numscope.operators import Net, Operator
from numscope.stack import WorkspaceStack
from numscope.workspace import Workspace

with gzip.open(Path(__file__).parent / "data" / "operator_traces.json.gz", "rt") as file:
    TRACES = json.load(file)["traces"]

# Where numscope differs from Caffe2 on purpose:
# (trace, seed) -> step -> (what is looked at, Caffe2's answer, ours).
DIFFERENCES = {
    # The second Do has another net of the same name: Caffe2 runs the first Do's net again.
    ("do_slot_net_cached_by_name", 0): {
        7: ("Z", [2.7427905, 2.6410503], [1.7265478, 0.8967054]),
    },
    # Its nets point at blobs that the next push dropped. Ours look names up when operators run; the last
    # test here checks the values.
    ("grad_while_second_run_crashes", 0): {16: ("run_net", "crashed", True)},
    ("grad_while_second_run_crashes", 1): {16: ("run_net", "crashed", True)},
}


def as_array(value):
    data = [float(x) if isinstance(x, str) else x for x in value["data"]]
    return np.array(data, value["dtype"]).reshape(value["shape"])


def check_blob(ws, name, expected):
    if expected.get("missing"):
        assert name not in ws
    elif "native" in expected:
        blob = ws.get_blob(name)
        if expected["native"].endswith("WorkspaceStack"):
            assert isinstance(blob.value, WorkspaceStack)
        else:
            assert expected["native"] == "nullptr (uninitialized)"
            assert blob.value is None
    else:
        array = as_array(expected)
        assert ws[name].dtype == array.dtype
        assert ws[name].shape == array.shape
        np.testing.assert_allclose(ws.fetch(name), array, rtol=1e-5, atol=1e-5, err_msg=name)


def check_run(step, run):
    if step["ok"]:
        assert run() is True
    else:
        with pytest.raises(NumscopeError):
            run()


def replay(ws, trace, differences):
    for position, step in enumerate(trace["steps"]):
        match step["do"]:
            case "feed":
                ws[step["blob"]] = as_array(step["value"])
            case "fetch" if position in differences:
                name, theirs, ours = differences[position]
                assert step["blob"] == name
                np.testing.assert_allclose(step["value"]["data"], theirs, rtol=1e-5)
                np.testing.assert_allclose(ws.fetch(name), ours, rtol=1e-5)
            case "fetch":
                check_blob(ws, step["blob"], step["value"])
            case "blobs":
                assert sorted(ws) == step["value"]
            case "run_op":
                check_run(step, lambda: ws.run(Operator.from_dict(step["op"])))  # noqa: B023
            case "run_net" if position in differences:
                name, theirs, ours = differences[position]
                assert step["do"] == name
                assert step[theirs]
                assert ws.run(Net.from_dict(step["net"])) is ours
            case "run_net":
                check_run(step, lambda: ws.run(Net.from_dict(step["net"])))  # noqa: B023
            case "create_net":
                check_run(step, lambda: ws.create_net(Net.from_dict(step["net"])) is not None)  # noqa: B023
            case "run_created":
                check_run(step, lambda: ws.run_net(step["name"]))  # noqa: B023
            case "note" if "flag" in step:
                ws["s"] = WorkspaceStack(debug=True)  # Caffe2's flag is the process's, ours is the stack's
            case "note":
                pass
            case unknown:
                raise AssertionError(unknown)


def trace_id(trace):
    return f"{trace['name']}-{trace['seed']}"


@pytest.fixture
def ws(device):
    with Arena("16 MiB", device=device) as arena:
        yield Workspace(arena=arena)


@pytest.mark.parametrize("trace", TRACES, ids=trace_id)
def test_trace(ws, trace):
    replay(ws, trace, DIFFERENCES.get((trace["name"], trace["seed"]), {}))


@pytest.mark.parametrize("trace", TRACES, ids=trace_id)
def test_definitions_survive_the_way_to_plain_data_and_back(trace):
    for step in trace["steps"]:
        for key, cls in (("op", Operator), ("net", Net), ("forward_net", Net)):
            if isinstance(step.get(key), dict):
                record = step[key]
                assert (
                    cls.from_dict(cls.from_dict(record).to_dict()).to_dict()
                    == cls.from_dict(record).to_dict()
                )


@pytest.mark.parametrize("trace", [t for t in TRACES if t["crashed"]], ids=trace_id)
def test_what_crashes_caffe2_gives_what_a_new_workspace_gives(ws, trace):
    replay(ws, trace, DIFFERENCES[trace["name"], trace["seed"]])
    fresh = Workspace(arena=ws.arena)
    feeds = {step["blob"]: step["value"] for step in trace["steps"] if step["do"] == "feed"}  # the last ones
    for name, value in feeds.items():
        fresh[name] = as_array(value)
    fresh.run(Net.from_dict(trace["steps"][-1]["net"]))
    for name in ("x", "w_grad", "x0_grad", "x_grad"):
        np.testing.assert_array_equal(ws.fetch(name), fresh.fetch(name))
