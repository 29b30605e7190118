"""The main job: train a classifier, its gradients accumulated over micro-batches in arena scopes.

The parameters lie in one workspace. Each micro-batch gets a frame on a `WorkspaceStack` that sees them and
holds its activations and gradients; these go into the accumulator, and the next micro-batch takes the same
frame again. All memory is planned before it is taken: the same calls are made on an arena without memory,
and the real arena is made as large as that one's peak.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from numscope.arena import Arena
from numscope.datasets import Dataset
from numscope.device import host_memory, resolve_device
from numscope.errors import AccumulationError, ArenaExhausted, DeviceUnavailableError
from numscope.gradients import GradientAccumulator
from numscope.operators.tensors import array_module
from numscope.optimizers import OPTIMIZERS, Optimizer
from numscope.perceptron import Perceptron
from numscope.results import Report, Step, Tally
from numscope.sizes import format_size
from numscope.stack import Frame, WorkspaceStack
from numscope.stopwatch import Stopwatch
from numscope.workspace import Workspace

if TYPE_CHECKING:
    import os

__all__ = ["Settings", "Training", "check_fits", "choose_device", "relative_difference"]

PLAN_CAPACITY = 1 << 60  # bytes; an arena without memory may be of any size
SPREAD_CHECKS = 5  # steps over the run whose gradient is compared with that of one batch


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be chosen of a run.

    Attributes
    ----------
    device : str
        ``"auto"``: a GPU if there is one, else the host.
    micro_batch : int
        Examples in a micro-batch.
    accumulate : int
        Micro-batches in a step.
    steps : int
    lr : float or None
        The learning rate; None: the optimizer's own.
    hidden : tuple of int
        Widths of the hidden layers.
    optimizer : str
        One of `OPTIMIZERS`.
    dtype : str
        Of the gradients of a micro-batch, ``"float32"`` or ``"bfloat16"``; they are summed in float32.
    max_norm : float
        Gradients are clipped to this L2 norm.
    seed : int
        Of the first weights, the test examples and the order of the others.
    """

    device: str = "auto"
    micro_batch: int = 32
    accumulate: int = 8
    steps: int = 300
    lr: float | None = None
    hidden: tuple[int, ...] = (128,)
    optimizer: str = "sgd"
    dtype: str = "float32"
    max_norm: float = 1.0
    seed: int = 0

    @property
    def rate(self) -> float:
        """The learning rate, chosen or the optimizer's own."""
        return OPTIMIZERS[self.optimizer].default_lr if self.lr is None else self.lr


class _Memory:
    """All memory of a run: made by the same calls on an arena without memory and on a real one.

    Attributes
    ----------
    data, model : Workspace
        The examples; the parameters and what else the frames see.
    optimizer : Optimizer
    gradients : GradientAccumulator
    frames, whole : WorkspaceStack
        The frames of micro-batches, and of all examples of a step as one batch.
    """

    EXAMPLES = ("train_features", "train_labels", "test_features", "test_labels")

    def __init__(
        self,
        arena: Arena,
        dataset: Dataset,
        settings: Settings,
        model: Perceptron,
        one_batch: Perceptron,
    ) -> None:
        self.data = Workspace(arena=arena, name="data")
        layout = {name: getattr(dataset, name) for name in self.EXAMPLES}
        self.data.allocate(
            {
                **{n: (a.shape if a.ndim == 2 else (*a.shape, 1), a.dtype) for n, a in layout.items()},
                "order": ((len(dataset.train_features),), "int64"),
            }
        )
        self.model = Workspace(arena=arena, name="model")
        self.model.allocate(model.shared)
        self.optimizer: Optimizer = OPTIMIZERS[settings.optimizer](
            Workspace(arena=arena, name="optimizer"), model.parameters, settings.rate
        )
        self.gradients = GradientAccumulator(model.parameters, arena=arena)
        self._bindings = {name: name for name in model.shared}
        self.frames, self.whole = WorkspaceStack(), WorkspaceStack()
        for stack, perceptron in ((self.frames, model), (self.whole, one_batch)):
            perceptron.create(self.push(stack))
            stack.clear()

    def push(self, stack: WorkspaceStack) -> Frame:
        """Push a frame that sees the parameters. It has its blobs already, but for the first time."""
        return stack.push_forward_workspace(self.model, self._bindings)


