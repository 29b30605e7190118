"""Shared variables: the same ones under two names, or in two workspaces, without a copy."""

from __future__ import annotations

from typing import Any

from numscope.errors import BindingError, BlobNotFoundError, BlobTypeError
from numscope.namespace import ancestors
from numscope.variable_scopes import VariableScope, check_name, check_text
from numscope.variables import VariableRecord, forget_dead, making
from numscope.workspace import Workspace, current_workspace

__all__ = ["share_variables"]


def share_variables(
    source: str | VariableScope, target: str | VariableScope, *, workspace: Workspace | None = None
) -> dict[str, Any]:
    """Give variables a second name, or make them variables of another workspace as well. Nothing is copied.

    `source` names a variable, a scope, or both: the variable of that name and all below it are shared, under
    names that begin with `target` instead. Variables made later are not shared.

    `get_variable`, operators and ``ws[name]`` find the shared ones by either name: the new one is forwarded
    to the old one. So bulk work on a workspace and `save` meet the memory once, and ``ws.variables()`` has
    each once, under its first name there. A backward net knows blobs by name: it makes a gradient for each.

    Parameters
    ----------
    source : str or VariableScope
        Full name in the root of the current workspace; "" for all of it.
    target : str or VariableScope
        Full name in the root of `workspace`.
    workspace : Workspace, optional
        Default: the current one.

    Returns
    -------
    dict of str to array
        What is shared, by its new full names.

    Raises
    ------
    BindingError
        A new name has a variable or a blob already, which would alias by accident; `target` lies in `source`
        itself; the workspaces are on different devices, or the one shares with the other already, the other
        way round. Nothing was shared.
    BlobNotFoundError
        There are no variables at `source`.
    BlobTypeError
        An argument is of another type.

    Examples
    --------
    >>> from numscope.variable_scopes import variable_scope
    >>> from numscope.variables import get_variable
    >>> with Workspace(), variable_scope("encoder") as encoder:
    ...     w = get_variable("w", (2, 2))
    ...     shared = share_variables(encoder, "decoder")
    ...     shared["decoder/w"] is w
    True
    """
    if workspace is not None and not isinstance(workspace, Workspace):
        raise BlobTypeError(f"workspace= takes a Workspace, got {type(workspace).__name__} {workspace!r}")
    here = current_workspace().root
    there = here if workspace is None else workspace.root
    old, new = _scope_name(source), _scope_name(target)
    if there.device != here.device:
        raise BindingError(
            f"workspace {there.name!r} is on {there.device}, the variables are on {here.device}; "
            "variables are shared on one device only"
        )
    if there is here and f"{new}/".startswith(f"{old}/" if old else ""):
        raise BindingError(f"{new!r} lies in {old!r}: variables cannot be shared with themselves")
    with making:
        shared: dict[str, VariableRecord] = {}
        for name, record in here._variables.items():
            if record.is_alive and (name == old or name.startswith(f"{old}/") or not old):
                if old and not new and name == old:
                    raise BindingError(f"variable {name!r} cannot be shared as '': give it a name there")
                rest = name.removeprefix(f"{old}/") if old else name
                shared[new if name == old else f"{new}/{rest}" if new else rest] = record
        if not shared:
            raise BlobNotFoundError(f"workspace {here.name!r} has no variables at {old!r}; make them first")
        for name, record in shared.items():
            check_name(name, "variable")
            taken = there._variables.get(name)
            if taken is record:
                continue
            if taken is not None and taken.is_alive:
                raise BindingError(
                    f"variable {record.name!r} cannot be shared as {name!r}: workspace {there.name!r} has a "
                    f"variable of that name, made at {taken.where}; share it under another name"
                )
            forget_dead(there, name)
            if there.has_blob(name):
                raise BindingError(
                    f"variable {record.name!r} cannot be shared as {name!r}: workspace {there.name!r} has a "
                    "blob of that name; remove or rename it, or share under another name"
                )
        owners = {record: _owner(record, there) for record in shared.values()}
        for name, record in shared.items():
            if there._variables.get(name) is record:
                continue
            if owners[record] is there:
                there._alias(name, record.name)
            else:
                there.add_blob_mapping(owners[record], {name: record.name})
            there._variables[name] = record
        return {name: record.array for name, record in shared.items()}


def _owner(record: VariableRecord, there: Workspace) -> Workspace | None:
    """Return the workspace that owns a variable; another one may see it, unless it is seen itself."""
    owner = record.owner()
    if owner is not None and owner is not there and there in ancestors(owner):
        raise BindingError(
            f"variable {record.name!r} cannot be shared with workspace {there.name!r}: its own, "
            f"{owner.name!r}, sees blobs of that one; share in one direction only"
        )
    return owner


def _scope_name(scope: str | VariableScope) -> str:
    if isinstance(scope, VariableScope):
        return scope.name
    check_text(scope, "variable scope")
    return scope
