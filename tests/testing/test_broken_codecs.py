"""The codec kit is as good as what it rejects: each broken codec here fails the test that is named beside it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from omnistorage.compression.gzip import Gzip
from omnistorage.compression.zstd import Zstd
from omnistorage.core.stages import StageBase
from omnistorage.errors import CorruptData
from omnistorage.testing.codecs import CodecTests

CASES: dict[type, str] = {}


def rejected_by(test: str) -> Any:
    def note(cls: type) -> type:
        CASES[cls] = test
        return cls

    return note


class Around(StageBase[bytes, bytes]):
    """A stage around a good one. Subclasses go wrong in one method."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def _feed(self, item: bytes) -> Iterator[bytes]:
        yield from self.inner.feed(item)

    def _flush(self) -> Iterator[bytes]:
        yield from self.inner.flush()

    def _finish(self) -> Iterator[bytes]:
        yield from self.inner.finish()


class Careless:
    """Like ``Around``, but nothing keeps the rules of a stage."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.inner = make()

    def _again(self, outputs: Iterable[bytes]) -> Iterable[bytes]:
        return outputs

    def feed(self, item: bytes) -> Iterable[bytes]:
        return self._again(self.inner.feed(item))

    def flush(self) -> Iterable[bytes]:
        return self._again(self.inner.flush())

    def finish(self) -> Iterable[bytes]:
        return self._again(self.inner.finish())


@dataclass(frozen=True)
class Good:
    """Right in everything; the broken ones differ from it in one thing."""

    name: ClassVar[str] = "good"
    suffixes: ClassVar[tuple[str, ...]] = (".good",)
    magic: ClassVar[bytes] = Zstd.magic
    level: int = 1

    def encoder(self) -> Any:
        return Around(Zstd(self.level).encoder())

    def decoder(self) -> Any:
        return Around(Zstd().decoder())


# What a codec is.


@rejected_by("test_is_a_codec_with_true_name_suffixes_and_magic")
@dataclass(frozen=True)
class FalseMagic(Good):
    magic: ClassVar[bytes] = b"GOOD"


@rejected_by("test_is_a_codec_with_true_name_suffixes_and_magic")
@dataclass(frozen=True)
class SuffixWithoutDot(Good):
    suffixes: ClassVar[tuple[str, ...]] = ("good",)


@rejected_by("test_is_a_codec_with_true_name_suffixes_and_magic")
@dataclass(frozen=True)
class Nameless(Good):
    name: ClassVar[str] = ""


@rejected_by("test_is_a_frozen_value_that_compares_prints_and_pickles")
@dataclass(unsafe_hash=True)
class Changeable:
    name: ClassVar[str] = "changeable"
    suffixes: ClassVar[tuple[str, ...]] = (".good",)
    magic: ClassVar[bytes] = Zstd.magic
    level: int = 1
    encoder = Good.encoder
    decoder = Good.decoder


@rejected_by("test_is_a_frozen_value_that_compares_prints_and_pickles")
@dataclass(frozen=True, eq=False)
class OnlyItselfIsEqual(Good):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@rejected_by("test_is_a_frozen_value_that_compares_prints_and_pickles")
@dataclass(frozen=True)
class HoldsALibraryHandle(Good):
    handle: Any = field(default_factory=zlib.compressobj, compare=False)


# Round trips.


@rejected_by("test_what_was_written_reads_back_byte_by_byte")
@dataclass(frozen=True)
class WantsTheHeaderInOneChunk(Good):
    class Decoder(Around):
        first = True

        def _feed(self, item: bytes) -> Iterator[bytes]:
            if self.first and item:
                self.first = False
                if not item.startswith(Zstd.magic):
                    raise CorruptData("no magic", offset=0)
            yield from self.inner.feed(item)

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_what_was_written_reads_back_in_any_chunking")
@dataclass(frozen=True)
class ForgetsSmallChunks(Good):
    class Encoder(Around):
        def _feed(self, item: bytes) -> Iterator[bytes]:
            if len(item) > 2:
                yield from self.inner.feed(item)

    def encoder(self) -> Any:
        return self.Encoder(Zstd().encoder())


@rejected_by("test_nothing_round_trips_as_nothing_and_is_not_nothing_when_encoded")
@dataclass(frozen=True)
class WritesNothingForNothing(Good):
    class Encoder(Around):
        fed = 0

        def _feed(self, item: bytes) -> Iterator[bytes]:
            self.fed += len(item)
            yield from self.inner.feed(item)

        def _finish(self) -> Iterator[bytes]:
            return self.inner.finish() if self.fed else iter(())  # type: ignore[no-any-return]

    def encoder(self) -> Any:
        return self.Encoder(Zstd().encoder())


@rejected_by("test_feeding_no_bytes_changes_nothing")
@dataclass(frozen=True)
class EndsAtAnEmptyChunk(Good):
    class Decoder(Around):
        ended = False

        def _feed(self, item: bytes) -> Iterator[bytes]:
            self.ended = self.ended or not item
            return iter(()) if self.ended else self.inner.feed(item)  # type: ignore[no-any-return]

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_stages_of_one_codec_do_not_know_each_other")
@dataclass(frozen=True)
class SharesItsBuffer(Good):
    class Encoder(Around):
        held = bytearray()

        def _feed(self, item: bytes) -> Iterator[bytes]:
            self.held += item
            return iter(())

        def _finish(self) -> Iterator[bytes]:
            yield from self.inner.feed(bytes(self.held))
            self.held.clear()
            yield from self.inner.finish()

    def encoder(self) -> Any:
        return self.Encoder(Zstd().encoder())


@rejected_by("test_members_one_behind_the_other_read_as_one_stream")
@dataclass(frozen=True)
class ReadsTheFirstMemberOnly(Good):
    class Decoder(Around):
        def __init__(self, _: Any) -> None:
            import zstandard

            self.inner = zstandard.ZstdDecompressor().decompressobj()

        def _feed(self, item: bytes) -> Iterator[bytes]:
            if not self.inner.eof:
                yield self.inner.decompress(item)

        def _flush(self) -> Iterator[bytes]:
            return iter(())

        _finish = _flush

    def decoder(self) -> Any:
        return self.Decoder(None)


# The rules of stages.


@rejected_by("test_flush_makes_all_that_was_fed_readable")
@dataclass(frozen=True)
class FlushesNothing(Good):
    class Encoder(Around):
        def _flush(self) -> Iterator[bytes]:
            return iter(())

    def encoder(self) -> Any:
        return self.Encoder(Zstd().encoder())


@rejected_by("test_no_output_is_larger_than_max_chunk")
@dataclass(frozen=True)
class MakesOneLargeOutput(Good):
    class Decoder(Around):
        def _feed(self, item: bytes) -> Iterator[bytes]:
            yield b"".join(self.inner.feed(item))

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_no_output_is_made_before_it_is_asked_for")
@dataclass(frozen=True)
class MakesAllOutputAtOnce(Good):
    class Decoder(Around):
        def _feed(self, item: bytes) -> Iterator[bytes]:
            yield from list(self.inner.feed(item))

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_a_stage_with_unread_output_is_poisoned")
@dataclass(frozen=True)
class ReadsItselfToTheEnd(Good):
    class Stage(Careless):
        def _again(self, outputs: Iterable[bytes]) -> Iterable[bytes]:
            return list(outputs)

    def decoder(self) -> Any:
        return self.Stage(Zstd().decoder)


@rejected_by("test_a_stage_that_raised_is_poisoned")
@dataclass(frozen=True)
class StartsAgainAfterAnError(Good):
    class Stage(Careless):
        def _again(self, outputs: Iterable[bytes]) -> Iterable[bytes]:
            try:
                yield from outputs
            except CorruptData:
                self.inner = self.make()
                raise

    def decoder(self) -> Any:
        return self.Stage(Zstd().decoder)


@rejected_by("test_nothing_may_be_called_after_finish")
@dataclass(frozen=True)
class StartsAgainAfterFinish(Good):
    class Stage(Careless):
        def finish(self) -> Iterable[bytes]:
            yield from self.inner.finish()
            self.inner = self.make()

    def encoder(self) -> Any:
        return self.Stage(Zstd().encoder)


# Damage.


class Forgiving(Around):
    """Takes an error at the end for the end."""

    def _finish(self) -> Iterator[bytes]:
        try:
            yield from self.inner.finish()
        except CorruptData:
            return


@rejected_by("test_a_cut_at_any_byte_raises_corrupt_data")
@dataclass(frozen=True)
class TakesACutForTheEnd(Good):
    def decoder(self) -> Any:
        return Forgiving(Zstd().decoder())


@rejected_by("test_a_stream_of_no_bytes_raises_corrupt_data")
@dataclass(frozen=True)
class TakesNoBytesForAnEmptyStream(Good):
    class Decoder(Forgiving):
        fed = 0

        def _feed(self, item: bytes) -> Iterator[bytes]:
            self.fed += len(item)
            yield from self.inner.feed(item)

        def _finish(self) -> Iterator[bytes]:
            return self.inner.finish() if self.fed else iter(())  # type: ignore[no-any-return]

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_a_flipped_bit_is_never_silent")
@dataclass(frozen=True)
class WritesNoChecksum(Good):
    def encoder(self) -> Any:
        return Zstd(checksum=False).encoder()


@rejected_by("test_garbage_behind_the_end_raises_corrupt_data")
@dataclass(frozen=True)
class IgnoresGarbage(Good):
    class Decoder(Around):
        def _feed(self, item: bytes) -> Iterator[bytes]:
            try:
                yield from self.inner.feed(item)
            except CorruptData as error:
                if "behind the last" not in str(error):
                    raise
                self.inner.finish = self.inner.feed = self.inner.flush = lambda *_: ()

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_zero_bytes_behind_the_end_are_what_the_kit_was_told")
@dataclass(frozen=True)
class TakesZerosForPadding(Gzip):
    pass


@rejected_by("test_only_corrupt_data_escapes_from_random_bytes")
@dataclass(frozen=True)
class LeaksTheErrorOfItsLibrary(Good):
    class Decoder(Around):
        def _feed(self, item: bytes) -> Iterator[bytes]:
            try:
                yield from self.inner.feed(item)
            except CorruptData as error:
                raise zlib.error(str(error)) from error

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


@rejected_by("test_corrupt_data_says_at_which_byte")
@dataclass(frozen=True)
class DoesNotSayWhere(Good):
    class Decoder(Around):
        def _finish(self) -> Iterator[bytes]:
            try:
                yield from self.inner.finish()
            except CorruptData as error:
                raise CorruptData(str(error)) from None

    def decoder(self) -> Any:
        return self.Decoder(Zstd().decoder())


class TestGood(CodecTests):
    """The broken ones are broken in one thing only because this one passes."""

    codec = Good()


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
    suite = type(f"Suite{broken.__name__}", (CodecTests,), {"codec": broken()})()
    error = outcome(getattr(suite, CASES[broken]))
    assert error is not None, f"{CASES[broken]} passes"
    assert not isinstance(error, AttributeError | NotImplementedError | ImportError | pytest.skip.Exception)


def test_there_are_enough_broken_codecs() -> None:
    assert len(CASES) >= 15
