"""Examples to train on: the digits that come with the package, or a user's file.

A file holds features, one row for each example, and one label a row. What cannot be trained on is refused
here, with a text that says what, what was expected, and the cure.
"""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numscope import storage
from numscope.errors import BindingError

__all__ = [
    "DIGITS_SOURCE",
    "FEATURE_NAMES",
    "LABEL_NAMES",
    "SUFFIXES",
    "Dataset",
    "digits",
    "load",
    "make_dataset",
]

FEATURE_NAMES = ("features", "x", "X", "data")
LABEL_NAMES = ("labels", "label", "y", "target", "targets", "class")
SUFFIXES = (".npz", ".safetensors", ".csv")
MIN_ROWS = 10
TEST_SHARE = 5  # every fifth example is kept for the test

DIGITS_SOURCE = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, "
    "UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0"
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of known classes, in a part to train on and a part to test with.

    Features are standardised: mean 0 and variance 1 over the training examples, 0 where they never vary.

    Attributes
    ----------
    name : str
        For people.
    train_features, test_features : numpy.ndarray
        Shape (examples, features), float32.
    train_labels, test_labels : numpy.ndarray
        Shape (examples,), int64: indices into `classes`.
    classes : tuple of str
        Names of the classes.
    source : str
        Whom the examples are from, where that must be said.
    """

    name: str
    train_features: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_features: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str = ""


def digits(seed: int = 0) -> Dataset:
    """Return the handwritten digits that come with the package: 1,797 images of 8x8 pixels.

    Parameters
    ----------
    seed : int, default 0
        Chooses the examples of the test.
    """
    with (
        resources.files("numscope").joinpath("data/digits.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        dataset = make_dataset("digits", arrays["features"], arrays["labels"], seed)
    return replace(dataset, source=DIGITS_SOURCE)


def load(path: str | os.PathLike[str], seed: int = 0) -> Dataset:
    """Read examples from a file.

    Parameters
    ----------
    path : path
        ``.npz`` or ``.safetensors`` with an array named as in `FEATURE_NAMES` and one as in `LABEL_NAMES`;
        or ``.csv`` with one example a line: numbers, and a label in the column that has one of
        `LABEL_NAMES` as its heading, else in the last column. A first line without numbers, or with such
        a heading, is taken as headings; the label may be text.
    seed : int, default 0
        Chooses the examples of the test.

    Raises
    ------
    BindingError
        The file is damaged, of an unknown kind, or its content is nothing to train on.
    OSError
        It cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BindingError(
            f"{str(path)!r} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}; "
            "convert the file, or give it the suffix of what it is"
        )
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}, expected one with examples; check its name")
    if path.is_file() and path.stat().st_size == 0:
        raise BindingError(f"{str(path)!r} is empty, expected features and labels; write it again")
    reader = {".npz": _read_npz, ".safetensors": _read_safetensors, ".csv": _read_csv}[suffix]
    features, labels = reader(path)
    return make_dataset(str(path), features, labels, seed)


def make_dataset(name: str, features: Any, labels: Any, seed: int = 0) -> Dataset:
    """Check examples, standardise their features, and keep every fifth for the test, chosen at random.

    Parameters
    ----------
    name : str
        For people, and in errors.
    features : numpy.ndarray
        Shape (examples, ...): real numbers; all but the first dimension are flattened.
    labels : numpy.ndarray
        Shape (examples,) or (examples, 1): whole numbers or text.
    seed : int, default 0

    Raises
    ------
    BindingError
        The arrays do not fit together or are nothing to train on.
    """
    values = _check_features(name, features)
    classes, indices = _check_labels(name, labels, len(values))
    order = np.random.default_rng(seed).permutation(len(values))
    held_out, trained = np.sort(order[::TEST_SHARE]), np.sort(np.delete(order, np.s_[::TEST_SHARE]))
    standardised = _standardised(values, trained)
    return Dataset(
        name=name,
        train_features=standardised[trained],
        train_labels=indices[trained],
        test_features=standardised[held_out],
        test_labels=indices[held_out],
        classes=classes,
    )


def _check_features(name: str, features: NDArray[Any]) -> NDArray[np.float64]:
    if features.dtype.kind not in "biuf" and features.dtype.name != "bfloat16":
        raise BindingError(
            f"the features of {name!r} are of dtype {features.dtype}, expected real numbers; "
            "turn text and categories into numbers, or leave them out"
        )
    if features.ndim < 2 or 0 in features.shape[1:]:
        raise BindingError(
            f"the features of {name!r} have shape {features.shape}, expected (examples, features) with at "
            "least one feature; a single feature needs the shape (examples, 1)"
        )
    if len(features) < MIN_ROWS:
        raise BindingError(
            f"{name!r} has {len(features)} examples, expected at least {MIN_ROWS}: every fifth is kept for "
            "the test; add examples"
        )
    values = features.reshape(len(features), -1).astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise BindingError(
            f"{int(bad.sum())} features of {name!r} are NaN or infinite, the first in row {row}, column "
            f"{column} (counted from 0); expected finite numbers; fill or drop these examples"
        )
    return values


