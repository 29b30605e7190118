"""Scopes of small tensors in one preallocated arena, one-pass kernels, exact gradient accumulation."""

import os as _os

_here = _os.path.dirname(_os.path.abspath(__file__))
if not _os.path.isdir(_os.path.join(_here, "kernels")):  # a source checkout, not a wheel
    _root = _os.path.dirname(_here)
    if _os.path.isfile(_os.path.join(_root, "kernels", "__init__.py")):
        __path__.append(_root)  # numscope.kernels -> ../kernels
