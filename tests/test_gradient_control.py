"""Gradients through Do, If and While, against central differences."""

import numpy as np
import pytest
from loop_nets import COUNT, MULTIPLY, counter, loop, op
from reference_operators import check_gradients, differences, drawing, run_both

from numscope.arena import Arena
from numscope.errors import OperatorError
from numscope.operators import Do, If, Net, Operator, While, gradient
from numscope.workspace import Workspace

draw = drawing(11)


@pytest.fixture
def arena(device):
    with Arena("64 MiB", device=device) as arena:
        yield arena


# Do


@pytest.mark.parametrize("seed", ["d_x", "x_grad"])
def test_do_saves_what_it_overwrites(arena, seed):
    net = Net("n", [Do(Net("b", MULTIPLY))])
    check_gradients(arena, net, {"x": draw(3), "w": draw(3)}, {"x": draw(3)}, ["x", "w"])
    assert gradient(net, {"x": seed})[1]["w"] == "w_grad"


def test_do_that_only_passes_a_gradient_on(arena):
    net = Net("n", [Do(Net("b", [op("Sum", "x w", "y")]), outputs=["y"]), op("Tanh", "y", "z")])
    check_gradients(arena, net, {"x": draw(3), "w": draw(3)}, {"z": draw(3)}, ["x", "w"])


def test_two_results_with_one_gradient(arena):
    body = Net("b", [op("Tanh", "x", "y"), op("Mul", "x w", "z")])
    net = Net("n", [Do(body, outputs=["y", "z"]), op("Sum", "y z", "o")])
    check_gradients(arena, net, {"x": draw(3), "w": draw(3)}, {"o": draw(3)}, ["x", "w"])


def test_values_that_the_outer_net_overwrites_are_an_error(arena):
    net = Net("n", [Do(Net("b", [op("Mul", "x w", "y")]), outputs=["y"]), op("Tanh", "y", "x")])
    with pytest.raises(
        OperatorError, match=r"Do: \['x', 'w', .* needs 'x' as it was before a later operator"
    ):
        gradient(net, ["x"])


def test_a_scope_serves_one_do_only():
    do = Do(Net("b", [op("Tanh", "x", "y")]), outputs=["y"], scope="s")
    again = Do(Net("c", [op("Tanh", "y", "z")]), outputs=["z"], scope="s")[1:]
    with pytest.raises(OperatorError, match="a later operator uses scope 's' again; give each one"):
        gradient(Net("n", [*do, *again]), ["z"])


def test_two_loops_over_one_body_need_two_scopes(arena):
    body = Net("b", [*MULTIPLY, *COUNT])
    again = [op("GivenTensorInt64Fill", "", "i", values=[0], shape=[]), op("LT", "i n", "go")]
    with pytest.raises(OperatorError, match="a later operator uses scope 'b/workspace_loop_body' again"):
        gradient(Net("n", [While("go", body), *again, While("go", body)]), ["x"])
    net = Net("n", [While("go", body), *again, While("go", body, scope="second")])
    feeds = {**counter(2), "x": draw(3), "w": draw(3)}
    check_gradients(arena, net, feeds, {"x": draw(3)}, ["x", "w"])


def test_a_reused_workspace_cannot_be_differentiated():
    do = op("Do", "x s", "y s", net=Net("b", [op("Tanh", "x", "y")]), inner_blobs=["x", "y"],
            outer_blobs_idx=[0, 1], reuse_workspace=1)  # fmt: skip
    with pytest.raises(OperatorError, match="reuse_workspace shares one workspace"):
        gradient(Net("n", [op("CreateScope", "", "s"), do]), ["y"])


def test_a_backward_net_needs_a_forward_run(arena):
    net = Net("n", [Do(Net("b", [op("Tanh", "x", "y")]), outputs=["y"])])
    backward, _ = gradient(net, ["y"])
    ws = Workspace(arena=arena)
    ws["x"] = draw(3)
    ws.run(net)
    ws.run(backward)
    with pytest.raises(OperatorError, match="stack 'b/workspace_do' is empty; run the forward net first"):
        ws.run(backward)
    ws.run(net)
    assert ws.run(backward)


def test_thousands_of_scopes(arena):
    steps = [
        Do(Net(f"b{i}", [op("Scale", f"x{i}", f"x{i + 1}", scale=-1.0)]), outputs=[f"x{i + 1}"])
        for i in range(2000)
    ]
    ws, gradients = run_both(arena, Net("n", steps), {"x0": draw(3)}, {"x2000": draw(3)})
    np.testing.assert_array_equal(ws.fetch("x2000"), ws.fetch("x0"))
    np.testing.assert_array_equal(ws.fetch(gradients["x0"]), ws.fetch("d_x2000"))


# If


