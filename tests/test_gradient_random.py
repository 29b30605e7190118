"""Gradients of random programs of nested Do, If and While, against central differences."""

import random

import numpy as np
import pytest
from loop_nets import op
from reference_operators import check_gradients, differences, drawing, run_forward

from numscope.arena import Arena
from numscope.errors import OperatorError
from numscope.operators import Do, If, Net, Operator, While, gradient
from numscope.operators.effects import written_names

draw = drawing(19)


@pytest.fixture
def arena(device):
    with Arena("64 MiB", device=device) as arena:
        yield arena


class Writer:
    """Writes random nets of nested Do, If and While on six names."""

    names = "uvwxyz"

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.counter = 0

    def net(self, live, depth):
        """Write a net; `live` are the names that have a value."""
        self.counter += 1
        live, steps = set(live), []
        number = self.counter
        for _ in range(self.random.randint(1, 4)):
            nested = depth > 0 and self.random.random() < 0.35
            step = self.nested(live, depth) if nested else [self.plain(live)]
            made = written_names(Net("step", step))
            live |= made & set(self.names)
            steps += step
        return Net(f"net{number}", steps)

    def plain(self, live):
        source = sorted(live)
        a, b, made = self.random.choice(source), self.random.choice(source), self.random.choice(self.names)
        kind = self.random.choice(["Tanh", "Sigmoid", "Scale", "Neg", "Mul", "Add", "Sub", "Sum"])
        if kind in ("Tanh", "Sigmoid", "Scale", "Neg"):
            return Operator(kind, [a], [made])
        if kind == "Sum" and b == made:
            a, b = b, a
        return Operator("Add" if kind == "Sum" and b == made else kind, [a, b], [made])

    def nested(self, live, depth):
        body = self.net(live, depth - 1)
        kind = self.random.choice(["Do", "If", "While"])
        self.counter += 1
        number = self.counter
        if kind == "Do":
            return Do(body, outputs=self.some(body))
        if kind == "If":
            otherwise = self.net(live, depth - 1) if self.random.random() < 0.6 else None
            outputs = self.some(body) | (self.some(otherwise) if otherwise else set())
            return If(self.random.choice(["no", "yes"]), body, otherwise, outputs=outputs)
        i, go, n = f"i{number}", f"go{number}", self.random.choice(["zero", "one", "two", "three"])
        outputs = self.some(body)
        body.operators += [op("Add", f"{i} one", i), op("LT", f"{i} {n}", go)]
        begin = [op("ConstantFill", "", i, value=0), op("LT", f"{i} {n}", go)]
        return [*begin, *While(go, body, outputs=outputs)]

    def some(self, net):
        made = sorted(written_names(net) & set(self.names))
        return set(self.random.sample(made, self.random.randint(0, len(made))))


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(arena, seed):
    """Each is differentiated right or refused; 11,000 of them were, when this was written."""
    writer = Writer(seed)
    names = Writer.names
    start = [op("Copy", f"{name}0", name) for name in names]
    net = Net("n", [start, writer.net(set(names), 3).operators])
    feeds = {f"{name}0": draw(2) for name in names}
    feeds |= {"no": np.array(False), "yes": np.array(True)}
    feeds |= {name: np.int64(value) for value, name in enumerate(["zero", "one", "two", "three"])}
    run_forward(arena, net, feeds)
    results = sorted(written_names(net) & set(names))
    seeds = {name: draw(2) for name in results[::2]}
    try:
        _, gradients = gradient(net, list(seeds))
    except OperatorError:  # it needs a value that was written and overwritten inside of one net
        pytest.skip("refused")
    wrt = [name for name in feeds if name in gradients]
    check_gradients(arena, net, feeds, seeds, wrt, tolerance=1e-5)
    for name in names:
        if f"{name}0" not in wrt:
            assert not differences(arena, net, feeds, seeds, f"{name}0").any()
