"""What the answers of Google Cloud Storage say, and its names for things."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from omnistorage.core import ObjectInfo

WRITE_ID = "omnistorage-write-id"
"""Key of user metadata; users' own keys hold no dash."""


class Told:
    """The resource of an object in JSON, with the names that the SDK's handles have."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.name = told["name"]
        self.generation = told["generation"]
        self.size = int(told["size"])
        moment = told.get("timeCreated")
        self.time_created = None if moment is None else datetime.fromisoformat(moment)
        self.content_type = told.get("contentType")
        self.md5_hash, self.crc32c = told.get("md5Hash"), told.get("crc32c")
        self.metadata = told.get("metadata")


class ReadBody:
    """The body of a GET."""

    def __init__(
        self, info: ObjectInfo, answer: Any, length: int | None, most: int | None, digest: tuple[str, str] | None
    ) -> None:
        self.info = info
        self._left = most  # what is more was not asked for
        self.length = length
        self.digest = digest
        self._answer = answer

    def read(self, size: int, /) -> bytes:
        size = size if self._left is None else min(size, self._left)
        data = bytes(self._answer.raw.read(size, decode_content=False))
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        self._answer.close()

    def interrupt(self) -> None:
        try:
            self._answer.raw.shutdown()  # closing it would wait for the read in the other thread
        except Exception:  # noqa: S110  it ended by itself meanwhile
            pass


def generation_of(etag: str) -> int:
    """An etag or version of ours; one that is no generation is that of no object."""
    return int(etag) if etag.isascii() and etag.isdigit() and int(etag) else 1


def bare(metadata: dict[str, str]) -> dict[str, str]:
    metadata.pop(WRITE_ID, None)
    return metadata


def hashes(md5: str | None, crc32c: str | None) -> dict[str, str] | None:
    found = {"md5": md5, "crc32c": crc32c}
    try:
        return {name: base64.b64decode(value).hex() for name, value in found.items() if value} or None
    except ValueError:  # what is no base64 is no digest
        return None


def base64_of(crc: Any) -> str:
    return base64.b64encode(bytes.fromhex(crc.hexdigest())).decode()


def of_crc(crc: Any) -> str:
    return f"crc32c={base64_of(crc)}"


def camel(name: str) -> str:
    """``gcs.cache_control`` as the API has it: ``cacheControl``."""
    first, *rest = name.removeprefix("gcs.").split("_")
    return first + "".join(word.capitalize() for word in rest)
