"""Codecs by name, by suffix and by magic bytes. One codec is one file here and its lines in the tables below.

Third parties add codecs with ``register_codec`` or the entry-point group ``omnistorage.codecs``.
"""

from __future__ import annotations

from typing import Any

from omnistorage.core.plugin_table import Table
from omnistorage.core.stages import Codec
from omnistorage.core.suffix_index import SuffixIndex, make, suffix_of

__all__ = [
    "codec",
    "codec_for_magic",
    "codec_for_path",
    "codec_names",
    "magic_may_follow",
    "register_codec",
    "without_codec_suffix",
]

_TABLE = Table(
    "codec",
    "omnistorage.codecs",
    {
        "bz2": "omnistorage.compression.bz2:Bz2",
        "gzip": "omnistorage.compression.gzip:Gzip",
        "lz4": "omnistorage.compression.lz4:Lz4",
        "snappy": "omnistorage.compression.snappy:Snappy",
        "xz": "omnistorage.compression.xz:Xz",
        "zstd": "omnistorage.compression.zstd:Zstd",
    },
)

_SUFFIXES = SuffixIndex(
    _TABLE,
    {
        ".bz2": "bz2",
        ".gz": "gzip",
        ".lz4": "lz4",
        ".sz": "snappy",
        ".xz": "xz",
        ".zst": "zstd",
        ".zstd": "zstd",
    },
    foreign=frozenset({".ndjson", ".jsonl", ".json", ".csv", ".tsv", ".lp", ".lpv", ".txt", ".log"}),
)

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
    b"\xfd7zXZ\x00": "xz",
    # A line of text may well begin with BZh; the first block's or the end's magic behind it tells.
    **{b"BZh%d%b" % (level, what): "bz2" for level in range(1, 10) for what in (b"1AY&SY", b"\x17rE8P\x90")},
    # Skippable frames may stand before the first real one (pzstd writes them). LZ4 has the same ones, but nobody is
    # known to begin a stream of it with them.
    **{bytes((low, 0x2A, 0x4D, 0x18)): "zstd" for low in range(0x50, 0x60)},
}


def codec(spec: str | Codec, **options: Any) -> Codec:
    """The codec named ``spec`` with ``options`` as its fields (``codec("gzip", level=9)``); a codec is returned as is.

    Raises ``ConfigError`` for an unknown name or option (with the nearest right spelling) or a bad value, and
    ``MissingExtra`` when the library that the options ask for is not installed.
    """
    made: Codec = make(_TABLE, Codec, spec, options)
    return made


def codec_for_path(path: str) -> Codec | None:
    """The codec that the last suffix of ``path`` names, with default settings, or None. Case does not matter."""
    name = _SUFFIXES.name_for(suffix_of(path))
    return None if name is None else codec(name)


def without_codec_suffix(path: str) -> str:
    """``path`` without its last suffix if that names a codec: ``a.ndjson.gz`` becomes ``a.ndjson``."""
    suffix = suffix_of(path)
    return path[: -len(suffix)] if _SUFFIXES.name_for(suffix) else path


def codec_for_magic(head: bytes) -> Codec | None:
    """The codec whose streams begin like ``head``, or None. 10 bytes are enough for the built-in ones; of
    third parties those are known that were given to ``register_codec``."""
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return codec(name)
    return None


def magic_may_follow(head: bytes) -> bool:
    """Whether ``head`` is the beginning of some codec's magic bytes, so that more of it would tell."""
    return any(magic.startswith(head) for magic in _MAGICS)


def register_codec(name: str, cls: Any) -> None:
    """Add a third party's codec class (or ``"module:Class"``) under ``name``, with its suffixes and magic bytes; those
    of built-in codecs stay theirs. Raises ``ConfigError`` if the name is taken by something else."""
    _TABLE.register(name, cls)
    magic = _SUFFIXES.learn(name).magic
    if magic:
        _MAGICS.setdefault(magic, name)


def codec_names() -> list[str]:
    """The names of all codecs, sorted, those of entry points included."""
    return _TABLE.names()
