"""CreateScope, HasScope and Do: nets that run in workspaces of their own, on a stack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from numscope.errors import BlobTypeError, OperatorError
from numscope.operators.bindings import bindings_of
from numscope.operators.control_gradient import do_gradient
from numscope.operators.definition import Net, Operator
from numscope.operators.program import program_of
from numscope.operators.registry import CompiledOperator, register_operator
from numscope.operators.saving import Saves, saves_of
from numscope.stack import WorkspaceStack

if TYPE_CHECKING:
    from numscope.workspace import Workspace

__all__ = ["CreateScopeOp", "DoOp", "HasScopeOp"]

BOOL = np.dtype(np.bool_)


@register_operator("CreateScope", inputs=0, outputs=1, arguments={"retain": ("bool", None)})
class CreateScopeOp(CompiledOperator):
    """Make a workspace stack, or empty the one that the output holds (its workspaces wait for later pushes).

    ``retain=0`` makes a stack that gives the memory of a popped workspace back when it is left.
    """

    def run(self, ws: Workspace) -> None:
        blob = ws.create_blob(self.definition.outputs[0])
        if blob is None:
            raise OperatorError(f"{self.definition!r}: the output is bound to a blob that no longer exists")
        retain = self.argument("retain")
        stack = blob.value if blob.is_type(WorkspaceStack) else None
        if stack is None or (retain is not None and stack.retain != bool(retain)):
            stack = WorkspaceStack(retain=retain is None or bool(retain))
            blob.set(stack)
        stack.clear()


@register_operator("HasScope", inputs=1, outputs=1)
class HasScopeOp(CompiledOperator):
    """A bool tensor of shape [1]: whether the stack holds a workspace."""

    def run(self, ws: Workspace) -> None:
        name = self.definition.inputs[0]
        blob = ws.get_blob(name)
        if blob is None or not blob.is_type(WorkspaceStack):
            kind = "nothing" if blob is None or blob.type is None else blob.type.name
            raise BlobTypeError(
                f"{self.definition!r}: blob {name!r} contains {kind} while a WorkspaceStack is expected; "
                "CreateScope makes one"
            )
        has_scope = not blob.value.empty()
        ws.empty(self.definition.outputs[0], (1,), BOOL).fill(has_scope)


@register_operator(
    "Do",
    inputs=(1, None),
    outputs=(1, None),
    in_place=True,
    arguments={
        "net": "net",
        "inner_blobs": ("strs", ()),
        "outer_blobs_idx": ("ints", ()),
        "reuse_workspace": ("bool", False),
        "copy_external_blobs": ("bool", False),
        "saved_fwd_blobs": ("strs", ()),
    },
    gradient=do_gradient,
)
class DoOp(CompiledOperator):
    """Run a net in a workspace of its own, which sees only what is bound.

    The last input and the last output are the scope: a blob with a workspace stack. Entry k of
    `inner_blobs` is the name inside of outer blob ``outer_blobs_idx[k]``, which counts the inputs and then
    the outputs, both without the scope.

    A forward Do pushes a workspace, with `reuse_workspace` it takes the last one; one in a backward net
    pops it. `copy_external_blobs` leaves copies of all bound blobs in the workspace.

    What the net overwrites is saved in the workspace as it was before, if its gradient needs that
    (Caffe2 refuses to differentiate such a net).
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.bindings = bindings_of(definition)
        self.scope = definition.outputs[-1]
        self.is_gradient_op = definition.is_gradient_op
        self.reuses = bool(self.argument("reuse_workspace"))
        self.copies = bool(self.argument("copy_external_blobs"))
        net: Net = self.argument("net")
        self.net_name = net.name
        self.program = program_of(net)
        self.programs = (self.program,)
        self._net = net
        self._volatile: frozenset[str] = frozenset()
        self._saves: Saves | None = None

    def expect_changes(self, outer_names: Iterable[str]) -> None:
        """Tell that these outer blobs change between the forward run and the backward one.

        A While knows them of its body. Those that the gradient needs are then saved, at the end of the run.
        """
        changing = {inner for inner, outer in self.bindings.items() if outer in set(outer_names)}
        if not changing <= self._volatile:
            self._volatile |= changing
            self._saves = None

    def run(self, ws: Workspace) -> bool:
        blob = ws.create_blob(self.scope)
        if blob is None:
            raise OperatorError(
                f"{self.definition!r}: scope {self.scope!r} is bound to a blob that no longer exists"
            )
        stack = blob.get_mutable(WorkspaceStack)
        if self.is_gradient_op:
            inner = stack.pop_gradient_workspace(ws, self.bindings)
            if inner is None:
                raise OperatorError(
                    f"{self.definition!r}: failed to initialize the workspace: stack {self.scope!r} is "
                    "empty; run the forward net first, once for each backward run"
                )
            with inner:
                return self._run_in(inner)
        if self.reuses and not stack.empty():
            return self._run_in(stack.reuse_last_forward_workspace(ws, self.bindings))
        inner = stack.push_forward_workspace(ws, self.bindings)
        if self.reuses:
            return self._run_in(inner)
        if self._saves is None:
            self._saves = saves_of(self._net, self.bindings, self._volatile, self.copies)
        self._saves.keep_start(inner)
        succeeded = self._run_in(inner)
        self._saves.keep_end(inner)
        if self.copies:
            inner.copy_forwarded_tensors(self.bindings)
        return succeeded

    def _run_in(self, inner: Workspace) -> bool:
        if self.net_name is None:
            raise OperatorError(f"{self.definition!r}: its net should have a name")
        self.program.build(inner)
        return self.program.run(inner)
