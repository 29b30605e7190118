"""Record what TensorFlow 1's variable scopes answer, for test_variable_scopes.py to compare with.

Run it once, in an environment with TensorFlow (2.21 was used)::

    python tests/record_tensorflow.py tests/data/tensorflow_names.json

A scenario is a list of steps; the answers stand beside them, one each:

- ``["enter", key, {"name" | "default" | "scope": ..., "reuse", "initializer", "dtype"}]`` enters a variable
  scope by name, by default name or by the object of an earlier key ("root": the outermost);
- ``["names", key, prefix]`` enters a name scope; ``["exit", key]`` leaves either;
- ``["get", name, {"shape", "dtype", "initializer", "trainable"}]`` asks for a variable;
- ``["name", n]`` asks for the name of an operation called n;
- ``["thread", steps]`` runs steps in a new thread.

A step that fails answers with its kind of error, one that leaves a scope that was not entered with null.
Values: "auto" is AUTO_REUSE; an initializer is "zeros", "ones" (classes), "fives" (a callable of shape and
dtype), "sevens" (a callable without arguments, an array of two float64), or a constant.
"""

import json
import os
import random
import sys
import threading
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import variable_scope as internals

v1 = tf.compat.v1

KINDS = {
    "already exists, disallowed": "exists",
    "does not exist, or was not created": "missing",
    "but specified shape": "shape",
    "but specified dtype": "dtype",
    "is a constant, do not specify shape": "constant and shape",
    "and explicit dtype": "constant and dtype",
    "so its `shape` argument must be specified": "no shape",
    "The initializer passed is not valid": "no shape",
    "An initializer for variable": "no initializer",
    "cannot be used without a name_or_scope": "reuse without name",
    "If default_name is None": "no name",
    "The reuse parameter must be": "reuse",
    "Improper nesting": "order",
    "must be a string or VariableScope": "scope type",
    "must be >= 0": "negative length",
    "scope name": "name",
}
INITIALIZERS = {
    "zeros": v1.zeros_initializer,
    "ones": v1.ones_initializer,
    "fives": lambda shape, dtype: tf.fill(shape, tf.cast(5, dtype)),
    "sevens": lambda: np.array([7.0, 7.0]),
}

