"""Scenarios for record_tensorflow.py, made by the hundred; naming_rules.py says what the steps mean."""

import itertools


def reuse_scenarios():
    """Return all ways in which two nested scopes can say whether they reuse, over what is there or not."""
    scenarios = {}
    ways = {"name": {"name": "b"}, "object": {"scope": "b0"}, "default": {"default": "b"}}
    for way, outer, inner in itertools.product(
        ways, [None, True, False, "auto"], [None, True, False, "auto"]
    ):
        steps = [
            ["enter", "a0", {"name": "a"}],
            ["enter", "b0", {"name": "b"}],
            ["get", "there", {"shape": [1]}],
            ["exit", "b0"],
            ["exit", "a0"],
            ["enter", "a", {"name": "a"} | ({} if outer is None else {"reuse": outer})],
            ["enter", "b", ways[way] | ({} if inner is None else {"reuse": inner})],
            ["get", "there", {"shape": [1]}],
            ["get", "new", {"shape": [1]}],
            ["enter", "c", {"name": "c", "reuse": False}],
            ["get", "new", {"shape": [1]}],
            ["exit", "c"],
            ["exit", "b"],
            ["current"],
            ["get", "b/new", {"shape": [1]}],
        ]
        scenarios[f"reuse {outer} around {inner} by {way}"] = steps
    return scenarios


def mismatch_scenarios():
    """Return all pairs of a variable that is made and one that is asked for."""
    shapes = [None, [], [2], [2, 3], [None, 3], [3, 2]]
    made = [{"shape": [2, 3]}, {"shape": [], "dtype": "float64"}, {"shape": [2], "dtype": "int32"}]
    made += [{"initializer": 3}, {"initializer": [1.0, 1.0]}]
    scenarios = {}
    for (i, first), reuse in itertools.product(enumerate(made), [True, "auto"]):
        steps = [["get", "a/w", first], ["enter", "a", {"name": "a", "reuse": reuse}]]
        for shape, dtype, initializer in itertools.product(
            shapes, [None, "float32", "int32", "float64"], [None, "ones", 3]
        ):
            asked = {"shape": shape, "dtype": dtype, "initializer": initializer}
            steps.append(["get", "w", {key: value for key, value in asked.items() if value is not None}])
        scenarios[f"mismatches {i}, reuse {reuse}"] = steps
    return scenarios


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


def odd_names_scenario(rng):
    """Return steps with names that are empty, have empty parts, or begin with what only some may."""
    names = ["", "a", "a/", "a//b", "_a", "-a", "a b", "/a", "é", "a.b", "l_1"]
    steps, entered = [], []
    for number in range(rng.randint(6, 16)):
        act = rng.choices(["enter", "names", "exit", "get", "current"], [5, 1, 2, 4, 1])[0]
        if act == "exit" and entered:
            steps.append(["exit", entered.pop()])
        elif act == "get":
            # A name that ends in a slash is one that an operation may have already, and fails in TensorFlow.
            name = rng.choice([name for name in names if name and name[-1] != "/"])
            steps.append(["get", name, {"shape": [1]}])
        elif act == "current":
            steps.append(["current"])
        elif act != "exit":
            key = f"s{number}"
            if act == "names":
                steps.append(["names", key, f"n{number}"])
            else:
                way = rng.choices(["name", "default", "scope"], [4, 3, 2])[0]
                # Not one below another scope: TensorFlow's check of an object's last part is not ours.
                value = "root" if way == "scope" else rng.choice(names)
                steps.append(["enter", key, {way: value}])
            entered.append(key)
    return steps


def inheritance_scenario(rng):
    """Return steps in which scopes hand down initializers and dtypes, and variables ask for their own."""
    initializers = ["zeros", "ones", "twos", "fives", 1.5, 3, [2.0, 2.0]]
    steps, entered, known = [], [], ["root"]
    for number in range(rng.randint(8, 16)):
        act = rng.choices(["enter", "exit", "get", "current", "variables"], [4, 1, 6, 1, 0.5])[0]
        if act == "exit" and entered:
            steps.append(["exit", entered.pop()])
        elif act == "get":
            options = {}
            if rng.random() < 0.6:
                options["shape"] = rng.choice([[2], [2], [], [None], [2, None], [0]])
            if rng.random() < 0.4:
                options["dtype"] = rng.choice(["float32", "float64", "int32", "float16", "bool", "complex64"])
            if rng.random() < 0.3:
                options["initializer"] = rng.choice(initializers)
            if rng.random() < 0.3:
                options["trainable"] = rng.random() < 0.5
            steps.append(["get", rng.choice(["w", "v", f"w{number}"]), options])
        elif act == "current":
            steps.append(["current"])
        elif act == "variables":
            steps.append(["variables", rng.choice([True, False, None])])
        elif act != "exit":
            key = f"s{number}"
            options = rng.choice(
                [{"name": "a"}, {"name": "b"}, {"default": "l"}, {"scope": rng.choice(known)}]
            )
            options = dict(options)
            if rng.random() < 0.5:
                options["initializer"] = rng.choice(initializers)
            if rng.random() < 0.4:
                options["dtype"] = rng.choice(["float32", "float64", "int32", "float16"])
            if "default" not in options and rng.random() < 0.4:
                options["reuse"] = rng.choice([True, "auto", "auto", "auto"])
            steps.append(["enter", key, options])
            entered.append(key)
            known.append(key)
    return steps


def threads_scenario(rng, keys=None, depth=0):
    """Return steps of which some run in threads, which enter each other's scopes by object."""
    steps, entered = [], []
    keys = itertools.count() if keys is None else keys
    for _ in range(rng.randint(4, 8)):
        key = f"s{next(keys)}"
        act = rng.choices(
            ["enter", "exit", "get", "current", "thread"], [5, 2, 4, 1, 1.5 if depth < 2 else 0]
        )[0]
        if act == "exit" and entered:
            steps.append(["exit", entered.pop()])
        elif act == "get":
            steps.append(["get", rng.choice(["w", "v"]), {"shape": [1]}])
        elif act == "current":
            steps.append(["current"])
        elif act == "thread":
            steps.append(["thread", threads_scenario(rng, keys, depth + 1)])
        elif act != "exit":
            around = [["name", "a"], ["default", "l"], ["scope", "root"]]
            way, value = rng.choice(around + [["scope", k] for k in entered])
            options = {way: value}
            if way != "default" and rng.random() < 0.5:
                options["reuse"] = rng.choice([True, "auto", "auto"])
            steps.append(["enter", key, options])
            entered.append(key)
    return steps
