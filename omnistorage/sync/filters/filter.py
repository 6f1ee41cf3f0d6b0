"""Which files a sync is about: rclone's filters, decided per path, and which folders need not be listed for that."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from omnistorage.core import ObjectInfo
from omnistorage.errors import ConfigError

from .bounds import Age, Size, parse_age, parse_part, parse_size, part_of, time_of
from .rules import NOTHING_ELSE, Rule, Source, compile_rule, each_source, files, in_order, listed, markers, signed

_NO_METADATA = ["\0=\0"]  # what a pattern for everything matches, and no other


@dataclass(frozen=True)
class Filter:
    """What is included. Built by ``Filter()``, which includes everything, or ``Filter.parse``.

    Filters pickle, with the moment that ages are counted from; they are equal if they were asked for in the same words,
    whatever that moment was.
    """

    rules: tuple[str, ...] = ()
    """``+ pattern`` or ``- pattern``, in the order in which they are tried: the first that matches decides."""
    files: frozenset[str] | None = field(default=None, repr=False)
    """The paths that ``files_from`` lists, and no other; None without it. ``ignore_case`` holds for them, too."""
    marker_names: tuple[str, ...] = ()
    """The names of ``exclude_if_present``: see ``has_marker``."""
    min_size: int | None = None
    max_size: int | None = None
    min_age: timedelta | datetime | None = None
    max_age: timedelta | datetime | None = None
    max_depth: int | None = None
    ignore_case: bool = False
    part: tuple[int, int] | None = None
    """``hash_filter``: the number of the part that is included, and of all parts."""
    metadata_rules: tuple[str, ...] = ()
    now: datetime | None = field(default=None, compare=False)
    """The moment that ages are counted from."""

    def __post_init__(self) -> None:
        self._rules, self._metadata_rules  # noqa: B018 (a bad rule is refused now)
        if self.max_depth is not None and self.max_depth < 1:
            raise ConfigError(
                f"max_depth: {self.max_depth} lists nothing: give 1 or more, or leave it out for no limit"
            )
        if self.min_size is not None and self.max_size is not None and self.min_size > self.max_size:
            raise ConfigError(f"min_size {self.min_size} is above max_size {self.max_size}: nothing could pass")
        oldest, newest = self._times
        if oldest is not None and newest is not None and newest < oldest:
            raise ConfigError(f"min_age {self.min_age} is above max_age {self.max_age}: nothing could pass")

    @classmethod
    def parse(
        cls,
        rules: Sequence[str] = (),
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        include_from: Source | Iterable[Source] = (),
        exclude_from: Source | Iterable[Source] = (),
        filter_from: Source | Iterable[Source] = (),
        files_from: Source | Iterable[Source] = (),
        files_from_raw: Source | Iterable[Source] = (),
        exclude_if_present: str | Sequence[str] = (),
        min_size: Size | None = None,
        max_size: Size | None = None,
        min_age: Age | None = None,
        max_age: Age | None = None,
        max_depth: int | None = None,
        ignore_case: bool = False,
        hash_filter: str | None = None,
        metadata_include: str | Iterable[str] = (),
        metadata_exclude: str | Iterable[str] = (),
        metadata_filter: str | Iterable[str] = (),
        now: datetime | None = None,
    ) -> Filter:
        """A filter in rclone's words. Patterns are those of ``omnistorage.globs``.

        Rules are tried in this order, as rclone does, and the first match decides; without one a file is included:
        ``include``, ``include_from``, ``exclude``, ``exclude_from``, ``rules``, ``filter_from``, and last, if there is
        any ``include`` or ``include_from``, the exclusion of everything. ``rules`` and ``filter_from`` hold
        ``+ pattern``, ``- pattern``, and ``!``, which drops all rules before it. ``- folder/`` excludes all that is
        under the folder; ``+ folder/`` includes no file, it only keeps the folder from being passed over. White space
        at the end of a rule is dropped: ``[ ]`` is a blank.

        What ends in ``_from`` takes paths of local text files (a ``str`` is always a path), open text files, or other
        iterables of lines, one or a list of them. Blank lines and those that begin with ``#`` or ``;`` are skipped.
        ``files_from`` lists the very paths to include; ``files_from_raw`` too, with every line as it is, or separated
        by NUL where the list holds one. In both a leading ``/`` is dropped, and neither goes with any other filter.

        Sizes are bytes as ``int``, or text: ``100`` (KiB), ``10b``, ``1k``, ``1.5GiB``; ages seconds, ``timedelta``,
        text (``90s 15m 2h 3d 1w 2M 1y 1h30m``), or dates. ``"off"`` is None. Bounds belong to what is included.
        ``max_depth=1`` is the files of the root alone. ``hash_filter="K/N"`` includes one of N parts: a path is in part
        ``h % N``, with K = N for 0, where ``h`` is the little-endian number in the first 8 bytes of the MD5 of the path
        in NFC, lower case and UTF-8. Metadata rules match ``key=value``, with case; one key of an object is enough.

        ``ConfigError`` names the rule, with file and line if it came from one, or the option, that cannot be taken.
        """
        sources = each_source(include_from)
        wanted = [*signed("+ ", include), *listed("+ ", sources, "include_from")]
        path_rules = [
            *wanted,
            *signed("- ", exclude),
            *listed("- ", each_source(exclude_from), "exclude_from"),
            *signed("", rules),
            *listed("", each_source(filter_from), "filter_from"),
            *(NOTHING_ELSE if wanted or sources else ()),
        ]
        tagged = signed("+ ", metadata_include)
        metadata_rules = [
            *tagged,
            *signed("- ", metadata_exclude),
            *signed("", metadata_filter),
            *(NOTHING_ELSE if tagged else ()),
        ]
        ages = parse_age(min_age, "min_age"), parse_age(max_age, "max_age")
        counted = any(isinstance(age, timedelta) for age in ages)
        made = cls(
            rules=in_order(path_rules, ignore_case),
            files=files(each_source(files_from), each_source(files_from_raw)),
            marker_names=markers(exclude_if_present),
            min_size=parse_size(min_size, "min_size"),
            max_size=parse_size(max_size, "max_size"),
            min_age=ages[0],
            max_age=ages[1],
            max_depth=max_depth,
            ignore_case=ignore_case,
            part=parse_part(hash_filter),
            metadata_rules=in_order(metadata_rules),
            now=(now or datetime.now(UTC)).astimezone(UTC) if counted else None,
        )
        if made.files is not None and made != cls(files=made.files):
            raise ConfigError("files_from lists the very files to take: it does not go with any other filter")
        return made

    # --- files ---

    def includes(self, path: str, info: ObjectInfo | None = None) -> bool:
        """Whether the file is included: by its path and, with ``info``, by its size, age and metadata.

        The age is that of ``info.modified_at``. What ``info`` does not say (None) excludes nothing: a file of unknown
        size cannot be said to be too large. Metadata are not in every store's listing: whoever lists asks the store for
        them, as a sync does.
        """
        return self.includes_path(path) and (info is None or self._includes_info(info))

    def includes_path(self, path: str) -> bool:
        """Whether the path alone lets the file pass: rules, ``files_from``, depth and part.

        It is the same today and tomorrow, and at both ends of a sync. So it is what decides whether an object at the
        destination may be deleted: size and age differ between a file and its copy, and change.
        """
        if self.files is not None:
            return (path.casefold() if self.ignore_case else path) in self._files
        if self.max_depth is not None and path.count("/") >= self.max_depth:
            return False
        if self.part is not None and part_of(path, self.part[1]) != self.part[0]:
            return False
        return _decide(self._rules, [path])

    def _includes_info(self, info: ObjectInfo) -> bool:
        size = info.size
        if size is not None:
            if self.min_size is not None and size < self.min_size:
                return False
            if self.max_size is not None and size > self.max_size:
                return False
        oldest, newest = self._times
        if info.modified_at is not None:
            if oldest is not None and info.modified_at < oldest:
                return False
            if newest is not None and info.modified_at > newest:
                return False
        if self.metadata_rules and info.metadata is not None:
            pairs = [f"{key}={value}" for key, value in info.metadata.items()]
            return _decide(self._metadata_rules, pairs or _NO_METADATA)
        return True

    # --- folders ---

    def descends(self, folder: str) -> bool:
        """Whether anything under ``folder`` (relative to the root, no slash at its end) could be included by its path.

        False is certain. True may be too much, where a pattern does not tell.
        """
        if self.files is not None:
            folder = folder.casefold() if self.ignore_case else folder
            head, files = f"{folder}/" if folder else "", self._sorted_files
            at = bisect_left(files, head)
            return at < len(files) and files[at].startswith(head)
        if self.max_depth is not None and folder and folder.count("/") + 1 >= self.max_depth:
            return False
        inside = f"{folder}/" if folder else ""
        for rule in self._folder_rules:
            if rule.everywhere or any(matches(inside) for matches in rule.folders):
                return rule.include
        return True

    @property
    def prunes(self) -> bool:
        """Whether ``descends`` is ever False. If not, a flat listing is as good."""
        if self.files is not None or self.max_depth is not None:
            return True
        return any(not rule.include for rule in self._folder_rules)

    def has_marker(self, entries: Iterable[ObjectInfo]) -> bool:
        """Whether a folder with these entries is to be dropped with all that is under it: one of them is a file called
        as in ``exclude_if_present``, or a folder where the name given ends with ``/``.

        ``includes`` and ``descends`` know nothing of this: whoever lists folder by folder asks it for each.
        """
        names = self.marker_names
        return bool(names) and any((f"{one.name}/" if one.is_dir else one.name) in names for one in entries)

    @property
    def is_all(self) -> bool:
        """Whether everything is included, as far as that is plain from the rules."""
        if self != Filter(rules=self.rules, ignore_case=self.ignore_case, part=self.part):
            return False
        return all(rule.include for rule in self._rules) and (self.part is None or self.part[1] == 1)

    # --- the filter as a value ---

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that determines what is included. Ages count as they were given, not the
        moment from which: the same words give the same fingerprint on another day."""
        said = {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.compare}
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def __str__(self) -> str:
        """The rules, one on a line, and then what else was set."""
        lines = [*self.rules, *(f"metadata {rule}" for rule in self.metadata_rules)]
        if self.files is not None:
            lines.append(f"files_from: {len(self.files)} paths")
        lines += [f"exclude_if_present {name}" for name in self.marker_names]
        for name in ("min_size", "max_size", "min_age", "max_age", "max_depth"):
            if getattr(self, name) is not None:
                lines.append(f"{name} {getattr(self, name)}")
        if self.part is not None:
            lines.append(f"hash_filter {self.part[0]}/{self.part[1]}")
        if self.ignore_case:
            lines.append("ignore_case")
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    # --- what the words come to ---

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        return _until_all_is_said(compile_rule(text, self.ignore_case) for text in self.rules)

    @cached_property
    def _metadata_rules(self) -> tuple[Rule, ...]:
        return tuple(compile_rule(text) for text in self.metadata_rules)

    @cached_property
    def _folder_rules(self) -> tuple[Rule, ...]:
        """The rules that can decide about a folder, to the first that decides about all."""
        out: list[Rule] = []
        for rule in self._rules:
            if rule.folders:
                out.append(rule)
            if rule.everywhere:
                break
        return tuple(out)

    @cached_property
    def _files(self) -> frozenset[str]:
        files = self.files or frozenset[str]()
        return frozenset(path.casefold() for path in files) if self.ignore_case else files

    @cached_property
    def _sorted_files(self) -> tuple[str, ...]:
        """The files of a folder stand side by side; all folders on the way to each would take memory by its square."""
        return tuple(sorted(self._files))

    @cached_property
    def _times(self) -> tuple[datetime | None, datetime | None]:
        """The oldest and the newest time that is included."""
        now = self.now or datetime.now(UTC)
        return time_of(self.max_age, now), time_of(self.min_age, now)


def _decide(rules: Iterable[Rule], candidates: list[str]) -> bool:
    """What the first rule says that matches one of the candidates; without any, yes."""
    for rule in rules:
        for candidate in candidates:
            if rule.matches(candidate):
                return rule.include
    return True


def _until_all_is_said(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Without the rules that are never asked, because one before them matches every file."""
    out: list[Rule] = []
    for rule in rules:
        out.append(rule)
        if rule.everything:
            break
    return tuple(out)


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, timedelta):
        return f"{value // timedelta(microseconds=1)} microseconds"
    return value.isoformat() if isinstance(value, datetime) else value
