"""Workspaces and stacks as dicts and loops: slow, obvious, and written from the rules, not from numscope.

A blob is a list of one value, so that two names can mean the same one; None is an empty blob.
"""

from __future__ import annotations


class RefusedError(Exception):
    """A call that has to fail, with the name of numscope's error."""


class ReferenceWorkspace:
    def __init__(self, shared=None, made_in=None):
        self.shared = shared
        self.made_in = made_in  # the parent that it keeps alive, also where nothing is bound
        self.local = {}
        self.forwarded = {}

    def get(self, name):
        if name in self.local:
            return self.local[name]
        if name in self.forwarded:
            parent, outer = self.forwarded[name]
            return parent.get(outer)
        return self.shared.get(name) if self.shared is not None else None

    def blobs(self):
        names = list(self.local)
        names += [n for n, (parent, outer) in self.forwarded.items() if parent.get(outer) is not None]
        return names + (self.shared.blobs() if self.shared is not None else [])

    def create(self, name):
        blob = self.get(name)
        if blob is None and name not in self.forwarded:
            blob = self.local[name] = [None]
        return blob

    def create_local(self, name):
        return self.local.setdefault(name, [None])

    def write(self, name, value):
        blob = self.create(name)
        if blob is None:
            raise RefusedError("BindingError")
        blob[0] = value

    def remove(self, name):
        return self.local.pop(name, None) is not None

    def rename(self, old, new):
        if old not in self.local:
            raise RefusedError("BlobNotFoundError")
        if self.get(new) is not None:
            raise RefusedError("BindingError")
        self.local[new] = self.local.pop(old)
        return self.local[new]

    def bind(self, parent, bindings, skip=False):
        for inner, outer in bindings.items():
            if parent.get(outer) is None:
                raise RefusedError("BindingError")
            if inner in self.forwarded:
                known_parent, known_outer = self.forwarded[inner]
                if known_parent is not parent or known_outer != outer:
                    raise RefusedError("BindingError")
            elif self.get(inner) is not None:
                if not skip:
                    raise RefusedError("BindingError")
            else:
                self.forwarded[inner] = (parent, outer)

    def copy_forwarded(self, names):
        for name in names:
            if name in self.forwarded:
                parent, outer = self.forwarded[name]
                blob = parent.get(outer)
                if blob is None:
                    raise RefusedError("BlobNotFoundError")
                if blob[0] is None:
                    raise RefusedError("BlobTypeError")
                del self.forwarded[name]
                self.local[name] = [blob[0]]

    def reaches(self, other):
        """Whether a look-up here may come to another workspace, or this one keeps it alive."""
        above = [parent for parent, _ in self.forwarded.values()]
        above += [parent for parent in (self.shared, self.made_in) if parent is not None]
        return self is other or any(w.reaches(other) for w in above)


class ReferenceStack:
    def __init__(self, retain):
        self.retain = retain
        self.frames = []
        self.top = -1

    def push(self, parent, bindings):
        if self.top + 1 == len(self.frames):
            frame = ReferenceWorkspace()
            frame.bind(parent, bindings)
            self.frames.append(frame)
        else:
            frame = self.frames[self.top + 1]
            if self.retain:
                hiding = [name for name in bindings if frame.remove(name)]
                if hiding:
                    frame.bind(parent, bindings)
            else:
                frame.local.clear()
                frame.forwarded.clear()
                frame.bind(parent, bindings)
        self.top += 1
        return frame

    def pop(self, parent, bindings):
        if self.top < 0:
            return None
        frame = self.frames[self.top]
        frame.bind(parent, bindings, skip=True)
        self.top -= 1
        return frame

    def reuse(self, parent, bindings):
        if self.top < 0:
            return None
        self.frames[self.top].bind(parent, bindings)
        return self.frames[self.top]

    def clear(self):
        self.top = -1
        if not self.retain:
            for frame in self.frames:
                frame.local.clear()

    def trim(self):
        for frame in self.frames[self.top + 1 :]:
            frame.local.clear()
        del self.frames[self.top + 1 :]
