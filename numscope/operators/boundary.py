"""Boundaries: where a backward net finds the values that its forward net shared with the outside.

A net shares everything with its workspace; a branch shares its workspace with the If; a Do's net sees what is
bound, in a workspace that is kept until its gradient runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from numscope.errors import OperatorError
from numscope.operators.definition import Net, Operator
from numscope.operators.effects import effects_of_all

if TYPE_CHECKING:
    from numscope.operators.differentiation import GradientContext

__all__ = [
    "Binder",
    "BodyBoundary",
    "Boundary",
    "BranchBoundary",
    "end_name",
    "layout_name",
    "reserved_names",
    "start_name",
]


class Boundary:
    """How a backward net finds forward values that are shared with the world outside of its operators.

    This one is that of a whole net: what is there at the end can be read under its name.

    Parameters
    ----------
    inputs : iterable of str, optional
        Names that are known to have a value before.
    """

    def __init__(self, inputs: Iterable[str] = ()) -> None:
        self.inputs = frozenset(inputs)

    def at_end(self, name: str) -> str:
        """Return the name under which a name's last value is found."""
        return name

    def at_start(self, name: str, operator: Operator) -> str:
        """Return the name under which the value from before the first write is found."""
        raise OperatorError(
            f"{operator!r} cannot be differentiated: its gradient needs {name!r} as it was before a later "
            "operator overwrote it; write to another name, or put the operators into a Do, which saves "
            "what it overwrites"
        )

    def layout_at_end(self, name: str) -> str:
        """Return the name of a blob that has, or is, the layout of a name's last value."""
        return self.at_end(name)

    def layout_at_start(self, name: str, operator: Operator) -> str:
        """Return the name of a blob that has, or is, the layout of the value from before the first write."""
        return self.at_start(name, operator)

    def is_stable(self, name: str) -> bool:
        """Tell whether a name that is not written still has its value when the backward net runs."""
        return True

    def carries(self, name: str) -> bool:
        """Tell whether a value from before that only survives (is not read) needs a gradient."""
        return name in self.inputs


def reserved_names(net: Net, bindings: Mapping[str, str]) -> list[str]:
    """Return the names in a Do's workspace that look as those that its gradient makes there."""
    effects = effects_of_all(net.operators)
    names = {*effects.reads, *effects.writes, *bindings}
    return sorted(name for name in names if "/_DO_OPERATOR_" in name)


def start_name(name: str) -> str:
    """Return the name in a Do's workspace that keeps a blob's value from before the net ran."""
    return f"{name}/_DO_OPERATOR_START_"


def end_name(name: str) -> str:
    """Return the name in a Do's workspace that keeps a blob's value from after the net ran."""
    return f"{name}/_DO_OPERATOR_END_"


def layout_name(name: str) -> str:
    """Return the name in a Do's workspace that keeps the layout of such a value, which itself is not kept."""
    return f"{name}LAYOUT_"


class Binder:
    """The bindings of a Do that is being made; each outer blob is bound once."""

    def __init__(self) -> None:
        self.inner_of: dict[str, str] = {}

    def bind(self, outer: str, inner: str) -> str:
        """Bind an outer blob and return its name inside: the one it has, or `inner` and the outer name.

        A workspace that stays on the stack keeps its mappings. With the outer name in the inner one, the
        backward nets of several gradients (and those that Caffe2 made) never ask for two of one name.
        """
        return self.inner_of.setdefault(outer, f"{inner}{outer}")

    def bind_as_before(self, outer: str, inner: str) -> str:
        """Bind an outer blob as the forward Do has bound it, unless it is bound already."""
        return self.inner_of.setdefault(outer, inner)

    def make_do(self, net: Net, outputs: Iterable[str], scope: str, saved: Iterable[str]) -> Operator:
        """Return a Do in which `outputs` are written and all other bound blobs read.

        A blob that is read and written is an input and an output.
        """
        written = list(dict.fromkeys(outputs))
        # What is written is an input too: it must exist, and While builds its outputs first anyway.
        read = [outer for outer in self.inner_of if outer not in written]
        names = [*read, *written]
        return Operator(
            "Do",
            [*read, scope],
            [*written, scope],
            is_gradient_op=True,
            net=net,
            inner_blobs=list(self.inner_of.values()),
            outer_blobs_idx=[names.index(outer) for outer in self.inner_of],
            saved_fwd_blobs=sorted(saved),
        )


