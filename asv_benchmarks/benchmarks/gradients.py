"""A step of gradient accumulation, beside the same by PyTorch's operations on lists.

Each micro-batch has gradients of its own, as backward passes make them, so that nothing known of the last
one's addresses serves again.
"""

import ml_dtypes
import numpy as np

import numscope as ns
from numscope.benchmark.sets import SETS

MICRO_BATCHES = 4


class Step:
    """Reset, four additions with weights, and the mean clipped to a norm."""

    params = (["small", "resnet50"], ["numpy", "torch"], ["float32", "bfloat16"])
    param_names = ("set", "library", "dtype")

    def setup(self, set_name, library, dtype):
        shapes = {f"w{number}": shape for number, shape in enumerate(SETS[set_name]())}
        draw = np.random.default_rng(0)
        batches = [
            {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
            for _ in range(MICRO_BATCHES)
        ]
        if library == "torch":
            self.batches = [_of_torch(batch, dtype) for batch in batches]
        else:
            kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
            self.batches = [{name: g.astype(kind) for name, g in batch.items()} for batch in batches]
        self.accumulator = ns.GradientAccumulator(shapes, arena=ns.Arena("128 MiB"))
        self.time_accumulator(set_name, library, dtype)

    def time_accumulator(self, set_name, library, dtype):
        self.accumulator.reset()
        for weight, gradients in enumerate(self.batches, 1):
            self.accumulator.add(gradients, weight=weight)
        self.accumulator.finish(max_norm=1.0)


class StepOfTorch:
    """The same in PyTorch: sums of float32, one operation a list."""

    params = (["small", "resnet50"], ["float32", "bfloat16"])
    param_names = ("set", "dtype")

    def setup(self, set_name, dtype):
        step = Step()
        step.setup(set_name, "torch", dtype)
        import torch

        self.batches = [list(batch.values()) for batch in step.batches]
        self.sums = [torch.zeros(tensor.shape) for tensor in self.batches[0]]
        self.torch = torch
        self.time_foreach(set_name, dtype)

    def time_foreach(self, set_name, dtype):
        torch, total = self.torch, 0
        torch._foreach_zero_(self.sums)
        for weight, gradients in enumerate(self.batches, 1):
            if dtype == "bfloat16":
                gradients = [gradient.float() for gradient in gradients]
            torch._foreach_add_(self.sums, gradients, alpha=weight)
            total += weight
        torch._foreach_mul_(self.sums, 1 / total)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.sums)))
        torch._foreach_mul_(self.sums, torch.clamp(1 / norm, max=1.0))


def _of_torch(batch, dtype):
    try:
        import torch
    except ImportError:
        raise NotImplementedError("PyTorch is not installed") from None
    return {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in batch.items()}
