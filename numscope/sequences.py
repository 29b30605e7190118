"""A recurrent net over sequences of different lengths: images read row by row, cut at random lengths.

The cell runs in a `While`, as many rounds as the longest sequence of the micro-batch has rows. Its gradients
come from `numscope.operators.gradient`: those of the weights are summed over the rounds in the loop, and over
the micro-batches by the accumulator. How much memory that takes shows when it runs: the longest sequences
are run once in an arena of the host, and the real arena is made as large as that one's peak.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from numscope.arena import Arena
from numscope.datasets import Dataset
from numscope.device import host_memory
from numscope.errors import AccumulationError, ArenaExhausted, BindingError
from numscope.gradients import GradientAccumulator
from numscope.initializers import GlorotUniform, Orthogonal, Zeros, generator_of
from numscope.interop.torch_reference import recurrent_gradients
from numscope.operators import Net, gradient
from numscope.operators.tensors import array_module
from numscope.optimizers import OPTIMIZERS, Optimizer
from numscope.recurrent import recurrent_net
from numscope.results import Report, Step, Tally
from numscope.stopwatch import Stopwatch
from numscope.training import Settings, check_fits, choose_device, relative_difference
from numscope.workspace import Workspace

if TYPE_CHECKING:
    import os

__all__ = ["SequenceTraining"]

REHEARSAL_CAPACITY = 1 << 26  # bytes, to begin with; on the host they cost nothing until they are touched
EARLY_CHECKS = 3  # steps whose gradient is compared with that of one batch; the last one is, too


class _Program:
    """The net, its backward net, and what they are fed with.

    Attributes
    ----------
    layout : dict of str to (shape, dtype)
        The parameters.
    gradient_names : dict of str to str
        Parameter -> the blob with its gradient.
    """

    def __init__(self, side: int, hidden: int, classes: int, dtype: str = "float32") -> None:
        self._net: Net
        self._net, self.layout = recurrent_net(side, hidden, classes, dtype)
        self._backward, names = gradient(self._net, ["loss"])
        self.gradient_names = {name: names[name] for name in self.layout}
        self._side, self._hidden, self._dtype = side, hidden, dtype

    def feed(
        self, ws: Workspace, features: NDArray[Any], labels: NDArray[Any], lengths: NDArray[np.int64]
    ) -> None:
        """Write sequences to a workspace: images row by row, of which only so many rows count."""
        xp, count = array_module(ws.device), len(labels)
        images = features.reshape(count, self._side, self._side).swapaxes(0, 1)
        # As long as the longest sequence can be: a tensor of another shape would be other memory.
        ws["rows"] = xp.asarray(np.ascontiguousarray(images, self._dtype))
        alive = np.arange(self._side)[:, None] < lengths[None, :]
        ws["alive"] = xp.asarray(alive[:, :, None].astype(self._dtype))
        ws["labels"] = xp.asarray(labels)
        ws["steps"] = xp.asarray(lengths.max(), np.int64)
        ws.zeros("start", (count, self._hidden), self._dtype)

    def forward(self, ws: Workspace) -> None:
        """Run the net on what was fed."""
        ws.run(self._net)

    def gradients(self, ws: Workspace) -> dict[str, Any]:
        """Run the net and the backward net on what was fed; return the parameters' gradients."""
        ws.run(self._net)
        ws.run(self._backward)
        return {name: ws[made] for name, made in self.gradient_names.items()}


