"""Scenarios for record_tensorflow.py: each rule of variable scopes by itself.

A scenario is a list of steps; an answer stands beside each of them when it is recorded:

- ``["enter", key, {"name" | "default" | "scope": ..., "reuse", "initializer", "dtype"}]`` enters a variable
  scope by name, by default name or by the object of an earlier key ("root": the outermost);
- ``["again", key]`` enters the manager of an earlier key once more;
- ``["names", key, prefix]`` enters a name scope; ``["exit", key]`` leaves either;
- ``["get", name, {"shape", "dtype", "initializer", "trainable"}]`` asks for a variable;
- ``["current"]`` asks for the innermost variable scope, ``["name", n]`` for the name of an operation n;
- ``["variables", trainable]`` asks for the names of the variables that are trained (true), of those that
  are not (false), or of all (null);
- ``["thread", steps]`` runs steps in a new thread.

A step that fails answers with its kind of error, one that leaves a scope that was not entered with null.
Values: "auto" is AUTO_REUSE; an initializer is "zeros", "ones" (classes), "twos" (an object), "fives" (a
callable of shape and dtype), "sevens" (a callable without arguments, an array of two float64), or a constant.
The names of scenarios where numscope differs begin with "difference".
"""

# fmt: off
W = ["get", "w", {"shape": [1]}]

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
        W,
    ],
    "auto cannot be undone by False": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "b", {"name": "b", "reuse": False}],
        W, W,
    ],
    "auto in True": [
        ["enter", "a", {"name": "a", "reuse": True}], ["enter", "b", {"name": "b", "reuse": "auto"}],
        W,
    ],
    "True in auto": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "b", {"name": "b", "reuse": True}],
        W, ["exit", "b"], ["get", "b/w", {"shape": [1]}],
    ],
    "reuse ends with its scope": [
        ["enter", "a", {"name": "a", "reuse": True}], ["exit", "a"], ["enter", "b", {"name": "a"}],
        W,
    ],
    "a default name in a reusing scope": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "l", {"default": "l"}],
        W,
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
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": "b"}], W,
        ["exit", "b"], ["exit", "a"], ["enter", "c", {"name": "c"}],
        ["enter", "d", {"scope": "b", "reuse": True}], W,
        ["enter", "e", {"name": "e"}], W, ["exit", "e"], ["exit", "d"],
        W,
    ],
    "an object brings its reuse": [
        ["enter", "a", {"name": "a", "reuse": True}], ["exit", "a"], ["enter", "b", {"name": "b"}],
        ["enter", "c", {"scope": "a"}], W, ["exit", "c"],
        ["enter", "d", {"scope": "a", "reuse": False}], W, ["exit", "d"],
        ["enter", "e", {"scope": "a", "reuse": "auto"}], W,
        W,
    ],
    "an object is not touched by the reuse around": [
        ["enter", "a", {"name": "a"}], ["exit", "a"], ["enter", "b", {"name": "b", "reuse": True}],
        ["enter", "c", {"scope": "a"}], W, W,
    ],
    "the outermost by object": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"scope": "root"}], W,
        ["exit", "b"], ["enter", "c", {"scope": "root", "reuse": True}], ["get", "w", {}], ["get", "a/w", {}],
    ],
    "the outermost by name": [
        ["enter", "a", {"name": "", "reuse": "auto"}], W,
        W, ["enter", "b", {"name": "b"}], W,
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
        ["names", "n", "n"], W, ["enter", "a", {"name": "a"}],
        W, ["names", "m", "m"], ["get", "v", {"shape": [1]}], ["name", "x"],
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
        W,
        ["thread", [
            ["get", "w", {"shape": [2]}], ["enter", "b", {"name": "a", "reuse": True}],
            ["get", "l/w", {"shape": [1]}], ["enter", "c", {"default": "l"}], W,
        ]],
        ["get", "v", {"shape": [1]}], ["exit", "l"], ["exit", "a"], ["get", "w", {"shape": [2]}],
    ],
    "a scope object in another thread": [
        ["enter", "a", {"name": "a"}], W,
        ["thread", [["enter", "b", {"scope": "a", "reuse": True}], W]],
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
    "difference: a name scope opened twice": [
        ["enter", "a", {"name": "a"}], ["exit", "a"], ["enter", "b", {"name": "a"}], ["name", "x"],
    ],
    "an empty name inside": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": ""}], W,
    ],
    "empty parts": [
        ["enter", "a", {"name": "a/"}], ["get", "x//w", {"shape": [1]}], ["get", "", {"shape": [1]}],
    ],
    "odd characters": [
        ["get", "a b", {"shape": [1]}], ["get", "é", {"shape": [1]}], ["get", "_w", {"shape": [1]}],
    ],
    "an inherited constant of another dtype": [
        ["enter", "a", {"name": "a", "initializer": 2}], ["get", "w", {"dtype": "float32"}],
    ],
    "odd characters of a variable": [
        ["get", n, {"shape": [1]}] for n in [
            ".w", "9w", "-w", "_w", "/w", ">w", "w:0", "w-", "w.b", "a>b", "a\\b", "日本",
        ]
    ],
    "odd characters of a scope": [
        *[["enter", n, {"name": n}] for n in [
            "_a", "-a", "/a", "a b", "a:0", "ä", "", ".a", "_a", "-a", "/a", "a b", "ä",
        ]],
        ["get", "-w", {"shape": [1]}], ["get", "w ", {"shape": [1]}],
    ],
    "a scope that begins with an underscore, in a name scope": [
        ["names", "n", "n"], ["enter", "a", {"name": "_a"}], W, ["exit", "a"],
        ["get", "_w", {"shape": [1]}], ["enter", "b", {"default": "_b"}], W,
    ],
    "a name is checked last": [
        ["get", "b c", {}], ["get", "b c", {"shape": [2, None]}], ["get", "b c", {"dtype": "complex64"}],
        ["get", "b c", {"dtype": "complex64", "shape": [1]}],
        ["get", "b c", {"shape": [2], "initializer": 1.0}], ["get", "b c", {"initializer": 1.0}],
        ["get", "b c", {"initializer": 1.0, "dtype": "int32"}], ["get", "b c", {"shape": [-1]}],
        ["enter", "a", {"name": "a", "reuse": True}], ["get", "b c", {}],
    ],
    "empty names": [
        ["get", "", {"shape": [1]}], ["get", "", {"shape": [1]}], ["enter", "a", {"name": "a"}],
        ["enter", "b", {"name": ""}], ["enter", "c", {"name": ""}], ["current"], W,
        ["get", "", {"shape": [1]}], ["exit", "c"], ["enter", "d", {"default": "l"}], ["exit", "d"],
        ["exit", "b"], ["enter", "e", {"default": "l"}], ["exit", "e"], ["enter", "f", {"scope": "c"}],
        ["get", "v", {"shape": [1]}], ["enter", "g", {"default": "l"}],
    ],
    "empty default names": [
        ["enter", "a", {"default": ""}], W, ["exit", "a"],
        ["enter", "b", {"default": ""}], W, ["exit", "b"], ["enter", "c", {"name": "c"}],
        ["enter", "d", {"default": ""}], W, ["exit", "d"],
        ["enter", "e", {"default": ""}], W, ["exit", "e"],
        ["enter", "f", {"default": "l/"}], ["exit", "f"], ["enter", "g", {"default": "l/"}],
        W,
    ],
    "default names after an empty one": [
        ["enter", "a", {"name": ""}], ["enter", "b", {"default": "l"}], ["exit", "b"], ["exit", "a"],
        ["enter", "c", {"default": "l"}], ["exit", "c"], ["enter", "d", {"scope": "a"}],
        ["enter", "e", {"default": "l"}], ["exit", "e"], ["exit", "d"], ["enter", "f", {"default": "l"}],
    ],
    "a manager entered again": [
        ["enter", "a", {"name": "a"}], ["exit", "a"], ["again", "a"], W, ["exit", "a"],
        ["enter", "l", {"default": "l"}], ["exit", "l"], ["again", "l"], W, ["exit", "l"],
        ["enter", "m", {"default": "l"}], ["exit", "m"], ["enter", "b", {"name": "b"}], ["again", "l"],
        W, ["exit", "l"], ["enter", "n", {"default": "l"}],
    ],
    "an object's manager entered again": [
        ["enter", "a", {"name": "a", "dtype": "float64"}], ["exit", "a"],
        ["enter", "b", {"scope": "a", "reuse": "auto"}], W, ["exit", "b"],
        ["enter", "c", {"name": "c"}], ["again", "b"], ["current"], W,
    ],
    "trainable or not": [
        ["get", "a", {"shape": [1], "trainable": True}], ["get", "b", {"shape": [1], "trainable": False}],
        ["get", "c", {"shape": [1]}], ["get", "d", {"initializer": 1, "trainable": False}],
        ["variables", True], ["variables", False], ["variables", None],
    ],
    "what is found stays as it was made": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["get", "w", {"shape": [1], "trainable": False}],
        ["get", "w", {"shape": [1], "trainable": True}], ["get", "v", {"shape": [1], "initializer": "ones"}],
        ["get", "v", {"shape": [1], "initializer": "fives", "trainable": False}], ["variables", True],
        ["variables", False],
    ],
    "partly known shapes": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["get", "w", {"shape": [2, None]}],
        ["get", "w", {"shape": [None, None], "initializer": "ones"}], ["get", "w", {"shape": [2, 3]}],
        *[["get", "w", {"shape": s}] for s in [
            [None, None], [2, None], [None, 3], [None, 4], [None], [None] * 3, [-1, 3],
        ]],
    ],
    "constants and shapes": [
        *[["get", f"w{i}", {"initializer": v, **o}] for i, (v, o) in enumerate([
            (2.5, {"shape": [2]}), ([1.0, 2.0], {"shape": [2]}), ("twos", {"shape": [2]}), ("twos", {}),
            ("twos", {"shape": [2, 2], "dtype": "int32"}), ("twos", {"shape": [None]}), ([], {}), ([[]], {}),
            ([True, False], {}), ([1, 2.5], {}), (0, {"dtype": "float32"}), (0.0, {"dtype": "float16"}),
            (False, {"dtype": "bool"}), (7, {"dtype": "int32", "shape": []}),
        ])],
    ],
    "inherited constants": [
        ["enter", "a", {"name": "a", "initializer": 2}],
        *[["get", f"w{i}", o] for i, o in enumerate([
            {}, {"dtype": "int32"}, {"dtype": "float64"}, {"shape": []}, {"shape": [2], "dtype": "float32"},
            {"initializer": "ones", "shape": [2]}, {"initializer": 0.5},
            {"initializer": 0.5, "dtype": "int32"},
        ])],
        ["enter", "b", {"name": "b", "initializer": "zeros"}], ["get", "w", {"shape": [2]}], ["get", "v", {}],
        ["enter", "c", {"name": "c", "initializer": [1.0, 1.0], "dtype": "int32"}], ["get", "w", {}],
        ["get", "v", {"dtype": "int32"}], ["current"], ["exit", "c"], ["exit", "b"], ["exit", "a"],
        ["enter", "d", {"scope": "c", "reuse": "auto"}], ["get", "w", {}], ["get", "w", {"dtype": "float32"}],
        ["enter", "e", {"scope": "a", "reuse": "auto"}], ["get", "w0", {}], ["get", "w0", {"dtype": "int32"}],
        ["get", "w1", {"dtype": "int32", "shape": []}],
    ],
    "dtypes are inherited by object": [
        ["enter", "a", {"name": "a", "dtype": "float64", "initializer": "ones"}], ["exit", "a"],
        ["enter", "b", {"name": "b", "dtype": "float16"}], ["current"], ["enter", "c", {"scope": "a"}],
        ["current"], ["get", "w", {"shape": [2]}], ["enter", "d", {"name": "d"}],
        ["get", "w", {"shape": [2]}], ["exit", "d"], ["exit", "c"],
        ["enter", "e", {"scope": "a", "dtype": "int32", "reuse": "auto"}], ["current"],
        ["get", "w", {"shape": [2]}], ["get", "w", {"shape": [2], "dtype": "float64"}],
        ["get", "v", {"shape": [2]}], ["enter", "f", {"scope": "root", "initializer": "fives"}], ["current"],
        ["get", "w", {"shape": [2]}], ["exit", "f"], ["current"],
    ],
    "an object of an inner scope in another branch": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "b", {"default": "b"}], ["exit", "b"],
        ["exit", "a"], ["enter", "c", {"name": "c"}], ["enter", "d", {"scope": "b"}], ["current"],
        ["enter", "e", {"default": "b"}], W, ["exit", "e"],
        ["enter", "f", {"default": "b"}], W, ["exit", "f"], ["exit", "d"],
        ["enter", "g", {"default": "b"}], ["exit", "g"], ["exit", "c"], ["enter", "h", {"scope": "a"}],
        ["enter", "i", {"default": "b"}], W,
    ],
    "default names in a reusing scope find nothing": [
        ["enter", "a", {"name": "a"}], ["enter", "l", {"default": "l"}], W, ["exit", "l"], ["exit", "a"],
        ["enter", "b", {"name": "a", "reuse": True}], ["enter", "m", {"default": "l"}], W, ["exit", "m"],
        ["enter", "n", {"default": "l"}], W, ["exit", "n"], ["exit", "b"],
        ["enter", "c", {"scope": "a", "reuse": True}], ["enter", "o", {"default": "l"}], W,
    ],
    "threads count for themselves": [
        ["enter", "l", {"default": "l", "dtype": "float64"}], ["exit", "l"],
        ["thread", [
            ["current"], ["enter", "m", {"default": "l"}], W, ["exit", "m"],
            ["enter", "n", {"scope": "l"}], ["current"], ["enter", "o", {"default": "l"}],
            W, ["thread", [["enter", "p", {"default": "l"}], W]],
        ]],
        ["current"], ["enter", "q", {"default": "l"}], W,
    ],
    "an object whose last part begins with an underscore": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": "_b"}], ["exit", "b"], ["exit", "a"],
        ["enter", "c", {"scope": "b"}], W,
    ],
    "difference: the name scope of a name with a slash at its end": [
        ["enter", "a", {"name": "a"}], ["enter", "b", {"name": "b/"}], W, ["name", "x"],
    ],
    "a manager entered again after reuse": [
        ["enter", "a", {"name": "a", "reuse": "auto"}], ["enter", "b", {"name": "b"}], ["exit", "b"],
        ["exit", "a"], ["enter", "c", {"name": "c"}], ["again", "b"], W,
    ],
}