def _check_labels(
    name: str, labels: NDArray[Any], examples: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if labels.shape not in ((examples,), (examples, 1)):
        raise BindingError(
            f"the labels of {name!r} have shape {labels.shape}, expected ({examples},): one for each row of "
            "features"
        )
    labels = labels.reshape(examples)
    if labels.dtype.name == "bfloat16":
        labels = labels.astype(np.float32)
    if labels.dtype.kind not in "biufU":
        raise BindingError(
            f"the labels of {name!r} are of dtype {labels.dtype}, expected whole numbers or text; "
            "convert them"
        )
    if labels.dtype.kind == "f":
        strange = labels[~(np.isfinite(labels) & (labels == np.rint(labels)))]
        if len(strange):
            raise BindingError(
                f"{len(strange)} labels of {name!r} are not whole, the first is {strange[0]}; expected whole "
                "numbers or text that name classes; measurements to be predicted cannot be trained on here"
            )
    found, indices = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise BindingError(
            f"{name!r} has one class, {found[0]}, expected two or more: there is nothing to tell apart; "
            "check which column or array holds the labels"
        )
    if len(found) > examples // 2:
        raise BindingError(
            f"{name!r} has {len(found)} classes for {examples} examples, expected at most half as many; "
            "check that the labels are classes and not identifiers or measurements"
        )
    if labels.dtype.kind == "f":
        found = found.astype(np.int64) if abs(found).max() < 2**63 else found
    return tuple(str(c) for c in found), indices.astype(np.int64)


def _standardised(values: NDArray[np.float64], trained: NDArray[np.int64]) -> NDArray[np.float32]:
    largest = np.abs(values).max(axis=0)
    # Values near the limits of float64 have no mean or variance in it; in units of the largest they have.
    scaled = values / np.where(largest > 0, largest, 1.0)
    mean, deviation = scaled[trained].mean(axis=0), scaled[trained].std(axis=0)
    standardised: NDArray[np.float64] = (scaled - mean) / np.where(deviation > 0, deviation, 1.0)
    # A test example may be far outside of what was trained on.
    limit = np.finfo(np.float32).max
    return standardised.clip(-limit, limit).astype(np.float32)


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with open(path, "rb") as file:  # np.load leaves a damaged file open that it opened itself
        try:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                archive = {"a single array without a name": archive}
            members = {name: archive[name] for name in archive}
        # OSError: a damaged directory of members sends the reader to places outside the file.
        except (ValueError, EOFError, RuntimeError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise BindingError(
                f"{str(path)!r} is damaged, or holds Python objects ({error}); expected plain arrays; "
                "write it again with np.savez"
            ) from None
    # A member that is no array is read as bytes.
    return _choose(path, {name: value for name, value in members.items() if isinstance(value, np.ndarray)})


def _read_safetensors(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    arrays = {name: value for name, value in storage.load(path).items() if isinstance(value, np.ndarray)}
    return _choose(path, arrays)


def _choose(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take the features and the labels out of named arrays."""
    chosen = []
    for what, names in (("features", FEATURE_NAMES), ("labels", LABEL_NAMES)):
        found = [name for name in names if name in arrays]
        if len(found) != 1:
            got = " and ".join(map(repr, found)) if found else ", ".join(sorted(arrays)) or "no arrays"
            raise BindingError(
                f"{str(path)!r} has {got}, expected one array of {what}, named {' or '.join(names)}; "
                "rename or leave out arrays"
            )
        chosen.append(arrays[found[0]])
    return chosen[0], chosen[1]


def _read_csv(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BindingError(
            f"{str(path)!r} is no text of comma-separated values in UTF-8 ({error}); export it as such"
        ) from None
    headings, rows = _headings(rows)
    if not rows:
        raise BindingError(f"{str(path)!r} is empty, expected one example a line; write it again")
    width = len(headings)
    if width < 2:
        raise BindingError(
            f"{str(path)!r} has {width} column, expected features and a label, with commas between them; "
            "export it with commas"
        )
    for line, row in rows:
        if len(row) != width:
            raise BindingError(
                f"line {line} of {str(path)!r} has {len(row)} values, expected {width} as in the first line; "
                "complete it or take it out"
            )
    named = [i for i, heading in enumerate(headings) if heading.lower() in LABEL_NAMES]
    if len(named) > 1:
        raise BindingError(
            f"{str(path)!r} has {len(named)} columns of labels ({', '.join(headings[i] for i in named)}), "
            "expected one; rename or remove the others"
        )
    label = named[0] if named else width - 1
    features = np.empty((len(rows), width - 1))
    for number, (line, row) in enumerate(rows):
        cells = row[:label] + row[label + 1 :]
        try:
            features[number] = [float(cell) for cell in cells]
        except ValueError:
            column, cell = next((i, c) for i, c in enumerate(cells) if not _is_number(c))
            heading = headings[column if column < label else column + 1]
            raise BindingError(
                f"line {line} of {str(path)!r} has {cell!r} in column {heading!r}, expected a number; "
                "only the label may be text: turn other text into numbers, or leave the column out"
            ) from None
    return features, _label_array(path, [(line, row[label].strip()) for line, row in rows])


def _headings(rows: list[tuple[int, list[str]]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Split the first line off if it names the columns; else number them."""
    if not rows:
        return [], rows
    first = [cell.strip() for cell in rows[0][1]]
    names_labels = any(cell.lower() in LABEL_NAMES for cell in first)
    # A first line with a number in it is data: its label may be text.
    if not names_labels and any(_is_number(cell) for cell in first):
        return [str(i + 1) for i in range(len(first))], rows
    return first, rows[1:]


def _label_array(path: Path, labels: list[tuple[int, str]]) -> NDArray[Any]:
    """Return labels as numbers where all are, else as text."""
    missing = [line for line, label in labels if not label or label.lower() == "nan"]
    if missing:
        raise BindingError(
            f"line {missing[0]} of {str(path)!r} has no label, expected a whole number or text; "
            "fill in or remove such lines"
        )
    texts = [label for _, label in labels]
    numbers = all(_is_number(text) for text in texts)
    return np.array([float(text) for text in texts]) if numbers else np.array(texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
