"""Encrypt: the format, ranges, sizes, and everything that the wrapper says about an object."""

import hashlib
import json
import pathlib
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage import (
    Append,
    BulkDelete,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    Encrypt,
    LocalBackend,
    MemoryBackend,
    ops,
    power,
)
from omnistorage.core import (
    READ,
    WRITE,
    CopyOptions,
    Features,
    Glob,
    ObjectInfo,
    Presign,
    ReadOptions,
    ReadRanges,
    ResumableWrite,
    StaleUploads,
    Versions,
    WriteOptions,
)
from omnistorage.testing import BasicBackend, Chunky
from omnistorage.testing._kit import payload
from omnistorage.wrappers import Prefix
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.encrypt.format import (
    MAX_CHUNKS,
    MAX_SIZE,
    Chunks,
    chunks_of,
    content_size,
    make_header,
    sealed_size,
)
from omnistorage.wrappers.encrypt.streams import EncryptingWriter
from omnistorage.wrappers.streams import WrappedReader

from ..budget import pick
from .encrypt_spec import decode, encode, size_of

KEY = bytes(range(32))
CHUNK = 65536
EDGES = (0, 1, 65535, 65536, 65537, 3 * 65536, 3 * 65536 + 1)
VECTORS = json.loads((pathlib.Path(__file__).parent / "encrypt_vectors.json").read_text())
LARGE = payload(5 * CHUNK + 777, "large")


class Counting(Wrapper):
    """Notes every range that is asked for, and every byte that is given."""

    def __init__(self, inner, unsized=False):
        super().__init__(inner)
        self.asked, self.given, self.unsized = [], 0, unsized

    def open_reader(self, path, options=READ):
        self.asked.append((options.offset, options.length))
        return _Counted(super().open_reader(path, options), self)


class _Counted(WrappedReader):
    def __init__(self, inner, backend):
        super().__init__(inner)
        self.backend = backend

    @property
    def info(self):
        return self.inner.info._replace(size=None) if self.backend.unsized else self.inner.info

    def read(self, size=-1, /):
        data = self.inner.read(size)
        self.backend.given += len(data)
        return data


def get(store, path, offset=0, length=None):
    return ops.read_bytes(store, path, ReadOptions(offset, length))


# -- the format --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_vectors_of_the_specification_are_what_is_written_and_read(vector):
    salt, prefix = bytes.fromhex(vector["salt"]), bytes.fromhex(vector["prefix"])
    given_out = {32: salt, 7: prefix}
    key = bytes.fromhex(vector["key"])
    content = payload(vector["content_size"])
    inner = MemoryBackend()
    store = Encrypt(inner, key, key_id=vector["key_id"], randomness=given_out.__getitem__)
    ops.write_bytes(store, "x", content)
    stored = inner.peek("x")
    assert stored == encode(key, content, vector["key_id"], salt, prefix)
    assert hashlib.sha256(stored).hexdigest() == vector["stored_sha256"]
    if "stored" in vector:
        assert stored.hex() == vector["stored"]
    inner.put_raw("y", encode(key, content, vector["key_id"], salt, prefix))
    assert get(store, "y") == content


def test_the_specification_shows_the_vectors_and_the_sizes_of_the_code():
    page = (pathlib.Path(__file__).parent.parent.parent / "docs/encryption.md").read_text()
    text = "".join(page.split())
    shown = {vector["name"]: vector for vector in VECTORS if vector["name"] in ("one byte", "empty")}
    assert all(f"stored{vector['stored']}" in text for vector in shown.values())
    assert payload(1).hex() in page
    assert f"{MAX_SIZE:,}" in page


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("unsized", [False, True])
def test_objects_around_the_chunks_edges_come_back(size, unsized):
    inner = MemoryBackend()
    store = Encrypt(Counting(inner, unsized), KEY)
    content = LARGE[:size]
    assert ops.write_bytes(store, "x", content).size == size
    assert decode(KEY, inner.peek("x")) == content
    assert len(inner.peek("x")) == size_of(size)
    assert get(store, "x") == content
    for offset in (0, 1, size - 1, size, size + 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 * CHUNK):
        for length in (None, 0, 1, CHUNK, size):
            if offset >= 0:
                stop = None if length is None else offset + length
                assert get(store, "x", offset, length) == content[offset:stop], (offset, length)


