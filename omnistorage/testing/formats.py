"""The conformance kit for record formats: what ``stages.Format`` promises, one test per sentence.

class TestNdjson(FormatTests):
        format = Ndjson()
        limited = Ndjson(max_record=1000)
        records = st.dictionaries(st.text(), st.integers())
        unencodable = ({1, 2},)
        bad = ((b"{nonsense\\n", b"{nonsense"),)

def record_of_size(self, size):
            return "x" * (size - 2)
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import tracemalloc
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnistorage.core.stages import BATCH_RECORDS, Format, Headed, OnBad, Stage
from omnistorage.errors import CorruptData, RecordError, StorageError

from .codecs import EXAMPLES, pieces

_SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],
)
_SIZES = st.lists(st.integers(1, 9) | st.integers(1, 400), min_size=1, max_size=6)
_GARBAGE = st.binary(max_size=300) | st.lists(st.binary(max_size=30), max_size=12).map(b"\n".join)
_LIMIT = 1000
"""``max_record`` of ``FormatTests.limited``."""


class FormatTests:
    """Subclass it, name the subclass ``Test...`` and set the attributes below."""

    format: ClassVar[Any]
    """The value under test, with room for records of some MiB."""
    limited: ClassVar[Any] = None
    """The same with ``max_record=1000``; None if the format has no such limit."""
    records: ClassVar[st.SearchStrategy[Any]]
    """Good records that come back equal."""
    unencodable: ClassVar[Sequence[Any]] = ()
    """Records that ``format`` (``limited``, if there is one) refuses to write."""
    bad: ClassVar[Sequence[tuple[bytes, bytes]]] = ()
    """Bad records as they stand in a stream, framing included, and the ``raw`` each is reported with. They are bad for
    ``limited``, if there is one, else for ``format``."""
    torn_tail: ClassVar[str] = "raises"
    """A stream cut within its last record ``"raises"`` CorruptData, or the rest ``"is a record"``."""
    dropping: ClassVar[Any] = None
    """A value that drops a torn tail; None if there is no such setting."""

    def record_of_size(self, size: int) -> Any:
        """A record whose size, as ``max_record`` counts it, is exactly ``size``, 2 at least."""
        raise TypeError(f"{type(self).__name__} must define record_of_size(self, size)")

    # Helpers.

    @property
    def strict(self) -> Any:
        """The value whose decoder finds ``bad`` bad."""
        return self.limited or self.format

    def samples(self, count: int = 20) -> list[Any]:
        return [self.record_of_size(2 + number % 60) for number in range(count)]

    def encode(self, records: Sequence[Any], fmt: Any = None) -> bytes:
        encoder = (fmt or self.format).encoder()
        return b"".join([*encoder.feed(records), *encoder.finish()])

    def decode(
        self, data: bytes, sizes: Sequence[int] = (1 << 16,), on_bad: OnBad | None = None, fmt: Any = None
    ) -> list[Any]:
        decoder = (fmt or self.format).decoder(on_bad)
        batches = [batch for chunk in pieces(data, sizes) for batch in decoder.feed(chunk)]
        batches += decoder.finish()
        return [record for batch in batches for record in batch]

    # What a format is.

    def test_is_a_format_with_true_name_and_suffixes(self) -> None:
        fmt = self.format
        assert isinstance(fmt, Format)
        assert fmt.name
        assert fmt.name == fmt.name.lower()
        assert isinstance(fmt.suffixes, tuple)
        assert fmt.suffixes
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in fmt.suffixes)

    def test_is_a_frozen_value_that_compares_prints_and_pickles(self) -> None:
        fmt = self.format
        assert dataclasses.is_dataclass(fmt)
        assert not isinstance(fmt, type)
        again = dataclasses.replace(fmt)
        assert again == fmt
        assert hash(again) == hash(fmt)
        assert repr(again) == repr(fmt)
        assert repr(fmt).startswith(type(fmt).__qualname__)
        for field in dataclasses.fields(fmt):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(fmt, field.name, getattr(fmt, field.name))
        assert pickle.loads(pickle.dumps(fmt)) == fmt

    # Round trips.

    @given(data=st.data(), sizes=_SIZES)
    @_SETTINGS
    def test_records_read_back_in_any_chunking(self, data: st.DataObject, sizes: list[int]) -> None:
        records = data.draw(st.lists(self.records, max_size=12))
        assert self.decode(self.encode(records), sizes) == records

    def test_records_read_back_byte_by_byte(self) -> None:
        assert self.decode(self.encode(self.samples()), [1]) == self.samples()

    def test_a_large_record_reads_back_between_small_ones(self) -> None:
        records = [self.record_of_size(size) for size in (5, 300_000, 7, 65_535, 65_536, 65_537, 2)]
        for sizes in ([1 << 16], [1 << 20], [1000]):
            assert self.decode(self.encode(records), sizes) == records

    def test_no_bytes_are_no_records_and_feeding_nothing_changes_nothing(self) -> None:
        assert self.decode(b"") == []
        assert self.encode([]) == b""
        data = self.encode(self.samples())
        decoder = self.format.decoder()
        batches = [batch for chunk in (b"", data[:9], b"", data[9:]) for batch in decoder.feed(chunk)]
        batches += decoder.finish()
        assert [record for batch in batches for record in batch] == self.samples()

    def test_encode_and_feed_write_the_same(self) -> None:
        records = self.samples(50)
        encoder = self.format.encoder()
        single = b"".join(map(encoder.encode, records))
        assert single + b"".join(encoder.finish()) == self.encode(records)
        encoder = self.format.encoder()
        mixed = [encoder.encode(records[0]), *encoder.feed(records[1:30]), *map(encoder.encode, records[30:])]
        assert b"".join([*mixed, *encoder.finish()]) == self.encode(records)

    @pytest.mark.parametrize("count", [0, 1, 7])
    def test_another_encoder_goes_on_behind_what_one_has_written(self, count: int) -> None:
        records, fmt = self.samples(20), self.format
        first = fmt.encoder()
        data = b"".join([*first.feed(records[:count]), *first.flush()])
        begun = json.loads(json.dumps(fmt.begun(first))) if isinstance(fmt, Headed) else None
        behind = fmt if begun is None else fmt.behind(begun)
        assert data + self.encode(records[count:], behind) == self.encode(records)

    def test_flush_makes_all_that_was_fed_readable(self) -> None:
        encoder, decoder = self.format.encoder(), self.format.decoder()
        for part in (self.samples(3), self.samples(40), []):
            data = b"".join([*encoder.feed(part), *encoder.flush()])
            batches = [*decoder.feed(data), *decoder.flush()]
            assert [record for batch in batches for record in batch] == part

    def test_batches_are_lists_of_1_to_256_records(self) -> None:
        records = [self.record_of_size(2 + number % 9) for number in range(3000)]
        decoder = self.format.decoder()
        batches = [*decoder.feed(self.encode(records)), *decoder.finish()]
        assert all(type(batch) is list and 1 <= len(batch) <= BATCH_RECORDS for batch in batches)
        assert [record for batch in batches for record in batch] == records
        assert len(batches) <= 40, "batches are needlessly small"

    def test_stages_of_one_format_do_not_know_each_other(self) -> None:
        records = self.samples(2)
        one, two = (self.encode([record]) for record in records)
        left, right = self.format.decoder(), self.format.decoder()
        first, second = list(left.feed(one[:1])), list(right.feed(two[:1]))
        first += left.feed(one[1:])
        second += right.feed(two[1:])
        assert [*first, *left.finish()] == [records[:1]]
        assert [*second, *right.finish()] == [records[1:]]

    # Rules 2 and 3 of stages.

    def test_a_stage_with_unread_output_is_poisoned(self) -> None:
        decoder = self.format.decoder()
        assert next(iter(decoder.feed(self.encode(self.samples()))))
        self.assert_refuses(decoder, b"x")
        encoder = self.format.encoder()
        encoder.feed(self.samples())
        self.assert_refuses(encoder, self.samples())

    def test_nothing_may_be_called_after_finish(self) -> None:
        encoder, decoder = self.format.encoder(), self.format.decoder()
        data = b"".join([*encoder.feed(self.samples()), *encoder.finish()])
        self.assert_refuses(encoder, self.samples())
        with pytest.raises(StorageError):
            encoder.encode(self.samples()[0])
        assert [*decoder.feed(data), *decoder.finish()]
        self.assert_refuses(decoder, data)

    def assert_refuses(self, stage: Stage[Any, Any], item: Any) -> None:
        with pytest.raises(StorageError):
            list(stage.feed(item))
        with pytest.raises(StorageError):
            list(stage.flush())
        with pytest.raises(StorageError):
            list(stage.finish())

    # Records that cannot be written.

    def test_a_record_that_cannot_be_encoded_raises_record_error_and_does_no_harm(self) -> None:
        encoder, good = self.strict.encoder(), self.samples(4)
        written = []
        for record in self.unencodable:
            with pytest.raises(RecordError) as caught:
                encoder.encode(record)
            assert caught.value.raw
            with pytest.raises(RecordError) as caught:
                list(encoder.feed([*good, record, *good]))
            assert caught.value.raw
            written += [*encoder.feed(good), encoder.encode(good[0])]
        written += encoder.finish()
        assert self.decode(b"".join(written)) == [*good, good[0]] * len(self.unencodable)

    def test_feed_raises_before_any_output(self) -> None:
        for record in self.unencodable:
            outputs = []
            with pytest.raises(RecordError):
                for out in self.strict.encoder().feed([*self.samples(300), record]):
                    outputs.append(out)
            assert outputs == []

    def test_what_it_writes_its_own_reader_accepts(self) -> None:
        if self.limited is None:
            pytest.skip("the format has no max_record")
        largest, larger = self.record_of_size(_LIMIT), self.record_of_size(_LIMIT + 1)
        encoder = self.limited.encoder()
        for write in (encoder.encode, lambda record: list(encoder.feed([self.record_of_size(2), record]))):
            with pytest.raises(RecordError):
                write(larger)
        data = encoder.encode(largest) + b"".join([*encoder.feed([largest]), *encoder.finish()])
        for sizes in ([1 << 16], [1], [999]):
            assert self.decode(data, sizes, fmt=self.limited) == [largest, largest]

    # Records that cannot be read.

    def bad_stream(self, seed: int, count: int) -> tuple[bytes, list[Any], list[tuple[int, int, bytes]]]:
        """A stream with bad records here and there, its good records, and (number, offset, raw) of the bad ones."""
        chance = random.Random(seed)
        data, good, wrong = bytearray(), [], []
        short = [one for one in self.bad if len(one[0]) <= 10_000] or self.bad  # cut to bytes long ones take long
        for number in range(1, count + 1):
            if chance.random() < 0.4:
                segment, raw = chance.choice(short if chance.random() < 0.9 else self.bad)
                wrong.append((number, len(data), raw))
                data += segment
            else:
                record = self.record_of_size(chance.randint(2, 40))
                good.append(record)
                data += self.encode([record])
        return bytes(data), good, wrong

    @given(seed=st.integers(0, 10_000), count=st.integers(1, 30), sizes=_SIZES)
    @_SETTINGS
    def test_bad_records_are_reported_with_number_offset_and_raw_and_no_good_one_is_lost(
        self, seed: int, count: int, sizes: list[int]
    ) -> None:
        if self.bad:
            data, good, wrong = self.bad_stream(seed, count)
            errors: list[RecordError] = []
            assert self.decode(data, sizes, errors.append, self.strict) == good
            assert [(error.number, error.offset, error.raw) for error in errors] == wrong

    def test_many_bad_records_are_reported_and_no_good_one_is_lost(self) -> None:
        if self.bad:
            data, good, wrong = self.bad_stream(1, 5000)
            errors: list[RecordError] = []
            assert self.decode(data, (1 << 16,), errors.append, self.strict) == good
            assert [(error.number, error.offset, error.raw) for error in errors] == wrong

    def test_good_records_come_before_the_bad_one_is_reported(self) -> None:
        good = self.samples(3)
        for segment, _ in self.bad:
            seen: list[Any] = []
            decoder = self.strict.decoder(seen.append)
            for batch in decoder.feed(self.encode(good) + segment + self.encode(good[:1])):
                seen += batch
            for batch in decoder.finish():
                seen += batch
            assert seen[:3] == good
            assert isinstance(seen[3], RecordError)
            assert seen[4:] == good[:1]

    def test_without_on_bad_the_first_bad_record_raises_behind_the_good_ones(self) -> None:
        good = self.samples(3)
        for segment, raw in self.bad:
            start = self.encode(good)
            seen: list[Any] = []
            decoder = self.strict.decoder()
            with pytest.raises(RecordError) as caught:
                for batch in decoder.feed(start + segment + start):
                    seen += batch
            assert seen == good
            assert (caught.value.number, caught.value.offset, caught.value.raw) == (4, len(start), raw)
            self.assert_refuses(decoder, start)

    def test_what_on_bad_raises_comes_out(self) -> None:
        def enough(error: RecordError) -> None:
            raise ZeroDivisionError

        for segment, _ in self.bad:
            decoder = self.strict.decoder(enough)
            with pytest.raises(ZeroDivisionError):
                list(decoder.feed(segment + self.encode(self.samples(1))))
            self.assert_refuses(decoder, b"x")

    def test_an_oversized_record_is_one_bad_record_and_the_rest_goes_on(self) -> None:
        if self.limited is None:
            pytest.skip("the format has no max_record")
        good = self.samples(3)
        for size in (_LIMIT + 1, 3 * _LIMIT, 70_000, 200_000):
            start, large = self.encode(good), self.encode([self.record_of_size(size)])
            for sizes in ([1 << 20], [1 << 16], [777]):
                errors: list[RecordError] = []
                assert self.decode(start + large + start, sizes, errors.append, self.limited) == good + good
                assert [(error.number, error.offset) for error in errors] == [(4, len(start))]
                assert len(errors[0].raw) <= 1 << 16
                with pytest.raises(RecordError):
                    self.decode(start + large + start, sizes, fmt=self.limited)

    def test_an_oversized_record_is_not_held_in_memory(self) -> None:
        if self.limited is None:
            pytest.skip("the format has no max_record")
        chunks = pieces(self.encode([self.record_of_size(12 << 20)]), [1 << 16])
        errors: list[RecordError] = []
        decoder = self.limited.decoder(errors.append)
        tracemalloc.start()
        try:
            for chunk in chunks:
                assert list(decoder.feed(chunk)) == []
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert list(decoder.finish()) == []
        assert len(errors) == 1
        assert peak < 1 << 20, f"{peak} bytes were held with max_record={_LIMIT}"

    # Damage.

    def test_a_torn_tail_is_what_the_kit_was_told(self) -> None:
        good, last = self.samples(3), self.record_of_size(30)
        start, tail = self.encode(good), self.encode([last])
        for end in range(1, len(tail)):
            for sizes in ([1 << 16], [1]):
                seen: list[Any] = []
                error = self.torn(start + tail[:end], sizes, seen)
                assert seen[:3] == good
                if self.torn_tail == "raises":
                    assert isinstance(error, CorruptData) or seen[3:] == [last], f"cut behind {end} bytes"
                    assert error is None or seen[3:] == []
                else:
                    assert error is None
                    assert len(seen) == 4

    def torn(self, data: bytes, sizes: Sequence[int], seen: list[Any]) -> CorruptData | None:
        decoder = self.format.decoder()
        for chunk in pieces(data, sizes):
            for batch in decoder.feed(chunk):
                seen += batch
        try:
            for batch in decoder.finish():
                seen += batch
        except CorruptData as error:
            return error
        return None

    def test_a_torn_tail_is_dropped_when_that_is_asked_for(self) -> None:
        if self.dropping is None:
            pytest.skip("the format cannot drop a torn tail")
        good, last = self.samples(3), self.record_of_size(30)
        start, tail = self.encode(good), self.encode([last])
        for end in range(len(tail) + 1):
            assert self.decode(start + tail[:end], fmt=self.dropping) in (good, [*good, last])
        assert self.decode(start + tail, fmt=self.dropping) == [*good, last]

    @given(garbage=_GARBAGE, sizes=_SIZES, keep=st.integers(0, 200))
    @_SETTINGS
    def test_only_our_errors_escape_from_random_bytes(self, garbage: bytes, sizes: list[int], keep: int) -> None:
        data = self.encode(self.samples(5))[:keep] + garbage
        for fmt in (self.format, self.strict):
            errors: list[RecordError] = []
            for on_bad in (None, errors.append):
                try:
                    self.decode(data, sizes, on_bad, fmt)
                except CorruptData:
                    pass
                except RecordError:
                    assert on_bad is None
            assert all(type(error) is RecordError and error.number for error in errors)
