"""Workspaces: names, the values they mean, and memory for them in an arena."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from numscope import bulk, kernels
from numscope.arena import Arena
from numscope.defaults import default_arena
from numscope.device import resolve_device
from numscope.errors import BindingError, BlobTypeError, OperatorError, StackError
from numscope.files import Files
from numscope.namespace import check_name
from numscope.region import Region
from numscope.scopes import current_device
from numscope.transfer import transfer

__all__ = ["Workspace", "current_workspace", "set_builder"]

MAX_REMEMBERED_SCOPES = 256  # names; a program may number its scopes without end


class Workspace(Files):
    """Named blobs, whose tensors lie side by side in an arena.

    Parameters
    ----------
    parent : Workspace, optional
        Without `bindings`, every name of the parent is visible here. With them, only the bound names are.
        Either way the workspace lives in its parent's arena and keeps the parent alive.
    bindings : mapping of str to str, optional
        Name here -> name in the parent, where it must exist.
    arena : Arena, optional
        Where tensors are put. Default: the parent's, or the default arena of `device`.
    device : str, optional
        Device of the default arena to use: by default the `device_scope`'s, else ``"cpu"``.
    name : str, default "workspace"
        For errors and pictures.

    Raises
    ------
    BindingError
        The parent lacks a bound name, or `parent`, `arena` and `device` contradict one another.
    BlobTypeError
        `parent`, `bindings`, `arena` or `name` is of another type.
    DeviceUnavailableError
        There is no such device, or the arena is closed.

    Examples
    --------
    >>> ws = Workspace(name="train")
    >>> ws["x"] = [1.0, 2.0]
    >>> ws["x"] += 1
    >>> ws["x"]
    array([2., 3.])
    """

    def __init__(
        self,
        parent: Workspace | None = None,
        *,
        bindings: Mapping[str, str] | None = None,
        arena: Arena | None = None,
        device: str | None = None,
        name: str = "workspace",
    ) -> None:
        check_name(name, "workspace")
        if bindings is not None and parent is None:
            raise BindingError(
                "Parent workspace must be specified for bindings: pass the workspace to bind to"
            )
        if parent is not None and not isinstance(parent, Workspace):
            raise BlobTypeError(f"a parent is a Workspace, got {type(parent).__name__} {parent!r}")
        self._setup(parent, bindings, _choose_arena(parent, arena, device), name, keeps_parents=True)

    @classmethod
    def bound_to(cls, parent: Workspace, bindings: Mapping[str, str]) -> Self:
        """Return a workspace that sees only its bindings, and does not keep its parent alive."""
        if not isinstance(parent, Workspace):
            raise BindingError(
                f"Parent workspace must be specified: got {parent!r}; pass the workspace to bind to"
            )
        workspace = cls.__new__(cls)
        workspace._setup(parent, bindings, parent.arena, f"{parent.name}/frame", keeps_parents=False)
        return workspace

    def _setup(
        self,
        parent: Workspace | None,
        bindings: Mapping[str, str] | None,
        arena: Arena,
        name: str,
        *,
        keeps_parents: bool,
    ) -> None:
        shared = parent if bindings is None else None
        super().__init__(name, Region(arena), shared, keeps_parents=keeps_parents)
        self._nets: dict[str, Any] = {}
        self._scope_sizes: dict[str, int] = {}
        self._plans: dict[object, bulk.Plan] = {}
        self._variables: dict[str, Any] = {}  # name -> VariableRecord; variables.py stands above
        self._above = None if parent is None else weakref.ref(parent)
        if bindings is not None:
            self.add_blob_mapping(parent, bindings)
            if self._parents is not None and parent is not None and parent not in self._parents:
                self._parents.append(parent)  # also when there is nothing to bind
        arena.register(self)

    @property
    def root(self) -> Workspace:
        """The workspace that has no parent, where variables live: of a child or frame, its parent's root."""
        here: Workspace = self
        while here._above is not None:
            above = here._above()
            if above is None:
                raise StackError(
                    f"the parent of workspace {here._name!r} no longer exists; keep it as long as its frames"
                )
            here = above
        return here

    def variables(self, trainable: bool | None = None) -> dict[str, Any]:
        """Return the variables that `get_variable` made in the root workspace.

        Parameters
        ----------
        trainable : bool, optional
            Only those that are, or are not, to be trained.

        Returns
        -------
        dict of str to array
            By full name, in the order in which they were made; one that is shared under two names once,
            under the first. None instead of arrays on a device without memory.
        """
        names: dict[Any, str] = {}
        for name, record in self.root._variables.items():
            if record.is_alive and trainable in (None, record.trainable):
                names.setdefault(record, name)
        return {name: record.array for record, name in names.items()}

    # Bulk work

    def zero(self, names: bulk.Names = None, *, stream: Any = None) -> None:
        """Fill local tensors with zeros, in one kernel call.

        Parameters
        ----------
        names : iterable of str or predicate, optional
            Which local blobs; default all that hold tensors.
        stream : stream, optional
            Of CUDA, for this call, instead of CuPy's current one.

        Raises
        ------
        BindingError
            `stream` is none of this device.
        BlobNotFoundError, BlobTypeError
            A name is not local, or holds no tensor; nothing was changed.
        """
        bulk.zero(self, names, stream)

    def copy_to(self, other: Workspace, names: bulk.Names = None, *, stream: Any = None) -> None:
        """Copy local tensors into the blobs of the same names in another workspace.

        Known float pairs are cast (bfloat16 into float32). One kernel call a pair of dtypes.

        Parameters
        ----------
        other : Workspace
            Where each name must be visible, with the same shape.
        names : iterable of str or predicate, optional
            Which local blobs; default all that hold tensors.
        stream : stream, optional
            Of CUDA, for this call, instead of CuPy's current one.

        Raises
        ------
        BindingError
            A name is missing there, or has another shape, device or a dtype that cannot be cast to;
            `stream` is none of this device. Not a byte was written.
        BlobNotFoundError, BlobTypeError
            A name is not local, or holds no tensor.
        """
        bulk.merge(self, other, names, bulk.COPY, 1.0, stream)

    def merge_into(
        self,
        other: Workspace,
        op: Literal["add", "copy"] = "add",
        alpha: float = 1.0,
        clear: bool = False,
        names: bulk.Names = None,
        *,
        stream: Any = None,
    ) -> None:
        """Add or copy local tensors, scaled, into the blobs of the same names in another workspace.

        ``other[name] += alpha * self[name]`` for ``op="add"``, ``other[name] = alpha * self[name]`` for
        ``op="copy"``; known float pairs are cast. One kernel call a pair of dtypes.

        Parameters
        ----------
        other : Workspace
            Where each name must be visible, with the same shape.
        op : {"add", "copy"}
        alpha : float, default 1.0
        clear : bool, default False
            Fill the local tensors with zeros in the same pass.
        names : iterable of str or predicate, optional
            Which local blobs; default all that hold tensors.
        stream : stream, optional
            Of CUDA, for this call, instead of CuPy's current one.

        Raises
        ------
        BindingError, BlobNotFoundError, BlobTypeError
            As `copy_to`, or `op` is none of the two.
        """
        bulk.merge(self, other, names, bulk.merging(op, clear), alpha, stream)

    def pieces(self, names: bulk.Names = None) -> dict[np.dtype[Any], kernels.Pieces]:
        """Return where the elements of local tensors lie, by dtype, for `numscope.kernels.prepare`.

        The addresses are valid as long as the tensors are in this workspace.

        Parameters
        ----------
        names : iterable of str or predicate, optional
            Which local blobs, in this order; default all that hold tensors.

        Raises
        ------
        BlobNotFoundError, BlobTypeError
            A name is not local, or holds no tensor.
        """
        return bulk.pieces(self, names)

    def clear(self, release: bool = True) -> None:
        """Drop every local blob and give the memory back.

        Arrays that are still alive elsewhere keep their bytes; the arena hands these out again when the
        arrays have died. A workspace that is filled again asks at once for what it needed last time.

        Parameters
        ----------
        release : bool, default True
            False: keep the blobs, and fill the tensors with zeros, as a training loop wants.
        """
        with self._guard:
            if release:
                # In this order, Ctrl-C in between leaves no plan of a kernel call that finds bytes of a blob
                # that is gone, no blob here whose bytes are free, and none that takes no value any more.
                self._region.version += 1
                blobs, self._blobs = self._blobs, {}
                self._plans.clear()
                self._region.release()
                for blob in blobs.values():
                    blob.leave_with_all()
            else:
                bulk.zero(self, None, None)

    def to(self, device: str) -> Workspace:
        """Return a workspace in another device's default arena, with copies of all local blobs.

        Tensors that lie side by side, as those of one segment do, go by one copy. From a card to the host
        the copy is waited for.

        Parameters
        ----------
        device : str
            ``"cpu"``, ``"cuda"``, ``"cuda:1"``; this workspace itself is returned if it is there already.

        Raises
        ------
        ArenaExhausted, DeviceUnavailableError
            Too little room there, or no such device.
        """
        if resolve_device(device).name == self.device:
            return self
        with self._guard:
            moved = Workspace(arena=default_arena(device), name=self._name)
            transfer(self, moved)
        return moved

    # Scopes

    @contextmanager
    def scope(self, name: str = "scope") -> Iterator[Workspace]:
        """Return a child for a ``with`` statement; it is cleared on leaving, also after an exception.

        It sees all names of this workspace; new names are its own. A scope of the same name asks at once
        for the memory that the last one needed.
        """
        check_name(name, "scope")
        child = Workspace(self, name=f"{self._name}/{name}")
        child._region.wanted = self._scope_sizes.get(name, 0)
        try:
            yield child
        finally:
            if len(self._scope_sizes) >= MAX_REMEMBERED_SCOPES:
                self._scope_sizes.clear()
            self._scope_sizes[name] = child._region.used
            child.clear()

    def __enter__(self) -> Workspace:
        _current.stack.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not _current.stack or _current.stack[-1] is not self:
            raise StackError(
                f"workspace {self._name!r} is left out of order: it is not the current one of this thread; "
                "leave workspaces in the reverse order of entering them"
            )
        _current.stack.pop()

    # Operators and nets

    def run(self, op_or_net: Any) -> bool:
        """Build an operator or a net here and run it once.

        Returns
        -------
        bool
            What the operator says: False stops a net.

        Raises
        ------
        OperatorError
            It cannot be built, or fails.
        """
        return bool(_build(self, op_or_net).run())

    def create_net(self, net: Any, overwrite: bool = False) -> Any:
        """Build a net and keep it under its name, for `run_net`.

        Raises
        ------
        OperatorError
            The net has no name, cannot be built, or has the name of another one and `overwrite` is false.
        """
        name = net["name"] if isinstance(net, Mapping) and "name" in net else getattr(net, "name", "")
        if not name:
            raise OperatorError("Net definition should have a name: give it one to find it again by")
        if name in self._nets and not overwrite:
            raise OperatorError(
                f"workspace {self._name!r} has a net {name!r} already, which is not overwritten; "
                "pass overwrite=True or take another name"
            )
        self._nets.pop(name, None)
        self._nets[name] = built = _build(self, net)
        return built

    def run_net(self, name: str) -> bool:
        """Run a net that `create_net` made.

        Raises
        ------
        OperatorError
            There is no such net, or it fails.
        """
        if name not in self._nets:
            known = ", ".join(sorted(self._nets)) or "none"
            raise OperatorError(
                f"Can't find net {name}: workspace {self._name!r} has {known}; create_net() it"
            )
        return bool(self._nets[name].run())


