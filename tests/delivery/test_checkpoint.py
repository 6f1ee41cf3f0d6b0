"""``ResumableWriter``: no byte is lost or doubled, whenever a process ends and whatever fails meanwhile."""

from __future__ import annotations

import csv
import gc
import io
import itertools
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import LocalBackend, MemoryBackend, MultiBackend, open_records, ops
from omnistorage.backends import _object_streams
from omnistorage.backends.s3 import S3Backend
from omnistorage.core import ResumableWrite, StaleUploads, WriteOptions, power
from omnistorage.delivery import ResumableWriter
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    ConfigError,
    CorruptData,
    NotFound,
    PermissionDenied,
    StorageError,
    WriterClosed,
)
from omnistorage.formats.csv import Csv
from omnistorage.records import open_decoded
from omnistorage.stages import StageBase
from omnistorage.testing.basic import BasicBackend
from omnistorage.testing.faults import Flaky
from omnistorage.wrappers import Encrypt, Observe, Prefix

from ..servers import server

PART = 8
NUMBERS = itertools.count()
TEXT = bytes(range(65, 65 + 3 * PART))
SLOW = int(os.environ.get("OMNISTORAGE_KILLS", "50"))


@dataclass(frozen=True)
class Raw:
    """Bytes as they are: a checkpoint can stand at any of them."""

    name = "raw"
    suffixes = (".raw",)

    def encoder(self):
        return RawEncoder()

    def decoder(self, on_bad=None):
        raise NotImplementedError("it is read as bytes")


class RawEncoder(StageBase):
    def encode(self, record):
        return record

    def _feed(self, item):
        yield b"".join(item)


def raw(store, path="d/x.raw", **settings):
    return ResumableWriter(store, path, **{"format": Raw(), "part_size": PART, **settings})


def again(store, token, **settings):
    return ResumableWriter.resume(store, json.dumps(token), **{"format": Raw(), "part_size": PART, **settings})


def ended(writer):
    """The token of a writer that ends here."""
    token = writer.checkpoint()
    writer.abort()
    return token


def tiny_s3(client="sdk"):
    """A server whose parts may be of a few bytes."""
    info = server("moto_tiny")
    store = S3Backend(
        info["bucket"],
        f"t{os.getpid()}-{next(NUMBERS)}",
        endpoint_url=info["endpoint"],
        access_key=info["access_key"],
        secret_key=info["secret_key"],
        vendor="moto",
        client=client,
    )
    store.part_size = PART
    return store


def left(store):
    """What anybody keeps for a writer."""
    found = [info.path for info in store.list() if ".resume" in info.path]
    stale = power(store, StaleUploads)
    if stale is not None:
        found += [info.path for info in stale.stale_uploads(older_than=timedelta(days=-1))]
    return found


PLACES = ("memory", "local", "s3", "s3 by obstore")


@pytest.fixture(params=PLACES)
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryBackend()
    elif request.param == "local":
        yield LocalBackend(tmp_path / "local")
    else:
        with tiny_s3("sdk" if request.param == "s3" else "auto") as store:
            yield store


# -- every offset ------------------------------------------------------------------------------------------------------


def lives(store, cuts, path, lost=b"what the life that ended had written behind"):
    """Write ``TEXT`` in several lives that end at ``cuts``, each with something behind its checkpoint."""
    token, begin = None, 0
    for end in cuts:
        writer = raw(store, path) if token is None else again(store, token)
        writer.write(TEXT[begin:end])
        token, begin = writer.checkpoint(), end
        assert token["bytes"] == end
        writer.write(lost)
        writer.flush()
        writer.abort()
        assert not ops.extended(store).exists(path)
    with again(store, token) as writer:
        writer.write(TEXT[begin:])
    assert ops.read_bytes(store, path) == TEXT


