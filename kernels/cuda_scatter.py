# mypy: disable-error-code="no-untyped-call, no-any-return"
# Neither CuPy nor cuda.core ships types.
"""Add rows at their indices on a CUDA device, with indices of the host or of the device itself."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from cuda.core import LaunchConfig

from . import cuda_faults as faults
from . import cuda_streams as streams
from .cuda_forms import Form
from .cuda_launch import Tables, blocks_for, launch_on, load
from .cuda_layout import with_native_half
from .plan import count_launch
from .variants import Variant

__all__ = ["scatter_add"]


def scatter_add(destination: Any, indices: Any, rows: Any, variant: Variant, alpha: float) -> None:
    """Add rows of a device array to rows of another, in the order of the indices.

    Parameters
    ----------
    destination : cupy.ndarray, C-contiguous
        Not empty.
    indices : int64 array, shape (k,)
        Of NumPy, and checked; or of CuPy: these are checked by the kernel, for which nothing waits.
    rows : cupy.ndarray, C-contiguous, shape (k, ...)

    Raises
    ------
    ValueError
        An earlier call had an index out of range.
    """
    form = Form("scatter", with_native_half(variant))
    device = destination.device.id
    count = len(indices)
    with streams.on_device(device):
        faults.raise_found(device)
        kernel = load(form, device)
        stream = streams.current(device)
        tables: Any
        if isinstance(indices, cupy.ndarray):
            indices = indices.astype(np.int64, copy=False)
            order = cupy.argsort(indices).astype(np.int64, copy=False)  # stable, as CuPy has it
            tables = [order, indices[order]]
            addresses = [int(table.data.ptr) for table in tables]
        else:
            order = np.argsort(indices, kind="stable").astype(np.int64)
            tables = Tables(stream, device, [order, np.ascontiguousarray(indices[order])])
            addresses = tables.addresses
        config = LaunchConfig(grid=blocks_for(kernel, count), block=form.threads)
        sides = (destination.data.ptr, rows.data.ptr, rows.size // count, len(destination), count)
        count_launch()
        launch_on(
            stream, config, kernel, *addresses, *sides, float(alpha), 0, faults.address(device), 0, 0, 0
        )
