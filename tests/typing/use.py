"""What type checkers must take, and what they must say of it: mypy in ``scripts/check``, pyright in ``.ci/run``."""

import io
from typing import Any, assert_type

import omnistorage
from omnistorage import (
    BadRecords,
    Csv,
    Gzip,
    LengthPrefixed,
    Lines,
    MultiBackend,
    MultiError,
    Ndjson,
    RecordReader,
    RecordWriter,
    RollingRecordWriter,
    Store,
    Tier,
    TieredBackend,
    Zstd,
    open_records,
    open_store,
)
from omnistorage.core.stages import Codec, Format
from omnistorage.multi import Outcome
from omnistorage.store.files import BinaryReader, BinaryWriter, TextWriter
from omnistorage.sync import Plan, bisync, check, plan, sync


def formats_and_codecs_are_what_their_protocols_say() -> None:
    formats: list[Format[Any]] = [Csv(types={"ok": bool}), Ndjson(default=str), Lines(), LengthPrefixed()]
    codecs: list[Codec] = [Gzip(), Zstd(level=9)]
    for form in formats:
        reader = open_records("a", format=form, compression=codecs[0], on_error="collect")
        assert_type(reader.bad, BadRecords)
    with RollingRecordWriter("folder", "{id}.csv", format=Csv(), compression=Zstd()) as writer:
        writer.write({"a": 1})


def records_are_readers_or_writers_by_the_mode() -> None:
    with open_records("a.ndjson") as reader, open_records("b.ndjson", "w") as writer:
        assert isinstance(reader, RecordReader)
        assert isinstance(writer, RecordWriter)
        open_records("c.csv", on_error=writer)
        open_records("c.csv", on_error=print, max_bad=3)


def files_are_text_or_binary_by_the_mode(store: Store) -> None:
    assert_type(store.open("x"), BinaryReader)
    assert_type(store.open("x", "wb"), BinaryWriter)
    assert_type(store.open("x", "rt", encoding="utf-8"), io.TextIOWrapper)
    assert_type(store.open("x", "w"), TextWriter)
    assert_type(omnistorage.open("x"), BinaryReader)
    assert_type(omnistorage.open("x", "xt"), TextWriter)


def a_function_and_a_module_of_one_name_are_told_apart() -> None:
    assert_type(plan("a", "b", delete=True), Plan)
    sync("a", "b", checksum="strict")
    assert check("a", "b").in_sync
    bisync("a", "b", state="state")


def an_error_of_several_targets_says_how_each_ended(error: MultiError) -> None:
    assert_type(error.outcomes, tuple[Outcome, ...])


def mirrors_and_tiers_take_places() -> None:
    MultiBackend(["a", "s3://b/c", open_store("d")], "quorum")
    TieredBackend([Tier("hot", "a"), Tier("cold", open_store("b"))])
