"""Gzip: the kit on every engine, interoperation both ways, and the goals and defect rows that concern it."""

from __future__ import annotations

import gzip
import random
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator

import pytest

from omnistorage.compression import gzip as module
from omnistorage.compression.gzip import Gzip
from omnistorage.core.stages import MAX_CHUNK, Limit
from omnistorage.errors import ConfigError, CorruptData, MissingExtra
from omnistorage.testing.codecs import SAMPLE, CodecTests, pieces, through

from .goals import MEMBERS, OUTPUT, STRIDE, cut_everywhere, flip_every_bit

ENGINES = ("isal", "zlib-ng", "zlib")


class GzipTests(CodecTests):
    accepts_zero_padding = True


class TestGzip(GzipTests):
    codec = Gzip()


@pytest.mark.ci_only
class TestGzipFast(GzipTests):
    codec = Gzip(level=1)


@pytest.mark.ci_only
class TestGzipIsal(GzipTests):
    codec = Gzip(level=2, engine="isal")


@pytest.mark.ci_only
class TestGzipZlibNg(GzipTests):
    codec = Gzip(level=9, engine="zlib-ng")


@pytest.mark.ci_only
class TestGzipZlib(GzipTests):
    codec = Gzip(engine="zlib")


@pytest.mark.ci_only
class TestGzipStored(GzipTests):
    codec = Gzip(level=0)


