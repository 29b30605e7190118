"""A recurrent net over sequences of different lengths: images read row by row, cut at random lengths.

The cell runs in a `While`, as many rounds as the longest sequence of the micro-batch has rows. Its gradients
come from `numscope.operators.gradient`: those of the weights are summed over the rounds in the loop, and over
the micro-batches by the accumulator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from numscope.arena import Arena
from numscope.datasets import Dataset
from numscope.errors import AccumulationError, BindingError
from numscope.gradients import GradientAccumulator
from numscope.initializers import GlorotUniform, Orthogonal, Zeros, generator_of
from numscope.operators import Net, Operator, While, gradient
from numscope.operators.tensors import array_module
from numscope.optimizers import OPTIMIZERS, Optimizer
from numscope.results import Report, Step, Tally
from numscope.stopwatch import Stopwatch
from numscope.training import Settings, choose_device, relative_difference
from numscope.workspace import Workspace

if TYPE_CHECKING:
    import os

__all__ = ["SequenceTraining", "recurrent_net"]

Layout = dict[str, tuple[tuple[int, ...], str]]

CAPACITY = 1 << 30  # bytes; on the host they cost nothing until they are touched
EARLY_CHECKS = 3  # steps whose gradient is compared with that of one batch; the last one is, too


def recurrent_net(features: int, hidden: int, classes: int, dtype: str = "float32") -> tuple[Net, Layout]:
    """Return an Elman net that reads rows and classifies their sequence, and its parameters.

    Its inputs are ``rows`` (steps, sequences, features), ``alive`` (steps, sequences, 1), which is 1 where
    a sequence has a row and 0 behind its end, ``steps`` (int64, no dimensions) and ``labels`` (sequences,).
    Behind the end of a sequence its state stays as it is. The net makes ``scores``, ``probabilities`` and
    ``loss``.

    Parameters
    ----------
    features : int
        Width of a row.
    hidden : int
        Width of the state.
    classes : int
    dtype : str, default "float32"

    Returns
    -------
    net : Net
    parameters : dict of str to (shape, dtype)
        ``w_in``, ``b_in``, ``w_state``, ``w_out``, ``b_out``.
    """
    parameters: Layout = {
        "w_in": ((hidden, features), dtype),
        "b_in": ((hidden,), dtype),
        "w_state": ((hidden, hidden), dtype),
        "w_out": ((classes, hidden), dtype),
        "b_out": ((classes,), dtype),
    }
    cell = Net(
        "cell",
        [
            Operator("Gather", ["rows", "t"], ["data_row"]),
            Operator("Gather", ["alive", "t"], ["data_mask"]),
            # No gradient of the data is wanted; without these two it would be summed round by round.
            Operator("StopGradient", ["data_row"], ["row"]),
            Operator("StopGradient", ["data_mask"], ["mask"]),
            Operator("FC", ["row", "w_in", "b_in"], ["from_row"]),
            Operator("MatMul", ["state", "w_state"], ["from_state"]),
            Operator("Sum", ["from_row", "from_state"], ["sum"]),
            Operator("Tanh", ["sum"], ["candidate"]),
            Operator("Sub", ["candidate", "state"], ["change"]),
            Operator("Mul", ["change", "mask"], ["masked_change"]),
            Operator("Sum", ["state", "masked_change"], ["state"]),
            Operator("Add", ["t", "one"], ["t"]),
            Operator("LT", ["t", "steps"], ["more"]),
        ],
    )
    net = Net(
        "recurrent",
        [
            Operator("GivenTensorInt64Fill", [], ["t"], shape=[], values=[0]),
            Operator("GivenTensorInt64Fill", [], ["one"], shape=[], values=[1]),
            Operator("LT", ["t", "steps"], ["more"]),
            Operator("Copy", ["start"], ["state"]),
            While("more", cell, retain=True),
            Operator("FC", ["state", "w_out", "b_out"], ["scores"]),
            Operator("SoftmaxWithLoss", ["scores", "labels"], ["probabilities", "loss"]),
        ],
    )
    return net, parameters


class SequenceTraining:
    """A run on sequences, which is driven and reported like `numscope.training.Training`.

    Parameters
    ----------
    dataset : Dataset
        Square images: the features of each example are the rows of one, from top to bottom.
    settings : Settings
        The first hidden width is that of the state.

    Raises
    ------
    BindingError
        The images are not square, or the settings ask for what this task does not have.
    DeviceUnavailableError
        There is no such device.
    """

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        start = time.perf_counter()
        if len(settings.hidden) != 1 or settings.dtype != "float32":
            raise BindingError(
                f"sequences are read by one hidden layer in float32, got widths {settings.hidden} and "
                f"dtype {settings.dtype}; pass one width, and leave dtype out"
            )
        self.dataset = dataset
        self.settings = settings
        self.device = choose_device(settings.device)
        self._xp = array_module(self.device)
        self._side = _side(dataset)
        self.description = f"Elman net {self._side}-{settings.hidden[0]}-{len(dataset.classes)} in a While"
        examples = len(dataset.train_features)
        self._rows = min(settings.micro_batch, examples)
        self._micro_batches = min(settings.accumulate, examples // self._rows)
        self._net, self._layout = recurrent_net(self._side, settings.hidden[0], len(dataset.classes))
        self._backward, names = gradient(self._net, ["loss"])
        self._names = {name: names[name] for name in self._layout}
        self.arena = Arena(CAPACITY, device=self.device)
        self._model = Workspace(arena=self.arena, name="model")
        for name, (shape, dtype) in self._layout.items():
            initializer = {"w_state": Orthogonal, "b_in": Zeros, "b_out": Zeros}.get(name, GlorotUniform)()
            values = initializer(shape, dtype, generator=generator_of(settings.seed, name))
            self._model.feed(name, values)
        self._optimizer: Optimizer = OPTIMIZERS[settings.optimizer](
            Workspace(arena=self.arena, name="optimizer"), self._layout, settings.rate
        )
        self._gradients = GradientAccumulator(self._layout, arena=self.arena)
        # Children see the parameters; what the nets make stays there, for the next micro-batch.
        self._micro = Workspace(self._model, name="micro-batch")
        self._whole = Workspace(self._model, name="one batch")
        self._rng = np.random.default_rng(settings.seed)
        self._lengths = np.zeros(examples, np.int64)  # drawn at the begin of each epoch
        self._test_lengths = self._draw_lengths(len(dataset.test_features))
        self._differences = dict.fromkeys(self._layout, 0.0)
        self._checked: list[int] = []
        self._tally = Tally()
        self._adding, self._checking = Stopwatch(), Stopwatch()
        self._preparation = time.perf_counter() - start

    def steps(self) -> Iterator[Step]:
        """Train, and yield after each step. Stopping here leaves the parameters of a whole step."""
        for number, chosen in zip(range(1, self.settings.steps + 1), self._batches(), strict=False):
            step = self._step(number, chosen)
            self._tally.add(step, self.arena.stats())
            yield step

    def report(self) -> Report:
        """Measure the accuracy on the test examples, and return it with what happened so far."""
        trained = self.arena.stats()  # before the test images take frames of their own
        accuracy = self._accuracy()
        return self._tally.report(
            trained,
            accuracy=accuracy,
            examples_in_epoch=len(self.dataset.train_features),
            differences=self._differences,
            checked_steps=self._checked,
            planned_peak=None,  # how many rounds a loop has is known when it ends
            preparation=self._preparation,
            checks=self._checking.seconds,
            times_products=False,  # they are operators like others here
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a safetensors file, which is whole or absent afterwards."""
        self._model.save(path, names=self._layout)

    # Inside

    def _draw_lengths(self, count: int) -> NDArray[np.int64]:
        """Return at how many rows each sequence is cut: more than half of them, up to all."""
        return self._rng.integers(self._side // 2 + 1, self._side + 1, count)

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the examples of each step: whole micro-batches only, ordered and cut anew in each epoch."""
        examples = len(self.dataset.train_features)
        batch = self._rows * self._micro_batches
        while True:
            order = self._rng.permutation(examples)
            self._lengths = self._draw_lengths(examples)
            yield from (order[first : first + batch] for first in range(0, examples - batch + 1, batch))

    def _step(self, number: int, chosen: NDArray[np.int64]) -> Step:
        start, kernels = time.perf_counter(), self._kernel_seconds()
        self._gradients.reset()
        loss = 0.0
        for rows in chosen.reshape(self._micro_batches, self._rows):
            gradients = self._pass(self._micro, rows)
            loss += float(self._micro["loss"]) * len(rows)
            with self._adding:
                self._gradients.add(gradients, weight=len(rows))
        with self._adding:
            stats = self._gradients.finish(max_norm=self.settings.max_norm)
        if stats.nonfinite:
            raise AccumulationError(
                f"step {number}: {stats.nonfinite} elements of the gradient are NaN or infinite, expected "
                f"finite ones: the training diverged; lower --lr, now {self.settings.rate:g}"
            )
        checked = self._checking.seconds
        if number <= EARLY_CHECKS or number == self.settings.steps:
            with self._checking:
                self._check(chosen, stats.clip_coefficient)
            self._checked.append(number)
        self._optimizer.step(self._xp, self._model, self._gradients)
        return Step(
            number,
            loss / len(chosen),
            len(chosen),
            self._micro_batches,
            stats.norm,
            time.perf_counter() - start - (self._checking.seconds - checked),
            kernels=self._kernel_seconds() - kernels,
            products=0.0,
        )

    def _pass(self, ws: Workspace, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """Run forward and backward over sequences; return the gradients of their mean loss."""
        features, labels = self.dataset.train_features[chosen], self.dataset.train_labels[chosen]
        self._feed(ws, features, labels, self._lengths[chosen])
        ws.run(self._net)
        ws.run(self._backward)
        return {name: ws[made] for name, made in self._names.items()}

    def _feed(
        self, ws: Workspace, features: NDArray[Any], labels: NDArray[Any], lengths: NDArray[Any]
    ) -> None:
        steps, count = int(lengths.max()), len(labels)
        images = features.reshape(count, self._side, self._side)
        # As long as the longest sequence can be: a tensor of another shape would be other memory.
        ws["rows"] = self._xp.asarray(np.ascontiguousarray(images.swapaxes(0, 1)))
        alive = np.arange(self._side)[:, None] < lengths[None, :]
        ws["alive"] = self._xp.asarray(alive[:, :, None].astype(np.float32))
        ws["labels"] = self._xp.asarray(labels)
        ws["steps"] = self._xp.asarray(steps, np.int64)
        ws.zeros("start", (count, self.settings.hidden[0]))

    def _check(self, chosen: NDArray[np.int64], coefficient: float) -> None:
        """Compare the accumulated gradient with that of the same sequences as one batch."""
        for name, whole in self._pass(self._whole, chosen).items():
            relative = relative_difference(self._xp, self._gradients[name], whole, coefficient)
            self._differences[name] = max(self._differences[name], relative)

    def _accuracy(self) -> float:
        """Return the share of the test sequences whose class is the one of the highest score."""
        labels = self.dataset.test_labels
        with self._model.scope("test") as ws:
            self._feed(ws, self.dataset.test_features, labels, self._test_lengths)
            ws.run(self._net)
            predictions = ws.fetch("scores").argmax(axis=1)
        return float((predictions == labels).mean())

    def _kernel_seconds(self) -> float:
        return self._adding.seconds + self._optimizer.kernels.seconds


def _side(dataset: Dataset) -> int:
    """Return the number of rows (and of columns) of the images."""
    features = dataset.train_features.shape[1]
    side = math.isqrt(features)
    if side * side != features or side < 2:
        raise BindingError(
            f"sequences are the rows of square images, {dataset.name!r} has {features} features an example; "
            "expected 4, 9, 16, ... of them"
        )
    return side