def test_two_writes_of_the_same_share_nothing():
    inner = MemoryBackend()
    store = Encrypt(inner, KEY)
    for name in "ab":
        ops.write_bytes(store, name, LARGE)
    a, b = inner.peek("a"), inner.peek("b")
    assert a[:40] == b[:40]
    assert sum(x == y for x, y in zip(a[40:72], b[40:72], strict=True)) < 8
    assert LARGE[:64] not in a
    assert a[80:112] != b[80:112]


@given(st.integers(0, MAX_SIZE))
def test_the_size_of_the_content_follows_from_what_is_stored(size):
    assert content_size(sealed_size(size)) == size
    assert chunks_of(size) <= MAX_CHUNKS


@given(st.integers(0, 4 * 65552 + 200))
def test_a_size_that_no_encrypted_object_has_is_none(stored):
    size = content_size(stored)
    assert size is None or size_of(size) == stored
    if size is None:
        assert stored < 96 or (stored - 80) % 65552 in range(1, 17)


def test_what_cannot_be_encrypted_objects_has_no_size_and_lists_all_the_same():
    inner = MemoryBackend()
    store = Encrypt(inner, KEY)
    inner.put_raw("plain", b"too short for a header")
    ops.write_bytes(store, "x", b"12345")
    assert {info.path: info.size for info in store.list()} == {"plain": None, "x": 5}
    with pytest.raises(CorruptData, match="not an encrypted object") as caught:
        store.open_reader("plain")
    assert (caught.value.path, caught.value.offset) == ("plain", 0)


def test_an_object_beyond_the_largest_is_refused_before_it_is_written():
    inner = MemoryBackend()
    store = Encrypt(inner, KEY)
    with pytest.raises(ConfigError, match="at most 281474976710656 bytes"):
        store.open_writer("x", WriteOptions(size=MAX_SIZE + 1))
    store.open_writer("x", WriteOptions(size=MAX_SIZE)).abort()
    chunks = Chunks(KEY, make_header("default", bytes(32), bytes(7)))
    writer = EncryptingWriter(
        "x", WriteOptions(), "memory", inner.open_writer("x"), chunks, lambda info: info, 3 * CHUNK
    )
    writer.write(LARGE[: 3 * CHUNK])
    with pytest.raises(ConfigError, match="at most"):
        writer.write(b"x")
    with pytest.raises(ConfigError, match="at most"):
        writer.close()
    assert inner.peek("x") is None


def test_a_source_of_too_few_random_bytes_is_refused():
    for randomness in (lambda n: bytes(n - 1), lambda n: bytes(n + 1)):
        with pytest.raises(ConfigError, match="randomness"):
            Encrypt(MemoryBackend(), KEY, randomness=randomness).open_writer("x")


# -- random writes and ranges ------------------------------------------------------------------------------------------

_INNERS = {
    "sized": lambda inner: inner,
    "unsized": lambda inner: Counting(inner, unsized=True),
    "stuttering": lambda inner: Chunky(inner, size=30_011),
    "stuttering and unsized": lambda inner: Counting(Chunky(inner, size=70_001), unsized=True),
}
_positions = st.integers(0, 6 * CHUNK) | st.sampled_from([n * CHUNK + d for n in range(6) for d in (-1, 0, 1)][1:])


@settings(max_examples=pick(default=20, ci=200, soak=2000), deadline=None)
@given(
    st.sampled_from(sorted(_INNERS)),
    st.lists(_positions, max_size=5),
    st.lists(st.tuples(_positions, st.none() | _positions, _positions.filter(bool)), min_size=1, max_size=6),
)
def test_random_writes_and_ranges_are_those_of_plain_bytes(kind, cuts, ranges):
    inner = MemoryBackend()
    store = Encrypt(_INNERS[kind](inner), KEY)
    content = b""
    with store.open_writer("x") as writer:
        for cut in cuts:
            content += LARGE[:cut]
            assert writer.write(bytearray(LARGE[:cut])) == len(LARGE[:cut])
    assert decode(KEY, inner.peek("x")) == content
    assert writer.result.size == len(content)
    for offset, length, block in ranges:
        with store.open_reader("x", ReadOptions(offset, length)) as reader:
            got = b"".join(iter(lambda: reader.read(block), b""))  # noqa: B023
            assert got == content[offset:][:length]
            assert reader.info.size in (len(content), None)


