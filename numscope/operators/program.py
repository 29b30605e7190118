"""Programs: nets compiled once and run in any number of workspaces.

Caffe2 builds a net anew in each workspace and keeps pointers to its blobs. Here compiled operators hold
names only, resolved when they run: a loop of 200 rounds shares one program among its 200 workspaces, and a
blob that was removed between two runs is looked up again (Caffe2 crashes there).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from numscope.errors import NumscopeError, OperatorError
from numscope.namespace import ancestors
from numscope.operators.definition import Net, Operator, check_nesting
from numscope.operators.effects import effects_of
from numscope.operators.interrupts import PRESSED, between_operators, stop
from numscope.operators.registry import CompiledOperator, find_operator
from numscope.operators.tensors import array_module

if TYPE_CHECKING:
    from numscope.namespace import Namespace
    from numscope.workspace import Workspace

__all__ = ["BuiltNet", "Program", "build", "program_of"]

_compiling = threading.Lock()


class Program:
    """A net's operators, compiled one by one as they are first built."""

    __slots__ = ("_compiled", "_definitions", "_net", "has_nets")

    def __init__(self, net: Net) -> None:
        self._net = net
        self._definitions = tuple(net.operators)
        self.has_nets = any(True for definition in self._definitions for _ in definition.nets())
        self._compiled: list[CompiledOperator] = []

    def is_current(self) -> bool:
        """Tell whether the net, and each net inside it, still has the operators it was compiled from."""
        if len(self._definitions) != len(self._net.operators):
            return False
        if any(
            ours is not theirs for ours, theirs in zip(self._definitions, self._net.operators, strict=True)
        ):
            return False
        return all(
            inner._net._program is inner and inner.is_current()
            for compiled in self._compiled
            for inner in compiled.programs
        )

    def build(self, ws: Workspace) -> None:
        """Check that the inputs exist and make the outputs, in a workspace and in the operators' order.

        Raises
        ------
        OperatorError
            An unknown type, a definition that does not fit its schema, or an input that does not exist.
            What the operators before it have built stays, as in Caffe2.
        """
        _check_externals(self._net)
        for position, definition in enumerate(self._definitions):
            is_new = position >= len(self._compiled)
            if is_new:
                find_operator(definition.type).schema.check(definition)
            for name in definition.inputs:
                if not ws.has_blob(name):
                    raise self._missing_input(position, name)
            for name in definition.outputs:
                if ws.create_blob(name) is None:
                    raise OperatorError(
                        f"{definition!r}: output {name!r} is bound to a blob that its parent workspace no "
                        "longer has; make the blob there first"
                    )
            if is_new:
                self._compile(position)
            self._compiled[position].build(ws)

    def check_devices(self, ws: Workspace) -> None:
        """Check that all tensors that the operators use are on the workspace's device.

        Raises
        ------
        OperatorError
            A name is forwarded to a workspace on another one.
        """
        for definition in self._definitions:
            effects = effects_of(definition)
            for name in (*effects.reads, *effects.writes, *definition.outputs):
                blob = ws.get_blob(name)
                if blob is not None and blob.device != ws.device:
                    raise OperatorError(
                        f"{definition!r}: blob {name!r} is on {blob.device}, workspace {ws.name!r} computes "
                        f"on {ws.device}; copy the blob there first, or run in a workspace on {blob.device}"
                    )

    def run(self, ws: Workspace) -> bool:
        """Run the operators in order; False as soon as one of them says so.

        Raises
        ------
        OperatorError
            One of them failed.
        """
        for compiled in self._compiled:
            if PRESSED:
                stop()
            try:
                if compiled.run(ws) is False:
                    return False
            except NumscopeError as error:
                if compiled.programs:
                    error.add_note(f"while running {compiled.definition!r}")
                raise
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise OperatorError(f"{compiled.definition!r} failed: {error}") from error
        return True

    def compiled(self) -> list[CompiledOperator]:
        """Return the compiled operators; all of them once the net was built."""
        return self._compiled

    def _compile(self, position: int) -> None:
        definition = self._definitions[position]
        try:
            compiled = find_operator(definition.type)(definition)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, NumscopeError):
                raise
            raise OperatorError(f"{definition!r} cannot be built: {error}") from error
        with _compiling:  # another thread may build the same net in a workspace of its own
            if position == len(self._compiled):
                self._compiled.append(compiled)

    def _missing_input(self, position: int, name: str) -> OperatorError:
        definition = self._definitions[position]
        for later, other in enumerate(self._definitions[position:], position):
            if name in other.outputs:
                where = "itself" if later == position else f"operator {later} ({other!r}), after it"
                return OperatorError(
                    f"{definition!r}: input blob {name!r} does not exist; it is made by {where}: "
                    "a net runs in order, so feed the blob first or reorder the operators"
                )
        return OperatorError(
            f"{definition!r}: input blob {name!r} does not exist; feed it, or make it by an earlier operator"
        )


