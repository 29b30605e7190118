"""Operators and nets: what runs in workspaces, with control flow and generated gradients."""

from numscope.operators.builders import Do, If, While
from numscope.operators.comparison import AndOp, EQOp, GEOp, GTOp, LEOp, LTOp, NotOp, OrOp
from numscope.operators.control import IfOp, WhileOp
from numscope.operators.definition import Net, Operator
from numscope.operators.differentiation import GradientContext
from numscope.operators.elementwise import (
    AddOp,
    ExpOp,
    LogOp,
    MulOp,
    NegOp,
    ReluOp,
    ScaleOp,
    SigmoidOp,
    SubOp,
    TanhOp,
)
from numscope.operators.fills import ConstantFillOp, GivenTensorFillOp, GivenTensorInt64FillOp
from numscope.operators.gradient import gradient
from numscope.operators.losses import AveragedLossOp, SoftmaxWithLossOp, SquaredL2DistanceOp, SumElementsOp
from numscope.operators.matrix import FCOp, MatMulOp
from numscope.operators.movement import CastOp, CopyOnDeviceLikeOp, CopyOp, FreeOp, StopGradientOp
from numscope.operators.power import PowOp
from numscope.operators.program import BuiltNet, build
from numscope.operators.registry import Argument, CompiledOperator, register_operator
from numscope.operators.scope import CreateScopeOp, DoOp, HasScopeOp
from numscope.operators.shaping import ConcatOp, GatherOp, ReshapeOp, SliceOp, SplitOp
from numscope.operators.sums import AccumulateOp, SumOp, WeightedSumOp
from numscope.workspace import set_builder

__all__ = [
    "AccumulateOp",
    "AddOp",
    "AndOp",
    "Argument",
    "AveragedLossOp",
    "BuiltNet",
    "CastOp",
    "CompiledOperator",
    "ConcatOp",
    "ConstantFillOp",
    "CopyOnDeviceLikeOp",
    "CopyOp",
    "CreateScopeOp",
    "Do",
    "DoOp",
    "EQOp",
    "ExpOp",
    "FCOp",
    "FreeOp",
    "GEOp",
    "GTOp",
    "GatherOp",
    "GivenTensorFillOp",
    "GivenTensorInt64FillOp",
    "GradientContext",
    "HasScopeOp",
    "If",
    "IfOp",
    "LEOp",
    "LTOp",
    "LogOp",
    "MatMulOp",
    "MulOp",
    "NegOp",
    "Net",
    "NotOp",
    "Operator",
    "OrOp",
    "PowOp",
    "ReluOp",
    "ReshapeOp",
    "ScaleOp",
    "SigmoidOp",
    "SliceOp",
    "SoftmaxWithLossOp",
    "SplitOp",
    "SquaredL2DistanceOp",
    "StopGradientOp",
    "SubOp",
    "SumElementsOp",
    "SumOp",
    "TanhOp",
    "WeightedSumOp",
    "While",
    "WhileOp",
    "build",
    "gradient",
    "register_operator",
]

set_builder(build)
