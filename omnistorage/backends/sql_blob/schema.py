"""The tables of the SQL blob backend and every statement on them.

omnistorage_objects   key, size, modified_at, content_type, digest, etag, extra, blob_id, data
    omnistorage_chunks    blob_id, seq, data
    omnistorage_blobs     blob_id, key, linked, touched_at, kept_until

Times are microseconds since 1970, UTC, but ``modified_at`` in SQLite is a text as of ISO 8601. ``digest`` is the
SHA-256 in hexadecimal, ``etag`` a token that every change renews, ``extra`` the user metadata as JSON. A body of at
most ``INLINE`` bytes stands in ``data``; of a larger one ``data`` is NULL, and ``blob_id`` names chunks of exactly
``INLINE`` bytes each, the last one perhaps shorter, counted by ``seq`` from 0. A copy shares its blob.
``omnistorage_blobs`` says of each blob whether an object points at it (``linked`` 1; 0: being written, or replaced
since; -1: being removed) and until when a writer or reader holds on to it.

An identifier comes into a statement through ``Table`` alone, which quotes it; a value never does.
"""

# ruff: noqa: S608  (the one module that puts statements together, of words of its own and quoted names)

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from omnistorage.backends.sql.connection import Link
from omnistorage.backends.sql.dialects import Dialect
from omnistorage.errors import ConfigError

INLINE = 1 << 20
COLUMNS = ("key", "size", "modified_at", "content_type", "digest", "etag", "extra", "blob_id", "data")
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,48}\.)?[A-Za-z_][A-Za-z0-9_]{0,48}", re.ASCII)
_ANY_NAME = re.compile(r"[^\x00-\x1f{}%?\"'`\\\[\]]{1,128}")  # what no database has to quote twice
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STAGED = "(SELECT data FROM {chunks} WHERE blob_id = ? AND seq = 0)"

_OBJECTS = {
    "sqlite": """CREATE TABLE IF NOT EXISTS {table} ({key} TEXT NOT NULL PRIMARY KEY CHECK (length({key}) > 0),
        {size} INTEGER NOT NULL, {modified_at} TEXT NOT NULL, {content_type} TEXT, {digest} TEXT,
        {etag} TEXT NOT NULL, {extra} JSON, {blob_id} TEXT, {data} BLOB)""",
    "postgresql": """CREATE TABLE IF NOT EXISTS {table} ({key} TEXT COLLATE "C" PRIMARY KEY CHECK (length({key}) > 0),
        {size} BIGINT NOT NULL, {modified_at} BIGINT NOT NULL, {content_type} TEXT, {digest} TEXT,
        {etag} TEXT NOT NULL, {extra} JSON, {blob_id} TEXT, {data} BYTEA)""",
    "mysql": """CREATE TABLE IF NOT EXISTS {table} ({key} VARBINARY(1024) NOT NULL PRIMARY KEY,
        {size} BIGINT NOT NULL, {modified_at} BIGINT NOT NULL, {content_type} TEXT, {digest} VARCHAR(64),
        {etag} VARCHAR(64) NOT NULL, {extra} JSON, {blob_id} VARCHAR(64), {data} LONGBLOB, CHECK (length({key}) > 0),
        INDEX {by_blob} ({blob_id})) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin""",
}
_CHUNKS = {
    "sqlite": "blob_id TEXT NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (blob_id, seq)",
    "postgresql": "blob_id TEXT NOT NULL, seq BIGINT NOT NULL, data BYTEA NOT NULL, PRIMARY KEY (blob_id, seq)",
    "mysql": "blob_id VARCHAR(64) NOT NULL, seq BIGINT NOT NULL, data LONGBLOB NOT NULL, PRIMARY KEY (blob_id, seq)",
}
_BLOBS = {
    "sqlite": "blob_id TEXT NOT NULL PRIMARY KEY, {key} TEXT NOT NULL",
    "postgresql": 'blob_id TEXT PRIMARY KEY, {key} TEXT COLLATE "C" NOT NULL',
    "mysql": "blob_id VARCHAR(64) NOT NULL PRIMARY KEY, {key} VARBINARY(1024) NOT NULL",
}
_BLOB_REST = ", linked INTEGER NOT NULL, touched_at BIGINT NOT NULL, kept_until BIGINT NOT NULL"


