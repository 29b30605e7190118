"""Reverse traversal: from operators and the gradients of their results to gradient operators.

Operators are played forward once to number the values of each name: 0 is the value from before, each write
makes the next. Backward, each operator's gradient maker says which forward values it needs; one that a later
operator has overwritten is an error, unless the boundary has saved it. (Caffe2: core.IR in core.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TypeAlias

from numscope.errors import OperatorError
from numscope.operators.boundary import Boundary
from numscope.operators.definition import Operator
from numscope.operators.effects import effects_of
from numscope.operators.registry import find_operator

__all__ = ["Differentiation", "GradientContext", "GradientMaker"]

Value = tuple[str, int]  # a name and the number of its value


class Differentiation:
    """The gradient operators of a sequence of operators.

    Parameters
    ----------
    operators : sequence of Operator
    seeds : mapping of str to str
        Blob -> the name of its gradient, which is given.
    boundary : Boundary
    targets : mapping of str to str, optional
        Blob -> the name that the gradient of its value from before shall have, if an operator makes it.
    reserved : container of str, optional
        Names that must not be taken for gradients.
    lenient : bool, default False
        Pass over what cannot be differentiated: only the values that a backward net might need are asked for.

    Attributes
    ----------
    operators : list of Operator
        The gradient operators, in order.
    gradients : dict of str to str
        Blob -> the gradient of its earliest value that has one.
    start_gradients : dict of str to str
        Blob -> the gradient of its value from before.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        seeds: Mapping[str, str],
        boundary: Boundary,
        *,
        targets: Mapping[str, str] | None = None,
        reserved: Container[str] = (),
        lenient: bool = False,
    ) -> None:
        self.operators: list[Operator] = []
        self.boundary = boundary
        self.lenient = lenient
        self._targets = targets or {}
        self._last: dict[str, int] = {}
        self._first_user: dict[Value, int] = {}
        self._steps = [self._play(position, operator) for position, operator in enumerate(operators)]
        # Gradients of a value, in the order in which they are made: (name, made by an operator).
        self._parts: dict[Value, list[tuple[str, bool]]] = {}
        # Gradient name -> the blobs whose gradient it is. No other blob's gradient may overwrite it.
        self._holders: dict[str, set[str]] = {}
        self._forward = {*seeds.values(), *self._last}
        self._reserved = reserved
        for name, gradient in seeds.items():
            self.pass_through((name, self._last.get(name, 0)), gradient)
        for position in reversed(range(len(self._steps))):
            try:
                self._differentiate(position, self._steps[position])
            except Exception:  # of any type, as makers are users' too: a forward run must not fail for them
                if not lenient:
                    raise
        self.gradients: dict[str, str] = {}
        self.start_gradients: dict[str, str] = {}
        for (name, number), parts in sorted(self._parts.items(), key=lambda item: -item[0][1]):
            self.gradients[name] = parts[0][0]
            if number == 0:
                self.start_gradients[name] = parts[0][0]

    def resolve(self, name: str, number: int, operator: Operator) -> str:
        """Return the name under which a forward value is found at the end.

        Raises
        ------
        OperatorError
            It was overwritten, and not saved.
        """
        if number == self._last.get(name, 0):
            return self.boundary.at_end(name)
        if number == 0:
            return self.boundary.at_start(name, operator)
        return self._refuse(name, number, operator)

    def resolve_layout(self, name: str, number: int, operator: Operator) -> str:
        """Return the name of a blob that has, or is, the layout of a forward value.

        Raises
        ------
        OperatorError
            It was overwritten, and its layout not saved.
        """
        if number == self._last.get(name, 0):
            return self.boundary.layout_at_end(name)
        if number == 0:
            return self.boundary.layout_at_start(name, operator)
        return self._refuse(name, number, operator)

    def _refuse(self, name: str, number: int, operator: Operator) -> str:
        if self.lenient:
            return name
        raise OperatorError(
            f"{operator!r} cannot be differentiated: its gradient needs {name!r}, which a later operator "
            f"overwrites (it is value {number} of {self._last[name]}); write to another name"
        )

    def is_unchanged(self, name: str, number: int) -> bool:
        """Tell whether a value is there at the end without having been saved."""
        return number == self._last.get(name, 0) and self.boundary.is_stable(name)

    def gradient(self, value: Value) -> str | None:
        """Return the gradient of a value whose users have all been differentiated; None if it has none."""
        parts = self._parts.get(value)
        return parts[0][0] if parts else None

    def new_gradient(self, value: Value) -> str:
        """Return a name for one more gradient of a value.

        The first is called x_grad, the others _x_grad_autosplit_0 and so on; Sum adds them up.
        """
        name, number = value
        parts = self._parts.setdefault(value, [])
        made = sum(by_operator for _, by_operator in parts)
        target = self._targets.get(name) if number == 0 else None
        base = target or f"{name}_grad"
        if made:
            wanted = f"_{base}_autosplit_{made - 1}"
        elif target is not None and not self._is_shared(target, name) and (target, False) not in parts:
            parts.append((target, True))
            return target
        else:
            wanted = base
        gradient = self.free_name(wanted, name, avoid={part for part, _ in parts})
        parts.append((gradient, True))
        return gradient

    def withdraw_gradient(self, value: Value, gradient: str) -> None:
        """Take back a name that `new_gradient` gave, as no operator makes this gradient."""
        name, _ = value
        self._parts[value].remove((gradient, True))
        if not self._parts[value]:
            del self._parts[value]
        values = ((name, number) for number in range(self._last.get(name, 0) + 1))
        if all(gradient != part for other in values for part, _ in self._parts.get(other, ())):
            self._holders.get(gradient, set()).discard(name)

    def pass_through(self, value: Value, gradient: str) -> None:
        """Tell that a value's gradient (or a part of it) is a blob that exists already."""
        self._parts.setdefault(value, []).append((gradient, False))
        self._holders.setdefault(gradient, set()).add(value[0])

    def free_name(self, wanted: str, blob: str, avoid: Iterable[str] = ()) -> str:
        """Return a name that holds no other blob's gradient and is no forward blob: the wanted one, if so."""
        name, suffix = wanted, 0
        while name in self._forward or name in self._reserved or name in avoid or self._is_shared(name, blob):
            suffix += 1
            name = f"{wanted}_{suffix}"
        self._holders.setdefault(name, set()).add(blob)
        return name

    def _is_shared(self, gradient: str, blob: str) -> bool:
        """Tell whether a name holds the gradient of another blob."""
        return bool(self._holders.get(gradient, set()) - {blob})

    def __contains__(self, name: object) -> bool:
        """Tell whether a net running in the same workspace must not use a name for something else."""
        if not isinstance(name, str):
            return False
        return name in self._forward or name in self._holders or name in self._reserved

    def _play(self, position: int, operator: Operator) -> GradientContext:
        effects = effects_of(operator)
        names = dict.fromkeys((*effects.reads, *effects.writes, *operator.outputs))
        before = {name: self._last.get(name, 0) for name in names}
        keeps = effects.keeps.difference(effects.reads)
        keeps = frozenset(name for name in keeps if (name, before[name]) not in self._first_user)
        for name in (*effects.reads, *keeps):
            self._first_user.setdefault((name, before[name]), position)
        for name in dict.fromkeys(effects.writes):
            self._last[name] = before[name] + 1
        for name in names:
            self._last.setdefault(name, 0)
        after = {name: self._last[name] for name in names}
        return GradientContext(self, operator, before, after, keeps)

    def _differentiate(self, position: int, context: GradientContext) -> None:
        operator = context.operator
        schema = find_operator(operator.type).schema
        # Also what nets inside write without a word in `outputs`, as Caffe2 lets them.
        flowing = [name for name in context.after if context.gradient_of(name) is not None]
        if flowing and not schema.stops_gradient:
            if schema.gradient is not None:
                schema.check_whole(operator)
                self.operators += schema.gradient(context)
            elif not self.lenient:
                raise OperatorError(
                    f"{operator!r} cannot be differentiated: the gradient of {flowing[0]!r} flows into it, "
                    f"and type {operator.type!r} has none; put StopGradient behind it, or register one"
                )
        for name, number in context.before.items():
            if self._first_user.get((name, number)) == position:
                self._sum((name, number))

    def _sum(self, value: Value) -> None:
        parts = self._parts.get(value, [])
        if len(parts) < 2:
            return
        name, number = value
        target = self._targets.get(name) if number == 0 else None
        if target is not None and self._is_shared(target, name):
            target = None
        made = [part for part, by_operator in parts if by_operator]
        if target is None:
            target = made[0] if made else self.free_name(f"{name}_grad", name)
        terms = [part for part, _ in parts]
        if target in terms:  # Sum may overwrite its first input only
            terms.remove(target)
            terms.insert(0, target)
        self.operators.append(Operator("Sum", terms, [target]))
        self._parts[value] = [(target, True)]


