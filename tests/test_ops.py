"""What is derived from the protocols: copies between any two backends, moves, walks."""

from datetime import UTC, datetime

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CopyOptions,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    NotFound,
    ObjectInfo,
    PermissionDenied,
    PreconditionFailed,
    ReadOptions,
    StorageError,
    WriteOptions,
)
from omnistorage.globs import escape
from omnistorage.ops import operations
from omnistorage.testing import BasicBackend, Chunky, Faulty, Flaky
from omnistorage.testing._kit import TREE_WITH_FOLDERS, payload
from omnistorage.wrappers.base import Wrapper


def stores(tmp_path):
    return {"memory": MemoryBackend(), "flat": MemoryBackend(dirs=False), "basic": BasicBackend(),
            "local": LocalBackend(tmp_path), "wrapped": Wrapper(MemoryBackend())}  # fmt: skip


KINDS = ["memory", "flat", "basic", "local", "wrapped"]


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("from_", KINDS)
def test_an_object_is_copied_and_moved_between_any_two(tmp_path, from_, to):
    source, target = stores(tmp_path / "1")[from_], stores(tmp_path / "2")[to]
    data = payload(3 << 20)
    seen = []
    operations.write_bytes(source, "a/x", data)
    info = operations.copy(source, "a/x", target, "b/y", progress=seen.append)
    assert (info.path, info.size, sum(seen)) == ("b/y", len(data), len(data))
    assert operations.read_bytes(target, "b/y") == data
    assert operations.read_bytes(source, "a/x") == data
    operations.move(source, "a/x", target, "b/z")
    assert operations.read_bytes(target, "b/z") == data
    assert not source.exists("a/x")


def test_metadata_type_and_time_are_kept_where_both_can():
    when = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    source, target = MemoryBackend(), MemoryBackend()
    given = WriteOptions(user_metadata={"k": "v"}, content_type="text/plain", modified_at=when)
    operations.write_bytes(source, "x", b"1", given)
    info = operations.copy(source, "x", target, "x")
    assert (info.metadata, info.content_type, info.modified_at) == ({"k": "v"}, "text/plain", when)
    info = operations.copy(source, "x", target, "y", CopyOptions(user_metadata={"n": "w"}))
    assert info.metadata == {"n": "w"}


def test_go_s8_onto_itself_a_copy_or_move_changes_nothing(tmp_path):
    for inner in stores(tmp_path).values():
        store = Faulty(inner)
        operations.write_bytes(store, "x", b"precious")
        before = list(store.list())
        store.log.clear()
        assert operations.copy(store, "x", store, "x").size == 8
        assert operations.move(store, "x", store, "x").size == 8
        assert operations.read_bytes(store, "x") == b"precious"
        assert list(store.list()) == before, "not even the time"
        assert not {"open_writer", "copy", "move", "delete"} & set(store.log)


def test_conditions_and_metadata_onto_itself_are_honoured_or_refused(tmp_path):
    for store in stores(tmp_path).values():
        operations.write_bytes(store, "x", b"precious")
        with_etag = operations.features_of(store).if_match
        for call in (operations.copy, operations.move):
            for options in (CopyOptions(if_match="nope"), CopyOptions(source_if_match="nope")):
                with pytest.raises(PreconditionFailed if with_etag else CapabilityNotSupported):
                    call(store, "x", store, "x", options)
            with pytest.raises(ConfigError, match="set_metadata"):
                call(store, "x", store, "x", CopyOptions(user_metadata={"k": "v"}))
            if with_etag:
                etag = next(iter(store.list())).etag
                assert call(store, "x", store, "x", CopyOptions(if_match=etag, source_if_match=etag)).etag == etag
        assert operations.read_bytes(store, "x") == b"precious"


def test_rs_7_1_2_two_handles_on_one_place_are_one_place(tmp_path):
    one, two = LocalBackend(tmp_path), LocalBackend(tmp_path)
    operations.write_bytes(one, "x", b"precious")
    assert operations.same_place(one, two)
    assert not operations.same_place(MemoryBackend(), MemoryBackend())
    memory = MemoryBackend()
    assert operations.same_place(memory, Wrapper(memory))
    operations.write_bytes(memory, "x", b"precious")
    operations.move(Wrapper(memory), "x", memory, "x")
    assert memory.peek("x") == b"precious"
    for call in (operations.copy, operations.move):
        call(one, "x", two, "x")
        assert operations.read_bytes(one, "x") == b"precious"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("call", [operations.copy, operations.move])
