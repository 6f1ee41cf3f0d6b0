"""The conformance kit for codecs: what ``stages.Codec`` promises, one test per sentence.

class TestBrotli(CodecTests):
        codec = Brotli(quality=5)

``OMNISTORAGE_BUDGET`` chooses how much is tried: ``default`` flips one bit of each byte and tries 20 examples of a
property, ``ci`` flips every bit and tries 200 examples, ``soak`` tries 2,000. Memory is measured with 16 MiB of output
in ``default`` and with 48 MiB otherwise; a decoder may hold 8 MiB.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnistorage.core.stages import MAX_CHUNK, Codec, Stage
from omnistorage.errors import CorruptData, StorageError

BUDGET = os.environ.get("OMNISTORAGE_BUDGET", "default")
if BUDGET not in ("default", "ci", "soak"):
    raise ValueError(f"OMNISTORAGE_BUDGET is {BUDGET!r}; it must be default, ci or soak")
EXAMPLES = {"ci": 200, "soak": 2_000}.get(BUDGET, 20)

# No example database: the examples of one subclass mean nothing to another. Inherited tests have several executors.
_SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],
)


def noise(size: int) -> bytes:
    """Bytes that do not compress, the same in every run."""
    return random.Random(size).randbytes(size)


SAMPLE = b'{"id":1,"text":"streaming, layered"}\n' * 12 + noise(90) + b"the end\n"
"""What most tests compress: something that repeats and something that does not."""

_DATA = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda unit, times: unit * times, st.binary(max_size=20), st.integers(0, 400)),
)
_SIZES = st.lists(st.integers(1, 9) | st.integers(1, 700), min_size=1, max_size=6)


def pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """``data`` cut into pieces of ``sizes``, over and over."""
    cut, at, turn = [], 0, 0
    while at < len(data):
        cut.append(data[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    return cut


def through(stage: Stage[bytes, bytes], chunks: Iterable[bytes]) -> bytes:
    """All that ``stage`` makes of ``chunks``, ``finish`` included."""
    out = [part for chunk in chunks for part in stage.feed(chunk)]
    out += stage.finish()
    return b"".join(out)


class CodecTests:
    """Subclass it, name the subclass ``Test...`` and set ``codec``."""

    codec: ClassVar[Any]
    """The value under test."""
    accepts_zero_padding: ClassVar[bool] = False
    """Zero bytes behind the last member are no garbage."""
    accepts_members: ClassVar[bool] = True
    """Encoded streams one behind the other decode to all their contents; else the second one is garbage."""
    has_checksum: ClassVar[bool] = True
    """Every changed bit is harmless or found. Without, it may change the data, but what is raised is CorruptData."""

    # Helpers.

    def encode(self, data: bytes, sizes: Sequence[int] = (1 << 16,)) -> bytes:
        return through(self.codec.encoder(), pieces(data, sizes))

    def decode(self, blob: bytes, sizes: Sequence[int] = (1 << 16,)) -> bytes:
        return through(self.codec.decoder(), pieces(blob, sizes))

    # What a codec is.

    def test_is_a_codec_with_true_name_suffixes_and_magic(self) -> None:
        codec = self.codec
        assert isinstance(codec, Codec)
        assert codec.name
        assert codec.name == codec.name.lower()
        assert codec.suffixes
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in codec.suffixes)
        assert isinstance(codec.suffixes, tuple)
        assert codec.magic
        assert self.encode(SAMPLE).startswith(codec.magic)
        assert self.encode(b"").startswith(codec.magic)

    def test_is_a_frozen_value_that_compares_prints_and_pickles(self) -> None:
        codec = self.codec
        assert dataclasses.is_dataclass(codec)
        assert not isinstance(codec, type)
        again = dataclasses.replace(codec)
        assert again == codec
        assert hash(again) == hash(codec)
        assert repr(again) == repr(codec)
        assert repr(codec).startswith(type(codec).__qualname__)
        for field in dataclasses.fields(codec):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(codec, field.name, getattr(codec, field.name))
        assert pickle.loads(pickle.dumps(codec)) == codec

    # Round trips.

    @given(data=_DATA, writing=_SIZES, reading=_SIZES)
    @_SETTINGS
    def test_what_was_written_reads_back_in_any_chunking(
        self, data: bytes, writing: list[int], reading: list[int]
    ) -> None:
        assert self.decode(self.encode(data, writing), reading) == data

    def test_what_was_written_reads_back_byte_by_byte(self) -> None:
        assert self.decode(self.encode(SAMPLE, [1]), [1]) == SAMPLE

    def test_nothing_round_trips_as_nothing_and_is_not_nothing_when_encoded(self) -> None:
        blob = self.encode(b"")
        assert blob
        assert self.decode(blob) == b""
        assert self.decode(blob, [1]) == b""

    def test_feeding_no_bytes_changes_nothing(self) -> None:
        encoder, decoder = self.codec.encoder(), self.codec.decoder()
        blob = through(encoder, [b"", SAMPLE, b"", b""])
        assert through(decoder, [b"", blob[:5], b"", blob[5:], b""]) == SAMPLE

    def test_stages_of_one_codec_do_not_know_each_other(self) -> None:
        first, second = self.codec.encoder(), self.codec.encoder()
        one, two = list(first.feed(b"one")), list(second.feed(b"two"))
        one += first.finish()
        two += second.finish()
        left, right = self.codec.decoder(), self.codec.decoder()
        made, other = list(left.feed(b"".join(one))), list(right.feed(b"".join(two)))
        assert b"".join([*made, *left.finish()]) == b"one"
        assert b"".join([*other, *right.finish()]) == b"two"

    def test_members_one_behind_the_other_read_as_one_stream(self) -> None:
        blob = self.encode(b"one") + self.encode(b"") + self.encode(SAMPLE) + self.encode(b"end")
        if not self.accepts_members:
            self.assert_corrupt(blob, [1 << 16], "a second member")
            return
        assert self.decode(blob) == b"one" + SAMPLE + b"end"
        assert self.decode(blob, [1]) == b"one" + SAMPLE + b"end"

    # Rules 1 to 3 of stages.

    def test_flush_makes_all_that_was_fed_readable(self) -> None:
        encoder, decoder = self.codec.encoder(), self.codec.decoder()
        for part in (b"first", SAMPLE, b"", b"x"):
            blob = b"".join([*encoder.feed(part), *encoder.flush()])
            assert b"".join([*decoder.feed(blob), *decoder.flush()]) == part
        assert b"".join([*decoder.feed(b"".join(encoder.finish())), *decoder.finish()]) == b""

    def test_no_output_is_larger_than_max_chunk(self) -> None:
        noisy, zeros = (5, 9) if BUDGET == "default" else (10, 36)  # quarters of a chunk
        data = noise(noisy * MAX_CHUNK // 4) + bytes(zeros * MAX_CHUNK // 4) + SAMPLE
        encoder, decoder = self.codec.encoder(), self.codec.decoder()
        blob = [*encoder.feed(data), *encoder.flush(), *encoder.finish()]
        assert max(map(len, blob)) <= MAX_CHUNK
        out = [*decoder.feed(b"".join(blob)), *decoder.finish()]
        assert max(map(len, out)) <= MAX_CHUNK
        assert b"".join(out) == data

    def test_no_output_is_made_before_it_is_asked_for(self) -> None:
        chunks = 48 if BUDGET != "default" else 16
        size = chunks * MAX_CHUNK
        encoder = self.codec.encoder()
        blob = b"".join([*(out for _ in range(chunks) for out in encoder.feed(bytes(MAX_CHUNK))), *encoder.finish()])
        decoder, made = self.codec.decoder(), 0
        tracemalloc.start()
        try:
            for out in decoder.feed(blob):
                made += len(out)
                assert not out.strip(b"\0")
            made += sum(map(len, decoder.finish()))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert made == size
        assert peak < 8 * MAX_CHUNK, f"{peak} bytes were held for {size} bytes of output"

    def test_a_stage_with_unread_output_is_poisoned(self) -> None:
        blob = self.encode(noise(100_000))
        for stage, item in ((self.codec.encoder(), SAMPLE), (self.codec.decoder(), blob)):
            stage.feed(item)
            self.assert_refuses(stage)
        decoder = self.codec.decoder()
        assert next(iter(decoder.feed(blob)))
        self.assert_refuses(decoder)
        encoder = self.codec.encoder()
        list(encoder.feed(SAMPLE))
        assert next(iter(encoder.flush()))
        self.assert_refuses(encoder)

    def test_a_stage_that_raised_is_poisoned(self) -> None:
        decoder = self.codec.decoder()
        with pytest.raises(CorruptData):
            list(decoder.feed(b"this is not an encoded stream, and too long to be the beginning of one"))
        self.assert_refuses(decoder)

    def test_nothing_may_be_called_after_finish(self) -> None:
        blob = self.encode(SAMPLE)
        for stage, item in ((self.codec.encoder(), SAMPLE), (self.codec.decoder(), blob)):
            through(stage, [item])
            self.assert_refuses(stage)

    def assert_refuses(self, stage: Stage[bytes, bytes]) -> None:
        with pytest.raises(StorageError):
            list(stage.feed(b"x"))
        with pytest.raises(StorageError):
            list(stage.flush())
        with pytest.raises(StorageError):
            list(stage.finish())

    # Damage.

    def assert_corrupt(self, blob: bytes, sizes: Sequence[int], what: str) -> None:
        try:
            self.decode(blob, sizes)
        except CorruptData:
            return
        pytest.fail(f"{what} was not noticed")

    def test_a_cut_at_any_byte_raises_corrupt_data(self) -> None:
        blob = self.encode(SAMPLE)
        for sizes in ([len(blob)], [1]):
            for end in range(len(blob)):
                self.assert_corrupt(blob[:end], sizes, f"a cut to {end} of {len(blob)} bytes")

    def test_a_flipped_bit_is_never_silent(self) -> None:
        blob = self.encode(SAMPLE)
        every_bit = range(len(blob) * 8)
        one_of_each_byte = [at * 8 + at % 8 for at in range(len(blob))]
        for bit in one_of_each_byte if BUDGET == "default" else every_bit:
            damaged = bytearray(blob)
            damaged[bit // 8] ^= 1 << bit % 8
            try:
                data = self.decode(bytes(damaged))
            except CorruptData:
                continue
            assert data == SAMPLE or not self.has_checksum, (
                f"bit {bit % 8} of byte {bit // 8} changed the data silently"
            )

    def test_garbage_behind_the_end_raises_corrupt_data(self) -> None:
        blob = self.encode(SAMPLE)
        for garbage in (b"x", b"\xff\xff\xff", b"\n", noise(200), SAMPLE, self.codec.magic):
            for sizes in ([1 << 16], [len(blob)], [1]):
                self.assert_corrupt(blob + garbage, sizes, f"{garbage[:20]!r} behind the end")

    def test_zero_bytes_behind_the_end_are_what_the_kit_was_told(self) -> None:
        blob = self.encode(SAMPLE)
        for zeros in (1, 8, 5000):
            for sizes in ([1 << 16], [1]):
                if self.accepts_zero_padding:
                    assert self.decode(blob + bytes(zeros), sizes) == SAMPLE
                    self.assert_corrupt(blob + bytes(zeros) + b"x", sizes, "garbage behind the zero bytes")
                else:
                    self.assert_corrupt(blob + bytes(zeros), sizes, f"{zeros} zero bytes behind the end")

    def test_a_stream_of_no_bytes_raises_corrupt_data(self) -> None:
        for chunks in ([], [b""]):
            with pytest.raises(CorruptData):
                through(self.codec.decoder(), chunks)

    @given(garbage=st.binary(max_size=200), sizes=_SIZES, start=st.booleans(), at=st.integers(0, 1000))
    @_SETTINGS
    def test_only_corrupt_data_escapes_from_random_bytes(
        self, garbage: bytes, sizes: list[int], start: bool, at: int
    ) -> None:
        blob = self.encode(SAMPLE)
        damaged = blob[: at % len(blob)] + garbage if start else garbage
        try:
            self.decode(damaged, sizes)
        except CorruptData:
            pass

    def test_corrupt_data_says_at_which_byte(self) -> None:
        blob = self.encode(SAMPLE)
        for damaged in (b"", blob[:-1], blob + b"garbage!", b"garbage in the first place", blob[: len(blob) // 2]):
            with pytest.raises(CorruptData) as caught:
                self.decode(damaged, [7])
            assert caught.value.offset is not None
            assert 0 <= caught.value.offset <= len(damaged)
