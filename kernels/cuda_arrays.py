# mypy: disable-error-code="no-untyped-call, no-any-return"
# CuPy ships no types.
"""Bring arrays on a CUDA device to the kernels, as CuPy arrays without a copy, and give them back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from .pieces import read_tensor

__all__ = ["as_device_array", "give_back", "is_guest", "wait_for_torch"]


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
    """Return a CuPy array over a tensor.

    The capsule goes from one library to the other without a stream: PyTorch refuses to hear of the
    default stream of a thread (2), on which CuPy may work, and of devices that are not its current one.
    """
    array = read_tensor(tensor, torch, lambda words: cupy.from_dlpack(torch.utils.dlpack.to_dlpack(words)))
    wait_for_torch(torch, [tensor], tensor.device)
    return array


def _other_stream(torch: Any, cupy: Any, device: Any) -> Any:
    """Return CuPy's current stream as PyTorch's object, or None where it is PyTorch's current one as well.

    PyTorch gives memory to somebody else as soon as its own stream is done with it, unless other streams
    are recorded.
    """
    pointer = cupy.cuda.get_current_stream(device.index).ptr
    if pointer == torch.cuda.current_stream(device).cuda_stream:
        return None
    if pointer in (0, 1):  # an ExternalStream of 0 would be a new stream
        return torch.cuda.default_stream(device)
    return torch.cuda.ExternalStream(pointer, device=device)


def wait_for_torch(torch: Any, tensors: Iterable[Any], device: Any) -> None:
    """Let CuPy's current stream wait for PyTorch's, where they are two, before it reads tensors."""
    import cupy

    ours = _other_stream(torch, cupy, device)
    if ours is not None:
        ours.wait_stream(torch.cuda.current_stream(device))
        for tensor in tensors:
            tensor.record_stream(ours)


def _in_arena(array: Any) -> bool:
    return bool(getattr(getattr(array.data.mem, "_owner", None), "ordered", False))


def is_guest(array: Any) -> bool:
    """Tell whether the memory of a CuPy array is another library's, taken by DLPack."""
    return type(array.data.mem).__name__ == "DLPackMemory"  # CuPy does not show the class


def give_back(values: Iterable[Any], device: str) -> None:
    """Let arrays that were given to kernels be used, and die, as if these had run already.

    PyTorch's current stream is made to wait, on the device, where the kernels went to another one: it may
    write next into what they read, or read what they wrote. CuPy's pool gives memory out again in
    the order of the stream on which it was allocated; as long as the device has seen one stream
    only, that is enough. What lies in an arena is looked after there. All other arrays, which may
    die at any moment, are kept alive until the kernels are done.
    """
    import cupy

    from . import cuda_streams as streams

    number = streams.ordinal(device)
    torch = sys.modules.get("torch")
    several = bool(streams.others(number, cupy.cuda.get_current_stream(number)))
    kept: list[Any] = []
    place = None
    for value in values:
        if isinstance(value, cupy.ndarray):
            if (several and not _in_arena(value)) or is_guest(value):
                kept.append(value)
        elif torch is not None and isinstance(value, torch.Tensor):
            place = value.device
        elif value is not None:
            kept.append(value)
    if torch is not None and place is not None and place.type == "cuda":
        ours = _other_stream(torch, cupy, place)
        if ours is not None:
            torch.cuda.current_stream(place).wait_stream(ours)
    if kept:
        streams.keep(number, kept)
