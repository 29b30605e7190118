r"""Variable scopes: names, reuse and defaults for the variables made inside, by TensorFlow 1's rules.

A variable scope adds its name to the names of variables, opens a name scope of the same name, and hands
down `reuse`, `initializer`, `dtype`, `trainable` and `seed`. It can be entered again by the object that
``with`` returned. Scopes belong to the thread that entered them; the variables are everybody's.

The names of variables and variable scopes are made of TensorFlow's characters: ``A-Z a-z 0-9 _ . - / \ >``.
The full name of a variable begins with a letter, a digit or "."; "" is a name as well. Names are joined by
"/", also where one of them is empty or has "/" at an end: a scope "" inside of "a" is "a/", and a variable
"w" of that is "a//w".
"""

from __future__ import annotations

import enum
import itertools
import re
import threading
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from numscope.errors import BindingError, BlobTypeError
from numscope.scopes import Level, Scope, name_scope, scoped_name
from numscope.types import known_dtype
from numscope.workspace import Workspace, current_workspace

__all__ = ["AUTO_REUSE", "Reuse", "VariableScope", "check_name", "get_variable_scope", "variable_scope"]


class _Auto(enum.Enum):
    AUTO_REUSE = "AUTO_REUSE"

    def __repr__(self) -> str:
        return self.value


AUTO_REUSE: Final = _Auto.AUTO_REUSE
Reuse: TypeAlias = bool | Literal[_Auto.AUTO_REUSE]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VariableScope:
    """What a variable scope says; enter it again with ``variable_scope(scope)``.

    Attributes
    ----------
    reuse : bool or AUTO_REUSE
        False: variables are made; True: they exist; AUTO_REUSE: either.
    initializer
        Of variables that are given none; None: chosen by the dtype.
    dtype : numpy.dtype
        Of variables that are given none.
    trainable : bool
        Of variables for which it is not said.
    seed : int
        Of initial values, together with the name of the variable.
    """

    outer: VariableScope | None
    part: str  # what this scope adds to the name of the outer one: whole names at every level add up
    reuse: Reuse
    initializer: Any
    dtype: np.dtype[Any]
    trainable: bool
    seed: int

    @property
    def name(self) -> str:
        """Full name, without a "/" at the end; "" for the scope around all others."""
        parts = []
        here: VariableScope | None = self
        while here is not None:
            parts.append(here.part)
            here = here.outer
        parts.reverse()
        return "/".join(itertools.dropwhile(lambda part: not part, parts))

    def full_name(self, name: str) -> str:
        """Return the full name of a variable of this scope."""
        scope = self.name
        return f"{scope}/{name}" if scope else name

    def __repr__(self) -> str:
        return f"VariableScope({self.name!r}, reuse={self.reuse!r})"


_OUTERMOST = VariableScope(
    outer=None, part="", reuse=False, initializer=None, dtype=np.dtype("float32"), trainable=True, seed=0
)
_scopes: ContextVar[Level[variable_scope] | None] = ContextVar("numscope.variable_scope", default=None)


def get_variable_scope() -> VariableScope:
    """Return this thread's innermost variable scope, or the one around all others."""
    level = _scopes.get()
    return _OUTERMOST if level is None else level.scope.opened


_NAME = re.compile(r"([A-Za-z0-9.][A-Za-z0-9_.\\/>-]*)?")


def check_name(name: str, what: str, *, is_part: bool = False) -> None:
    """Raise unless a full name is one for variables; the rule stands above.

    A part may begin with any of the characters where a name scope is around.
    """
    if not _NAME.fullmatch(name) and not (is_part and scoped_name("") and _NAME.fullmatch(f"x{name}")):
        raise BindingError(
            f"{name!r} is no name for a {what}: expected letters A-Z and a-z, digits and _ . - / \\ >, "
            "the first one a letter, a digit or '.'; put '_' in the place of others"
        )


def check_text(name: object, what: str) -> None:
    """Raise unless a name is text."""
    if not isinstance(name, str):
        raise BlobTypeError(f"the name of a {what} is a str, got {type(name).__name__} {name!r}")