def test_a_byte_at_a_time_is_as_good():
    size = CHUNK + 3
    store = Encrypt(MemoryBackend(), KEY)
    with store.open_writer("x") as writer:
        for at in range(size):
            writer.write(LARGE[at : at + 1])
    with store.open_reader("x") as reader:
        assert b"".join(iter(lambda: reader.read(1), b"")) == LARGE[:size]


# -- what is asked of the inner backend --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length", "chunks"),
    [
        (0, 1, [0]),
        (0, CHUNK, [0]),
        (CHUNK - 1, 2, [0, 1]),
        (CHUNK, 1, [1]),
        (2 * CHUNK + 5, CHUNK, [2, 3]),
        (4 * CHUNK, CHUNK, [4]),
        (3 * CHUNK + 1, None, [3, 4, 5]),
        (5 * CHUNK, 777, [5]),
        (5 * CHUNK + 777, 10, [5]),
        (50 * CHUNK, None, [5]),
        (2 * CHUNK, 0, []),
    ],
)
def test_a_range_asks_for_the_header_and_its_chunks_alone(offset, length, chunks):
    counting = Counting(MemoryBackend())
    store = Encrypt(counting, KEY)
    ops.write_bytes(store, "x", LARGE)
    assert get(store, "x", offset, length) == LARGE[offset:][:length]
    stored = sum(65552 if n < 5 else 777 + 16 for n in chunks)
    assert counting.given in (80 + stored, 80 + stored + 1)
    if not chunks or chunks[0] == 0:
        assert len(counting.asked) == 1, "one request"
    else:
        assert counting.asked[0] == (0, 80)
        assert [at for at, _ in counting.asked[1:]] == [80 + chunks[0] * 65552], "and one more for the header"


def test_a_reader_takes_no_more_than_it_is_asked_for():
    counting = Counting(MemoryBackend())
    store = Encrypt(counting, KEY)
    ops.write_bytes(store, "x", LARGE)
    with store.open_reader("x") as reader:
        assert counting.given == 80
        assert reader.read(10) == LARGE[:10]
        assert counting.given == 80 + 65552
        reader.read(CHUNK)
        reader.read(2 * CHUNK)
        assert counting.given == 80 + 3 * 65552


class Swaps(Wrapper):
    """After each of the first ``times`` openings another object stands there."""

    times = 1

    def open_reader(self, path, options=READ):
        reader = super().open_reader(path, options)
        if self.times:
            self.times -= 1
            self.swap()
        return reader


def test_a_range_of_an_object_that_is_replaced_meanwhile_is_of_one_of_the_two():
    for inner in (MemoryBackend(), Prefix(MemoryBackend(), "p")):
        swaps = Swaps(inner)
        store = Encrypt(swaps, KEY)
        old, new = payload(4 * CHUNK, "old"), payload(4 * CHUNK, "new")
        ops.write_bytes(store, "x", old)
        swaps.swap = lambda inner=inner, new=new: ops.write_bytes(Encrypt(inner, KEY), "x", new)
        assert get(store, "x", 2 * CHUNK + 1, 5) == new[2 * CHUNK + 1 :][:5]
        swaps.times = 100
        with pytest.raises(Exception, match="replaced all the time") as caught:
            get(store, "x", 2 * CHUNK + 1, 5)
        assert caught.value.transient


# -- what is said of an object -----------------------------------------------------------------------------------------


