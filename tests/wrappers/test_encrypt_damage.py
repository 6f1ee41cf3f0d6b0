"""Encrypt notices whatever is done to what is stored: in the whole, and in every range that touches it."""

import pickle

import pytest

from omnistorage import BackendUnavailable, ConfigError, CorruptData, Encrypt, MemoryBackend, StorageError
from omnistorage.core import READ, ReadOptions
from omnistorage.testing import Faulty
from omnistorage.testing._kit import payload
from omnistorage.wrappers.base import Wrapper

from .encrypt_spec import encode
from .test_encrypt import Counting

KEY = bytes(range(32))
CHUNK, SEALED, HEADER = 65536, 65552, 80
SMALL = payload(30)
LARGE = payload(3 * CHUNK + 100)
STORED = encode(KEY, LARGE, salt=payload(32, "salt"), prefix=payload(7, "prefix"))
BODY = [STORED[at : at + SEALED] for at in range(HEADER, len(STORED), SEALED)]


def stores(stored):
    """The same object in a store that says its size, and in one that does not."""
    for unsized in (False, True):
        inner = MemoryBackend()
        inner.put_raw("folder/x", stored)
        yield Encrypt(Counting(inner, unsized), KEY)


def read(store, options=READ, block=1 << 20):
    with store.open_reader("folder/x", options) as reader:
        return b"".join(iter(lambda: reader.read(block), b""))


def is_noticed(stored, kinds=CorruptData):
    for store in stores(stored):
        with pytest.raises(kinds) as caught:
            read(store)
        error = caught.value
        assert error.path == "folder/x"
        if isinstance(error, CorruptData):
            assert error.offset is not None
            assert 0 <= error.offset <= len(stored)


def test_an_object_cut_off_at_any_byte_is_noticed():
    stored = encode(KEY, SMALL)
    for size in range(len(stored)):
        is_noticed(stored[:size])


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
def test_an_object_cut_off_around_and_exactly_between_its_chunks_is_noticed(chunks):
    edge = HEADER + chunks * SEALED
    for size in range(edge - 20, edge + 20):
        is_noticed(STORED[:size])


def test_an_object_cut_off_to_nothing_is_not_an_empty_one():
    is_noticed(b"")
    is_noticed(STORED[:HEADER])
    for store in stores(encode(KEY, b"")):
        assert read(store) == b""


def test_every_flipped_bit_is_noticed():
    """In the slot of the key id it may make another, unknown id: an error that names it."""
    stored = encode(KEY, SMALL)
    assert [read(store) for store in stores(stored)] == [SMALL] * 2
    for at in range(len(stored)):
        for bit in range(8):
            flipped = bytearray(stored)
            flipped[at] ^= 1 << bit
            is_noticed(bytes(flipped), (CorruptData, ConfigError) if 8 <= at < 40 else CorruptData)


def test_the_error_says_where_the_damage_is():
    for index in range(4):
        for at in (0, len(BODY[index]) - 1):
            where = HEADER + index * SEALED
            flipped = bytearray(STORED)
            flipped[where + at] ^= 1
            for store in stores(bytes(flipped)):
                with pytest.raises(CorruptData, match=f"chunk {index} does not decrypt") as caught:
                    read(store)
                assert (caught.value.path, caught.value.offset) == ("folder/x", where)
                twin = pickle.loads(pickle.dumps(caught.value))
                assert (str(twin), twin.offset) == (str(caught.value), where)
    for store in stores(STORED[: HEADER + SEALED + 10]):
        with pytest.raises(CorruptData) as caught:
            read(store)
        assert caught.value.offset in (HEADER + SEALED, HEADER + SEALED + 10)


@pytest.mark.parametrize(
    "body",
    [
        [1, 0, 2, 3], [0, 2, 1, 3], [3, 1, 2, 0], [0, 0, 1, 2, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3],
        [0, 2, 3], [0, 1, 3], [0, 1, 2], [3], [0, 3], [0], [0, 1, 2, 3, 0],
    ],
    ids=str,
)  # fmt: skip
def test_reordered_repeated_and_removed_chunks_are_noticed(body):
    is_noticed(STORED[:HEADER] + b"".join(BODY[index] for index in body))


@pytest.mark.parametrize("more", [b"\0", bytes(15), bytes(16), bytes(17), bytes(SEALED), BODY[0], BODY[3]])
def test_appended_bytes_are_noticed(more):
    is_noticed(STORED + more)
    is_noticed(encode(KEY, LARGE[:CHUNK]) + more)
    is_noticed(encode(KEY, b"") + more)


def test_bytes_that_follow_in_the_stream_alone_are_noticed():
    """The size that the store says is right; what it sends is longer."""

    class SaysLess(Counting):
        def _reader(self, reader, path):
            reader._info = reader.info._replace(size=len(STORED))
            return reader

    inner = MemoryBackend()
    inner.put_raw("folder/x", STORED + b"!")
    with pytest.raises(CorruptData, match="something follows") as caught:
        read(Encrypt(SaysLess(inner), KEY))
    assert caught.value.offset == len(STORED)


def test_a_store_that_says_a_wrong_size_is_never_believed():
    class Says(Wrapper):
        size = 0

        def _reader(self, reader, path):
            reader._info = reader.info._replace(size=self.size)
            return reader

    inner = MemoryBackend()
    inner.put_raw("folder/x", STORED)
    says = Says(inner)
    for chunks in range(8):
        for more in (16, 17, 100, SEALED):
            says.size = HEADER + chunks * SEALED + more
            for options in (
                ReadOptions(),
                ReadOptions(2 * CHUNK),
                ReadOptions(9 * CHUNK),
                ReadOptions(CHUNK, 3 * CHUNK),
            ):
                try:
                    got = read(Encrypt(says, KEY), options)
                except CorruptData:
                    continue
                assert got == LARGE[options.offset :][: options.length], (says.size, options)


