"""``ResumableWriter``: headers, options and places, and what is no longer what it was."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import LocalBackend, MemoryBackend, MultiBackend, open_records, ops
from omnistorage.backends.object_store import writer as object_streams
from omnistorage.core import ResumableWrite, WriteOptions, power
from omnistorage.delivery import ResumableWriter
from omnistorage.errors import AlreadyExists, ConfigError, CorruptData, NotFound, PermissionDenied, StorageError
from omnistorage.formats.csv import Csv
from omnistorage.testing.basic import BasicBackend
from omnistorage.wrappers import Encrypt, Observe, Prefix
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT
from .resumed import PLACES, TEXT, Raw, again, ended, kept, lives, opened, raw, tiny_s3


@pytest.fixture(params=PLACES)
def store(request, tmp_path):
    yield from opened(request.param, tmp_path)


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


# -- what is not as it was ---------------------------------------------------------------------------------------------


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
        store.client.put_part(object_streams.Upload(upload["key"], upload["upload"], None), 1, b"8 others")
        with pytest.raises(CorruptData, match="somebody else"):
            again(store, token)
        writer = raw(store)
        writer.write(TEXT[:19])
        token = writer.checkpoint()
        store.client.put_part(
            object_streams.Upload(token["upload"]["key"], token["upload"]["upload"], None), 2, b"x" * 8
        )
        with pytest.raises(StorageError):
            writer.close()
        assert not store.exists("d/x.raw")


PLAIN = {
    "overwrite": True, "if_match": None, "durable": False, "modified_at": None, "user_metadata": None, "extra": None,
    "content_type": None,
}  # fmt: skip
PARTS = {"part_size": 8, "parts": 2, "chain": "00", "lives": [["12345678", 1]]}
WRONG = [
    "", "[]", "null", "{", "[" * 200_000, {"version": 2}, {"version": True}, {"id": "../.."}, {"id": 5}, {"path": 1},
    {"path": "../x"}, {"records": -1}, {"records": True}, {"bad": None}, {"bytes": "1"}, {"tail": None}, {"tail": {}},
    {"tail": {"bytes": 1.5, "sha256": "0" * 64}}, {"tail": {"bytes": 1, "sha256": "../" + "0" * 61}},
    {"options": {"overwrite": True}}, {"options": None}, {"options": {**PLAIN, "overwrite": "no"}},
    {"options": {**PLAIN, "extra": 5}}, {"options": {**PLAIN, "content_type": 7}}, {"options": {**PLAIN, "size": 7}},
    {"options": {**PLAIN, "modified_at": "soon"}}, {"options": {**PLAIN, "user_metadata": {"A b": 1}}},
    {"format": None}, {"settings": 5}, {"upload": "x"}, {"upload": {}}, {"upload": {"part_size": 0}},
    {"upload": {**PARTS, "lives": []}}, {"upload": {**PARTS, "lives": [["../../../x", 1]]}},
    {"upload": {**PARTS, "lives": [["12345678", 2]]}}, {"upload": {**PARTS, "lives": [["12345678", 1e999]]}},
    {"upload": {**PARTS, "parts": 0}}, {"upload": {**PARTS, "chain": "no"}},
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
    for change in ({"compression": "zstd"}, {"format": "ndjson"}, {"part_size": 0}, {"format": Csv(delimiter=";")}):
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


@pytest.mark.parametrize("place", ["local", "memory"])
def test_folders_that_a_kill_left_empty_are_removed_by_whoever_comes_next(tmp_path, place):
    class Killed(Wrapper):
        def rmdir(self, path):
            raise StorageError("killed before it")

    store = LocalBackend(tmp_path) if place == "local" else MemoryBackend()
    token = kept(store)
    with again(Killed(store), token) as writer:
        writer.write(TEXT[19:])
    left = [info.is_dir for info in ops.walk(store, "d/x.raw.resume", folders=True)]
    assert left
    assert all(left)
    with pytest.raises(NotFound if place == "local" else AlreadyExists):  # the one keeps no user metadata
        again(store, token)
    assert [info.path for info in store.list_dir("d")] == ["d/x.raw"]


def test_clean_goes_on_where_a_folder_is_removed_meanwhile(tmp_path):
    class Vanishing(Wrapper):
        def list_dir(self, path=""):
            if path == "a":
                (tmp_path / "a").rmdir()
            yield from self.inner.list_dir(path)

    (tmp_path / "a").mkdir()
    (tmp_path / "x.raw.resume" / ("0" * 32)).mkdir(parents=True)
    assert ResumableWriter.clean(Vanishing(LocalBackend(tmp_path)), older_than=timedelta(days=-1)) == 1
    assert list(tmp_path.iterdir()) == []


def test_clean_removes_empty_folders_too(tmp_path):
    folder = tmp_path / "d" / "x.raw.resume" / ("0" * 32)
    folder.mkdir(parents=True)
    other = tmp_path / "d" / "my.resume" / "mine"
    other.mkdir(parents=True)
    assert ResumableWriter.clean(LocalBackend(tmp_path)) == 0
    assert folder.exists()
    assert ResumableWriter.clean(LocalBackend(tmp_path), older_than=timedelta(days=-1)) == 1
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["my.resume"]
    assert other.exists()
    store = MemoryBackend()
    store.mkdir(f"x.raw.resume/{'0' * 32}")
    assert ResumableWriter.clean(store) == 1
    assert list(store.list_dir()) == []


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
            late.wait(LIMIT)
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


@pytest.mark.ci_only
def test_parts_that_grow_are_counted_as_they_are(monkeypatch):
    monkeypatch.setattr(object_streams, "DOUBLING", 3)
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