class GradientContext:
    """What a gradient maker sees of the operator that it differentiates.

    Attributes
    ----------
    operator : Operator
        The forward operator.
    before, after : dict of str to int
        Numbers of the values of the names that it touches.
    keeps : frozenset of str
        Names that it may leave alone although it writes them, and that neither it nor an operator before it
        reads: they may have no value.
    """

    def __init__(
        self,
        differentiation: Differentiation,
        operator: Operator,
        before: dict[str, int],
        after: dict[str, int],
        keeps: frozenset[str],
    ) -> None:
        self.operator = operator
        self.before = before
        self.after = after
        self.keeps = keeps
        self._differentiation = differentiation

    @property
    def lenient(self) -> bool:
        """Whether nothing is differentiated, only needed values are asked for."""
        return self._differentiation.lenient

    def input(self, i: int) -> str:
        """Return the name under which the forward value of input `i` is found by the backward net.

        Raises
        ------
        OperatorError
            It was overwritten.
        """
        return self.value_before(self.operator.inputs[i])

    def output(self, j: int) -> str:
        """Return the name under which the forward value of output `j` is found by the backward net."""
        return self.value_after(self.operator.outputs[j])

    def input_layout(self, i: int) -> str:
        """Return the name of a blob whose value has the `shape` and `dtype` of input `i`.

        That is a tensor, or a `TensorLayout`, which costs a loop nothing to save.
        """
        name = self.operator.inputs[i]
        if name in self.operator.outputs:  # in place: its gradient has the layout
            return self.output_gradient(self.operator.outputs.index(name))
        return self.layout_before(name)

    def input_or_gradient(self, i: int) -> str:
        """Return input `i` if it can be read as it is, else the gradient of output 0: to tell a device by."""
        name = self.operator.inputs[i]
        if self._differentiation.is_unchanged(name, self.before[name]):
            return self.input(i)
        return self.output_gradient(0)

    def output_gradient(self, j: int) -> str:
        """Return the gradient of output `j`.

        Raises
        ------
        OperatorError
            There is none: nothing that depends on this output has a gradient.
        """
        gradient = self.output_gradient_or_none(j)
        if gradient is None:
            raise OperatorError(
                f"{self.operator!r} cannot be differentiated: no gradient reaches its output "
                f"{self.operator.outputs[j]!r}"
            )
        return gradient

    def refuse_gradient(self, j: int, reason: str) -> None:
        """Raise an error if output `j` has a gradient, which the operator does not handle.

        Raises
        ------
        OperatorError
            It has one.
        """
        if self.output_gradient_or_none(j) is not None and not self.lenient:
            raise OperatorError(
                f"{self.operator!r} cannot be differentiated by its output {self.operator.outputs[j]!r}: "
                f"{reason}"
            )

    def output_gradient_or_none(self, j: int) -> str | None:
        """Return the gradient of output `j`, None if there is none."""
        return self.gradient_of(self.operator.outputs[j])

    def input_gradient(self, i: int) -> str:
        """Return a name for the gradient of input `i`, which the maker's operators have to write."""
        return self.new_gradient(self.operator.inputs[i])

    def pass_through(self, i: int, gradient: str) -> None:
        """Tell that the gradient of input `i` is a blob that exists already."""
        self.pass_gradient(self.operator.inputs[i], gradient)

    # By name, for operators with nets inside

    def value_before(self, name: str) -> str:
        """Return the name under which the value of a name before the operator is found."""
        return self._differentiation.resolve(name, self.before.get(name, 0), self.operator)

    def value_after(self, name: str) -> str:
        """Return the name under which the value of a name after the operator is found."""
        return self._differentiation.resolve(name, self.after.get(name, 0), self.operator)

    def layout_before(self, name: str) -> str:
        """Return the name of a blob that has, or is, the layout of a name's value before the operator."""
        return self._differentiation.resolve_layout(name, self.before.get(name, 0), self.operator)

    def layout_after(self, name: str) -> str:
        """Return the name of a blob that has, or is, the layout of a name's value after the operator."""
        return self._differentiation.resolve_layout(name, self.after.get(name, 0), self.operator)

    def gradient_of(self, name: str) -> str | None:
        """Return the gradient of a name's value after the operator."""
        if self.after[name] == self.before[name]:
            return None  # not written: the gradient is that of the value from before, and stays with it
        return self._differentiation.gradient((name, self.after[name]))

    def wants_gradient(self, name: str) -> bool:
        """Tell whether a gradient of the value before the operator is wanted."""
        if name not in self.keeps:
            return True
        return self.before[name] > 0 or self._differentiation.boundary.carries(name)

    def new_gradient(self, name: str) -> str:
        """Return a name for the gradient of a name's value before the operator."""
        return self._differentiation.new_gradient((name, self.before[name]))

    def withdraw_gradient(self, name: str, gradient: str) -> None:
        """Take a name back that `new_gradient` gave, as no operator will make that gradient."""
        self._differentiation.withdraw_gradient((name, self.before[name]), gradient)

    def pass_gradient(self, name: str, gradient: str) -> None:
        """Tell that the gradient of a name's value before the operator is a blob that exists already."""
        self._differentiation.pass_through((name, self.before[name]), gradient)

    def free_name(self, wanted: str) -> str:
        """Return a name for a blob of the backward net that is nobody's gradient."""
        return self._differentiation.free_name(wanted, wanted)

    @property
    def taken_names(self) -> Container[str]:
        """The names that nets inside the gradient operator must leave alone."""
        return self._differentiation


GradientMaker: TypeAlias = Callable[[GradientContext], list[Operator]]
