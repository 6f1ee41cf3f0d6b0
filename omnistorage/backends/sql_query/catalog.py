"""What ``strict=False`` adds: the views and tables that the database itself knows.

``NAME.EXT`` is a view of the default schema, ``SCHEMA/NAME.EXT`` a table or view of any schema but the system's own. A
name of a key is looked up among the names that the database lists; only a name that stands there is ever put into a
statement, quoted by the dialect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from omnistorage.backends.sql.connection import Link
from omnistorage.backends.sql.database import sqlalchemy
from omnistorage.errors import InvalidPath, NotFound
from omnistorage.paths import check_new

from .execution import QueryDatabase

_SYSTEM = frozenset(
    {"information_schema", "pg_catalog", "pg_toast", "mysql", "performance_schema", "sys", "ndbinfo", "temp"}
)


class Relation(NamedTuple):
    """A table or view; ``schema`` is None in the default schema under its short name."""

    schema: str | None
    name: str


def relation_of(path: str) -> Relation | None:
    """What a key would name, whether or not it is there."""
    folder, slash, name = path.rpartition("/")
    base, dot, _ = name.rpartition(".")
    if not dot or not base or "/" in folder or (slash and not folder):
        return None
    return Relation(folder or None, base)


def key_of(relation: Relation, suffix: str) -> str | None:
    """The key of a relation; None if its name can stand in none."""
    name = f"{relation.name}.{suffix}"
    path = name if relation.schema is None else f"{relation.schema}/{name}"
    try:
        check_new(path)
    except InvalidPath:
        return None
    return path if relation_of(path) == relation else None


def statement_of(relation: Relation, dialect: Any) -> str:
    """``SELECT * FROM`` the relation, its names quoted by the dialect whatever they are."""
    sa = sqlalchemy()
    schema, name = (part if part is None else sa.sql.quoted_name(part, True) for part in relation)
    select = sa.select(sa.text("*")).select_from(sa.table(name, schema=schema))
    plain = type(dialect)(paramstyle="named")  # others would double the percent signs of a name
    return " ".join(str(select.compile(dialect=plain)).split("\n", 1)).replace(" \n", " ")


class Catalog:
    """The relations of one database, asked anew at each call."""

    def __init__(self, database: QueryDatabase) -> None:
        self._db = database

    def relations(self) -> list[Relation]:
        """All of them, views of the default schema first."""
        return self._db.run("list", None, _relations)

    def check(self, relation: Relation, path: str) -> None:
        """Raise ``NotFound`` unless the database lists exactly this name."""
        found = self._db.run("open_reader", path, lambda link: _is_listed(link, relation))
        if not found:
            raise NotFound("there is no such table or view", path=path, backend=self._db.name)


def _relations(link: Link) -> list[Relation]:
    inspector = _inspector(link)
    try:
        found = [Relation(None, name) for name in sorted(inspector.get_view_names())]
        for schema in _schemas(inspector):
            found += [Relation(schema, name) for name in sorted(_names(inspector, schema))]
        return found
    finally:
        _end(link)


def _is_listed(link: Link, relation: Relation) -> bool:
    inspector = _inspector(link)
    try:
        if relation.schema is None:
            return relation.name in inspector.get_view_names()
        return relation.schema in _schemas(inspector) and relation.name in _names(inspector, relation.schema)
    finally:
        _end(link)


def _inspector(link: Link) -> Any:
    return sqlalchemy().inspect(link.sql)  # type: ignore[attr-defined]


def _end(link: Link) -> None:
    if link.sql.engine.pool.__class__.__name__ != "StaticPool":  # type: ignore[attr-defined]
        link.sql.rollback()  # type: ignore[attr-defined]


def _schemas(inspector: Any) -> Iterator[str]:
    return (name for name in sorted(inspector.get_schema_names()) if name not in _SYSTEM and name[:3] != "pg_")


def _names(inspector: Any, schema: str) -> set[str]:
    names = {*inspector.get_table_names(schema=schema), *inspector.get_view_names(schema=schema)}
    if inspector.dialect.name == "postgresql":
        names |= set(inspector.get_materialized_view_names(schema=schema))
    return names