# The isal engine keeps unused input to itself and zlib gives it back, as zlib-ng does.
@pytest.fixture(params=["isal", pytest.param("zlib-ng", marks=pytest.mark.ci_only), "zlib"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reader(engine: str) -> Gzip:
    return Gzip(level=1, engine=engine)


def decode(blob: bytes, engine: str, size: int = 1 << 16) -> bytes:
    return through(reader(engine).decoder(), pieces(blob, [size]))


def with_all_header_fields(checksum_error: int = 0) -> bytes:
    """A member with extra field, name, comment and header checksum, as RFC 1952 2.3 draws them."""
    head = b"\x1f\x8b\x08" + bytes((2 | 4 | 8 | 16,)) + b"\x01\x02\x03\x04\0\x03"
    head += struct.pack("<H", 300) + bytes(range(256)) + bytes(44) + b"a name\0" + b"a comment\0"
    head += struct.pack("<H", (zlib.crc32(head) & 0xFFFF) ^ checksum_error)
    return head + gzip.compress(SAMPLE)[10:]


# Settings.


@pytest.mark.parametrize(
    "options",
    [
        {"level": 10},
        {"level": -1},
        {"level": "6"},
        {"level": 6.0},
        {"level": True},
        {"engine": "pigz"},
        {"engine": ""},
        {"engine": "isal"},  # its levels end at 3
        {"engine": "isal", "level": 4},
    ],
)
def test_level_and_engine_are_honoured_or_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Gzip(**options)  # type: ignore[arg-type]


def test_every_level_of_every_engine_reads_back() -> None:
    for engine, levels in (("isal", 4), ("zlib-ng", 10), ("zlib", 10), (None, 10)):
        for level in range(levels):
            blob = through(Gzip(level, engine).encoder(), [SAMPLE] * 20)
            assert gzip.decompress(blob) == SAMPLE * 20


def test_the_level_reaches_the_engine() -> None:
    data = [bytes(str(random.Random(9).choices("abcdefgh", k=200_000)), "ascii")]
    sizes = {level: len(through(Gzip(level).encoder(), data)) for level in (0, 2, 6, 9)}
    assert sizes[0] > len(data[0]) > sizes[2] > sizes[6] >= sizes[9]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A function that makes engines look as if they were not installed."""

    def hide(*engines: str) -> None:
        for engine in engines:
            monkeypatch.setitem(module._ENGINES, engine, "no_such_engine_is_installed")
        module._load.cache_clear()

    yield hide
    monkeypatch.undo()
    module._load.cache_clear()


def test_an_engine_that_is_not_installed_is_a_missing_extra(without) -> None:  # type: ignore[no-untyped-def]
    without("isal", "zlib-ng")
    for engine in ("isal", "zlib-ng"):
        with pytest.raises(MissingExtra) as caught:
            Gzip(level=1, engine=engine)
        assert caught.value.extra == "fast"
        assert 'pip install "omnistorage[fast]"' in str(caught.value)


@pytest.mark.parametrize("missing", [(), ("isal",), ("zlib-ng",), ("isal", "zlib-ng")])
def test_without_an_engine_the_next_best_one_runs(without, missing) -> None:  # type: ignore[no-untyped-def]
    without(*missing)
    best = {engine: module._load(engine) for engine in ENGINES if engine not in missing}
    readers = [best[engine] for engine in ENGINES if engine in best]
    assert Gzip().decoder()._engine is readers[0]  # type: ignore[attr-defined]
    assert Gzip(level=1).encoder()._engine is readers[0]  # type: ignore[attr-defined]
    assert Gzip(level=6).encoder()._engine is best.get("zlib-ng", zlib)  # type: ignore[attr-defined]
    for level in (1, 6):
        assert through(Gzip().decoder(), [through(Gzip(level).encoder(), [SAMPLE])]) == SAMPLE


def test_engines_load_only_when_they_are_needed() -> None:
    code = (
        "import sys; from omnistorage.compression.gzip import Gzip; Gzip();"
        "print('isal' in sys.modules, 'zlib_ng' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_equal_input_gives_equal_bytes_with_no_time_in_them() -> None:
    first, second = (through(Gzip().encoder(), [SAMPLE]) for _ in range(2))
    assert first == second
    assert first[4:8] == bytes(4)


# Reading.


def test_go_r4_a_header_cut_anywhere_by_chunks_reads_the_same_on_every_engine(engine: str) -> None:
    blob = with_all_header_fields()
    for size in (1, 2, 3, 9, 100, len(blob)):
        assert decode(blob * 2, engine, size) == SAMPLE * 2


def test_a_damaged_header_raises(engine: str) -> None:
    good = gzip.compress(SAMPLE)
    for bad in (
        with_all_header_fields(checksum_error=1),
        good[:2] + b"\x07" + good[3:],  # another method
        good[:3] + b"\x20" + good[4:],  # reserved flags
        good[:3] + b"\x40" + good[4:],
        good[:3] + b"\x80" + good[4:],
    ):
        for blob in (bad, good + bad):
            for size in (1, 1 << 16):
                with pytest.raises(CorruptData):
                    decode(blob, engine, size)


def test_an_endless_header_raises_in_bounded_memory(engine: str) -> None:
    head = b"\x1f\x8b\x08\x08" + bytes(6)
    decoder = reader(engine).decoder()
    with pytest.raises(CorruptData, match="header is over"):
        for chunk in pieces(head + b"n" * (2 << 20), [1 << 16]):
            list(decoder.feed(chunk))


def test_wrong_checksum_or_length_raises(engine: str) -> None:
    blob = gzip.compress(SAMPLE)
    for at in range(1, 9):
        damaged = bytearray(blob)
        damaged[-at] ^= 1
        with pytest.raises(CorruptData, match="checksum or length"):
            decode(bytes(damaged), engine)


def test_codec_members_with_zero_bytes_between_and_behind_read_whole(engine: str) -> None:
    blob = gzip.compress(SAMPLE) + bytes(9000) + gzip.compress(b"two") + bytes(513)
    for size in (1, 1000, 1 << 16):
        assert decode(blob, engine, size) == SAMPLE + b"two"
    with pytest.raises(CorruptData):
        decode(bytes(512) + blob, engine)


def test_codec_every_cut_and_every_bit_flip_behaves_alike_on_every_engine() -> None:
    blob = with_all_header_fields()
    for bit in range(0, len(blob) * 8, STRIDE):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        outcomes = set()
        for engine in ENGINES:
            try:
                outcomes.add(decode(bytes(damaged), engine))
            except CorruptData:
                outcomes.add(None)
        assert outcomes in ({None}, {SAMPLE}), f"bit {bit % 8} of byte {bit // 8}"


def test_goal_15_truncation_is_detected_at_every_byte(engine: str) -> None:
    blobs = (through(Gzip().encoder(), [SAMPLE]), with_all_header_fields(), gzip.compress(b""))
    before = gzip.compress(b"a whole member before it")
    cut_everywhere(lambda blob, size: decode(blob, engine, size), blobs, before)


def test_goal_16_no_flipped_bit_of_what_we_write_is_silent(engine: str) -> None:
    flip_every_bit(lambda data: through(Gzip().encoder(), [data]), lambda blob: decode(blob, engine))


BOMB = """
import sys
from omnistorage.compression import codec
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
name, options, path, size = sys.argv[1], eval(sys.argv[2]), sys.argv[3], int(sys.argv[4])
warm = codec(name, **options)
blob = b"".join([*(e := warm.encoder()).feed(b"warm"), *e.finish()])
d = warm.decoder(); list(d.feed(blob)); list(d.finish())
blob = open(path, "rb").read()
before, made, d = peak(), 0, warm.decoder()
for at in range(0, len(blob), size):
    for out in d.feed(blob[at : at + size]):
        made += len(out)
for out in d.finish():
    made += len(out)
print(made, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux")
@pytest.mark.parametrize("kind", ["zeros", "empty members", "wide in narrow"])
def test_goal_17_bombs_stay_within_32_mib(tmp_path, kind: str, engine: str) -> None:  # type: ignore[no-untyped-def]
    if kind == "zeros":
        size, blob = OUTPUT, gzip.compress(bytes(OUTPUT), 9)
    elif kind == "empty members":
        size, blob = 0, gzip.compress(b"") * MEMBERS
    else:  # the input is large and so is the output
        size, blob = 128 * 500_000, gzip.compress(bytes(500_000), 9) * 128
    (tmp_path / "bomb").write_bytes(blob)
    options = repr({"level": 1, "engine": engine})
    run = subprocess.run(
        [sys.executable, "-c", BOMB, "gzip", options, str(tmp_path / "bomb"), str(1 << 20)],
        capture_output=True,
        text=True,
        check=True,
    )
    made, grown = map(int, run.stdout.split())
    assert made == size
    assert grown <= 32 * 1024, f"{grown} KiB"


def test_goal_17_a_limit_stops_a_bomb_within_a_mib(engine: str) -> None:
    blob = gzip.compress(bytes(64 << 20), 9)
    for limit, bound in (({"max_output": 1 << 20}, 1 << 20), ({"max_ratio": 100.0}, 16 << 20)):
        decoder, made = Limit(reader(engine).decoder(), **limit), 0  # type: ignore[arg-type]
        with pytest.raises(CorruptData, match="raise the limit"):
            for out in decoder.feed(blob):
                made += len(out)
        assert made <= bound + MAX_CHUNK


@pytest.mark.ci_only
def test_goal_18_a_million_empty_members_take_under_ten_seconds() -> None:
    blob = gzip.compress(b"", mtime=0) * 1_000_000
    start = time.process_time()
    assert through(Gzip().decoder(), pieces(blob, [1 << 20])) == b""
    assert time.process_time() - start < 10


# Interoperation.


def test_python_gzip_reads_what_we_write_and_we_read_what_it_writes(engine: str) -> None:
    for level in (0, 1, 3):
        assert gzip.decompress(through(Gzip(level, engine).encoder(), pieces(SAMPLE * 50, [999]))) == SAMPLE * 50
    for level in range(10):
        assert decode(gzip.compress(SAMPLE * 50, level), engine) == SAMPLE * 50


@pytest.mark.skipif(shutil.which("gzip") is None, reason="no gzip program")
def test_the_gzip_program_reads_what_we_write_and_we_read_what_it_writes(tmp_path, engine: str) -> None:  # type: ignore[no-untyped-def]
    blob = through(Gzip(1, engine).encoder(), [SAMPLE]) + through(Gzip().encoder(), [b"second member"])
    run = subprocess.run(["gzip", "-dc"], input=blob, capture_output=True, check=True)
    assert run.stdout == SAMPLE + b"second member"
    assert subprocess.run(["gzip", "-t"], input=blob, capture_output=True, check=True).stderr == b""
    (tmp_path / "named.txt").write_bytes(SAMPLE * 1000)
    subprocess.run(["gzip", "-9", str(tmp_path / "named.txt")], check=True)
    assert decode((tmp_path / "named.txt.gz").read_bytes(), engine, 5) == SAMPLE * 1000
