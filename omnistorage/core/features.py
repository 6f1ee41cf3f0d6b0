"""What a backend can do, as flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta


@dataclass(frozen=True)
class Features:
    """What is true of a backend under its configuration, known without I/O and conservative where it cannot be known.

    The first rows are abilities, off by default; then three flags that are true when the power of that name is there;
    then facts: ``hashes`` the digests that listings or ``stat`` may carry, ``kept_hashes`` those of them that were
    noted when the object was written (only a read shows whether its bytes still have them), ``modified_precision`` of
    ``modified_at`` (None: no times), ``case_sensitive`` names, ``normalizes`` the Unicode form the store forces on
    names, if any.
    """

    read: bool = False
    write: bool = False
    delete: bool = False
    list: bool = False
    sorted_list: bool = False  # list yields in the order of the paths' UTF-8 bytes
    list_seek: bool = False  # start_after skips without reading what it skips
    stat: bool = False
    copy: bool = False  # server-side
    move: bool = False  # server-side
    atomic_move: bool = False
    dirs: bool = False  # folders exist by themselves: mkdir, rmdir, empty ones listed
    range_read: bool = False
    lazy_read: bool = False  # open_reader transfers only what is read
    atomic_write: bool = False  # close publishes whole or nothing
    create_only: bool = False  # overwrite=False has exactly one winner
    if_match: bool = False  # conditions on writes; those on deletes and copies hold too, or are refused
    user_metadata: bool = False

    purge: bool = False
    set_modified: bool = False
    append: bool = False

    hashes: frozenset[str] = frozenset()
    kept_hashes: frozenset[str] = frozenset()
    modified_precision: timedelta | None = None
    case_sensitive: bool = True
    normalizes: str | None = None

    @classmethod
    def flags(cls) -> tuple[str, ...]:
        """The names of the boolean abilities, in order."""
        return tuple(f.name for f in fields(cls) if f.type == "bool" and f.name != "case_sensitive")


BASIC = Features(read=True, write=True, delete=True, list=True)
LEARNED = frozenset({"create_only", "if_match"})
"""The flags that a backend may have to ask its server for, see ``learned``."""
