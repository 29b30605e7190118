"""Initial values of variables.

An initializer is called with a shape and a dtype and returns a host array. The random ones draw from a
counter-based generator (Philox) whose key is the hash of a seed and of the variable's name. A variable's
values therefore depend on neither the order in which variables are made nor on which others there are, and
two variables never share values by chance. An initializer with a `seed` of its own gives the same values
each time, whatever the name.

Numbers are drawn as float64 and rounded to the dtype, so that a float32 model starts from the same weights
as its float64 twin. They may change with a release of NumPy (NEP 19), and in the last bits with the platform.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from numscope.blob import as_shape
from numscope.errors import BindingError, BlobTypeError
from numscope.types import known_dtype

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "Normal",
    "Ones",
    "Orthogonal",
    "TruncatedNormal",
    "Uniform",
    "Zeros",
    "generator_of",
]

# Standard deviation of a standard normal variable that is cut off at -2 and 2: the root of
# 1 - 4 phi(2) / (2 Phi(2) - 1), which is 0.8796.
_CUT_STD = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def generator_of(seed: int, name: str) -> np.random.Generator:
    """Return the generator of a variable: a function of the seed and the variable's full name."""
    import hashlib  # not at import: it loads OpenSSL, 3 to 8 ms

    key = hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


class Initializer(ABC):
    """Makes the initial values of a variable."""

    def __call__(
        self,
        shape: int | Sequence[int],
        dtype: DTypeLike = "float32",
        *,
        generator: np.random.Generator | None = None,
    ) -> NDArray[Any]:
        """Return initial values.

        Parameters
        ----------
        shape : int or sequence of int
            Shape of the variable.
        dtype : dtype, default float32
            A known type.
        generator : numpy.random.Generator, optional
            Where random numbers come from, unless the initializer has a seed of its own. Default: that of
            seed 0 and the name "".

        Raises
        ------
        BindingError
            The initializer makes no array of this shape, or it is none.
        BlobTypeError
            The initializer makes no array of this dtype.
        """
        known = known_dtype(dtype)
        return self._values(as_shape(shape, known.itemsize), known, generator or generator_of(0, ""))

    @abstractmethod
    def _values(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], generator: np.random.Generator
    ) -> NDArray[Any]:
        """Return a new array; the arguments are those of a call, resolved."""


@dataclass(frozen=True, eq=False)
class Constant(Initializer):
    """Fill with a number, or with an array of the variable's shape (or one that broadcasts to it).

    Parameters
    ----------
    value : scalar or array_like
        Rounded to the variable's dtype where that is a floating one, which must reach so far; otherwise it
        has to be representable.
    """

    value: ArrayLike

    def _values(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], generator: np.random.Generator
    ) -> NDArray[Any]:
        source = np.asarray(self.value)
        try:
            source = np.broadcast_to(source, shape)
        except ValueError:
            raise BindingError(
                f"shape: Constant has values of shape {source.shape}, the variable has shape {shape}; "
                "give a number or values that broadcast to it"
            ) from None
        drops_imaginary = source.dtype.kind == "c" and dtype.kind != "c"
        with np.errstate(invalid="ignore", over="ignore"):
            values = (source.real if drops_imaginary else source).astype(dtype)
        if dtype.kind in "biu":
            is_changed = not np.array_equal(values, source)
        else:
            is_changed = bool(np.any(np.isfinite(source) & ~np.isfinite(values)))
        if drops_imaginary or is_changed:
            raise BlobTypeError(
                f"dtype: the values of Constant, of dtype {source.dtype}, cannot be written as {dtype.name}; "
                "give values or a variable of another dtype"
            )
        return values


@dataclass(frozen=True, eq=False)
class Zeros(Constant):
    """Fill with zeros (False for bool)."""

    value: ArrayLike = field(default=0, init=False, repr=False)


