"""Scopes of small tensors in one preallocated arena, one-pass kernels, exact gradient accumulation."""

import os as _os

_here = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_here, "kernels")):  # a source checkout, not a wheel
    _root = _os.path.dirname(_here)
    if _os.path.isfile(_os.path.join(_root, "kernels", "__init__.py")):
        __path__.append(_root)  # numscope.kernels -> ../kernels

from numscope.arena import Arena, ArenaStats, default_arena, set_default_arena
from numscope.blob import Blob
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
from numscope.stack import WorkspaceStack
from numscope.types import KnownType, is_known_type, known_type, register_known_type
from numscope.workspace import Workspace, current_workspace

__all__ = [
    "AccumulationError",
    "Arena",
    "ArenaExhausted",
    "ArenaStats",
    "BindingError",
    "Blob",
    "BlobNotFoundError",
    "BlobTypeError",
    "DeviceUnavailableError",
    "GradientAccumulator",
    "GradientStats",
    "KnownType",
    "NumscopeError",
    "OperatorError",
    "StackError",
    "UnknownTypeError",
    "Workspace",
    "WorkspaceStack",
    "current_workspace",
    "default_arena",
    "is_known_type",
    "known_type",
    "register_known_type",
    "set_default_arena",
]
