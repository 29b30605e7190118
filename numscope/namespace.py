"""Which blob a name means: local, forwarded and shared names, by Caffe2's rules."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, SupportsIndex

from numscope.blob import Blob
from numscope.errors import BindingError, BlobNotFoundError, BlobTypeError
from numscope.exclusive import Exclusive
from numscope.region import Region

__all__ = ["Namespace", "ancestors", "check_bindings", "check_name"]


class Namespace:
    """The names of a workspace.

    A name is looked up among the local blobs; else, if it is *forwarded*, only at the target of its
    mapping, a name in another workspace; else in the *shared* parent, all of whose names are visible.
    Mappings are resolved at each look-up: what the parent replaces, removes or makes again is seen at once.

    Local blobs hide forwarded ones, and these hide the shared parent's.
    """

    def __init__(
        self, name: str, region: Region, shared: Namespace | None = None, *, keeps_parents: bool = True
    ) -> None:
        self._name = name
        self._region = region
        self._shared = shared
        self._blobs: dict[str, Blob] = {}
        # Weak: a workspace on a stack that lies in a blob of its own parent would make a cycle with it.
        # Other workspaces keep their parents alive in _parents.
        self._forwarded: dict[str, tuple[weakref.ref[Namespace], str]] = {}
        self._parents: list[Namespace] | None = [] if keeps_parents else None
        self._guard = Exclusive(f"workspace {name!r}")

    def __repr__(self) -> str:
        return (
            f"<numscope.{type(self).__name__} {self._name!r} on {self._region.device.name}: {self._counts()}>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"workspace {self._name!r} can be neither copied nor pickled: its blobs lie in an arena; make "
            "another Workspace and copy_to() it, or save() and load()"
        )

    def _counts(self) -> str:
        return f"{len(self._blobs)} local blobs, {len(self._forwarded)} forwarded"

    @property
    def name(self) -> str:
        """Name of the workspace, for errors and pictures."""
        return self._name

    def get_blob(self, name: str) -> Blob | None:
        """Return the blob that a name means here, None when it means none."""
        here: Namespace | None = self
        while here is not None:
            blob = here._blobs.get(name)
            if blob is not None:
                return blob
            target = here._forwarded.get(name)
            if target is None:
                here = here._shared
            else:
                here = target[0]()
                name = target[1]
        return None

    def has_blob(self, name: str) -> bool:
        """Tell whether a name is visible here."""
        return self.get_blob(name) is not None

    def local_blobs(self) -> list[str]:
        """Return the names of the local blobs, in the order in which they were made."""
        return list(self._blobs)

    def blobs(self) -> list[str]:
        """Return the names of the local blobs, of the forwarded ones that exist, and of the shared parent's.

        A name that is visible in two ways stands twice, as in Caffe2; iterate over the workspace for
        each name once.
        """
        names: list[str] = []
        here: Namespace | None = self
        while here is not None:
            names += here._blobs
            names += [name for name, target in list(here._forwarded.items()) if _target(target) is not None]
            here = here._shared
        return names

    def create_blob(self, name: str) -> Blob | None:
        """Return the visible blob of a name, after making an empty local one if there is none.

        Returns
        -------
        Blob or None
            None when the name is forwarded to a blob that does not exist (any more).
        """
        check_name(name)
        with self._guard:
            blob = self.get_blob(name)
            if blob is not None or name in self._forwarded:
                return blob
            return self._add(name)

    def create_local_blob(self, name: str) -> Blob:
        """Return the local blob of a name, after making an empty one if there is none.

        It hides a forwarded or shared blob of the same name.
        """
        check_name(name)
        with self._guard:
            return self._blobs.get(name) or self._add(name)

    def remove_blob(self, name: str) -> bool:
        """Remove a local blob, and give its memory back; tell whether there was one.

        A blob that it hid is visible again. Forwarded and shared blobs are never removed.
        """
        with self._guard:
            return self._remove(name, keep=False)

    def rename_blob(self, old: str, new: str) -> Blob:
        """Give a local blob another name, which must not be visible yet.

        Raises
        ------
        BlobNotFoundError
            `old` is not local.
        BindingError
            `new` is visible here already (so a blob cannot be renamed to its own name).
        """
        check_name(new)
        with self._guard:
            if old not in self._blobs:
                raise BlobNotFoundError(
                    f"Blob {old} is not in the local blob list, got a new name {new!r} for it: "
                    f"{self._missing(old, 'local')}"
                )
            if self.has_blob(new):
                raise BindingError(
                    f"Blob {new} is already in the workspace {self._name!r}, {old!r} cannot get its name; "
                    "remove it first or take another name"
                )
            blob = self._blobs[new] = self._blobs[old]
            del self._blobs[old]  # not pop: Ctrl-C behind a call would lose what it returns
            blob._name = new
            self._region.version += 1
            return blob

    def add_blob_mapping(
        self, parent: Namespace | None, bindings: Mapping[str, str], skip_defined_blobs: bool = False
    ) -> None:
        """Forward names to blobs of another workspace.

        Parameters
        ----------
        parent : Workspace
        bindings : mapping of str to str
            Name here -> name there.
        skip_defined_blobs : bool, default False
            Leave names alone that are visible here already, where they would be an error.

        Raises
        ------
        BindingError
            There is no parent, it lacks an outer name, a name is forwarded elsewhere already or visible
            here. Pairs before the failing one, in the order of the mapping, stay forwarded, as in Caffe2.
        """
        parent = _check_parent(parent)
        check_bindings(bindings)
        if self._is_bound(parent, bindings):
            return  # a pop repeats the bindings of its push: 1 us less for three of them
        with self._guard:
            if self in ancestors(parent):
                raise BindingError(
                    f"workspace {self._name!r} cannot forward names to {parent.name!r}, which sees its blobs "
                    "itself: the look-up would never end; bind to one that does not depend on this one"
                )
            for inner, outer in bindings.items():
                self._forward(parent, inner, outer, skip_defined_blobs)

    def copy_forwarded_tensors(self, names: Iterable[str]) -> None:
        """Replace forwarded names by local copies of the tensors that they mean.

        Names that are not forwarded are ignored.

        Raises
        ------
        BlobNotFoundError
            A name is forwarded to a blob that does not exist; it stays forwarded.
        BlobTypeError
            The blob holds no tensor (the name stays forwarded), or `names` is no iterable of names.
        ArenaExhausted
            There is no room for the copy; the name stays forwarded.
        """
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise BlobTypeError(
                f"names are an iterable of str, got {type(names).__name__} {names!r}; pass a list"
            )
        with self._guard:
            for name in names:
                mapping = self._forwarded.get(name)
                if mapping is None:
                    continue
                target = _target(mapping)
                if target is None:
                    raise BlobNotFoundError(
                        f"{name!r} is forwarded to {mapping[1]!r}, which does not exist; make it first"
                    )
                if not target.is_tensor:
                    kind = target.type
                    raise BlobTypeError(
                        f"expected blob with tensor value: {mapping[1]!r} "
                        f"holds {kind.name if kind else 'nothing'}; only tensors can be copied"
                    )
                copy = self._blobs.get(name) or Blob(self._region, name)
                copy.copy_from(target)
                del self._forwarded[name]
                self._blobs[name] = copy
                self._region.version += 1

    def _forward(self, parent: Namespace, inner: str, outer: str, skip: bool) -> None:
        check_name(inner)
        check_name(outer)
        if not parent.has_blob(outer):
            raise BindingError(
                f"Invalid parent workspace blob {outer}: workspace {parent.name!r} has no such blob to bind "
                f"{inner!r} to; make it there first"
            )
        mapping = self._forwarded.get(inner)
        if mapping is not None:
            if mapping[0]() is not parent or mapping[1] != outer:
                raise BindingError(
                    f"Redefinition of blob {inner}: it is bound to {mapping[1]!r} already, got {outer!r}; "
                    "use another workspace for other bindings"
                )
        elif not self.has_blob(inner):
            self._forwarded[inner] = (weakref.ref(parent), outer)
            self._region.version += 1
            if self._parents is not None and parent not in self._parents:
                self._parents.append(parent)
        elif not skip:
            raise BindingError(
                f"Redefinition of blob {inner}: workspace {self._name!r} has a blob of that name already; "
                "remove it first, or pass skip_defined_blobs=True to leave it alone"
            )

    def _alias(self, name: str, local: str) -> None:
        """Forward a name to a local blob of this same workspace: a second name for it."""
        with self._guard:
            self._forwarded[name] = (weakref.ref(self), local)
            self._region.version += 1

    def _forget_binding(self, name: str, owner: Namespace | None, outer: str) -> None:
        """Make a name free, if it is forwarded just so."""
        with self._guard:
            mapping = self._forwarded.get(name)
            if mapping is not None and mapping[0]() is owner and mapping[1] == outer:
                del self._forwarded[name]
                self._region.version += 1

    def _is_bound(self, parent: Namespace, bindings: Mapping[str, str]) -> bool:
        """Whether all names are forwarded just so already, to blobs that exist."""
        forwarded, there = self._forwarded, parent._blobs
        for inner, outer in bindings.items():
            mapping = forwarded.get(inner)
            if mapping is None or mapping[1] != outer or mapping[0]() is not parent:
                return False
            if outer not in there and not parent.has_blob(outer):
                return False
        return True

    def _forget_bindings(self) -> None:
        self._forwarded.clear()
        if self._parents is not None:
            self._parents.clear()
        self._region.version += 1

    def _add(self, name: str) -> Blob:
        blob = self._blobs[name] = Blob(self._region, name)
        self._region.version += 1
        return blob

    def _remove(self, name: str, *, keep: bool) -> bool:
        blob = self._blobs.get(name)
        if blob is None:
            return False
        self._region.version += 1
        del self._blobs[name]
        blob.leave(keep=keep)
        return True

    def _missing(self, name: object, where: str = "visible") -> str:
        known = sorted(self._blobs) if where == "local" else sorted(set(self.blobs()))
        listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        return f"no {where} blob {name!r} in workspace {self._name!r}, which has: {listed or 'none'}"


def _target(mapping: tuple[weakref.ref[Namespace], str]) -> Blob | None:
    parent = mapping[0]()
    return None if parent is None else parent.get_blob(mapping[1])


def ancestors(start: Namespace) -> Iterator[Namespace]:
    """Yield a workspace and all that its names may lead to, each once."""
    waiting, seen = [start], {id(start)}
    while waiting:
        here = waiting.pop()
        yield here
        further: list[Any] = [here._shared, *(mapping[0]() for mapping in here._forwarded.values())]
        for parent in further:
            if parent is not None and id(parent) not in seen:
                seen.add(id(parent))
                waiting.append(parent)


def check_name(name: object, what: str = "blob") -> None:
    """Raise a BlobTypeError unless a name is text."""
    if type(name) is not str and not isinstance(name, str):
        raise BlobTypeError(f"the name of a {what} is a str, got {type(name).__name__} {name!r}")


def check_bindings(bindings: object) -> None:
    """Raise a BlobTypeError unless bindings are a mapping."""
    if type(bindings) is not dict and not isinstance(bindings, Mapping):
        raise BlobTypeError(
            f"bindings are a mapping of names here to names in the parent, got {type(bindings).__name__} "
            f"{bindings!r}; pass a dict"
        )


def _check_parent(parent: object) -> Namespace:
    if parent is None:
        raise BindingError("Parent workspace must be specified: got None; pass the workspace to bind to")
    if not isinstance(parent, Namespace):
        raise BlobTypeError(f"a parent is a Workspace, got {type(parent).__name__} {parent!r}")
    return parent
