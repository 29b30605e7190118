"""Named arrays and texts to and from safetensors files. Knows nothing of workspaces.

The format: https://github.com/huggingface/safetensors#format. The raw serializer takes addresses and names
of dtypes, so that bfloat16, float8 and complex64, for which its NumPy front end has no words, pass as well.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from numscope.errors import BindingError, BlobTypeError
from numscope.types import known_dtype

__all__ = ["check_target", "load", "save"]

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # the format's words -> NumPy's names, which are the serializer's as well
_RESERVED = "__metadata__"


def save(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write arrays and texts to a file, which is whole or absent afterwards.

    Parameters
    ----------
    path : path
        An existing file is replaced in one step.
    values : mapping of str to numpy.ndarray or str
        Texts go into the metadata.

    Raises
    ------
    BlobTypeError
        A value is something else, of a dtype that the format lacks, or has the reserved name
        ``__metadata__``; nothing was written.
    OSError
        The file cannot be written.
    """
    import tempfile  # not at import: with what it needs it takes 6 ms

    from safetensors import SafetensorError, TensorSpec, serialize_file  # not at import: only files need it

    texts: dict[str, str] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in values.items():
        if name == _RESERVED:
            raise BlobTypeError(f"the name {_RESERVED!r} is reserved by safetensors; rename the blob")
        for text in (name, value) if isinstance(value, str) else (name,):
            _check_text(name, text)
        if isinstance(value, str):
            texts[name] = value
        elif isinstance(value, np.ndarray) and value.dtype.name in _DTYPES.values():
            arrays[name] = np.require(value, requirements="C")
        else:
            raise BlobTypeError(
                f"blob {name!r} holds {_kind(value)}, which a safetensors file cannot; expected text or a "
                f"tensor of {', '.join(_DTYPES.values())}. Leave it out with names=."
            )
    tensors = {
        name: TensorSpec(
            dtype=array.dtype.name, shape=list(array.shape), data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in arrays.items()
    }
    path = os.path.realpath(os.fsdecode(path))  # a link stays, and what it names is replaced
    check_target(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".safetensors", dir=os.path.dirname(path))
    except OSError as error:  # of a name that nobody has heard of
        raise OSError(error.errno, error.strerror, path) from None
    try:
        os.close(handle)
        serialize_file(tensors, temporary, texts or None)
        _finish(temporary, path)
    except SafetensorError as error:
        raise OSError(f"{path!r} cannot be written: {error}") from error
    finally:  # after an interrupt as well no half file is left, under whatever name
        with contextlib.suppress(FileNotFoundError):  # it has its right name by now
            os.unlink(temporary)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise an OSError if `save` would replace what is no file: a folder, a pipe, a device as /dev/null."""
    if os.path.exists(path) and not os.path.isfile(path):
        error = IsADirectoryError if os.path.isdir(path) else FileExistsError
        raise error(f"{os.fsdecode(path)!r} is no plain file, expected one to replace, or a new name")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the arrays and texts of a file.

    Returns
    -------
    dict of str to numpy.ndarray or str

    Raises
    ------
    BindingError
        The file is damaged, truncated or no safetensors file.
    BlobTypeError
        A tensor is of a dtype that is not known.
    OSError
        The file cannot be read.
    """
    from safetensors import SafetensorError, deserialize

    with open(os.fspath(path), "rb") as file:  # not an int, which is a file that is open already
        content = file.read()
    try:
        tensors = dict(deserialize(content))  # type: ignore[no-untyped-call]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise BindingError(
            f"{os.fspath(path)!r} is damaged or no safetensors file ({error}); expected a whole one"
        ) from None
    # By name and as in the file: the library gives both in random order, and so would addresses be.
    values: dict[str, Any] = dict(sorted((header.pop(_RESERVED, None) or {}).items()))
    for name in header:
        tensor = tensors[name]
        if tensor["dtype"] not in _DTYPES:
            raise BlobTypeError(
                f"tensor {name!r} in {os.fspath(path)!r} is of dtype {tensor['dtype']}, which is not known; "
                f"expected one of {', '.join(_DTYPES)}"
            )
        dtype = known_dtype(_DTYPES[tensor["dtype"]])
        values[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return values


def _finish(temporary: str, path: str) -> None:
    """Put a whole file in its place: its bytes on the disk first, with the rights of a new file."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is for its owner alone
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BlobTypeError(
            f"the name or text of blob {name!r} is not valid Unicode ({error.reason}), which a safetensors "
            "file has to be; rename the blob, or leave it out with names="
        ) from None


def _kind(value: object) -> str:
    if value is None:
        return "nothing (it is empty)"
    return f"a tensor of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
