"""What was done of a partition, kept in a local folder as it is done.

One ``SegmentLog`` for each execution, as only one process at a time may write to a log. An entry is the number of an
action and the bytes it moved. A power cut may take the last entries away: what they tell is found out again from the
destination, so entries need not be synced one by one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any

from omnistorage.errors import NotFound, PermissionDenied, StorageError
from omnistorage.segments import SegmentLog

_ENTRY = Struct(">IQ")


class Journal:
    """The journals of one partition under ``folder``; ``done`` holds the numbers of the actions that earlier executions
    carried out, ``bytes`` what those moved."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.done: set[int] = set()
        self.bytes = 0
        self.again = False  # whether there was an earlier execution
        self._dead: set[str] = set()  # executions that do not run any more
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._uploads = folder / "uploads"
        for other in sorted(folder.glob("[0-9]*")):
            self.again = True
            self._read(other)
        # Whoever reads the others' logs locks them for a moment: ours appears when we hold its lock.
        self._name = name = f"{attempt:03d}-{secrets.token_hex(4)}"
        self._log = SegmentLog(folder / f".{name}", fsync="seal")
        (folder / f".{name}").rename(folder / name)

    def _read(self, folder: Path) -> None:
        # One that is open belongs to an execution that still runs: the destination tells what it did.
        with suppress(NotFound, PermissionDenied), self._opened(folder) as log:
            for _, entry in log.read(log.first):
                number, moved = _ENTRY.unpack(entry)
                if number not in self.done:
                    self.done.add(number)
                    self.bytes += moved
            self._dead.add(folder.name)

    @staticmethod
    def _opened(folder: Path) -> SegmentLog:
        # What cannot be read is found out again from the destination, as what was never noted is.
        return SegmentLog(folder, fsync="seal", on_damage=lambda damage: None)

    def note(self, number: int, moved: int) -> None:
        """Action ``number`` was carried out. A journal that cannot be written is no reason to stop."""
        with suppress(StorageError):
            self._log.append(_ENTRY.pack(number, moved))

    def take_token(self, number: int) -> Mapping[str, Any] | None:
        """What an execution that is dead has noted of the upload of action ``number``; to one caller alone."""
        for path in sorted(self._uploads.glob(f"{number}.*.json")):
            if path.name.split(".")[1] not in self._dead:
                continue  # whoever noted it may still send parts
            mine = path.with_suffix(f".{secrets.token_hex(4)}")
            try:
                path.rename(mine)
                found = json.loads(mine.read_bytes())
                mine.unlink()
            except (OSError, ValueError, RecursionError):
                continue  # somebody was faster
            if isinstance(found, dict):
                return found
        return None

    def keep_token(self, number: int, token: Mapping[str, Any]) -> None:
        """Note the upload of action ``number``: whole, or not at all."""
        new = self._uploads / f".{number}-{secrets.token_hex(4)}"
        with suppress(OSError):
            self._uploads.mkdir(mode=0o700, exist_ok=True)
            new.touch(0o600, exist_ok=False)
            new.write_bytes(json.dumps(token).encode())
            new.replace(self._uploads / f"{number}.{self._name}.json")

    def close(self) -> None:
        self._log.close()
