"""PyTorch's gradients of the recurrent net, to compare with those of `numscope.operators.gradient`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

__all__ = ["recurrent_gradients"]


def recurrent_gradients(
    parameters: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the gradients of the loss that `numscope.recurrent.recurrent_net` makes.

    Parameters
    ----------
    parameters, inputs : mapping of str to array
        What that net reads, on the host and of one floating type.

    Returns
    -------
    dict of str to array
        Parameter -> its gradient.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    """
    import torch

    weights = {name: torch.tensor(values).requires_grad_() for name, values in parameters.items()}
    rows, alive, state = (torch.tensor(inputs[name]) for name in ("rows", "alive", "start"))
    for t in range(int(inputs["steps"])):
        candidate = torch.tanh(rows[t] @ weights["w_in"].T + weights["b_in"] + state @ weights["w_state"])
        state = state + (candidate - state) * alive[t]
    scores = state @ weights["w_out"].T + weights["b_out"]
    torch.nn.functional.cross_entropy(scores, torch.tensor(inputs["labels"])).backward()
    return {name: weight.grad.numpy() for name, weight in weights.items()}
