"""One random case, carried out by omnistorage and by rclone, each on trees of its own."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

from omnistorage.errors import StorageError
from omnistorage.sync import Filter, check, copy, move, sync

from .fuzz_cases import SECOND
from .fuzz_places import Folder, Prefix

VERBS = {"sync": sync, "copy": copy, "move": move}
FLAGS = {
    "size_only": "SizeOnly", "checksum": "CheckSum", "ignore_times": "IgnoreTimes", "ignore_existing": "IgnoreExisting",
    "update": "UpdateOlder", "immutable": "Immutable", "modify_window": "ModifyWindow", "ignore_case": "IgnoreCaseSync",
    "no_traverse": "NoTraverse", "check_first": "CheckFirst", "ignore_errors": "IgnoreErrors", "suffix": "Suffix",
    "max_delete": "MaxDelete", "max_delete_size": "MaxDeleteSize",
}  # fmt: skip
"""Options of the same meaning."""
RULES = {"size": {"SizeOnly": True}, "checksum": {"CheckSum": True}}
"""rclone's options for a rule of ``compare``; its own rule is the one of times."""
WORDS = {
    "rules": "FilterRule", "include": "IncludeRule", "exclude": "ExcludeRule", "exclude_if_present": "ExcludeFile",
    "min_size": "MinSize", "max_size": "MaxSize", "min_age": "MinAge", "max_age": "MaxAge", "ignore_case": "IgnoreCase",
    "hash_filter": "HashFilter",
}  # fmt: skip
"""Words of a filter of the same meaning."""
SIGNS = {"=": "match", "+": "missingOnDst", "-": "missingOnSrc", "*": "differ", "!": "error"}
OURS_ALONE = ("careful", "rclone_forms", "backup_dir")
"""Words of a case that are no settings of ours, or take more than a word."""
FORMS = frozenset({"normalize", "ignore_case", "rclone_forms"})
"""Options with which names of one Unicode form are one name: to rclone they always are, unless it is told otherwise."""
_numbers = count()


@dataclass
class Outcome:
    """What a run left at each place, and whether it went well. A check leaves the sign of each path."""

    ok: bool
    trees: dict = field(default_factory=dict)
    signs: dict = field(default_factory=dict)
    said: str = ""


class World:
    """The folder and the prefix below which cases have their places, and the rclone that works there."""

    def __init__(self, folder, daemon):
        self.folder, self.daemon = str(folder), daemon
        self.said = ""  # by both, of the last case

    def outcomes(self, case):
        """What omnistorage and what rclone makes of the case."""
        number = next(_numbers)
        ours, theirs = self._outcome(case, f"{number}-o", _ours), self._outcome(case, f"{number}-r", self._theirs)
        self.said = f"ours: {ours.said}\nrclone: {theirs.said}"
        return ours, theirs

    def _outcome(self, case, name, run):
        places = {
            "source": self._place(case.places[0], f"{name}-s").fill(case.source),
            "destination": self._place(case.places[1], f"{name}-d").fill(case.destination),
        }
        if case.options.get("backup_dir"):
            places["backup"] = places["destination"].beside("backup")
        try:
            outcome = run(case, places)
            outcome.trees = {role: place.held() for role, place in places.items()}
            return outcome
        finally:
            for place in places.values():
                place.remove()

    def _place(self, kind, name):
        whole = os.path.join(self.folder, name)
        return Folder(whole) if kind == "local" else Prefix(whole.strip("/"))

    def _theirs(self, case, places):
        words = {
            "srcFs": places["source"].for_rclone(),
            "dstFs": places["destination"].for_rclone(),
            "_config": _config(case, places),
            "_filter": self._filter(case),
        }
        if case.verb == "check":
            return self._checked(case, words)
        words["createEmptySrcDirs"] = bool(case.options.get("empty_dirs"))
        well, said = self.daemon.call(f"sync/{case.verb}", **words)
        return Outcome(well, said=str(said.get("error", "")))

    def _checked(self, case, words):
        asked = dict.fromkeys(SIGNS.values(), True)
        words |= {"oneWay": bool(case.options.get("one_way")), "download": bool(case.options.get("download"))}
        well, said = self.daemon.call("operations/check", **words, **asked)
        signs = {path: sign for sign, name in SIGNS.items() for path in said.get(name) or () if well}
        return Outcome(well and said["success"], signs=signs, said=str(said.get("error", said.get("status"))))

    def _filter(self, case):
        words = {WORDS[name]: value for name, value in case.filter.items() if name in WORDS}
        for name, key in (("files_from", "FilesFrom"), ("filter_from", "FilterFrom")):
            if name in case.filter:
                path = os.path.join(self.folder, name)
                with open(path, "w") as file:
                    file.write("".join(f"{line}\n" for line in case.filter[name]))
                words[key] = [path]
        if case.options.get("delete_excluded"):
            words["DeleteExcluded"] = True
        return words


def _config(case, places):
    options = case.options
    config = {FLAGS[name]: value for name, value in options.items() if name in FLAGS}
    config["NoUnicodeNormalization"] = not FORMS.intersection(options)
    config |= RULES.get(options.get("compare"), {})
    if "track_renames" in options:
        config |= {"TrackRenames": True, "TrackRenamesStrategy": options["track_renames"]}
    if "max_depth" in case.filter:
        config["MaxDepth"] = case.filter["max_depth"]
    if "backup" in places:
        config["BackupDir"] = places["backup"].for_rclone()
    return config


def _ours(case, places):
    settings = {name: value for name, value in case.options.items() if name not in OURS_ALONE}
    if "modify_window" in settings:
        settings["modify_window"] = timedelta(seconds=settings["modify_window"] / SECOND)
    if "backup" in places:
        settings["backup_dir"] = places["backup"].backend()
    if case.verb != "check" and not case.options.get("careful"):
        settings = {"max_delete": "100%", "allow_empty_source": True, **settings}
    ends = [places[role].backend() for role in ("source", "destination")]
    words = {name: [value] if name.endswith("_from") else value for name, value in case.filter.items()}
    try:
        settings["filter"] = Filter.parse(**words)
        return _compared(ends, settings) if case.verb == "check" else _done(case.verb, ends, settings)
    except StorageError as error:
        return Outcome(False, said=repr(error))


def _done(verb, ends, settings):
    more = {"delete": True} if verb == "sync" else {}
    report = VERBS[verb](*ends, raise_errors=False, **more, **settings)
    return Outcome(report.ok, said=f"{report}; {[(one.path, str(one.error)) for one in report.failures]}")


def _compared(ends, settings):
    signs = {}
    report = check(*ends, listeners=[lambda sign, path, why, error: signs.__setitem__(path, sign)], **settings)
    return Outcome(report.in_sync, signs=signs, said=str(report))
