"""Finding out what an existing table offers to the SQL blob backend."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from omnistorage.backends.sql.connection import Link
from omnistorage.backends.sql.database import Database, sqlalchemy
from omnistorage.errors import ConfigError, NotFound

from .schema import COLUMNS, Table, check_name


def find(database: Database, link: Link, name: str, columns: Mapping[str, str]) -> Table:
    """The table ``name`` with its columns as ``columns`` maps them, others under our own names, as far as they are
    there. Raises ``NotFound`` without the table and ``ConfigError`` where keys are not told apart by their bytes."""
    schema, _, plain = name.rpartition(".")
    inspector = sqlalchemy().inspect(database.engine())
    if not inspector.has_table(plain, schema=schema or None):
        raise NotFound(f"there is no table {name!r}", path="")
    there = {column["name"]: column for column in inspector.get_columns(plain, schema=schema or None)}
    names = {ours: columns.get(ours, ours) for ours in COLUMNS}
    for ours, theirs in columns.items():
        if theirs not in there:
            raise ConfigError(f"the table {name!r} has no column {theirs!r} to be its {ours}")
    names = {ours: theirs for ours, theirs in names.items() if theirs in there}
    if "key" not in names or "data" not in names:
        raise ConfigError(f"the table {name!r} needs a column for the key and one for the data: map them with columns=")
    for theirs in names.values():
        check_name(theirs, ours=False)
    quote = database.engine().dialect.identifier_preparer.quote
    if names == dict(zip(COLUMNS, COLUMNS, strict=True)) and _has_companions(inspector, plain, schema):
        return Table(database.dialect, quote, name, None)  # one of ours
    names.pop("blob_id", None)
    if not _is_unique(inspector, plain, schema, names["key"]):
        raise ConfigError(f"the column {names['key']!r} of {name!r} must be its primary key or unique")
    family = database.dialect.family
    collation = _collation(link, family, schema, plain, names["key"])
    types = {ours: there[theirs]["type"] for ours, theirs in names.items()}
    table = Table(
        database.dialect,
        quote,
        name,
        names,
        collate=' COLLATE "C"' if family == "postgresql" else "",
        times=_times(family, types.get("modified_at")),
        json=_json(family, types.get("extra")),
    )
    if family == "mysql" and collation:
        table.key = str  # keys are text here
    table.streams = family == "sqlite" and _has_rowid(link, table)
    return table


def _times(family: str, kind: Any) -> str:
    """How the column of the times keeps them."""
    python = _python_type(kind)
    if python is datetime:
        return "text" if family == "sqlite" else "zoned" if getattr(kind, "timezone", False) else "plain"
    if python is str and family == "sqlite":
        return "text"
    if python is str:
        raise ConfigError("the column of modified_at must be a timestamp, or a number of microseconds since 1970")
    return "number"


def _json(family: str, kind: Any) -> str:
    if family != "postgresql" or kind is None:
        return "?"
    word = type(kind).__name__.upper()
    return f"CAST(? AS {word if word in ('JSON', 'JSONB') else 'TEXT'})"


def _python_type(kind: Any) -> Any:
    try:
        return None if kind is None else kind.python_type
    except NotImplementedError:
        return None


def _has_companions(inspector: Any, plain: str, schema: str) -> bool:
    stem = plain.removesuffix("_objects")
    return all(inspector.has_table(f"{stem}_{part}", schema=schema or None) for part in ("chunks", "blobs"))


def _is_unique(inspector: Any, plain: str, schema: str, key: str) -> bool:
    place = schema or None
    if inspector.get_pk_constraint(plain, schema=place).get("constrained_columns") == [key]:
        return True
    found = [*inspector.get_unique_constraints(plain, schema=place)]
    found += [index for index in inspector.get_indexes(plain, schema=place) if index.get("unique")]
    return any(item["column_names"] == [key] for item in found)


def _collation(link: Link, family: str, schema: str, plain: str, key: str) -> str:
    """By what the database compares keys. Raises ``ConfigError`` unless that is by their bytes: where "a" and "A" are
    one key, one object would silently replace the other."""
    found = _found_collation(link, family, schema, plain, key)
    if found not in ("", "BINARY") and not (family == "mysql" and found.endswith(("nopad_bin", "0900_bin"))):
        raise ConfigError(f"the key column {key!r} compares by {found}, not by their bytes")
    return found


def _found_collation(link: Link, family: str, schema: str, plain: str, key: str) -> str:
    if family == "mysql":
        row = link.one(
            "SELECT collation_name FROM information_schema.columns"
            " WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s AND column_name = %s",
            (schema or None, plain, key),
        )
        return str(row[0] or "") if row else ""
    if family != "sqlite":
        return ""  # "C" is asked for in each statement, and equality is exact anyhow
    indexes = [row[1] for row in link.all("SELECT * FROM pragma_index_list(?)", (plain,)) if row[2]]
    parts = [link.all("SELECT * FROM pragma_index_xinfo(?)", (index,)) for index in indexes]
    return next((str(p[0][4]) for p in parts if p and p[0][2] == key and (len(p) == 1 or not p[1][5])), "BINARY")


def _has_rowid(link: Link, table: Table) -> bool:
    try:
        link.all(table.rowid, (table.key("x"),))
    except Exception as error:
        if "no such column" in str(error):
            return False
        raise
    return True
