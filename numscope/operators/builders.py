"""Do, If and While as users write them: from nets, with scopes and bindings made for them.

Caffe2's NetBuilder (``control_ops_util.py``) does the same. The names inside are those outside, so a net
reads like any other; what it makes and nobody else needs stays in its own workspace. Names that are given
here (conditions, outputs, scopes) get the name scope around, as those of operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

from numscope.errors import OperatorError
from numscope.operators.definition import Net, Operator, blob_names, check_nesting
from numscope.operators.effects import effects_of_all, written_names
from numscope.scopes import unscoped, whole_name

__all__ = ["Do", "If", "While"]


def Do(  # noqa: N802 - named after the operator that it makes, as If and While, which are keywords
    body: Net, *, outputs: Iterable[str] = (), scope: str | None = None, retain: bool = False
) -> list[Operator]:
    """Return operators that run a net in a workspace of its own.

    Parameters
    ----------
    body : Net
        What it reads is taken from outside. What it both reads and writes, and its `external_output`, is
        written outside; everything else stays inside.
    outputs : iterable of str, optional
        More of its blobs that are written outside.
    scope : str, optional
        Name of the blob with the workspace stack. Default: ``"<body's name>/workspace_do"``. Each
        operator needs one of its own.
    retain : bool, default False
        Keep the memory of workspaces that a backward net has left, for the next run.

    Returns
    -------
    list of Operator
        They may stand in a `Net`'s list as one item.

    Raises
    ------
    OperatorError
        The net has no name, or does not write one of the outputs.
    """
    scope = whole_name(scope or f"{_name(body)}/workspace_do")
    wanted = _outputs("Do", outputs)
    with unscoped():
        return [_create_scope(scope, retain), _do(body, wanted, scope)]


def If(  # noqa: N802 - as Do
    condition: str,
    then: Net,
    otherwise: Net | None = None,
    *,
    outputs: Iterable[str] = (),
    scope: str | None = None,
    retain: bool = False,
) -> list[Operator]:
    """Return operators that run one of two nets, in a workspace of its own.

    Parameters
    ----------
    condition : str
        A blob with one bool.
    then, otherwise : Net
        As `body` of `Do`. Without `otherwise` the blobs stay as they are if the condition does not hold.
    outputs : iterable of str, optional
        More blobs that are written outside, by one of the nets or by both.
    scope : str, optional
        Begin of the names of the scope blobs. Default: the name of `then`.
    retain : bool, default False
        As in `Do`.

    Returns
    -------
    list of Operator

    Raises
    ------
    OperatorError
        A net has no name, or no net writes one of the outputs.
    """
    condition = whole_name(condition)
    prefix = whole_name(scope or _name(then))
    wanted = _outputs("If", outputs)
    made: set[str] = set()
    steps: list[Operator] = []
    nets: dict[str, Net] = {}
    branches: list[Operator] = []
    with unscoped():
        for key, net in (("then", then), ("else", otherwise)):
            if net is None:
                continue
            _name(net)
            written = written_names(net)
            made |= written
            branch = _do(net, wanted & written, f"{prefix}/workspace_if_{key}")
            steps.append(_create_scope(branch.outputs[-1], retain))
            nets[f"{key}_net"] = Net(f"do_{net.name}", [branch])
            branches.append(branch)
        _check_written(f"the nets of If on {condition!r}", wanted, made)
        inputs = _union(branch.inputs for branch in branches)
        writes = _union(branch.outputs for branch in branches)
        arguments: dict[str, Any] = nets
        return [*steps, Operator("If", [condition, *inputs], writes, **arguments)]


def While(  # noqa: N802 - as Do
    condition: str,
    body: Net,
    test: Net | None = None,
    *,
    outputs: Iterable[str] = (),
    max_iterations: int | None = None,
    scope: str | None = None,
    retain: bool = False,
) -> list[Operator]:
    """Return operators that run a net again and again, each round in a workspace of its own.

    Parameters
    ----------
    condition : str
        A blob with one bool, looked at before each round.
    body : Net
        One round. What it both reads and writes is carried from round to round.
    test : Net, optional
        Computes the condition before each round. Without it, `body` must write the condition, which
        must have a value before the loop.
    outputs : iterable of str, optional
        More blobs of `body` that are written outside: after the loop they have the last round's values.
    max_iterations : int, optional
        More rounds are an error.
    scope : str, optional
        Begin of the names of the scope blobs. Default: the name of `body`.
    retain : bool, default False
        Keep the workspaces of all rounds for the next run. By default a backward net gives each one's
        memory back when it has passed it.

    Returns
    -------
    list of Operator

    Raises
    ------
    OperatorError
        A net has no name, nothing changes the condition, or `body` does not write one of the outputs.

    Examples
    --------
    >>> body = Net("twice", [Operator("Scale", ["x"], ["x"], scale=2.0), Operator("LT", ["x", "y"], ["go"])])
    >>> [step.type for step in While("go", body)]
    ['CreateScope', 'While']
    """
    condition = whole_name(condition)
    prefix = whole_name(scope or _name(body))
    round_scope = f"{prefix}/workspace_loop_body"
    wanted = _outputs("While", outputs)
    arguments: dict[str, Any] = {}
    if max_iterations is not None:
        arguments["max_iterations"] = max_iterations
    parts = []
    with unscoped():
        steps = [_create_scope(round_scope, retain)]
        if test is None:
            owner = f"the body {body.name!r} of a While without a test"
            _check_written(owner, {condition}, written_names(body))
            wanted.add(condition)
        else:
            test_scope = f"{prefix}/workspace_loop_cond"
            # One workspace serves all rounds: nothing of the test is differentiated.
            tester = _do(test, [condition], test_scope, reuse_workspace=True)
            steps.append(_create_scope(test_scope, retain))
            # It must be there when the loop is built; the test computes it before it is looked at.
            steps.append(Operator("ConstantFill", [], [condition], dtype="bool", value=0))
            arguments["cond_net"] = Net(f"do_{test.name}", [tester])
            parts.append(tester)
        rounds = _do(body, wanted, round_scope)
        arguments["loop_net"] = Net(f"do_{body.name}", [rounds])
        parts.insert(0, rounds)
        inputs = _union(part.inputs for part in parts)
        writes = _union(part.outputs for part in parts)
        return [*steps, Operator("While", [condition, *inputs], writes, **arguments)]


def _create_scope(scope: str, retain: bool) -> Operator:
    return Operator("CreateScope", [], [scope], retain=retain)


def _name(net: Net) -> str:
    """Return the name of a net that shall run in a workspace of its own; it needs one."""
    if not isinstance(net, Net):
        raise OperatorError(
            f"expected a Net, got a {type(net).__name__}: {net!r}; make one: Net('name', [...])"
        )
    if net.name is None:
        raise OperatorError("a net that runs in a workspace of its own needs a name")
    check_nesting(net)
    return net.name


def _outputs(kind: str, names: Iterable[str]) -> set[str]:
    return set(
        map(whole_name, blob_names(kind, "outputs", tuple(names) if isinstance(names, Set) else names))
    )


def _do(body: Net, outputs: Iterable[str], scope: str, **arguments: Any) -> Operator:
    _name(body)
    effects = effects_of_all(body.operators)
    wanted = {*outputs, *body.external_output}
    _check_written(f"net {body.name!r}", wanted, set(effects.writes))
    reads = list(effects.reads)
    writes = [name for name in effects.writes if name in wanted or name in effects.reads]
    names = [*reads, *(name for name in writes if name not in effects.reads)]
    places = [*reads, *writes]
    return Operator(
        "Do",
        [*reads, scope],
        [*writes, scope],
        net=body,
        inner_blobs=names,
        outer_blobs_idx=[places.index(name) for name in names],
        **arguments,
    )


def _check_written(owner: str, wanted: set[str], written: set[str]) -> None:
    if wanted - written:
        raise OperatorError(
            f"{owner}: {sorted(wanted - written)} shall be written outside, but are not written; it writes "
            f"{sorted(written)}"
        )


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))