class Hashing(Wrapper):
    """A store that states digests, versions, globs and what was left behind."""

    more = frozenset({Versions, Glob, StaleUploads, BulkDelete})

    def __init__(self, inner):
        super().__init__(inner)
        self.features = Features(**{**vars(self.features), "hashes": frozenset({"md5"})})

    def power_of(self, kind):
        return self if kind in self.more else super().power_of(kind)

    def _forward(self, op, path, run):
        answer = run(path)
        return self._hashed(answer) if isinstance(answer, ObjectInfo) else answer

    def _hashed(self, info):
        return info._replace(hashes={"md5": hashlib.md5(self.inner.peek(info.path)).hexdigest()}, version="v1")

    def list(self, prefix="", options=None):
        return map(self._hashed, super().list(prefix))

    def versions(self, path):
        return iter([self.stat(path)])

    def glob(self, pattern):
        return self.list()

    def stale_uploads(self, prefix="", *, older_than=timedelta(0)):
        return iter([ObjectInfo("stale", 100)])

    def remove_stale_uploads(self, prefix="", *, older_than=timedelta(0)):
        return 1

    def delete_many(self, paths):
        return ((path, None) for path in paths)


def test_sizes_are_those_of_the_content_and_hashes_are_not_told_of_what_is_stored():
    store = Encrypt(Hashing(MemoryBackend()), KEY)
    assert store.features.hashes == frozenset()
    when = datetime(2020, 1, 2, tzinfo=UTC)
    options = WriteOptions(content_type="text/plain", user_metadata={"k": "v"}, modified_at=when, size=CHUNK)
    ops.write_bytes(store, "f/x", LARGE[:CHUNK], options)
    with store.open_reader("f/x") as reader:
        read = reader.info
    told = [
        read,
        store.stat("f/x"),
        *store.list(),
        next(iter(store.list_dir("f"))),
        *store.versions("f/x"),
        *store.glob("f/*"),
        store.copy("f/x", "f/x"),
        store.set_metadata("f/x", modified_at=when),
    ]
    assert [(info.path, info.size, info.hashes) for info in told] == [("f/x", CHUNK, None)] * len(told)
    assert {(info.content_type, info.modified_at, info.metadata["k"]) for info in told} == {("text/plain", when, "v")}
    assert store.stat("f/x").etag == store.inner.stat("f/x").etag
    assert store.stat("f/x").version == "v1"
    assert next(iter(store.list_dir(""))) == ObjectInfo("f", kind="dir")
    assert [info.size for info in store.stale_uploads()] == [100], "what is stored, for there is no content yet"
    assert store.remove_stale_uploads() == 1
    assert store.move("f/x", "f/y").size == CHUNK
    assert list(store.delete_many(["f/y"])) == [("f/y", None)]


def test_powers_that_would_show_or_write_what_is_stored_are_not_there():
    class Everything(Wrapper):
        def power_of(self, kind):
            return self

        _inner_power = power_of

    store = Encrypt(Everything(MemoryBackend()), KEY)
    for kind, call in (
        (Append, lambda: store.open_appender("x")),
        (Presign, lambda: store.presign("x", "GET", timedelta(1))),
        (ResumableWrite, lambda: store.resume_writer("x", {})),
        (ReadRanges, lambda: store.read_ranges("x", [(0, 1)])),
    ):
        assert power(store, kind) is None
        with pytest.raises(CapabilityNotSupported):
            call()
    assert store.features.append is False


@pytest.mark.parametrize("make", [MemoryBackend, BasicBackend])
def test_what_is_expected_is_held_against_the_content(make):
    inner = make()
    store = Encrypt(inner, KEY)
    right = {"sha256": hashlib.sha256(LARGE).hexdigest(), "md5": hashlib.md5(LARGE).hexdigest()}
    ops.write_bytes(store, "x", LARGE, WriteOptions(expect=right, size=len(LARGE)))
    assert get(store, "x") == LARGE
    for options in (WriteOptions(expect={"sha256": "00" * 32}), WriteOptions(size=len(LARGE) + 1)):
        with pytest.raises(CorruptData):
            ops.write_bytes(store, "x", LARGE[:-1], options)
    with pytest.raises(ConfigError):
        store.open_writer("x", WriteOptions(expect={"no-such": "00"}))
    assert get(store, "x") == LARGE


