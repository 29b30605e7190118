"""Record what TensorFlow 1's variable scopes answer, for test_variable_scopes.py to compare with.

Run it once, in an environment with TensorFlow (2.21 was used)::

    python tests/record_tensorflow.py tests/data/tensorflow_names.json.gz

What the steps of a scenario mean stands in naming_rules.py.
"""

import gzip
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
from naming_random import (
    fresh_names_scenario,
    inheritance_scenario,
    mismatch_scenarios,
    odd_names_scenario,
    random_scenario,
    reuse_scenarios,
    threads_scenario,
)
from naming_rules import RULES
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
    "is not a valid scope name": "name",
    "is not a valid root scope name": "name",
    "Expected bool, but got": "value",
}
INITIALIZERS = {
    "zeros": v1.zeros_initializer,
    "ones": v1.ones_initializer,
    "twos": v1.constant_initializer(2),
    "fives": lambda shape, dtype: tf.fill(shape, tf.cast(5, dtype)),
    "sevens": lambda: np.array([7.0, 7.0]),
}


class Player:
    """Runs the steps of one scenario in a graph of its own."""

    def __init__(self):
        self.graph = tf.Graph()
        self.scopes = {}
        self.managers = {}
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
        return self.enter_manager(key, manager)

    def again(self, key):
        return self.enter_manager(key, self.managers[key])

    def enter_manager(self, key, manager):
        opened = self.scopes[key] = manager.__enter__()
        self.entered[key] = self.managers[key] = manager
        return {"scope": opened.name, "reuse": reuse_of(opened)}

    def current(self):
        scope = v1.get_variable_scope()
        return {"scope": scope.name, "reuse": reuse_of(scope), "dtype": tf.as_dtype(scope.dtype).name}

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
        if ">" in answer["variable"] or "\\" in answer["variable"]:  # names that no session takes
            return answer
        with v1.Session(graph=self.graph) as session:
            value = np.asarray(session.run(variable.initial_value))
        if value.size and np.all(value == value.flat[0]) and float(value.flat[0].real).is_integer():
            answer["value"] = float(value.flat[0].real)
        return answer

    def variables(self, trainable):
        kept = v1.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)
        trained = v1.get_collection(v1.GraphKeys.TRAINABLE_VARIABLES)
        if trainable is not None:
            kept = [v for v in kept if any(v is other for other in trained) == trainable]
        stored = internals._get_default_variable_store()._vars
        return {"variables": [next(key for key, value in stored.items() if value is v) for v in kept]}

    def name(self, name):
        scope = self.graph.get_name_scope()
        return {"name": f"{scope}/{name}" if scope else name}

    def thread(self, steps):
        return self.play(steps)


def reuse_of(scope):
    return "auto" if scope.reuse is v1.AUTO_REUSE else scope.reuse


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
    scenarios = RULES | reuse_scenarios() | mismatch_scenarios()
    rng = random.Random(1)
    scenarios |= {f"random {i}": random_scenario(rng) for i in range(240)}
    scenarios |= {f"fresh names {i}": fresh_names_scenario(rng) for i in range(60)}
    scenarios |= {f"odd names {i}": odd_names_scenario(rng) for i in range(60)}
    scenarios |= {f"inheritance {i}": inheritance_scenario(rng) for i in range(100)}
    scenarios |= {f"threads {i}": threads_scenario(rng) for i in range(60)}
    lines = [
        json.dumps(
            {"scenario": name, "steps": steps, "answers": Player().play(steps)},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for name, steps in scenarios.items()
    ]
    head = f'{{"tensorflow": {json.dumps(tf.__version__)}, "scenarios": [\n'
    text = head + ",\n".join(lines) + "\n]}\n"
    Path(path).write_bytes(gzip.compress(text.encode(), mtime=0))  # the same bytes from the same answers


if __name__ == "__main__":
    main(sys.argv[1])
