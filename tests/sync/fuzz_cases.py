"""Random runs of sync, copy, move and check: a seed decides the trees, the options and the filter."""

import random
from dataclasses import dataclass, field, replace
from typing import NamedTuple

SECOND = 1_000_000_000
NOON = 1_600_000_000 * SECOND  # 2020-09-13
DAY = 86_400 * SECOND
TIMES = (
    NOON, NOON, NOON + SECOND, NOON + SECOND // 2, NOON + 123_456_789, NOON - DAY, NOON + 3600 * SECOND,
    4_000_000_000 * SECOND,
)  # fmt: skip
CONTENTS = (b"", b"1", b"2", b"22", b"33", b"444", b"555", b"x" * 1024, b"y" * 1025)
FOLDERS = ("d", "e", "a", "D", "x y", "[z]")
FILES = ("a", "b", "A", "c.txt", "d.csv", "D.csv", "\u00e4", "a\u0308", "x y", "s*r", "q?", "[z]", "{c}", ".h", "-n")
MARKER = ".nosync"


class File(NamedTuple):
    """The content of a file, and its time in nanoseconds since 1970."""

    data: bytes
    time: int


@dataclass(frozen=True)
class Case:
    """One run. A path that ends with a slash is an empty folder."""

    seed: int
    verb: str
    places: tuple[str, str]
    source: dict[str, File | None]
    destination: dict[str, File | None]
    options: dict[str, object] = field(default_factory=dict)
    filter: dict[str, object] = field(default_factory=dict)

    def smaller(self):
        """The case without one of its parts, for each part."""
        for name in ("options", "filter", "source", "destination"):
            parts = getattr(self, name)
            for left_out in parts:
                yield replace(self, **{name: {key: value for key, value in parts.items() if key != left_out}})
        for name, value in self.filter.items():
            if isinstance(value, list) and len(value) > 1:
                for at in range(len(value)):
                    yield replace(self, filter={**self.filter, name: value[:at] + value[at + 1 :]})


def case_of(seed, places=("local", "local")):
    """The case of this seed between two places."""
    rng = random.Random(f"{seed} {places}")
    most = 12 if places == ("local", "local") else 5
    paths = _paths(rng, most)
    source, destination = _trees(rng, paths, most, places)
    verb = rng.choice(("sync", "sync", "sync", "copy", "copy", "move", "move", "check"))
    options = _options(rng, verb, places)
    return Case(seed, verb, places, source, destination, options, _filter(rng, paths))


# -- trees -------------------------------------------------------------------------------------------------------------


def _paths(rng, most):
    paths = set()
    for _ in range(rng.randrange(1, most + 4)):
        if paths and rng.random() < 0.2:  # the same name further down, which no rule with a leading slash matches
            paths.add(f"{rng.choice(FOLDERS)}/{rng.choice(sorted(paths))}")
            continue
        depth = rng.choice((0, 0, 0, 1, 1, 1, 2, 3))
        name = MARKER if rng.random() < 0.04 else rng.choice(FILES)
        paths.add("/".join([*(rng.choice(FOLDERS) for _ in range(depth)), name]))
    return sorted(paths)


def _trees(rng, paths, most, places):
    source, destination = {}, {}
    for path in rng.sample(paths, min(len(paths), most)):
        file = File(rng.choice(CONTENTS), rng.choice(TIMES))
        where = rng.random()
        if where < 0.75:
            _add(source, path, file)
        if where > 0.4:
            if where < 0.75 and rng.random() < 0.6:
                other = rng.choice((file, file._replace(time=rng.choice(TIMES)), _same_size(rng, file)))
            else:
                other = File(rng.choice(CONTENTS), rng.choice(TIMES))
            _add(destination, path, other)
    _rename(rng, source, destination)
    for tree, place in zip((source, destination), places, strict=True):
        if place == "local" and rng.random() < 0.25:
            _add(tree, "/".join(rng.choice(FOLDERS) for _ in range(rng.randrange(1, 4))) + "/", None)
    return source, destination


def _same_size(rng, file):
    return file._replace(data=bytes(rng.sample(b"pqrstu", 1)) * len(file.data))


def _rename(rng, source, destination):
    """Sometimes the destination has a file of the source under another name."""
    if source and rng.random() < 0.25:
        path = rng.choice(sorted(source))
        name = path.rpartition("/")[2] if rng.random() < 0.5 else rng.choice(FILES)
        destination.pop(path, None)
        _add(destination, f"{rng.choice(FOLDERS)}/{name}", source[path])


