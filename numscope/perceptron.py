"""A multi-layer perceptron in plain array code, over blobs that somebody else owns.

The same code runs on NumPy and CuPy arrays: it is given the array module. All results go into blobs
(``out=``), so that a step that was made once takes no memory any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numscope import kernels
from numscope.initializers import HeNormal, Zeros, generator_of
from numscope.stopwatch import Stopwatch
from numscope.workspace import Workspace

__all__ = ["Perceptron"]

Layout = dict[str, tuple[tuple[int, ...], str]]


class Perceptron:
    """Layers of ``relu(x @ w + b)``, the last without relu, with softmax and cross-entropy behind it.

    The parameters of layer i are the blobs ``w{i}`` (inputs, outputs) and ``b{i}`` (outputs,), its output is
    ``h{i}`` (``h0``: the features), all float32; a gradient has its blob's name and ``_grad``.

    Parameters
    ----------
    widths : sequence of int
        Features, the width of each hidden layer, classes.
    rows : int
        The most examples of a forward and backward pass.
    gradient_dtype : str, default "float32"
        In what the gradients of the parameters are handed over; they are computed in float32.

    Attributes
    ----------
    rows : int
    parameters : dict of str to (shape, dtype)
    shared : dict of str to (shape, dtype)
        The blobs that a frame has to see: the parameters, ``classes`` and ``loss``.
    products, kernels : Stopwatch
        The time in matrix products and in kernels.
    """

    def __init__(self, widths: Sequence[int], rows: int, gradient_dtype: str = "float32") -> None:
        self.rows = rows
        self._widths = tuple(widths)
        self._gradient_dtype = gradient_dtype
        self.parameters: Layout = {}
        for layer, (inputs, outputs) in enumerate(zip(self._widths, self._widths[1:], strict=False), start=1):
            self.parameters[f"w{layer}"] = ((inputs, outputs), "float32")
            self.parameters[f"b{layer}"] = ((outputs,), "float32")
        classes = self._widths[-1]
        self.shared: Layout = {**self.parameters, "classes": ((classes,), "int64"), "loss": ((1,), "float32")}
        self.products = Stopwatch()
        self.kernels = Stopwatch()

    def initialise(self, workspace: Workspace, seed: int) -> None:
        """Give the shared blobs in a workspace their first values: weights by He, biases 0."""
        workspace.feed("classes", np.arange(self._widths[-1]))
        workspace.feed("loss", np.zeros(1, np.float32))
        for name, (shape, dtype) in self.parameters.items():
            initializer = HeNormal() if name.startswith("w") else Zeros()
            workspace.feed(name, initializer(shape, dtype, generator=generator_of(seed, name)))

    def create(self, frame: Workspace) -> None:
        """Create the blobs of a pass.

        A pass over fewer examples uses the first rows of each. Blobs of its own for a smaller last
        micro-batch would move memory about in each epoch.
        """
        frame.allocate(self._blobs())

    def forward(self, xp: Any, frame: Workspace, rows: int) -> Any:
        """Compute the scores of the examples in ``h0``.

        Returns
        -------
        array
            Shape (rows, classes), float32: the blob of the last layer.
        """
        last = len(self._widths) - 1
        for layer in range(1, last + 1):
            out = frame[f"h{layer}"][:rows]
            self._product(xp, frame[f"h{layer - 1}"][:rows], frame[f"w{layer}"], out)
            out += frame[f"b{layer}"]
            if layer < last:
                xp.maximum(out, 0, out=out)
        return frame[f"h{last}"][:rows]

    def backward(self, xp: Any, frame: Workspace, rows: int) -> dict[str, Any]:
        """Compute the gradients of the mean loss, after `forward`.

        ``labels`` holds the class of each example. The sum of their losses is added to the blob ``loss``.

        Returns
        -------
        dict of str to array
            A gradient for each parameter.
        """
        self._loss(xp, frame, rows)
        for layer in range(len(self._widths) - 1, 0, -1):
            gradient = frame[f"h{layer}_grad"][:rows]
            inputs = frame[f"h{layer - 1}"][:rows]
            self._product(xp, inputs.T, gradient, frame[f"w{layer}_grad"])
            xp.sum(gradient, axis=0, out=frame[f"b{layer}_grad"])
            if layer > 1:
                below = frame[f"h{layer - 1}_grad"][:rows]
                self._product(xp, gradient, frame[f"w{layer}"].T, below)
                # The outputs of a relu are not needed any more: their signs are its derivative.
                xp.sign(inputs, out=inputs)
                below *= inputs
        full = {name: frame[f"{name}_grad"] for name in self.parameters}
        if self._gradient_dtype == "float32":
            return full
        short = {name: frame[f"{name}_grad_{self._gradient_dtype}"] for name in self.parameters}
        with self.kernels:
            kernels.copy(list(short.values()), list(full.values()))
        return short

    def _blobs(self) -> Layout:
        rows, classes = self.rows, self._widths[-1]
        layout: Layout = {
            "labels": ((rows, 1), "int64"),
            "hot": ((rows, classes), "bool"),
            "row": ((rows, 1), "float32"),
        }
        for layer, width in enumerate(self._widths):
            layout[f"h{layer}"] = ((rows, width), "float32")
            if layer:
                layout[f"h{layer}_grad"] = ((rows, width), "float32")
        for name, (shape, dtype) in self.parameters.items():
            layout[f"{name}_grad"] = (shape, dtype)
            if self._gradient_dtype != dtype:
                layout[f"{name}_grad_{self._gradient_dtype}"] = (shape, self._gradient_dtype)
        return layout

    def _loss(self, xp: Any, frame: Workspace, rows: int) -> None:
        """Add the examples' losses to ``loss``; put the gradient of their mean behind the last layer."""
        last = len(self._widths) - 1
        scores, gradient = frame[f"h{last}"][:rows], frame[f"h{last}_grad"][:rows]
        hot, row, loss = frame["hot"][:rows], frame["row"][:rows], frame["loss"]
        xp.equal(frame["labels"][:rows], frame["classes"], out=hot)
        xp.max(scores, axis=1, keepdims=True, out=row)
        scores -= row
        xp.multiply(scores, hot, out=gradient)
        loss -= xp.sum(gradient)
        xp.exp(scores, out=gradient)
        xp.sum(gradient, axis=1, keepdims=True, out=row)
        gradient /= row
        xp.log(row, out=row)
        loss += xp.sum(row)
        gradient -= hot
        gradient /= rows

    def _product(self, xp: Any, left: Any, right: Any, out: Any) -> None:
        with self.products:
            xp.matmul(left, right, out=out)
