"""The format kit is as good as what it rejects: each broken format here fails the test that is named beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st

from omnistorage.core.stages import StageBase
from omnistorage.errors import CorruptData, RecordError
from omnistorage.formats.ndjson import Ndjson
from omnistorage.testing.formats import FormatTests

CASES: dict[type, str] = {}


def rejected_by(test: str) -> Callable[[type], type]:
    def note(cls: type) -> type:
        CASES[cls] = test
        return cls

    return note


class Encoder:
    """Around a good encoder. Subclasses go wrong in one method."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.inner = Ndjson(settings.max_record).encoder()

    def encode(self, record: Any) -> bytes:
        return self.inner.encode(record)

    def feed(self, item: Sequence[Any]) -> Iterable[bytes]:
        return self.inner.feed(item)

    def flush(self) -> Iterable[bytes]:
        return self.inner.flush()

    def finish(self) -> Iterable[bytes]:
        return self.inner.finish()


class Decoder(StageBase[bytes, list[Any]]):
    """Around a good decoder. Subclasses go wrong in one method."""

    def __init__(self, settings: Any, on_bad: Any) -> None:
        self.on_bad = on_bad
        self.inner: Any = Ndjson(settings.max_record, settings.allow_partial_tail).decoder(self.noticing(on_bad))

    def noticing(self, on_bad: Any) -> Any:
        return on_bad

    def _feed(self, item: bytes) -> Iterator[list[Any]]:
        yield from self.inner.feed(item)

    def _flush(self) -> Iterator[list[Any]]:
        yield from self.inner.flush()

    def _finish(self) -> Iterator[list[Any]]:
        yield from self.inner.finish()


@dataclass(frozen=True)
class Good:
    """Right in everything; the broken ones differ from it in one thing."""

    Encoder: ClassVar[Any] = Encoder
    Decoder: ClassVar[Any] = Decoder
    name: ClassVar[str] = "good"
    suffixes: ClassVar[tuple[str, ...]] = (".good",)
    max_record: int = 16 << 20
    allow_partial_tail: bool = False

    def encoder(self) -> Any:
        return self.Encoder(self)

    def decoder(self, on_bad: Any = None) -> Any:
        return self.Decoder(self, on_bad)


class Suite(FormatTests):
    records = st.one_of(st.integers(-9, 9), st.text("abc", max_size=9), st.lists(st.booleans(), max_size=3))
    unencodable = ({1, 2}, b"1\n2", b"{", "x" * 2000)
    bad = ((b"{nonsense\n", b"{nonsense"), (b"[1,\n", b"[1,"), (b"x" * 1001 + b"\n", b"x" * 1001))

    def record_of_size(self, size: int) -> str:
        return "x" * (size - 2)


class TestGood(Suite):
    """The broken ones are broken in one thing only because this one passes."""

    format = Good()
    limited = Good(1000)
    dropping = Good(allow_partial_tail=True)


# What a format is.


@rejected_by("test_is_a_format_with_true_name_and_suffixes")
@dataclass(frozen=True)
class SuffixInCapitals(Good):
    suffixes: ClassVar[tuple[str, ...]] = (".GOOD",)


@rejected_by("test_is_a_format_with_true_name_and_suffixes")
@dataclass(frozen=True)
class SuffixesAreOneString(Good):
    suffixes: ClassVar[Any] = ".good"


@rejected_by("test_is_a_frozen_value_that_compares_prints_and_pickles")
@dataclass(frozen=True)
class HoldsALock(Good):
    lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)


@rejected_by("test_is_a_frozen_value_that_compares_prints_and_pickles")
@dataclass(frozen=True)
class PrintsNothing(Good):
    def __repr__(self) -> str:
        return "<format>"


# Round trips.


@rejected_by("test_records_read_back_in_any_chunking")
@dataclass(frozen=True)
class TakesAChunkForALine(Good):
    class Decoder(Decoder):
        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            if item:
                yield from self.inner.feed(item if item.endswith(b"\n") else item + b"\n")


@rejected_by("test_records_read_back_in_any_chunking")
@dataclass(frozen=True)
class DropsFalseRecords(Good):
    class Decoder(Decoder):
        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            for batch in self.inner.feed(item):
                if good := [record for record in batch if record]:
                    yield good


@rejected_by("test_a_large_record_reads_back_between_small_ones")
@dataclass(frozen=True)
class CannotReadBeyond64KiB(Good):
    def decoder(self, on_bad: Any = None) -> Any:
        return Ndjson(min(self.max_record, 65_536)).decoder(on_bad)


@rejected_by("test_no_bytes_are_no_records_and_feeding_nothing_changes_nothing")
@dataclass(frozen=True)
class WritesALineForNothing(Good):
    class Encoder(Encoder):
        def feed(self, item: Sequence[Any]) -> Iterable[bytes]:
            return self.inner.feed(item) if item else [b"null\n"]


