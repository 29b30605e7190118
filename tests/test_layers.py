"""Imports go one way: each module knows only those that stand before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUESTS = {"torch", "jax"}

# From the bottom up. A package stands for all of its modules.
ORDER = (  # noqa: SIM905 - fifty words in quotes read worse
    "kernels errors exclusive sizes ranges scopes types arrays storage segments memory cuda_memory "
    "cuda_device device arena defaults region blob namespace bulk contents transfer files workspace stack "
    "variable_scopes initializers variables sharing operators ledger descriptions addition arrangement "
    "matching slab gradients "
    "interop datasets stopwatch optimizers perceptron recurrent results training sequences reporting "
    "options inventory benchmark cuda_benchmark cli __main__"
).split()


def modules():
    for path in sorted([*ROOT.glob("numscope/**/*.py"), *ROOT.glob("kernels/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "__pycache__" not in parts and path != ROOT / "numscope" / "__init__.py":
            yield parts, path


def imports(path):
    """Yield the dotted names that a module imports, but for those that only the type checker sees."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base == "numscope")
        else:
            waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize(("parts", "path"), [pytest.param(p, f, id="/".join(p)) for p, f in modules()])
def test_a_module_imports_only_what_stands_below_it(parts, path):
    room = "kernels" if parts[0] == "kernels" else parts[1]
    assert room in ORDER, f"{path.name} has no place in the order of layers: give it one"
    for name in imports(path):
        words = name.split(".")
        if room == "kernels":
            assert words[0] != "numscope", f"kernels know nothing of numscope: {name}"
        elif words[0] == "numscope" and len(words) > 1 and words[1] != room:
            assert words[1] in ORDER, name
            assert ORDER.index(words[1]) < ORDER.index(room), (
                f"{path.name} imports {name}, which stands above"
            )


@pytest.mark.parametrize(("parts", "path"), [pytest.param(p, f, id="/".join(p)) for p, f in modules()])
def test_guests_and_compilers_are_imported_in_their_rooms_only(parts, path):
    for name in imports(path):
        if name.split(".")[0] in GUESTS:
            assert {"interop", "benchmark", "cuda_benchmark"} & set(parts), f"{path.name} imports {name}"
        if name.split(".")[0] in ("numba", "llvmlite"):
            assert parts[0] == "kernels", f"{path.name} imports {name}"
        if name.startswith(("numba.cuda", "cuda.")):
            assert parts[-1].startswith("cuda"), f"{path.name} imports {name}"
