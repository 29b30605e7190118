"""The gradients of Do, If and While: the same operators, popping what the forward ones pushed.

Caffe2's generators are ``control_ops_grad.py``. Here gradients of what does not change in a loop are summed
over the rounds, values that the body overwrites are found where the forward Do saved them, and seeds are
never written to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numscope.errors import OperatorError
from numscope.operators.bindings import bindings_of
from numscope.operators.boundary import BodyBoundary, BranchBoundary, reserved_names
from numscope.operators.definition import Net, Operator
from numscope.operators.differentiation import Differentiation, GradientContext
from numscope.operators.effects import effects_of, effects_of_all, written_names
from numscope.operators.saving import needs_start_layout

__all__ = ["do_gradient", "if_gradient", "while_gradient"]

SEED = "/_DO_OPERATOR_INNER_GRAD_"
COPY = "/_DO_OPERATOR_INNER_GRAD_COPY_"


def do_gradient(context: GradientContext) -> list[Operator]:
    """Differentiate a Do: a Do that pops the workspace and runs the gradient of the net in it."""
    forward = context.operator
    body, scope = _differentiable_body(context, forward)
    bindings = bindings_of(forward)
    boundary = BodyBoundary(bindings, frozenset(), bool(forward.args.get("copy_external_blobs")), context)
    binder = boundary.binder
    seeds: dict[str, str] = {}
    for inner, outer in bindings.items():
        gradient = context.gradient_of(outer)
        if gradient is not None:
            seeds[inner] = binder.bind(gradient, inner + SEED)
    inside = Differentiation(body.operators, seeds, boundary, reserved=bindings, lenient=context.lenient)
    outputs: list[str] = []
    results: dict[str, str] = {}
    for inner, gradient in inside.start_gradients.items():
        if inner in bindings and context.wants_gradient(bindings[inner]):
            outer = context.new_gradient(bindings[inner])
            outputs.append(outer)
            results[binder.bind(outer, inner + COPY)] = gradient
    operators = [*inside.operators, *_assign(results)]
    net = Net(f"{body.name}_grad", operators)
    return [binder.make_do(net, outputs, scope, boundary.locals)]


def if_gradient(context: GradientContext) -> list[Operator]:
    """Differentiate an If: an If on the same condition, whose branches write the same gradients."""
    forward = context.operator
    condition = context.value_before(forward.inputs[0])
    then_net: Net = forward.args["then_net"]
    else_net: Net | None = forward.args.get("else_net")
    branches = [then_net.operators, else_net.operators if else_net is not None else []]
    seeds = {name: gradient for name in context.after if (gradient := context.gradient_of(name)) is not None}
    if not seeds:
        return []

    def differentiate(operators: list[Operator], targets: Mapping[str, str]) -> Differentiation:
        return Differentiation(
            operators,
            seeds,
            BranchBoundary(context),
            targets=targets,
            reserved=context.taken_names,
            lenient=context.lenient,
        )

    # Names for all that may have a gradient, before it is known what has: differentiating the branches first
    # to find that out doubled the work with each level of nesting (3 s for 12).
    effects = effects_of(forward)
    candidates = [name for name in context.before if name in effects.reads or name in effects.keeps]
    targets = {name: context.new_gradient(name) for name in candidates if context.wants_gradient(name)}
    made: set[str] = set()
    try:
        insides = [differentiate(operators, targets) for operators in branches]
        made.update(*(inside.start_gradients for inside in insides))
    finally:
        for name in [name for name in targets if name not in made]:
            context.withdraw_gradient(name, targets.pop(name))
    nets: list[Net] = []
    for inside, name in zip(
        insides,
        (f"{then_net.name}_grad", f"{else_net.name}_grad" if else_net is not None else ""),
        strict=True,
    ):
        results = {
            target: inside.start_gradients[blob]
            for blob, target in targets.items()
            if blob in inside.start_gradients
        }
        # In both branches, where it is only asked what to save: a gradient that another one makes now may
        # not be made by a backward net of fewer results.
        zeros = [
            _zeros_like(_like(context, blob, seeds.get(blob)), target)
            for blob, target in targets.items()
            if blob not in inside.start_gradients or context.lenient
        ]
        steps = [*inside.operators, *_assign(results), *zeros]
        nets.append(Net(name or f"{then_net.name}_grad_auto_else_zero_blobs_", steps))
    then_grad, else_grad = nets
    arguments: dict[str, Any] = {"then_net": then_grad}
    if else_grad.operators:
        arguments["else_net"] = else_grad
    effects = effects_of_all([*then_grad.operators, *else_grad.operators])
    local = set(_made_first(then_grad.operators)) | set(_made_first(else_grad.operators))
    reads = [name for name in effects.reads if name != condition and name not in local]
    return [
        Operator(
            "If",
            [condition, *reads],
            list(dict.fromkeys((*targets.values(), *effects.writes))),
            is_gradient_op=True,
            **arguments,
        )
    ]


def while_gradient(context: GradientContext) -> list[Operator]:
    """Differentiate a While: a While that pops one workspace a round, until the stack is empty.

    The gradient of each carried blob is a variable of that loop; the gradient of each other blob that the
    body reads is a sum over its rounds.
    """
    forward = context.operator
    loop: Net = forward.args["loop_net"]
    if len(loop.operators) != 1 or loop.operators[0].type != "Do":
        raise OperatorError(
            f"{forward!r} cannot be differentiated: its loop_net {loop.name!r} must be a single Do, which "
            "keeps the values of each round; ns.While makes one"
        )
    do = loop.operators[0]
    body, scope = _differentiable_body(context, do)
    bindings = bindings_of(do)
    variables = {
        name: _loop_variable(context, name) for name in context.after if context.gradient_of(name) is not None
    }
    if not variables:
        return []
    inside, boundary = _differentiate_rounds(context, do, variables)
    binder = boundary.binder

    before: list[Operator] = []
    for outer, variable in variables.items():
        seed = context.gradient_of(outer)
        like = _like(context, outer, seed)
        if seed is None:
            before.append(_zeros_like(like, variable))
        elif seed != variable:
            before.append(_copy(seed, variable))
    sums: dict[str, str] = {}
    results: dict[str, str] = {}
    zeros: list[Operator] = []
    for inner, outer in bindings.items():
        gradient = inside.start_gradients.get(inner)
        if outer in variables:
            variable = binder.inner_of[variables[outer]]
            if gradient is None:
                apart = BodyBoundary(bindings, boundary.volatile, boundary.copies)
                saved = needs_start_layout(body, inner, apart)
                like = boundary.layout_at_start(inner, do) if saved else variable
                zeros.append(_zeros_like(like, variable))
            else:
                results[variable] = gradient
        elif gradient is not None:
            total = variables[outer] = context.new_gradient(outer)
            before.append(_zeros_like(context.layout_after(outer), total))
            sums[binder.bind(total, inner + COPY)] = gradient
    steps = [*inside.operators, *_accumulate(sums), *_assign(results), *zeros]
    names = list(variables.values())
    gradient_do = binder.make_do(Net(f"{body.name}_grad", steps), names, scope, boundary.locals)
    condition = context.free_name("gradient_loop_cond_net/cond")
    has_scope = Operator("HasScope", [scope], [condition])
    gradient_while = Operator(
        "While",
        [condition, *dict.fromkeys((*gradient_do.inputs[:-1], *names)), scope],
        [*names, scope, condition],
        is_gradient_op=True,
        loop_net=Net(f"{loop.name}_grad", [gradient_do]),
        cond_net=Net("gradient_loop_cond_net", [has_scope]),
    )
    return [*before, has_scope, gradient_while]


def _loop_variable(context: GradientContext, blob: str) -> str:
    """Return the blob of the backward loop that carries the gradient of a carried blob."""
    if context.wants_gradient(blob):
        return context.new_gradient(blob)
    return context.free_name(f"{blob}_grad")


def _differentiate_rounds(
    context: GradientContext, do: Operator, variables: dict[str, str]
) -> tuple[Differentiation, BodyBoundary]:
    """Differentiate the body of a loop, as one round; add to `variables` what turns out to be carried.

    What is carried from round to round may reach the results only through other carried blobs.
    """
    forward = context.operator
    body: Net = do.args["net"]
    bindings = bindings_of(do)
    in_condition = written_names(forward.args["cond_net"]) if "cond_net" in forward.args else set()
    changing = in_condition | written_names(forward.args["loop_net"])
    written = {bindings[name] for name in written_names(body) if name in bindings}
    volatile = frozenset(inner for inner, outer in bindings.items() if outer in changing)
    while True:
        boundary = BodyBoundary(bindings, volatile, bool(do.args.get("copy_external_blobs")), context)
        seeds = {
            inner: boundary.binder.bind(variables[outer], inner + SEED)
            for inner, outer in bindings.items()
            if outer in variables
        }
        inside = Differentiation(body.operators, seeds, boundary, reserved=bindings, lenient=context.lenient)
        flowing = {bindings[inner] for inner in inside.start_gradients if inner in bindings}
        _check_condition_net(context, in_condition & ({*variables} | flowing))
        more = sorted((flowing & written).difference(variables))
        if not more:
            return inside, boundary
        for name in more:
            variables[name] = _loop_variable(context, name)


def _differentiable_body(context: GradientContext, do: Operator) -> tuple[Net, str]:
    """Return the net of a forward Do and its scope, which must still hold the workspaces of this Do."""
    if do.is_gradient_op:
        raise OperatorError(
            f"{do!r} cannot be differentiated: it is of a backward net, which has popped the workspaces that "
            "another one would need"
        )
    if do.args.get("reuse_workspace"):
        raise OperatorError(
            f"{do!r} cannot be differentiated: reuse_workspace shares one workspace among several Do; "
            "push one each"
        )
    scope = do.outputs[-1]
    try:
        found = context.value_after(scope)
    except OperatorError as error:
        raise OperatorError(
            f"{do!r} cannot be differentiated: a later operator uses scope {scope!r} again; give each one of "
            "its own (scope= of ns.Do, ns.If and ns.While, named after their nets by default)"
        ) from error
    if found != scope:
        raise OperatorError(
            f"{do!r} cannot be differentiated: scope {scope!r} is used again by the rounds of an outer loop; "
            "create it in the loop's body"
        )
    bindings = bindings_of(do)
    net: Net = do.args["net"]
    reserved = reserved_names(net, bindings)
    if reserved:
        raise OperatorError(
            f"{do!r} cannot be differentiated: the names {reserved} in its net {net.name!r} are kept for "
            "what its gradient saves and makes there; take others"
        )
    return net, scope


def _check_condition_net(context: GradientContext, names: set[str]) -> None:
    if names and not context.lenient:
        raise OperatorError(
            f"{context.operator!r} cannot be differentiated: its cond_net writes {sorted(names)}, through "
            "which a gradient flows; let the body compute them"
        )


def _assign(results: Mapping[str, str]) -> list[Operator]:
    """Return copies of the values into the keys, as if all at once."""
    steps: list[Operator] = []
    sources: dict[str, str] = {}
    for target, source in results.items():
        if source in results and source != target and source not in sources:
            sources[source] = f"{source}{COPY}"
            steps.append(_copy(source, sources[source]))
    for target, source in results.items():
        if source != target:
            steps.append(_copy(sources.get(source, source), target))
    return steps


def _copy(source: str, target: str) -> Operator:
    # What no round and no branch has made is empty, and so is its gradient.
    return Operator("Copy", [source], [target], allow_empty=True)


def _accumulate(sums: Mapping[str, str]) -> list[Operator]:
    return [Operator("Accumulate", [*sums, *sums.values()], [*sums])] if sums else []


def _zeros_like(like: str, target: str) -> Operator:
    return Operator("ConstantFill", [like], [target], value=0.0, dtype="input")


def _like(context: GradientContext, blob: str, gradient: str | None) -> str:
    """Return the name of what has, or is, the layout of a blob: its gradient, if it has one, or itself."""
    if gradient is not None and not context.lenient:
        return gradient
    # Also where there is a gradient: fewer blobs may have one than when it was decided what to save.
    return context.layout_after(blob)


def _made_first(operators: Iterable[Operator]) -> list[str]:
    """Return the names that operators write before any of them reads these."""
    effects = effects_of_all(operators)
    return [name for name in effects.writes if name not in effects.reads]
