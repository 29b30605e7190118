"""Variables: blobs of the root workspace that are made once and found again by name.

`get_variable` follows TensorFlow 1: inside a scope with ``reuse=False`` it makes a variable, with
``reuse=True`` it finds one, with ``AUTO_REUSE`` it does either. What it returns is the blob's array.

A record says which blob a name stands for. The records of a root workspace lie in its ``_variables``; two
names, in one workspace or in two, may have the same record, and are then the same variable (sharing.py).
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numscope.arrays import host_array
from numscope.blob import Blob, Planned, as_shape
from numscope.errors import BindingError, BlobNotFoundError, BlobTypeError
from numscope.initializers import GlorotUniform, Initializer, Zeros, generator_of
from numscope.types import known_dtype
from numscope.variable_scopes import check_name, check_text, get_variable_scope
from numscope.workspace import Workspace, current_workspace

__all__ = ["VariableRecord", "forget_dead", "get_variable", "making"]

Lengths: TypeAlias = tuple[int | None, ...]

# Threads with scopes of their own may make variables of one workspace at a time. Re-entrant: an initializer
# may ask for another variable.
making = threading.RLock()
# A forked child has its lock as it was: it must not be another thread's, which the child does not have.
os.register_at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=making.release)


@dataclass(frozen=True, slots=True, eq=False)
class VariableRecord:
    """A variable: the blob it lives in, and what was said when it was made.

    Attributes
    ----------
    name : str
        The blob's name when the variable was made.
    blob : Blob
    owner : weak reference to Workspace
        Where the blob is local.
    trainable : bool
    where : str
        File and line of the call that made it.
    """

    name: str
    blob: Blob
    owner: weakref.ref[Workspace]
    trainable: bool
    where: str

    @property
    def is_alive(self) -> bool:
        """Whether the blob is there and holds a tensor: it may have been removed, renamed or cleared."""
        return self.blob.is_tensor and self.blob._name == self.name

    @property
    def array(self) -> Any:
        """The blob's array; None where there is no memory."""
        value = self.blob._value
        return None if isinstance(value, Planned) else value


def get_variable(
    name: str,
    shape: int | Sequence[int | None] | None = None,
    *,
    dtype: DTypeLike | None = None,
    initializer: Any = None,
    trainable: bool | None = None,
) -> Any:
    """Make a variable in the current variable scope, or find it, as the scope's `reuse` says.

    The variable is a blob in the root of the current workspace, under the scope's name and its own, joined
    by "/". Name scopes and device scopes have no influence.

    Parameters
    ----------
    name : str
        TensorFlow's rule for names stands in `numscope.variable_scopes`.
    shape : int or sequence of int, optional
        May be left out for a variable that exists, and must be for a constant initializer. A length of
        None stands for any length of a variable that exists.
    dtype : dtype, optional
        A known tensor type. Default: the scope's, float32 at the outermost. A constant initializer has its
        own: that of an array, float32 and int32 of Python's numbers. Another `dtype` beside it is refused;
        beside a constant that the scope gives, it is ignored, as in TensorFlow.
    initializer : callable or array_like, optional
        ``initializer(shape, dtype=dtype)`` gives the values (without a shape, ``initializer()``); a class
        is made an instance first. Anything else is a constant: the values themselves. Default: the
        scope's; else Glorot's uniform one for floating types, and zeros for integers and bool.
    trainable : bool, optional
        Default: the scope's, True at the outermost. Has no effect on a variable that exists.

    Returns
    -------
    numpy.ndarray, cupy.ndarray or None
        The blob's array itself, without a copy. None on a device without memory, where nothing is
        initialised.

    Raises
    ------
    BindingError
        The variable exists and the scope does not reuse (the text says where it was made), or exists with
        another shape or dtype (the text names the field); a blob of that name is no variable; shape and
        initializer do not go together; the name breaks the rule.
    BlobNotFoundError
        The scope has ``reuse=True`` and there is no such variable.
    BlobTypeError
        An argument is of another type.
    ArenaExhausted, UnknownTypeError
        As for `Workspace.empty`; the workspace is as before.
    """
    scope = get_variable_scope()
    check_text(name, "variable")
    full = scope.full_name(name)
    if trainable is not None and not isinstance(trainable, bool):
        raise BlobTypeError(f"trainable is True, False or None, got {trainable!r}")
    is_given = initializer is not None
    if not is_given:
        initializer = scope.initializer
    if initializer is not None and not callable(initializer):
        initializer = _constant(initializer, full)
        if is_given and dtype is not None and known_dtype(dtype) != initializer.dtype:
            raise BindingError(
                f"variable {full!r}: dtype: the constant initializer has {initializer.dtype}, got dtype="
                f"{known_dtype(dtype).name}; convert the values, or leave dtype out"
            )
        if shape is not None:
            raise BindingError(
                f"variable {full!r}: shape: a constant initializer has its own, {initializer.shape}, got "
                f"{shape!r} as well; leave shape out, or use initializers.Constant"
            )
    kind = scope.dtype if dtype is None else known_dtype(dtype)
    lengths = None if shape is None else _lengths(shape, kind)
    root = current_workspace().root
    with making:
        record: VariableRecord | None = root._variables.get(full)
        if record is not None and record.is_alive:
            if scope.reuse is False:
                raise BindingError(
                    f"variable {full!r} exists already: it was made at {record.where}. Take another name, or "
                    "reuse it: variable_scope(..., reuse=True), or reuse=AUTO_REUSE to make or find it"
                )
            _check_found(record, full, lengths, kind)
            return record.array
        if scope.reuse is True:
            known = ", ".join([n for n, r in root._variables.items() if r.is_alive][:10])
            raise BlobNotFoundError(
                f"variable {full!r} does not exist in workspace {root.name!r}, and the scope has reuse=True. "
                f"Variables there: {known or 'none'}. Make it first, or use reuse=AUTO_REUSE"
            )
        forget_dead(root, full)
        if root.has_blob(full):
            raise BindingError(
                f"workspace {root.name!r} has a blob {full!r} that is no variable, which a variable of that "
                "name would alias; remove or rename it, or take another name (make variables before load())"
            )
        _make_blob(root, full, lengths, kind, initializer, scope.seed)
        is_trainable = scope.trainable if trainable is None else trainable
        record = VariableRecord(full, root._blobs[full], weakref.ref(root), is_trainable, _caller())
        root._variables[full] = record
        return record.array