def test_the_size_that_was_told_reaches_the_inner_backend_as_that_of_what_is_stored():
    seen = []

    class Sees(Wrapper):
        def open_writer(self, path, options=WRITE):
            seen.append((options.size, options.expect))
            return super().open_writer(path, options)

    store = Encrypt(Sees(MemoryBackend()), KEY)
    ops.write_bytes(store, "x", b"12345", WriteOptions(size=5, expect={"md5": hashlib.md5(b"12345").hexdigest()}))
    ops.write_bytes(store, "x", b"12345")
    assert seen == [(80 + 16 + 5, None), (None, None)]


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_copy_from_another_place_needs_an_encrypt_with_the_same_keys():
    one, two = MemoryBackend(), MemoryBackend()
    here, there = Encrypt(one, KEY), Encrypt(two, {"default": KEY})
    ops.write_bytes(there, "x", LARGE)
    assert here.copy("x", "y", CopyOptions(source=there)).size == len(LARGE)
    assert one.peek("y") == two.peek("x"), "as it is stored"
    assert here.move("x", "z", CopyOptions(source=there)).size == len(LARGE)
    assert get(here, "z") == LARGE
    ops.write_bytes(there, "x", LARGE)
    others = [two, Encrypt(two, bytes(32)), Encrypt(two, KEY, key_id="b"), Encrypt(two, {"default": KEY, "b": KEY},
              key_id="b"), Prefix(there, "p")]  # fmt: skip
    for source in others:
        for call in (here.copy, here.move):
            with pytest.raises(CapabilityNotSupported) as caught:
                call("x", "no", CopyOptions(source=source))
            assert caught.value.capability == "source"
    assert one.peek("no") is None


def test_copies_between_prefixes_of_it_stay_in_the_store():
    inner = MemoryBackend()
    store = Encrypt(inner, KEY)
    ops.write_bytes(store, "a/x", LARGE)
    Prefix(store, "b").copy("x", "y", CopyOptions(source=Prefix(store, "a")))
    assert inner.peek("b/y") == inner.peek("a/x")


def test_neither_the_inner_backend_nor_other_keys_are_taken_for_the_same_place(tmp_path):
    inner = LocalBackend(tmp_path)
    store, twin = Encrypt(inner, KEY), Encrypt(LocalBackend(tmp_path), KEY)
    other = Encrypt(inner, bytes(32))
    assert ops.same_place(store, twin)
    assert not ops.same_place(store, inner)
    assert not ops.same_place(store, other)
    assert Prefix(store, "a").url == store.url + "a/"
    ops.write_bytes(store, "x", LARGE)
    ops.copy(store, "x", inner, "plain")
    assert (tmp_path / "plain").read_bytes() == LARGE
    ops.copy(inner, "plain", store, "y")
    ops.copy(store, "x", other, "z")
    assert get(store, "y") == get(other, "z") == LARGE
    assert ops.transfer(store, "x", twin, "w").size == len(LARGE)
    assert Encrypt(BasicBackend(), KEY).url is None


def test_memory_stays_bounded_in_both_directions():
    import tracemalloc

    class Endless(BasicBackend):
        """Takes everything and keeps nothing."""

        def open_writer(self, path, options=WRITE):
            writer = super().open_writer(path, options)
            writer.write = lambda data: len(data)
            return writer

    block = LARGE[:CHUNK] * 16
    tracemalloc.start()
    try:
        with Encrypt(Endless(), KEY).open_writer("x") as writer:
            for _ in range(40):
                writer.write(block)
        written = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    inner = MemoryBackend()
    store = Encrypt(inner, KEY)
    ops.write_bytes(store, "x", block * 20)
    tracemalloc.start()
    try:
        with store.open_reader("x") as reader:
            while reader.read(8 << 20):
                pass
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 750_000, f"a writer took {written} bytes"
    assert read < 1_500_000, f"a reader took {read} bytes"


def test_it_pickles_as_configuration_where_its_keys_do(tmp_path, monkeypatch):
    from omnistorage import Secret

    monkeypatch.setenv("OMNISTORAGE_TEST_KEY", KEY.hex())
    store = Encrypt(LocalBackend(tmp_path), Secret.env("OMNISTORAGE_TEST_KEY"))
    ops.write_bytes(store, "x", LARGE)
    text = pickle.dumps(store)
    assert KEY not in text
    assert KEY.hex().encode() not in text
    twin = pickle.loads(text)
    assert get(twin, "x") == LARGE
    assert (twin.url, twin.key_id, twin.features) == (store.url, store.key_id, store.features)