def check_name(table: str, *, ours: bool) -> None:
    """Raise ``ConfigError`` unless ``table`` can be the name of a table: of ours a plain one."""
    if not isinstance(table, str) or not _ANY_NAME.fullmatch(table):
        raise ConfigError(f"table_name is the name of a table, not {table!r:.200}")
    if ours and not _NAME.fullmatch(table):
        raise ConfigError(
            f"table_name {table!r}: use letters, digits and underscores, at most 48, perhaps schema.table"
        )


class Table:
    """Statements on one table, in the words of one database. ``names`` maps our columns to those of the table; a column
    that is not there reads as NULL and is not written."""

    def __init__(
        self,
        dialect: Dialect,
        quote: Any,
        name: str,
        names: Mapping[str, str] | None,
        *,
        collate: str = "",
        times: str = "",
        json: str = "",
    ) -> None:
        self.dialect = dialect
        self.times = times or dialect.times  # of the column modified_at: a key of the dialect's clocks
        self.ours = names is None
        self.key: Callable[[str], Any] = dialect.key  # a path as a value of the key column
        self.streams = False  # whether a value can be read and written piece by piece
        given = dict.fromkeys(COLUMNS) if names is None else names
        self.present = [column for column in COLUMNS if column in given]
        self.has_blobs = "blob_id" in given
        schema, _, plain = name.rpartition(".")
        head = f"{quote(schema)}." if schema else ""
        stem = plain.removesuffix("_objects")
        self._words = dict.fromkeys(COLUMNS, "NULL")
        self._words |= {column: quote(given[column] or column) for column in self.present}
        self._words |= {
            "table": head + quote(plain),
            "chunks": head + quote(f"{stem}_chunks"),
            "blobs": head + quote(f"{stem}_blobs"),
            "by_blob": quote(f"{plain}_by_blob"),
            "stale": quote(f"{stem}_blobs_stale"),
            "collate": collate,  # how this table compares keys, where that is not the plain way
            "now": dialect.clocks["number"][0],
            "moment": dialect.clocks[self.times][0],
            "json": (json or dialect.json).replace("?", dialect.mark),
            "lock": dialect.for_update,
            "guard": f" AND {self._words['blob_id']} IS NULL" if self.has_blobs else "",
        }
        self._picks = [at for at, column in enumerate(COLUMNS) if column in given]
        self._write_statements()

    def row(self, key: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of one value for each of ``COLUMNS``, those that the table has; ``key`` is what stands for the path."""
        _, size, when, kind, digest, etag, extra, blob, body = values
        row = (key, size, self.time(when), kind, digest, etag, extra, blob, body)
        return row if self.ours else tuple(row[at] for at in self._picks)

    def time(self, when: datetime | None) -> Any:
        """A time as a value of the column modified_at."""
        if when is None or self.times == "zoned":
            return when
        if self.times == "iso":
            return (when if when.tzinfo is UTC else when.astimezone(UTC)).isoformat("T", "microseconds")
        if self.times == "number":
            return (when - _EPOCH) // _MICROSECOND
        plain = when.astimezone(UTC).replace(tzinfo=None)
        return plain if self.times == "plain" else plain.isoformat(" ", "microseconds")

    def sql(self, template: str) -> str:
        """The statement of a template: ``?`` is a value, ``{word}`` an identifier."""
        return template.replace("?", self.dialect.mark).format(**self._words)

    def _write_statements(self) -> None:
        sql, d = self.sql, self.dialect
        size = self._words["size"] if "size" in self.present else d.length.format(self._words["data"])
        extra = d.json_text.format(self._words["extra"]) if "extra" in self.present else "NULL"
        info = f"{{key}}, {size}, {{modified_at}}, {{content_type}}, {{digest}}, {{etag}}, {extra}, {{blob_id}}"
        at = "{key}{collate} = ?"
        self.exists = sql(f"SELECT 1 FROM {{table}} WHERE {at}")
        self.probe = sql("SELECT {key} FROM {table} LIMIT 1")
        self.stat = sql(f"SELECT {info} FROM {{table}} WHERE {at}")
        self.read = sql(f"SELECT {info}, {{data}} FROM {{table}} WHERE {at}")
        self.read_part = sql(f"SELECT {info}, {d.head.format('{data}')} FROM {{table}} WHERE {at}")
        length = d.length.format("{data}")
        self.read_bounded = sql(
            f"SELECT {info}, CASE WHEN {length} <= ? THEN {{data}} END, {length} FROM {{table}} WHERE {at}"
        )
        self.rowid = sql(f"SELECT rowid FROM {{table}} WHERE {at}") if d.family == "sqlite" else ""
        self.look = sql(f"SELECT {{etag}}, {{blob_id}} FROM {{table}} WHERE {at}{{lock}}")
        self.delete_small = sql(f"DELETE FROM {{table}} WHERE {at}{{guard}}")
        self.delete_small_if = sql(f"DELETE FROM {{table}} WHERE {at} AND {{etag}} = ?{{guard}}")
        self.delete = sql(f"DELETE FROM {{table}} WHERE {at}")
        self._write_listings(info)
        self._write_changes()
        if self.has_blobs:
            self._write_blobs()

    def _write_listings(self, info: str) -> None:
        """By where a page begins (``>=`` or ``>``), whether it ends before a key, and whether names must look like."""
        key = "{key}{collate}"
        like = f"{key} GLOB ?" if self.dialect.family == "sqlite" else "{key} LIKE ? ESCAPE '!'"
        self.pages = {
            (low, ends, looks): self.sql(
                f"SELECT {info} FROM {{table}} WHERE {key} {low} ?{f' AND {key} < ?' if ends else ''}"
                f"{f' AND {like}' if looks else ''} ORDER BY {key} LIMIT ?"
            )
            for low in (">=", ">")
            for ends in (False, True)
            for looks in (False, True)
        }

    def _write_changes(self) -> None:
        d, words = self.dialect, self._words
        stamp = d.clocks[self.times][1]
        value = dict.fromkeys(COLUMNS, "?") | {"extra": "{json}", "modified_at": f"COALESCE({stamp}, {{moment}})"}
        rest = [column for column in self.present if column != "key"]
        names = ", ".join(f"{{{column}}}" for column in self.present)
        guard = words["blob_id"] if self.has_blobs else None
        conflict = d.on_conflict(words["key"], [words[column] for column in rest], guard)
        self.insert, self.upsert, self.update, self.update_if = {}, {}, {}, {}
        self.returns = d.returning and "modified_at" in self.present
        returning = f" RETURNING {words['modified_at']}" if self.returns else ""
        for body in ("?", "zeroblob(?)", _STAGED):  # known by their first letters
            value["data"] = body
            values = ", ".join(value[column] for column in self.present)
            alias = " AS o" if d.family != "mysql" else ""
            insert = self.sql(f"INSERT INTO {{table}}{alias} ({names}) VALUES ({values})")
            self.insert[body[0]] = insert + returning
            self.upsert[body[0]] = insert + conflict + returning
            changes = ", ".join(f"{{{column}}} = {value[column]}" for column in rest)
            self.update[body[0]] = self.sql(f"UPDATE {{table}} SET {changes} WHERE {{key}}{{collate}} = ?{returning}")
            self.update_if[body[0]] = self.sql(
                f"UPDATE {{table}} SET {changes} WHERE {{key}}{{collate}} = ? AND {{etag}} = ?{{guard}}{returning}"
            )
        self._write_copies(names)

    def _write_copies(self, names: str) -> None:
        def taken(new: dict[str, str]) -> str:
            return ", ".join(new.get(column, f"{{{column}}}") for column in self.present)

        def changed(new: dict[str, str]) -> str:
            return ", ".join(f"{{{column}}} = {text}" for column, text in new.items() if column in self.present)

        key = "CAST(? AS TEXT)" if self.dialect.family == "postgresql" else "?"
        fresh = {"key": key, "etag": key, "modified_at": "{moment}"}
        at = "FROM {table} WHERE {key}{collate} = ?"
        self.copy = self.sql(f"INSERT INTO {{table}} ({names}) SELECT {taken(fresh)} {at}")
        self.copy_extra = self.sql(f"INSERT INTO {{table}} ({names}) SELECT {taken(fresh | {'extra': '{json}'})} {at}")
        where = "WHERE {key}{collate} = ?"
        moved = {"key": "?", "etag": "?"}
        self.move = self.sql(f"UPDATE {{table}} SET {changed(moved)} {where}")
        self.move_extra = self.sql(f"UPDATE {{table}} SET {changed(moved | {'extra': '{json}'})} {where}")
        kept = {
            "modified_at": f"COALESCE({self.dialect.clocks[self.times][1]}, {{modified_at}})",
            "extra": "COALESCE({json}, {extra})",
            "etag": "?",
        }
        self.set = self.sql(f"UPDATE {{table}} SET {changed(kept)} {where}")

    def _write_blobs(self) -> None:
        sql = self.sql
        none = "NOT EXISTS (SELECT 1 FROM {table} WHERE {blob_id} = b.blob_id)"
        self.new_blob = sql(
            "INSERT INTO {blobs} (blob_id, {key}, linked, touched_at, kept_until) VALUES (?, ?, 0, {now}, {now} + ?)"
        )
        # Its blob's row is locked until the chunk is there: a statement that the server does for a client that is long
        # dead comes before the collector, which then waits and finds the chunk, or after it, and adds nothing.
        self.new_chunk = sql(
            "INSERT INTO {chunks} (blob_id, seq, data)"
            " SELECT blob_id, ?, ? FROM {blobs} WHERE blob_id = ? AND linked = 0{lock}"
        )
        self.chunk = sql("SELECT substr(data, ?, ?) FROM {chunks} WHERE blob_id = ? AND seq = ?")
        self.link = sql("UPDATE {blobs} SET linked = 1, kept_until = 0 WHERE blob_id = ? AND linked = 0")
        self.unlink = sql("UPDATE {blobs} SET linked = 0, touched_at = {now} WHERE blob_id = ? AND linked >= 0")
        self.hold = sql(
            "UPDATE {blobs} SET kept_until = {now} + ?, touched_at = {now} WHERE blob_id = ? AND linked >= 0"
        )
        self.holds = sql("SELECT kept_until - {now} FROM {blobs} WHERE blob_id = ? AND linked >= 0")
        self.let_go = sql("UPDATE {blobs} SET kept_until = 0 WHERE blob_id = ? AND linked = 0")
        # One UPDATE both looks and claims: whoever links or pins the blob meanwhile is seen, or comes too late.
        alias = "{blobs} b" if self.dialect.family == "mysql" else "{blobs} AS b"
        self.doom = sql(
            f"UPDATE {alias} SET linked = -1 WHERE b.blob_id = ? AND (linked = -1 OR"
            f" (linked = 0 AND kept_until <= {{now}} AND {none}))"
        )
        self.keep = sql(f"UPDATE {alias} SET linked = 1 WHERE b.blob_id = ? AND linked = 0 AND NOT ({none})")
        self.drop_chunks = sql("DELETE FROM {chunks} WHERE blob_id = ? AND seq >= ?")
        self.last_chunk = sql("SELECT MAX(seq) FROM {chunks} WHERE blob_id = ?")
        self.drop_blob = sql("DELETE FROM {blobs} WHERE blob_id = ?")
        self.stale = sql(
            "SELECT b.blob_id, b.{key}, b.touched_at, (SELECT SUM(" + self.dialect.length.format("c.data") + ")"
            " FROM {chunks} c WHERE c.blob_id = b.blob_id) FROM {blobs} b WHERE b.blob_id > ? AND b.kept_until <= {now}"
            f" AND b.touched_at <= {{now}} - ? AND {none} ORDER BY b.blob_id LIMIT 100"
        )
        self.loose = sql("SELECT blob_id FROM {blobs} WHERE linked <= 0 AND kept_until <= {now} LIMIT 10")

    # -- making and finding it -----------------------------------------------------------------------------------------

    def create(self, link: Link) -> None:
        """Make the tables that are not there; ones that are stay as they are, and no right to make any is needed."""
        family = self.dialect.family
        try:
            link.all(self.probe)
            link.all(self.sql("SELECT blob_id FROM {blobs} LIMIT 1"))
            return
        except Exception as error:
            if self.dialect.verdict(error) != "missing":
                raise
        tail = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if family == "mysql" else ""
        index = ", INDEX (linked)" if family == "mysql" else ""
        statements = [
            _OBJECTS[family],
            f"CREATE TABLE IF NOT EXISTS {{chunks}} ({_CHUNKS[family]}){tail}",
            f"CREATE TABLE IF NOT EXISTS {{blobs}} ({_BLOBS[family]}{_BLOB_REST}{index}){tail}",
        ]
        if family != "mysql":
            statements += [
                "CREATE INDEX IF NOT EXISTS {by_blob} ON {table} ({blob_id}) WHERE {blob_id} IS NOT NULL",
                "CREATE INDEX IF NOT EXISTS {stale} ON {blobs} (linked) WHERE linked <= 0",
            ]
        if family == "postgresql":  # as they are: most bodies are compressed already, and parts of them are read
            statements += [
                f"ALTER TABLE {{{name}}} ALTER COLUMN data SET STORAGE EXTERNAL" for name in ("table", "chunks")
            ]
            statements.insert(0, "SELECT pg_advisory_xact_lock(7133701809754865)")
        if family == "mysql":
            for statement in statements:
                link.execute(self.sql(statement))
            return
        with link.transaction():
            for statement in statements:
                link.execute(self.sql(statement))
