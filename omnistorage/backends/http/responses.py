"""What the head of an HTTP answer says, by RFC 9110."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any

from omnistorage.core import ObjectInfo
from omnistorage.errors import CapabilityNotSupported

from .settings import NAME

_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_ETAGS = re.compile(r"[\x21\x23-\x7e\x80-\xff]*")
_NUMBER = re.compile("[0-9]{1,18}")
_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)", re.ASCII | re.IGNORECASE)
_DIGEST = re.compile(r"\s*([A-Za-z0-9-]+)\s*=\s*:?([A-Za-z0-9+/=]+):?\s*(?:;.*)?", re.ASCII)
_ALGORITHMS = {
    "sha-512": "sha512", "sha-256": "sha256", "sha": "sha1", "md5": "md5", "crc32c": "crc32c",
}  # fmt: skip
_PREFERRED = ("sha256", "sha512", "crc32c", "md5", "sha1")
HASHES = frozenset(_PREFERRED)
_LENGTHS = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16, "crc32c": 4}
ENCODED_FILES = {
    "gzip": (".gz", ".tgz", ".svgz"), "x-gzip": (".gz", ".tgz"), "zstd": (".zst",), "br": (".br",),
    "compress": (".z",), "x-compress": (".z",), "bzip2": (".bz2",), "x-bzip2": (".bz2",), "xz": (".xz",),
}  # fmt: skip
"""Codings that only repeat what the name says: the bytes are the file's own."""
SURE = 60.0
"""By how many seconds an answer must be younger than the object's last change for that to be a strong validator
(RFC 9110, section 8.8.2.2, where it is a second by one and the same clock)."""


class Body:
    """The body of an answer. ``start`` is where its next byte stands in the object, ``left`` how many the server says
    will come; ``validator`` is what ``If-Range`` takes, None if nothing tells one version from another."""

    def __init__(
        self,
        answer: Any,
        info: ObjectInfo,
        start: int,
        left: int | None,
        validator: str | None,
        digest: tuple[str, str] | None,
    ) -> None:
        self.info, self.start, self.left = info, start, left
        self.validator, self.digest = validator, digest
        self.answer = answer

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; ``b""`` at the end. Raises if the connection ends before the body does."""
        if self.left is not None:
            size = min(size, self.left)
        data = bytes(self.answer.read(size)) if size else b""
        self.start += len(data)
        if self.left is not None:
            if size and not data:
                raise ConnectionError(f"the body ended {self.left} bytes too early")
            self.left -= len(data)
        return data

    def close(self) -> None:
        if not self.answer.closed:
            self.answer.close()
        self.answer.release_conn()

    def interrupt(self) -> None:
        """Make a ``read`` that is blocked in another thread return soon."""
        try:
            self.answer.shutdown()
        except Exception:  # noqa: S110  it ended by itself meanwhile
            pass


def info_of(path: str, headers: Mapping[str, str], encoded: str) -> ObjectInfo:
    """What an answer says of the whole object."""
    length = number(headers.get("Content-Length"))
    ranged = headers.get("Content-Range") is not None
    known = not ranged and not _is_encoded(path, headers, encoded)
    found = hashes_of(headers)
    if ranged and "Content-MD5" in headers:
        found.pop("md5", None)  # of the part
    return ObjectInfo(
        path,
        length if known else None,
        time_of(headers.get("Last-Modified")),
        "file",
        etag_of(headers.get("ETag")),
        None,
        headers.get("Content-Type"),
        found or None,
    )


def number(text: str | None) -> int | None:
    """What somebody else wrote as a number of bytes or seconds; None for what is none, or beyond all reason."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def is_size(value: Any) -> bool:
    """Whether what stands in somebody else's JSON is a number of bytes, within the same reason."""
    return type(value) is int and 0 <= value < 10**18


def etag_of(value: str | None) -> str | None:
    """A strong etag without its quotes; a weak one as it is, ``W/"..."``; None for what is neither."""
    found = _ETAG.fullmatch(value.strip()) if value else None
    if found is None:
        return None
    return found[0] if found[1] else found[2]


def is_strong(etag: str | None) -> bool:
    """Whether it can be sent as a condition that holds for one version alone."""
    return etag is not None and not etag.startswith('W/"') and _ETAGS.fullmatch(etag) is not None


def time_of(value: str | None) -> datetime | None:
    if not value:
        return None
    try:
        found = parsedate_to_datetime(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def content_range(value: str | None) -> tuple[int, int, int | None] | None:
    """First and last byte, and the size of the whole; for an unsatisfied range -1, -1 and the size."""
    found = _RANGE.fullmatch(value.strip()) if value else None
    if found is None:
        return None
    size = int(found[3]) if found[3] != "*" else None
    if found[1] is None:
        return -1, -1, size
    first, last = int(found[1]), int(found[2])
    return (first, last, size) if first <= last and (size is None or last < size) else None


def validator_of(headers: Mapping[str, str], info: ObjectInfo) -> str | None:
    """What tells this version from every other (RFC 9110, section 13.1.5): a strong etag, or where there is no etag a
    time that is long enough ago."""
    if is_strong(info.etag):
        return f'"{info.etag}"'
    answered = time_of(headers.get("Date"))
    if info.modified_at is None or answered is None or "ETag" in headers:
        return None
    return headers["Last-Modified"] if (answered - info.modified_at).total_seconds() >= SURE else None


def hashes_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Digests of the whole representation: ``Repr-Digest`` (RFC 9530), ``Digest`` (RFC 3230), ``Content-MD5`` of a
    whole body, and Google's ``x-goog-hash``, which is the same list under another name."""
    found: dict[str, str] = {}
    stored = headers.get("x-goog-stored-content-encoding", "identity")
    unpacked = stored not in ("identity", headers.get("Content-Encoding"))  # Google's digest is of the stored bytes
    for name in ("Digest", "Repr-Digest") if unpacked else ("x-goog-hash", "Digest", "Repr-Digest"):
        for part in headers.get(name, "").split(","):
            said = _DIGEST.fullmatch(part)
            if said is not None and (algorithm := _ALGORITHMS.get(said[1].lower())) is not None:
                _note(found, algorithm, said[2])
    if "Content-MD5" in headers:
        _note(found, "md5", headers["Content-MD5"])
    return found


def _note(found: dict[str, str], algorithm: str, text: str) -> None:
    try:
        value = a2b_base64(text)
    except Base64Error:
        return
    if len(value) == _LENGTHS[algorithm]:
        found[algorithm] = value.hex()


def digest_of(info: ObjectInfo) -> tuple[str, str] | None:
    """The best digest that can be held against a whole body here."""
    for algorithm in _PREFERRED:
        value = info.hash(algorithm)
        if value is not None and (algorithm != "crc32c" or find_spec("google_crc32c") is not None):
            return algorithm, value
    return None


def _is_encoded(path: str, headers: Mapping[str, str], encoded: str) -> bool:
    coding = headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity") or encoded == "raw":
        return False
    return not path.lower().endswith(ENCODED_FILES.get(coding, ("\0",)))


def refuse_encoding(path: str, headers: Mapping[str, str], encoded: str) -> None:
    """Bytes in a coding that nobody asked for are not the object's: refused, unless the name says the same."""
    if _is_encoded(path, headers, encoded):
        coding = headers.get("Content-Encoding", "")[:40]
        raise CapabilityNotSupported(
            f"the server sends the object as {coding!r} unasked: encoded='raw' takes the bytes as they come",
            capability="content_encoding", backend=NAME,
        )  # fmt: skip
