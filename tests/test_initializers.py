"""First values of variables: moments, bounds and distributions, seeds, dtypes."""

import math

import ml_dtypes
import numpy as np
import pytest

from numscope.errors import BindingError, BlobTypeError, UnknownTypeError
from numscope.initializers import (
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Normal,
    Ones,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    Zeros,
    generator_of,
)

RANDOM = [
    Uniform(),
    Normal(),
    TruncatedNormal(),
    GlorotUniform(),
    GlorotNormal(),
    HeUniform(),
    HeNormal(),
    Orthogonal(),
]
FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize(("initializer", "value"), [(Zeros(), 0), (Ones(), 1), (Constant(1), 1)])
def test_constants(initializer, value, dtype):
    values = initializer((2, 3), dtype)
    assert values.dtype.name == dtype
    assert values.shape == (2, 3)
    assert np.all(values == value)
    values[0, 0] = 0  # it is an array of its own


def test_a_constant_broadcasts():
    np.testing.assert_array_equal(Constant([1, 2])((3, 2)), [[1, 2]] * 3)
    with pytest.raises(
        BindingError, match=r"shape: Constant has values of shape \(2,\), the variable .* \(3,\)"
    ):
        Constant([1, 2])((3,))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2.5, "int32"),
        (300, "uint8"),
        (-1, "uint8"),
        (2, "bool"),
        (1j, "float32"),
        (math.nan, "int8"),
        (1e6, "float16"),
        (1e300, "float32"),
        (1e40, "bfloat16"),
        (1000, "float8_e4m3fn"),
        (1e300j, "complex64"),
    ],
)
def test_a_constant_is_not_changed_by_its_dtype(value, dtype):
    with pytest.raises(BlobTypeError, match=f"cannot be written as {dtype}"):
        Constant(value)((2,), dtype)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_constant_may_be_infinite(value):
    np.testing.assert_array_equal(Constant(value)(2, "bfloat16").astype(np.float64), [value, value])


@pytest.mark.parametrize("initializer", [*RANDOM, Zeros()], ids=lambda i: type(i).__name__)
def test_a_shape_is_checked(initializer):
    with pytest.raises(BindingError, match="must not be negative"):
        initializer((2, -3))
    with pytest.raises(BlobTypeError, match="a shape is an int or a sequence of ints"):
        initializer("ab")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("initializer", RANDOM, ids=lambda i: type(i).__name__)
def test_random_values_are_rounded_from_float64(initializer, dtype):
    exact = initializer((32, 8), np.float64)
    values = initializer((32, 8), dtype)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, exact.astype(dtype))
    assert values.flags.c_contiguous


@pytest.mark.parametrize("initializer", RANDOM, ids=lambda i: type(i).__name__)
def test_a_seed_makes_the_values_and_a_generator_does_otherwise(initializer):
    seeded = type(initializer)(seed=3)
    np.testing.assert_array_equal(seeded((6, 4)), seeded((6, 4), generator=generator_of(9, "w")))
    assert not np.array_equal(seeded((6, 4)), type(initializer)(seed=4)((6, 4)))
    first = initializer((6, 4), generator=generator_of(0, "w"))
    np.testing.assert_array_equal(first, initializer((6, 4), generator=generator_of(0, "w")))
    for seed, name in [(1, "w"), (0, "v"), (0, "w1"), (10, "w")]:
        assert not np.array_equal(first, initializer((6, 4), generator=generator_of(seed, name)))


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8", "complex64"])
@pytest.mark.parametrize("initializer", RANDOM, ids=lambda i: type(i).__name__)
def test_random_values_are_real_floating_numbers(initializer, dtype):
    with pytest.raises(BlobTypeError, match=f"draws real floating numbers, got {dtype}"):
        initializer((2, 2), dtype)


@pytest.mark.parametrize("initializer", [*RANDOM, Zeros(), Constant(2)], ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 0, 3), (1, 1), (3, 1, 2)])
def test_shapes_without_elements_and_with_more_axes(initializer, shape):
    assert initializer(shape).shape == shape


