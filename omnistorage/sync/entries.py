"""What a side of a sync lists: entries, and the names by which they are compared."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from omnistorage.core import ObjectInfo


class Entry(NamedTuple):
    """One line of a listing: by what it is merged, its path below the side's folder, and what the store said."""

    key: bytes
    path: str
    info: ObjectInfo


class Fold(NamedTuple):
    """How names are matched that differ in letter case or Unicode form only."""

    case: bool = False
    form: bool = False

    def __call__(self, path: str) -> str:
        if self.form:
            path = unicodedata.normalize("NFC", path)
        return unicodedata.normalize("NFC", path.casefold()) if self.case else path
