"""Take the contents of a workspace to another device: one copy for all blobs that lie side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from numscope.blob import Blob
from numscope.segments import Place

if TYPE_CHECKING:
    from numscope.workspace import Workspace

__all__ = ["transfer"]

_BYTE = np.dtype(np.uint8)


def transfer(source: Workspace, target: Workspace) -> None:
    """Copy all local blobs of a workspace into an empty one, whose arena may be on another device.

    Raises
    ------
    ArenaExhausted
        There is too little room; the target is still empty.
    """
    tensors = sorted(
        ((name, blob, blob._place) for name, blob in source._blobs.items() if blob._place is not None),
        key=lambda tensor: tensor[2].offset,
    )
    places = target._region.place([place.nbytes for _, _, place in tensors], f"all of {source.name!r}")
    copies = {name: Blob(target._region, name) for name in source._blobs}
    for (name, blob, _), place in zip(tensors, places, strict=True):
        copies[name].occupy(place, blob._value.shape, blob._value.dtype)
    for name, copy in copies.items():
        value = source._blobs[name]._value
        if not copy.is_tensor and value is not None:
            copy.set(value)
        target._bear(name, copy)
    for run in _runs([(blob, copies[name]) for name, blob, place in tensors if place.nbytes]):
        _copy_bytes(source, target, run)


def _runs(pairs: list[tuple[Blob, Blob]]) -> Iterator[list[tuple[Blob, Blob]]]:
    """Cut tensors, in the order of their places, where they do not lie side by side in the source."""
    run: list[tuple[Blob, Blob]] = []
    end = -1
    for pair in pairs:
        place = _place(pair[0])
        if run and place.offset != end:
            yield run
            run = []
        run.append(pair)
        end = place.offset + place.nbytes
    if run:
        yield run


def _copy_bytes(source: Workspace, target: Workspace, run: list[tuple[Blob, Blob]]) -> None:
    bytes_there, bytes_here = (
        workspace._region.span(_whole(blobs), _BYTE, [blob.value for blob in blobs])
        for workspace, blobs in ((source, [a for a, _ in run]), (target, [b for _, b in run]))
    )
    if isinstance(bytes_here, np.ndarray):
        source._region.device.to_host(bytes_there, out=bytes_here)
    else:
        target._region.device.copy(bytes_here, bytes_there)


def _whole(blobs: list[Blob]) -> Place:
    places = [_place(blob) for blob in blobs]
    return Place(places[0].segment, places[0].offset, sum(place.nbytes for place in places))


def _place(blob: Blob) -> Place:
    if blob._place is None:
        raise RuntimeError(f"blob {blob._name!r} was a tensor and is none any more")
    return blob._place