class BuiltNet:
    """A program and the workspace it was built in."""

    __slots__ = ("_program", "_ws")

    def __init__(self, program: Program, ws: Workspace) -> None:
        self._program = program
        # Weak: a workspace keeps the nets that create_net made, and must die with its last reference.
        self._ws = weakref.ref(ws)

    def run(self) -> bool:
        """Run the net in its workspace.

        Raises
        ------
        OperatorError
            An operator failed, or the workspace no longer exists.
        """
        ws = self._ws()
        if ws is None:
            raise OperatorError("the workspace of this net no longer exists; keep it as long as its nets")
        if ws.device.startswith("cuda"):
            with array_module(ws.device).cuda.Device(int(ws.device.partition(":")[2])):
                return self._run(ws)
        return self._run(ws)

    def _run(self, ws: Workspace) -> bool:
        # Caffe2 computes exp(1000) and log(0) silently, by IEEE 754.
        with np.errstate(all="ignore"):
            if not self._program.has_nets:
                return self._program.run(ws)
            with between_operators():  # it may loop without end; entering costs 8 us
                return self._program.run(ws)


def program_of(net: Net) -> Program:
    """Return the net's program, made anew if the net was changed since.

    Raises
    ------
    OperatorError
        The net contains itself, or its nets are nested too deeply.
    """
    program = net._program
    if program is None or not program.is_current():
        check_nesting(net)
        program = net._program = Program(net)
    return program


def build(ws: Workspace, definition: Operator | Net | Mapping[str, Any]) -> BuiltNet:
    """Build an operator or a net in a workspace.

    Parameters
    ----------
    ws : Workspace
    definition : Operator, Net, or the plain data of one

    Returns
    -------
    BuiltNet
        Its ``run()`` runs it there, as often as wanted.

    Raises
    ------
    OperatorError
        It cannot be built; the text says which operator and why.
    """
    if isinstance(definition, Mapping):
        definition = Net.from_dict(definition) if "op" in definition else Operator.from_dict(definition)
    if isinstance(definition, Net):
        program = program_of(definition)
    elif isinstance(definition, Operator):
        if definition._net is None:
            definition._net = Net(definition.type, [definition])
        program = program_of(definition._net)
    else:
        raise OperatorError(
            f"expected an Operator or a Net, got a {type(definition).__name__}: {definition!r}"
        )
    if _sees_other_arenas(ws):
        program.check_devices(ws)
    program.build(ws)
    return BuiltNet(program, ws)


def _sees_other_arenas(ws: Workspace) -> bool:
    """Tell whether names may mean blobs of another arena, as a name that is forwarded can."""
    here: Namespace | None = ws
    while here is not None and not here._forwarded:
        here = here._shared  # a child lives in its parent's arena
    return here is not None and any(seen._region.arena is not ws.arena for seen in ancestors(here))


def _check_externals(net: Net) -> None:
    if net.external_input:
        known = set(net.external_input)
        for definition in net.operators:
            for name in definition.inputs:
                if name not in known:
                    raise OperatorError(
                        f"net {net.name!r}: the source of input {name!r} of {definition!r} is unknown; "
                        "declare it as an external_input, or make it by an earlier operator"
                    )
            known.update(definition.outputs)
    if net.external_output:
        # An external_input may be handed on as it came, as in Caffe2.
        made = {name for definition in net.operators for name in definition.outputs}
        for name in net.external_output:
            if name not in made and name not in net.external_input:
                raise OperatorError(
                    f"net {net.name!r}: external_output {name!r} is produced by none of its operators"
                )
