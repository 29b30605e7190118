"""Operator and Net: what shall be computed, as plain data.

A definition knows no workspace. It is compiled once (:mod:`numscope.operators.program`) and then runs
in any number of workspaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from numscope.errors import OperatorError
from numscope.scopes import unscoped, whole_name

if TYPE_CHECKING:
    from numscope.operators.program import Program
    from numscope.workspace import Workspace

__all__ = ["Net", "Operator", "Operators", "blob_names", "check_nesting"]

MAX_NESTING = 50  # nets inside one another; Caffe2's records cannot hold more than 33 (protobuf's limit)


class Operator:
    """One step of a net: a type, the names it reads and writes, and arguments.

    Parameters
    ----------
    type : str
        A registered operator type, such as ``"Tanh"``.
    inputs, outputs : sequence of str
        Blob names; one name may be given as it is. A name scope around is put before them
        (`ns.name_scope`), but for an `ns.BlobReference`.
    name : str, optional
        A name for messages.
    is_gradient_op : bool, optional
        The operator belongs to a backward net (a ``Do`` then pops a workspace instead of pushing one).
    **args
        The arguments of the type: numbers, text, sequences of these, and nets.

    Raises
    ------
    OperatorError
        A name that is no text, or an argument of no type that an operator can take.

    Examples
    --------
    >>> Operator("Scale", ["x"], ["y"], scale=2.0).to_dict()
    {'type': 'Scale', 'input': ['x'], 'output': ['y'], 'arg': {'scale': 2.0}}
    """

    __slots__ = ("_net", "args", "inputs", "is_gradient_op", "name", "outputs", "type")

    def __init__(
        self,
        type: str,  # noqa: A002 - the operator's type is called so wherever operators are written down
        inputs: Iterable[str] | str = (),
        outputs: Iterable[str] | str = (),
        *,
        name: str = "",
        is_gradient_op: bool = False,
        **args: Any,
    ) -> None:
        if not isinstance(type, str) or not type:
            raise OperatorError(f"an operator's type must be a non-empty text, got {type!r}")
        self.type = type
        self.inputs = tuple(map(whole_name, blob_names(type, "inputs", inputs)))
        self.outputs = tuple(map(whole_name, blob_names(type, "outputs", outputs)))
        if not isinstance(name, str):
            raise OperatorError(f"{type}: an operator's name must be text, got {name!r}")
        self.name = name
        self.is_gradient_op = bool(is_gradient_op)
        self.args: Mapping[str, Any] = MappingProxyType(
            {key: _argument(type, key, value) for key, value in args.items()}
        )
        self._net: Net | None = None  # the operator alone as a net, made when it is first run by itself

    def __repr__(self) -> str:
        gradient = " (gradient)" if self.is_gradient_op else ""
        return f"{self.type}{gradient}: {list(self.inputs)} -> {list(self.outputs)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Operator.from_dict, (self.to_dict(),)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Operator:
        """Make an operator from ``{"type", "input", "output", "is_gradient_op"?, "name"?, "arg"?}``.

        A net inside an argument is ``{"net": {...}}``. Names are whole: no name scope is put before them.
        """
        with unscoped():
            return _operator_from_dict(record, ())

    def to_dict(self) -> dict[str, Any]:
        """Return the operator as plain data; the inverse of :meth:`from_dict`."""
        return _operator_to_dict(self, ())

    def nets(self) -> Iterator[tuple[str, Net]]:
        """Iterate over the nets among the arguments, as (argument, net)."""
        for key, value in self.args.items():
            if isinstance(value, Net):
                yield key, value

    def run(self, ws: Workspace) -> bool:
        """Build the operator in a workspace and run it once."""
        return ws.run(self)


Operators: TypeAlias = "Iterable[Operator | Operators]"


class Net:
    """A list of operators that run one after the other.

    Parameters
    ----------
    name : str or None
        A ``Do`` and ``ws.create_net`` need one.
    operators : iterable of Operator
        Nested sequences of operators are flattened, so that what ``ns.While`` returns may stand among them.
    external_input : sequence of str, optional
        If any is given, each input of an operator must be one of these or an output of an earlier operator.
    external_output : sequence of str, optional
        Names that the operators must produce.
    """

    __slots__ = ("_program", "external_input", "external_output", "name", "operators")

    def __init__(
        self,
        name: str | None,
        operators: Operators = (),
        *,
        external_input: Iterable[str] = (),
        external_output: Iterable[str] = (),
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise OperatorError(f"a net's name must be text, got {name!r}")
        self.name = name
        self.operators: list[Operator] = list(_flatten(name, operators))
        self.external_input = blob_names(f"net {name!r}", "external_input", external_input)
        self.external_output = blob_names(f"net {name!r}", "external_output", external_output)
        self._program: Program | None = None

    def __repr__(self) -> str:
        return f"Net({self.name!r}, {len(self.operators)} operators)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Net.from_dict, (self.to_dict(),)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Net:
        """Make a net from ``{"name", "op": [...], "external_input"?, "external_output"?}``.

        Names are whole, as in `Operator.from_dict`.
        """
        with unscoped():
            return _net_from_dict(record, ())

    def to_dict(self) -> dict[str, Any]:
        """Return the net as plain data; the inverse of :meth:`from_dict`."""
        return _net_to_dict(self, ())

    def run(self, ws: Workspace) -> bool:
        """Build the net in a workspace and run it once."""
        return ws.run(self)


def blob_names(owner: str, what: str, names: Iterable[str] | str) -> tuple[str, ...]:
    """Return names as a tuple; a lone text is one name, and not the sequence of its letters.

    Raises
    ------
    OperatorError
        They are no sequence of texts.
    """
    if isinstance(names, str):
        return (names,)
    # The order matters, and a set or a mapping has none that its author meant.
    if not isinstance(names, Iterable) or isinstance(names, (Set, Mapping)):
        raise OperatorError(f"{owner}: {what} must be a sequence of blob names (text), got {names!r}")
    result = tuple(names)
    for name in result:
        if not isinstance(name, str):
            raise OperatorError(f"{owner}: {what} must be blob names (text), got {name!r} in {list(result)}")
    return result


def check_nesting(net: Net, above: tuple[Net, ...] = ()) -> None:
    """Check that a net does not contain itself, and that its nets are not nested too deeply.

    Raises
    ------
    OperatorError
        It does, or they are.
    """
    if any(outer is net for outer in above):
        raise OperatorError(f"net {net.name!r} contains itself; a net cannot be recursive, use While")
    if len(above) >= MAX_NESTING:
        raise OperatorError(
            f"net {above[0].name!r} has more than {MAX_NESTING} nets inside one another; "
            "put operators that run in order into one net"
        )
    for operator in net.operators:
        for _, inner in operator.nets():
            check_nesting(inner, (*above, net))


def _argument(owner: str, key: str, value: Any) -> Any:
    if isinstance(value, np.generic) and isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, (bool, int, float, str, Net)):
        return value
    if isinstance(value, np.ndarray):
        value = value.reshape(-1).tolist()
    if isinstance(value, (list, tuple, range)):
        return tuple(_argument(owner, key, item) for item in value)
    raise OperatorError(
        f"{owner}: argument {key!r} is a {type(value).__name__}; "
        "an argument is a number, text, a net, or a sequence of numbers or texts"
    )


def _flatten(owner: str | None, operators: Operators) -> Iterator[Operator]:
    if not isinstance(operators, Iterable) or isinstance(operators, Mapping):
        raise OperatorError(f"net {owner!r}: expected a list of operators, got {operators!r}")
    for item in operators:
        if isinstance(item, Operator):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _flatten(owner, item)
        else:
            raise OperatorError(
                f"net {owner!r}: expected operators, got a {type(item).__name__}: {item!r}; "
                "a net inside a net is an argument of Do, If or While"
            )


def _operator_from_dict(record: Mapping[str, Any], above: tuple[int, ...]) -> Operator:
    if not isinstance(record, Mapping) or "type" not in record:
        raise OperatorError(f"an operator's record is a mapping with a 'type', got {record!r}")
    unknown = set(record) - {"type", "input", "output", "arg", "name", "is_gradient_op"}
    if unknown:
        raise OperatorError(f"operator {record['type']}: unknown keys {sorted(unknown)} in its record")
    arguments = record.get("arg", {})
    if not isinstance(arguments, Mapping):
        raise OperatorError(f"operator {record['type']}: 'arg' must be a mapping, got {arguments!r}")
    args = {
        key: _net_from_dict(value["net"], above)
        if isinstance(value, Mapping) and set(value) == {"net"}
        else value
        for key, value in arguments.items()
    }
    operator = Operator(
        record["type"],
        record.get("input", ()),
        record.get("output", ()),
        name=record.get("name", ""),
        is_gradient_op=record.get("is_gradient_op", False),
    )
    # Set apart from the call: an argument of a record may be called "name" or "type".
    operator.args = MappingProxyType(
        {key: _argument(operator.type, key, value) for key, value in args.items()}
    )
    return operator


def _net_from_dict(record: Mapping[str, Any], above: tuple[int, ...]) -> Net:
    if not isinstance(record, Mapping) or "op" not in record:
        raise OperatorError(f"a net's record is a mapping with 'op' (its operators), got {record!r}")
    unknown = set(record) - {"name", "op", "external_input", "external_output"}
    if unknown:
        raise OperatorError(f"net {record.get('name')!r}: unknown keys {sorted(unknown)} in its record")
    if not isinstance(record["op"], (list, tuple)):
        raise OperatorError(f"net {record.get('name')!r}: 'op' must be a list, got {record['op']!r}")
    if id(record) in above:
        raise OperatorError(f"net {record.get('name')!r} contains itself; a net cannot be recursive")
    inside = (*above, id(record))
    return Net(
        record.get("name"),
        [_operator_from_dict(item, inside) for item in record["op"]],
        external_input=record.get("external_input", ()),
        external_output=record.get("external_output", ()),
    )


def _operator_to_dict(operator: Operator, above: tuple[int, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "type": operator.type,
        "input": list(operator.inputs),
        "output": list(operator.outputs),
    }
    if operator.is_gradient_op:
        record["is_gradient_op"] = True
    if operator.name:
        record["name"] = operator.name
    record["arg"] = {key: _plain(value, above) for key, value in operator.args.items()}
    return record


def _net_to_dict(net: Net, above: tuple[int, ...]) -> dict[str, Any]:
    if id(net) in above:
        raise OperatorError(f"net {net.name!r} contains itself; a net cannot be recursive")
    inside = (*above, id(net))
    record: dict[str, Any] = {} if net.name is None else {"name": net.name}
    record["op"] = [_operator_to_dict(operator, inside) for operator in net.operators]
    if net.external_input:
        record["external_input"] = list(net.external_input)
    if net.external_output:
        record["external_output"] = list(net.external_output)
    return record


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, Net):
        return {"net": _net_to_dict(value, above)}
    return list(value) if isinstance(value, tuple) else value
