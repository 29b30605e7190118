"""An Elman net that classifies sequences of different lengths; its cell runs in a `While`."""

from __future__ import annotations

from numscope.operators import Net, Operator, While
from numscope.scopes import unscoped

__all__ = ["Layout", "recurrent_net"]

Layout = dict[str, tuple[tuple[int, ...], str]]


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
    with unscoped():
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
