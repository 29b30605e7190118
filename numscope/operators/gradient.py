"""The backward net of a net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from numscope.errors import OperatorError
from numscope.operators.boundary import Boundary
from numscope.operators.definition import Net, Operator, blob_names, check_nesting
from numscope.operators.differentiation import Differentiation
from numscope.operators.effects import effects_of_all
from numscope.operators.registry import find_operator
from numscope.scopes import BlobReference, unscoped

__all__ = ["gradient"]


def gradient(net: Net, of: Mapping[str, str] | Iterable[str]) -> tuple[Net, dict[str, BlobReference]]:
    """Generate the backward net of a net.

    Run it in the same workspace after each run of the net.

    Parameters
    ----------
    net : Net
        It is not changed.
    of : mapping of str to str, or iterable of str
        What is differentiated, by whole names: blob -> the name of its gradient, a blob that is filled
        before the backward net runs (and that it never writes). For names alone these gradients are ones.

    Returns
    -------
    backward : Net
    gradients : dict of str to BlobReference
        Blob -> the blob with its gradient, normally ``x`` -> ``x_grad``. For a name that is written more
        than once, the gradient of its earliest value that has one. A value from before that a branch or a
        loop may leave alone counts if the net reads it first, or declares it as an `external_input`;
        otherwise there need not be one.

    Raises
    ------
    OperatorError
        A blob that the net does not touch, or an operator through which no gradient can be computed; the
        text names operator and blob.

    Examples
    --------
    >>> net = Net("square", [Operator("Mul", ["x", "x"], ["y"])])
    >>> backward, gradients = gradient(net, {"y": "dy"})
    >>> [step.type for step in backward.operators], gradients["x"]
    (['MulGradient', 'Sum'], 'x_grad')
    """
    if not isinstance(net, Net):
        raise OperatorError(f"expected a Net, got a {type(net).__name__}; Net.from_dict reads plain data")
    check_nesting(net)
    owner = f"gradient of net {net.name!r}"
    names = blob_names(owner, "what is differentiated", tuple(of) if isinstance(of, Mapping) else of)
    for operator in net.operators:
        find_operator(operator.type).schema.check_whole(operator)
    effects = effects_of_all(net.operators)
    touched = {*effects.reads, *effects.writes}
    touched.update(name for operator in net.operators for name in operator.outputs)
    for name in names:
        if name not in touched:
            raise OperatorError(
                f"net {net.name!r} has no blob {name!r} to differentiate; its blobs are {sorted(touched)}"
            )
    steps: list[Operator] = []
    with unscoped():  # the names are those of a net that is there
        if isinstance(of, Mapping):
            seeds = dict(zip(names, blob_names(owner, "names of gradients", tuple(of.values())), strict=True))
        else:
            seeds = {name: f"{name}_autogen_grad" for name in names}
            steps = [
                Operator("ConstantFill", [name], [seed], value=1.0, dtype="input")
                for name, seed in seeds.items()
            ]
        result = Differentiation(net.operators, seeds, Boundary(net.external_input))
    gradients = {name: BlobReference(made) for name, made in result.gradients.items()}
    backward_name = None if net.name is None else f"{net.name}_grad"
    return Net(backward_name, [*steps, *result.operators]), gradients