def test_chunks_of_another_object_are_noticed():
    other = encode(KEY, LARGE, salt=payload(32, "other"), prefix=payload(7, "prefix"))
    assert [read(store) for stored in (STORED, other) for store in stores(stored)] == [LARGE] * 4
    for index in range(4):
        at = HEADER + index * SEALED
        is_noticed(STORED[:at] + other[at : at + SEALED] + STORED[at + SEALED :])
    is_noticed(other[:HEADER] + STORED[HEADER:])
    half = encode(KEY, LARGE, salt=payload(32, "salt"), prefix=payload(7, "another"))
    is_noticed(half[:HEADER] + STORED[HEADER:])


@pytest.mark.parametrize("index", range(4))
def test_a_range_verifies_what_it_gives_and_no_more(index):
    damaged = bytearray(STORED)
    damaged[HEADER + index * SEALED + 99] ^= 1
    for store in stores(bytes(damaged)):
        for chunk in range(4):
            options = ReadOptions(chunk * CHUNK + 5, 20)
            if chunk == index:
                with pytest.raises(CorruptData):
                    read(store, options)
            else:
                assert read(store, options) == LARGE[chunk * CHUNK + 5 :][:20]


def test_a_range_to_the_end_verifies_the_end():
    for size in (HEADER + 3 * SEALED, HEADER + 2 * SEALED, HEADER + 3 * SEALED + 30):
        for store in stores(STORED[:size]):
            for options in (
                ReadOptions(2 * CHUNK + 1),
                ReadOptions(3 * CHUNK),
                ReadOptions(3 * CHUNK + 100),
                ReadOptions(4 * CHUNK, 10),
                ReadOptions(50 * CHUNK),
                ReadOptions(1, 9 * CHUNK),
            ):
                with pytest.raises(CorruptData):
                    read(store, options)


def test_after_damage_a_reader_never_ends_cleanly():
    for store in stores(STORED[:-1]):
        with store.open_reader("folder/x") as reader:
            got = []
            for _ in range(3):
                with pytest.raises(CorruptData):
                    while True:
                        got.append(reader.read(CHUNK))
                        assert got[-1], "an end where there was damage"
            assert b"".join(got) == LARGE[: len(b"".join(got))]


def test_an_error_of_the_store_is_no_damage_and_no_end():
    class Breaks(Faulty):
        def _before(self, op, number):
            if op == "read" and self.log.count("read") == self.at:
                raise BackendUnavailable("dropped", path="folder/x")

    inner = MemoryBackend()
    inner.put_raw("folder/x", STORED)
    for at in range(2, 7):
        breaks = Breaks(inner)
        breaks.at = at
        got = []
        with Encrypt(breaks, KEY).open_reader("folder/x") as reader:
            for _ in range(2):
                with pytest.raises(BackendUnavailable):
                    while True:
                        got.append(reader.read(CHUNK))
                        assert got[-1], "an end where there was an error"
        assert b"".join(got) == LARGE[: len(b"".join(got))], at


@pytest.mark.parametrize(
    ("stored", "what", "offset"),
    [
        (b"plain text that is long enough to hold a header, so that only magic tells" * 2, "not an encrypted", 0),
        (b"OMNIENC\x02" + STORED[8:], "version 2", 7),
        (b"OMNIENC", "cut off in its header", 7),
        (STORED[:8] + bytes(32) + STORED[40:], "no key id", 8),
        (STORED[:8] + b"a b".ljust(32, b"\0") + STORED[40:], "no key id", 8),
        (STORED[:8] + b"a\0b".ljust(32, b"\0") + STORED[40:], "no key id", 8),
        (STORED[:8] + b"\xff".ljust(32, b"\0") + STORED[40:], "no key id", 8),
        (STORED[:79] + b"\x11" + STORED[80:], "another chunk size", 79),
    ],
)  # fmt: skip
def test_what_is_no_encrypted_object_is_called_what_it_is(stored, what, offset):
    for store in stores(stored):
        with pytest.raises(CorruptData, match=what) as caught:
            store.open_reader("folder/x")
        assert (caught.value.path, caught.value.offset) == ("folder/x", offset)


def test_damage_leaves_no_reader_open():
    class Tracks(Wrapper):
        left = 0

        def _reader(self, reader, path):
            self.left += 1
            close = reader.close

            def closed():
                self.left -= 1
                reader.close = close
                close()

            reader.close = closed
            return reader

    for stored in (STORED[:5], b"nothing like it" * 20, STORED):
        inner = MemoryBackend()
        inner.put_raw("x", stored)
        tracks = Tracks(inner)
        for options in (ReadOptions(), ReadOptions(3 * CHUNK, 5), ReadOptions(90 * CHUNK)):
            try:
                with Encrypt(tracks, {"default": KEY}).open_reader("x", options):
                    pass
            except StorageError:
                pass
        assert tracks.left == 0


def test_a_write_that_fails_leaves_nothing():
    class Breaks(Faulty):
        def _before(self, op, number):
            if op == self.op:
                raise BackendUnavailable("no", path="x")

    for op in ("write", "prepare", "close"):
        inner = MemoryBackend()
        inner.put_raw("x", b"old")
        breaks = Breaks(inner)
        breaks.op = op
        with pytest.raises(BackendUnavailable), Encrypt(breaks, KEY).open_writer("x") as writer:
            writer.write(LARGE)
            if op == "prepare":
                writer.prepare()
        assert inner.peek("x") == b"old"
