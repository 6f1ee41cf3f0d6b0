"""Changes of rows: a writer's publication, a deletion, a copy, a move.

Each is one statement where nothing stands in the way, and else a short transaction that looks first. A row that points
at a blob is only replaced in a transaction, which also notes that the blob lost an object. Every change writes an etag
that no other change writes: after a lost answer it tells whose work the row is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from os import register_at_fork, urandom
from typing import Any

from omnistorage.backends.sql.connection import Link
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
)

from .schema import Table

_ATTEMPTS = 20  # at a row that others keep making and removing

_tokens = count(1)
_origin = urandom(8).hex()


def _renew_origin() -> None:
    global _origin
    _origin = urandom(8).hex()


register_at_fork(after_in_child=_renew_origin)


def new_token() -> str:
    """A text that no other call in the world returns: an etag, which tells whose write a row is, or a blob's id."""
    return f"{_origin}{next(_tokens):08x}"


def as_json(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata))


class Publication:
    """One change of one row into what a writer made, whichever way the table allows."""

    def __init__(self, to: Any, values: tuple[Any, ...], options: WriteOptions, form: str, blob: str | None) -> None:
        self.to = to
        self.fill: Callable[[Link], None] | None = None
        self.values = values
        self.options = options
        self.form = form
        self.blob = blob
        self.path: str = values[0]
        self.etag: str = values[5]
        self.replaced: str | None = None  # the blob that nobody may need any more
        self.modified: Any = values[2]

    def run(self, link: Link, lost: bool) -> None:
        """Do it, in one statement if nothing is in the way. ``fill(link)`` follows in the same transaction."""
        table, fill = self.to._table, self.fill
        key = table.key(self.path)
        row = table.row(key, self.values)
        if self.blob is None and fill is None and self._at_once(link, table, row, key):
            return

        def step() -> None:
            self._step(link, lost, table, row, key)
            if fill is not None:
                fill(link)

        in_transaction(link, table, step, self.path)

    def _at_once(self, link: Link, table: Table, row: tuple[Any, ...], key: Any) -> bool:
        options, form = self.options, self.form
        try:
            if options.if_match is not None:
                done = link.change(table.update_if[form], (*row[1:], key, options.if_match))
            elif options.overwrite:
                done = link.change(table.upsert[form], row) or not table.has_blobs
            else:
                done = link.change(table.insert[form], row)
        except Exception as error:
            if table.dialect.verdict(error) in ("duplicate", "guard"):
                return False
            raise
        if done and table.returns:
            self.modified = link.cursor.fetchone()[0]
        return bool(done)

    def _step(self, link: Link, lost: bool, table: Table, row: tuple[Any, ...], key: Any) -> None:
        found = link.one(table.look, (key,))
        if found is not None and found[0] == self.etag:
            return  # an attempt whose answer was lost did it
        self._check(found, lost)
        if self.blob is not None and link.change(table.link, (self.blob,)) != 1:
            if lost:
                raise self._unknown()
            raise StorageError("what was written was collected as garbage meanwhile", path=self.path)
        if found is None:
            link.execute(table.insert[self.form], row)
        else:
            link.execute(table.update[self.form], (*row[1:], key))
        if table.returns:
            self.modified = link.cursor.fetchone()[0]
        if self.form == "(":
            link.execute(table.drop_chunks, (self.blob, 0))
            link.execute(table.drop_blob, (self.blob,))
        if found is not None and found[1] is not None:
            link.execute(table.unlink, (found[1],))
            self.replaced = found[1]

    def _check(self, found: Any, lost: bool) -> None:
        wanted = self.options.if_match
        if wanted is not None and (found is None or found[0] != wanted):
            if lost:
                raise self._unknown()
            raise PreconditionFailed("the object is not the one expected", path=self.path)
        if found is not None and not self.options.overwrite:
            if lost:
                raise self._unknown()
            raise AlreadyExists("an object has this name", path=self.path)

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown("the answer was lost, and others changed the object since", path=self.path)


def in_transaction(link: Link, table: Table, step: Callable[[], Any], path: str) -> Any:
    """What ``step`` returns, all of it or nothing; again if somebody was faster to make the row."""
    for _ in range(_ATTEMPTS):
        try:
            with link.transaction():
                return step()
        except StorageError:
            raise
        except Exception as error:
            if table.dialect.verdict(error) != "duplicate":
                raise
    raise BackendUnavailable("others change this key all the time", path=path)


def delete(link: Link, lost: bool, table: Table, path: str, if_match: str | None, loose: list[str]) -> bool | None:
    """Whether it was there; None if an answer was lost and nobody knows. Blobs go to ``loose``."""
    key = table.key(path)
    if if_match is None:
        done = link.change(table.delete_small, (key,))
    else:
        done = link.change(table.delete_small_if, (key, if_match))
    if done:
        return True
    if not table.has_blobs and if_match is None:
        return None if lost else False

    def step() -> bool | None:
        found = link.one(table.look, (key,))
        if if_match is not None and (found is None or found[0] != if_match):
            if lost:
                raise OutcomeUnknown("the answer was lost, and the object is not there any more", path=path)
            raise PreconditionFailed("the object is not the one expected", path=path)
        if found is None:
            return None if lost else False
        link.execute(table.delete, (key,))
        if found[1] is not None:
            link.execute(table.unlink, (found[1],))
            loose.append(found[1])
        return True

    gone: bool | None = in_transaction(link, table, step, path)
    return gone


class Transfer:
    """A copy or a move inside one table. A blob is shared, not copied."""

    def __init__(self, op: str, src: str, dst: str, options: CopyOptions) -> None:
        self.op, self.src, self.dst, self.options = op, src, dst, options
        self.etag = new_token()
        self.loose: list[str] = []

    def run(self, link: Link, lost: bool, table: Table) -> Any:
        """Do it; the row that came out."""

        def step() -> Any:
            self._step(link, lost, table)
            return link.one(table.stat, (table.key(self.dst),))

        return in_transaction(link, table, step, self.src)

    def _step(self, link: Link, lost: bool, table: Table) -> None:
        source, target = table.key(self.src), table.key(self.dst)
        looks = {key: link.one(table.look, (key,)) for key in sorted((source, target))}  # one order for all
        found, there = looks[source], looks[target]
        if there is not None and there[0] == self.etag:
            return  # an attempt whose answer was lost did it
        error = self._obstacle(found, there)
        if error is not None:
            if lost:
                raise OutcomeUnknown("the answer was lost, and others changed the object since", path=self.src)
            raise error
        if there is not None:
            link.execute(table.delete, (target,))
            if there[1] is not None:
                link.execute(table.unlink, (there[1],))
                self.loose.append(there[1])
        values = [target, self.etag] if "etag" in table.present else [target]
        new = self.options.user_metadata
        if new is None:
            statement = table.copy if self.op == "copy" else table.move
        else:
            values.append(as_json(new))
            statement = table.copy_extra if self.op == "copy" else table.move_extra
        link.execute(statement, (*values, source))

    def _obstacle(self, found: Any, there: Any) -> StorageError | None:
        options = self.options
        if found is None:
            return NotFound("no such object", path=self.src)
        if options.source_if_match is not None and found[0] != options.source_if_match:
            return PreconditionFailed("the source is not the one expected", path=self.src)
        if there is not None and not options.overwrite:
            return AlreadyExists("an object has this name", path=self.dst)
        if options.if_match is not None and (there is None or there[0] != options.if_match):
            return PreconditionFailed("the target is not the one expected", path=self.dst)
        return None
