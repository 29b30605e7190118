"""Workspace stacks: the frames of a forward pass, popped in reverse by the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import TracebackType

from numscope.errors import BindingError, StackError
from numscope.exclusive import Exclusive
from numscope.namespace import check_bindings
from numscope.types import register_known_type
from numscope.workspace import Workspace

__all__ = ["Frame", "WorkspaceStack"]

Bindings = Mapping[str, str]


class Frame(Workspace):
    """A workspace on a stack: it sees only what is bound, and does not keep its parent alive.

    It cannot: the stack may lie in a blob of that parent, and would make a cycle that only the garbage
    collector could free. Whoever uses a frame holds its parent.

    As a context manager it is the current workspace inside; on leaving, one that was popped from a stack
    with ``retain=False`` is cleared.
    """

    _clears_on_exit = False
    _forward_bytes: int | None = None

    def popped(self, *, clears_on_exit: bool) -> None:
        """Note that the forward pass is over here: what is made from now on is the backward pass's."""
        self._clears_on_exit = clears_on_exit
        self._forward_bytes = self._region.used

    def clear(self, release: bool = True) -> None:
        """Drop every local blob, as any workspace does.

        The next use asks at once for what the forward pass needed, not for the gradients too: 200 rounds
        of a small recurrent net took 14.9 MB from the second run on, instead of 6.6 MB.
        """
        super().clear(release)
        if release and self._forward_bytes is not None:
            self._region.wanted = self._forward_bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._clears_on_exit:
            self.clear()

    def rebind(self, parent: Workspace, bindings: Bindings) -> None:
        """Become as new, under a parent in the same arena: nothing of the last use is seen."""
        self.clear()
        self._name = f"{parent.name}/frame"
        self._above = weakref.ref(parent)
        self._nets.clear()
        self._forget_bindings()
        self._clears_on_exit = False
        self._forward_bytes = None
        self.add_blob_mapping(parent, bindings)

    def replace_copies(self, parent: Workspace, bindings: Bindings) -> None:
        """Drop local blobs that hide bound names, and bind these again if there were any.

        The bytes stay with this workspace: the next round makes the same copies.
        """
        if not self._blobs.keys().isdisjoint(bindings):
            with self._guard:
                for name in bindings:
                    self._remove(name, keep=True)
                self.add_blob_mapping(parent, bindings)


