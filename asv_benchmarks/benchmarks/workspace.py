"""Workspaces and stacks: names, frames, and bulk work on a scope."""

import numscope as ns

BINDINGS = {"a": "x", "b": "y", "c": "z"}


class Names:
    """Looking up a name, near and far."""

    def setup(self):
        self.root = ns.Workspace(arena=ns.Arena("1 MiB"))
        for outer in BINDINGS.values():
            self.root.zeros(outer, 4)
        self.grandchild = ns.Workspace(ns.Workspace(self.root))
        self.bound = ns.Workspace(ns.Workspace(self.root), bindings=BINDINGS)

    def time_local(self):
        self.root["x"]

    def time_through_two_parents(self):
        self.grandchild["x"]

    def time_forwarded(self):
        self.bound["a"]

    def time_write_in_place(self):
        self.root["x"] += 1


class Frames:
    """Pushing and popping a stack that was used before."""

    params = ([True, False],)
    param_names = ("retain",)

    def setup(self, retain):
        self.root = ns.Workspace(arena=ns.Arena("1 MiB"))
        for outer in BINDINGS.values():
            self.root.zeros(outer, 4)
        self.stack = ns.WorkspaceStack(retain=retain)
        self.time_push_and_pop(retain)

    def time_push_and_pop(self, retain):
        self.stack.push_forward_workspace(self.root, BINDINGS)
        self.stack.pop_gradient_workspace(self.root, BINDINGS)


class Bulk:
    """One pass over all blobs of a scope."""

    params = ([1, 100, 1000, 10000],)
    param_names = ("blobs",)

    def setup(self, blobs):
        tensors = {f"x{i}": (1_000_000 // blobs, "float32") for i in range(blobs)}
        arena = ns.Arena("64 MiB")
        self.source, self.target = ns.Workspace(arena=arena), ns.Workspace(arena=arena)
        for workspace in (self.source, self.target):
            workspace.allocate(tensors)
            workspace.zero()
        self.time_merge_into(blobs)
        self.time_copy_to(blobs)

    def time_zero(self, blobs):
        self.source.zero()

    def time_copy_to(self, blobs):
        self.source.copy_to(self.target)

    def time_merge_into(self, blobs):
        self.source.merge_into(self.target)
