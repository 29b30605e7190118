"""Which names operators read and write, seen through the nets inside Do, If and While."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from numscope.errors import OperatorError
from numscope.operators.bindings import bindings_of
from numscope.operators.definition import Net, Operator

__all__ = ["Effects", "effects_of", "effects_of_all", "written_names"]


@dataclass(frozen=True, slots=True)
class Effects:
    """What running an operator, or several in order, does to names.

    Attributes
    ----------
    reads : tuple of str
        Names whose value from before is read, in order; declared inputs count.
    writes : tuple of str
        Names that may have another value afterwards. An output that the net inside never writes is none.
    keeps : frozenset of str
        Those of `writes` that may also keep their value: written in one branch only, or in a loop that may
        have no rounds.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    keeps: frozenset[str] = frozenset()


def effects_of(operator: Operator) -> Effects:
    """Return the effects of one operator."""
    match operator.type:
        case "Do":
            return _effects_of_do(operator)
        case "If":
            return _effects_of_branches(operator, "then_net", "else_net")
        case "While":
            return _effects_of_loop(operator)
    return Effects(operator.inputs, operator.outputs)


def effects_of_all(operators: Iterable[Operator]) -> Effects:
    """Return the effects of operators that run in order."""
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    surely: set[str] = set()
    for operator in operators:
        effects = effects_of(operator)
        for name in effects.reads:
            if name not in surely:
                reads[name] = None
        writes.update(dict.fromkeys(effects.writes))
        surely.update(name for name in effects.writes if name not in effects.keeps)
    return Effects(tuple(reads), tuple(writes), frozenset(name for name in writes if name not in surely))


def written_names(net: Net) -> set[str]:
    """Return the names that a net may write."""
    return set(effects_of_all(net.operators).writes)


def _effects_of_net(net: object) -> Effects:
    return effects_of_all(net.operators) if isinstance(net, Net) else Effects((), ())


def _effects_of_do(operator: Operator) -> Effects:
    try:
        bindings = bindings_of(operator)
    except OperatorError:
        # It cannot run, which is said when it is built; in a loop without rounds it never is.
        return Effects(operator.inputs, operator.outputs)
    inside = _effects_of_net(operator.args["net"])
    scope = operator.outputs[-1]
    reads = dict.fromkeys(operator.inputs)
    reads.update(dict.fromkeys(bindings[name] for name in inside.reads if name in bindings))
    writes = [bindings[name] for name in inside.writes if name in bindings]
    keeps = frozenset(bindings[name] for name in inside.keeps if name in bindings)
    return Effects(tuple(reads), (*writes, scope), keeps)


def _effects_of_branches(operator: Operator, *keys: str) -> Effects:
    branches = [_effects_of_net(operator.args[key]) if key in operator.args else None for key in keys]
    reads = dict.fromkeys(operator.inputs)
    writes: dict[str, None] = {}
    for branch in branches:
        if branch is not None:
            reads.update(dict.fromkeys(branch.reads))
            writes.update(dict.fromkeys(branch.writes))
    keeps = frozenset(
        name
        for name in writes
        if any(branch is None or name not in branch.writes or name in branch.keeps for branch in branches)
    )
    return Effects(tuple(reads), tuple(writes), keeps)


def _effects_of_loop(operator: Operator) -> Effects:
    effects = effects_of_all(
        step
        for key in ("cond_net", "loop_net")
        if isinstance(net := operator.args.get(key), Net)
        for step in net.operators
    )
    reads = dict.fromkeys((*operator.inputs, *effects.reads))
    return Effects(tuple(reads), effects.writes, frozenset(effects.writes))
