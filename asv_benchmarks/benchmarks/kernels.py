"""Every kernel on every set of tensors, memory and layout prepared; dtypes where they matter."""

import os

import ml_dtypes
import numpy as np

from numscope import kernels
from numscope.benchmark.sets import SETS

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float64": np.float64}


class _OnASet:
    """Pieces of random values in the shapes of a set."""

    def prepare(self, set_name, dtype):
        if set_name == "gpt2" and "NUMSCOPE_LARGE_BENCHMARKS" not in os.environ:
            raise NotImplementedError("set NUMSCOPE_LARGE_BENCHMARKS=1: 1 GB and seconds for each setup")
        lengths = np.array([int(np.prod(shape)) for shape in SETS[set_name]()])
        starts = np.concatenate([[0], np.cumsum(-(-lengths // 64) * 64)])
        drawn = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
        self.pieces = []
        self.memory = []
        for kind in ("float32", dtype):
            values = np.resize(drawn.astype(DTYPES[kind]), starts[-1])
            self.memory.append(values)
            addresses = values.__array_interface__["data"][0] + starts[:-1] * values.itemsize
            self.pieces.append(kernels.Pieces(addresses, lengths, values.dtype))


class SameType(_OnASet):
    """Kernels that stay within float32."""

    params = (
        list(SETS),
        ["zero", "copy", "accumulate", "overwrite", "scale", "stats", "accumulate with stats"],
    )
    param_names = ("set", "kernel")

    def setup(self, set_name, kernel):
        self.prepare(set_name, "float32")
        dst, src = self.pieces
        self.call = {
            "zero": lambda: kernels.prepare("zero", dst),
            "copy": lambda: kernels.prepare("copy", dst, src),
            "accumulate": lambda: kernels.prepare("accumulate", dst, src),
            "overwrite": lambda: kernels.prepare("accumulate", dst, src, beta=0),
            "scale": lambda: kernels.prepare("scale", dst),
            "stats": lambda: kernels.prepare("stats", dst),
            "accumulate with stats": lambda: kernels.prepare("accumulate", dst, src, stats=True),
        }[kernel]()
        self.call()

    def time_kernel(self, set_name, kernel):
        self.call()


class Casts(_OnASet):
    """Other float types into float32, and down from it."""

    params = (list(SETS), ["bfloat16", "float16", "float64"], ["accumulate", "copy up", "copy down"])
    param_names = ("set", "dtype", "kernel")

    def setup(self, set_name, dtype, kernel):
        self.prepare(set_name, dtype)
        dst, src = self.pieces
        if kernel == "accumulate":
            self.call = kernels.prepare("accumulate", dst, src)
        else:
            self.call = kernels.prepare("copy", *((src, dst) if kernel == "copy down" else (dst, src)))
        self.call()

    def time_kernel(self, set_name, dtype, kernel):
        self.call()


class Rounding(_OnASet):
    """bfloat16 accumulators."""

    params = (list(SETS), ["nearest", "stochastic", "compensated"])
    param_names = ("set", "rounding")

    def setup(self, set_name, rounding):
        self.prepare(set_name, "bfloat16")
        _, dst = self.pieces
        source = self.memory[1].copy()
        src = kernels.Pieces(
            dst.addresses - self.memory[1].ctypes.data + source.ctypes.data, dst.lengths, dst.dtype
        )
        remainder = None
        if rounding == "compensated":
            rest = np.zeros(source.size, np.uint16)
            self.memory.append(rest)
            remainder = kernels.Pieces(
                dst.addresses - self.memory[1].ctypes.data + rest.ctypes.data, dst.lengths, "uint16"
            )
        self.memory.append(source)
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
    """Sparse rows, with many duplicates."""

    def setup(self):
        draw = np.random.default_rng(0)
        self.table = np.zeros((50_000, 256), np.float32)
        self.rows = draw.standard_normal((4_096, 256), np.float32)
        self.indices = draw.zipf(1.3, 4_096) % len(self.table)
        self.time_scatter_add()

    def time_scatter_add(self):
        kernels.scatter_add(self.table, self.indices, self.rows)