# Written out: each rule by itself.
# fmt: off
RULES = {
    "a name": [["enter", "a", {"name": "a"}], ["get", "w", {"shape": [2, 3]}]],
    "at the outermost": [["get", "w", {"shape": [2]}], ["get", "w", {"shape": [2]}]],
    "nested names": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": "b/c"}], ["get", "w/x", {"shape": []}],
        ["exit", "b"], ["get", "w", {"shape": 3}],
    ],
    "made twice": [["enter", "a", {"name": "a"}], ["get", "w", {"shape": [2]}], ["get", "w", {"shape": [2]}]],
    "reuse of a missing one": [["enter", "a", {"name": "a", "reuse": True}], ["get", "w", {"shape": [2]}]],
    "reuse": [
        ["enter", "a", {"name": "a"}], ["get", "w", {"shape": [2, 3]}], ["exit", "a"],
        ["enter", "b", {"name": "a", "reuse": True}], ["get", "w", {"shape": [2, 3]}], ["get", "w", {}],
        ["get", "w", {"shape": [None, 3]}], ["get", "w", {"shape": [2, None, 1]}],
        ["get", "w", {"shape": [3, 2]}], ["get", "w", {"shape": []}], ["get", "w", {"dtype": "float64"}],
        ["get", "w", {"dtype": "float64", "shape": [5]}],
        ["get", "w", {"dtype": "float32", "initializer": "ones", "trainable": False}],
        ["get", "w", {"initializer": 1.0}], ["get", "w", {"initializer": 1}],
    ],
    "auto": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["get", "w", {"shape": [2, 3]}],
        ["get", "w", {"shape": [2, 3]}], ["get", "w", {"shape": [2]}], ["get", "v", {}],
    ],
    "reuse is inherited": [
        ["get", "a/b/w", {"shape": [1]}], ["enter", "a", {"name": "a", "reuse": True}],
        ["enter", "b", {"name": "b"}], ["get", "w", {}],
    ],
    "reuse cannot be undone by False": [
        ["enter", "a", {"name": "a", "reuse": True}], ["enter", "b", {"name": "b", "reuse": False}],
        ["get", "w", {"shape": [1]}],
    ],
    "auto cannot be undone by False": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "b", {"name": "b", "reuse": False}],
        ["get", "w", {"shape": [1]}], ["get", "w", {"shape": [1]}],
    ],
    "auto in True": [
        ["enter", "a", {"name": "a", "reuse": True}], ["enter", "b", {"name": "b", "reuse": "auto"}],
        ["get", "w", {"shape": [1]}],
    ],
    "True in auto": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "b", {"name": "b", "reuse": True}],
        ["get", "w", {"shape": [1]}], ["exit", "b"], ["get", "b/w", {"shape": [1]}],
    ],
    "reuse ends with its scope": [
        ["enter", "a", {"name": "a", "reuse": True}], ["exit", "a"], ["enter", "b", {"name": "a"}],
        ["get", "w", {"shape": [1]}],
    ],
    "a default name in a reusing scope": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "l", {"default": "l"}],
        ["get", "w", {"shape": [1]}],
    ],
    "reuse without a name": [
        ["enter", "a", {"default": "l", "reuse": True}], ["enter", "b", {"default": "l", "reuse": "auto"}],
        ["enter", "c", {"default": "l", "reuse": False}],
    ],
    "no name": [["enter", "a", {}], ["enter", "b", {"name": 3}], ["enter", "c", {"name": ["a"]}]],
    "reuse of another kind": [
        ["enter", "a", {"name": "a", "reuse": "yes"}], ["enter", "b", {"name": "a", "reuse": 2}],
    ],
    "default names": [
        ["enter", "l0", {"default": "l"}], ["exit", "l0"], ["enter", "l1", {"default": "l"}], ["exit", "l1"],
        ["enter", "l2", {"default": "l"}], ["exit", "l2"], ["enter", "l3", {"default": "l"}], ["exit", "l3"],
        ["enter", "a", {"name": "a"}], ["enter", "m0", {"default": "l"}], ["exit", "m0"],
        ["enter", "m1", {"default": "l"}], ["exit", "m1"], ["exit", "a"], ["enter", "b", {"name": "a"}],
        ["enter", "n", {"default": "l"}],
    ],
    "a default name that a name has": [
        ["enter", "a", {"name": "l"}], ["exit", "a"], ["enter", "b", {"name": "l_1"}], ["exit", "b"],
        ["enter", "c", {"default": "l"}], ["exit", "c"], ["enter", "d", {"default": "l"}],
    ],
    "a default name beside a name": [
        ["enter", "a", {"name": "x", "default": "l"}], ["get", "w", {"shape": []}],
    ],
    "default names with slashes": [
        ["enter", "a", {"default": "x/l"}], ["exit", "a"], ["enter", "b", {"default": "x/l"}], ["exit", "b"],
        ["enter", "c", {"name": "x"}], ["enter", "d", {"default": "l"}], ["exit", "d"], ["exit", "c"],
        ["enter", "e", {"default": "x/l"}],
    ],
    "by object": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": "b"}], ["get", "w", {"shape": [1]}],
        ["exit", "b"], ["exit", "a"], ["enter", "c", {"name": "c"}],
        ["enter", "d", {"scope": "b", "reuse": True}], ["get", "w", {"shape": [1]}],
        ["enter", "e", {"name": "e"}], ["get", "w", {"shape": [1]}], ["exit", "e"], ["exit", "d"],
        ["get", "w", {"shape": [1]}],
    ],
    "an object brings its reuse": [
        ["enter", "a", {"name": "a", "reuse": True}], ["exit", "a"], ["enter", "b", {"name": "b"}],
        ["enter", "c", {"scope": "a"}], ["get", "w", {"shape": [1]}], ["exit", "c"],
        ["enter", "d", {"scope": "a", "reuse": False}], ["get", "w", {"shape": [1]}], ["exit", "d"],
        ["enter", "e", {"scope": "a", "reuse": "auto"}], ["get", "w", {"shape": [1]}],
        ["get", "w", {"shape": [1]}],
    ],
    "an object is not touched by the reuse around": [
        ["enter", "a", {"name": "a"}], ["exit", "a"], ["enter", "b", {"name": "b", "reuse": True}],
        ["enter", "c", {"scope": "a"}], ["get", "w", {"shape": [1]}], ["get", "w", {"shape": [1]}],
    ],
    "the outermost by object": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"scope": "root"}], ["get", "w", {"shape": [1]}],
        ["exit", "b"], ["enter", "c", {"scope": "root", "reuse": True}], ["get", "w", {}], ["get", "a/w", {}],
    ],
    "the outermost by name": [
        ["enter", "a", {"name": "", "reuse": "auto"}], ["get", "w", {"shape": [1]}],
        ["get", "w", {"shape": [1]}], ["enter", "b", {"name": "b"}], ["get", "w", {"shape": [1]}],
        ["name", "x"],
    ],
    "default names by object": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"default": "l"}], ["exit", "b"],
        ["enter", "c", {"scope": "a"}], ["enter", "d", {"default": "l"}], ["exit", "d"], ["exit", "c"],
        ["enter", "e", {"default": "l"}], ["exit", "e"], ["exit", "a"], ["enter", "f", {"scope": "a"}],
        ["enter", "g", {"default": "l"}], ["exit", "g"], ["exit", "f"], ["enter", "h", {"scope": "a"}],
        ["enter", "i", {"default": "l"}],
    ],
    "what is opened by object is forgotten with the one around": [
        ["enter", "p", {"name": "p"}], ["enter", "c", {"name": "c"}], ["exit", "c"], ["exit", "p"],
        ["enter", "q", {"name": "q"}], ["exit", "q"], ["enter", "r", {"scope": "q"}],
        ["enter", "d", {"scope": "c"}], ["exit", "d"], ["exit", "r"], ["enter", "root2", {"scope": "root"}],
        ["enter", "e", {"default": "p/c"}],
    ],
    "an inherited initializer": [
        ["enter", "a", {"name": "a", "initializer": "ones"}], ["get", "w", {"shape": [2]}],
        ["get", "z", {"shape": [2], "initializer": "zeros"}], ["enter", "b", {"name": "b"}],
        ["get", "w", {"shape": [2]}], ["get", "x", {}], ["enter", "c", {"name": "c", "initializer": "fives"}],
        ["get", "w", {"shape": [2]}], ["exit", "c"], ["exit", "b"], ["exit", "a"],
        ["enter", "d", {"scope": "a", "reuse": "auto"}], ["get", "v", {"shape": []}],
    ],
    "an inherited constant": [
        ["enter", "a", {"name": "a", "initializer": 0.5}], ["get", "w", {}], ["get", "v", {"shape": [2]}],
    ],
    "an inherited dtype": [
        ["enter", "a", {"name": "a", "dtype": "float64"}], ["get", "w", {"shape": [2]}],
        ["get", "v", {"shape": [2], "dtype": "int32"}], ["enter", "b", {"name": "b", "dtype": "float16"}],
        ["get", "w", {"shape": [2]}], ["exit", "b"], ["enter", "c", {"name": "c", "reuse": "auto"}],
        ["get", "w", {"shape": [2]}], ["get", "w", {"shape": [2]}], ["get", "w", {"dtype": "float32"}],
    ],
    "dtypes": [
        ["get", "w0", {"shape": [2], "dtype": "float16"}], ["get", "w1", {"shape": [2], "dtype": "bfloat16"}],
        ["get", "w2", {"shape": [2], "dtype": "float64"}], ["get", "w3", {"shape": [2], "dtype": "int8"}],
        ["get", "w4", {"shape": [2], "dtype": "int32"}], ["get", "w5", {"shape": [2], "dtype": "int64"}],
        ["get", "w6", {"shape": [2], "dtype": "uint8"}], ["get", "w7", {"shape": [2], "dtype": "bool"}],
        ["get", "w8", {"shape": [2], "dtype": "complex64"}],
        ["get", "c", {"shape": [2], "dtype": "complex64", "initializer": "zeros"}],
    ],
    "constants": [
        ["get", "a", {"initializer": 2.5}], ["get", "b", {"initializer": 2}],
        ["get", "c", {"initializer": [1.0, 2.0]}], ["get", "d", {"initializer": [[1, 2, 3]]}],
        ["get", "e", {"initializer": True}], ["get", "f", {"initializer": 2.5, "shape": []}],
        ["get", "g", {"initializer": 2.5, "dtype": "float64"}],
        ["get", "h", {"initializer": 2.5, "dtype": "float32"}],
        ["get", "i", {"initializer": 3, "dtype": "int64"}],
    ],
    "a constant is a constant also when it is found": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["get", "w", {"initializer": 2.5}],
        ["get", "w", {"initializer": 2.5}], ["get", "n", {"initializer": 2}],
        ["get", "n", {"initializer": 2}], ["get", "n", {"initializer": 3, "dtype": "int32"}],
        ["get", "w", {"initializer": 2.5, "shape": []}], ["get", "w", {"initializer": [2.5, 2.5]}],
    ],
    "callables": [
        ["get", "a", {"shape": [3], "initializer": "fives"}],
        ["get", "b", {"shape": [3], "initializer": "fives", "dtype": "int32"}],
        ["get", "c", {"initializer": "fives"}], ["get", "d", {"initializer": "sevens"}],
        ["get", "e", {"initializer": "zeros"}],
    ],
    "shapes": [
        ["get", "a", {"shape": 3}], ["get", "b", {"shape": []}], ["get", "c", {"shape": [0, 4]}],
        ["get", "d", {"shape": [2, None]}], ["get", "e", {"shape": [-1]}], ["get", "f", {}],
    ],
    "name scopes have no influence on variables": [
        ["names", "n", "n"], ["get", "w", {"shape": [1]}], ["enter", "a", {"name": "a"}],
        ["get", "w", {"shape": [1]}], ["names", "m", "m"], ["get", "v", {"shape": [1]}], ["name", "x"],
    ],
    "a variable scope opens a name scope": [
        ["enter", "a", {"name": "a"}], ["name", "x"], ["names", "n", "n"], ["name", "y"],
        ["enter", "b", {"name": "b/c"}], ["name", "z"], ["enter", "l", {"default": "l"}], ["name", "u"],
        ["exit", "l"], ["exit", "b"], ["exit", "n"], ["exit", "a"], ["name", "v"],
    ],
    "the name scope of an object is its last part, where one is": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": "b"}], ["exit", "b"], ["exit", "a"],
        ["enter", "c", {"name": "c"}], ["enter", "d", {"scope": "b"}], ["name", "x"], ["exit", "d"],
        ["enter", "e", {"scope": "root"}], ["name", "y"],
    ],
    "out of order": [["enter", "a", {"name": "a"}], ["enter", "b", {"name": "b"}], ["exit", "a"]],
    "out of order by object": [["enter", "a", {"name": "a"}], ["enter", "b", {"scope": "a"}], ["exit", "a"]],
    "a thread begins outside, over the same variables": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "l", {"default": "l"}],
        ["get", "w", {"shape": [1]}],
        ["thread", [
            ["get", "w", {"shape": [2]}], ["enter", "b", {"name": "a", "reuse": True}],
            ["get", "l/w", {"shape": [1]}], ["enter", "c", {"default": "l"}], ["get", "w", {"shape": [1]}],
        ]],
        ["get", "v", {"shape": [1]}], ["exit", "l"], ["exit", "a"], ["get", "w", {"shape": [2]}],
    ],
    "a scope object in another thread": [
        ["enter", "a", {"name": "a"}], ["get", "w", {"shape": [1]}],
        ["thread", [["enter", "b", {"scope": "a", "reuse": True}], ["get", "w", {"shape": [1]}]]],
    ],
    "variables and scopes do not mind each other": [
        ["get", "a", {"shape": [1]}], ["enter", "a", {"name": "a"}], ["get", "b", {"shape": [1]}],
        ["enter", "b", {"name": "b"}], ["get", "c", {"shape": [1]}], ["exit", "b"], ["exit", "a"],
        ["get", "a/b/c", {"shape": [1]}],
    ],
    "a failed step changes nothing": [
        ["enter", "a", {"name": "a"}], ["get", "w", {}], ["get", "w", {"shape": [2], "initializer": 1.0}],
        ["get", "w", {"shape": [2]}], ["enter", "b", {"default": "l", "reuse": True}],
        ["enter", "c", {"default": "l"}], ["get", "w", {"shape": [2]}],
    ],
    # Where numscope differs, and says so.
    "difference: a name scope opened twice": [
        ["enter", "a", {"name": "a"}], ["exit", "a"], ["enter", "b", {"name": "a"}], ["name", "x"],
    ],
    "difference: an empty name inside": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": ""}], ["get", "w", {"shape": [1]}],
    ],
    "difference: empty parts": [
        ["enter", "a", {"name": "a/"}], ["get", "x//w", {"shape": [1]}], ["get", "", {"shape": [1]}],
    ],
    "difference: odd characters": [
        ["get", "a b", {"shape": [1]}], ["get", "é", {"shape": [1]}], ["get", "_w", {"shape": [1]}],
    ],
    "difference: an inherited constant of another dtype": [
        ["enter", "a", {"name": "a", "initializer": 2}], ["get", "w", {"dtype": "float32"}],
    ],
}
# fmt: on


