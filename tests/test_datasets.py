"""The digits that come along, and users' files: what can be trained on, and what is refused."""

import io
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from numscope import datasets, storage
from numscope.errors import BindingError

ROWS = 40


def features(rows=ROWS, columns=3):
    return np.random.default_rng(5).normal(size=(rows, columns))


def labels(rows=ROWS):
    return np.arange(rows) % 2


def write_csv(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def csv_lines(rows=ROWS):
    return [f"{a},{b},{c},{k}" for (a, b, c), k in zip(features(rows), labels(rows), strict=True)]


def all_examples(dataset):
    """Features and labels of both parts, as a sorted list of rows."""
    rows = [
        *zip(dataset.train_features.tolist(), dataset.train_labels.tolist(), strict=True),
        *zip(dataset.test_features.tolist(), dataset.test_labels.tolist(), strict=True),
    ]
    return sorted(rows)


class TestDigits:
    def test_are_whole_and_attributed(self):
        dataset = datasets.digits()
        assert dataset.train_features.shape == (1437, 64)
        assert dataset.test_features.shape == (360, 64)
        assert dataset.classes == tuple("0123456789")
        assert "CC BY 4.0" in dataset.source
        assert "10.24432/C50P49" in dataset.source
        counts = np.bincount(np.concatenate([dataset.train_labels, dataset.test_labels]))
        assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]

    def test_attribution_lies_beside_the_data(self):
        folder = Path(datasets.__file__).parent / "data"
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "CC BY 4.0" in text
        assert "10.24432/C50P49" in text


