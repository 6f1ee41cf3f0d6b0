"""The settings of a sync, one frozen value, named as on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from math import inf
from os import PathLike
from typing import Any, Literal, Self

from omnistorage.config import BackendConfig
from omnistorage.config.models import holds_secret, masked_place
from omnistorage.core import Backend, ObjectInfo
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError

from .filters import Filter

Compare = Callable[[ObjectInfo, ObjectInfo], "bool | str"]
COMPARES = ("default", "rclone", "aws", "s5cmd", "size", "mtime", "checksum")
RENAMES = frozenset({"hash", "modtime", "leaf"})
ORDERS = ("size", "name", "modtime", "mixed")
DIRECTIONS = ("asc", "ascending", "desc", "descending")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)


_SWITCHES = (
    "size_only", "ignore_times", "ignore_existing", "update", "immutable", "empty_dirs", "portable_names",
    "sort_listings", "no_traverse", "no_folder_times", "delete", "delete_excluded", "allow_empty_source",
    "ignore_errors", "check_first", "move", "list_equal",
)  # fmt: skip
_KINDS = {
    bool: "True or False", type(None): "None", str: "text", int: "a number", float: "a fraction",
    timedelta: "a timedelta", Filter: "a Filter",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class SyncOptions:
    """What a sync, copy, move or check is asked to do. Every wrong value is ``ConfigError`` when it is made.

    **Comparing.** ``compare``: a rule by name (``default rclone aws s5cmd size mtime checksum``), or a callable that
    takes the source's and the destination's ``ObjectInfo`` and returns True for equal, or False, or why not;
    ``size_only``; ``checksum`` (True: digests that the stores state; one is computed where the other side states it,
    and of local files; ``"strict"``: both sides are read where neither states any);
    ``ignore_times`` and ``ignore_existing``; ``update`` (a newer destination stays); ``immutable`` (an existing,
    differing object is an error); ``modify_window``, at least the coarser clock of the two.

    **What is compared.** ``filter``; ``empty_dirs``; ``no_folder_times`` (else folders get the times of the source's,
    where both sides have any); ``links`` (``skip``, ``follow``, or ``store``: the link ``x`` is the file
    ``x.rclonelink`` where there are no links, and such a file is a link where there are); ``ignore_case``,
    ``normalize`` (match names whatever their letter case or Unicode form; None: where the destination needs it; where
    letter case does not count, it does not for the rules of ``filter`` either); ``portable_names`` (refuse names that
    Windows cannot hold); ``sort_listings`` (trust no order); ``no_traverse`` (ask for each object instead of listing
    the destination).

    **Deleting.** ``delete``; ``delete_excluded``; ``max_delete`` (a number, or a percentage of the destination's
    objects), ``max_delete_size`` in bytes; ``allow_empty_source``; ``ignore_errors`` (delete though transfers failed;
    never where a listing did); ``on_type_clash`` (a file where the other side has a folder: ``error``, or ``replace``,
    which needs ``delete``);
    ``backup_dir`` or ``suffix`` keep what is replaced and deleted; ``track_renames`` (any of ``hash modtime leaf``).

    **Transferring.** ``transfers`` and ``checkers`` at a time; ``multi_thread_streams`` ranges at a time of an object
    from ``multi_thread_cutoff`` bytes on, 8 MiB each, where a store has etags of content and its own reader does not do
    the same (those of S3, GCS and Azure do, always), and without ``bwlimit``; ``backlog`` actions planned ahead;
    ``check_first``; ``order_by`` (``size name modtime mixed``, with ``,desc``); ``bwlimit`` in bytes a second, or a
    timetable (see ``limits``); ``tpslimit`` in operations a second; ``retries`` of an entry; ``max_transfer`` in bytes
    and ``max_duration`` in seconds with ``cutoff`` (``hard``: break off, ``soft``: finish what runs, ``cautious``:
    begin nothing that would pass the limit).
    """

    compare: str | Compare = "default"
    size_only: bool = False
    checksum: bool | Literal["strict"] = False
    ignore_times: bool = False
    ignore_existing: bool = False
    update: bool = False
    immutable: bool = False
    modify_window: timedelta = timedelta(0)

    filter: Filter = field(default_factory=Filter)
    empty_dirs: bool = False
    no_folder_times: bool = False
    links: Literal["skip", "follow", "store"] = "skip"
    ignore_case: bool | None = None
    normalize: bool | None = None
    portable_names: bool = False
    sort_listings: bool = False
    no_traverse: bool = False

    delete: bool = False
    delete_excluded: bool = False
    max_delete: int | str = "50%"
    max_delete_size: int | None = None
    allow_empty_source: bool = False
    ignore_errors: bool = False
    on_type_clash: Literal["error", "replace"] = "error"
    backup_dir: str | PathLike[str] | Backend | None = None
    suffix: str = ""
    track_renames: str = ""

    transfers: int = 4
    checkers: int = 8
    backlog: int = 10_000
    multi_thread_cutoff: int = 256 << 20
    multi_thread_streams: int = 4
    check_first: bool = False
    order_by: str = ""
    bwlimit: int | str | None = None
    tpslimit: float | None = None
    retries: int = 2
    max_transfer: int | None = None
    max_duration: float | None = None
    cutoff: Literal["hard", "soft", "cautious"] = "hard"

    move: bool = False  # set by ``move``: a source goes once its copy stands
    list_equal: bool = False  # set by ``check``: a plan says what is equal, too

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> SyncOptions:
        """The options that ``settings`` name. Raises ``ConfigError`` for a name that there is not."""
        for name in settings:
            if name not in cls.__dataclass_fields__:
                raise ConfigError(f"there is no setting {name!r}{nearest(name, cls.__dataclass_fields__)}")
        return cls(**settings)

    def __repr__(self) -> str:
        shown = (f"{one.name}={masked_place(getattr(self, one.name))!r}" for one in fields(self))
        return f"SyncOptions({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        if holds_secret(self.backup_dir):
            raise ConfigError(
                "backup_dir holds a secret in plain text, which a pickle would show: give a BackendConfig"
            )
        return self.__dict__

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __post_init__(self) -> None:
        self._check_types()
        if not callable(self.compare) and self.compare not in COMPARES:
            raise ConfigError(f"compare={self.compare!r}: use one of {', '.join(COMPARES)}, or a callable")
        self._one_of("links", "skip", "follow", "store")
        self._one_of("on_type_clash", "error", "replace")
        self._one_of("cutoff", "hard", "soft", "cautious")
        if self.checksum not in (True, False, "strict"):
            raise ConfigError(f"checksum is True, False or 'strict', not {self.checksum!r}")
        for name in ("transfers", "checkers", "backlog", "multi_thread_streams"):
            self._number(name, 1)
        self._number("multi_thread_cutoff", 0)
        for name in ("retries", "max_delete_size", "max_transfer", "max_duration"):
            self._number(name, 0)
        if self.tpslimit is not None:
            self._is_a("tpslimit", int, float)
            if not 0 < self.tpslimit < inf:
                raise ConfigError(f"tpslimit is above zero, not {self.tpslimit!r}")
        self.delete_limit(0)
        self._check_names()
        self._check_pairs()

    def _check_types(self) -> None:
        for name in _SWITCHES:
            self._is_a(name, bool)
        for name in ("ignore_case", "normalize"):
            self._is_a(name, bool, type(None))
        for name in ("suffix", "track_renames", "order_by"):
            self._is_a(name, str)
        self._is_a("filter", Filter)
        self._is_a("modify_window", timedelta)
        if self.modify_window < timedelta(0):
            raise ConfigError(f"modify_window is not below zero: {self.modify_window!r}")
        place = self.backup_dir
        if not (place is None or isinstance(place, str | PathLike | Mapping | BackendConfig) or _is_backend(place)):
            raise ConfigError(f"backup_dir is a URL, a path or a backend, not of type {type(place).__name__}")
        if self.bwlimit is not None:
            from .rate_limits import Bandwidth

            self._is_a("bwlimit", int, str)
            Bandwidth(self.bwlimit)

    def _is_a(self, name: str, *kinds: type) -> None:
        value = getattr(self, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise ConfigError(f"{name} is {wanted}, not {value!r}")

    def _one_of(self, name: str, *values: str) -> None:
        if getattr(self, name) not in values:
            raise ConfigError(f"{name}={getattr(self, name)!r}: use {' or '.join(values)}")

    def _number(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is None and name.startswith("max_"):
            return
        kinds = (int, float) if name == "max_duration" else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < inf:
            raise ConfigError(f"{name} is a number from {least} up, not {value!r}")

    def _check_names(self) -> None:
        if unknown := set(self.renames) - RENAMES:
            raise ConfigError(f"track_renames takes {', '.join(sorted(RENAMES))}, not {', '.join(sorted(unknown))!r}")
        key, comma, direction = self.order_by.partition(",")
        if self.order_by and (key not in ORDERS or (comma and direction not in DIRECTIONS)):
            raise ConfigError(f"order_by={self.order_by!r}: use {', '.join(ORDERS)}, perhaps with ',desc'")
        if "/" in self.suffix or "\0" in self.suffix:
            raise ConfigError(f"a suffix is part of a name, not {self.suffix!r}")

    def _check_pairs(self) -> None:
        """Refuse what contradicts itself."""
        for one, other in (
            ("delete", "no_traverse"),
            ("track_renames", "no_traverse"),
            ("size_only", "checksum"),
            ("ignore_times", "ignore_existing"),
            ("ignore_times", "size_only"),
            ("ignore_times", "update"),
            ("move", "delete"),
        ):
            if getattr(self, one) and getattr(self, other):
                raise ConfigError(f"{one} and {other} contradict each other: choose one")
        if self.move and self.links == "follow":
            raise ConfigError(
                "a move cannot follow links: what lies behind one may be reached by its own name as well, and would be "
                "gone for that. Copy with links='follow', then remove"
            )
        for name in ("update", "ignore_existing", "track_renames", "move"):
            if self.list_equal and getattr(self, name):
                raise ConfigError(f"{name} says what a sync does with a difference, and check shows it: leave it out")
        if self.suffix and self.backup_dir is None and self.on_type_clash == "replace":
            raise ConfigError("a suffix keeps objects in folders that on_type_clash would replace: give a backup_dir")
        if self.delete_excluded and not self.delete:
            raise ConfigError("delete_excluded deletes: set delete as well")
        if self.on_type_clash == "replace" and not self.delete and not self.list_equal:
            raise ConfigError(
                "on_type_clash='replace' deletes what is in the way: a sync with delete does that, copy and move never"
            )
        if self.track_renames and not self.delete:
            raise ConfigError("track_renames renames what would be deleted: set delete as well")

    @property
    def renames(self) -> tuple[str, ...]:
        """The strategies of ``track_renames``."""
        return tuple(part.strip() for part in self.track_renames.split(",") if part.strip())

    @property
    def checks_content(self) -> bool:
        """Whether a check compares digests first, as no other rule was chosen."""
        return self.list_equal and self.compare in ("default", "rclone") and not (self.size_only or self.checksum)

    def delete_limit(self, objects: int) -> float:
        """How many of a destination's ``objects`` may be deleted."""
        if isinstance(self.max_delete, int) and not isinstance(self.max_delete, bool) and self.max_delete >= 0:
            return self.max_delete
        match = _PERCENT.fullmatch(self.max_delete) if isinstance(self.max_delete, str) else None
        if match is None or float(match[1]) > 100:
            raise ConfigError(
                f"max_delete is a number from 0 up, or a percentage such as '50%': not {self.max_delete!r}"
            )
        return float(match[1]) * objects / 100

    def described(self) -> dict[str, Any]:
        """The settings that differ from the defaults, by name, as text: for reports and for comparing two runs."""
        plain = SyncOptions()
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "filter"}
        return {name: str(value) for name, value in found.items() if value != getattr(plain, name)}


def _is_backend(place: object) -> bool:
    return hasattr(place, "as_backend") or callable(getattr(place, "open_writer", None))