@pytest.mark.parametrize("side", ["source", "target"])
def test_go_s6_a_fault_at_any_call_publishes_nothing_and_loses_nothing(call, side):
    data = payload(2_500_000)
    at = 0
    while True:
        at += 1
        inner_source, inner_target = MemoryBackend(), MemoryBackend()
        inner_source.put_raw("x", data)
        inner_target.put_raw("y", b"old")
        source, target = inner_source, inner_target
        if side == "source":
            source = flaky = Flaky(inner_source, at=at)
        else:
            target = flaky = Flaky(inner_target, at=at)
        try:
            call(source, "x", target, "y")
        except BackendUnavailable:
            assert inner_target.peek("y") in (b"old", data)
            assert inner_source.peek("x") == data
        else:
            assert not flaky.fired
            break
    assert at >= 4
    assert inner_target.peek("y") == data


def test_a_source_shorter_than_it_said_publishes_nothing():
    class Shrinks(MemoryBackend):
        def _open_reader(self, path, options):
            reader = super()._open_reader(path, options)
            reader._info = reader._info._replace(size=1000)
            return reader

    source, target = Shrinks(), MemoryBackend()
    operations.write_bytes(source, "x", b"short")
    with pytest.raises(CorruptData):
        operations.copy(source, "x", target, "x")
    assert not target.exists("x")


def test_a_wrong_digest_publishes_nothing():
    class Lies(MemoryBackend):
        def _open_reader(self, path, options):
            reader = super()._open_reader(path, options)
            reader._info = reader._info._replace(hashes={"sha256": "0" * 64, "something-odd": "1"})
            return reader

    source, target = Lies(), MemoryBackend()
    operations.write_bytes(source, "x", b"data")
    with pytest.raises(CorruptData, match="sha256"):
        operations.copy(source, "x", target, "x")
    assert not target.exists("x")


@pytest.mark.parametrize("conditions", [True, False])
def test_a_source_that_changed_while_it_was_moved_is_kept(conditions):
    class Changing(Chunky):
        clears = frozenset() if conditions else frozenset({"if_match"})

        def _reader(self, reader, path):
            self.inner.put_raw("x", b"newer")
            return super()._reader(reader, path)

    inner, target = MemoryBackend(), MemoryBackend()
    inner.put_raw("x", b"older")
    with pytest.raises(PreconditionFailed):
        operations.move(Changing(inner, size=2), "x", target, "x")
    assert inner.peek("x") == b"newer"


def test_conditions_and_overwrite_are_passed_on():
    source, target = MemoryBackend(), MemoryBackend()
    operations.write_bytes(source, "x", b"1")
    operations.write_bytes(target, "x", b"old")
    with pytest.raises(AlreadyExists):
        operations.copy(source, "x", target, "x", CopyOptions(overwrite=False))
    for wrong in (CopyOptions(source_if_match="?"), CopyOptions(if_match="?")):
        with pytest.raises(PreconditionFailed):
            operations.copy(source, "x", target, "x", wrong)
    assert target.peek("x") == b"old"
    with pytest.raises(NotFound):
        operations.copy(source, "nothing", target, "x")
    assert target.peek("x") == b"old"


def test_read_bytes_takes_a_range():
    store = MemoryBackend()
    operations.write_bytes(store, "x", b"0123456789")
    assert operations.read_bytes(store, "x", ReadOptions(offset=3, length=4)) == b"3456"