BRANCHES = {
    "one_uses_w_and_one_v": ([op("Mul", "x w", "y")], [op("Mul", "x v", "y")], ["y"]),
    "no_else": ([op("Mul", "x w", "y")], None, ["y"]),
    "else_writes_another": ([op("Tanh", "x", "y")], [op("Tanh", "w", "z")], ["y", "z"]),
    "overwrites_without_reading": ([op("Tanh", "w", "y")], [op("Copy", "x", "y")], ["y"]),
}


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "scoped"])
@pytest.mark.parametrize("name", BRANCHES)
def test_if(arena, name, plain, holds):
    then, otherwise, results = BRANCHES[name]
    nets = [Net("t", then), None if otherwise is None else Net("e", otherwise)]
    if plain:
        arguments = {"then_net": nets[0]} | ({"else_net": nets[1]} if nets[1] else {})
        branch = op("If", "c x w v y z", "y z", **arguments)
    else:
        branch = If("c", *nets, outputs=results)
    before = [op("Scale", f"{name}0", name, scale=2.0) for name in "yz"]
    feeds = {**{name: draw(3) for name in ("x", "w", "v", "y0", "z0")}, "c": np.array(holds)}
    seeds = {result: draw(3) for result in results}
    net = Net("n", [*before, branch])
    _, gradients = run_both(arena, net, feeds, seeds)
    wrt = [name for name in ("x", "w", "v", "y0", "z0") if name in gradients]
    assert {"x", "w"} & set(wrt)
    check_gradients(arena, net, feeds, seeds, wrt)
    for name in {"x", "w", "v", "y0", "z0"} - set(wrt):
        assert not differences(arena, net, feeds, seeds, name).any()


@pytest.mark.parametrize("holds", [True, False])
def test_branches_that_overwrite_what_they_read(arena, holds):
    otherwise = [op("Scale", "x", "x", scale=3.0)]
    net = Net("n", If("c", Net("t", MULTIPLY), Net("e", otherwise), outputs=["x"]))
    feeds = {"x": draw(3), "w": draw(3), "c": np.array(holds)}
    check_gradients(arena, net, feeds, {"x": draw(3)}, ["x", "w"])
    # Without a workspace of their own they cannot save the old value.
    plain = op("If", "c x w", "x", then_net=Net("t", MULTIPLY), else_net=Net("e", otherwise))
    with pytest.raises(OperatorError, match=r"If: .* 'x' as it was before .* put the operators into a Do"):
        gradient(Net("n", [plain]), {"x": "d_x"})