def random_scenario(rng):
    """Return steps drawn at random: nested scopes, all ways of entering, and variables with few names."""
    steps, entered, known = [], [], ["root"]
    for number in range(rng.randint(8, 24)):
        act = rng.choices(["enter", "exit", "get"], [4, 2, 4])[0]
        if act == "exit" and entered:
            steps.append(["exit", entered.pop()])
        elif act == "get":
            options = {}
            if rng.random() < 0.85:
                options["shape"] = rng.choice([[2], [2], [2], [3], [2, 1], []])
            if rng.random() < 0.15:
                options["dtype"] = rng.choice(["float32", "float64", "int32"])
            if rng.random() < 0.15:
                options["initializer"] = rng.choice(["zeros", "ones", "fives", 1.5, 3])
            steps.append(["get", rng.choice(["w", "w", "v", "b/w"]), options])
        else:
            options = rng.choices(
                [
                    {"name": rng.choice(["a", "a", "b", "a/b", "l"])},
                    {"default": rng.choice(["l", "l", "a", "a/b", "l_1"])},
                    {"scope": rng.choice(known)},
                ],
                [4, 4, 3],
            )[0]
            if rng.random() < 0.35 and (rng.random() < 0.1 or "default" not in options):
                options["reuse"] = rng.choice([True, False, "auto", "auto"])
            if rng.random() < 0.1:
                options["initializer"] = rng.choice(["zeros", "ones", "fives"])
            if rng.random() < 0.1:
                options["dtype"] = rng.choice(["float64", "int32"])
            key = f"s{number}"
            steps.append(["enter", key, options])
            if not ("default" in options and options.get("reuse")):
                entered.append(key)
                known.append(key)
    return steps


