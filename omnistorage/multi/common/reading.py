"""How tiers are read and listed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from omnistorage.core import LIST, READ, ListOptions, ObjectInfo, Reader, ReadOptions, Versions, WriteOptions
from omnistorage.errors import NotFound, PreconditionFailed, StorageError
from omnistorage.paths import check_prefix

from .calls import Checked, agreed, ask_all, info_of, race
from .routing import Routing
from .streams import Promotion, SkippingReader, TierReader, WatchedReader
from .tier import Place, named
from .union_listing import Owned, Shows, union, union_dir


class Reading(Routing):
    # -- reading -------------------------------------------------------------------------------------------------------

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        if options.version is not None:
            if self.power_of(Versions) is None:
                self._refuse("versions", "open_reader", path)
            return self._first("open_reader", path, lambda place: self._open(place, path, options))[1]
        if options.if_match is not None and (self.read in ("race", "quorum") or self._promotes):
            return self._open_what_was_shown(path, options, options.if_match)
        if self.read == "quorum":
            return self._agreed_reader(path, options)
        if options.if_none_match is not None and self.read == "race" and self._named_by(options.if_none_match):
            return self._open_what_was_shown(path, options, options.if_none_match)
        if self.read == "race":
            opened = race(
                self.candidates(path),
                "open_reader",
                path,
                lambda place: self._open(place, path, options),
                lambda late: late.close(),
            )
            return opened[1]
        place, reader = self._first("open_reader", path, lambda place: self._open(place, path, options))
        if self._plain:
            return reader
        if self._shadow is not None and place is self.places[0]:
            return self._shadow.watch(reader, path, options)
        if self._promotes and not options.offset and options.length is None and place not in self.writes:
            return self._promoting(reader, place, path)
        return reader

    def _open_what_was_shown(self, path: str, options: ReadOptions, wanted: str) -> Reader:
        """The tier that showed this etag, whichever would be asked now: what a promotion put elsewhere, or what another
        mirror has, does not break a reader that goes on."""
        place = self._named_by(wanted)
        if place is None:
            raise PreconditionFailed(f"no {self.word} shows this etag", path=path, backend=self.name, op="open_reader")
        with named(place):
            return self._open(place, path, options)

    def _open(self, place: Place, path: str, options: ReadOptions) -> TierReader:
        if options.if_match is not None or options.if_none_match is not None or options.version is not None:
            options = self._tokens(place, path, options)
        if (options.offset or options.length is not None) and not place.backend.features.range_read:
            whole = place.backend.open_reader(path, replace(options, offset=0, length=None))
            return SkippingReader(whole, place, options.offset, options.length)
        return TierReader(place.backend.open_reader(path, options), place)

    def _tokens(self, place: Place, path: str, options: ReadOptions) -> ReadOptions:
        """The conditions as the tier knows them. What was told by another tier is not what this one has."""
        other = options.if_none_match
        if other is not None:
            other = other[len(place.head) :] if other.startswith(place.head) else None
        wanted = options.if_match
        if wanted is not None and not wanted.startswith(place.head):
            info_of(place.backend, path)  # a miss is a miss
            place.token(wanted, path, "open_reader")
        return replace(
            options,
            if_match=place.token(wanted, path, "open_reader"),
            if_none_match=other,
            version=self._version(place, path, options.version),
        )

    def _version(self, place: Place, path: str, version: str | None) -> str | None:
        if version is not None and not version.startswith(place.head):
            raise NotFound(f"no such version in this {self.word}", path=path, backend=self.name, op="open_reader")
        return place.token(version, path, "open_reader")

    def _promoting(self, reader: TierReader, place: Place, path: str) -> Reader:
        info = reader.inner.info
        keeps = self.features.user_metadata and info.metadata
        try:  # metadata that other tools wrote may not fit another store: the object is read, and stays where it is
            options = WriteOptions(
                overwrite=False, size=info.size, content_type=info.content_type,
                user_metadata=dict(info.metadata or {}) if keeps else None,
                modified_at=info.modified_at if self.features.set_modified else None,
            )  # fmt: skip
            writer = self.writes[0].backend.open_writer(path, options)
        except StorageError:
            return reader

        def is_it() -> bool:
            now = info_of(place.backend, path)
            if info.etag is not None:
                return now.etag == info.etag
            return info.modified_at is not None and (now.size, now.modified_at) == (info.size, info.modified_at)

        promotion = Promotion(writer, info.size, is_it)
        return WatchedReader(reader, promotion.took, promotion.ended, info.size)

    def _agreed_reader(self, path: str, options: ReadOptions) -> Reader:
        place, info, vote = agreed(self.candidates(path), self._needed, "open_reader", path, self.crew)
        etag = None if info.etag is None else place.head + info.etag
        if options.if_none_match is not None and options.if_none_match == etag:
            raise PreconditionFailed(f"the object's etag is {etag!r}", path=path, backend=self.name, op="open_reader")
        with named(place):
            reader = self._open(place, path, replace(options, if_match=etag, if_none_match=None))
        if options.offset or options.length is not None:
            return reader
        check = Checked(vote, path)
        return WatchedReader(reader, check.took, check.ended, info.size)

    def exists(self, path: str) -> bool:
        if self.mode == "match" or self.read != "quorum":
            return self._exists(path)
        answers = ask_all(
            self.candidates(path), "exists", path, lambda place: place.backend.exists(path), crew=self.crew
        )
        for truth in (True, False):
            if answers.count(truth) >= self._needed:
                return truth
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        raise (
            errors[0]
            if errors
            else StorageError(
                f"the {self.word}s do not agree whether it is there", path=path, backend=self.name, op="exists"
            )
        )

    def _exists(self, path: str) -> bool:
        def ask(place: Place) -> bool:
            if not place.backend.exists(path):
                raise NotFound(path=path)
            return True

        try:
            if self.read == "race":
                race(self.candidates(path), "exists", path, ask, lambda _: None)
            else:
                self._first("exists", path, ask)
        except NotFound:
            return False
        return True

    def stat(self, path: str) -> ObjectInfo:
        if self.read == "race":
            place, info = race(self.candidates(path), "stat", path, lambda p: info_of(p.backend, path), lambda _: None)
        else:
            place, info = self._find("stat", path)
        return place.out(info)

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        if not self.features.list:
            self._refuse("list", "list", prefix)
        return union(self.places, check_prefix(prefix, op="list"), options, self._shows(prefix), self._spare)

    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]:
        if not self.features.list:
            self._refuse("list", "list_dir", path)
        return union_dir(self.places, check_prefix(path, op="list_dir"), self.name, self._shows(path), self._spare)

    def _shows(self, prefix: str) -> Shows | None:
        """Which of the keys under ``prefix`` each place shows; None: all that it has."""
        return Owned(self.places, self.owner) if self.mode == "match" else None