class TestMakeDataset:
    def test_standardises_by_the_training_examples(self):
        dataset = datasets.make_dataset("x", features(200) * 1000 + 7, labels(200))
        np.testing.assert_allclose(dataset.train_features.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(dataset.train_features.std(axis=0), 1, rtol=1e-6)
        assert dataset.train_features.dtype == dataset.test_features.dtype == np.float32

    def test_keeps_every_example_once(self):
        numbers = np.arange(50.0)[:, None]
        dataset = datasets.make_dataset("x", numbers, labels(50))
        assert len(dataset.test_labels) == 10
        found = np.concatenate([dataset.train_features, dataset.test_features]).ravel()
        assert len(np.unique(found)) == 50

    def test_seed_chooses_the_test_examples(self):
        first, again, other = (datasets.make_dataset("x", features(), labels(), seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.test_features, again.test_features)
        assert not np.array_equal(first.test_features, other.test_features)

    def test_constant_features_become_zero(self):
        values = features()
        values[:, 1] = 3e-300
        dataset = datasets.make_dataset("x", values, labels())
        assert not dataset.train_features[:, 1].any()

    @pytest.mark.parametrize("scale", [1e300, 1e-300])
    def test_values_near_the_limits_of_float64(self, scale):
        usual = datasets.make_dataset("x", features(), labels())
        extreme = datasets.make_dataset("x", features() * scale, labels())
        np.testing.assert_allclose(extreme.train_features, usual.train_features, rtol=1e-5, atol=1e-6)

    def test_an_example_far_outside_of_the_others_is_finite(self):
        for row in range(ROWS):  # to train on or to test with
            values = features()
            values[row, 1] = 1e300
            dataset = datasets.make_dataset("x", values, labels())
            assert np.isfinite(dataset.train_features).all()
            assert np.isfinite(dataset.test_features).all()

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", ">f4", "float16", "bfloat16", "float64"])
    def test_takes_real_numbers_of_any_dtype(self, dtype):
        kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        values = (np.arange(ROWS * 3) % 2).reshape(ROWS, 3).astype(kind)
        assert datasets.make_dataset("x", values, labels()).train_features.shape == (32, 3)

    def test_flattens_images(self):
        assert datasets.make_dataset("x", np.ones((20, 4, 5, 2)), labels(20)).train_features.shape == (16, 40)

    def test_labels_may_be_any_whole_numbers_or_text(self):
        for kinds in ([-3, 700], ["cat", "dog"], [True, False], [1.0, 2.0]):
            dataset = datasets.make_dataset("x", features(), np.array(kinds)[labels()])
            assert len(dataset.classes) == 2
            assert set(dataset.train_labels) <= {0, 1}
        assert datasets.make_dataset("x", features(), np.array([1.0, 2.0])[labels()]).classes == ("1", "2")
        assert datasets.make_dataset("x", features(), labels()[:, None]).classes == ("0", "1")

    @pytest.mark.parametrize(
        ("values", "kinds", "message"),
        [
            (features().astype(complex), labels(), "of dtype complex128, expected real numbers; turn text"),
            (features().astype(str), labels(), "expected real numbers; turn text"),
            (features()[:, 0], labels(), r"shape \(40,\), expected \(examples, features\).*\(examples, 1\)"),
            (np.ones((40, 0)), labels(), r"shape \(40, 0\), expected .* at least one feature"),
            (np.float64(3), labels(), r"shape \(\), expected \(examples, features\)"),
            (features(9), labels(9), "has 9 examples, expected at least 10.*add examples"),
            (features(0), labels(0), "has 0 examples, expected at least 10"),
            (features(), labels(39), r"labels of 'x' have shape \(39,\), expected \(40,\)"),
            (features(), np.eye(40), r"labels of 'x' have shape \(40, 40\), expected \(40,\)"),
            (features(), labels() + 0.5, r"40 labels of 'x' are not whole, the first is 0.5; expected whole"),
            (features(), np.where(labels(), np.nan, 1), "20 labels of 'x' are not whole, the first is nan"),
            (features(), np.where(labels(), np.inf, 1), "the first is inf"),
            (
                features(),
                labels() * 1j,
                "labels of 'x' are of dtype complex128, expected whole numbers or text",
            ),
            (features(), labels() * 0, "one class, 0, expected two or more.*check which"),
            (features(), np.arange(40), "40 classes for 40 examples, expected at most half as many"),
        ],
    )
    def test_refuses_what_cannot_be_trained_on(self, values, kinds, message):
        with pytest.raises(BindingError, match=message):
            datasets.make_dataset("x", np.asarray(values), kinds)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_refuses_features_that_are_not_finite(self, bad):
        values = features()
        values[7, 2] = values[9, 0] = bad
        with pytest.raises(BindingError, match=r"2 features .* the first in row 7, column 2 .*fill or drop"):
            datasets.make_dataset("x", values, labels())


class TestFiles:
    @pytest.fixture
    def expected(self):
        return all_examples(datasets.make_dataset("x", features(), labels()))

    @pytest.mark.parametrize(("first", "second"), [("features", "labels"), ("x", "y"), ("data", "target")])
    def test_npz(self, tmp_path, expected, first, second):
        np.savez_compressed(tmp_path / "a.npz", **{first: features(), second: labels(), "notes": "other"})
        assert all_examples(datasets.load(tmp_path / "a.npz")) == expected

    def test_safetensors(self, tmp_path, expected):
        storage.save(tmp_path / "a.safetensors", {"X": features(), "labels": labels(), "notes": "text"})
        assert all_examples(datasets.load(tmp_path / "a.safetensors")) == expected

    def test_csv_without_headings(self, tmp_path, expected):
        assert all_examples(datasets.load(write_csv(tmp_path / "a.csv", csv_lines()))) == expected

    def test_csv_with_headings(self, tmp_path, expected):
        path = write_csv(tmp_path / "A.CSV", ["a,b,c,kind", *csv_lines()])
        assert all_examples(datasets.load(path)) == expected

    def test_csv_whose_label_is_not_last(self, tmp_path, expected):
        rows = [line.split(",") for line in csv_lines()]
        path = write_csv(tmp_path / "a.csv", ["a,Label,b,c", *(f"{r[0]},{r[3]},{r[1]},{r[2]}" for r in rows)])
        assert all_examples(datasets.load(path)) == expected

    def test_csv_headings_may_be_numbers_beside_the_label(self, tmp_path, expected):
        path = write_csv(tmp_path / "a.csv", ["0,1,2,label", *csv_lines()])
        assert all_examples(datasets.load(path)) == expected

    def test_csv_with_text_labels_quotes_blanks_and_a_byte_order_mark(self, tmp_path):
        kinds = ['"no, or so"', "yes"]
        rows = zip(features(20, 2), labels(20), strict=True)
        path = tmp_path / "a.csv"
        path.write_text(
            "\ufeff" + "\n\n".join(f' {a} ,"{b}",{kinds[k]} ' for (a, b), k in rows), encoding="utf-8"
        )
        dataset = datasets.load(path)
        assert dataset.classes == ("no, or so", "yes")
        assert dataset.train_features.shape == (16, 2)

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.safetensors"])
    def test_missing(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match=name):
            datasets.load(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.safetensors"])
    def test_empty(self, tmp_path, name):
        (tmp_path / name).touch()
        with pytest.raises(BindingError, match=rf"{name}' is empty, expected features and labels"):
            datasets.load(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.safetensors"])
    def test_a_folder(self, tmp_path, name):
        (tmp_path / name).mkdir()
        with pytest.raises(IsADirectoryError, match=name):
            datasets.load(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
    @pytest.mark.parametrize("damage", ["cut", "noise", "flipped"])
    def test_damaged(self, tmp_path, name, damage):
        path = tmp_path / name
        if name == "a.npz":
            np.savez_compressed(path, features=features(), labels=labels())
        else:
            storage.save(path, {"features": features(), "labels": labels()})
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[: len(content) // 2]
        elif damage == "noise":
            content = bytearray(b"not what the suffix says" * 9)
        else:  # safetensors has no check sum: only its header can be found damaged
            where = range(200, 400) if name == "a.npz" else range(9, 40)
            for i in where:
                content[i] ^= 0x5A
        path.write_bytes(content)
        with pytest.raises(BindingError, match="damaged"):
            datasets.load(path)

    @pytest.mark.parametrize("name", ["a.txt", "a", "a.npy", "a.parquet"])
    def test_unknown_suffix(self, tmp_path, name):
        (tmp_path / name).write_text("1,2,3\n")
        with pytest.raises(BindingError, match=r"expected one of \.npz, \.safetensors, \.csv; convert"):
            datasets.load(tmp_path / name)

    def test_npz_with_python_objects(self, tmp_path):
        np.savez(tmp_path / "a.npz", features=np.array([[1, None]] * 20, dtype=object), labels=labels(20))
        with pytest.raises(BindingError, match=r"holds Python objects .* expected plain arrays"):
            datasets.load(tmp_path / "a.npz")

    def test_npy_named_npz(self, tmp_path):
        buffer = io.BytesIO()
        np.save(buffer, features())
        (tmp_path / "a.npz").write_bytes(buffer.getvalue())
        with pytest.raises(
            BindingError, match="a single array without a name, expected one array of features"
        ):
            datasets.load(tmp_path / "a.npz")

    def test_zip_without_arrays(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("features", "1 2 3")
        with pytest.raises(BindingError, match="has no arrays, expected one array of features"):
            datasets.load(tmp_path / "a.npz")

    def test_wrong_and_doubtful_names(self, tmp_path):
        np.savez(tmp_path / "a.npz", inputs=features(), labels=labels())
        with pytest.raises(
            BindingError, match="has inputs, labels, expected one array of features, named fea"
        ):
            datasets.load(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz", features=features(), y=labels(), labels=labels())
        with pytest.raises(BindingError, match="has 'labels' and 'y', expected one array of labels"):
            datasets.load(tmp_path / "b.npz")

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ([""], "is empty, expected one example a line"),
            (["a,b,label"], "is empty, expected one example a line"),
            (["1", "2"], "has 1 column, expected features and a label"),
            ([*csv_lines(), "1,2,3"], "line 41 .* has 3 values, expected 4"),
            ([*csv_lines(), "1,x y,3,1"], "line 41 .* has 'x y' in column '2', expected a number"),
            (["a,b,c,label", "1,,3,1"], "line 2 .* has '' in column 'b', expected a number"),
            (["a,label,b,c", "1,1,3,red"], "line 2 .* has 'red' in column 'c'.*only the label may be text"),
            (["one,two,cat", "three,four,dog"], "line 2 .* has 'three' in column 'one', expected a number"),
            (["label,y,a", "1,2,3"], r"has 2 columns of labels \(label, y\), expected one"),
            ([*csv_lines(), "1,2,3,"], "line 41 .* has no label"),
            ([*csv_lines(), "1,2,nan,1"], "1 features .* NaN or infinite, the first in row 40, column 2"),
            (["1,2,0"] * 20, "has one class, 0"),
            (["1,2,0"] * 4 + ["1,2,1"] * 4, "has 8 examples, expected at least 10"),
        ],
    )
    def test_bad_csv(self, tmp_path, lines, message):
        with pytest.raises(BindingError, match=message):
            datasets.load(write_csv(tmp_path / "a.csv", lines))

    def test_csv_that_is_no_text(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(bytes(range(128, 256)))
        with pytest.raises(BindingError, match="no text of comma-separated values in UTF-8"):
            datasets.load(tmp_path / "a.csv")