def fresh_names_scenario(rng):
    """Return steps in which no scope's name comes twice, so that TensorFlow has no need to change any."""
    steps, entered, known = [], [], []
    for number in range(rng.randint(6, 14)):
        act = rng.choices(["enter", "names", "exit", "name", "get"], [3, 3, 2, 3, 2])[0]
        if act == "exit" and entered:
            steps.append(["exit", entered.pop()])
        elif act == "name":
            steps.append(["name", f"x{number}"])
        elif act == "get":
            steps.append(["get", f"w{number}", {"shape": [1]}])
        elif act != "exit":
            key = f"s{number}"
            if act == "names":
                steps.append(["names", key, f"n{number}"])
            elif known and rng.random() < 0.3:
                # An object's name scope is opened where its name was not opened before.
                steps += [["names", f"{key}n", f"o{number}"], ["enter", key, {"scope": rng.choice(known)}]]
                entered.append(f"{key}n")
            else:
                way = rng.choice(["name", "default"])
                steps.append(["enter", key, {way: rng.choice([f"a{number}", f"a{number}/b"])}])
                known.append(key)
            entered.append(key)
    return steps


class Player:
    """Runs the steps of one scenario in a graph of its own."""

    def __init__(self):
        self.graph = tf.Graph()
        self.scopes = {}
        self.entered = {}

    def play(self, steps):
        answers = []

        def run():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                manager = self.graph.as_default()
                manager.__enter__()  # and not left: after a scope left out of order it could not be
                self.scopes.setdefault("root", v1.get_variable_scope())
                answers.extend(self.answer(*step) for step in steps)

        # A thread of its own: what a scenario leaves behind on the thread's stacks ends with it.
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert len(answers) == len(steps), steps
        return answers

    def answer(self, act, *arguments):
        try:
            return getattr(self, act)(*arguments)
        except (ValueError, TypeError, RuntimeError) as error:
            kinds = [kind for text, kind in KINDS.items() if text in str(error)]
            if not kinds:
                raise
            return {"error": kinds[0]}

    def enter(self, key, options):
        options = options_of(options)
        scope = options.pop("scope", None)
        name = self.scopes[scope] if scope is not None else options.pop("name", None)
        manager = v1.variable_scope(name, options.pop("default", None), **options)
        opened = manager.__enter__()
        self.entered[key] = manager
        self.scopes[key] = opened
        reuse = "auto" if opened.reuse is v1.AUTO_REUSE else opened.reuse
        return {"scope": opened.name, "reuse": reuse}

    def names(self, key, prefix):
        manager = v1.name_scope(prefix)
        manager.__enter__()
        self.entered[key] = manager

    def exit(self, key):
        manager = self.entered.pop(key, None)
        if manager is not None:
            manager.__exit__(None, None, None)

    def get(self, name, options):
        variable = v1.get_variable(name, **options_of(options))
        stored = internals._get_default_variable_store()._vars
        answer = {
            "variable": next(key for key, value in stored.items() if value is variable),
            "shape": variable.shape.as_list(),
            "dtype": variable.dtype.base_dtype.name,
        }
        with v1.Session(graph=self.graph) as session:
            value = np.asarray(session.run(variable.initial_value))
        if value.size and np.all(value == value.flat[0]) and float(value.flat[0].real).is_integer():
            answer["value"] = float(value.flat[0].real)
        return answer

    def name(self, name):
        scope = self.graph.get_name_scope()
        return {"name": f"{scope}/{name}" if scope else name}

    def thread(self, steps):
        return self.play(steps)


def options_of(options):
    options = dict(options)
    if options.get("reuse") == "auto":
        options["reuse"] = v1.AUTO_REUSE
    initializer = options.get("initializer")
    if isinstance(initializer, str):
        options["initializer"] = INITIALIZERS[initializer]
    if "dtype" in options:
        options["dtype"] = tf.as_dtype(options["dtype"])
    return options


def main(path):
    sys.unraisablehook = lambda _: None  # TensorFlow's, of scopes that a scenario did not leave
    rng = random.Random(1)
    scenarios = dict(RULES)
    scenarios |= {f"random {i}": random_scenario(rng) for i in range(240)}
    scenarios |= {f"fresh names {i}": fresh_names_scenario(rng) for i in range(60)}
    lines = [
        json.dumps(
            {"scenario": name, "steps": steps, "answers": Player().play(steps)},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for name, steps in scenarios.items()
    ]
    head = f'{{"tensorflow": {json.dumps(tf.__version__)}, "scenarios": [\n'
    Path(path).write_text(head + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
