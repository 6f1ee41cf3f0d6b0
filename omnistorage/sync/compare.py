"""Whether two objects are the same, by what their listings say. Imports floors 0 and 2.

``quick`` answers from the two listings alone, a million times in a few seconds; None means that a store has to be asked
or something read, which ``slow`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ..core import ObjectInfo
from ..digests import new_hash
from ..policies import check
from .options import SyncOptions
from .places import Side

EQUAL = "equal"
BY_SIZE = "equal in size, the only thing known of both"
TOUCH = "the same content, another time"
EXISTS = "it exists at the destination"
NEWER = "the destination is newer"
UNKNOWN = "nothing is known that could be compared"
SAME = (EQUAL, BY_SIZE, TOUCH)
"""The verdicts by which both hold the same."""
LEFT = (EXISTS, NEWER)
"""The verdicts by which the destination stays as it is, whatever it holds. Every other verdict is the reason why
something has to be transferred."""
_STRONGEST = ("sha512", "sha256", "sha1", "md5", "crc32c")
_BLOCK = 1 << 20
_NO_TIME = timedelta(0)


class Comparison:
    """The rule that ``options`` choose for the pair ``src`` and ``dst``."""

    def __init__(self, src: Side, dst: Side, options: SyncOptions) -> None:
        self.src, self.dst, self.options = src, dst, options
        precisions = (src.features.modified_precision, dst.features.modified_precision)
        self.window = max(options.modify_window, *(p or _NO_TIME for p in precisions))
        self.holds_times = dst.features.set_modified
        self._rule = options.compare
        named = {
            "default": self._by_time if self.holds_times else self._by_upload,
            "mtime": self._by_mtime,
            "size": self._by_size,
            "checksum": self._by_hash,
            "rclone": self._by_time if self.holds_times and not self._keeps(src) else self._ask,
            "aws": self._as_aws,
            "s5cmd": self._newer_wins,
        }
        rule: Callable[[ObjectInfo, ObjectInfo], str | None]
        if callable(self._rule):
            rule = self._by_caller
        elif options.size_only:
            rule = self._by_size
        elif options.checksum:
            rule = self._by_hash
        else:
            rule = named[self._rule]
        if options.update:
            self._unless_newer, rule = rule, self._update
        self._decide = rule

    def _keeps(self, side: Side) -> bool:
        """Whether the side's own times are not those of its objects, which it keeps as metadata."""
        return side.features.user_metadata and not side.features.set_modified

    # -- the answer ----------------------------------------------------------------------------------------------------

    def quick(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """The verdict for the source's ``a`` and the destination's ``b``, or None: ask ``slow``."""
        options = self.options
        if options.ignore_existing:
            return EXISTS
        if options.ignore_times:
            return "times are ignored"
        if a[1] != b[1] and a[1] is not None and b[1] is not None and not options.update and not callable(self._rule):
            return "the size differs"
        return self._decide(a, b)

    def slow(self, a: ObjectInfo, b: ObjectInfo) -> str:
        """The verdict after a look at the stores. Raises ``StorageError``."""
        if not callable(self._rule) and not self.options.checksum and self._rule != "checksum":
            a, b = self._asked(self.src, a), self._asked(self.dst, b)
            if a.size != b.size and a.size is not None and b.size is not None:
                return "the size differs"
            return self._after_asking(a, b)
        return self.by_digest(a, b)

    def _asked(self, side: Side, info: ObjectInfo) -> ObjectInfo:
        return (
            side.backend.stat(info.path) if side.features.stat and (side.features.hashes or self._keeps(side)) else info
        )

    def _after_asking(self, a: ObjectInfo, b: ObjectInfo) -> str:
        verdict = same_digest(a, b)
        if verdict is not None:
            return TOUCH if verdict == EQUAL and self.holds_times and not self._same_time(a, b) else verdict
        kept_a, kept_b = kept_time(a), kept_time(b)
        if self._rule == "rclone":
            first, second = kept_a or a.modified_at, kept_b or b.modified_at
        else:
            # What we copied carries the source's time as that store shows it in its listing.
            first, second = a.modified_at, kept_b
        if first is not None and second is not None and abs(first - second) < self.window:
            return EQUAL
        if a.modified_at is None or b.modified_at is None:
            return self._sizes_alone(a, b)
        return "the time differs"

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _sizes_alone(self, a: ObjectInfo, b: ObjectInfo) -> str:
        return UNKNOWN if a.size is None or b.size is None else BY_SIZE

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
        if verdict is not None:
            return TOUCH if verdict == EQUAL else verdict
        return self._ask_or(a, b, "the time differs")

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
        return self._ask_or(a, b, "the source is newer")

    def _by_mtime(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        if a.modified_at is None or b.modified_at is None:
            return self._sizes_alone(a, b)
        return EQUAL if self._same_time(a, b) else "the time differs"

    def _same_time(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        first, second = a.modified_at, b.modified_at
        return first is not None and second is not None and (first == second or abs(first - second) < self.window)

    def _newer_wins(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        if a.modified_at is None or b.modified_at is None:
            return self._sizes_alone(a, b)
        return EQUAL if b.modified_at >= a.modified_at else "the source is newer"

    def _as_aws(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        download = self.holds_times and not self.src.features.set_modified
        if not download or a.modified_at is None or b.modified_at is None:
            return self._newer_wins(a, b)
        return EQUAL if b.modified_at <= a.modified_at else "the destination is newer than what is downloaded"

    def _update(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        if a.modified_at is not None and b.modified_at is not None:
            ahead = b.modified_at - a.modified_at
            if ahead >= self.window and ahead > _NO_TIME:
                return NEWER
            if ahead > -self.window or ahead == _NO_TIME:  # as good as the same time: only content counts
                if self._differ_in_size(a, b):
                    return "the size differs"
                return self._by_hash(a, b) if self.options.checksum else EQUAL
        return "the size differs" if self._differ_in_size(a, b) else self._unless_newer(a, b)

    def _differ_in_size(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        return a.size is not None and b.size is not None and a.size != b.size

    def _by_caller(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        assert callable(self._rule)
        said = self._rule(a, b)
        return EQUAL if said is True else said if isinstance(said, str) and said else "the given comparison says so"

    def _by_hash(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        return same_digest(a, b)  # None: ask

    def _ask(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        return None

    def _ask_or(self, a: ObjectInfo, b: ObjectInfo, verdict: str) -> str | None:
        """None if asking the stores can bring more to light than the listings did."""
        src, dst = self.src.features, self.dst.features
        hashes = bool(src.hashes & dst.hashes) and src.stat and dst.stat
        return None if hashes or (dst.stat and self._keeps(self.dst)) else verdict

    # -- digests -------------------------------------------------------------------------------------------------------

    def by_digest(self, a: ObjectInfo, b: ObjectInfo) -> str:
        """``EQUAL`` or not, by the digests that the stores state when asked; where one side states none, it is read."""
        return self._by_read_hash(self._asked(self.src, a), self._asked(self.dst, b))

    def _by_read_hash(self, a: ObjectInfo, b: ObjectInfo) -> str:
        verdict = same_digest(a, b)
        if verdict is not None:
            return verdict
        stated = [name for name in _STRONGEST if a.hash(name) or b.hash(name)]
        if not stated and self.options.checksum != "strict":
            return self._sizes_alone(a, b)
        name = stated[0] if stated else "sha256"
        first = a.hash(name) or digest(self.src, a.path, name)
        second = b.hash(name) or digest(self.dst, b.path, name)
        return EQUAL if first == second else f"the {name} differs"


def same_digest(a: ObjectInfo, b: ObjectInfo) -> str | None:
    """The verdict by a digest that both state; None if there is none."""
    if not a.hashes or not b.hashes:
        return None
    for name in _STRONGEST:
        first = a.hashes.get(name)
        second = b.hashes.get(name)
        if first and second:
            return EQUAL if first == second else f"the {name} differs"
    return None


def digest(side: Side, key: str, name: str) -> str:
    """The digest of an object of one side, by reading it. Raises ``StorageError``."""
    running = new_hash(name)
    with side.backend.open_reader(key) as reader:
        while block := reader.read(_BLOCK):
            check("digest", key)
            running.update(block)
    return str(running.hexdigest())


def kept_time(info: ObjectInfo) -> datetime | None:
    """The source's time that a copy carries as ``metadata["mtime"]``: seconds since 1970, as rclone writes them."""
    text = (info.metadata or {}).get("mtime")
    if text is None:
        return None
    try:
        whole, _, part = text.partition(".")
        return datetime.fromtimestamp(int(whole), UTC) + timedelta(microseconds=int((part + "000000")[:6]))
    except (ValueError, OverflowError, OSError):
        return None


def time_to_keep(moment: datetime) -> str:
    """``moment`` as ``metadata["mtime"]``."""
    seconds, rest = divmod(moment - datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=1))
    return f"{seconds}.{rest // timedelta(microseconds=1):06d}000"


__all__ = [
    "BY_SIZE",
    "EQUAL",
    "EXISTS",
    "LEFT",
    "NEWER",
    "SAME",
    "TOUCH",
    "UNKNOWN",
    "Comparison",
    "digest",
    "kept_time",
    "same_digest",
    "time_to_keep",
]
