"""Whether two objects are the same, by what their listings say.

``quick`` answers from the two listings alone, a million times in a few seconds; None means that a store has to be asked
or something read, which ``slow`` does.

A store that cannot set times shows the time of each upload. Where it holds user metadata, an upload keeps the time of
its source as ``mtime`` (see ``kept_times``), which one request shows. The rules therefore are:

1. Listings decide where they can. Equal times are equal; an upload that is not older than its source is equal.
2. Otherwise the stores are asked, and kept times are compared in place of the times of uploads.
3. ``check`` and ``checksum`` compare digests first. Times count only where no digest can be compared, and the verdict
   is then ``BY_TIME`` or ``BY_SIZE``, not ``EQUAL``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from omnistorage.core import ObjectInfo
from omnistorage.sync.endpoint import Side
from omnistorage.sync.kept_times import kept_time, time_to_keep
from omnistorage.sync.options import SyncOptions

from .content import EQUAL, Content, digest, same_digest

BY_SIZE = "equal in size, the only thing known of both"
BY_TIME = "equal in size and time, no digest can be compared"
TOUCH = "the same content, another time"
EXISTS = "it exists at the destination"
NEWER = "the destination is newer"
UNKNOWN = "nothing is known that could be compared"
WEAK = (BY_SIZE, BY_TIME)
"""The verdicts by which both seem to hold the same, though their content was not compared."""
SAME = (EQUAL, *WEAK, TOUCH)
"""The verdicts by which both hold the same."""
LEFT = (EXISTS, NEWER)
"""The verdicts by which the destination stays as it is, whatever it holds. Every other verdict is the reason why
something has to be transferred."""
_SIZE_DIFFERS = "the size differs"
TIME_DIFFERS = "the time differs"
_SOURCE_NEWER = "the source is newer"
_BY_CONTENT = ("default", "rclone")
_NO_TIME = timedelta(0)
Rule = Callable[[ObjectInfo, ObjectInfo], str | None]


class Comparison:
    """The rule that ``options`` choose for the pair ``src`` and ``dst``."""

    def __init__(self, src: Side, dst: Side, options: SyncOptions) -> None:
        self.src, self.dst, self.options = src, dst, options
        self._precisions = tuple(side.features.modified_precision or _NO_TIME for side in (src, dst))
        self.window = max(options.modify_window, *self._precisions)
        self.content = Content(src, dst, trusts_kept=not options.list_equal)
        self.holds_times = dst.features.set_modified
        self._keeps = src.keeps_mtime, dst.keeps_mtime
        self._rule = options.compare
        self._hashes = bool(options.checksum) or self._rule == "checksum"
        self._checks = options.checks_content
        self.says_content = callable(self._rule) or self._hashes or self._checks
        """Whether ``EQUAL`` of a check means that the content was compared."""
        rule = self._chosen()
        asks = src.features.stat and dst.features.stat
        by_kept = self._keeps[0] or (self._rule == "rclone" and self._keeps[1])
        self._updates_by_kept = options.update and by_kept and asks
        """Whether ``update`` has to ask for kept times. An upload is later than its source, so the listed time of a
        source's object does not tell whether the destination is newer."""
        if options.update:
            self._unless_newer, rule = rule, self._update
        self._decide = rule

    def _chosen(self) -> Rule:
        if callable(self._rule):
            return self._by_caller
        if self.options.size_only:
            return self._by_size
        if self._checks:
            return self._by_check
        if self._hashes:
            return self._by_hash
        lost = not self.holds_times and not self._keeps[1]  # then every copy has another time than its source
        rules: dict[str, Rule] = {
            "default": self._by_time if self.holds_times else self._by_upload,
            "mtime": self._by_upload if lost else self._by_mtime,
            "size": self._by_size,
            "rclone": self._by_upload if lost else self._ask if True in self._keeps else self._by_time,
            "aws": self._as_aws,
            "s5cmd": self._newer_wins,
        }
        return rules[str(self._rule)]

    # -- the answer ----------------------------------------------------------------------------------------------------

    def quick(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """The verdict for the source's ``a`` and the destination's ``b``, or None: ask ``slow``."""
        options = self.options
        if options.ignore_existing:
            return EXISTS
        if options.ignore_times:
            return "times are ignored"
        if a[1] != b[1] and a[1] is not None and b[1] is not None and not options.update and not callable(self._rule):
            return _SIZE_DIFFERS
        return self._decide(a, b)

    def slow(self, a: ObjectInfo, b: ObjectInfo) -> str:
        """The verdict after a look at the stores. Raises ``StorageError``."""
        if self._updates_by_kept:
            a, b = self.asked(self.src, a), self.asked(self.dst, b)
            verdict = self._by_newer(a, b, kept=True) or self._unless_newer(a, b)
            if verdict is not None:
                return verdict
        if self._hashes and not callable(self._rule):
            return self.by_digest(a, b)
        a, b = self.asked(self.src, a), self.asked(self.dst, b)
        if self._differ_in_size(a, b):
            return _SIZE_DIFFERS
        if self._checks:
            return self.content.verdict(a, b, "files") or self._weakly(a, b)
        return self._after_asking(a, b)

    def by_digest(self, a: ObjectInfo, b: ObjectInfo) -> str:
        """``EQUAL`` or not, by the digests that the stores state when asked. Where one side states none, it is read; a
        local file is always read. Without any digest, size and time decide. Raises ``StorageError``."""
        a, b = self.asked(self.src, a), self.asked(self.dst, b)
        strict = self.options.checksum == "strict"
        return self.content.verdict(a, b, "both sides" if strict else "one side") or self._weakly(a, b)

    def same_times(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        """Whether two listings show the same time of a source, and the rule of the run trusts times."""
        return not self._hashes and self.holds_times and not self._keeps[0] and self._same_time(a, b)

    def same_source_time(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        """The same, of two objects that were ``asked`` for."""
        return not self._hashes and not self._is_upload(b, 1) and self._same_moment(a, b)

    def same_content(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """The verdict by digests alone of two objects that were ``asked`` for, as far as the rule of the run reads
        them. Digests that were computed are remembered. None if there are none. Raises ``StorageError``."""
        if self.content.remembered is None:
            self.content.remembered = {}
        asked_for = self._hashes or "hash" in self.options.renames
        strict = self.options.checksum == "strict"
        return self.content.verdict(a, b, "both sides" if strict else "one side" if asked_for else "files")

    def asked(self, side: Side, info: ObjectInfo) -> ObjectInfo:
        """``info`` with the digests and the metadata that its store shows when it is asked. Raises ``StorageError``."""
        asks = side.features.stat and (side.features.hashes or side.keeps_mtime)
        return side.backend.stat(info.path) if asks else info

    def _after_asking(self, a: ObjectInfo, b: ObjectInfo) -> str:
        """The verdict of a rule of times, once both stores were asked."""
        same = self._same_moment(a, b)
        if self._rule in _BY_CONTENT:
            # Where the destination cannot set times, only a transfer brings another time there.
            verdict = self.content.verdict(a, b, "files" if self.holds_times and not same else "nothing")
            if verdict is not None:
                return TOUCH if verdict == EQUAL and self.holds_times and not same else verdict
        if same:
            return EQUAL
        if a.modified_at is None or b.modified_at is None:
            return self._sizes_alone(a, b)
        return TIME_DIFFERS

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _by_size(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        return self._sizes_alone(a, b) if a.size is None or b.size is None else EQUAL

    def _by_time(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """Where the destination keeps the times of its sources."""
        first, second = a[2], b[2]
        if first is None or second is None:
            return same_digest(a, b) or self._ask_or(a, b, self._sizes_alone(a, b))
        if first == second or abs(first - second) < self.window:
            return EQUAL
        verdict = same_digest(a, b)
        if verdict is not None and not (verdict == EQUAL and self._keeps[0]):
            return TOUCH if verdict == EQUAL else verdict
        return self._ask_or(a, b, TIME_DIFFERS)

    def _by_upload(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """Where its times say when something was put there."""
        verdict = same_digest(a, b)
        if verdict is not None:
            return verdict
        first, second = a[2], b[2]
        if first is None or second is None:
            return self._ask_or(a, b, self._sizes_alone(a, b))
        if second >= first:
            return EQUAL
        # Put there in the second in which it was made, by a clock that is behind, or truly older: metadata tell.
        return self._ask_or(a, b, _SOURCE_NEWER)

    def _by_mtime(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        if a.modified_at is None or b.modified_at is None:
            return self._sizes_alone(a, b)
        return EQUAL if self._same_time(a, b) else self._ask_times_or(TIME_DIFFERS)

    def _newer_wins(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        if a.modified_at is None or b.modified_at is None:
            return self._sizes_alone(a, b)
        if b.modified_at >= a.modified_at or a.modified_at - b.modified_at < self.window:
            return EQUAL
        return self._ask_times_or(_SOURCE_NEWER)

    def _as_aws(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        download = self.holds_times and not self.src.features.set_modified
        if not download or a.modified_at is None or b.modified_at is None:
            return self._newer_wins(a, b)
        if b.modified_at <= a.modified_at or b.modified_at - a.modified_at < self.window:
            return EQUAL
        return self._ask_times_or("the destination is newer than what is downloaded")

    def _update(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        if self._updates_by_kept:
            return None
        return self._by_newer(a, b) or self._unless_newer(a, b)

    def _by_newer(self, a: ObjectInfo, b: ObjectInfo, *, kept: bool = False) -> str | None:
        """The verdict of ``update`` by the listed or the ``kept`` times; None where another rule has to decide."""
        (first, second), window = self._moments(a, b) if kept else ((a.modified_at, b.modified_at), self.window)
        if first is not None and second is not None:
            ahead = second - first
            if ahead >= window and ahead > _NO_TIME:
                return NEWER
            if ahead > -window or ahead == _NO_TIME:  # as good as the same time: only content counts
                if self._differ_in_size(a, b):
                    return _SIZE_DIFFERS
                return self._by_hash(a, b) if self.options.checksum else EQUAL
        return _SIZE_DIFFERS if self._differ_in_size(a, b) else None

    def _by_caller(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        assert callable(self._rule)
        said = self._rule(a, b)
        return EQUAL if said is True else said if isinstance(said, str) and said else "the given comparison says so"

    def _by_hash(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        return self.content.same_digest(a, b)  # None: ask

    def _by_check(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """Digests wherever they can be had. Objects of no bytes are the same."""
        if a.size == 0 == b.size:
            return EQUAL
        verdict = self.content.same_digest(a, b)
        if verdict is not None or self.content.known or True in self._keeps:
            return verdict
        return self._weakly(a, b)

    def _ask(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        return None

    def _ask_or(self, a: ObjectInfo, b: ObjectInfo, verdict: str) -> str | None:
        """None if asking the stores, or reading local files, can bring more to light than the listings did."""
        src, dst = self.src.features, self.dst.features
        stated = self.content.stated and src.stat and dst.stat
        computed = self.content.known and self.holds_times and self._rule in _BY_CONTENT
        return None if stated or computed else self._ask_times_or(verdict)

    def _ask_times_or(self, verdict: str) -> str | None:
        sides = zip((self.src, self.dst), self._keeps, strict=True)
        return None if any(keeps and side.features.stat for side, keeps in sides) else verdict

    # -- what is known -------------------------------------------------------------------------------------------------

    def _differ_in_size(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        return a.size is not None and b.size is not None and a.size != b.size

    def _sizes_alone(self, a: ObjectInfo, b: ObjectInfo) -> str:
        return UNKNOWN if a.size is None or b.size is None else BY_SIZE

    def _same_time(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        return self._is_close(a.modified_at, b.modified_at)

    def _same_moment(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        """Whether both are of one time, where kept times, which are exact, stand for those of uploads."""
        (first, second), window = self._moments(a, b)
        if first is not None and second is not None and (first == second or abs(first - second) < window):
            return True
        # A copy of an upload whose own kept time was not known.
        return self._is_close(a.modified_at, self._kept(b, 1))

    def _moments(self, a: ObjectInfo, b: ObjectInfo) -> tuple[tuple[datetime | None, datetime | None], timedelta]:
        """The times of the sources where uploads keep them, else those that the stores show; and the window for both.
        Kept times are exact, however coarse the clock of the store is."""
        kept = self._kept(a, 0), self._kept(b, 1)
        coarse = (own for own, moment in zip(self._precisions, kept, strict=True) if moment is None)
        return (kept[0] or a.modified_at, kept[1] or b.modified_at), max(self.options.modify_window, *coarse, _NO_TIME)

    def _kept(self, info: ObjectInfo, side: int) -> datetime | None:
        return kept_time(info) if self._keeps[side] else None

    def _is_close(self, first: datetime | None, second: datetime | None) -> bool:
        return first is not None and second is not None and (first == second or abs(first - second) < self.window)

    def _weakly(self, a: ObjectInfo, b: ObjectInfo) -> str:
        """The verdict by size and time, where no digest can be compared. That of a check is the same for both
        directions."""
        if self._same_moment(a, b):
            return BY_TIME
        first, second = self._kept(a, 0) or a.modified_at, self._kept(b, 1) or b.modified_at
        if first is None or second is None:
            return self._sizes_alone(a, b)
        uploads = self._is_upload(a, 0) and self.options.list_equal, self._is_upload(b, 1)
        if all(uploads):
            return self._sizes_alone(a, b)
        if (uploads[1] and second >= first) or (uploads[0] and first >= second):
            return BY_TIME
        return TIME_DIFFERS

    def _is_upload(self, info: ObjectInfo, side: int) -> bool:
        """Whether nothing but the time of its upload is known."""
        features = (self.src, self.dst)[side].features
        return features.write and not features.set_modified and self._kept(info, side) is None


__all__ = [
    "BY_SIZE",
    "BY_TIME",
    "EQUAL",
    "EXISTS",
    "LEFT",
    "NEWER",
    "SAME",
    "TIME_DIFFERS",
    "TOUCH",
    "UNKNOWN",
    "WEAK",
    "Comparison",
    "digest",
    "kept_time",
    "same_digest",
    "time_to_keep",
]