def _add(tree, path, file):
    """Add the file unless a file has the name of its folder, or a folder its name."""
    bare = path.rstrip("/")
    clash = any(one != path and (one.startswith(f"{bare}/") or bare.startswith(f"{one}/")) for one in tree)
    if not clash and bare not in tree and f"{bare}/" not in tree:
        tree[path] = file


# -- options -----------------------------------------------------------------------------------------------------------

COMPARING = (
    {}, {}, {}, {"size_only": True}, {"checksum": True}, {"ignore_times": True}, {"compare": "size"},
    {"compare": "checksum"}, {"compare": "rclone"}, {"compare": "rclone"}, {"modify_window": SECOND},
    {"modify_window": SECOND * 7200}, {"update": True}, {"update": True, "checksum": True},
    {"update": True, "compare": "rclone"}, {"update": True, "size_only": True}, {"ignore_existing": True},
    {"immutable": True}, {"immutable": True, "size_only": True},
)  # fmt: skip
CHECKING = ({}, {}, {"size_only": True}, {"download": True}, {"one_way": True}, {"one_way": True, "download": True})

FOLDING = ({"ignore_case": True}, {"normalize": True}, {"ignore_case": True, "normalize": True}, {"rclone_forms": True})


def _options(rng, verb, places):
    if verb == "check":
        options = dict(rng.choice(CHECKING))
    else:
        options = dict(rng.choice(COMPARING))
        if rng.random() < 0.15:
            options |= rng.choice(({"backup_dir": True}, {"suffix": ".bak"}, {"backup_dir": True, "suffix": ".bak"}))
        for name in ("empty_dirs", "check_first", "ignore_errors"):
            if rng.random() < 0.15:
                options[name] = True
        if verb == "sync":
            options |= _deleting(rng)
        elif rng.random() < 0.15:
            options["no_traverse"] = True
    if rng.random() < 0.1 and not options.get("no_traverse"):
        options |= rng.choice(FOLDING)
    return options


def _deleting(rng):
    """``careful`` leaves the limits of deletions as they are; other cases lift them, as rclone has none."""
    options = {}
    if rng.random() < 0.1:
        options["delete_excluded"] = True
    chance = rng.random()
    if chance < 0.08:
        options["careful"] = True
    elif chance < 0.16:
        options["max_delete"] = rng.randrange(4)
    elif chance < 0.2:
        options["max_delete_size"] = rng.choice((0, 2, 1024))
    if rng.random() < 0.15:
        options["track_renames"] = rng.choice(("hash", "modtime", "leaf", "modtime,leaf", "hash,leaf"))
    return options


# -- filters -----------------------------------------------------------------------------------------------------------


def _filter(rng, paths):
    chance = rng.random()
    if chance < 0.45:
        return {}
    if chance < 0.5:
        return {"files_from": [rng.choice(paths) for _ in range(rng.randrange(1, 4))]}
    words = {}
    kind = rng.choice(("rules", "rules", "include", "exclude", "filter_from", "none"))
    if kind in ("rules", "filter_from"):
        words[kind] = [f"{rng.choice('+-')} {_pattern(rng, paths)}" for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.4:
            words[kind].append("- *")
    elif kind != "none":
        words[kind] = [_pattern(rng, paths) for _ in range(rng.randrange(1, 3))]
    if kind == "none" or rng.random() < 0.15:
        words |= rng.choice(BOUNDS)
    if words and rng.random() < 0.1:
        words["ignore_case"] = True
    return words


BOUNDS = (
    {"min_size": "2b"}, {"max_size": "1k"}, {"min_size": "1b", "max_size": "3b"}, {"max_age": "2020-09-13"},
    {"min_age": "2020-09-13"}, {"min_age": "2021-01-01"}, {"max_depth": 1}, {"max_depth": 2},
    {"exclude_if_present": [MARKER]}, {"hash_filter": "1/2"},
)  # fmt: skip


def _pattern(rng, paths):
    """A pattern that has something to do with the paths."""
    path = rng.choice(paths)
    folder, _, name = path.rpartition("/")
    made = [
        path,
        f"/{path}",
        name,
        f"*{name[-1]}",
        f"{name[0]}*",
        f"?{name[1:]}",
        "[a-c]*",
        "{a,c.txt,d/*}",
        "*.{txt,csv}",
    ]
    if folder:
        first = folder.partition("/")[0]
        made += [f"{first}/", f"/{first}/", f"/{first}/**", f"{folder}/**", f"{folder}/*", f"**/{name}", f"/*/{name}"]
    return rng.choice(made)
