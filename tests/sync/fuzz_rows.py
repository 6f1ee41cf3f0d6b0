"""The differences from rclone that are meant: which row of the guide explains a difference that a random run shows.

Each row of the table in ``docs/guides/sync.md`` that random runs can meet has a function here of the same name. It says
whether the row explains one difference of one case.
"""

import unicodedata
from datetime import UTC, datetime

from .fuzz_cases import SECOND
from .fuzz_runs import FORMS

ROWS = {}
PLACES = ("destination", "backup")
SIZES = {"0b": 0, "1b": 1, "2b": 2, "3b": 3, "1k": 1024, "1M": 1 << 20}


def row(name):
    """Register the function for the row of the guide that has this name."""

    def register(function):
        ROWS[name] = function
        return function

    return register


def explained(case, difference):
    """The name of the first row that explains the difference; None if it must not be."""
    return next((name for name, explains in ROWS.items() if explains(case, difference)), None)


# -- what is known of a case -------------------------------------------------------------------------------------------


def folders(path):
    """The folders that the path lies in, outermost first."""
    return [path[:at] for at, letter in enumerate(path) if letter == "/"]


def objects(tree):
    return {path: file for path, file in tree.items() if file is not None}


def clashes(case):
    """Whether a name is a file on one side and a folder on the other."""
    sides = objects(case.source), objects(case.destination)
    return any(
        folder in files
        for files, others in (sides, sides[::-1])
        for path in {**case.source, **case.destination}
        if path in others or path.endswith("/")
        for folder in folders(path)
    )


def folded(case, path):
    """The path as the options of the case compare it."""
    if FORMS.intersection(case.options):
        path = unicodedata.normalize("NFC", path)
    return path.lower() if case.options.get("ignore_case") else path


def spellings(case):
    """Each folded name of a file or folder, with all the names that it stands for."""
    found = {}
    for path in (*case.source, *case.destination):
        for name in (*folders(path), path.rstrip("/")):
            found.setdefault(folded(case, name), set()).add(name)
    return found


def touches(difference, path, suffix=""):
    """Whether the difference is at the path, at its backup, or in the state of the run."""
    return difference.where == "ok" or difference.path.rstrip("/") in (path, path + suffix, *folders(path))


def stays(case, difference):
    """Whether the difference is that rclone has deleted, replaced or moved what is still where it was."""
    if difference.where == "backup":
        return difference.ours is None
    tree = case.source if difference.where == "source" else case.destination
    path = difference.path
    there = tree.get(path) or ("empty folder" if path.endswith("/") else None)
    return difference.where in ("source", "destination") and difference.ours == there


def emptied(difference):
    """Whether the difference is a folder that rclone has emptied, and that still holds what it held."""
    return (difference.ours, difference.theirs) == (None, "empty folder")


def is_within(case, file):
    """Whether the size and the time of the file are within the bounds of the filter."""
    size, time, words = len(file.data), datetime.fromtimestamp(file.time / SECOND, UTC), case.filter
    return (
        SIZES[words.get("min_size", "0b")] <= size <= SIZES[words.get("max_size", "1M")]
        and time >= _date(words.get("max_age", "1970-01-01"))
        and time <= _date(words.get("min_age", "9999-01-01"))
    )


