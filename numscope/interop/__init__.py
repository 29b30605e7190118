"""Arrays on their way out to other libraries, without a copy where these can share memory.

What comes in needs no call: workspaces and accumulators take the arrays of any library as they are.
"""

from numscope.interop.jax import to_jax
from numscope.interop.torch import to_torch

__all__ = ["to_jax", "to_torch"]
