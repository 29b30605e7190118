"""The shapes of the three sets of tensors that are timed."""

from __future__ import annotations

import random
from collections.abc import Callable

Shape = tuple[int, ...]

__all__ = ["SETS", "Shape"]


def small_blobs() -> list[Shape]:
    """Return 1,000 vectors of 1 to 4,096 elements: what scopes hold; 2.0 million elements, within a cache."""
    draw = random.Random(7)
    return [(draw.randint(1, 4096),) for _ in range(1000)]


def resnet50() -> list[Shape]:
    """Return the 161 parameters of ResNet-50 (He and others, 2015), 25.6 million elements."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, into, kernel in ((planes, channels, 1), (planes, planes, 3), (4 * planes, planes, 1)):
                shapes += [(out, into, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * planes, channels, 1, 1), (4 * planes,), (4 * planes,)]
            channels = 4 * planes
    return [*shapes, (1000, 2048), (1000,)]


def gpt2_small() -> list[Shape]:
    """Return the 148 parameters of GPT-2 small (Radford and others, 2019), 124.4 million elements."""
    d = 768
    shapes: list[Shape] = [(50257, d), (1024, d)]
    for _ in range(12):
        shapes += [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,)]
        shapes += [(4 * d, d), (d,)]
    return [*shapes, (d,), (d,)]


SETS: dict[str, Callable[[], list[Shape]]] = {
    "small": small_blobs,
    "resnet50": resnet50,
    "gpt2": gpt2_small,
}