@rejected_by("test_encode_and_feed_write_the_same")
@dataclass(frozen=True)
class EncodesWithSpaces(Good):
    class Encoder(Encoder):
        def encode(self, record: Any) -> bytes:
            return self.inner.encode(record)[:-1] + b" \n"


@rejected_by("test_another_encoder_goes_on_behind_what_one_has_written")
@dataclass(frozen=True)
class BeginsWithALineOfItsOwn(Good):
    class Encoder(Encoder):
        begun = False

        def feed(self, item: Sequence[Any]) -> Iterable[bytes]:
            head, self.begun = (() if self.begun or not item else (b"0\n",)), True
            return [*head, *self.inner.feed(item)]


@rejected_by("test_flush_makes_all_that_was_fed_readable")
@dataclass(frozen=True)
class WritesAtTheEndOnly(Good):
    class Encoder(Encoder):
        def feed(self, item: Sequence[Any]) -> Iterable[bytes]:
            self.held = getattr(self, "held", b"") + b"".join(self.inner.feed(item))
            return []

        def finish(self) -> Iterable[bytes]:
            return [getattr(self, "held", b""), *self.inner.finish()]


@rejected_by("test_batches_are_lists_of_1_to_256_records")
@dataclass(frozen=True)
class MakesOneLargeBatch(Good):
    class Decoder(Decoder):
        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            if batch := [record for batch in self.inner.feed(item) for record in batch]:
                yield batch


@rejected_by("test_batches_are_lists_of_1_to_256_records")
@dataclass(frozen=True)
class MakesABatchOfEachRecord(Good):
    class Decoder(Decoder):
        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            for batch in self.inner.feed(item):
                yield from ([record] for record in batch)


@rejected_by("test_stages_of_one_format_do_not_know_each_other")
@dataclass(frozen=True)
class SharesItsRest(Good):
    class Decoder(Decoder):
        rest = bytearray()

        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            self.rest += item
            end = self.rest.rfind(b"\n") + 1
            whole = bytes(self.rest[:end])
            del self.rest[:end]
            yield from self.inner.feed(whole)


# The rules of stages.


@rejected_by("test_a_stage_with_unread_output_is_poisoned")
@dataclass(frozen=True)
class ReadsItselfToTheEnd(Good):
    class Encoder(Encoder):
        def feed(self, item: Sequence[Any]) -> Iterable[bytes]:
            return list(self.inner.feed(item))


@rejected_by("test_nothing_may_be_called_after_finish")
@dataclass(frozen=True)
class EncodesAfterFinish(Good):
    class Encoder(Encoder):
        def encode(self, record: Any) -> bytes:
            return Ndjson(self.settings.max_record).encoder().encode(record)


# Records that cannot be written.


@rejected_by("test_a_record_that_cannot_be_encoded_raises_record_error_and_does_no_harm")
@dataclass(frozen=True)
class IsPoisonedByARecord(Good):
    class Encoder(Encoder):
        def encode(self, record: Any) -> bytes:
            try:
                return self.inner.encode(record)
            except RecordError:
                list(self.inner.finish())
                raise


@rejected_by("test_a_record_that_cannot_be_encoded_raises_record_error_and_does_no_harm")
@dataclass(frozen=True)
class LeaksTheErrorOfItsLibrary(Good):
    class Encoder(Encoder):
        def encode(self, record: Any) -> bytes:
            try:
                return self.inner.encode(record)
            except RecordError as error:
                raise TypeError(str(error)) from error


@rejected_by("test_a_record_that_cannot_be_encoded_raises_record_error_and_does_no_harm")
@dataclass(frozen=True)
class LetsNewlinesThrough(Good):
    class Encoder(Encoder):
        def encode(self, record: Any) -> bytes:
            return record + b"\n" if isinstance(record, bytes) else self.inner.encode(record)


@rejected_by("test_feed_raises_before_any_output")
@dataclass(frozen=True)
class WritesTheGoodHalfOfABatch(Good):
    class Encoder(Encoder):
        def feed(self, item: Sequence[Any]) -> Iterable[bytes]:
            yield from map(self.inner.encode, item)


@rejected_by("test_what_it_writes_its_own_reader_accepts")
@dataclass(frozen=True)
class WritesMoreThanItReads(Good):
    def encoder(self) -> Any:
        return Encoder(Good())


# Records that cannot be read.


def renumbered(**wrong: Callable[[RecordError], Any]) -> type:
    """A decoder whose reports have something wrong."""

    class Wrong(Decoder):
        def noticing(self, on_bad: Any) -> Any:
            def report(error: RecordError) -> None:
                for name, value in wrong.items():
                    setattr(error, name, value(error))
                if on_bad is None:
                    raise error
                on_bad(error)

            return report

    return Wrong


