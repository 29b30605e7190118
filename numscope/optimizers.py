"""Optimizers: from gradients that are final to the next parameters, in place.

Their state lies in a workspace of their own. On a device without memory it is planned only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from numscope import kernels
from numscope.stopwatch import Stopwatch
from numscope.workspace import Workspace

__all__ = ["OPTIMIZERS", "Adam", "Momentum", "Optimizer"]

Layout = Mapping[str, tuple[tuple[int, ...], str]]


class Optimizer(ABC):
    """What optimizers have in common.

    Parameters
    ----------
    workspace : Workspace
        Where the state goes. Nothing else may be in it.
    parameters : mapping of str to (shape, dtype)
        What is to be optimized.
    lr : float
        The learning rate.

    Attributes
    ----------
    default_lr : float
        A learning rate to begin with.
    kernels : Stopwatch
        The time in kernels.
    """

    default_lr: ClassVar[float]

    def __init__(self, workspace: Workspace, parameters: Layout, lr: float) -> None:
        self._lr = lr
        self._names = list(parameters)
        self._state = workspace
        self.kernels = Stopwatch()
        workspace.allocate(self._layout(parameters))
        workspace.zero()

    @abstractmethod
    def step(self, xp: Any, parameters: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Change parameters in place; `xp` is the array module (NumPy, CuPy) of all the arrays."""

    @abstractmethod
    def _layout(self, parameters: Layout) -> Layout:
        """Return the blobs of the state."""

    def _of(self, kind: str) -> list[Any]:
        return [self._state[f"{name}_{kind}"] for name in self._names]


class Momentum(Optimizer):
    """Gradient descent with heavy-ball momentum: ``v = momentum * v + g; p -= lr * v``.

    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """

    default_lr = 0.1
    momentum = 0.9

    def step(self, xp: Any, parameters: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Change parameters in place, in three kernel calls."""
        velocities = self._of("velocity")
        with self.kernels:
            kernels.scale(velocities, self.momentum)
            kernels.accumulate(velocities, [gradients[name] for name in self._names])
            kernels.accumulate([parameters[name] for name in self._names], velocities, alpha=-self._lr)

    def _layout(self, parameters: Layout) -> Layout:
        return {f"{name}_velocity": described for name, described in parameters.items()}


class Adam(Optimizer):
    """Adam: Kingma and Ba, https://arxiv.org/abs/1412.6980, algorithm 1, with its constants."""

    default_lr = 0.003
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, workspace: Workspace, parameters: Layout, lr: float) -> None:
        super().__init__(workspace, parameters, lr)
        self._steps = 0

    def step(self, xp: Any, parameters: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Change parameters in place."""
        self._steps += 1
        means, squares = self._of("mean"), self._of("square")
        slopes = [gradients[name] for name in self._names]
        with self.kernels:
            kernels.scale(means, self.beta1)
            kernels.accumulate(means, slopes, alpha=1 - self.beta1)
            kernels.scale(squares, self.beta2)
        rate = self._lr / (1 - self.beta1**self._steps)
        unbias = math.sqrt(1 - self.beta2**self._steps)
        for name, slope, mean, square in zip(self._names, slopes, means, squares, strict=True):
            scratch = self._state["scratch"][: slope.size].reshape(slope.shape)
            xp.multiply(slope, slope, out=scratch)
            scratch *= 1 - self.beta2
            square += scratch
            xp.sqrt(square, out=scratch)
            scratch /= unbias
            scratch += self.epsilon
            xp.divide(mean, scratch, out=scratch)
            scratch *= rate
            parameter = parameters[name]
            parameter -= scratch

    def _layout(self, parameters: Layout) -> Layout:
        longest = max((math.prod(shape) for shape, _ in parameters.values()), default=0)
        return {
            **{f"{name}_mean": described for name, described in parameters.items()},
            **{f"{name}_square": described for name, described in parameters.items()},
            "scratch": ((longest,), "float32"),
        }


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Momentum, "adam": Adam}