@pytest.mark.parametrize("initializer", RANDOM[:-1], ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_scalars_and_vectors(initializer, shape):
    values = initializer(shape)
    assert isinstance(values, np.ndarray)
    assert values.shape == shape


# 200,000 numbers: the mean of a unit variable is within 0.01 of its own 99.999 % of the time, and so is
# the standard deviation; the seed is fixed.
SHAPE = (400, 500)


@pytest.mark.parametrize(
    ("initializer", "mean", "std", "bound"),
    [
        (Uniform(), 0.5, 1 / math.sqrt(12), (0, 1)),
        (Uniform(-2, 4), 1, 6 / math.sqrt(12), (-2, 4)),
        (Normal(), 0, 1, (-6, 6)),
        (Normal(3, 0.5), 3, 0.5, (0, 6)),
        (TruncatedNormal(), 0, 0.87962566, (-2, 2)),
        (TruncatedNormal(1, 3), 1, 3 * 0.87962566, (-5, 7)),
        (GlorotUniform(), 0, math.sqrt(2 / 900), (-math.sqrt(6 / 900), math.sqrt(6 / 900))),
        (GlorotNormal(), 0, math.sqrt(2 / 900), (-0.108, 0.108)),
        (HeUniform(), 0, math.sqrt(2 / 400), (-math.sqrt(6 / 400), math.sqrt(6 / 400))),
        (HeNormal(), 0, math.sqrt(2 / 400), (-0.161, 0.161)),
        (HeNormal(in_axis=-1, out_axis=-2), 0, math.sqrt(2 / 500), (-0.144, 0.144)),
    ],
    ids=repr,
)
def test_moments_and_bounds(initializer, mean, std, bound):
    values = initializer(SHAPE, np.float64)
    assert abs(values.mean() - mean) < 0.01 * std
    assert abs(values.std() / std - 1) < 0.01
    assert bound[0] <= values.min() < values.max() <= bound[1]


def normal_cdf(x):
    return np.array([(1 + math.erf(value / math.sqrt(2))) / 2 for value in x])


def cut_normal_cdf(x):
    tail = (1 - math.erf(math.sqrt(2))) / 2
    return (normal_cdf(x) - tail) / (1 - 2 * tail)


@pytest.mark.parametrize(
    ("initializer", "cdf"),
    [
        (Uniform(-2, 4), lambda x: (x + 2) / 6),
        (Normal(3, 0.5), lambda x: normal_cdf((x - 3) / 0.5)),
        (TruncatedNormal(1, 3), lambda x: cut_normal_cdf((x - 1) / 3)),
        (GlorotUniform(), lambda x: (x / math.sqrt(6 / 300) + 1) / 2),
        (HeUniform(), lambda x: (x / math.sqrt(6 / 100) + 1) / 2),
        (GlorotNormal(), lambda x: cut_normal_cdf(x / math.sqrt(2 / 300) * 0.87962566)),
        (HeNormal(), lambda x: cut_normal_cdf(x / math.sqrt(2 / 100) * 0.87962566)),
        # The entries of a uniform orthogonal matrix are normal when it is large.
        (Orthogonal(), lambda x: normal_cdf(x * math.sqrt(200))),
    ],
    ids=repr,
)
def test_the_distribution_is_the_one_that_it_is_called(initializer, cdf):
    values = np.sort(initializer((100, 200), np.float64).ravel())
    steps = np.arange(values.size + 1) / values.size
    expected = cdf(values)
    distance = max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))
    # Kolmogorov and Smirnov: P(sqrt(n) distance > 1.95) = 0.001; the seed is fixed.
    assert distance * math.sqrt(values.size) < 1.95


@pytest.mark.parametrize("initializer", RANDOM, ids=lambda i: type(i).__name__)
def test_variables_are_independent_of_each_other(initializer):
    first, second = (
        initializer((100, 100), np.float64, generator=generator_of(0, name)).ravel() for name in ("w", "v")
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04  # four standard deviations
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.04


def test_the_window_of_a_convolution_counts():
    convolution = HeNormal()((3, 3, 64, 128), np.float64)
    assert abs(convolution.std() / math.sqrt(2 / (9 * 64)) - 1) < 0.01
    caffe2 = GlorotUniform(in_axis=1, out_axis=0)((128, 64, 3, 3), np.float64)
    assert abs(caffe2.std() / math.sqrt(2 / (9 * 192)) - 1) < 0.01


@pytest.mark.parametrize(("in_axis", "out_axis"), [(2, 0), (0, 0), (-1, 1), (0, -3)])
def test_inputs_and_outputs_are_two_axes_of_the_variable(in_axis, out_axis):
    with pytest.raises(BindingError, match=r"the variable has shape \(4, 4\); give two axes"):
        GlorotUniform(in_axis=in_axis, out_axis=out_axis)((4, 4))


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (3, 4, 5), (2, 2, 9)])
def test_orthogonal_rows_or_columns(shape):
    matrix = Orthogonal(gain=2.0)(shape, np.float64).reshape(-1, shape[-1]) / 2
    rows, columns = matrix.shape
    product = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-14)


def test_orthogonal_matrices_are_uniform():
    # Without the correction of signs the first entry of Q is never positive with LAPACK's Householder QR.
    first = [Orthogonal(seed=seed)((2, 2))[0, 0] for seed in range(200)]
    assert 70 < sum(value > 0 for value in first) < 130


@pytest.mark.parametrize("shape", [(), (4,)])
def test_orthogonal_needs_a_matrix(shape):
    with pytest.raises(BindingError, match="expected two axes or more"):
        Orthogonal()(shape)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_seed_is_an_integer_from_0_up(seed):
    with pytest.raises(BindingError, match="the seed of Normal is an int from 0 up, got"):
        Normal(seed=seed)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UnknownTypeError):
        Zeros()((2,), "float31")


def test_the_values_of_a_variable_do_not_change_with_releases():
    # Stored models are continued: a change of the key or the drawing is a change of results. NumPy keeps
    # these streams within a release (NEP 19); update the numbers if it has changed one.
    values = Normal()((3,), np.float64, generator=generator_of(0, "encoder/w"))
    expected = [-1.2484109275014126, -0.22448781941729215, 1.0840580422533106]
    np.testing.assert_allclose(values, expected, rtol=1e-15)
