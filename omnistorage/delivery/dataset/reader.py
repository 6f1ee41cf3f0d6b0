"""``DatasetReader``: the records of a data set, as its manifest has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from os import PathLike
from typing import Any

from omnistorage.core import Backend, ObjectInfo, Reader
from omnistorage.core.lifecycle import Closes
from omnistorage.core.stages import Codec, Format
from omnistorage.errors import ConfigError, CorruptData, NotFound
from omnistorage.records import RecordReader, layers_for, open_decoded
from omnistorage.records.byte_streams import BLOCK

from .layout import Part, Place, Published

Where = Mapping[str, str | Collection[str]] | Callable[[Mapping[str, str]], bool]


class DatasetReader(Closes):
    """Reads the data set below ``prefix`` of ``target``, which are as for ``DatasetWriter``: iterate over it.

    What is read is the set that was published when the reader was made, part by part, in the order of its manifest;
    nothing is held but the record at hand. ``where`` chooses parts by the values they are partitioned by:
    ``{"service": "web"}``, ``{"day": ("1", "2")}``, or a function of the values. ``format`` and ``compression`` follow
    the suffixes of the parts unless given.

    With ``verify`` each part that is read to its end is held against its size, digest and count of records, and
    ``CorruptData`` names one that differs: records of a damaged part may have been given out before. A part that is not
    there is ``NotFound``: the set was replaced meanwhile, or somebody removed it.

    Raises ``NotFound`` where there is no ``_SUCCESS``, ``CorruptData`` if it and the manifest do not belong together.
    The reader and its parts pickle: ``read_part(part)`` works in any process. What was pickled does not hold the parts,
    and asks the manifest for them when they are needed; ``NotFound`` if the set was replaced meanwhile.
    """

    def __init__(
        self,
        target: Backend | str | PathLike[str] | Any,
        prefix: str = "",
        *,
        format: str | Format[Any] | None = None,
        compression: str | Codec | None = None,
        where: Where | None = None,
        verify: bool = True,
    ) -> None:
        _check_where(where)
        self._format, self._compression, self._verify = format, compression, verify
        self._place = Place(target, prefix)
        try:
            found = self._place.current()
            if found is None:
                raise NotFound(
                    "there is no whole data set here, as there is no _SUCCESS: the run that writes it has not ended, "
                    "or it failed and is to be run again",
                    path=prefix,
                )
            self.attempt = found[1].attempt
            self._found: Published = found[0]
            self._parts: tuple[Part, ...] | None = found[1].parts
            self._chosen: tuple[int, ...] | None = None
            if where is not None:
                self._chosen = tuple(number for number, part in enumerate(self._parts) if _is_wanted(part, where))
                self._parts = tuple(self._parts[number] for number in self._chosen)
        except BaseException:
            self._place.close()
            raise

    def __repr__(self) -> str:
        return f"DatasetReader({self._place})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}  # who reads a part was given it

    def close(self) -> None:
        """Close the backend, if it was opened for a URL."""
        self._place.close()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those that are read, in order."""
        if self._parts is None:
            try:
                parts = self._place.manifest(self._found).parts
            except NotFound as error:
                raise NotFound("the data set was replaced meanwhile: open it again", path=error.path) from error
            self._parts = parts if self._chosen is None else tuple(parts[number] for number in self._chosen)
        return self._parts

    @property
    def records(self) -> int:
        """How many records the parts hold."""
        return sum(part.records for part in self.parts)

    @property
    def bytes(self) -> int:
        """What the parts take, as stored."""
        return sum(part.bytes for part in self.parts)

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts:
            yield from self.read_part(part)

    def read_part(self, part: Part) -> Iterator[Any]:
        """The records of one part, lazily."""
        path = self._place.at(part.path)
        form, codec = layers_for(path, self._format, self._compression)
        try:
            source = _Checked(self._place.backend.open_reader(path))
        except NotFound as error:
            raise NotFound(
                "a part of the data set is not there: if the set was replaced meanwhile, open it again", path=path
            ) from error
        with source:
            if self._verify and source.info.size not in (part.bytes, None):
                raise CorruptData(f"the part has {source.info.size} bytes, the manifest says {part.bytes}", path=path)
            with RecordReader(open_decoded(source, codec or "none", root=self._place.backend.url), form) as reader:
                yield from reader
                if self._verify:
                    source.must_be(part, reader.records, path)


def _check_where(where: Where | None) -> None:
    if where is None or callable(where):
        return
    if not isinstance(where, Mapping):
        raise ConfigError(f"where is a table of fields and values, or a function of the values, not {where!r}")
    for field, wanted in where.items():
        if not isinstance(wanted, Collection) or not all(isinstance(value, str) for value in wanted):
            raise ConfigError(
                f"where={{{field!r}: {wanted!r}}}: values of partitions are text: give '1', or several as in ('1', '2')"
            )


def _is_wanted(part: Part, where: Where) -> bool:
    if callable(where):
        return bool(where(part.values))
    for field, wanted in where.items():
        if field not in part.values:
            known = ", ".join(part.values) or "nothing"
            raise ConfigError(f"the data set is not partitioned by {field!r}, but by {known}")
        value = part.values[field]
        if value != wanted and (isinstance(wanted, str) or value not in wanted):
            return False
    return True


class _Checked(Closes):
    """A reader that counts and digests what passes."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.instant = bool(getattr(source, "instant", False))

    @property
    def info(self) -> ObjectInfo:
        return self._source.info

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._digest.update(data)
        self._bytes += len(data)
        return data

    def close(self) -> None:
        self._source.close()

    def must_be(self, part: Part, records: int, path: str) -> None:
        while self.read(BLOCK):  # a decoder may know the end without asking for it
            pass
        if self._digest.hexdigest() != part.sha256 or self._bytes != part.bytes:
            raise CorruptData("the SHA-256 of the part is not the one in the manifest", path=path)
        if records != part.records:
            raise CorruptData(f"the part gave {records} records, the manifest says {part.records}", path=path)
