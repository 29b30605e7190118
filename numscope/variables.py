"""Variables: blobs of the root workspace that are made once and found again by name.

`get_variable` follows TensorFlow 1: inside a scope with ``reuse=False`` it makes a variable, with
``reuse=True`` it finds one, with ``AUTO_REUSE`` it does either. What it returns is the blob's array.

A record says which blob a name stands for. The records of a root workspace lie in its ``_variables``; two
names, in one workspace or in two, may have the same record, and are then the same variable.
"""

from __future__ import annotations

import inspect
import sys
import threading
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
from numscope.variable_scopes import VariableScope, check_name, check_text, get_variable_scope
from numscope.workspace import Workspace, current_workspace

__all__ = ["VariableRecord", "get_variable", "share_variables"]

Lengths: TypeAlias = tuple[int | None, ...]

# Threads with scopes of their own may make variables of one workspace at a time. Re-entrant: an initializer
# may ask for another variable.
_making = threading.RLock()


@dataclass(frozen=True, slots=True, eq=False)
class VariableRecord:
    """A variable: the blob it lives in, and what was said when it was made.

    Attributes
    ----------
    name : str
        The blob's name when the variable was made.
    blob : Blob
    trainable : bool
    where : str
        File and line of the call that made it.
    """

    name: str
    blob: Blob
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
    with _making:
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
        if root.has_blob(full):
            raise BindingError(
                f"workspace {root.name!r} has a blob {full!r} that is no variable, which a variable of that "
                "name would alias; remove or rename it, or take another name (make variables before load())"
            )
        _make_blob(root, full, lengths, kind, initializer, scope.seed)
        is_trainable = scope.trainable if trainable is None else trainable
        record = VariableRecord(full, root._blobs[full], is_trainable, _caller())
        root._variables[full] = record
        return record.array


def share_variables(
    source: str | VariableScope, target: str | VariableScope, *, workspace: Workspace | None = None
) -> dict[str, Any]:
    """Give variables a second name, or make them variables of another workspace as well. Nothing is copied.

    `source` names a variable, a scope, or both: the variable of that name and all below it are shared, under
    names that begin with `target` instead. Variables made later are not shared. `get_variable` finds the
    shared ones by either name; ``ws.variables()`` has each once, under its first name there. Blobs get no
    new names, so that bulk work on a workspace and `save` meet the memory once.

    Parameters
    ----------
    source : str or VariableScope
        Full name in the root of the current workspace; "" for all of it.
    target : str or VariableScope
        Full name in the root of `workspace`.
    workspace : Workspace, optional
        Default: the current one.

    Returns
    -------
    dict of str to array
        What is shared, by its new full names.

    Raises
    ------
    BindingError
        A new name has a variable or a blob already, which would alias by accident; `target` lies in `source`
        itself; the workspaces are on different devices. Nothing was shared.
    BlobNotFoundError
        There are no variables at `source`.
    BlobTypeError
        An argument is of another type.

    Examples
    --------
    >>> from numscope.variable_scopes import variable_scope
    >>> with Workspace(), variable_scope("encoder") as encoder:
    ...     w = get_variable("w", (2, 2))
    ...     shared = share_variables(encoder, "decoder")
    ...     shared["decoder/w"] is w
    True
    """
    if workspace is not None and not isinstance(workspace, Workspace):
        raise BlobTypeError(f"workspace= takes a Workspace, got {type(workspace).__name__} {workspace!r}")
    here = current_workspace().root
    there = here if workspace is None else workspace.root
    old, new = _scope_name(source), _scope_name(target)
    if there.device != here.device:
        raise BindingError(
            f"workspace {there.name!r} is on {there.device}, the variables are on {here.device}; "
            "variables are shared on one device only"
        )
    if there is here and f"{new}/".startswith(f"{old}/" if old else ""):
        raise BindingError(f"{new!r} lies in {old!r}: variables cannot be shared with themselves")
    with _making:
        shared: dict[str, VariableRecord] = {}
        for name, record in here._variables.items():
            if record.is_alive and (name == old or name.startswith(f"{old}/") or not old):
                if old and not new and name == old:
                    raise BindingError(f"variable {name!r} cannot be shared as '': give it a name there")
                rest = name.removeprefix(f"{old}/") if old else name
                shared[new if name == old else f"{new}/{rest}" if new else rest] = record
        if not shared:
            raise BlobNotFoundError(f"workspace {here.name!r} has no variables at {old!r}; make them first")
        for name, record in shared.items():
            check_name(name, "variable")
            taken = there._variables.get(name)
            if taken is record:
                continue
            if taken is not None and taken.is_alive:
                raise BindingError(
                    f"variable {record.name!r} cannot be shared as {name!r}: workspace {there.name!r} has a "
                    f"variable of that name, made at {taken.where}; share it under another name"
                )
            if there.has_blob(name):
                raise BindingError(
                    f"variable {record.name!r} cannot be shared as {name!r}: workspace {there.name!r} has a "
                    "blob of that name; remove or rename it, or share under another name"
                )
        there._variables.update(shared)
        return {name: record.array for name, record in shared.items()}


def _scope_name(scope: str | VariableScope) -> str:
    if isinstance(scope, VariableScope):
        return scope.name
    check_text(scope, "variable scope")
    return scope


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