def _choose_arena(parent: Workspace | None, arena: Arena | None, device: str | None) -> Arena:
    if arena is not None and not isinstance(arena, Arena):
        raise BlobTypeError(f"arena= takes an Arena, got {type(arena).__name__}; make one: Arena('64 MiB')")
    if parent is not None:
        if arena is not None and arena is not parent.arena:
            raise BindingError("a child lives in its parent's arena: pass a parent or an arena, not both")
        arena = parent.arena
    if arena is None:
        return default_arena(device or current_device() or "cpu")
    if device is not None and resolve_device(device).name != arena.device:
        raise BindingError(f"the arena is on {arena.device}, got device={device!r}; leave device out")
    return arena


class _Current(threading.local):
    """The workspaces that a thread has entered."""

    def __init__(self) -> None:
        self.stack: list[Workspace] = []


_current = _Current()
_default: Workspace | None = None
_default_lock = threading.Lock()


def current_workspace() -> Workspace:
    """Return the workspace that this thread entered last, outside all the process's default one."""
    global _default
    if _current.stack:
        return _current.stack[-1]
    with _default_lock:
        if _default is None:
            _default = Workspace(name="default")
        return _default


def _no_builder(workspace: Workspace, op_or_net: Any) -> Any:
    raise OperatorError("no operators are registered: import numscope.operators first")


_build: Callable[[Workspace, Any], Any] = _no_builder


def set_builder(build: Callable[[Workspace, Any], Any]) -> None:
    """Tell workspaces how to build operators and nets, which stand above them.

    Parameters
    ----------
    build : callable
        ``build(workspace, op_or_net)`` returns an object with ``run() -> bool``.
    """
    global _build
    _build = build
