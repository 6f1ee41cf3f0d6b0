"""Codecs by name, suffix and magic bytes."""

from __future__ import annotations

import bz2
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from omnistorage import compression
from omnistorage.compression import (
    codec,
    codec_for_magic,
    codec_for_path,
    codec_names,
    register_codec,
    without_codec_suffix,
)
from omnistorage.compression.bz2 import Bz2
from omnistorage.compression.gzip import Gzip
from omnistorage.compression.lz4 import Lz4
from omnistorage.compression.snappy import Snappy
from omnistorage.compression.xz import Xz
from omnistorage.compression.zstd import Zstd
from omnistorage.core.stages import Codec, Stage
from omnistorage.errors import ConfigError


@dataclass(frozen=True)
class Toy:
    name: ClassVar[str] = "toy"
    suffixes: ClassVar[tuple[str, ...]] = (".toy", ".gz")
    magic: ClassVar[bytes] = b"TOY"
    size: int = 1

    def __post_init__(self) -> None:
        if self.size > 9:
            raise ValueError("too large")

    def encoder(self) -> Stage[bytes, bytes]:
        raise NotImplementedError

    decoder = encoder


@pytest.fixture
def clean_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for holder, attribute in (
        (compression._TABLE, "_members"),
        (compression._SUFFIXES, "known"),
        (compression, "_MAGICS"),
    ):
        monkeypatch.setattr(holder, attribute, dict(getattr(holder, attribute)))
    monkeypatch.setattr(compression._SUFFIXES, "_learnt", set())
    return


def test_a_name_with_options_makes_the_value() -> None:
    assert codec("gzip") == Gzip()
    assert codec("gzip", level=1) == Gzip(level=1)
    assert codec("zstd", level=19, threads=2) == Zstd(19, 2)
    assert codec("bz2", level=1) == Bz2(1)
    assert codec("xz", level=1, check="sha256") == Xz(1, check="sha256")
    assert codec("lz4", block_size=65_536) == Lz4(block_size=65_536)
    assert codec("snappy") == Snappy()


def test_a_value_is_returned_as_it_is() -> None:
    value = Zstd(7)
    assert codec(value) is value


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("gzp", {}, "did you mean 'gzip'"),
        ("GZIP", {}, "did you mean 'gzip'"),
        ("qqqq", {}, "known are: bz2, gzip, lz4, snappy, xz, zstd"),
        ("gzip", {"levle": 3}, "did you mean 'level'"),
        ("gzip", {"level": 99}, "levels 0 to 9"),
        ("zstd", {"level": "high"}, "levels 1 to 22"),
        ("snappy", {"level": 1}, "no option 'level'"),
        ("xz", {"level": 10}, "levels 0 to 9"),
        (Gzip(), {"level": 3}, "set them when making it"),
        (Gzip, {}, "as a value such as Gzip"),
        (None, {}, "as a value such as Gzip"),
        (7, {}, "as a value such as Gzip"),
    ],
)
def test_what_is_wrong_is_a_config_error_that_helps(spec: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        codec(spec, **options)


@pytest.mark.parametrize(
    ("path", "value", "rest"),
    [
        ("a.gz", Gzip(), "a"),
        ("x/y.b/a.ndjson.GZ", Gzip(), "x/y.b/a.ndjson"),
        ("a.zst", Zstd(), "a"),
        ("a.tar.zstd", Zstd(), "a.tar"),
        ("a.csv.sz", Snappy(), "a.csv"),
        ("a.bz2", Bz2(), "a"),
        ("a.tar.XZ", Xz(), "a.tar"),
        ("a.lz4", Lz4(), "a"),
        ("a.ndjson", None, "a.ndjson"),
        ("a", None, "a"),
        ("", None, ""),
        ("a.gz/b", None, "a.gz/b"),
        (".gz", None, ".gz"),
        ("d/.gz", None, "d/.gz"),
        ("a.gz.", None, "a.gz."),
        ("a.unheardof", None, "a.unheardof"),
    ],
)
def test_the_last_suffix_names_the_codec(path: str, value: Codec | None, rest: str) -> None:
    assert codec_for_path(path) == value
    assert without_codec_suffix(path) == rest


@pytest.mark.parametrize("name", codec_names())
def test_the_tables_say_what_the_classes_say(name: str) -> None:
    value = codec(name)
    assert value.name == name
    encoder = value.encoder()
    written = b"".join([*encoder.feed(b"..."), *encoder.finish()])
    assert written.startswith(value.magic)
    for head in (written, written[:10], b"".join(value.encoder().finish())):
        assert codec_for_magic(head) == value
    for suffix in value.suffixes:
        assert codec_for_path(f"a{suffix}") == value
    known = {suffix for suffix, owner in compression._SUFFIXES.known.items() if owner == name}
    assert known == set(value.suffixes)


def test_magic_bytes_name_the_codec() -> None:
    assert codec_for_magic(b"\x1f\x8b\x08\0") == Gzip()
    assert codec_for_magic(b"\x5f\x2a\x4d\x18") == Zstd()  # a skippable frame
    for level in range(1, 10):
        assert codec_for_magic(bz2.compress(b"", level)) == codec_for_magic(bz2.compress(b"x", level)) == Bz2()
    for head in (b"", b"\x1f", b"{}", b"\x60\x2a\x4d\x18", b"BZh", b"BZh9 is how a line of text may begin", b"sNaPpY"):
        assert codec_for_magic(head) is None


@pytest.mark.usefixtures("clean_tables")
def test_a_registered_codec_is_found_by_name_suffix_and_magic() -> None:
    register_codec("toy", Toy)
    register_codec("toy", Toy)
    assert codec("toy", size=3) == Toy(3)
    assert codec_for_path("a.toy") == Toy()
    assert codec_for_magic(b"TOYS") == Toy()
    assert without_codec_suffix("a.csv.toy") == "a.csv"
    assert "toy" in codec_names()
    assert codec_for_path("a.gz") == Gzip()  # built-in suffixes stay theirs
    with pytest.raises(ConfigError, match="does not take"):
        codec("toy", size=10)
    with pytest.raises(ConfigError, match="is taken"):
        register_codec("gzip", Toy)


@pytest.mark.usefixtures("clean_tables")
def test_a_codec_in_the_table_is_learnt_by_its_suffix_and_one_that_does_not_load_is_passed_over() -> None:
    compression._TABLE.register("broken", "no_such_module_at_all:Codec")
    compression._TABLE.register("toy", Toy)  # as an entry point would stand there
    assert codec_for_path("a.unheardof") is None
    assert codec_for_path("a.toy") == Toy()
    with pytest.raises(ImportError):
        codec("broken")


def test_looking_up_plain_paths_imports_no_codec_and_no_entry_points() -> None:
    code = (
        "import sys; from omnistorage.formats import format_for_path; from omnistorage.compression import *;"
        "codec_for_path('a.ndjson'); format_for_path('a.csv.zst'); codec_for_magic(b'{}');"
        "libraries = 'zstandard', 'isal', 'zlib_ng', 'lz4', 'snappy', 'google_crc32c', 'bz2', 'lzma';"
        "ours = (f'omnistorage.compression.{name}' for name in ('gzip', 'zstd', 'bz2', 'xz', 'lz4', 'snappy'));"
        "print(*(name for name in (*libraries, *ours) if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