def forget_dead(root: Workspace, name: str) -> None:
    """Make a name free that was the second one of a variable that is gone.

    The name it is forwarded to may have got another blob meanwhile, which this name shall not mean.
    """
    record = root._variables.get(name)
    if record is not None and not record.is_alive:
        root._forget_binding(name, record.owner(), record.name)


def _check_found(record: VariableRecord, full: str, lengths: Lengths | None, kind: np.dtype[Any]) -> None:
    """Raise unless a variable that exists is the one that is asked for."""
    have = record.blob._value
    if lengths is not None and not (
        len(lengths) == len(have.shape)
        and all(n is None or n == m for n, m in zip(lengths, have.shape, strict=True))
    ):
        raise BindingError(
            f"variable {full!r}: shape: it has {have.shape}, got {lengths}; it was made at {record.where}. "
            "Leave shape out, or take another name"
        )
    if kind != have.dtype:
        raise BindingError(
            f"variable {full!r}: dtype: it has {have.dtype}, got {kind.name} (the scope's, unless dtype= is "
            f"given); it was made at {record.where}. Pass dtype={have.dtype.name!r}, or take another name"
        )


def _lengths(shape: int | Sequence[int | None], kind: np.dtype[Any]) -> Lengths:
    if not isinstance(shape, Sequence) or all(n is not None for n in shape):
        return as_shape(shape, kind.itemsize)  # type: ignore[arg-type]
    known = as_shape([0 if n is None else n for n in shape], kind.itemsize)
    return tuple(None if n is None else m for n, m in zip(shape, known, strict=True))


def _constant(value: object, full: str) -> NDArray[Any]:
    """Return values as an array; Python's numbers are float32 and int32, as in TensorFlow."""
    array = host_array(value, f"the initializer of variable {full!r}")
    if not hasattr(value, "dtype"):
        if array.dtype == np.float64:
            return array.astype(np.float32)
        if array.dtype == np.int64 and np.array_equal(array, array.astype(np.int32)):
            return array.astype(np.int32)
    return array


def _make_blob(
    root: Workspace,
    full: str,
    lengths: Lengths | None,
    kind: np.dtype[Any],
    initializer: Callable[..., Any] | NDArray[Any] | None,
    seed: int,
) -> None:
    """Make a blob with initial values; when anything fails there is none."""
    if initializer is None:
        if kind.kind == "c" and lengths is not None:
            raise BindingError(
                f"variable {full!r}: initializer: {kind.name} has no default one; give one, such as Zeros"
            )
        initializer = Zeros if kind.kind in "biu" else GlorotUniform
    if isinstance(initializer, type):
        initializer = initializer()
    if not (
        isinstance(initializer, np.ndarray)
        or (lengths is not None and _is_complete(lengths))
        or _needs_no_arguments(initializer)
    ):
        raise BindingError(
            f"variable {full!r}: shape: a new variable needs all lengths, got {lengths}; give its shape, "
            "or a constant initializer"
        )
    check_name(full, "variable")
    if isinstance(initializer, np.ndarray):
        root.feed(full, initializer)
    elif lengths is not None and _is_complete(lengths):
        if root.device == "null":  # a plan has any size: values would not fit the host's memory
            root.empty(full, lengths, kind)
        elif isinstance(initializer, Initializer):
            root.feed(full, initializer(lengths, kind, generator=generator_of(seed, full)))
        else:
            values = host_array(
                initializer(lengths, dtype=kind), f"what the initializer of {full!r} returned"
            )
            root.feed(full, _fitting(values, full, lengths, kind))
    else:
        root.feed(full, _constant(initializer(), full))


def _is_complete(lengths: Lengths) -> TypeGuard[tuple[int, ...]]:
    """Tell whether no length is left open."""
    return None not in lengths


def _fitting(values: NDArray[Any], full: str, lengths: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """Return what an initializer returned, in the dtype that it should have had."""
    if values.shape != lengths:
        raise BindingError(
            f"variable {full!r}: shape: the initializer returned {values.shape}, expected {lengths}; "
            "it is called as initializer(shape, dtype=dtype)"
        )
    drops_imaginary = values.dtype.kind == "c" != kind.kind  # NumPy lets complex64 become bfloat16
    if drops_imaginary or not np.can_cast(values.dtype, kind, "same_kind"):
        raise BindingError(
            f"variable {full!r}: dtype: the initializer returned {values.dtype}, which cannot be written as "
            f"{kind.name}; it is called as initializer(shape, dtype=dtype)"
        )
    return values.astype(kind, copy=False)


def _needs_no_arguments(initializer: Callable[..., Any]) -> bool:
    try:
        inspect.signature(initializer).bind()
    except (TypeError, ValueError):  # it needs some, or is a built-in that does not say
        return False
    return True


def _caller() -> str:
    """Return file and line of the innermost call from outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "numscope":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
