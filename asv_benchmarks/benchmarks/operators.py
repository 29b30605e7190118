"""Operators: a loop of small ones, forward and backward."""

import numpy as np

import numscope as ns

ROUNDS = 200


class Loop:
    """200 rounds of a small recurrence in workspaces, and its generated gradient."""

    params = ([True, False],)
    param_names = ("retain",)

    def setup(self, retain):
        rng = np.random.default_rng(0)
        body = ns.Net(
            "body",
            [
                ns.Operator("MatMul", ["h", "w"], ["z"]),
                ns.Operator("Tanh", ["z"], ["h"]),
                ns.Operator("Add", ["t", "one"], ["t"]),
                ns.Operator("LT", ["t", "rounds"], ["more"]),
            ],
        )
        self.net = ns.Net(
            "loop",
            [
                ns.Operator("ConstantFill", [], ["t"], value=0),
                ns.Operator("ConstantFill", [], ["more"], value=1, dtype="bool"),
                ns.Operator("Copy", ["h0"], ["h"]),
                ns.While("more", body, retain=retain),
            ],
        )
        self.backward, _ = ns.gradient(self.net, {"h": "h_grad"})
        self.workspace = ns.Workspace(arena=ns.Arena("64 MiB"))
        self.workspace["h0"] = rng.normal(size=(8, 16)).astype("f4")
        self.workspace["w"] = (rng.normal(size=(16, 16)) / 8).astype("f4")
        self.workspace["h_grad"] = np.ones((8, 16), "f4")
        self.workspace["one"], self.workspace["rounds"] = np.int64(1), np.int64(ROUNDS)
        self.time_forward_and_backward(retain)

    def time_forward(self, retain):
        self.workspace.run(self.net)

    def time_forward_and_backward(self, retain):
        self.workspace.run(self.net)
        self.workspace.run(self.backward)

    def time_gradient_generation(self, retain):
        ns.gradient(self.net, {"h": "h_grad"})
