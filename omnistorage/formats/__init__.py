"""Record formats by name and by suffix. One format is one file here and one line in ``_TABLE``.

The member modules, and through them their libraries, load when a format is first asked for. Third parties add formats
with ``register_format`` or the entry-point group ``omnistorage.formats``.
"""

from __future__ import annotations

from typing import Any

from omnistorage.compression import without_codec_suffix
from omnistorage.core.plugin_table import Table
from omnistorage.core.stages import Format
from omnistorage.core.suffix_index import SuffixIndex, make, suffix_of

__all__ = ["format_for_path", "format_names", "record_format", "register_format"]

_TABLE = Table(
    "format",
    "omnistorage.formats",
    {
        "csv": "omnistorage.formats.csv:Csv",
        "length_prefixed": "omnistorage.formats.length_prefixed:LengthPrefixed",
        "lines": "omnistorage.formats.lines:Lines",
        "ndjson": "omnistorage.formats.ndjson:Ndjson",
    },
)

_SUFFIXES = SuffixIndex(
    _TABLE,
    {
        ".ndjson": "ndjson",
        ".jsonl": "ndjson",
        ".csv": "csv",
        ".tsv": "csv",
        ".lp": "length_prefixed",
        ".lpv": "length_prefixed",
        ".txt": "lines",
        ".log": "lines",
    },
)
_SAID_BY_SUFFIX: dict[str, dict[str, Any]] = {".lpv": {"prefix": "varint"}, ".tsv": {"delimiter": "\t"}}
"""Options that a suffix carries."""


def record_format(spec: str | Format[Any], **options: Any) -> Format[Any]:
    """The format named ``spec`` with ``options`` as its fields; a format is returned as is.

    Raises ``ConfigError`` for an unknown name or option (with the nearest right spelling) or a bad value.
    """
    made: Format[Any] = make(_TABLE, Format, spec, options)
    return made


def format_for_path(path: str) -> Format[Any] | None:
    """The format that the suffix of ``path`` names, the one before a codec's suffix if it has one (``a.ndjson.gz``),
    with default settings but for those that the suffix says (``.tsv``, ``.lpv``), or None. Case does not matter."""
    suffix = suffix_of(without_codec_suffix(path))
    name = _SUFFIXES.name_for(suffix)
    return None if name is None else record_format(name, **_SAID_BY_SUFFIX.get(suffix, {}))


def register_format(name: str, cls: Any) -> None:
    """Add a third party's format class (or ``"module:Class"``) under ``name``, with its suffixes; those of built-in
    formats stay theirs. Raises ``ConfigError`` if the name is taken by something else."""
    _TABLE.register(name, cls)
    _SUFFIXES.learn(name)


def format_names() -> list[str]:
    """The names of all formats, sorted, those of entry points included."""
    return _TABLE.names()
