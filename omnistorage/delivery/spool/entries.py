"""What an entry of a spool holds: a letter, the time of arrival in seconds since 1970 as a big-endian IEEE 754 double,
and the record. Pure.

The letter is ``n`` (ndjson), ``l`` (lines) or ``p`` (length_prefixed) where the record is as its format encodes it.
``j`` is one of another format as its JSON text (RFC 8259): what a csv row looks like depends on the rows before it.
``b`` is a record that was refused: nothing follows, but its number is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from struct import Struct
from typing import Any

from omnistorage.core.stages import Format, OnBad, RecordEncoder, Stage
from omnistorage.errors import ConfigError, CorruptData, RecordError

STAND_ALONE = {"ndjson": b"n", "lines": b"l", "length_prefixed": b"p"}
REFUSED = b"b"
_NAMES = {ord(kind): name for name, kind in STAND_ALONE.items()} | {ord("j"): "csv or another one of rows"}
STAMP = Struct(">cd")
_PLAIN = frozenset({str, int, float, bool, type(None)})


class Entries:
    """Records of one format as entries, and back. ``form`` writes what ``data`` returns, ``kind`` is its letter."""

    def __init__(self, form: Format[Any]) -> None:
        self._base = form
        self.stand_alone = form.name in STAND_ALONE
        self.kind = STAND_ALONE.get(form.name, b"j")
        self.form: Format[Any] = Encoded(form) if self.stand_alone else form
        self.encode: Callable[[Any], bytes] = form.encoder().encode if self.stand_alone else _row_text

    def check(self, kinds: bytes, folder: str) -> None:
        """``ConfigError`` if entries of these kinds are of another format."""
        if others := set(kinds) - {*self.kind, *REFUSED}:
            names = ", ".join(sorted(_NAMES.get(kind, f"unknown ({kind})") for kind in others))
            raise ConfigError(
                f"the spool {folder} holds records of another format, {names}: deliver them with a writer of that"
            )

    def data(self, texts: list[bytes]) -> list[Any]:
        """What the encoder of an object is given."""
        return texts if self.stand_alone else list(map(json.loads, texts))

    def records(self, texts: list[bytes]) -> list[Any]:
        """The records, with their fields; in the place of one that cannot be read its ``RecordError``."""
        if not self.stand_alone:
            return list(map(json.loads, texts))
        try:
            found = self._decoded(b"".join(texts))
            if len(found) == len(texts):
                return found
        except (RecordError, CorruptData):
            pass
        return [self._one(text) for text in texts]

    def _one(self, text: bytes) -> Any:
        try:
            (record,) = self._decoded(text)
        except (RecordError, CorruptData, ValueError) as error:
            return RecordError(f"the record cannot be read for its fields: {error}", raw=text)
        return record

    def _decoded(self, text: bytes) -> list[Any]:
        decoder = self._base.decoder()
        return list(chain.from_iterable([*decoder.feed(text), *decoder.finish()]))


def _row_text(record: Any) -> bytes:
    if isinstance(record, dict):
        fits = all(type(name) is str for name in record) and _PLAIN.issuperset(map(type, record.values()))
    else:
        fits = isinstance(record, list | tuple) and _PLAIN.issuperset(map(type, record))
    if not fits:
        raise RecordError(
            "a row that goes through a spool is a dict or list of text, numbers, booleans and None; make the rest text",
            raw=repr(record).encode("utf-8", "backslashreplace"),
        )
    return json.dumps(record, separators=(",", ":")).encode()


class Encoded:
    """``base`` for records that it has encoded already, each for itself."""

    def __init__(self, base: Format[Any]) -> None:
        self.name, self.suffixes = base.name, base.suffixes
        self._base = base

    def encoder(self) -> RecordEncoder[Any]:
        return _Joined()

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[Any]]:
        return self._base.decoder(on_bad)


class _Joined:
    def encode(self, record: bytes, /) -> bytes:
        return record

    def feed(self, item: Sequence[bytes], /) -> Iterable[bytes]:
        return (b"".join(item),) if item else ()

    def flush(self) -> Iterable[bytes]:
        return ()

    finish = flush