REPORT = "test_bad_records_are_reported_with_number_offset_and_raw_and_no_good_one_is_lost"


@rejected_by(REPORT)
@dataclass(frozen=True)
class CountsFromZero(Good):
    Decoder: ClassVar[Any] = renumbered(number=lambda error: error.number - 1)


@rejected_by(REPORT)
@dataclass(frozen=True)
class CountsNewlinesTwice(Good):
    Decoder: ClassVar[Any] = renumbered(offset=lambda error: error.offset + error.number - 1)


@rejected_by(REPORT)
@dataclass(frozen=True)
class ShowsTheNewline(Good):
    Decoder: ClassVar[Any] = renumbered(raw=lambda error: error.raw + b"\n")


@rejected_by("test_many_bad_records_are_reported_and_no_good_one_is_lost")
@dataclass(frozen=True)
class LosesTheRestOfTheBlock(Good):
    class Decoder(Decoder):
        def noticing(self, on_bad: Any) -> Any:
            self.lost = False
            return lambda error: (setattr(self, "lost", True), on_bad(error))

        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            self.lost = False
            for batch in self.inner.feed(item):
                if not self.lost:
                    yield batch


@rejected_by("test_good_records_come_before_the_bad_one_is_reported")
@dataclass(frozen=True)
class ReportsTooEarly(Good):
    class Decoder(Decoder):
        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            yield from list(self.inner.feed(item))


@rejected_by("test_without_on_bad_the_first_bad_record_raises_behind_the_good_ones")
@dataclass(frozen=True)
class SkipsSilently(Good):
    class Decoder(Decoder):
        def noticing(self, on_bad: Any) -> Any:
            return on_bad or (lambda error: None)


@rejected_by("test_what_on_bad_raises_comes_out")
@dataclass(frozen=True)
class SwallowsWhatOnBadRaises(Good):
    class Decoder(Decoder):
        def noticing(self, on_bad: Any) -> Any:
            def report(error: RecordError) -> None:
                try:
                    on_bad(error)
                except ZeroDivisionError:
                    pass

            return on_bad and report


@rejected_by("test_an_oversized_record_is_one_bad_record_and_the_rest_goes_on")
@dataclass(frozen=True)
class StopsAtAnOversizedRecord(Good):
    class Decoder(Decoder):
        def noticing(self, on_bad: Any) -> Any:
            def report(error: RecordError) -> None:
                if "max_record" in str(error):
                    raise CorruptData("too long", offset=error.offset)
                on_bad(error)

            return report


@rejected_by("test_an_oversized_record_is_not_held_in_memory")
@dataclass(frozen=True)
class HoldsAnOversizedRecord(Good):
    class Decoder(Decoder):
        def __init__(self, settings: Any, on_bad: Any) -> None:
            super().__init__(settings, on_bad)
            self.held = bytearray()

        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            self.held += item
            end = self.held.rfind(b"\n") + 1
            whole = bytes(self.held[:end])
            del self.held[:end]
            yield from self.inner.feed(whole)


# Damage.


@rejected_by("test_a_torn_tail_is_what_the_kit_was_told")
@dataclass(frozen=True)
class DropsATornTail(Good):
    def decoder(self, on_bad: Any = None) -> Any:
        return Ndjson(self.max_record, allow_partial_tail=True).decoder(on_bad)


@rejected_by("test_a_torn_tail_is_dropped_when_that_is_asked_for")
@dataclass(frozen=True)
class NeverDropsATornTail(Good):
    def decoder(self, on_bad: Any = None) -> Any:
        return Ndjson(self.max_record).decoder(on_bad)


@rejected_by("test_only_our_errors_escape_from_random_bytes")
@dataclass(frozen=True)
class LeaksAValueError(Good):
    class Decoder(Decoder):
        def _feed(self, item: bytes) -> Iterator[list[Any]]:
            try:
                yield from self.inner.feed(item)
            except RecordError as error:
                raise json.JSONDecodeError(str(error), "", 0) from error


def outcome(test: Callable[[], None]) -> BaseException | None:
    """What the test raises; those that draw examples at random get three tries."""
    for _ in range(3):
        try:
            test()
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
            return error
    return None


@pytest.mark.parametrize("broken", CASES, ids=lambda cls: cls.__name__)
def test_the_kit_rejects(broken: type) -> None:
    values = {"format": broken(), "limited": broken(1000), "dropping": broken(allow_partial_tail=True)}
    suite = type(f"Suite{broken.__name__}", (Suite,), values)()
    error = outcome(getattr(suite, CASES[broken]))
    assert error is not None, f"{CASES[broken]} passes"
    assert not isinstance(error, AttributeError | NotImplementedError | ImportError | pytest.skip.Exception)


def test_there_are_enough_broken_formats() -> None:
    assert len(CASES) >= 15
