"""If and While: nets that run in the operator's own workspace, as a condition says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numscope.errors import BlobTypeError, OperatorError
from numscope.operators.control_gradient import if_gradient, while_gradient
from numscope.operators.definition import Net, Operator
from numscope.operators.effects import written_names
from numscope.operators.interrupts import PRESSED, stop
from numscope.operators.program import Program, program_of
from numscope.operators.registry import CompiledOperator, register_operator
from numscope.operators.scope import DoOp
from numscope.operators.tensors import Array

if TYPE_CHECKING:
    from numscope.workspace import Workspace

__all__ = ["IfOp", "WhileOp"]


class ConditionalOp(CompiledOperator):
    """An operator whose first input is a condition: a tensor of one bool."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.condition = definition.inputs[0]

    def build(self, ws: Workspace) -> None:
        """Build all nets, also those that may never run: their inputs must exist."""
        for program in self.programs:
            program.build(ws)

    def check_condition(self, ws: Workspace) -> None:
        """Check that the condition is a tensor of one element.

        Raises
        ------
        OperatorError, BlobTypeError
            It is gone, or anything else.
        """
        value = self.value(ws)
        if value.size != 1:
            raise OperatorError(
                f"{self.definition!r}: condition {self.condition!r} must have a single value, "
                f"got shape {value.shape}"
            )

    def holds(self, ws: Workspace) -> bool:
        """Return the condition's value; the first one, if a net of this operator has made more of it.

        Raises
        ------
        OperatorError, BlobTypeError
            It is gone, or no tensor of bool, or has no value at all.
        """
        value = self.value(ws)
        if value.dtype.kind != "b":
            raise BlobTypeError(
                f"{self.definition!r}: condition {self.condition!r} must be bool, got {value.dtype}; "
                "compare with LT, LE, GT, GE or EQ"
            )
        if value.size == 1:
            return value.item()  # type: ignore[no-any-return]
        if not value.size:
            raise OperatorError(
                f"{self.definition!r}: condition {self.condition!r} must have a single value, "
                f"the nets of this operator have left it with shape {value.shape}"
            )
        return bool(value.reshape(-1)[0])

    def value(self, ws: Workspace) -> Array:
        """Return the condition, which must be a tensor."""
        blob = ws.get_blob(self.condition)
        if blob is None:
            raise OperatorError(
                f"{self.definition!r}: condition {self.condition!r} does not exist any more; feed it, or run "
                "what makes it"
            )
        if not blob.is_tensor:
            kind = "nothing" if blob.type is None else blob.type.name
            raise BlobTypeError(
                f"{self.definition!r}: condition {self.condition!r} must be a tensor, it contains {kind}"
            )
        return blob.value


@register_operator(
    "If",
    inputs=(1, None),
    outputs=(0, None),
    in_place=True,
    arguments={"then_net": "net", "else_net": ("net", None)},
    gradient=if_gradient,
)
class IfOp(ConditionalOp):
    """Run `then_net` if the condition holds, else `else_net`, if there is one."""

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        self.then_program = program_of(self.argument("then_net"))
        otherwise: Net | None = self.argument("else_net")
        self.else_program = None if otherwise is None else program_of(otherwise)
        branches = (self.then_program, self.else_program)
        self.programs = tuple(program for program in branches if program is not None)

    def run(self, ws: Workspace) -> bool:
        self.check_condition(ws)
        if self.holds(ws):
            return self.then_program.run(ws)
        return self.else_program is None or self.else_program.run(ws)


@register_operator(
    "While",
    inputs=(1, None),
    outputs=(0, None),
    in_place=True,
    arguments={"loop_net": "net", "cond_net": ("net", None), "max_iterations": ("int", None)},
    gradient=while_gradient,
)
class WhileOp(ConditionalOp):
    """Run `loop_net` as long as the condition holds; `cond_net`, if given, computes it before each round.

    More rounds than `max_iterations` are an error. Caffe2 has no such argument.
    """

    def __init__(self, definition: Operator) -> None:
        super().__init__(definition)
        loop: Net = self.argument("loop_net")
        condition: Net | None = self.argument("cond_net")
        self.loop_program = program_of(loop)
        self.condition_program: Program | None = None if condition is None else program_of(condition)
        self.programs = (self.loop_program,)
        if self.condition_program is not None:
            self.programs = (self.loop_program, self.condition_program)
        self.max_iterations = self.argument("max_iterations")
        if self.max_iterations is not None and self.max_iterations < 0:
            raise OperatorError(
                f"{definition!r}: max_iterations must not be negative, got {self.max_iterations}; "
                "leave it out for no limit"
            )
        self._changing = written_names(loop) | (set() if condition is None else written_names(condition))

    def build(self, ws: Workspace) -> None:
        super().build(ws)
        for compiled in self.loop_program.compiled():
            if isinstance(compiled, DoOp) and not compiled.is_gradient_op:
                compiled.expect_changes(self._changing)

    def run(self, ws: Workspace) -> bool:
        self.check_condition(ws)
        rounds = 0
        while True:
            if PRESSED:  # also in a loop without operators
                stop()
            if self.condition_program is not None and not self.condition_program.run(ws):
                return False
            if not self.holds(ws):
                return True
            if self.max_iterations is not None and rounds >= self.max_iterations:
                raise OperatorError(
                    f"{self.definition!r}: condition {self.condition!r} still holds after "
                    f"max_iterations={self.max_iterations} rounds; raise the limit, or let the loop change it"
                )
            if not self.loop_program.run(ws):
                return False
            rounds += 1