class _Siblings(dict[str, "_Opened"]):
    """Scopes that were opened in one scope, by name.

    `born` is the mark under which this was made. Undoing that mark drops it, as a whole.
    """

    __slots__ = ("born",)

    def __init__(self, born: int) -> None:
        super().__init__()
        self.born = born


class _Opened:
    """How often a scope was opened, and the scopes below it."""

    __slots__ = ("below", "born", "suffix", "times")

    def __init__(self, born: int) -> None:
        self.born = born  # as its siblings
        self.times = 0
        self.suffix = 0  # the last one that made this name unique
        self.below = _Siblings(born)


class _OpenedScopes:
    """Which scopes one thread opened over one root workspace: what makes a default name unique.

    TensorFlow keeps a flat table of full names. It forgets what was opened below a scope when the scope is
    left, and takes the whole table back to what it was when a scope is left that was entered by its object.
    Here a tree forgets in one step, where the table is searched from end to end, and journals take back.

    Marks are numbered. The journal of a mark has each entry that is older once, as it was: a training loop
    inside a scope that was entered by its object may open scopes for ever.
    """

    def __init__(self) -> None:
        self.top = _Opened(0)
        self._mark = 0  # the innermost one; 0: none
        self._last = 0  # the last number given
        self._journals: list[tuple[int, dict[_Opened, tuple[int, int, _Siblings]]]] = []

    def at(self, around: _Opened, name: str) -> _Opened:
        """Return the entry of a name inside a scope."""
        if around is self.top and not name:  # outside of all scopes, "" adds nothing
            return around
        for part in name.split("/"):
            siblings = around.below
            around = siblings.get(part) or siblings.setdefault(part, _Opened(siblings.born))
        return around

    def open(self, entry: _Opened) -> None:
        """Count an opening."""
        self._note(entry)
        entry.times += 1

    def forget_below(self, entry: _Opened) -> None:
        """Forget what was opened below."""
        self._note(entry)
        entry.below = _Siblings(self._mark)

    def unique(self, around: _Opened, name: str) -> str:
        """Return the name, with the first suffix that makes it one not opened yet: lstm, lstm_1, ..."""
        entry = self.at(around, name)
        if entry.times == 0:
            return name
        self._note(entry)
        # All lower suffixes are taken: siblings are forgotten together.
        entry.suffix += 1
        while self.at(around, f"{name}_{entry.suffix}").times:
            entry.suffix += 1
        return f"{name}_{entry.suffix}"

    def mark(self) -> None:
        """Begin to note changes, for `take_back`."""
        self._journals.append((self._mark, {}))
        self._mark = self._last = self._last + 1

    def take_back(self) -> None:
        """Undo all changes since the last mark, and the mark."""
        self._mark, journal = self._journals.pop()
        for entry, before in journal.items():
            entry.times, entry.suffix, entry.below = before

    def _note(self, entry: _Opened) -> None:
        if entry.born < self._mark:
            self._journals[-1][1].setdefault(entry, (entry.times, entry.suffix, entry.below))


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.opened: weakref.WeakKeyDictionary[Workspace, _OpenedScopes] = weakref.WeakKeyDictionary()


_per_thread = _PerThread()


