"""Folders whose content a listing does not show, and what must be left alone for that.

All names in it are folded: what matches in spite of letter case or Unicode form is meant in spite of them.
"""

from __future__ import annotations

from omnistorage.sync.entries import Fold


class Unlisted:
    """Those that could not be listed (``failed`` at the source, ``unknown`` at the destination), and those that a
    marker drops."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.failed: set[str] = set()
        self.unknown: set[str] = set()
        self._dropped: set[str] = set()  # by a marker at the source
        self._kept: set[str] = set()  # by a marker at the destination
        self._holding: set[str] = set()  # of the destination: they hold, or are, one that is not listed

    def drop(self, folder: str) -> None:
        """The source has a marker in ``folder``."""
        self._dropped.add(self.fold(folder))

    def keep(self, folder: str) -> None:
        """The destination has a marker in ``folder``."""
        self._kept.add(self.fold(folder))
        self.hold(folder)

    def hold(self, folder: str) -> None:
        """The destination's ``folder``, and those that it lies in, hold what was not listed."""
        folder = self.fold(folder)
        while folder and folder not in self._holding:
            self._holding.add(folder)
            folder = folder.rpartition("/")[0]

    def is_dropped(self, path: str) -> bool:
        """Whether the source has a marker where the destination has ``path``."""
        return self._is_within(path, self._dropped)

    def is_kept(self, path: str) -> bool:
        """Whether the destination has a marker where the source has ``path``."""
        return self._is_within(path, self._kept)

    def is_unknown(self, path: str) -> bool:
        """Whether nobody knows what the destination has at ``path``."""
        return bool(self.unknown) and lies_below(self.fold(path), self.unknown)

    def holds(self, folder: str) -> bool:
        """Whether more is in a folder of the destination than was listed."""
        return bool(self._holding) and self.fold(folder) in self._holding

    def _is_within(self, path: str, folders: set[str]) -> bool:
        if not folders:
            return False
        path = self.fold(path)
        return path in folders or "" in folders or lies_below(path, folders)


def lies_below(path: str, folders: set[str]) -> bool:
    """Whether ``path`` lies below one of ``folders``."""
    if not folders:
        return False
    while path := path.rpartition("/")[0]:
        if path in folders:
            return True
    return False
