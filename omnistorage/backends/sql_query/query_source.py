"""Queries as they are written down: which ``:name`` in a text is a parameter, and how files hold queries.

In a query that is a plain str, ``:name`` is a bind parameter, unless it stands in a literal, a quoted name or a
comment, or behind another colon (``::int``), a backslash, a letter, a digit or ``$`` (``a[1:n]``). All other colons
reach the database as they are written.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError, MissingExtra

_COMMON = r"--[^\n]*|\"(?:[^\"]|\"\")*+\"|`(?:[^`]|``)*+`"
_COMMENT = r"/\*.*?\*/"
# A backslash ends nothing in a literal of SQLite and PostgreSQL, except in E'...'; in MySQL it does.
_PLAIN = r"'(?:[^']|'')*+'"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*+'"
_QUOTED = {
    "sqlite": rf"{_COMMON}|{_COMMENT}|{_PLAIN}|\[[^\]]*\]",
    "postgresql": rf"{_COMMON}|/\*(?>[^*/]+|\*(?!/)|/(?!\*)|{_COMMENT})*+\*/|(?<!\w)[eE]{_ESCAPED}|{_PLAIN}"
    r"|(?<![\w$])\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$",
    "mysql": rf"{_COMMENT}|#[^\n]*|{_ESCAPED}|\"(?:[^\"\\]|\\.|\"\")*+\"|{_COMMON}",
}
_BIND = r"(?<![:\w\\$]):(?P<bind>[A-Za-z_]\w*)(?!\w)"
FAMILIES = tuple(_QUOTED)
_TOKENS = {
    family: re.compile(rf"(?P<quoted>{quoted})|{_BIND}|(?P<colon>:)", re.DOTALL) for family, quoted in _QUOTED.items()
}


def scanned(sql: str, family: str) -> tuple[str, tuple[str, ...]]:
    """``sql`` as ``sqlalchemy.text`` takes it, where every colon that is no parameter has a backslash before it; and
    the names of the parameters."""
    names: dict[str, None] = {}

    def keep(found: re.Match[str]) -> str:
        if found["bind"] is not None:
            names[found["bind"]] = None
            return found[0]
        return found[0].replace(":", "\\:")

    return _TOKENS[family].sub(keep, sql), tuple(names)


def with_nulls(sql: str) -> str:
    """A query of SQLite with NULL in the place of each parameter."""
    return _TOKENS["sqlite"].sub(lambda found: found[0] if found["bind"] is None else "NULL", sql)


@dataclass(frozen=True)
class Query:
    """A query with what is known of its objects.

    ``sql`` is a str, a ``sqlalchemy.text`` or a ``Select``. ``values`` says which keys of a pattern there are: a query
    (a str) whose columns are called like the parameters, a list of mappings (or of plain values, for one parameter), a
    mapping from each parameter to its values, or a function that returns either. ``types`` names the Arrow types of
    columns whose own the database does not tell, ``{"total": "decimal128(18, 2)"}``. ``modified_at`` is the time of its
    objects, ``schema_version`` changes when what it returns does.
    """

    sql: Any
    values: Any = None
    types: Mapping[str, Any] | None = None
    modified_at: datetime | str | None = None
    schema_version: str | int | None = None


_FIELDS = ("sql", "values", "types", "modified_at", "schema_version")


def as_query(key: str, given: Any) -> Query:
    """What a configuration says of one key: a query, or a table with ``sql`` and the other fields of ``Query``."""
    if isinstance(given, Query):
        return given
    if not isinstance(given, Mapping):
        return Query(given)
    for name in given:
        if name not in _FIELDS:
            raise ConfigError(f"the query of {key!r} has no option {name!r}{nearest(str(name), _FIELDS)}")
    if "sql" not in given:
        raise ConfigError(f"the query of {key!r} has no 'sql'")
    return Query(**given)


def load_queries(source: Any) -> dict[str, Query]:
    """Queries by their keys: from a table, a TOML or YAML file with a table ``queries`` (or of nothing else), a
    ``.sql`` file, or a folder of those. ``ConfigError`` names the file and what is wrong with it."""
    if isinstance(source, Mapping):
        return {key: as_query(key, value) for key, value in source.items()}
    if not isinstance(source, str | PathLike):
        raise ConfigError(f"queries are a table of keys, or a path, not {type(source).__name__}")
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".sql":
        return dict(_from_sql(path))
    if path.suffix == ".toml":
        found = _read(path, lambda text: tomllib.loads(text), tomllib.TOMLDecodeError)
    elif path.suffix in (".yaml", ".yml"):
        found = _yaml(path)
    else:
        raise ConfigError(f"{path}: queries stand in a folder of .sql files, or a .sql, .toml, .yaml or .yml file")
    if isinstance(found, Mapping) and "queries" in found:
        found = found["queries"]
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: a table of queries by their keys is needed, not {type(found).__name__}")
    return {str(key): as_query(str(key), value) for key, value in found.items()}


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra('YAML needs PyYAML: pip install "omnistorage[yaml]"', extra="yaml") from error
    return _read(path, yaml.safe_load, yaml.YAMLError)


def _read(path: Path, load: Callable[[str], Any], wrong: type[Exception]) -> Any:
    try:
        return load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file or folder of queries") from None
    except (OSError, UnicodeDecodeError, wrong) as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_folder(folder: Path) -> dict[str, Query]:
    found: dict[str, Query] = {}
    where: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.sql")):
        for key, query in _from_sql(path):
            if key in found:
                raise ConfigError(f"{path}: the key {key!r} stands in {where[key]}, too")
            found[key], where[key] = query, path
    if not found:
        raise ConfigError(f"{folder}: there is no query: .sql files with lines '-- name: KEY' are needed")
    return found


_HEAD = re.compile(r"--[ \t]*(name|values|modified_at|schema_version|type[ \t]+[^:\n]+?):[ \t]*(.*?)[ \t]*\r?\n?")


def _from_sql(path: Path) -> Iterator[tuple[str, Query]]:
    """Each ``-- name: KEY`` begins a query; right below it may stand ``-- values: SELECT ...``, ``-- type COLUMN:
    TYPE``, ``-- modified_at: TIME`` and ``-- schema_version: TEXT``, each on one line."""
    text: str = _read(path, str, ValueError)
    key: str | None = None
    fields: dict[str, Any] = {}
    body: list[str] = []
    in_head = False
    seen = set[str]()
    for line in [*text.splitlines(keepends=True), "-- name:"]:
        found = _HEAD.fullmatch(line)
        if found is not None and found[1] == "name":
            if key is not None:
                yield key, _finished(path, key, body, fields)
            key, fields, body, in_head = found[2], {}, [], True
            if key in seen:
                raise ConfigError(f"{path}: the key {key!r} stands twice")
            seen.add(key)
        elif found is not None and in_head and found[1].startswith("type"):
            fields.setdefault("types", {})[found[1][4:].strip()] = found[2]
        elif found is not None and in_head:
            fields[found[1]] = found[2]
        elif key is not None:
            body.append(line)
            in_head = in_head and not line.strip()
        elif line.strip() and not line.lstrip().startswith("--"):
            raise ConfigError(f"{path}: a query without a line '-- name: KEY' above it")


def _finished(path: Path, key: str, body: list[str], fields: dict[str, Any]) -> Query:
    sql = "".join(body).strip().removesuffix(";").rstrip()
    if not key or not sql:
        raise ConfigError(f"{path}: the line '-- name: {key}' needs a key and a query below it")
    return Query(sql, **fields)
