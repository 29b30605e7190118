"""Every kernel on every set of tensors, memory and layout prepared; dtypes where they matter."""

import os

import ml_dtypes
import numpy as np

from numscope import kernels
from numscope.benchmark.sets import SETS

DTYPES = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float64": np.float64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
COMPUTED = ["float32", "bfloat16", "float16", "float64"]


class _OnASet:
    """Pieces of random values in the shapes of a set."""

    def prepare(self, set_name, *dtypes):
        if set_name == "gpt2" and "NUMSCOPE_LARGE_BENCHMARKS" not in os.environ:
            raise NotImplementedError("set NUMSCOPE_LARGE_BENCHMARKS=1: 2 GB and seconds for each setup")
        lengths = np.array([int(np.prod(shape)) for shape in SETS[set_name]()])
        starts = np.concatenate([[0], np.cumsum(-(-lengths // 64) * 64)])
        drawn = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
        self.pieces = []
        self.memory = []
        for dtype in dtypes:
            values = np.resize(drawn.astype(DTYPES[dtype]), starts[-1])
            self.memory.append(values)
            addresses = values.__array_interface__["data"][0] + starts[:-1] * values.itemsize
            self.pieces.append(kernels.Pieces(addresses, lengths, values.dtype))


class SameType(_OnASet):
    """Every kernel, without a cast."""

    params = (
        list(SETS),
        COMPUTED,
        ["zero", "copy", "accumulate", "overwrite", "scale", "stats", "norm", "accumulate with stats"],
    )
    param_names = ("set", "dtype", "kernel")

    def setup(self, set_name, dtype, kernel):
        self.prepare(set_name, dtype, dtype)
        dst, src = self.pieces
        self.call = {
            "zero": lambda: kernels.prepare("zero", dst),
            "copy": lambda: kernels.prepare("copy", dst, src),
            "accumulate": lambda: kernels.prepare("accumulate", dst, src),
            "overwrite": lambda: kernels.prepare("accumulate", dst, src, beta=0),
            "scale": lambda: kernels.prepare("scale", dst),
            "stats": lambda: kernels.prepare("stats", dst),
            "norm": lambda: kernels.prepare("stats", dst, stats="norm"),
            "accumulate with stats": lambda: kernels.prepare("accumulate", dst, src, stats=True),
        }[kernel]()
        self.call()

    def time_kernel(self, set_name, dtype, kernel):
        self.call()


class ZeroedSource(_OnASet):
    """Accumulation that leaves zeros in its source, which each sample finds full again."""

    params = (list(SETS), COMPUTED)
    param_names = ("set", "dtype")
    number = 1
    warmup_time = 0

    def setup(self, set_name, dtype):
        self.prepare(set_name, dtype, dtype, dtype)
        dst, src, full = self.pieces
        self.call = kernels.prepare("accumulate", dst, src, zero_source=True)
        self.call()
        kernels.prepare("copy", src, full)()

    def time_kernel(self, set_name, dtype):
        self.call()


class Casts(_OnASet):
    """From one float type into another; accumulation where the types are more than storage."""

    params = (
        list(SETS),
        [f"{dtype} into float32" for dtype in DTYPES if dtype != "float32"]
        + [f"float32 into {dtype}" for dtype in DTYPES if dtype != "float32"],
        ["copy", "accumulate"],
    )
    param_names = ("set", "dtypes", "kernel")

    def setup(self, set_name, dtypes, kernel):
        if "float8" in dtypes and kernel == "accumulate":
            raise NotImplementedError("float8 is storage only")
        source, destination = dtypes.split(" into ")
        self.prepare(set_name, destination, source)
        self.call = kernels.prepare(kernel, *self.pieces)
        self.call()

    def time_kernel(self, set_name, dtypes, kernel):
        self.call()


class Rounding(_OnASet):
    """bfloat16 accumulators."""

    params = (list(SETS), ["nearest", "stochastic", "compensated"])
    param_names = ("set", "rounding")

    def setup(self, set_name, rounding):
        self.prepare(set_name, "bfloat16", "bfloat16", "bfloat16")
        dst, src, plane = self.pieces
        remainder = None
        if rounding == "compensated":
            self.memory[2].view(np.uint16)[:] = 0
            remainder = kernels.Pieces(plane.addresses, plane.lengths, "uint16")
        self.call = kernels.prepare("accumulate", dst, src, rounding=rounding, remainder=remainder)
        self.call()

    def time_kernel(self, set_name, rounding):
        self.call()


class Lists:
    """Lists of arrays, nothing kept between calls."""

    params = ([1, 100, 10_000],)
    param_names = ("arrays",)

    def setup(self, count):
        self.dst = [np.ones(1_000_000 // count, np.float32) for _ in range(count)]
        self.src = [np.ones(1_000_000 // count, np.float32) for _ in range(count)]
        self.time_accumulate(count)

    def time_accumulate(self, count):
        kernels.accumulate(self.dst, self.src)


class SmallArrays:
    """The cost of a call."""

    def setup(self):
        self.x = np.ones(100, np.float32)
        self.y = np.ones(100, np.float32)
        for call in (self.time_zero, self.time_copy, self.time_accumulate, self.time_stats):
            call()

    def time_zero(self):
        kernels.zero(self.x)

    def time_copy(self):
        kernels.copy(self.x, self.y)

    def time_accumulate(self):
        kernels.accumulate(self.x, self.y)

    def time_stats(self):
        kernels.stats(self.x)


class Rows:
    """Sparse rows, with many duplicates: 4,096 of 256 elements, into an embedding of 50,000."""

    params = (COMPUTED,)
    param_names = ("dtype",)

    def setup(self, dtype):
        draw = np.random.default_rng(0)
        self.table = np.zeros((50_000, 256), DTYPES[dtype])
        self.rows = draw.standard_normal((4_096, 256), np.float32).astype(DTYPES[dtype])
        self.indices = draw.zipf(1.3, 4_096) % len(self.table)
        self.time_scatter_add(dtype)

    def time_scatter_add(self, dtype):
        kernels.scatter_add(self.table, self.indices, self.rows)
