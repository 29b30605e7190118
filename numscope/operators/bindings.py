"""The bindings of a Do: which name inside means which blob outside."""

from __future__ import annotations

from numscope.errors import OperatorError
from numscope.operators.definition import Operator
from numscope.operators.registry import find_operator

__all__ = ["bindings_of"]


def bindings_of(definition: Operator) -> dict[str, str]:
    """Return inner name -> outer name of a Do.

    Raises
    ------
    OperatorError
        The definition does not fit the schema, or breaks one of Caffe2's rules, which are checked in
        Caffe2's order.
    """
    find_operator("Do").schema.check(definition)  # of a Do inside another net that nobody has checked yet

    def fail(text: str) -> OperatorError:
        return OperatorError(f"{definition!r}: {text}")

    arguments = definition.args
    inputs, outputs = definition.inputs, definition.outputs
    reuses = bool(arguments.get("reuse_workspace"))
    inner_names = arguments.get("inner_blobs", ())
    indices = arguments.get("outer_blobs_idx", ())
    if "net" not in arguments:
        raise fail("net must be specified")
    if definition.is_gradient_op and reuses:
        raise fail("a gradient Do pops its workspace, so reuse_workspace has no meaning")
    if arguments.get("copy_external_blobs") and reuses:
        raise fail("reuse_workspace and copy_external_blobs exclude one another")
    if len(inner_names) != len(indices):
        raise fail(
            f"inner_blobs and outer_blobs_idx must have one length, got {len(inner_names)} and {len(indices)}"
        )
    if not inputs:
        raise fail("the scope blob must be the last input")
    # Without the scope, which may be bound as well, as any other blob.
    if len(set(inputs[:-1])) != len(inputs) - 1:
        raise fail("duplicate input blobs")
    if not outputs:
        raise fail("the scope blob must be the last output")
    if inputs[-1] != outputs[-1]:
        raise fail(
            "the last input and the last output must be one scope blob, "
            f"got {inputs[-1]!r} and {outputs[-1]!r}"
        )
    if len(set(outputs[:-1])) != len(outputs) - 1:
        raise fail("duplicate output blobs")
    outer_names = inputs[:-1] + outputs[:-1]
    bindings: dict[str, str] = {}
    for inner, index in zip(inner_names, indices, strict=True):
        if inner in bindings:
            raise fail(f"redefinition of inner blob {inner!r}")
        if not 0 <= index < len(outer_names):
            raise fail(f"outer blob index {index} of {inner!r} is out of bounds [0, {len(outer_names) - 1}]")
        if outer_names[index] in bindings.values():
            raise fail(f"reusage of outer name {outer_names[index]!r}; bind each outer blob once")
        bindings[inner] = outer_names[index]
    unbound = [name for name in dict.fromkeys(outer_names) if name not in bindings.values()]
    if unbound:
        raise fail(f"not all outer names are bound: {unbound} are missing in inner_blobs")
    return bindings