@dataclass(frozen=True, eq=False)
class Ones(Constant):
    """Fill with ones (True for bool)."""

    value: ArrayLike = field(default=1, init=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Random(Initializer):
    """Values drawn from a generator; they must be of a real floating type.

    Parameters
    ----------
    seed : int, optional
        Makes the values the same each time. Default: they depend on the seed of the variable scope and on
        the variable's name.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not (isinstance(self.seed, int | np.integer) and self.seed >= 0):
            raise BindingError(f"the seed of {type(self).__name__} is an int from 0 up, got {self.seed!r}")

    def _values(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], generator: np.random.Generator
    ) -> NDArray[Any]:
        if dtype.kind in "biuc":
            raise BlobTypeError(
                f"dtype: {type(self).__name__} draws real floating numbers, got {dtype.name}; "
                "use Zeros, Ones or Constant, or give an array"
            )
        if self.seed is not None:
            generator = np.random.Generator(np.random.Philox(self.seed))
        return np.asarray(self._draw(generator, shape)).astype(dtype)  # NumPy draws floats for shape ()

    @abstractmethod
    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the values in float64."""


def _cut_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return standard normal numbers; those outside of -2 and 2 are drawn again."""
    values = np.asarray(generator.standard_normal(shape))
    flat = values.reshape(-1)
    outside = np.flatnonzero(np.abs(flat) > 2)
    while outside.size:
        flat[outside] = generator.standard_normal(outside.size)
        outside = outside[np.abs(flat[outside]) > 2]
    return values


@dataclass(frozen=True)
class Uniform(Random):
    """Draw from the uniform distribution over [low, high).

    Parameters
    ----------
    low, high : float, default 0 and 1
        Bounds. In a dtype shorter than float64 a value may be rounded up to `high`.
    seed : int, optional
        As for all random initializers.
    """

    low: float = 0.0
    high: float = 1.0

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return generator.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Normal(Random):
    """Draw from the normal distribution.

    Parameters
    ----------
    mean, std : float, default 0 and 1
        Mean and standard deviation.
    seed : int, optional
        As for all random initializers.
    """

    mean: float = 0.0
    std: float = 1.0

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return generator.normal(self.mean, self.std, shape)


@dataclass(frozen=True)
class TruncatedNormal(Random):
    """Draw from the normal distribution, again where a value is more than two `std` from the mean.

    Parameters
    ----------
    mean, std : float, default 0 and 1
        Mean and standard deviation of the distribution before it is cut off, as in TensorFlow; afterwards
        the standard deviation is 0.8796 `std`.
    seed : int, optional
        As for all random initializers.
    """

    mean: float = 0.0
    std: float = 1.0

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return self.mean + self.std * _cut_normal(generator, shape)


@dataclass(frozen=True, kw_only=True)
class Scaled(Random):
    """Values whose variance follows from the number of inputs and outputs of a layer.

    Parameters
    ----------
    in_axis, out_axis : int, default -2 and -1
        The axes that count a layer's inputs and outputs; all others count places of a convolution's window.
        TensorFlow's layout is the default; PyTorch's and Caffe2's ``(outputs, inputs)`` is
        ``in_axis=-1, out_axis=-2``. A vector counts for both, a scalar is 1.
    seed : int, optional
        As for all random initializers.
    """

    in_axis: int = -2
    out_axis: int = -1

    def fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Return the number of inputs and of outputs that a unit has; at least 1 each."""
        if len(shape) < 2:
            n = max(1, math.prod(shape))
            return n, n
        axes = [axis for axis in (self.in_axis, self.out_axis) if -len(shape) <= axis < len(shape)]
        if len({axis % len(shape) for axis in axes}) != 2:
            raise BindingError(
                f"shape: {type(self).__name__} has in_axis={self.in_axis} and out_axis={self.out_axis}, "
                f"the variable has shape {shape}; give two axes that it has"
            )
        inputs, outputs = shape[axes[0]], shape[axes[1]]
        window = math.prod(shape) / (inputs * outputs) if inputs and outputs else 1
        return max(1.0, inputs * window), max(1.0, outputs * window)

    @abstractmethod
    def variance(self, inputs: float, outputs: float) -> float:
        """Return the variance that the values should have."""


class ScaledUniform(Scaled):
    """The uniform distribution around 0 with that variance."""

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        limit = math.sqrt(3 * self.variance(*self.fans(shape)))
        return generator.uniform(-limit, limit, shape)


class ScaledNormal(Scaled):
    """The normal distribution around 0, cut off at twice its `std`, with that variance after the cut."""

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return math.sqrt(self.variance(*self.fans(shape))) / _CUT_STD * _cut_normal(generator, shape)


def _glorot(inputs: float, outputs: float) -> float:
    return 2 / (inputs + outputs)


def _he(inputs: float, outputs: float) -> float:
    return 2 / inputs


class GlorotUniform(ScaledUniform):
    """Glorot and Bengio (2010): uniform, variance 2 / (inputs + outputs). The default of `get_variable`."""

    variance = staticmethod(_glorot)


class GlorotNormal(ScaledNormal):
    """Glorot and Bengio (2010): truncated normal, variance 2 / (inputs + outputs)."""

    variance = staticmethod(_glorot)


class HeUniform(ScaledUniform):
    """He et al. (2015), for rectified units: uniform, variance 2 / inputs."""

    variance = staticmethod(_he)


class HeNormal(ScaledNormal):
    """He et al. (2015), for rectified units: truncated normal, variance 2 / inputs."""

    variance = staticmethod(_he)


@dataclass(frozen=True)
class Orthogonal(Random):
    """Draw an orthogonal matrix, uniformly (Saxe et al., 2014; Mezzadri, 2007).

    All axes but the last are taken as rows. A matrix with more rows than columns has orthonormal columns,
    one with more columns orthonormal rows.

    Parameters
    ----------
    gain : float, default 1
        Multiplies the matrix.
    seed : int, optional
        As for all random initializers.
    """

    gain: float = 1.0

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        if len(shape) < 2:
            raise BindingError(
                f"shape: Orthogonal makes matrices, the variable has shape {shape}; expected two axes or more"
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
        # QR fixes each column up to its sign; with R's diagonal positive, Q is uniformly distributed.
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)
