"""Names of operators inside name scopes: Caffe2's rules for texts and for references."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import numscope as ns
from numscope.errors import BlobTypeError
from numscope.recurrent import recurrent_net
from numscope.scopes import scoped_name


def names_of(operators):
    return [(step.type, list(step.inputs), list(step.outputs)) for step in operators]


def counting(prefix=""):
    return ns.Net(
        "body",
        [
            ns.Operator("Mul", [f"{prefix}x", ns.BlobReference("w")], [f"{prefix}x"]),
            ns.Operator("Add", [f"{prefix}t", f"{prefix}one"], [f"{prefix}t"]),
            ns.Operator("LT", [f"{prefix}t", f"{prefix}steps"], [f"{prefix}more"]),
        ],
    )


def test_texts_get_the_scope_and_references_do_not():
    with ns.name_scope("a"):
        step = ns.Operator("Sum", ["x", ns.BlobReference("w"), scoped_name("y")], "z", name="n")
        with ns.name_scope("b", reset=True):
            inner = ns.Operator("Copy", "x", ns.BlobReference("y") + "_0")
    assert names_of([step, inner]) == [
        ("Sum", ["a/x", "w", "a/y"], ["a/z"]),
        ("Copy", ["b/x"], ["y_0"]),
    ]
    assert step.name == "n"
    assert {type(name) for name in (*step.inputs, *step.outputs, *inner.outputs)} == {str}
    assert names_of([ns.Operator("Copy", "x", "y")]) == [("Copy", ["x"], ["y"])]


def test_names_are_those_that_caffe2_recorded():
    with gzip.open(Path(__file__).parent / "data" / "operator_traces.json.gz", "rt") as file:
        traces = {trace["name"]: trace for trace in json.load(file)["traces"]}
    recorded = [entry for entry in traces["name_scopes"]["steps"][0]["names"] if isinstance(entry, list)]
    with ns.name_scope("a"):
        copying = ns.Operator("Copy", "in", "out")
        to_reference = ns.Operator("Copy", "in", scoped_name("out"))
    reference = ns.BlobReference("a/b/c")
    made = [
        ["Copy in->out", list(copying.inputs), list(copying.outputs)],
        ["Copy in->ScopedBlobReference", list(to_reference.outputs)],
        ["GetNameScope/Unscoped", *(reference.name_scope, reference.unscoped_name)],
    ]
    made[2] += [reference + "_x", "p_" + reference]
    assert [entry for entry in recorded if entry[0] in {first for first, *_ in made}] == made


def test_a_reference_is_text_in_two_parts():
    reference = ns.BlobReference("a/b/c")
    assert (reference, reference.name_scope, reference.unscoped_name) == ("a/b/c", "a/b/", "c")
    assert (ns.BlobReference("c").name_scope, ns.BlobReference("c").unscoped_name) == ("", "c")
    assert (ns.BlobReference("a/").name_scope, ns.BlobReference("a/").unscoped_name) == ("a/", "")
    for made, text in ((reference + "_0", "a/b/c_0"), ("x/" + reference, "x/a/b/c")):
        assert (type(made), made) == (ns.BlobReference, text)
    assert type(pickle.loads(pickle.dumps(reference))) is ns.BlobReference
    with pytest.raises(TypeError):
        reference + 1
    with pytest.raises(TypeError):
        1 + reference


def test_the_scope_is_put_before_a_reference_only_when_asked_for():
    with ns.name_scope("a"):
        assert scoped_name(ns.BlobReference("w")) == "a/w"
        with pytest.raises(BlobTypeError, match="a blob's name is a str, got bytes"):
            ns.Do(ns.Net("n", []), scope=b"s")


def test_what_is_read_is_as_it_was_written():
    net = ns.Net("n", [ns.Operator("If", ["c", "x"], ["y"], then_net=counting())])
    with ns.name_scope("a"):
        copies = [ns.Net.from_dict(net.to_dict()), pickle.loads(pickle.dumps(net))]
        step = ns.Operator.from_dict(net.operators[0].to_dict())
    assert all(copy.to_dict() == net.to_dict() for copy in copies)
    assert step.to_dict() == net.operators[0].to_dict()


def test_nets_take_names_as_they_are():
    with ns.name_scope("a"):
        step = ns.Operator("Copy", ["x"], ["y"])
        net = ns.Net("n", [step], external_input=["a/x"], external_output=[ns.BlobReference("a/y")])
    assert (net.external_input, net.external_output) == (("a/x",), ("a/y",))


@pytest.mark.parametrize("kind", ["Do", "If", "While"])
@pytest.mark.parametrize("is_named", [False, True])
def test_a_builder_makes_in_a_scope_what_it_makes_of_whole_names(kind, is_named):
    def build(prefix, scope):
        body = counting(prefix)
        test = ns.Net("test", [ns.Operator("LT", [f"{prefix}t", f"{prefix}steps"], [f"{prefix}more"])])
        if kind == "Do":
            return ns.Do(body, outputs=[f"{prefix}more"], scope=scope)
        if kind == "If":
            return ns.If(f"{prefix}c", body, body, outputs={f"{prefix}more"}, scope=scope)
        return ns.While(f"{prefix}more", body, test, scope=scope, max_iterations=3)

    with ns.name_scope("a"):
        in_scope = ns.Net("n", build("", "s" if is_named else None))
    default = "a/body/workspace_do" if kind == "Do" else "a/body"
    whole = ns.Net("n", build("a/", "a/s" if is_named else default))
    assert in_scope.to_dict() == whole.to_dict()


def test_a_loop_and_its_gradient_in_a_scope_give_what_they_give_outside(device):
    def run(prefix):
        net = ns.Net("n", [ns.While("more", counting()), ns.Operator("SumElements", ["x"], ["loss"])])
        backward, gradients = ns.gradient(net, [f"{prefix}loss"])
        ws = ns.Workspace(device=device)
        ws["w"] = np.float32([2, 3])
        values = {"x": np.float32([1, 1]), "t": 0, "one": 1, "steps": 3, "more": True}
        ws.update({f"{prefix}{name}": value for name, value in values.items()})
        ws.run(net)
        ws.run(backward)
        return backward, gradients, ws.fetch(gradients["w"]), ws.fetch(f"{prefix}x_grad")

    backward, gradients, w, x = run("")
    with ns.name_scope("a"):
        scoped, scoped_gradients, scoped_w, scoped_x = run("a/")
    assert len(scoped.operators) == len(backward.operators)
    assert gradients["w"] == scoped_gradients["w"] == "w_grad"
    assert scoped_gradients["a/x"] == "a/x_grad"
    assert type(gradients["w"]) is ns.BlobReference
    assert w.tolist() == scoped_w.tolist() == [12.0, 27.0]
    assert x.tolist() == scoped_x.tolist() == [8.0, 27.0]


def test_the_scope_of_a_variable_scope_counts():
    with ns.Workspace() as ws, ns.variable_scope("layer"):
        ns.get_variable("w", (2,), initializer=ns.initializers.Ones)
        ws.run(ns.Operator("Scale", ["w"], ["y"], scale=3.0))
    assert ws["layer/y"].tolist() == [3.0, 3.0]


def test_the_library_names_its_own_blobs():
    with ns.name_scope("a"):
        net, _ = recurrent_net(3, 4, 2)
    assert net.to_dict() == recurrent_net(3, 4, 2)[0].to_dict()