def test_goal_11_no_byte_is_lost_wherever_in_three_parts_a_life_ends(store):
    for cut in range(len(TEXT) + 1):
        lives(store, [cut], f"one/{cut}.raw")
    pairs = [(one, two) for one in range(len(TEXT) + 1) for two in range(one, len(TEXT) + 1)]
    far = isinstance(store, S3Backend) and SLOW < 2000
    chosen = random.Random(11).sample(pairs, max(SLOW // 5, 10)) if far else pairs
    for one, two in chosen:
        lives(store, [one, two], f"two/{one}-{two}.raw")
    assert left(store) == []


SUFFIX = {"none": "", "gzip": ".gz", "zstd": ".zst", "snappy": ".sz", "lz4": ".lz4", "bz2": ".bz2", "xz": ".xz"}
CODECS = sorted(SUFFIX)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_goes_on_with_a_frame_of_its_own(codec):
    store, rows, path = MemoryBackend(), [{"n": n} for n in range(90)], "x.ndjson" + SUFFIX[codec]
    writer, at = ResumableWriter(store, path, part_size=50), 0
    for end in (0, 1, 30, 30, 60, 90):
        writer.write_many(rows[at:end])
        token, at = writer.checkpoint(), end
        assert (token["records"], writer.records) == (end, end)
        writer.write({"n": -1})
        writer.abort()
        writer = ResumableWriter.resume(store, token)
    writer.close()
    assert list(open_records(store, path)) == rows
    assert [info.path for info in store.list()] == [path]


@pytest.mark.parametrize("codec", CODECS)
def test_nothing_at_all_is_a_sound_object(codec):
    for resumed in (False, True):
        store, path = MemoryBackend(), "x.ndjson" + SUFFIX[codec]
        writer = ResumableWriter(store, path)
        if resumed:
            writer = ResumableWriter.resume(store, ended(writer))
        writer.close()
        assert list(open_records(store, path)) == []


# -- what a stream begins with -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [Csv(), Csv(header=("b", "a")), Csv(bom=True), Csv(header=("a", "b"), header_row=False, bom=True)],
    ids=["first row", "names", "bom", "no header"],
)
def test_a_header_is_written_once_and_its_columns_stay(form):
    for cut in range(4):
        store = MemoryBackend()
        rows = [{"a": "1", "b": "2"}, {"b": "4", "a": "3"}, {"a": "5", "b": "6"}]
        writer = ResumableWriter(store, "x.csv", format=form)
        writer.write_many(rows[:cut])
        writer = ResumableWriter.resume(store, ended(writer), format=form)
        writer = ResumableWriter.resume(store, json.dumps(ended(writer)), format=form)
        writer.write_many(rows[cut:])
        writer.close()
        whole = MemoryBackend()
        with open_records(whole, "x.csv", "w", format=form) as plain:
            plain.write_many(rows)
        assert ops.read_bytes(store, "x.csv") == ops.read_bytes(whole, "x.csv")


def test_rows_without_names_go_on_as_well():
    store, form = MemoryBackend(), Csv(rows="list", header="none", bom=True)
    writer = ResumableWriter(store, "x.csv", format=form)
    writer.write(["1", "2"])
    with ResumableWriter.resume(store, ended(writer), format=form) as writer:
        writer.write(["3"])
    assert ops.read_bytes(store, "x.csv") == "\ufeff1,2\n3\n".encode()


def test_what_only_a_resumed_writer_can_know_is_wrong_with_a_row_is_told():
    store = MemoryBackend()
    writer = ResumableWriter(store, "x.csv", on_error="skip")
    writer.write({"a": "1"})
    with ResumableWriter.resume(store, ended(writer), on_error="skip") as writer:
        writer.write({"b": "1"})
        writer.write({"a": "2"})
    assert list(csv.reader(io.StringIO(ops.read_bytes(store, "x.csv").decode()))) == [["a"], ["1"], ["2"]]
    assert (writer.bad.count, writer.records) == (1, 2)


# -- which checkpoints count -------------------------------------------------------------------------------------------


def test_the_last_two_checkpoints_count_and_those_before_are_gone(store):
    writer, tokens = raw(store), []
    for at in range(5):
        writer.write(TEXT[at : at + 1])
        tokens.append(writer.checkpoint())
    writer.abort()
    with pytest.raises(NotFound):
        again(store, tokens[2])
    writer = again(store, tokens[3])
    writer.write(TEXT[4:])
    writer.abort()
    with again(store, tokens[4]) as writer:
        writer.write(TEXT[5:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT
    assert left(store) == []


def test_a_checkpoint_of_nothing_new_is_the_same_and_removes_none(store):
    writer = raw(store)
    writer.write(TEXT[:11])
    first = writer.checkpoint()
    writer.write(TEXT[11:12])
    second = writer.checkpoint()
    assert [writer.checkpoint() for _ in range(4)] == [second] * 4
    writer.abort()
    with again(store, first) as writer:
        writer.write(TEXT[11:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_a_token_is_small_plain_json_whatever_was_written(store):
    writer = raw(store, options=WriteOptions(modified_at=None, content_type="text/x"))
    writer.write(TEXT * 20)
    text = json.dumps(writer.checkpoint())
    assert len(text) < 1500
    writer.abort()
    ResumableWriter.resume(store, text.encode(), format=Raw()).close()
    assert ops.read_bytes(store, "d/x.raw") == TEXT * 20


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_without_a_checkpoint_whatever_ends_it_leaves_nothing(store):
    writer = raw(store)
    writer.write(TEXT + TEXT)
    writer.flush()
    writer.abort()
    writer.abort()
    with pytest.raises(ZeroDivisionError), raw(store) as writer:
        writer.write(TEXT + TEXT)
        writer.flush()
        _ = 1 / 0
    assert (list(store.list()), left(store)) == ([], [])
    with pytest.raises(WriterClosed):
        writer.checkpoint()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("end", ["abort", "exception", "garbage", "close"])
def test_whatever_ends_it_the_last_checkpoint_stays(store, end, monkeypatch):
    writer = raw(store)
    writer.write(TEXT[:19])
    token = writer.checkpoint()
    writer.write(TEXT)
    writer.flush()
    if end == "abort":
        writer.abort()
    elif end == "exception":
        with pytest.raises(ZeroDivisionError), writer:
            _ = 1 / 0
    elif end == "garbage":
        del writer
        gc.collect()
        list(store.list())  # what was dropped is cleared away with a later call, and this must not be
    else:
        with monkeypatch.context() as patch:
            patch.setattr(writer._sink, "close", lambda: (_ for _ in ()).throw(BackendUnavailable("now of all times")))
            with pytest.raises(BackendUnavailable):
                writer.close()
        with pytest.raises(StorageError):
            writer.write(b"x")
    assert not ops.extended(store).exists("d/x.raw")
    with again(store, token) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT
    assert left(store) == []
    assert writer.close().size == len(TEXT)


def test_a_writer_that_is_resumed_and_ends_at_once_leaves_the_checkpoint(store):
    token = kept(store)
    again(store, token).abort()
    with pytest.raises(ZeroDivisionError), again(store, token):
        _ = 1 / 0
    with again(store, token) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_discard_ends_it_for_good(store, tmp_path):
    writer = raw(store)
    writer.write(TEXT)
    token = writer.checkpoint()
    writer.abort()
    assert left(store)
    for _ in range(2):
        ResumableWriter.discard(store, token)
        assert (left(store), list(store.list())) == ([], [])
    with pytest.raises(NotFound):
        again(store, token)
    assert [path for path in tmp_path.rglob("*") if ".resume" in path.name] == []


def test_what_was_published_is_not_written_again(store):
    with raw(store) as writer:
        writer.write(TEXT)
        token = writer.checkpoint()
    told = AlreadyExists if ops.extended(store).features.user_metadata else NotFound
    with pytest.raises(told):
        again(store, token)
    ops.write_bytes(store, "d/x.raw", b"by somebody else")
    with pytest.raises(NotFound):
        again(store, token)
    assert ops.read_bytes(store, "d/x.raw") == b"by somebody else"


def test_a_kill_between_publication_and_the_end_is_told_apart(monkeypatch):
    """The checkpoints are still there: whoever resumes learns that it was published, and they go."""
    store = MemoryBackend()
    writer = raw(store)
    writer.write(TEXT)
    token = writer.checkpoint()
    monkeypatch.setattr(writer._suspended, "end", lambda: None)
    writer.close()
    assert len(left(store)) == 3
    with pytest.raises(AlreadyExists, match="was published"):
        again(store, token)
    assert left(store) == []


# -- what is not as it was ---------------------------------------------------------------------------------------------


def kept(store, size=19):
    writer = raw(store)
    writer.write(TEXT[:size])
    token = writer.checkpoint()
    writer.abort()
    return token


def test_a_tail_that_is_not_the_one_named_is_refused(store):
    token = kept(store)
    (tail,) = (info.path for info in store.list() if "/tail-" in info.path)
    for wrong in (b"xyz", b"", TEXT):
        ops.write_bytes(store, tail, wrong)
        with pytest.raises(CorruptData, match="tail"):
            again(store, token)
    ops.write_bytes(store, tail, TEXT[16:19])
    with again(store, token) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_a_part_that_is_not_the_one_written_is_never_published():
    store = MemoryBackend()
    token = kept(store)
    part = next(info.path for info in store.list() if "part-000001" in info.path)
    ops.write_bytes(store, part, b"8 others")
    writer = again(store, token)
    writer.write(TEXT[19:])
    with pytest.raises(CorruptData, match="not those that were written"):
        writer.close()
    assert not store.exists("d/x.raw")
    ops.write_bytes(store, part, b"short")
    with pytest.raises(NotFound, match="gone"):
        again(store, token)
    store.delete(part)
    with pytest.raises(NotFound, match="gone"):
        again(store, token)
    ops.write_bytes(store, part, TEXT[:8])
    with again(store, token) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_a_writer_that_was_thought_to_be_dead_spoils_nothing():
    store = MemoryBackend()
    zombie = raw(store)
    zombie.write(TEXT[:12])
    token = zombie.checkpoint()
    writer = again(store, token)
    writer.write(TEXT[12:20])
    token = writer.checkpoint()
    zombie.write(b"z" * 40)
    zombie.checkpoint()
    writer.abort()
    with again(store, token) as writer:
        writer.write(TEXT[20:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT
    zombie.write(b"z" * 40)
    with pytest.raises(NotFound):
        zombie.close()
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_an_upload_that_somebody_else_goes_on_with_is_refused():
    with tiny_s3() as store:
        token = kept(store)
        upload = token["upload"]
        store.client.put_part(_object_streams.Upload(upload["key"], upload["upload"], None), 1, b"8 others")
        with pytest.raises(CorruptData, match="somebody else"):
            again(store, token)
        writer = raw(store)
        writer.write(TEXT[:19])
        token = writer.checkpoint()
        store.client.put_part(
            _object_streams.Upload(token["upload"]["key"], token["upload"]["upload"], None), 2, b"x" * 8
        )
        with pytest.raises(StorageError):
            writer.close()
        assert not store.exists("d/x.raw")


WRONG = [
    "", "[]", "null", "{", {}, {"version": 2}, {"id": "../.."}, {"id": 5}, {"path": 1}, {"records": -1}, {"bytes": "1"},
    {"tail": None}, {"tail": {}}, {"tail": {"bytes": 1.5, "sha256": "x"}}, {"options": {"overwrite": True}},
    {"options": None}, {"format": None}, {"upload": "x"}, {"upload": {}}, {"upload": {"part_size": 0}},
    {"upload": {"part_size": 8, "parts": 2, "chain": "00", "lives": []}},
    {"upload": {"part_size": 8, "parts": 2, "chain": "00", "lives": [["../../../x", 1]]}},
    {"upload": {"part_size": 8, "parts": 2, "chain": "00", "lives": [["12345678", 2]]}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_no_token_is_refused(wrong):
    store = MemoryBackend()
    token = kept(store)
    before = list(store.list())
    given = wrong if not wrong or isinstance(wrong, str) else {**token, **wrong}
    with pytest.raises(ConfigError, match="no token"):
        ResumableWriter.resume(store, given, format=Raw())
    assert list(store.list()) == before


def test_settings_that_contradict_the_token_are_refused():
    store = MemoryBackend()
    writer = ResumableWriter(store, "x.csv.gz")
    writer.write({"a": 1})
    token = writer.checkpoint()
    writer.abort()
    for change in ({"compression": "zstd"}, {"format": "ndjson"}, {"path": "y"}, {"options": WriteOptions()}):
        with pytest.raises(ConfigError):
            ResumableWriter.resume(store, token, **change)
    for change in ({"path": "x.csv.zst"}, {"path": "x.ndjson.gz"}, {"format": "ndjson"}):
        with pytest.raises(ConfigError, match="the token is of"):
            ResumableWriter.resume(store, {**token, **change})
    for change in ({"size": 5}, {"expect": {"md5": "0" * 32}}, {"extra": {"x": object()}}):
        with pytest.raises(ConfigError):
            ResumableWriter(store, "y.csv", options=WriteOptions(**change))
    for arguments in ((store,), ("memory://x/y.csv", "z"), (store, "x.csv.gz", {"part_size": 0})):
        with pytest.raises(ConfigError):
            ResumableWriter(*arguments[:2], **(arguments[2] if len(arguments) > 2 else {}))
    with ResumableWriter.resume(store, token) as writer:
        pass
    assert list(open_records(store, "x.csv.gz")) == [{"a": "1"}]


# -- options and places ------------------------------------------------------------------------------------------------


def test_options_hold_over_all_lives(store):
    then = datetime(2020, 1, 2, tzinfo=UTC)
    features = ops.extended(store).features
    wanted = WriteOptions(
        overwrite=not features.create_only,
        content_type="text/x-raw",
        user_metadata={"k": "v"} if features.user_metadata else None,
        modified_at=then if features.set_modified else None,
    )
    writer = raw(store, options=wanted)
    writer.write(TEXT[:5])
    with again(store, ended(writer)) as writer:
        writer.write(TEXT[5:])
    info = store.stat("d/x.raw")
    if features.user_metadata:
        assert (info.metadata["k"], info.content_type) == ("v", "text/x-raw")
    if features.set_modified:
        assert info.modified_at == then
    if not features.create_only:
        return
    with pytest.raises(AlreadyExists):
        raw(store, options=wanted).close()
    writer = raw(store, "d/y.raw", options=wanted)
    writer.write(TEXT[:12])
    token = writer.checkpoint()
    writer.abort()
    ops.write_bytes(store, "d/y.raw", b"meanwhile")
    with pytest.raises(AlreadyExists):
        again(store, token).close()
    assert ops.read_bytes(store, "d/y.raw") == b"meanwhile"


@pytest.mark.parametrize(
    "wrap",
    [
        BasicBackend,
        lambda: Encrypt(MemoryBackend(), b"k" * 32),
        lambda: Prefix(MemoryBackend(), "a/b"),
        lambda: MultiBackend([MemoryBackend(), MemoryBackend()]),
    ],
    ids=["basic", "encrypted", "prefix", "mirrored"],
)
def test_any_store_will_do(wrap):
    store = wrap()
    for cut in (0, 7, 8, 9, 24):
        lives(store, [cut // 2, cut], f"x/{cut}.raw")
    names = [info.path for info in store.list()] if hasattr(store, "list") else []
    assert not [name for name in names if ".resume" in name]


def test_it_goes_through_wrappers_to_the_store_that_keeps_uploads():
    with tiny_s3() as store:
        view = Observe(Prefix(store, "in"), lambda event: None)
        assert power(view, ResumableWrite) is not None
        lives(view, [5, 20], "x.raw")
        writer = raw(view)
        writer.write(TEXT)
        assert writer.checkpoint()["upload"]["parts"] == 2
        writer.abort()
        assert [info.path for info in store.stale_uploads(older_than=timedelta(days=-1))] == []


def test_a_url_will_do(tmp_path):
    url = f"file://{tmp_path}/a/x.ndjson.gz"
    writer = ResumableWriter(url)
    writer.write({"n": 1})
    token = writer.checkpoint()
    writer.abort()
    with ResumableWriter.resume(url, token) as writer:
        writer.write({"n": 2})
    assert list(open_records(url)) == [{"n": 1}, {"n": 2}]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.ndjson.gz"]
    writer = ResumableWriter(url)
    token = writer.checkpoint()
    writer.abort()
    with pytest.raises(ConfigError, match="path"):
        ResumableWriter.resume(f"file://{tmp_path}/a/y.ndjson.gz", token)
    with pytest.raises(ConfigError, match="token is of"):
        ResumableWriter.discard(f"file://{tmp_path}/a/y.ndjson.gz", token)
    ResumableWriter.discard(url, token)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.ndjson.gz"]


def test_clean_removes_what_has_no_checkpoint_and_is_old(tmp_path):
    store = LocalBackend(tmp_path)
    suspended = kept(store)
    dead = raw(store, "d/y.raw")
    dead.write(TEXT)
    dead.flush()
    before = {info.path for info in store.list()}
    assert ResumableWriter.clean(store) == 0
    assert ResumableWriter.clean(store, "other", older_than=timedelta(0)) == 0
    assert {info.path for info in store.list()} == before
    assert ResumableWriter.clean(f"file://{tmp_path}/d", older_than=timedelta(days=-1)) == 1
    assert ResumableWriter.clean(store, older_than=timedelta(days=1), checkpoints=True) == 0
    assert not [info.path for info in store.list() if "y.raw" in info.path]
    assert not (tmp_path / "d" / "y.raw.resume").exists()
    dead.abort()
    with again(store, suspended) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT
    forgotten = kept(store)
    assert ResumableWriter.clean(store, older_than=timedelta(days=-1), checkpoints=True) == 1
    with pytest.raises(NotFound):
        again(store, forgotten)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["x.raw"]


def test_uploads_with_a_checkpoint_are_not_stale_until_it_is_discarded():
    with tiny_s3() as store:
        token = kept(store)
        other = store.open_writer("d/other.raw", WriteOptions())
        other.write(TEXT)
        other._parts.join()
        store.live(other._parts.upload, False)  # as if its process were gone
        old = timedelta(days=-1)
        assert [info.path for info in store.stale_uploads(older_than=old)] == ["d/other.raw"]
        assert store.remove_stale_uploads(older_than=old) == 1
        with again(store, token) as writer:
            writer.write(TEXT[19:])
        assert ops.read_bytes(store, "d/x.raw") == TEXT
        other.abort()


def test_a_checkpoint_waits_for_what_is_on_its_way(monkeypatch):
    with tiny_s3() as store:
        writer, put, late = raw(store), store.client.put_part, threading.Event()
        writer.write(TEXT[:9])
        token = writer.checkpoint()

        def slow(upload, number, data):
            late.wait(10)
            if number == 3:
                raise PermissionDenied("not this one")
            return put(upload, number, data)

        monkeypatch.setattr(store.client, "put_part", slow)
        writer.write(TEXT[9:])
        threading.Timer(0.05, late.set).start()
        assert writer.checkpoint()["upload"]["parts"] == 2
        writer.write(TEXT)
        with pytest.raises(PermissionDenied, match="not this one"):
            writer.checkpoint()
        writer.abort()
        monkeypatch.undo()
        with again(store, token) as writer:
            writer.write(TEXT[9:])
        assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_parts_that_grow_are_counted_as_they_are(monkeypatch):
    monkeypatch.setattr(_object_streams, "DOUBLING", 3)
    text = os.urandom(3 * 8 + 3 * 16 + 2 * 32 + 5)
    with tiny_s3() as store:
        cuts = (24, 25, 40, 41, 72, 73, 104, 105, 137)
        for first in range(len(cuts)):
            writer, at = raw(store), 0
            for cut in cuts[first:]:
                writer.write(text[at:cut])
                token, at = writer.checkpoint(), cut
                writer.write(text)
                writer.flush()
                writer.abort()
                writer = again(store, token)
            writer.write(text[at:])
            writer.close()
            assert ops.read_bytes(store, "d/x.raw") == text


# -- whatever fails ----------------------------------------------------------------------------------------------------


def steps(store, said, cuts=(5, 13, 21)):
    """Write all with a checkpoint at each of ``cuts``; ``said`` gets the tokens. Goes on from the last one."""
    writer = again(store, said[-1]) if said else raw(store)
    try:
        at = said[-1]["bytes"] if said else 0
        for end in (*[cut for cut in cuts if cut > at], len(TEXT)):
            writer.write(TEXT[at:end])
            at = end
            if end < len(TEXT):
                said.append(writer.checkpoint())
        writer.close()
    except BaseException:
        writer.abort()
        raise


@pytest.mark.parametrize("sticky", [False, True])
def test_after_a_fault_at_any_step_it_goes_on_from_the_last_token(sticky):
    calls = 0
    while True:
        calls += 1
        inner, said = MemoryBackend(), []
        flaky = Flaky(inner, at=calls, sticky=sticky)
        try:
            steps(flaky, said)
        except BackendUnavailable:
            assert not inner.exists("d/x.raw") or ops.read_bytes(inner, "d/x.raw") == TEXT
        if not flaky.fired:
            break
        if not inner.exists("d/x.raw"):
            steps(inner, said)
        assert ops.read_bytes(inner, "d/x.raw") == TEXT
    assert calls > 30


ACTIONS = st.one_of(st.binary(max_size=30), st.sampled_from(["checkpoint", "die", "die twice", "fail"]))


@given(st.lists(ACTIONS, max_size=25), st.sampled_from(["none", "gzip", "lz4"]), st.integers(1, 20))
def test_any_lives_write_what_one_life_would(actions, codec, part):
    store = MemoryBackend()
    flaky, path = Flaky(store, at=0), "x.raw" + SUFFIX[codec]
    settings = {"format": Raw(), "part_size": part}
    writer = ResumableWriter(flaky, path, **settings)
    written, said = b"", []

    def die(back):
        nonlocal writer, written
        writer.abort()
        if len(said) < back:
            writer, written = ResumableWriter(flaky, path, **settings), b""
            said.clear()
            return
        del said[len(said) - back + 1 :]
        token, written = said[-1]
        writer = ResumableWriter.resume(flaky, token, **settings)

    for action in actions:
        if isinstance(action, bytes):
            writer.write(action)
            written += action
        elif action == "checkpoint":
            said.append((writer.checkpoint(), written))
        elif action == "fail":
            flaky.at = flaky.calls + 1
            try:
                said.append((writer.checkpoint(), written))
            except BackendUnavailable:
                die(1)
            flaky.at = 0
        else:
            tokens = {json.dumps(token) for token, _ in said[-2:]}
            die(2 if action == "die twice" and len(tokens) == 2 else 1)
    writer.close()
    with open_decoded(store.open_reader(path), codec) as reader:
        assert reader.read(-1) == written


# -- killed ------------------------------------------------------------------------------------------------------------

CHILD = Path(__file__).parent / "resumed_child.py"


def test_goal_11_kill_9_at_any_moment_and_go_on(tmp_path):
    total, kills, turns, rng = 4000, 0, 0, random.Random(11)
    while kills < SLOW // 5:
        turns += 1
        folder, far = tmp_path / str(turns), 0
        folder.mkdir()
        for _ in range(100):
            child = subprocess.Popen([sys.executable, CHILD, folder, str(total)], stdout=subprocess.PIPE)
            if next(itertools.islice(child.stdout, rng.randrange(60), None), None) is not None:
                child.kill()
            child.stdout.close()
            if child.wait() == 0:
                break
            assert child.returncode == -9
            kills += 1
            if (folder / "token").exists():
                far, before = json.loads((folder / "token").read_text())["records"], far
                assert far >= before
        with open_records(f"file://{folder}/out.ndjson.gz") as reader:
            assert [row["n"] for row in reader] == list(range(total))
        # Of a life that ended before its first token was on the disk nobody knows.
        ResumableWriter.clean(f"file://{folder}", older_than=timedelta(days=-1), checkpoints=True)
        assert sorted(path.name for path in folder.iterdir()) == ["out.ndjson.gz", "token"]
