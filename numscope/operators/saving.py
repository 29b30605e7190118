"""What a forward Do saves for its gradient: values that would be overwritten before the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from numscope.operators.boundary import BodyBoundary, end_name, layout_name, reserved_names, start_name
from numscope.operators.definition import Net
from numscope.operators.differentiation import Differentiation
from numscope.operators.effects import written_names
from numscope.operators.tensors import TensorLayout, array_module

if TYPE_CHECKING:
    from numscope.workspace import Workspace

__all__ = ["Saves", "needs_start_layout", "saves_of"]


@dataclass(frozen=True, slots=True)
class Saves:
    """Names in a Do's workspace and the names of their copies.

    Attributes
    ----------
    start : tuple of (str, str)
        Copied before the net runs: what it overwrites, and its gradient reads.
    end : tuple of (str, str)
        Copied after the net has run: what later rounds overwrite.
    start_layouts, end_layouts : tuple of (str, str)
        Those of which only the layout is kept.
    """

    start: tuple[tuple[str, str], ...]
    end: tuple[tuple[str, str], ...]
    start_layouts: tuple[tuple[str, str], ...]
    end_layouts: tuple[tuple[str, str], ...]

    def keep_start(self, ws: Workspace) -> None:
        """Copy what has to be saved before the net runs."""
        if self.start:
            _copy(ws, self.start)
        if self.start_layouts:
            _copy_layouts(ws, self.start_layouts)

    def keep_end(self, ws: Workspace) -> None:
        """Copy what has to be saved after the net has run."""
        if self.end:
            _copy(ws, self.end)
        if self.end_layouts:
            _copy_layouts(ws, self.end_layouts)


def saves_of(net: Net, bindings: Mapping[str, str], volatile: frozenset[str], copies: bool) -> Saves:
    """Return what a Do has to save, so that any gradient of its net can be computed.

    Parameters
    ----------
    net : Net
    bindings : mapping of str to str
    volatile : frozenset of str
        Inner names of bound blobs that change after the net has run, in later rounds of a loop.
    copies : bool
        The Do leaves copies of all bound blobs, so that nothing else is to be saved at the end.
    """
    if reserved_names(net, bindings):
        return Saves((), (), (), ())  # ns.gradient refuses the Do
    boundary = BodyBoundary(bindings, volatile, copies)
    seeds = {name: f"{name}_grad" for name in written_names(net) if name in bindings}
    Differentiation(net.operators, seeds, boundary, lenient=True)
    boundary.start_layouts.update(
        name
        for name in sorted(volatile & seeds.keys())
        if needs_start_layout(net, name, BodyBoundary(bindings, volatile, copies))
    )
    return Saves(
        tuple((name, start_name(name)) for name in sorted(boundary.starts)),
        tuple((name, end_name(name)) for name in sorted(boundary.ends)),
        tuple((name, layout_name(start_name(name))) for name in sorted(boundary.start_layouts)),
        tuple((name, layout_name(end_name(name))) for name in sorted(boundary.end_layouts)),
    )


def needs_start_layout(net: Net, name: str, boundary: BodyBoundary) -> bool:
    """Tell whether the gradient of a value before a round may be zeros, of a shape that has to be saved.

    So it is where the net overwrites the blob without reading it: a loop may give its results another shape
    each round. Where no gradient flows from the blob into the net, as from a condition, no shape matters.
    """
    alone = Differentiation(net.operators, {name: f"{name}_grad"}, boundary, lenient=True)
    return name not in alone.start_gradients and len(alone.gradients) > 1


def _copy(ws: Workspace, pairs: Iterable[tuple[str, str]]) -> None:
    xp = array_module(ws.device)
    for name, saved in pairs:
        blob, copy = ws.get_blob(name), ws.create_local_blob(saved)
        if blob is None or not blob.is_tensor:
            copy.reset()  # made by a branch that was not taken; the backward net does not take it either
            continue
        value = blob.value
        xp.copyto(copy.tensor(value.shape, value.dtype), value)


def _copy_layouts(ws: Workspace, pairs: Iterable[tuple[str, str]]) -> None:
    for name, saved in pairs:
        blob, copy = ws.get_blob(name), ws.create_local_blob(saved)
        if blob is None or not blob.is_tensor:
            copy.reset()
        else:
            copy.set(TensorLayout(blob.value.shape, blob.value.dtype))
