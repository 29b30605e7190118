"""The registry of operator types: their schemas, and the classes that run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from numscope.errors import OperatorError
from numscope.operators.definition import Net, Operator

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientMaker
    from numscope.operators.program import Program
    from numscope.workspace import Workspace

__all__ = ["REQUIRED", "Argument", "CompiledOperator", "Schema", "find_operator", "register_operator"]

REQUIRED = object()
"""Default of an argument that has none."""

ANY_NUMBER = (0, 1 << 30)


@dataclass(frozen=True, slots=True)
class Argument:
    """Kind and default of an operator's argument.

    Attributes
    ----------
    kind : str
        ``"int"``, ``"float"``, ``"bool"``, ``"str"``, ``"number"``, ``"dtype"``, ``"net"``, or the plural of
        one of the first five for a sequence.
    default : object
        What an operator without the argument gets; `REQUIRED` for none.
    """

    kind: str
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Schema:
    """What an operator type asks of a definition.

    Attributes
    ----------
    type : str
    inputs, outputs : (int, int)
        Least and greatest number of inputs and of outputs.
    in_place : bool or frozenset of (int, int)
        The pairs (input, output) that may be one name; True for all, False for none.
    arguments : mapping of str to Argument
    gradient : callable or None
        Makes the gradient operators (:mod:`numscope.operators.differentiation`).
    stops_gradient : bool
        No gradient flows through this type, as through a fill or a comparison. A type with neither a
        `gradient` nor this cannot be differentiated.
    rule : callable or None
        What the names must fulfil besides; returns what is wrong with a definition, None if nothing is.
    """

    type: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    in_place: bool | frozenset[tuple[int, int]] = False
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    gradient: GradientMaker | None = None
    stops_gradient: bool = False
    rule: Callable[[Operator], str | None] | None = None

    def check(self, operator: Operator) -> None:
        """Check the numbers of inputs and outputs, the rules for names, and the arguments' names and kinds.

        Raises
        ------
        OperatorError
            The definition does not fit; the text says which part.
        """
        self._check_count(operator, "inputs", operator.inputs, self.inputs)
        self._check_count(operator, "outputs", operator.outputs, self.outputs)
        if self.in_place is not True:
            self._check_in_place(operator)
        if self.rule is not None and (wrong := self.rule(operator)):
            raise OperatorError(f"{operator!r}: {wrong}")
        for key, value in operator.args.items():
            argument = self.arguments.get(key)
            if argument is None:
                raise OperatorError(
                    f"{operator!r}: unknown argument {key!r}{_nearest(key, self.arguments, 'it takes')}"
                )
            if not _fits(argument.kind, value):
                raise OperatorError(
                    f"{operator!r}: argument {key!r} must be of kind {argument.kind}, got {value!r}"
                )

    def check_whole(self, operator: Operator) -> None:
        """Check as `check` does, and that no argument is missing, which building an operator finds later.

        Raises
        ------
        OperatorError
            The definition does not fit, or an argument without a default is missing.
        """
        self.check(operator)
        for key in self.arguments:
            self.argument(operator, key)

    def argument(self, operator: Operator, key: str) -> Any:
        """Return an argument of a definition, or its default.

        Raises
        ------
        OperatorError
            It is missing and has no default.
        """
        if key in operator.args:
            return operator.args[key]
        default = self.arguments[key].default
        if default is REQUIRED:
            raise OperatorError(f"{operator!r}: argument {key!r} must be specified")
        return default

    def _check_count(
        self, operator: Operator, what: str, names: tuple[str, ...], bounds: tuple[int, int]
    ) -> None:
        least, greatest = bounds
        if least <= len(names) <= greatest:
            return
        if least == greatest:
            expected = str(least)
        else:
            expected = f"at least {least}" if greatest == ANY_NUMBER[1] else f"{least} to {greatest}"
        raise OperatorError(f"{operator!r}: expected {expected} {what}, got {len(names)}")

    def _check_in_place(self, operator: Operator) -> None:
        pairs: Iterable[tuple[int, int]] = self.in_place if isinstance(self.in_place, frozenset) else ()
        for i, read in enumerate(operator.inputs):
            for j, written in enumerate(operator.outputs):
                if read == written and (i, j) not in pairs:
                    raise OperatorError(
                        f"{operator!r}: output {j} must not be the same blob as input {i} ({read!r}); "
                        "give the output another name"
                    )


class CompiledOperator:
    """An operator whose definition has passed its checks. It holds no workspace: one serves them all.

    Subclasses read their arguments in ``__init__`` and override `run`.

    Attributes
    ----------
    schema : Schema
        Set by `register_operator`.
    definition : Operator
    programs : tuple of Program
        Those of the nets among its arguments.
    """

    schema: ClassVar[Schema]
    programs: tuple[Program, ...] = ()

    def __init__(self, definition: Operator) -> None:
        self.definition = definition

    def argument(self, key: str) -> Any:
        """Return an argument, or its default."""
        return self.schema.argument(self.definition, key)

    def build(self, ws: Workspace) -> None:
        """Build in a workspace what the operator runs there later; most have nothing to build."""

    def run(self, ws: Workspace) -> bool | None:
        """Run in a workspace; names are resolved now. False stops the net without an error."""
        raise NotImplementedError


CompiledClass = TypeVar("CompiledClass", bound=type[CompiledOperator])

_classes: dict[str, type[CompiledOperator]] = {}


def register_operator(
    type: str,  # noqa: A002 - as in Operator
    *,
    inputs: int | tuple[int, int | None],
    outputs: int | tuple[int, int | None],
    in_place: bool | Iterable[tuple[int, int]] = False,
    arguments: Mapping[str, Argument | tuple[str, Any] | str] | None = None,
    gradient: GradientMaker | None = None,
    stops_gradient: bool = False,
    rule: Callable[[Operator], str | None] | None = None,
) -> Callable[[CompiledClass], CompiledClass]:
    """Register a class as the implementation of an operator type; a decorator.

    Parameters
    ----------
    type : str
        The type's name.
    inputs, outputs : int or (int, int or None)
        Their number, or the least and greatest number (None: no limit).
    in_place : bool or iterable of (int, int)
        Which pairs (input, output) may be one name.
    arguments : mapping, optional
        Name to kind (required), to (kind, default), or to `Argument`.
    gradient : callable, optional
        ``gradient(context) -> list of Operator``: see `numscope.operators.GradientContext`.
    stops_gradient : bool, optional
        The gradient of every input is zero and none is made.
    rule : callable, optional
        ``rule(operator)`` returns what is wrong with the names of a definition, None if nothing is. It is
        asked before outputs are made.

    Raises
    ------
    OperatorError
        The name is taken by another class.

    Examples
    --------
    >>> @register_operator("Twice", inputs=1, outputs=1, in_place=[(0, 0)])
    ... class TwiceOp(CompiledOperator):
    ...     def run(self, ws):
    ...         x = ws[self.definition.inputs[0]]
    ...         ws[self.definition.outputs[0]] = 2 * x
    """
    schema = Schema(
        type=type,
        inputs=_bounds(inputs),
        outputs=_bounds(outputs),
        in_place=in_place if isinstance(in_place, bool) else frozenset(in_place),
        arguments={key: _as_argument(value) for key, value in (arguments or {}).items()},
        gradient=gradient,
        stops_gradient=stops_gradient,
        rule=rule,
    )

    def register(cls: CompiledClass) -> CompiledClass:
        taken = _classes.get(type)
        if taken is not None and taken is not cls:
            raise OperatorError(f"operator type {type!r} is registered already, by {taken.__qualname__}")
        cls.schema = schema
        _classes[type] = cls
        return cls

    return register


def find_operator(type: str) -> type[CompiledOperator]:  # noqa: A002 - as in Operator
    """Return the class that implements an operator type.

    Raises
    ------
    OperatorError
        No such type; the text lists the nearest names.
    """
    try:
        return _classes[type]
    except KeyError:
        raise OperatorError(
            f"unknown operator type {type!r}{_nearest(type, _classes, 'the nearest are')}; "
            "register_operator adds one"
        ) from None


def _nearest(name: str, names: Iterable[str], words: str) -> str:
    lower = {known.lower(): known for known in names}
    import difflib  # not at import: 1.3 ms, for a text that few will see

    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    shown = [lower[match] for match in close] or sorted(lower.values())[:3]
    return f"; {words} {', '.join(map(repr, shown))}" if shown else "; it takes none"


def _bounds(count: int | tuple[int, int | None]) -> tuple[int, int]:
    if isinstance(count, int):
        return (count, count)
    least, greatest = count
    return (least, ANY_NUMBER[1] if greatest is None else greatest)


def _as_argument(value: Argument | tuple[str, Any] | str) -> Argument:
    if isinstance(value, Argument):
        return value
    return Argument(value) if isinstance(value, str) else Argument(*value)


def _fits(kind: str, value: Any) -> bool:
    if kind.endswith("s") and kind != "s":
        return isinstance(value, tuple) and all(_fits(kind[:-1], item) for item in value)
    match kind:
        case "int":
            return isinstance(value, int)
        case "bool":
            return isinstance(value, int) and value in (0, 1)
        case "float" | "number":
            return isinstance(value, (int, float))
        case "str":
            return isinstance(value, str)
        case "dtype":
            return isinstance(value, (int, str)) and not isinstance(value, bool)
        case "net":
            return isinstance(value, Net)
    raise OperatorError(f"argument kind {kind!r} is none that an operator can take")