def _date(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- the rows ----------------------------------------------------------------------------------------------------------


@row("limits of deletions")
def _limits(case, difference):
    """Beyond a limit nothing is deleted. rclone deletes up to it."""
    if not any(name in case.options for name in ("careful", "max_delete", "max_delete_size")):
        return False
    renamed = "track_renames" in case.options  # which counts as a deletion to rclone
    return difference.where == "ok" or stays(case, difference) or emptied(difference) or renamed


@row("a file and a folder of one name")
def _clash(case, difference):
    return clashes(case)


@row("Unicode forms")
def _forms(case, difference):
    wide = spellings(case)
    return "rclone_forms" in case.options and any(len(names) > 1 for names in wide.values())


@row("names that become one")
def _one_name(case, difference):
    return any(len(names) > 1 for names in spellings(case).values())


@row("a move compares content")
def _move_compares(case, difference):
    suffix = case.options.get("suffix", "")
    return case.verb == "move" and any(
        file is not None
        and (other := case.destination.get(path)) is not None
        and len(file.data) == len(other.data)
        and file.data != other.data
        and touches(difference, path, suffix)
        for path, file in case.source.items()
    )


@row("a move keeps what it leaves")
def _move_keeps(case, difference):
    return (
        case.verb == "move"
        and "update" in case.options
        and difference.where == "source"
        and any(
            file is not None
            and (other := case.destination.get(path)) is not None
            and other.time > file.time
            and touches(difference, path)
            for path, file in case.source.items()
        )
    )


@row("bounds of size and age")
def _bounds(case, difference):
    """Of two files of one name, one is within the bounds. The source's decides, and the other one is still compared."""
    suffix = case.options.get("suffix", "")
    return any(
        file is not None
        and (other := case.destination.get(path)) is not None
        and is_within(case, file) != is_within(case, other)
        and (touches(difference, path, suffix) or ("immutable" in case.options and stays(case, difference)))
        for path, file in case.source.items()
    )


@row("markers")
def _markers(case, difference):
    """What the source has beside a marker shields what the destination has, and the other way round."""
    if "exclude_if_present" not in case.filter:
        return False
    return difference.where in ("ok", "signs") or stays(case, difference) or emptied(difference)


@row("the time of a rename")
def _rename_time(case, difference):
    ours, theirs = difference.ours, difference.theirs
    return (
        "track_renames" in case.options
        and difference.where == "destination"
        and isinstance(ours, tuple)
        and isinstance(theirs, tuple)
        and ours.data == theirs.data
    )


@row("verified renames")
def _verified(case, difference):
    """Or of several files with the same size and time another one was renamed."""
    ours, source = difference.ours, case.source.get(difference.path)
    if "hash" in str(case.options.get("track_renames", "hash")) or difference.where not in PLACES:
        return False
    if difference.where == "backup":
        kept = difference.ours or difference.theirs
        return None in (difference.ours, difference.theirs) and kept in case.destination.values()
    same = [file for file in case.destination.values() if file and source and file.time == source.time]
    return source is not None and (ours == source or (ours in same and len(ours.data) == len(source.data)))


@row("errors and renames")
def _errors(case, difference):
    return "track_renames" in case.options and "immutable" in case.options and difference.where in PLACES


@row("depth of folders")
def _depth(case, difference):
    """rclone makes and removes folders at the greatest depth, whatever is in them, and deletes nothing below them."""
    if "max_depth" not in case.filter:
        return False
    empty = {difference.ours, difference.theirs} == {"empty folder", None}
    return (empty and difference.path.count("/") <= case.filter["max_depth"]) or (
        "delete_excluded" in case.options and difference.where in ("destination", "backup")
    )


@row("folders of excluded files")
def _excluded_folders(case, difference):
    return "delete_excluded" in case.options and {difference.ours, difference.theirs} == {"empty folder", None}


@row("letter case of rules")
def _case_of_rules(case, difference):
    return "ignore_case" in case.options and bool(case.filter) and "ignore_case" not in case.filter


@row("includes without a leading slash")
def _includes(case, difference):
    """rclone passes over a folder whose name no pattern matches from its beginning."""
    words = [*case.filter.get("include", ()), *case.filter.get("rules", ()), *case.filter.get("filter_from", ())]
    loose = [word.removeprefix("+ ") for word in words if not word.startswith("- ")]
    deep = difference.where == "ok" or "/" in difference.path
    return deep and any("/" in word and not word.startswith("/") for word in loose)


def both_hold(case, difference, *, same_size=True):
    """Whether the difference is at an object that both sides have, as a rule of one size, or in what comes of it: after
    an error nothing is deleted."""
    blocks = "immutable" in case.options and difference.where in ("destination", "backup")
    return any(
        file is not None
        and (other := case.destination.get(path)) is not None
        and (len(file.data) == len(other.data) or not same_size)
        and (blocks or touches(difference, path, case.options.get("suffix", "")))
        for path, file in case.source.items()
    )


@row("a bucket by its listings")
def _listings(case, difference):
    """An object that is not older than its source counts as equal, and with ``update`` as newer."""
    if case.places[1] != "s3":
        return False
    if "update" in case.options and case.places[0] == "local":
        return both_hold(case, difference, same_size=False)
    by_times = not {"compare", "checksum", "ignore_times"}.intersection(case.options)
    return by_times and both_hold(case, difference)


@row("digests before times")
def _digests(case, difference):
    """Where a bucket cannot be given another time, equal digests are enough, and different ones are a difference."""
    return case.places[1] == "s3" and both_hold(case, difference)


@row("folders of a bucket")
def _bucket_folders(case, difference):
    """A bucket has no folders but those of objects that the filter lets in."""
    return case.places[0] == "s3" and difference.ours is None and difference.theirs == "empty folder"


@row("ages in a bucket")
def _ages(case, difference):
    return "s3" in case.places and not {"min_age", "max_age"}.isdisjoint(case.filter)
