"""Train a recurrent net over sequences of different lengths, its loop and its gradients in workspaces.

Each sequence is an image of a digit, read row by row and cut at a random row. A loop runs the cell as often
as the longest sequence of the batch is long; every round gets a workspace of its own on a stack, which the
backward net pops again. With PyTorch installed, the gradients are compared with PyTorch's.

    python examples/dynamic_rnn.py
"""

import importlib.util

import numpy as np

import numscope as ns
from numscope import datasets

BATCH, HIDDEN, STEPS, RATE = 64, 64, 600, 0.3

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


def feed(ws, images, labels, lengths):
    """Lay images out as rows in time order, with a mask that is 0 behind the end of each sequence."""
    ws["rows"] = images.reshape(-1, 8, 8).swapaxes(0, 1)
    ws["masks"] = (np.arange(8)[:, None, None] < lengths[None, :, None]).astype(np.float32)
    ws["labels"] = labels
    ws["length"] = np.int64(lengths.max())
    ws["h0"] = np.zeros((len(labels), HIDDEN), np.float32)


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


def main(steps=STEPS):
    """Train, and print the accuracy and the largest difference to PyTorch's gradients."""
    rng = np.random.default_rng(0)
    data = datasets.digits()
    backward, gradients = ns.gradient(net, ["loss"])
    ws = ns.Workspace(arena=ns.Arena("64 MiB"))
    weights = {
        "w_in": (HIDDEN, 8),
        "b_in": HIDDEN,
        "w_h": (HIDDEN, HIDDEN),
        "w_out": (10, HIDDEN),
        "b_out": 10,
    }
    for name, shape in weights.items():
        ws[name] = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    for step in range(steps):
        chosen = rng.choice(len(data.train_labels), BATCH, replace=False)
        feed(ws, data.train_features[chosen], data.train_labels[chosen], rng.integers(5, 9, BATCH))
        ws.run(net)
        ws.run(backward)
        if step % 100 == 0:
            print(f"step {step}: loss {float(ws['loss']):.3f} after {ws['length']} rounds")
        if step == 0 and importlib.util.find_spec("torch"):
            expected = torch_gradients(ws, weights)
            differences = [
                np.linalg.norm(ws[gradients[n]] - expected[n]) / np.linalg.norm(expected[n]) for n in weights
            ]
            print(f"largest difference to PyTorch's gradients: {max(differences):.1e}")
        for name in weights:
            ws[name] -= RATE * ws[gradients[name]]
    feed(ws, data.test_features, data.test_labels, rng.integers(5, 9, len(data.test_labels)))
    ws.run(net)
    accuracy = float((ws["scores"].argmax(axis=1) == data.test_labels).mean())
    print(f"accuracy on {len(data.test_labels)} cut test images: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
