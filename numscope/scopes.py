"""Name scopes and device scopes: what is said around a piece of a program, once, for all of it.

A scope is a level of a stack that every thread (and every asyncio task) has for itself; a new thread
starts without any. The levels are linked from the inside out and names are joined when somebody asks for
one, so that 10,000 nested scopes cost 10,000 small objects: whole names kept at every level would be
hundreds of megabytes of text.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

from numscope.errors import BlobTypeError, StackError

__all__ = [
    "BlobReference",
    "Level",
    "Scope",
    "current_device",
    "device_scope",
    "name_scope",
    "scoped_name",
    "unscoped",
    "whole_name",
]

S = TypeVar("S", bound="Scope")


@dataclass(frozen=True, slots=True, eq=False)
class Level(Generic[S]):
    """A scope that is entered, and the level around it.

    Levels never change: an asyncio task that began inside a scope goes on to see it after it was left.
    """

    scope: S
    outer: Level[S] | None


class Scope:
    """One level of a stack of scopes; a context manager that checks itself on the way out.

    A subclass says which stack it stands on. What it holds is fixed when it is made; entering and leaving
    only change which level is the innermost one.
    """

    _innermost: ClassVar[ContextVar[Any]]  # of Level or None; a class variable's type cannot be generic
    __slots__ = ("_level",)

    def __init__(self) -> None:
        self._level: Level[Any] | None = None

    def __enter__(self) -> Any:
        if self._level is not None:
            raise StackError(f"{self!r} is entered already; make a new scope to enter it again")
        self._level = Level(self, self._innermost.get())
        self._innermost.set(self._level)
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._innermost.set(self.check_innermost().outer)
        self._level = None

    def check_innermost(self) -> Level[Any]:
        """Return the level to leave next; `StackError`, and nothing changes, if it is not this scope's."""
        innermost: Level[Any] | None = self._innermost.get()
        if innermost is None or innermost is not self._level:
            found = "no scope is entered" if innermost is None else f"{innermost.scope!r} is innermost"
            raise StackError(
                f"{self!r} is left out of order: {found} in this thread. "
                "Leave scopes in the reverse order, in the thread and task that entered them."
            )
        return innermost


_names: ContextVar[Level[name_scope] | None] = ContextVar("numscope.name_scope", default=None)
_devices: ContextVar[Level[device_scope] | None] = ContextVar("numscope.device_scope", default=None)


class name_scope(Scope):  # noqa: N801 - used like a function, as in Caffe2 and TensorFlow
    """Prefix the names given inside, as Caffe2's ``NameScope``.

    Operators that are made inside put it before the names of their inputs and outputs, and so do `ns.Do`,
    `ns.If` and `ns.While` with the names that they are given. A `BlobReference` is a whole name and stays
    as it is. For all else, `scoped_name` gives the name: workspaces, nets (`external_input`) and
    `ns.gradient` take names as they are, and so do `from_dict` and a backward net's operators.

    Parameters
    ----------
    prefix : str or None
        Put before names, with a "/" behind it. Any text will do: "x/y" gives "x/y/", "z/" gives "z//".
        "" and None add nothing.
    reset : bool, default False
        Begin anew instead of adding to the scope around; with "" or None there is then no scope inside.

    Raises
    ------
    BlobTypeError
        `prefix` is not text.
    StackError
        The scope is left out of order, or entered while it is entered. Nothing was changed.

    Examples
    --------
    >>> with name_scope("encoder"), name_scope("layer1"):
    ...     scoped_name("w")
    'encoder/layer1/w'
    """

    _innermost = _names
    __slots__ = ("prefix", "reset")

    def __init__(self, prefix: str | None, reset: bool = False) -> None:
        super().__init__()
        if prefix is not None and not isinstance(prefix, str):
            raise BlobTypeError(
                f"the prefix of a name scope is a str or None, got {type(prefix).__name__} {prefix!r}"
            )
        self.prefix = f"{prefix}/" if prefix else ""
        self.reset = reset

    def __repr__(self) -> str:
        return f"name_scope({self.prefix[:-1]!r}{', reset=True' if self.reset else ''})"


class BlobReference(str):
    """A whole name of a blob: text that no name scope is put before (Caffe2's ``BlobReference``).

    Added to text on either side it gives a `BlobReference` again.

    Examples
    --------
    >>> with name_scope("layer"):
    ...     name = BlobReference("shared/w") + "_0"
    ...     scoped_name("w"), name, name.name_scope, name.unscoped_name
    ('layer/w', 'shared/w_0', 'shared/', 'w_0')
    """

    __slots__ = ()

    @property
    def name_scope(self) -> str:
        """Everything up to and with the last "/"; "" without one."""
        return self[: self.rfind("/") + 1]

    @property
    def unscoped_name(self) -> str:
        """Everything behind the last "/"."""
        return self[self.rfind("/") + 1 :]

    def __add__(self, other: str) -> BlobReference:
        return BlobReference(str.__add__(self, other))

    def __radd__(self, other: str) -> BlobReference:
        return BlobReference(str.__add__(other, self))


class device_scope(Scope):  # noqa: N801 - as name_scope
    """Name the device for what is made inside without one.

    Parameters
    ----------
    device : str or None
        Such as ``"cpu"`` or ``"cuda:0"``; None: as if there were no device scope around. The name is
        resolved where it is used.

    Raises
    ------
    BlobTypeError
        `device` is not text.
    StackError
        As for `name_scope`.

    Examples
    --------
    >>> with device_scope("cpu"):
    ...     current_device()
    'cpu'
    """

    _innermost = _devices
    __slots__ = ("device",)

    def __init__(self, device: str | None) -> None:
        super().__init__()
        if device is not None and not isinstance(device, str):
            raise BlobTypeError(
                f"the device of a device scope is a str or None, got {type(device).__name__} {device!r}"
            )
        self.device = device

    def __repr__(self) -> str:
        return f"device_scope({self.device!r})"


def scoped_name(name: str) -> BlobReference:
    """Return a name with this thread's name scope before it.

    Parameters
    ----------
    name : str
        Any text; "" gives the scope itself, which is "" or ends in "/". The scope is put before a
        `BlobReference` as well.

    Returns
    -------
    BlobReference
        A str that operators take as it is.

    Raises
    ------
    BlobTypeError
        `name` is not text.
    """
    if not isinstance(name, str):
        raise BlobTypeError(f"a blob's name is a str, got {type(name).__name__} {name!r}")
    level = _names.get()
    if level is None:
        return BlobReference(name)
    parts = [name]
    while level is not None:
        parts.append(level.scope.prefix)
        level = None if level.scope.reset else level.outer
    parts.reverse()
    return BlobReference("".join(parts))


def whole_name(name: str) -> str:
    """Return the name of a blob that an operator is given: text gets the name scope before it."""
    # Plain text in each case: a dict with a key of another type is slower for all of its keys.
    if isinstance(name, BlobReference):
        return str(name)
    return name if _names.get() is None else str(scoped_name(name))


def unscoped() -> name_scope:
    """Return a scope in which operators take all names as they are, for those that are generated."""
    return name_scope(None, reset=True)


def current_device() -> str | None:
    """Return the device that this thread's device scope names, or None."""
    level = _devices.get()
    return None if level is None else level.scope.device