# --- walking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_walk_yields_what_list_yields_and_folders_before_their_content(tmp_path, kind):
    store = stores(tmp_path)[kind]
    for path in TREE_WITH_FOLDERS:
        operations.write_bytes(store, path, path.encode())
    assert [i.path for i in operations.walk(store)] == [i.path for i in store.list()]
    found = list(operations.walk(store, folders=True))
    files = {i.path for i in found if not i.is_dir}
    assert files == set(TREE_WITH_FOLDERS)
    seen = set()
    for info in found:
        parent = info.path.rpartition("/")[0]
        assert not parent or parent in seen
        if info.is_dir:
            assert info.path not in seen
            seen.add(info.path)
    below = {i.path for i in operations.walk(store, "a", folders=True)}
    assert below == {"a/b.txt", "a/c", "a/c/d", "a/c/e", "a/c/e/f"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_descended_into_is_not_listed(tmp_path, kind):
    store = stores(tmp_path)[kind]
    for path in ("keep/x", "skip/y", "skip/deep/z", "top"):
        operations.write_bytes(store, path, b"")
    listed = []

    class Watch(Wrapper):
        def list_dir(self, path=""):
            listed.append(path)
            return super().list_dir(path)

    found = [i.path for i in operations.walk(Watch(store), descend=lambda folder: folder != "skip")]
    assert sorted(found) == ["keep/x", "top"]
    assert "skip" not in listed
    assert list(operations.walk(store, "nothing", descend=lambda folder: True)) == []


def test_walk_reports_a_folder_that_cannot_be_read_and_goes_on():
    class Locked(MemoryBackend):
        def _list_dir(self, path):
            if path == "locked":
                raise PermissionDenied("no", path=path)
            return super()._list_dir(path)

    store = Locked()
    for path in ("a/x", "locked/y", "z"):
        operations.write_bytes(store, path, b"")
    errors = []
    found = [i.path for i in operations.walk(store, folders=True, on_error=errors.append)]
    assert found == ["a", "a/x", "locked", "z"]
    assert [type(error) for error in errors] == [PermissionDenied]
    with pytest.raises(StorageError):
        list(operations.walk(store, folders=True))


def test_a_folder_that_vanishes_while_walking_is_an_error_never_silence():
    class Vanishing(MemoryBackend):
        def _list_dir(self, path):
            yield from super()._list_dir(path)
            if not path:
                yield ObjectInfo("zz-gone", kind="dir")

    store = Vanishing()
    operations.write_bytes(store, "a/x", b"")
    with pytest.raises(NotFound):
        list(operations.walk(store, folders=True))


class NoPage(NotFound):
    """What a backend of somebody else raises."""


@pytest.mark.parametrize("kind", [NotFound, NoPage, BucketNotFound])
def test_a_walk_below_a_folder_that_is_not_there_yields_nothing(kind):
    class Absent(MemoryBackend):
        def _list_dir(self, path):
            raise kind("none", path=path)

    walk = operations.walk(Absent(), "x", descend=lambda folder: True)
    if kind is BucketNotFound:
        with pytest.raises(BucketNotFound):
            list(walk)
    else:
        assert list(walk) == []


# -- glob --------------------------------------------------------------------------------------------------------------

TREE = ("a.csv", "b.txt", "x/a.csv", "x/y/a.csv", "x/y/z/a.csv", "x/y/z/b[1].csv", "xy/a.csv", "x/{b}.csv")


@pytest.mark.parametrize("make", [lambda tmp: MemoryBackend(), lambda tmp: MemoryBackend(dirs=False), LocalBackend])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["a.csv"]),
        ("/*.csv", ["a.csv"]),
        ("**/*.csv", ["a.csv", "x/a.csv", "x/y/a.csv", "x/y/z/a.csv", "x/y/z/b[1].csv", "x/{b}.csv", "xy/a.csv"]),
        ("x/*.csv", ["x/a.csv", "x/{b}.csv"]),
        ("x/*/*.csv", ["x/y/a.csv"]),
        ("x/**", ["x/a.csv", "x/y/a.csv", "x/y/z/a.csv", "x/y/z/b[1].csv", "x/{b}.csv"]),
        ("x*/a.csv", ["x/a.csv", "xy/a.csv"]),
        ("{a.csv,xy/*}", ["a.csv", "xy/a.csv"]),
        ("?.txt", ["b.txt"]),
        (escape("x/y/z/b[1].csv"), ["x/y/z/b[1].csv"]),
        ("x/y/a.csv", ["x/y/a.csv"]),
        ("x/y", []),
        ("nothing/*", []),
    ],
)
def test_glob_finds_what_matches_whole_keys(make, pattern, expected, tmp_path):
    store = make(tmp_path)
    for path in TREE:
        operations.write_bytes(store, path, b"")
    assert sorted(info.path for info in operations.glob(store, pattern)) == expected


def test_glob_looks_only_where_a_match_can_be():
    inner = MemoryBackend()
    for path in ("logs/a/x.csv", "logs/a/deep/er/x.csv", "other/a/x.csv"):
        operations.write_bytes(inner, path, b"")
    seen = []

    class Counting(Wrapper):
        def list_dir(self, path=""):
            seen.append(path)
            return super().list_dir(path)

    assert [info.path for info in operations.glob(Counting(inner), "logs/*/x.csv")] == ["logs/a/x.csv"]
    assert seen == ["logs", "logs/a"]
    with pytest.raises(ConfigError):
        operations.glob(inner, "a/***")
