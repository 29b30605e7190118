"""Micro-batches of gradients, and slowly what they add up to."""

import math

import numpy as np

SHAPES = {"w": (4, 10), "b": (10,), "none": (0, 3), "one": ()}


def gradients(seed, dtype="float32", shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def weighted_mean(batches, weights):
    total = math.fsum(weights)
    return {
        name: sum(w * b[name].astype(np.float64) for b, w in zip(batches, weights, strict=True)) / total
        for name in batches[0]
    }


def norm_of(arrays):
    return math.sqrt(math.fsum(float(np.sum(np.square(a.astype(np.float64)))) for a in arrays.values()))


def bits(acc):
    """Every bit of the sums, to compare."""
    return {name: acc[name].tobytes() for name in acc}
