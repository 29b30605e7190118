"""Sizes in bytes from numbers and text."""

import numpy as np
import pytest

import numscope as ns
from numscope.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("64 MiB", 64 << 20),
        ("64MiB", 64 << 20),
        (" 64  mib ", 64 << 20),
        ("1.5 GiB", 3 << 29),
        ("1.5 GB", 1_500_000_000),
        ("2 kB", 2000),
        ("2 KiB", 2048),
        ("3 TiB", 3 << 40),
        ("1 PiB", 1 << 50),
        ("7 B", 7),
        ("7", 7),
        ("0.5 KiB", 512),
        (4096, 4096),
        (np.int64(4096), 4096),
    ],
)
def test_sizes_are_read(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "wrong",
    [
        0,
        -1,
        "0",
        "0 MiB",
        "-4 MiB",
        "12 parsecs",
        "",
        "MiB",
        "1e6",
        "inf",
        "nan",
        "1,5 GB",
        "0.1 B",
        "1 M iB",
    ],
)
def test_what_is_no_size_is_refused(wrong):
    with pytest.raises(ns.BindingError, match=r"size|bytes") as error:
        parse_size(wrong)
    assert isinstance(error.value, ValueError)
    assert repr(wrong) in str(error.value)


@pytest.mark.parametrize("wrong", [None, 1.5, 1e6, b"64 MiB", [64]])
def test_what_is_no_number_and_no_text_is_a_type_error(wrong):
    with pytest.raises(ns.BlobTypeError, match='"64 MiB"'):
        parse_size(wrong)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (640, "640 B"), (1536, "1.50 KiB"), (64 << 20, "64.00 MiB"), (1 << 50, "1024.00 TiB")],
)
def test_sizes_are_written_for_people(nbytes, text):
    assert format_size(nbytes) == text