class variable_scope(Scope):  # noqa: N801 - used like a function, as in TensorFlow
    """Put variables made inside under a name, and say how they are made.

    ``with variable_scope(...) as scope`` gives a `VariableScope`, which can be entered again later.

    Parameters
    ----------
    name_or_scope : str, VariableScope or None
        A name is added to that of the scope around. A `VariableScope` is entered as it is, wherever the
        thread is. None: `default_name` is used.
    default_name : str, optional
        Used when there is no name, and made unique among the scopes that this thread has opened in the
        scope around: "lstm", "lstm_1", ... A scope that is opened anew begins to count anew. One manager
        that is entered again keeps its name, and the reuse that it has inherited once.
    reuse : bool or AUTO_REUSE, optional
        True: variables must exist already; AUTO_REUSE: they are made if they do not. None and False
        inherit: reuse cannot be undone below. A `VariableScope` brings its own.
    initializer, dtype, trainable, seed : optional
        Defaults for variables made inside; inherited from the scope around, or the `VariableScope`, unless
        given. `seed` is an int from 0 up, 0 at the outermost.

    Raises
    ------
    BindingError
        A name breaks the rule for names; `reuse` is none of the four values, or is given without a name.
    BlobTypeError
        There is neither a name nor a default name, or an argument is of another type.
    StackError
        As for `name_scope`.

    Notes
    -----
    TensorFlow makes the names of operations unique, so that a scope opened twice opens the name scopes "a"
    and "a_1". Here it is "a" both times: a training loop opens its scopes in every iteration.

    Examples
    --------
    >>> with variable_scope("encoder"), variable_scope(None, "layer") as scope:
    ...     scope.name
    'encoder/layer'
    """

    _innermost = _scopes
    __slots__ = ("_default", "_entry", "_given", "_name", "_name_scope", "_table", "opened")
    opened: VariableScope
    _entry: _Opened
    _table: _OpenedScopes

    def __init__(
        self,
        name_or_scope: str | VariableScope | None,
        default_name: str | None = None,
        *,
        reuse: Reuse | None = None,
        initializer: Any = None,
        dtype: DTypeLike | None = None,
        trainable: bool | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self._default = name_or_scope is None
        if name_or_scope is None:
            if default_name is None:
                raise BlobTypeError("a variable scope needs a name: give name_or_scope or default_name")
            if reuse:
                raise BindingError(
                    f"reuse={reuse!r} needs name_or_scope: a default name is made unique, nothing has it yet"
                )
            name_or_scope = default_name
        if not isinstance(name_or_scope, VariableScope):
            check_text(name_or_scope, "variable scope")
        if not (reuse is None or isinstance(reuse, bool | _Auto)):
            raise BindingError(f"reuse is True, False, None or AUTO_REUSE, got {reuse!r}")
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise BindingError(f"the seed of a variable scope is an int from 0 up, got {seed!r}")
        if trainable is not None and not isinstance(trainable, bool):
            raise BlobTypeError(f"trainable is True, False or None, got {trainable!r}")
        given = {
            "reuse": reuse or None,
            "initializer": initializer,
            "dtype": None if dtype is None else known_dtype(dtype),
            "trainable": trainable,
            "seed": seed,
        }
        self._name: str | VariableScope = name_or_scope
        self._given: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    def __enter__(self) -> VariableScope:
        around = _scopes.get()
        table = _table_of(current_workspace().root)
        part = self._name if isinstance(self._name, str) else self._name.name.rpartition("/")[2]
        check_name(part, "variable scope", is_part=True)
        super().__enter__()
        self._table = table
        if isinstance(self._name, VariableScope):
            self.opened = replace(self._name, **self._given)
            path = self.opened.name
            self._entry = table.at(table.top, path)
            table.open(self._entry)
            table.mark()
            self._name_scope = name_scope(part)
        else:
            outer = _OUTERMOST if around is None else around.scope.opened
            if around is not None and around.scope._table is table:
                entry = around.scope._entry
            else:
                entry = table.at(table.top, outer.name)
            if self._default:
                self._name, self._default = table.unique(entry, self._name), False
            self.opened = replace(outer, outer=outer, part=self._name, **self._given)
            if self.opened.reuse:
                self._given["reuse"] = self.opened.reuse  # for good, whatever is around the next time
            self._entry = table.at(entry, self._name)
            table.open(self._entry)
            self._name_scope = name_scope(self._name)
        self._name_scope.__enter__()
        return self.opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.check_innermost()
        self._name_scope.__exit__(kind, error, trace)
        if isinstance(self._name, VariableScope):
            self._table.take_back()
        elif self._entry is not self._table.top:
            self._table.forget_below(self._entry)
        super().__exit__(kind, error, trace)

    def __repr__(self) -> str:
        name = self._name.name if isinstance(self._name, VariableScope) else self._name
        return f"variable_scope({name!r})"


def _table_of(root: Workspace) -> _OpenedScopes:
    table = _per_thread.opened.get(root)
    if table is None:
        table = _per_thread.opened[root] = _OpenedScopes()
    return table