class BodyBoundary(Boundary):
    """The boundary of a Do's net: its workspace, popped when its gradient runs.

    Parameters
    ----------
    bindings : mapping of str to str
        Of the forward Do.
    volatile : set of str
        Inner names of bound blobs that are written again after this net ran, by later rounds of a loop.
    copies : bool
        The forward Do leaves copies of all bound blobs.
    context : GradientContext, optional
        The Do's own surroundings; None to collect only what the forward Do has to save.

    Attributes
    ----------
    starts, ends : set of str
        Inner names whose value from before the net, or from after it, has to be saved.
    start_layouts, end_layouts : set of str
        Those of which the layout is enough.
    locals : set of str
        Names that are found in the workspace itself.
    """

    def __init__(
        self,
        bindings: Mapping[str, str],
        volatile: frozenset[str],
        copies: bool,
        context: GradientContext | None = None,
    ) -> None:
        super().__init__(bindings)
        self.bindings = bindings
        self.volatile = volatile
        self.copies = copies
        self.context = context
        self.binder = Binder()
        self.starts: set[str] = set()
        self.ends: set[str] = set()
        self.start_layouts: set[str] = set()
        self.end_layouts: set[str] = set()
        self.locals: set[str] = set()

    def at_end(self, name: str) -> str:
        if name not in self.bindings or self.copies:
            self.locals.add(name)
            return name
        if name in self.volatile:
            self.ends.add(name)
            return end_name(name)
        if self.context is None:
            return name
        outer = self.context.value_after(self.bindings[name])
        if outer == self.bindings[name]:
            return self.binder.bind_as_before(outer, name)
        # The frame already forwards `name` to the blob that no longer has the value.
        return self.binder.bind(outer, f"{name}/_DO_OPERATOR_OUTER_")

    def at_start(self, name: str, operator: Operator) -> str:
        if name not in self.bindings:
            return super().at_start(name, operator)
        self.starts.add(name)
        return start_name(name)

    def layout_at_end(self, name: str) -> str:
        if name in self.bindings and not self.is_stable(name):
            self.end_layouts.add(name)
            return layout_name(end_name(name))
        if name not in self.bindings or self.copies or self.context is None:
            return self.at_end(name)
        outer = self.context.layout_after(self.bindings[name])
        if outer == self.bindings[name]:
            return self.binder.bind_as_before(outer, name)
        return self.binder.bind(outer, f"{name}/_DO_OPERATOR_OUTER_")

    def layout_at_start(self, name: str, operator: Operator) -> str:
        if name not in self.bindings:
            return super().layout_at_start(name, operator)
        self.start_layouts.add(name)
        return layout_name(start_name(name))

    def is_stable(self, name: str) -> bool:
        return name not in self.volatile or self.copies


class BranchBoundary(Boundary):
    """The boundary of a branch of If, which runs in the same workspace as the If itself."""

    def __init__(self, context: GradientContext) -> None:
        super().__init__()
        self.context = context

    def at_end(self, name: str) -> str:
        return self.context.value_after(name)

    def at_start(self, name: str, operator: Operator) -> str:
        return self.context.value_before(name)

    def layout_at_end(self, name: str) -> str:
        return self.context.layout_after(name)

    def layout_at_start(self, name: str, operator: Operator) -> str:
        return self.context.layout_before(name)

    def carries(self, name: str) -> bool:
        return self.context.wants_gradient(name)