class Training:
    """A run, which is driven step by step and can be asked for its report at any time.

    Parameters
    ----------
    dataset : Dataset
    settings : Settings

    Attributes
    ----------
    dataset, settings
        As given.
    device : str
        Name of the device that was chosen.
    description : str
        Names the model, for people.
    arena : Arena
    defaults : Settings
        Of the class: what this task is run with if nothing else is said.

    Raises
    ------
    ArenaExhausted
        The system lacks the memory.
    DeviceUnavailableError
        There is no such device.

    Examples
    --------
    >>> from numscope import datasets
    >>> training = Training(datasets.digits(), Settings(steps=2))
    >>> for step in training.steps():
    ...     assert step.loss > 0
    >>> training.report().segments_taken
    0
    """

    defaults: ClassVar[Settings] = Settings()

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        start = time.perf_counter()
        self.dataset = dataset
        self.settings = settings
        self.device = choose_device(settings.device)
        self._xp = array_module(self.device)
        widths = (dataset.train_features.shape[1], *settings.hidden, len(dataset.classes))
        self.description = f"perceptron {'-'.join(map(str, widths))}"
        examples = len(dataset.train_features)
        micro_batch = min(settings.micro_batch, examples)
        self._batch = min(settings.micro_batch * settings.accumulate, examples)
        self._model = Perceptron(widths, micro_batch, settings.dtype)
        self._one_batch = Perceptron(widths, self._batch)
        with Arena(PLAN_CAPACITY, device="null") as plan:
            _Memory(plan, dataset, settings, self._model, self._one_batch)
            self._planned_peak = plan.peak
        check_fits(self._planned_peak, self.device)
        self.arena = Arena(self._planned_peak, device=self.device)
        self._memory = _Memory(self.arena, dataset, settings, self._model, self._one_batch)
        self._fill()
        self._rng = np.random.default_rng(settings.seed)
        self._checks = _checked_steps(settings.steps, -(-examples // self._batch))
        self._differences = dict.fromkeys(self._model.parameters, 0.0)
        self._checked: list[int] = []
        self._tally = Tally()
        self._adding = Stopwatch()
        self._checking = Stopwatch()
        self._preparation = time.perf_counter() - start

    def steps(self) -> Iterator[Step]:
        """Train, and yield after each step. Stopping here leaves the parameters of a whole step."""
        for number, first in zip(range(1, self.settings.steps + 1), self._beginnings(), strict=False):
            with _quiet():
                step = self._step(number, first)
            self._tally.add(step, self.arena.stats())
            yield step

    def report(self) -> Report:
        """Measure the accuracy on the test examples, and return it with what happened so far."""
        with _quiet():
            accuracy = self._accuracy()
        return self._tally.report(
            self.arena.stats(),
            accuracy=accuracy,
            examples_in_epoch=len(self.dataset.train_features),
            differences=self._differences,
            checked_steps=self._checked,
            planned_peak=self._planned_peak,
            preparation=self._preparation,
            checks=self._checking.seconds,
            times_products=True,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a safetensors file, which is whole or absent afterwards."""
        self._memory.model.save(path, names=self._model.parameters)

    # Inside

    def _fill(self) -> None:
        """Copy the examples into the arena, and choose the first parameters."""
        for name in _Memory.EXAMPLES:
            values = getattr(self.dataset, name)
            self._memory.data.feed(name, values[:, None] if values.ndim == 1 else values)
        self._model.initialise(self._memory.model, self.settings.seed)

    def _beginnings(self) -> Iterator[int]:
        """Yield where each step begins in the order of the examples, which is a new one in each epoch."""
        examples = len(self.dataset.train_features)
        while True:
            self._memory.data.feed("order", self._rng.permutation(examples))
            yield from range(0, examples, self._batch)

    def _step(self, number: int, first: int) -> Step:
        start, kernels, products = time.perf_counter(), *self._shares()
        memory, examples = self._memory, min(self._batch, len(self.dataset.train_features) - first)
        loss = memory.model["loss"]
        loss.fill(0)
        memory.gradients.reset()
        micro_batches = 0
        for offset in range(0, examples, self._model.rows):
            rows = min(self._model.rows, examples - offset)
            gradients = self._pass(self._model, memory.frames, first + offset, rows)
            with self._adding:
                memory.gradients.add(gradients, weight=rows)
            micro_batches += 1
        with self._adding:
            stats = memory.gradients.finish(max_norm=self.settings.max_norm)
        mean_loss = float(loss[0]) / examples
        if stats.nonfinite:
            raise AccumulationError(
                f"step {number}: {stats.nonfinite} elements of the gradient are NaN or infinite (the loss is "
                f"{mean_loss}), expected finite ones: the training diverged; lower --lr, now "
                f"{self.settings.rate:g}"
            )
        checked = self._checking.seconds
        if number in self._checks:
            with self._checking:
                self._check(first, examples, stats.clip_coefficient)
            self._checked.append(number)
        memory.optimizer.step(self._xp, memory.model, memory.gradients)
        seconds = time.perf_counter() - start - (self._checking.seconds - checked)
        kernels, products = (
            now - then for now, then in zip(self._shares(), (kernels, products), strict=True)
        )
        return Step(number, mean_loss, examples, micro_batches, stats.norm, seconds, kernels, products)

    def _pass(self, model: Perceptron, stack: WorkspaceStack, first: int, rows: int) -> dict[str, Any]:
        """Run forward and backward over examples, in a frame of their own; return the gradients there."""
        memory, xp = self._memory, self._xp
        frame = memory.push(stack)
        chosen = memory.data["order"][first : first + rows]
        xp.take(memory.data["train_features"], chosen, axis=0, out=frame["h0"][:rows])
        xp.take(memory.data["train_labels"], chosen, axis=0, out=frame["labels"][:rows])
        model.forward(xp, frame, rows)
        stack.pop_gradient_workspace(memory.model)
        return model.backward(xp, frame, rows)

    def _check(self, first: int, examples: int, coefficient: float) -> None:
        """Compare the accumulated gradient with that of the same examples as one batch."""
        whole = self._pass(self._one_batch, self._memory.whole, first, examples)
        for name, gradient in whole.items():
            relative = relative_difference(self._xp, self._memory.gradients[name], gradient, coefficient)
            self._differences[name] = max(self._differences[name], relative)

    def _accuracy(self) -> float:
        """Return the share of the test examples whose class is the one of the highest score."""
        memory, xp = self._memory, self._xp
        features, labels = memory.data["test_features"], memory.data["test_labels"]
        right = 0
        for first in range(0, len(features), self._batch):
            rows = min(self._batch, len(features) - first)
            frame = memory.push(memory.whole)
            frame["h0"][:rows] = features[first : first + rows]
            scores = self._one_batch.forward(xp, frame, rows)
            right += int((xp.argmax(scores, axis=1) == labels[first : first + rows, 0]).sum())
            memory.whole.pop_gradient_workspace(memory.model)
        return right / len(features)

    def _shares(self) -> tuple[float, float]:
        """Return the seconds in kernels and in matrix products so far."""
        kernels = self._adding.seconds + self._memory.optimizer.kernels.seconds + self._model.kernels.seconds
        return kernels, self._model.products.seconds


def _quiet() -> Any:
    """Let values overflow without a warning: whether they are finite is checked once a step."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def relative_difference(xp: Any, values: Any, expected: Any, factor: float) -> float:
    """Return ``|values - factor * expected| / |factor * expected|``, L2 norms in float64; inf for NaN."""
    exact = expected.astype(np.float64) * factor
    size, difference = (float(xp.linalg.norm(a)) for a in (exact, values - exact))
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    # A NaN (one batch overflowed) would be lost in a maximum.
    return math.inf if math.isnan(difference / size) else difference / size


def choose_device(device: str) -> str:
    """Return the name of a device; ``"auto"`` is a GPU if there is one, else the host.

    Raises
    ------
    DeviceUnavailableError
        There is no such device.
    """
    if device != "auto":
        return resolve_device(device).name
    try:
        return resolve_device("cuda").name
    except DeviceUnavailableError:
        return "cpu"


def check_fits(nbytes: int, device: str) -> None:
    """Raise an ArenaExhausted if a plan is for more memory than the host has.

    An arena of the host costs nothing before it is touched, so that it can be made at any size: the system
    would kill the process half-way. A card refuses by itself.
    """
    memory = host_memory()
    if device == "cpu" and memory is not None and nbytes > memory:
        raise ArenaExhausted(
            f"this run needs {format_size(nbytes)} of memory or more, the machine has "
            f"{format_size(memory)}: choose narrower hidden layers, or smaller micro-batches",
            requested=nbytes,
            available=memory,
            capacity=memory,
        )


def _checked_steps(steps: int, steps_in_epoch: int) -> frozenset[int]:
    """Choose steps to check: some over the run, and the one with the smaller last micro-batch.

    A run may be interrupted: the first few are early.
    """
    spread = {1 + (steps - 1) * i // (SPREAD_CHECKS - 1) for i in range(SPREAD_CHECKS)}
    return frozenset(n for n in spread | {1, 2, 3, steps_in_epoch} if n <= steps)
