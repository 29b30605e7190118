"""Train a recurrent net over sequences of different lengths, its loop and its gradients in workspaces.

Each sequence is an image of a digit, read row by row and cut at a random row. A loop runs the cell as often
as the longest sequence of the micro-batch is long; every round gets a workspace of its own on a stack, which
the backward net pops again. The gradients of the weights are summed over the rounds by the backward net, and
over micro-batches by an accumulator. With PyTorch installed, they are compared with PyTorch's.

    python examples/dynamic_rnn.py [float64]
"""

import importlib.util
import sys

import numpy as np

import numscope as ns
from numscope import datasets

EXAMPLES, MICRO_BATCHES, HIDDEN, STEPS, RATE = 64, 2, 64, 400, 0.3

cell = ns.Net("cell", [
    ns.Operator("Gather", ["rows", "t"], ["row"]),
    ns.Operator("Gather", ["masks", "t"], ["mask"]),
    ns.Operator("StopGradient", ["row"], ["x"]),
    ns.Operator("FC", ["x", "w_in", "b_in"], ["from_x"]),
    ns.Operator("MatMul", ["h", "w_h"], ["from_h"]),
    ns.Operator("Sum", ["from_x", "from_h"], ["sum"]),
    ns.Operator("Tanh", ["sum"], ["new"]),
    ns.Operator("Sub", ["new", "h"], ["change"]),
    ns.Operator("StopGradient", ["mask"], ["alive"]),
    ns.Operator("Mul", ["change", "alive"], ["kept"]),
    ns.Operator("Sum", ["h", "kept"], ["h"]),
    ns.Operator("Add", ["t", "one"], ["t"]),
    ns.Operator("LT", ["t", "length"], ["more"]),
])  # fmt: skip
net = ns.Net("rnn", [
    ns.Operator("ConstantFill", [], ["t"], value=0),
    ns.Operator("ConstantFill", [], ["one"], value=1),
    ns.Operator("ConstantFill", [], ["more"], value=1, dtype="bool"),
    ns.Operator("Copy", ["h0"], ["h"]),
    ns.While("more", cell),
    ns.Operator("FC", ["h", "w_out", "b_out"], ["scores"]),
    ns.Operator("SoftmaxWithLoss", ["scores", "labels"], ["probabilities", "loss"]),
])  # fmt: skip


def feed(ws, images, labels, lengths, dtype):
    """Lay images out as rows in time order, with a mask that is 0 behind the end of each sequence."""
    ws["rows"] = images.reshape(-1, 8, 8).swapaxes(0, 1).astype(dtype)
    ws["masks"] = (np.arange(8)[:, None, None] < lengths[None, :, None]).astype(dtype)
    ws["labels"] = labels
    ws["length"] = np.int64(lengths.max())
    ws["h0"] = np.zeros((len(labels), HIDDEN), dtype)


def torch_gradients(ws, weights):
    """Return PyTorch's gradients for the same weights and sequences."""
    import torch

    tensors = {name: torch.tensor(ws.fetch(name)).requires_grad_() for name in weights}
    rows, masks, h = (torch.tensor(ws.fetch(name)) for name in ("rows", "masks", "h0"))
    for t in range(int(ws["length"])):
        new = torch.tanh(rows[t] @ tensors["w_in"].T + tensors["b_in"] + h @ tensors["w_h"])
        h = h + (new - h) * masks[t]
    scores = h @ tensors["w_out"].T + tensors["b_out"]
    torch.nn.functional.cross_entropy(scores, torch.tensor(ws.fetch("labels"))).backward()
    return {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def main(steps=STEPS, dtype="float32"):
    """Train, and print the accuracy and the largest difference from PyTorch's gradients."""
    rng = np.random.default_rng(0)
    data = datasets.digits()
    backward, gradients = ns.gradient(net, ["loss"])
    ws = ns.Workspace(arena=ns.Arena("64 MiB"))
    with ws, ns.variable_scope("", dtype=dtype, initializer=ns.initializers.GlorotUniform):
        weights = {
            "w_in": ns.get_variable("w_in", (HIDDEN, 8)),
            "b_in": ns.get_variable("b_in", HIDDEN, initializer=ns.initializers.Zeros),
            "w_h": ns.get_variable("w_h", (HIDDEN, HIDDEN), initializer=ns.initializers.Orthogonal),
            "w_out": ns.get_variable("w_out", (10, HIDDEN)),
            "b_out": ns.get_variable("b_out", 10, initializer=ns.initializers.Zeros),
        }
    accumulator = ns.GradientAccumulator(weights, dtype=dtype, arena=ws.arena)
    for step in range(steps):
        accumulator.reset()
        for _ in range(MICRO_BATCHES):
            chosen = rng.choice(len(data.train_labels), EXAMPLES, replace=False)
            lengths = rng.integers(5, 9, EXAMPLES)
            feed(ws, data.train_features[chosen], data.train_labels[chosen], lengths, dtype)
            ws.run(net)
            ws.run(backward)
            accumulator.add({name: ws[gradients[name]] for name in weights}, weight=EXAMPLES)
        if step == 0 and importlib.util.find_spec("torch"):
            expected = torch_gradients(ws, weights)
            differences = [
                np.linalg.norm(ws[gradients[n]] - expected[n]) / np.linalg.norm(expected[n]) for n in weights
            ]
            print(f"largest difference from PyTorch's gradients: {max(differences):.1e}")
        accumulator.finish(max_norm=1.0)
        for name, weight in weights.items():
            weight -= RATE * accumulator[name]
        if step % 100 == 0:
            print(f"step {step}: loss {float(ws['loss']):.3f} after {ws['length']} rounds")
    print(f"at most {ws.arena.peak:,} bytes of the arena in use")
    feed(ws, data.test_features, data.test_labels, rng.integers(5, 9, len(data.test_labels)), dtype)
    ws.run(net)
    accuracy = float((ws["scores"].argmax(axis=1) == data.test_labels).mean())
    print(f"accuracy on {len(data.test_labels)} cut test images: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(dtype=sys.argv[1] if len(sys.argv) > 1 else "float32")