class WorkspaceStack:
    """A stack of workspaces, pushed by a forward pass and popped in reverse by the backward pass.

    Workspaces stay in the stack's list when they are popped, with their blobs, and the next push takes the
    slot again: in the steady state of a loop nothing is allocated. The rules are Caffe2's, also for
    bindings that change between two uses of a slot.

    Not thread-safe: a second thread at the same time gets a `StackError`.

    Parameters
    ----------
    retain : bool, default True
        False: a popped workspace keeps its memory only until it is left (``with`` statement), cleared, or
        its slot is pushed again; each push binds anew; `clear` releases all. A backward pass then needs
        the forward frames plus one gradient frame.
    debug : bool, default False
        Check that all pushes and pops name one parent, and that bindings never change.
    """

    def __init__(self, retain: bool = True, debug: bool = False) -> None:
        self._retain = retain
        self._debug = debug
        self._workspaces: list[Frame] = []
        self._top = -1
        self._parent: weakref.ref[Workspace] | None = None
        self._blob_bindings: dict[str, str] = {}
        self._grad_blob_bindings: dict[str, str] = {}
        self._guard = Exclusive("a workspace stack")

    def __len__(self) -> int:
        return self._top + 1

    def __bool__(self) -> bool:
        return True  # an empty stack is a stack; ask empty() or len()

    def __repr__(self) -> str:
        return f"<numscope.WorkspaceStack: {len(self)} pushed, {len(self._workspaces)} in the list>"

    @property
    def retain(self) -> bool:
        """Whether a popped workspace keeps its memory for the next push."""
        return self._retain

    def push_forward_workspace(self, parent: Workspace, bindings: Bindings | None = None) -> Frame:
        """Push a workspace that sees blobs of the parent under names of its own.

        Parameters
        ----------
        parent : Workspace
        bindings : mapping of str to str, optional
            Name in the pushed workspace -> name in the parent, where it must exist.

        Returns
        -------
        Frame
            With ``retain=True`` a slot that was used before keeps its blobs and its mappings; only local
            blobs that hide bound names are dropped, and the bindings looked at only then (Caffe2's rule).
            With ``retain=False`` it is bound anew, and lies in the arena of the parent.

        Raises
        ------
        BindingError
            The parent lacks a blob, or a name means something else there already; nothing was pushed.
        BlobTypeError
            `bindings` are no mapping.
        StackError
            Another thread is using the stack, or, with ``debug=True``, the parent is another one.
        """
        bindings = _checked(bindings)
        with self._guard:
            self.check_stack()
            _check_is_workspace(parent)  # a slot that is used again may not look at it
            if self._debug:
                self._check_parent(parent)
                self._blob_bindings = self._check_bindings(self._blob_bindings, bindings)
            if self._top + 1 == len(self._workspaces):
                frame = Frame.bound_to(parent, bindings)
                self._workspaces.append(frame)
            else:
                frame = self._workspaces[self._top + 1]
                if self._retain:
                    frame.replace_copies(parent, bindings)
                elif frame.arena is parent.arena:
                    frame.rebind(parent, bindings)
                else:
                    former, frame = frame, Frame.bound_to(parent, bindings)
                    former.clear()
                    self._workspaces[self._top + 1] = frame
            self._top += 1
            return frame

    def pop_gradient_workspace(self, parent: Workspace, bindings: Bindings | None = None) -> Frame | None:
        """Pop the workspace on top, with more names of it bound for the backward pass.

        Parameters
        ----------
        parent : Workspace
        bindings : mapping of str to str, optional
            As for a push; names that the workspace has already are left alone.

        Returns
        -------
        Frame or None
            None when the stack is empty. With ``retain=False`` use it in a ``with`` statement, which gives
            its memory back on leaving.

        Raises
        ------
        BindingError
            The parent lacks a blob, or a name is bound to another one; nothing was popped.
        BlobTypeError
            `bindings` are no mapping.
        StackError
            As for a push.
        """
        bindings = _checked(bindings)
        with self._guard:
            self.check_stack()
            if self._debug:
                _check_is_workspace(parent)
                self._check_parent(parent)
                self._grad_blob_bindings = self._check_bindings(self._grad_blob_bindings, bindings)
            if self._top < 0:
                return None
            frame = self._workspaces[self._top]
            frame.add_blob_mapping(parent, bindings, skip_defined_blobs=True)
            frame.popped(clears_on_exit=not self._retain)
            self._top -= 1
            return frame

    def reuse_last_forward_workspace(
        self, parent: Workspace, bindings: Bindings | None = None
    ) -> Frame | None:
        """Return the workspace on top, with more names bound; None when the stack is empty.

        Raises
        ------
        BindingError
            The parent lacks a blob, or a name means something else there already.
        BlobTypeError
            `bindings` are no mapping.
        StackError
            Another thread is using the stack.
        """
        bindings = _checked(bindings)
        with self._guard:
            self.check_stack()
            if self._top < 0:
                return None
            frame = self._workspaces[self._top]
            frame.add_blob_mapping(parent, bindings)
            return frame

    def clear(self) -> None:
        """Empty the stack. With ``retain=True`` its workspaces keep everything, for the next pushes."""
        with self._guard:
            self.check_stack()
            self._top = -1
            if not self._retain:
                for frame in self._workspaces:
                    frame.clear()

    def trim(self) -> None:
        """Drop the workspaces above the top, and give their memory back."""
        with self._guard:
            for frame in self._workspaces[self._top + 1 :]:
                frame.clear()
            del self._workspaces[self._top + 1 :]

    def empty(self) -> bool:
        """Tell whether nothing is pushed. It says nothing of the workspaces kept for later."""
        return self._top < 0

    def check_stack(self) -> None:
        """Check that the top lies in the list.

        Raises
        ------
        StackError
            It does not; public calls cannot make it so.
        """
        if self._top >= len(self._workspaces):
            raise StackError(
                f"Corrupted workspaces stack: the top is {self._top} of {len(self._workspaces)} workspaces "
                "in the list; make a new stack"
            )

    @staticmethod
    def check_bindings_match(bindings: Bindings, test_bindings: Bindings) -> None:
        """Check that two sets of bindings have the same names and targets.

        Raises
        ------
        BindingError
            They differ; the text says where.
        BlobTypeError
            One of them is no mapping.
        """
        check_bindings(bindings)
        check_bindings(test_bindings)
        if dict(bindings) != dict(test_bindings):
            changed = sorted(
                name for name in {*bindings, *test_bindings} if bindings.get(name) != test_bindings.get(name)
            )
            details = ", ".join(
                f"{name!r} -> {test_bindings.get(name)!r}, expected {bindings.get(name)!r}"
                for name in changed
            )
            raise BindingError(f"Blob bindings mismatch: {details}; bind as the first time")

    def _check_parent(self, parent: Workspace) -> None:
        if self._parent is None:
            self._parent = weakref.ref(parent)
        elif self._parent() is not parent:
            known = self._parent()
            expected = "one that no longer exists" if known is None else repr(known.name)
            raise StackError(
                f"Parent workspace mismatch: got {parent.name!r}, expected {expected}; "
                "use one stack for each parent"
            )

    def _check_bindings(self, remembered: Bindings, bindings: Bindings) -> dict[str, str]:
        """Return what to remember: the first bindings that were not empty."""
        if remembered:
            self.check_bindings_match(remembered, bindings)
        return dict(remembered or bindings)


def _checked(bindings: Bindings | None) -> Bindings:
    if bindings is None:
        return {}
    check_bindings(bindings)
    return bindings


def _check_is_workspace(parent: object) -> None:
    if not isinstance(parent, Workspace):
        raise BindingError(
            f"Parent workspace must be specified: got {parent!r}; pass the workspace to bind to"
        )


register_known_type(WorkspaceStack)