class _Memory:
    """All memory of a run. The same calls take the same, on any arena.

    Attributes
    ----------
    model : Workspace
        The parameters.
    micro, whole : Workspace
        Children that see them: for a micro-batch, and for all examples of a step as one batch. What the
        nets make stays there, for the next one.
    """

    def __init__(
        self, arena: Arena, program: _Program, settings: Settings, side: int, rows: int, batch: int
    ) -> None:
        self.model = Workspace(arena=arena, name="model")
        self.model.allocate(program.layout)
        self.model.zero()
        self.optimizer: Optimizer = OPTIMIZERS[settings.optimizer](
            Workspace(arena=arena, name="optimizer"), program.layout, settings.rate
        )
        self.gradients = GradientAccumulator(program.layout, arena=arena)
        self.micro = Workspace(self.model, name="micro-batch")
        self.whole = Workspace(self.model, name="one batch")
        for ws, count in ((self.micro, rows), (self.whole, batch)):
            blank = np.zeros((count, side * side), np.float32)
            for _ in range(2):  # from the second run on, frames have their memory in one piece
                program.feed(ws, blank, np.zeros(count, np.int64), np.full(count, side))
                program.gradients(ws)


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

    # A pass over 32, 64 or 128 sequences takes 3.2, 4.7 or 6.6 ms: half of it is Python's, however many.
    # Over 53 epochs, steps of 128 and of 256 examples reach an accuracy of 0.942 and 0.928 (4 seeds).
    defaults: ClassVar[Settings] = Settings(micro_batch=64, accumulate=2, steps=600)

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
        self._side = _side(dataset)
        widths = (self._side, settings.hidden[0], len(dataset.classes))
        self.description = f"Elman net {'-'.join(map(str, widths))} in a While"
        examples = len(dataset.train_features)
        self._rows = min(settings.micro_batch, examples)
        self._batch = self._rows * min(settings.accumulate, examples // self._rows)
        self._program = _Program(*widths)
        self._planned_peak = self._rehearse()
        check_fits(self._planned_peak, self.device)
        self.arena = Arena(self._planned_peak, device=self.device)
        self._memory = self._take_memory(self.arena)
        for name, (shape, dtype) in self._program.layout.items():
            initializer = {"w_state": Orthogonal, "b_in": Zeros, "b_out": Zeros}.get(name, GlorotUniform)()
            values = initializer(shape, dtype, generator=generator_of(settings.seed, name))
            self._memory.model.feed(name, values)
        self._rng = np.random.default_rng(settings.seed)
        self._lengths = np.zeros(examples, np.int64)  # drawn at the begin of each epoch
        self._test_lengths = self._draw_lengths(len(dataset.test_features))
        self._differences = dict.fromkeys(self._program.layout, 0.0)
        self._torch_differences: dict[str, dict[str, float]] = {}
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
        accuracy = self._accuracy()
        return self._tally.report(
            self.arena.stats(),
            accuracy=accuracy,
            examples_in_epoch=len(self.dataset.train_features),
            differences=self._differences,
            torch_differences=self._torch_differences,
            checked_steps=self._checked,
            planned_peak=self._planned_peak,
            preparation=self._preparation,
            checks=self._checking.seconds,
            times_products=False,  # they are operators like others here
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a safetensors file, which is whole or absent afterwards."""
        self._memory.model.save(path, names=self._program.layout)

    # Inside

    def _rehearse(self) -> int:
        """Return the bytes that the run takes at most: those of sequences that are all of full length."""
        capacity, most = REHEARSAL_CAPACITY, host_memory() or math.inf
        while True:
            arena = Arena(int(min(capacity, most)))
            try:
                self._take_memory(arena)
            except ArenaExhausted as error:
                needed = max(error.capacity - error.available + error.requested, error.capacity + 1)
                check_fits(needed, "cpu")  # where the rehearsal is, whatever the run's device
                capacity *= 4
            else:
                return arena.peak

    def _take_memory(self, arena: Arena) -> _Memory:
        return _Memory(arena, self._program, self.settings, self._side, self._rows, self._batch)

    def _draw_lengths(self, count: int) -> NDArray[np.int64]:
        """Return at how many rows each sequence is cut: more than half of them, up to all."""
        return self._rng.integers(self._side // 2 + 1, self._side + 1, count)

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the examples of each step: whole micro-batches only, ordered and cut anew in each epoch."""
        examples, batch = len(self.dataset.train_features), self._batch
        while True:
            order = self._rng.permutation(examples)
            self._lengths = self._draw_lengths(examples)
            yield from (order[first : first + batch] for first in range(0, examples - batch + 1, batch))

    def _step(self, number: int, chosen: NDArray[np.int64]) -> Step:
        start, kernels = time.perf_counter(), self._kernel_seconds()
        memory = self._memory
        memory.gradients.reset()
        loss = 0.0
        for rows in chosen.reshape(-1, self._rows):
            gradients = self._pass(memory.micro, rows)
            loss += float(memory.micro["loss"]) * len(rows)
            with self._adding:
                memory.gradients.add(gradients, weight=len(rows))
        with self._adding:
            stats = memory.gradients.finish(max_norm=self.settings.max_norm)
        if stats.nonfinite:
            raise AccumulationError(
                f"step {number}: {stats.nonfinite} elements of the gradient are NaN or infinite, expected "
                f"finite ones: the training diverged; lower --lr, now {self.settings.rate:g}"
            )
        checked = self._checking.seconds
        if number <= EARLY_CHECKS or number == self.settings.steps:
            with self._checking:
                self._check(chosen, stats.clip_coefficient)
                if number == 1:
                    self._torch_differences = self._compare_with_torch(chosen[: self._rows])
            self._checked.append(number)
        memory.optimizer.step(array_module(self.device), memory.model, memory.gradients)
        return Step(
            number,
            loss / len(chosen),
            len(chosen),
            len(chosen) // self._rows,
            stats.norm,
            time.perf_counter() - start - (self._checking.seconds - checked),
            kernels=self._kernel_seconds() - kernels,
            products=0.0,
        )

    def _pass(self, ws: Workspace, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """Run forward and backward over sequences; return the gradients of their mean loss."""
        self._feed(self._program, ws, chosen)
        return self._program.gradients(ws)

    def _feed(self, program: _Program, ws: Workspace, chosen: NDArray[np.int64]) -> None:
        data = self.dataset
        program.feed(ws, data.train_features[chosen], data.train_labels[chosen], self._lengths[chosen])

    def _check(self, chosen: NDArray[np.int64], coefficient: float) -> None:
        """Compare the accumulated gradient with that of the same sequences as one batch."""
        for name, whole in self._pass(self._memory.whole, chosen).items():
            relative = relative_difference(
                array_module(self.device), self._memory.gradients[name], whole, coefficient
            )
            self._differences[name] = max(self._differences[name], relative)

    def _compare_with_torch(self, chosen: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        """Return dtype -> parameter -> relative difference from PyTorch's gradient; {} without PyTorch."""
        found: dict[str, dict[str, float]] = {}
        for dtype in ("float32", "float64"):
            program = _Program(self._side, self.settings.hidden[0], len(self.dataset.classes), dtype)
            ws = Workspace(arena=Arena(2 * self._planned_peak, device=self.device))  # 2: float64
            for name in program.layout:
                ws[name] = self._memory.model[name].astype(dtype)
            self._feed(program, ws, chosen)
            program.gradients(ws)
            inputs = {name: ws.fetch(name) for name in ("rows", "alive", "labels", "steps", "start")}
            try:
                theirs = recurrent_gradients({name: ws.fetch(name) for name in program.layout}, inputs)
            except ImportError:
                return {}
            found[dtype] = {
                name: relative_difference(np, ws.fetch(made), theirs[name], 1.0)
                for name, made in program.gradient_names.items()
            }
        return found

    def _accuracy(self) -> float:
        """Return the share of the test sequences whose class is the one of the highest score."""
        data, batch, right = self.dataset, self._batch, 0
        for first in range(0, len(data.test_labels), batch):
            # The last batch is filled up: one of another shape would be other memory.
            chosen = np.arange(first, first + batch).clip(max=len(data.test_labels) - 1)
            labels = data.test_labels[chosen]
            self._program.feed(
                self._memory.whole, data.test_features[chosen], labels, self._test_lengths[chosen]
            )
            self._program.forward(self._memory.whole)
            hits = self._memory.whole.fetch("scores").argmax(axis=1) == labels
            right += int(hits[: len(data.test_labels) - first].sum())
        return right / len(data.test_labels)

    def _kernel_seconds(self) -> float:
        return self._adding.seconds + self._memory.optimizer.kernels.seconds


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
