"""The times of folders, which come last: whatever is put into a folder or taken from it changes its time. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from omnistorage.paths import parent
from omnistorage.sync.entries import Entry, Fold
from omnistorage.sync.listing.ancestor_stack import Passed

from .actions import Action, Spool

DIFFERS = "the folder has another time"
CHANGES = "what is in the folder changes"
MOST_FOLDERS = 100_000
"""Folders of which it is remembered that something changes in them; with more, all get their times again."""
_NEW = ("copy", "mkdir", "rename")
_WITHIN = ("copy", "update", "mkdir", "rename", "delete", "rmdir")


class Times:
    """Collects the source's folders while the listings are read, and which of the destination's will change."""

    def __init__(self, fold: Fold, window: timedelta, *, moves: bool) -> None:
        self._fold, self._window = fold, window
        self._moves = moves  # the source's folders have other times for what an earlier move took from them
        self._open = Passed[Action]()
        self._folders = Spool()
        self._changed: set[str] = set()  # something directly in them does
        self._grown: set[str] = (
            set()
        )  # something below them is new: where they are new themselves, they are made for it

    def close(self) -> None:
        self._folders.close()

    def note(self, a: Entry, b: Entry | None) -> None:
        """A folder of the source, and the destination's."""
        theirs = None if b is None else b.info.modified_at
        if a.info.modified_at is None or (b is not None and theirs is None):
            return
        equal = theirs is not None and abs(a.info.modified_at - theirs) < self._window
        other = None if b is None or b.path == a.path else b.path
        why = CHANGES if b is None or equal else DIFFERS
        self._open.push(a.key[:-1], Action("dirtime", a.path, why, None, a.info, None if b is None else b.info, other))

    def leave(self, key: bytes | None) -> None:
        """What lies in ``key``'s place has come: the folders before it are done, inner ones first."""
        for action in self._open.leave(key):
            self._folders.add(action)

    def watched(self, actions: Iterator[Action]) -> Iterator[Action]:
        """``actions``, each looked at on its way."""
        for action in actions:
            if action.kind in _WITHIN:
                self._note_change(action)
            yield action

    def actions(self) -> Iterator[Action]:
        """What is left to do when everything else is done."""
        many = len(self._changed) + len(self._grown) >= MOST_FOLDERS
        for action in self._folders:
            name = self._fold(action.target)
            new = action.expect_dst is None and name in self._grown
            if new:
                self._changed.add(self._fold(parent(action.target)))  # inner ones come first
            if many or new or name in self._changed or (action.why == DIFFERS and not self._moves):
                yield action

    def _note_change(self, action: Action) -> None:
        if len(self._changed) + len(self._grown) >= MOST_FOLDERS:
            return
        if action.kind == "mkdir":
            self._grown.add(self._fold(action.target))
        if action.kind == "rename" and action.other is not None:
            self._changed.add(self._fold(parent(action.other)))
        above = self._fold(parent(action.target))
        self._changed.add(above)
        while action.kind in _NEW and above and above not in self._grown:
            self._grown.add(above)
            above = parent(above)
