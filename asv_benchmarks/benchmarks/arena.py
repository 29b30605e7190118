"""Arenas: what it costs to get memory and to give it back."""

import numscope as ns


class Segments:
    """Scopes that come and go in an arena that others fill."""

    params = ([0, 100, 1000],)
    param_names = ("holes",)

    def setup(self, holes):
        self.arena = ns.Arena("256 MiB")
        self.workspaces = [ns.Workspace(arena=self.arena) for _ in range(2 * holes)]
        for workspace in self.workspaces:
            workspace.empty("x", 64)
        for workspace in self.workspaces[::2]:
            workspace.clear()
        self.workspace = ns.Workspace(arena=self.arena)

    def time_take_and_give_back(self, holes):
        self.workspace.empty("x", 65)  # one element more than a hole has
        self.workspace.clear()

    def time_stats(self, holes):
        self.arena.stats()


class Views:
    """Memory that waits for a view to die."""

    def setup(self):
        self.workspace = ns.Workspace(arena=ns.Arena("1 MiB"))

    def time_remove_under_a_view(self):
        view = self.workspace.empty("x", 64)[1:]
        self.workspace.remove_blob("x")
        del view
        self.workspace.empty("x", 64)


class Scope:
    """A scope of many blobs, filled again and again."""

    params = ([1, 100, 1000],)
    param_names = ("blobs",)

    def setup(self, blobs):
        self.names = [f"x{i}" for i in range(blobs)]
        self.tensors = dict.fromkeys(self.names, (64, "float32"))
        self.workspace = ns.Workspace(arena=ns.Arena("64 MiB"))
        self.workspace.allocate(self.tensors)

    def time_fill_one_by_one(self, blobs):
        for name in self.names:
            self.workspace.empty(name, 64)

    def time_allocate_again(self, blobs):
        self.workspace.allocate(self.tensors)

    def time_clear_and_allocate(self, blobs):
        self.workspace.clear()
        self.workspace.allocate(self.tensors)
