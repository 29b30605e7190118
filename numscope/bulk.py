"""Work on many tensors of a workspace at once: checked and laid out once, then one kernel call.

A `Plan` holds kernel calls with the addresses in them. It is made from the blobs as they lie, kept in the
workspace, and used until a version number of a workspace that it looked into has changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numscope import kernels
from numscope.blob import Blob
from numscope.errors import BindingError, BlobNotFoundError, BlobTypeError, DeviceUnavailableError
from numscope.kernels.arrays import as_factor
from numscope.namespace import Namespace, ancestors, check_name

if TYPE_CHECKING:
    from numscope.contents import Contents
    from numscope.workspace import Workspace

__all__ = ["COPY", "Merging", "Names", "Plan", "merge", "merging", "pieces", "select", "zero"]

Names = Iterable[str] | Callable[[str], bool] | None

MAX_PLANS = 64  # a workspace that is merged into many others must not grow with them
_BYTES = np.dtype(np.uint8)
_COMPUTED = ("float16", "bfloat16", "float32", "float64")  # float8 is stored and cast only
_Key = tuple["Merging | None", bool, int, tuple[str, ...] | None]  # how, unscaled, id of the other, names


class Merging(NamedTuple):  # part of a key that is hashed at each call: 0.4 us less than a dataclass
    """How a source changes a target: added or copied, and cleared in the same pass or not."""

    adds: bool
    clears: bool


COPY = Merging(adds=False, clears=False)


_ADD = Merging(adds=True, clears=False)


def merging(op: str, clear: bool) -> Merging:
    """Return what the arguments of ``merge_into`` mean."""
    if op not in ("add", "copy"):
        raise BindingError(f'op must be "add" or "copy", got {op!r}')
    how = _ADD if op == "add" else COPY
    return how._replace(clears=True) if clear else how


@dataclass(frozen=True, slots=True)
class Plan:
    """Kernel calls that are ready, and what they were made from.

    Attributes
    ----------
    calls : tuple of Prepared
        Kernel calls, which take the factor.
    other : weak reference
        The second workspace.
    versions : tuple of (weak reference, int)
        The workspaces whose names or places the plan depends on, as they were.
    """

    calls: tuple[kernels.Prepared, ...]
    other: weakref.ref[Namespace]
    versions: tuple[tuple[weakref.ref[Namespace], int], ...]

    def is_current(self, other: Namespace) -> bool:
        """Tell whether nothing has moved since, and `other` is the workspace it was made for."""
        if self.other() is not other:
            return False
        for reference, version in self.versions:
            workspace = reference()
            if workspace is None or workspace._region.version != version:
                return False
        return True


def select(workspace: Contents, names: Names, *, tensors_only: bool = True) -> dict[str, Blob]:
    """Return the chosen local blobs, in the order of their making if no other was given."""
    local = workspace._blobs
    if names is None or callable(names):
        return {
            name: blob
            for name, blob in local.items()
            if (names is None or names(name)) and (blob.is_tensor or not tensors_only)
        }
    chosen: dict[str, Blob] = {}
    for name in _as_tuple(names):
        blob = local.get(name)
        if blob is None:
            raise BlobNotFoundError(workspace._missing(name, "local"))
        chosen[name] = workspace._local_tensor(name) if tensors_only else blob
    return chosen


def pieces(workspace: Workspace, names: Names) -> dict[np.dtype[Any], kernels.Pieces]:
    """Return where the elements of local tensors lie, by dtype."""
    groups: dict[np.dtype[Any], list[Blob]] = {}
    if workspace.arena.closed:
        raise DeviceUnavailableError(
            f"the arena on {workspace.device} is closed; make a new one, with a workspace in it"
        )
    if workspace._region.address == 0:
        raise DeviceUnavailableError(
            f'device {workspace.device!r} has no memory for kernels to work on; use device="cpu"'
        )
    for blob in select(workspace, names).values():
        groups.setdefault(blob._value.dtype, []).append(blob)
    return {dtype: _pieces(blobs) for dtype, blobs in groups.items()}


def zero(workspace: Workspace, names: Names, stream: Any) -> None:
    """Fill local tensors with zeros."""
    _run(workspace, workspace, names, None, 1.0, stream)


def merge(
    workspace: Workspace, other: Workspace, names: Names, how: Merging, alpha: float, stream: Any
) -> None:
    """Add or copy local tensors into the blobs of the same names in another workspace."""
    if not isinstance(other, Namespace):
        raise BlobTypeError(f"the target is a Workspace, got {type(other).__name__} {other!r}")
    try:
        alpha = as_factor(alpha)
    except (TypeError, ValueError) as error:
        raise BlobTypeError(str(error)) from None
    _run(workspace, other, names, how, alpha, stream)


def _run(
    workspace: Workspace,
    other: Workspace,
    names: Names,
    how: Merging | None,
    alpha: float,
    stream: Any = None,
) -> None:
    """Run the plan of a piece of work (None: fill with zeros), made anew where there is no current one."""
    if stream is not None:
        with workspace._region.device.on(stream):
            _run(workspace, other, names, how, alpha)
        return
    with workspace._guard, other._guard:
        if callable(names):  # its answer may change
            calls = _calls(workspace, other, names, how, alpha == 1.0)
        else:
            key = (how, alpha == 1.0, id(other), names if names is None else _as_tuple(names))
            plan = workspace._plans.get(key)
            if plan is None or not plan.is_current(other):
                plan = _plan(workspace, other, key)
            calls = plan.calls
        for call in calls:
            call(alpha)


def _plan(workspace: Workspace, other: Workspace, key: _Key) -> Plan:
    """Make a plan and keep it."""
    how, unscaled, _, names = key
    involved = {id(w): w for w in chain((workspace,), ancestors(other))}.values()
    versions = tuple((weakref.ref(w), w._region.version) for w in involved)
    plan = Plan(_calls(workspace, other, names, how, unscaled), weakref.ref(other), versions)
    if len(workspace._plans) >= MAX_PLANS:
        workspace._plans.clear()
    workspace._plans[key] = plan
    return plan


def _calls(
    workspace: Workspace, other: Workspace, names: Names, how: Merging | None, unscaled: bool
) -> tuple[kernels.Prepared, ...]:
    chosen = select(workspace, names)
    calls = _zeroing(chosen.values()) if how is None else _merging(workspace, other, chosen, how, unscaled)
    return tuple(calls)


def _as_tuple(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise BlobTypeError(
            f"names= takes an iterable of names or a predicate, got {type(names).__name__} {names!r}"
        )
    chosen = tuple(names)
    for name in chosen:
        check_name(name)
    return chosen


def _zeroing(blobs: Iterable[Blob]) -> list[kernels.Prepared]:
    """Return the call that zeroes blobs: neighbours, with the padding between them, are one piece."""
    placed = [b for b in blobs if _has_memory(b)]
    runs: list[list[int]] = []
    for blob in sorted(placed, key=_address):
        address, nbytes = _address(blob), _padded(blob)
        if runs and runs[-1][0] + runs[-1][1] == address:
            runs[-1][1] += nbytes
        else:
            runs.append([address, nbytes])
    if not runs:
        return []
    pieces = kernels.Pieces([r[0] for r in runs], [r[1] for r in runs], _BYTES, _device(placed[0]))
    return [kernels.prepare("zero", pieces)]


def _merging(
    workspace: Workspace, other: Workspace, chosen: dict[str, Blob], how: Merging, unscaled: bool
) -> list[kernels.Prepared]:
    """Return the calls that merge blobs: one for each pair of dtypes."""
    pairs = [(blob, _target(workspace, other, name, blob)) for name, blob in chosen.items()]
    if len({id(target) for _, target in pairs}) < len(pairs):
        raise BindingError(
            f"two names of workspace {workspace.name!r} mean one blob in {other.name!r}, whose value would "
            "depend on their order; merge them one after the other with names="
        )
    groups: dict[tuple[Any, Any], list[tuple[Blob, Blob]]] = {}
    for source, target in pairs:
        if _has_memory(source):
            groups.setdefault((source._value.dtype, target._value.dtype), []).append((source, target))
    calls: list[kernels.Prepared] = []
    for (source_dtype, target_dtype), group in groups.items():
        try:
            calls += _merging_group(group, how, unscaled)
        except (TypeError, ValueError) as error:
            raise BindingError(
                f"blob {group[0][0]._name!r} of {source_dtype} in workspace {workspace.name!r} cannot be "
                f"{_done(how, unscaled)} into {target_dtype} in {other.name!r}: {error}"
            ) from error
    return calls


def _done(how: Merging, unscaled: bool) -> str:
    return "added" if how.adds else "copied" if unscaled else "scaled and copied"


def _merging_group(group: list[tuple[Blob, Blob]], how: Merging, unscaled: bool) -> list[kernels.Prepared]:
    source_dtype, target_dtype = (blob._value.dtype for blob in group[0])
    can_clear = source_dtype.name in _COMPUTED and target_dtype.name in _COMPUTED
    # Of one dtype, both sides are padded alike, and neighbours with the padding between them are one piece
    # to the kernels. What is added in the padding is nobody's.
    padded = source_dtype == target_dtype
    group = sorted(group, key=lambda pair: _address(pair[1]))
    sources, targets = (_pieces(side, padded=padded) for side in zip(*group, strict=True))
    if not how.adds and unscaled and not (how.clears and can_clear):
        copying = kernels.prepare("copy", targets, sources)
        return [copying, *(_zeroing(source for source, _ in group) if how.clears else [])]
    beta = 1.0 if how.adds else 0.0
    return [kernels.prepare("accumulate", targets, sources, beta=beta, zero_source=how.clears)]


def _target(workspace: Workspace, other: Workspace, name: str, source: Blob) -> Blob:
    """Return the blob that a source goes into, after checking that it fits."""
    where = f"blob {name!r} of workspace {workspace.name!r}"
    target = other.get_blob(name)
    if target is None:
        raise BindingError(f"{where} has no blob to go into: {other._missing(name)}; make it there first")
    if not target.is_tensor:
        kind = target.type
        raise BindingError(
            f"{where} cannot go into {other.name!r}, where it holds {kind.name if kind else 'nothing'}; "
            "make it a tensor of the same shape there"
        )
    if target is source:
        raise BindingError(f"{where} is the same blob in {other.name!r}; leave it out with names=")
    if target._value.shape != source._value.shape:
        raise BindingError(
            f"{where} has shape {source._value.shape}, in {other.name!r} it has {target._value.shape}; "
            "expected the same shape"
        )
    if _device(target) != _device(source):
        raise BindingError(
            f"{where} is on {_device(source)}, in {other.name!r} it is on {_device(target)}; "
            "copy it to the same device first"
        )
    return target


def _pieces(blobs: Iterable[Blob], *, padded: bool = False) -> kernels.Pieces:
    """Return where tensors lie, with or without the padding behind each."""
    placed = list(blobs)
    dtype = placed[0]._value.dtype
    lengths = [_padded(b) // dtype.itemsize if padded else b._value.size for b in placed]
    return kernels.Pieces([_address(b) for b in placed], lengths, dtype, _device(placed[0]))


def _has_memory(blob: Blob) -> bool:
    place = blob._place
    return place is not None and place.segment is not None and blob._region.address != 0


def _address(blob: Blob) -> int:
    place = blob._place
    return blob._region.address + (place.offset if place is not None else 0)


def _padded(blob: Blob) -> int:
    return blob._place.nbytes if blob._place is not None else 0


def _device(blob: Blob) -> str:
    return blob._region.device.name
