"""Operators in one line, and nets of loops with a counter, as several test files write them."""

import numpy as np

from numscope.operators import Net, Operator, While


def op(kind, read="", made="", **args):
    return Operator(kind, read.split(), made.split(), **args)


COUNT = [op("Add", "i one", "i"), op("LT", "i n", "go")]
MULTIPLY = [op("Mul", "x w", "t"), op("Tanh", "t", "x")]


def counter(rounds):
    """What `COUNT` reads: i runs from 0 to `rounds`."""
    return {"i": np.int64(0), "one": np.int64(1), "n": np.int64(rounds), "go": np.array(rounds > 0)}


def count(ws, rounds, **more):
    """Feed a workspace the counter, and more."""
    ws.update(counter(rounds) | more)


def loop(body, **arguments):
    """The operators of a loop that runs as often as its counter says."""
    return While("go", Net("b", [*body, *COUNT]), **arguments)
