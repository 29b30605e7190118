"""Scopes of small tensors in one preallocated arena, one-pass kernels, exact gradient accumulation."""

import os as _os

_here = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_here, "kernels")):  # a source checkout, not a wheel
    _root = _os.path.dirname(_here)
    if _os.path.isfile(_os.path.join(_root, "kernels", "__init__.py")):
        __path__.append(_root)  # numscope.kernels -> ../kernels

from numscope import initializers, interop
from numscope.arena import Arena, ArenaStats
from numscope.blob import Blob
from numscope.cuda_device import cuda_available
from numscope.defaults import default_arena, set_default_arena
from numscope.errors import (
    AccumulationError,
    ArenaExhausted,
    BindingError,
    BlobNotFoundError,
    BlobTypeError,
    DeviceUnavailableError,
    NumscopeError,
    OperatorError,
    StackError,
    UnknownTypeError,
)
from numscope.gradients import GradientAccumulator, GradientStats
from numscope.kernels import get_num_threads, set_num_threads, warmup
from numscope.operators import (
    CompiledOperator,
    CreateScopeOp,
    Do,
    DoOp,
    HasScopeOp,
    If,
    IfOp,
    Net,
    Operator,
    While,
    WhileOp,
    gradient,
    register_operator,
)
from numscope.scopes import BlobReference, device_scope, name_scope, scoped_name
from numscope.sharing import share_variables
from numscope.stack import WorkspaceStack
from numscope.types import KnownType, is_known_type, known_type, register_known_type
from numscope.variable_scopes import AUTO_REUSE, VariableScope, get_variable_scope, variable_scope
from numscope.variables import get_variable
from numscope.workspace import Workspace, current_workspace

__all__ = [
    "AUTO_REUSE",
    "AccumulationError",
    "Arena",
    "ArenaExhausted",
    "ArenaStats",
    "BindingError",
    "Blob",
    "BlobNotFoundError",
    "BlobReference",
    "BlobTypeError",
    "CompiledOperator",
    "CreateScopeOp",
    "DeviceUnavailableError",
    "Do",
    "DoOp",
    "GradientAccumulator",
    "GradientStats",
    "HasScopeOp",
    "If",
    "IfOp",
    "KnownType",
    "Net",
    "NumscopeError",
    "Operator",
    "OperatorError",
    "StackError",
    "UnknownTypeError",
    "VariableScope",
    "While",
    "WhileOp",
    "Workspace",
    "WorkspaceStack",
    "cuda_available",
    "current_workspace",
    "default_arena",
    "device_scope",
    "get_num_threads",
    "get_variable",
    "get_variable_scope",
    "gradient",
    "initializers",
    "interop",
    "is_known_type",
    "known_type",
    "name_scope",
    "register_known_type",
    "register_operator",
    "scoped_name",
    "set_default_arena",
    "set_num_threads",
    "share_variables",
    "variable_scope",
    "warmup",
]
