# mypy: disable-error-code="no-untyped-call, no-any-return"
# CuPy ships no types.
"""Bring arrays on a CUDA device to the kernels, as CuPy arrays without a copy."""

from __future__ import annotations

import sys
from typing import Any

from .pieces import as_dtype

__all__ = ["as_device_array"]


def as_device_array(x: Any) -> Any:
    """Return a CuPy array over the memory of any array on a CUDA device.

    It may be read on CuPy's current stream: by DLPack's rules the stream that is current in the library
    that made the array is waited for there, by the device and not by the host.

    Parameters
    ----------
    x : array
        Of CuPy, or anything with ``__dlpack__`` or ``__cuda_array_interface__``; of PyTorch also the
        types of 8 bits that DLPack does not know.

    Raises
    ------
    RuntimeError
        CuPy is not installed.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"arrays on a CUDA device need CuPy: {error}; pip install 'numscope[cuda13]'"
        ) from error
    if isinstance(x, cupy.ndarray):
        return x
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _from_torch(x, torch, cupy)
    return cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else cupy.asarray(x)


def _from_torch(tensor: Any, torch: Any, cupy: Any) -> Any:
    tensor = tensor.detach()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):  # by their words: not every CuPy takes these
        words = torch.int16 if name == "bfloat16" else torch.uint8
        array = cupy.from_dlpack(tensor.view(words)).view(as_dtype(name))
    else:
        array = cupy.from_dlpack(tensor)
    stream = cupy.cuda.get_current_stream()
    if stream.ptr != torch.cuda.current_stream(tensor.device).cuda_stream:
        # PyTorch must not give the memory to somebody else before this stream is done with it.
        tensor.record_stream(torch.cuda.ExternalStream(stream.ptr, device=tensor.device))
    return array
