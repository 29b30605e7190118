"""The values of a workspace to and from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numscope import bulk, storage
from numscope.blob import Blob
from numscope.contents import Contents
from numscope.segments import Place

__all__ = ["Files"]


class Files(Contents):
    """What a workspace can do with files: all of it or nothing, in both directions."""

    def save(self, path: str | os.PathLike[str], names: bulk.Names = None) -> None:
        """Write local blobs to a safetensors file, which is whole or absent afterwards.

        Parameters
        ----------
        path : path
            An existing file is replaced.
        names : iterable of str or predicate, optional
            Which local blobs; default all. Tensors keep their dtype; text goes into the metadata.

        Raises
        ------
        BlobTypeError
            A blob holds another value or nothing, its dtype has no place in the format (complex128), or
            its name is reserved (``__metadata__``); nothing was written.
        OSError
            The file cannot be written.
        """
        with self._guard:
            blobs = bulk.select(self, names, tensors_only=False)
            storage.save(path, {name: blob.to_host() for name, blob in blobs.items()})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a safetensors file into blobs, those of the same names overwritten: all of it or nothing.

        Raises
        ------
        ArenaExhausted
            Too little room; the workspace is as before.
        BindingError
            The file is damaged, truncated or no safetensors file.
        BlobTypeError
            It has a dtype that is not known.
        OSError
            The file cannot be read.
        """
        values = storage.load(path)
        with self._guard:
            self._feed_all(values)

    def _feed_all(self, values: Mapping[str, Any]) -> None:
        steps: list[tuple[str, Blob, Place | None]] = []
        try:
            for name, value in values.items():
                blob = self.get_blob(name) or self._unborn(name)
                fits = isinstance(value, str) or blob.fits(value.shape, value.dtype)
                place = None if fits else blob._region.place([value.nbytes], name)[0]
                steps.append((name, blob, place))
        except BaseException:  # an interrupt as well: these places belong to no blob yet
            for _, blob, place in steps:
                if place is not None:
                    blob._region.drop(place, None)
            raise
        for name, blob, place in steps:
            value = values[name]
            if place is not None:
                blob.occupy(place, value.shape, value.dtype)
            blob.set(value)
            if not self.has_blob(name):
                self._bear(name, blob)