# While


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
class TestWhile:
    def check(self, arena, rounds, steps, feeds, seeds, wrt, runs=2):
        feeds = {name: draw(*shape) for name, shape in feeds.items()}
        net = Net("n", steps)
        ws, gradients = check_gradients(arena, net, {**counter(rounds), **feeds}, seeds, wrt, runs=runs)
        return ws, gradients

    def test_invariants_are_summed_over_the_rounds(self, arena, rounds):
        ws, gradients = self.check(
            arena, rounds, [loop(MULTIPLY)], {"x": (3,), "w": (3,)}, {"x": draw(3)}, ["x", "w"]
        )
        if rounds == 0:
            np.testing.assert_array_equal(ws.fetch(gradients["w"]), np.zeros(3))

    def test_an_invariant_that_is_used_before_and_after(self, arena, rounds):
        steps = [
            op("Mul", "x0 w", "x"),
            loop(MULTIPLY),
            op("Mul", "x w", "p"),
            op("Sum", "x p w", "o"),
        ]
        self.check(arena, rounds, steps, {"x0": (3,), "w": (3,)}, {"o": draw(3)}, ["x0", "w"])

    def test_a_body_that_passes_gradients_on(self, arena, rounds):
        self.check(
            arena,
            rounds,
            [loop([op("Sum", "x w", "x")])],
            {"x": (3,), "w": (3,)},
            {"x": draw(3)},
            ["x", "w"],
        )

    def test_blobs_that_change_places(self, arena, rounds):
        body = [op("Sum", "x", "t"), op("Sum", "y", "x"), op("Sum", "t", "y")]
        seeds = {"x": draw(3), "y": draw(3)}
        self.check(arena, rounds, [loop(body)], {"x": (3,), "y": (3,)}, seeds, ["x", "y"])

    def test_a_gradient_that_comes_through_another_carried_blob(self, arena, rounds):
        body = [op("Mul", "h w", "t"), op("Tanh", "t", "h"), op("Add", "x h", "x")]
        feeds = {"x": (3,), "h": (3,), "w": (3,)}
        self.check(arena, rounds, [loop(body)], feeds, {"x": draw(3)}, ["x", "h", "w"])

    def test_a_result_of_the_last_round_only(self, arena, rounds):
        body = [op("Mul", "x w", "y"), op("Tanh", "y", "x")]
        steps = [op("Scale", "y0", "y", scale=2.0), loop(body, outputs=["y"])]
        feeds = {"x": (3,), "y0": (3,), "w": (3,)}
        self.check(arena, rounds, steps, feeds, {"y": draw(3), "x": draw(3)}, ["x", "y0", "w"])

    def test_results_that_have_another_shape_each_round(self, arena, rounds):
        body = [op("Concat", "x w", "y parts", axis=0), op("Tanh", "y", "last"), op("Copy", "y", "x")]
        steps = [op("Scale", "last0", "last", scale=2.0), loop(body, outputs=["last"])]
        seeds = {"x": draw(2 + rounds, 3), "last": draw(2 + rounds, 3)}
        feeds = {"x": (2, 3), "w": (1, 3), "last0": (2, 3)}
        self.check(arena, rounds, steps, feeds, seeds, list(feeds))

    def test_powers_in_place(self, arena, rounds):
        body = [op("Pow", "x", "x", exponent=2.0), op("Mul", "x w", "y"), op("Tanh", "y", "v")]
        steps = [op("Copy", "v0", "v"), loop(body, outputs=["v"])]
        self.check(arena, rounds, steps, {"x": (3,), "v0": (3,), "w": (3,)}, {"v": draw(3)}, ["x", "v0", "w"])

    def test_rows_of_an_input_one_a_round(self, arena, rounds):
        body = [op("Gather", "rows i", "v"), op("Mul", "x v", "t"), op("Tanh", "t", "x")]
        feeds = {"x": (3,), "rows": (5, 3)}
        self.check(arena, rounds, [loop(body)], feeds, {"x": draw(3)}, ["x", "rows"])

    def test_a_counter_in_the_test_is_saved_for_the_rounds(self, arena, rounds):
        body = Net("b", [op("Gather", "rows i", "v"), op("Mul", "x v", "t"), op("Tanh", "t", "x")])
        do = While("go", body, Net("t", [op("LT", "i n", "go")]))
        advance = Net("adv", [op("Add", "k one", "k"), op("Sub", "k one", "i"), op("LT", "i n", "go")])
        outer = do[-1]
        operator = Operator(
            "While", outer.inputs, outer.outputs, loop_net=outer.args["loop_net"], cond_net=advance
        )
        steps = [*do[:-1], op("GivenTensorInt64Fill", "", "k", values=[0]), operator]
        self.check(arena, rounds, steps, {"x": (3,), "rows": (5, 3)}, {"x": draw(3)}, ["x", "rows"])

    def test_a_counter_that_is_computed_with(self, arena, rounds):
        body = [
            op("Cast", "i", "f", to="float64"), op("Cast", "two", "g", to="float64"), op("Add", "f g", "h"),
            op("Mul", "x h", "t"), op("Tanh", "t", "y"), op("Mul", "y w", "z"), op("Copy", "z", "x"),
        ]  # fmt: skip
        steps = [op("Add", "one one", "two"), loop(body)]
        ws, gradients = self.check(arena, rounds, steps, {"x": (3,), "w": (3,)}, {"x": draw(3)}, ["x", "w"])
        assert ws[gradients["i"]] == ws[gradients["two"]] == 0

    def test_do_in_a_loop(self, arena, rounds):
        body = [
            Do(Net("inside", [op("Mul", "x w", "t"), op("Tanh", "t", "y")]), outputs=["y"]),
            op("Mul", "y x", "z"),
        ]
        steps = [loop([*body, op("Copy", "z", "x")])]
        self.check(arena, rounds, steps, {"x": (3,), "w": (3,)}, {"x": draw(3)}, ["x", "w"])
        steps = [loop([Do(Net("inside", MULTIPLY))])]
        self.check(arena, rounds, steps, {"x": (3,), "w": (3,)}, {"x": draw(3)}, ["x", "w"])

    def test_a_loop_in_a_loop(self, arena, rounds):
        inner = Net("inner", [*MULTIPLY, op("Add", "j one", "j"), op("LT", "j two", "more")])
        body = [
            op("GivenTensorInt64Fill", "", "j", values=[0]), op("LT", "j two", "more"), op("Mul", "x v", "u"),
            op("Copy", "u", "x"), While("more", inner),
        ]  # fmt: skip
        steps = [op("Add", "one one", "two"), loop(body)]
        feeds = {"x": (3,), "w": (3,), "v": (3,)}
        self.check(arena, rounds, steps, feeds, {"x": draw(3)}, list(feeds))

    @pytest.mark.parametrize("has_else", [True, False])
    def test_a_branch_in_a_loop(self, arena, rounds, has_else):
        otherwise = Net("e", [op("Scale", "x", "x", scale=3.0)]) if has_else else None
        body = [op("LT", "i two", "early"), If("early", Net("t", MULTIPLY), otherwise)]
        steps = [op("Add", "one one", "two"), loop(body)]
        self.check(arena, rounds, steps, {"x": (3,), "w": (3,)}, {"x": draw(3)}, ["x", "w"])


def test_a_loop_must_be_one_do(arena):
    net = Net("n", [op("While", "go x i one n", "x i go", loop_net=Net("l", [op("Tanh", "x", "x"), *COUNT]))])
    with pytest.raises(OperatorError, match="its loop_net 'l' must be a single Do"):
        gradient(net, ["x"])


def test_a_test_that_computes_what_is_differentiated_is_refused():
    test = Net("t", [op("Scale", "x", "x", scale=0.5), op("LT", "i n", "go")])
    steps = While("go", Net("b", [op("Mul", "x w", "t"), op("Tanh", "t", "x"), COUNT[0]]), test)
    with pytest.raises(OperatorError, match=r"its cond_net writes \['x'\], through which a gradient flows"):
        gradient(Net("n", steps), ["x"])
