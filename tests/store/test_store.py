"""Every promise of the Store, on every backend."""

import copy
import dataclasses
import gzip
import io
import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from omnistorage import (
    AlreadyExists,
    BackendClosed,
    Capability,
    CapabilityNotSupported,
    ConfigError,
    DirectoryNotEmpty,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    NotFound,
    ObjectInfo,
    PermissionDenied,
    PreconditionFailed,
    Prefix,
    RemotePath,
    Store,
    open_records,
)
from omnistorage.core import Features
from omnistorage.store.capability import INTERNAL, SOURCES

from ..backends import azure_places, gcs_places, test_s3
from .places import PLACES


@pytest.fixture(params=list(PLACES))
def store(request):
    with Store(PLACES[request.param](), "root/of it") as store:
        yield store


def can(store, *wanted):
    """Whether the store has these; a test that asks says what the store does without them."""
    return all(store.supports(capability) for capability in wanted)


def fill(store, *paths):
    for path in paths:
        store.write(path, path.encode(), overwrite=True)


def names(found):
    return sorted(info.path for info in found)


# -- reading and writing -----------------------------------------------------------------------------------------------


def test_what_is_written_reads_back(store):
    info = store.write("a/b.bin", b"12345", overwrite=True)
    assert isinstance(info, ObjectInfo)
    assert (info.path, info.size) == ("a/b.bin", 5)
    assert store.read_bytes("a/b.bin") == b"12345"
    assert store.read_bytes(PurePosixPath("a/b.bin")) == store.read_bytes(RemotePath("a") / "b.bin") == b"12345"
    assert store.read_bytes(PureWindowsPath("a\\b.bin")) == b"12345"
    with store.read("a/b.bin") as stream:
        assert (stream.read(2), stream.read()) == (b"12", b"345")
    if can(store, Capability.RANGE_READ):
        assert store.read_bytes("a/b.bin", offset=1, length=3) == b"234"
    store.write_text("t", "é\r\n", encoding="latin-1", overwrite=True)
    assert store.read_text("t", "latin-1") == "é\r\n"
    assert store.read_text("t", errors="replace") == "\ufffd\r\n"
    assert store.stat("t").size == store.head("t").size == store.get_file_info("t").size == 3


@pytest.mark.parametrize(
    "content",
    [b"data", bytearray(b"data"), memoryview(b"data"), [b"da", memoryview(b"ta")], (part for part in (b"data",))],
)
def test_content_is_bytes_a_stream_or_an_iterable_of_them(content):
    with Store(MemoryBackend()) as store:
        store.write("x", content)
        assert store.read_bytes("x") == b"data"
        store.write("y", io.BytesIO(b"data"))
        assert store.read_bytes("y") == b"data"
        store.write("empty", iter(()))
        assert store.read_bytes("empty") == b""


@pytest.mark.parametrize(
    "content",
    [
        "text",
        "",
        io.StringIO("text"),
        io.StringIO(""),
        5,
        None,
        {"a": 1},
        {b"a": b"b"},
        ["text"],
        [5],
        object(),
        [None],
    ],
)
def test_anything_else_is_refused_before_the_target_is_touched(content):
    class Untouchable(MemoryBackend):
        def open_writer(self, path, options=None):
            raise AssertionError("touched")

    with pytest.raises(ConfigError, match="not") as caught:
        Store(Untouchable()).write("x", content)
    assert caught.value.path == "x"


def test_an_iterable_that_fails_halfway_leaves_what_was_there(store):
    store.write("x", b"old", overwrite=True)

    def pieces():
        yield b"new"
        raise KeyError

    if not can(store, Capability.ATOMIC_WRITE):
        return
    with pytest.raises(KeyError):
        store.write("x", pieces(), overwrite=True)
    with pytest.raises(ConfigError, match="int"):
        store.write("x", [b"new", 5], overwrite=True)
    assert store.read_bytes("x") == b"old"


def test_nothing_is_overwritten_unless_told_to(store):
    if not can(store, Capability.CREATE_ONLY):
        for refused in (
            lambda: store.write("x", b"1"), lambda: store.write_text("x", "1"), lambda: store.open_atomic("x"),
        ):  # fmt: skip
            with pytest.raises(CapabilityNotSupported, match=r"overwrite=True|open does without"):
                refused()
        with pytest.raises(CapabilityNotSupported, match="mode 'w'"):
            store.open("x", "x")
        assert not store.exists("x")
        return
    store.write("x", b"1")
    for refused in (
        lambda: store.write("x", b"2"), lambda: store.write_text("x", "2"), lambda: store.copy("y", "x"),
        lambda: store.move("y", "x"), lambda: store.open("x", "xb").close(), lambda: store.upload(__file__, "x"),
    ):  # fmt: skip
        fill(store, "y")
        with pytest.raises(AlreadyExists) as caught:
            refused()
        assert caught.value.path in ("x", "y")
    assert store.read_bytes("x") == b"1"
    assert store.read_bytes("y") == b"y"
    store.write("x", b"2", overwrite=True)
    assert store.read_bytes("x") == b"2"


def test_a_race_for_a_new_name_has_one_winner(store):
    if not can(store, Capability.CREATE_ONLY):
        return

    def one(number):
        try:
            store.write("raced", str(number).encode())
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        won = [number for number in pool.map(one, range(8)) if number is not None]
    assert [str(number).encode() for number in won] == [store.read_bytes("raced")]


def test_if_match_replaces_what_was_seen_and_nothing_else(store):
    etag = store.write("x", b"1", overwrite=True).etag or store.stat("x").etag
    if not can(store, Capability.IF_MATCH):
        with pytest.raises(CapabilityNotSupported):
            store.write("x", b"2", if_match=etag or "e")
        return
    store.write("x", b"2", if_match=etag)
    with pytest.raises(PreconditionFailed):
        store.write("x", b"3", if_match=etag)
    with pytest.raises((PreconditionFailed, CapabilityNotSupported)):  # some keep conditions on writes alone
        store.delete("x", if_match=etag)
    with pytest.raises(PreconditionFailed):
        store.read_bytes("x", if_match=etag)
    assert store.read_bytes("x", if_match=store.stat("x").etag) == b"2"


def test_metadata_travels_or_is_refused(store):
    if not can(store, Capability.USER_METADATA):
        with pytest.raises(CapabilityNotSupported):
            store.write("x", b"1", overwrite=True, metadata={"k": "v"})
        return
    store.write("x", b"1", overwrite=True, metadata={"k": "v"}, content_type="text/x-mine")
    assert store.stat("x").metadata["k"] == "v"
    assert store.stat("x").content_type == "text/x-mine"
    store.copy("x", "y", overwrite=True)
    assert store.stat("y").metadata["k"] == "v"


def test_an_atomic_write_appears_whole_or_is_refused(store):
    if not can(store, Capability.ATOMIC_WRITE):
        for refused in (lambda: store.write_atomic("x", b"1", overwrite=True), lambda: store.open_atomic("x")):
            with pytest.raises(CapabilityNotSupported) as caught:
                refused()
            assert caught.value.path == "x"
        return
    store.write_atomic("x", b"1", overwrite=True)
    with store.open_atomic("x", overwrite=True) as file:
        file.write(b"2")
        file.flush()
        assert store.read_bytes("x") == b"1"
    assert store.read_bytes("x") == b"2"
    assert file.result.size == 1
    with pytest.raises(KeyError), store.open_atomic("x", overwrite=True) as file:
        file.write(b"3")
        raise KeyError
    assert store.read_bytes("x") == b"2"


# -- what a path means -------------------------------------------------------------------------------------------------


def test_missing_things_and_folders_are_told_apart(store):
    fill(store, "folder/file")
    reads = [
        store.read, store.read_bytes, store.read_text, store.read_seekable, store.open, store.stat, store.delete,
        lambda path: store.copy(path, "to", overwrite=True), lambda path: store.move(path, "to", overwrite=True),
        store.checksum, lambda path: store.download(path, "/nonexistent/omnistorage"),
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(NotFound) as missing:
            read("no/such")
        assert missing.value.path == "no/such"
        with pytest.raises(InvalidPath) as folder:
            read("folder")
        assert folder.value.path == "folder"
    assert store.read_bytes("folder/file") == b"folder/file"


def test_exists_is_file_and_is_folder(store):
    fill(store, "a/b/c", "ab")
    table = {
        "a/b/c": (True, True, False), "a/b": (True, False, True), "a": (True, False, True), "ab": (True, True, False),
        "": (True, False, True), ".": (True, False, True), "a/": (True, False, True), "nope": (False, False, False),
        "a/b/c/d": (False, False, False), "a/bc": (False, False, False),
    }  # fmt: skip
    for path, wanted in table.items():
        assert (store.exists(path), store.is_file(path), store.is_folder(path)) == wanted, path


@pytest.mark.parametrize("path", ["a//b", "/a", "a/../b", "..", "a/./b", "./a", "a/.", "a\0b", "//", "/"])
def test_bad_paths_are_refused_and_never_mended(path):
    with Store(MemoryBackend()) as store:
        for call in (
            store.read_bytes, store.exists, store.is_file, store.is_folder, store.stat, store.delete, store.list_files,
            store.list_folders, store.iter_children, store.walk, store.get_folder_info, store.delete_folder,
            store.child, store.resolve, store.native_path, store.open, store.versions, store.presign,
            lambda p: store.write(p, b""), lambda p: store.copy(p, "x"), lambda p: store.copy("x", p),
            lambda p: store.move("x", p), lambda p: store.copy_folder("x", p), lambda p: store.delete_many([p]),
            lambda p: Store(store.as_backend(), p), RemotePath,
        ):  # fmt: skip
            with pytest.raises(InvalidPath) as caught:
                call(path)
            assert caught.value.path == path


@pytest.mark.parametrize("path", ["a\nb", "x" * 1025, "\udcff", "\u2028"])
def test_names_that_some_store_would_mangle_are_read_and_never_made(path):
    with Store(MemoryBackend()) as store:
        store.as_backend().put_raw(path, b"1")
        assert names(store.list_files()) == [path]
        assert store.read_bytes(path) == b"1"
        assert store.exists(path)
        for call in (
            lambda: store.write(path, b""), lambda: store.copy("x", path), lambda: store.move("x", path),
            lambda: store.open(path, "wb"), lambda: store.open_atomic(path), lambda: store.copy_folder("x", path),
            lambda: store.upload(__file__, path), lambda: store.transfer("x", store, path),
        ):  # fmt: skip
            with pytest.raises(InvalidPath) as caught:
                call()
            assert caught.value.path == path
        store.move(path, "good")
        store.copy("good", "again")
        store.delete("again")
        assert names(store.list_files()) == ["good"]


@pytest.mark.parametrize("path", ["", ".", RemotePath("")])
def test_the_root_is_a_folder_and_never_a_file(path):
    with Store(MemoryBackend()) as store:
        for call in (store.read_bytes, store.stat, store.delete, lambda p: store.write(p, b""), store.resolve):
            with pytest.raises(InvalidPath, match="root"):
                call(path)
        assert list(store.list_files(path)) == []
        with pytest.raises(InvalidPath, match="root"):
            store.delete_folder(path, recursive=True)


@pytest.mark.parametrize("path", [b"x", 5, None, ["x"]])
def test_what_is_no_path_is_told_so(path):
    with pytest.raises(InvalidPath, match=type(path).__name__):
        Store(MemoryBackend()).read_bytes(path)


def test_errors_name_what_the_caller_passed_also_in_children(store):
    child = store.child("deep").child("er")
    for call in (child.read_bytes, child.stat, child.delete):
        with pytest.raises(NotFound) as caught:
            call("a/b")
        assert caught.value.path == "a/b"
        assert "root" not in str(caught.value)


# -- listing -----------------------------------------------------------------------------------------------------------


def test_list_files(store):
    fill(store, "top.csv", "d/one.csv", "d/two.txt", "d/e/three.csv", "d/e/f/four.csv", "dd/other.csv")
    assert names(store.list_files()) == ["top.csv"]
    assert names(store.list_files("d")) == names(store.list_files("d/")) == ["d/one.csv", "d/two.txt"]
    everything = ["d/e/f/four.csv", "d/e/three.csv", "d/one.csv", "d/two.txt", "dd/other.csv", "top.csv"]
    assert names(store.list_files(recursive=True)) == everything
    assert names(store.list_files("d", recursive=True)) == everything[:4]
    assert names(store.list_files("d", max_depth=0, recursive=True)) == ["d/one.csv", "d/two.txt"]
    assert names(store.list_files("d", max_depth=1)) == ["d/e/three.csv", "d/one.csv", "d/two.txt"]
    assert names(store.list_files(max_depth=1)) == ["d/one.csv", "d/two.txt", "dd/other.csv", "top.csv"]
    assert names(store.list_files(recursive=True, pattern="t*.csv")) == ["d/e/three.csv", "top.csv"]
    assert names(store.list_files("d", recursive=True, pattern="e/*.csv")) == ["d/e/three.csv"]
    assert names(store.list_files(recursive=True, start_after="d/one.csv")) == everything[3:]
    assert names(store.list_files("d", start_after="d/one.csv")) == ["d/two.txt"]
    assert len(list(store.list_files(recursive=True, limit=2))) == 2
    assert list(store.list_files(limit=0)) == list(store.list_files("nope")) == []
    assert list(store.list_files("nope", recursive=True)) == []
    sizes = {info.path: info.size for info in store.list_files("d", recursive=True)}
    assert sizes == {path: len(path) for path in everything[:4]}


def test_list_folders_children_walk_and_glob(store):
    fill(store, "top", "a/x", "a/b/y", "a/b/c/z", "aa/w")
    assert [entry.path for entry in store.list_folders()] == ["a", "aa"]
    assert [tuple(entry) for entry in store.list_folders("a")] == [("a/b", "b")]
    assert [entry.path for entry in store.list_folders(max_depth=2)] == ["a", "a/b", "a/b/c", "aa"]
    assert [entry.path for entry in store.list_folders(max_depth=9, pattern="[bc]")] == ["a/b", "a/b/c"]
    assert sorted((type(each).__name__, each.path) for each in store.iter_children("a")) == [
        ("FolderEntry", "a/b"), ("ObjectInfo", "a/x"),
    ]  # fmt: skip
    walked = [(at, [f.name for f in folders], [f.name for f in files]) for at, folders, files in store.walk("a")]
    assert walked == [("a", ["b"], ["x"]), ("a/b", ["c"], ["y"]), ("a/b/c", [], ["z"])]
    pruned = store.walk("a")
    next(pruned)[1].clear()
    assert list(pruned) == []
    assert names(store.glob("a/**")) == ["a/b/c/z", "a/b/y", "a/x"]
    assert names(store.glob("{a,aa}/?")) == ["a/x", "aa/w"]
    assert names(store.glob("**/[xz]")) == ["a/b/c/z", "a/x"]
    assert list(store.list_folders("nope")) == list(store.iter_children("nope")) == []


def test_bad_arguments_are_errors_at_the_call_and_not_at_the_first_item(store):
    for call in (
        lambda: store.list_files(max_depth=-1), lambda: store.list_files(limit=-1), lambda: store.list_files(limit=1.5),
        lambda: store.list_files(pattern="[a"), lambda: store.list_folders(pattern="{a"), lambda: store.glob("***"),
        lambda: store.list_folders(max_depth=True), lambda: store.list_files(start_after=5),
        lambda: store.get_folder_info(max_depth=-1),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            call()


def test_a_limit_reads_one_page():
    pages = []

    class Paged(MemoryBackend):
        def _list(self, prefix, options):
            for number, info in enumerate(super()._list(prefix, options)):
                if number % 10 == 0:
                    pages.append(number)
                yield info

    with Store(Paged()) as store:
        fill(store, *(f"d/{number:02}" for number in range(50)))
        assert len(list(store.list_files(recursive=True, limit=1))) == 1
        assert pages == [0]


def test_folder_info(store):
    fill(store, "d/a", "d/e/bcd")
    info = store.get_folder_info("d")
    assert (info.path, info.name, info.file_count, info.total_size) == ("d", "d", 2, 10)
    assert store.get_folder_info("d", max_depth=0).file_count == 1
    assert store.get_folder_info().file_count == 2
    if any(each.modified_at for each in store.list_files("d")):
        assert info.modified_at == max(each.modified_at for each in store.list_files("d", recursive=True))
    with pytest.raises(NotFound) as caught:
        store.get_folder_info("nope")
    assert caught.value.path == "nope"


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_delete(store):
    fill(store, "a", "b", "d/c")
    store.delete("a")
    assert not store.exists("a")
    with pytest.raises(NotFound):
        store.delete("a")
    store.delete("a", missing_ok=True)
    fill(store, "e", "f")
    assert dict(store.delete_many(["b", "e", "nope", RemotePath("f")])) == {
        "b": None,
        "e": None,
        "nope": None,
        "f": None,
    }
    assert names(store.list_files(recursive=True)) == ["d/c"]


def test_a_bad_path_among_many_deletes_nothing(store):
    fill(store, "a")
    with pytest.raises(ConfigError, match="several"):
        store.delete_many("a")
    with pytest.raises(InvalidPath):
        store.delete_many(["a", "b//c"])
    assert store.exists("a")


def test_delete_folder(store):
    fill(store, "d/a", "d/e/b", "dd/c")
    with pytest.raises(DirectoryNotEmpty) as caught:
        store.delete_folder("d")
    assert caught.value.path == "d"
    store.delete_folder("d", recursive=True)
    assert names(store.list_files(recursive=True)) == ["dd/c"]
    if getattr(store._backend, "_options", {}).get("vendor") == "seaweedfs":  # it keeps an empty folder for a while
        return
    assert not store.exists("d")
    for recursive in (False, True):
        with pytest.raises(NotFound):
            store.delete_folder("d", recursive)
        store.delete_folder("d", recursive, missing_ok=True)
        with pytest.raises(NotFound):
            store.delete_folder("dd/c", recursive)
    if store.as_backend().features.dirs:
        store.as_backend().mkdir("empty/inner")
        assert store.is_folder("empty/inner")
        store.delete_folder("empty/inner")
        assert not store.exists("empty/inner")
        store.delete_folder("empty", recursive=True)


# -- moving and copying ------------------------------------------------------------------------------------------------


def test_copy_and_move(store):
    fill(store, "a")
    assert store.copy("a", "d/b", overwrite=True).path == "d/b"
    assert store.move("a", "c", overwrite=True).path == "c"
    assert names(store.list_files(recursive=True)) == ["c", "d/b"]
    assert store.read_bytes("c") == store.read_bytes("d/b") == b"a"
    store.copy("c", "c")
    store.move("c", "c")
    assert store.read_bytes("c") == b"a"


def test_copy_and_move_folders(store):
    fill(store, "d/a", "d/e/b", "dd/c")
    found = store.copy_folder("d", "copy/of", overwrite=True)
    assert (found.path, found.file_count, found.total_size) == ("copy/of", 2, 8)
    store.move_folder("d", "moved", overwrite=True)
    assert names(store.list_files(recursive=True)) == ["copy/of/a", "copy/of/e/b", "dd/c", "moved/a", "moved/e/b"]
    assert list(store.list_files("d", recursive=True)) == []
    assert store.read_bytes("moved/e/b") == b"d/e/b"
    for op in (store.copy_folder, store.move_folder):
        with pytest.raises(NotFound):
            op("nope", "x", overwrite=True)
        with pytest.raises(InvalidPath, match="lies in"):
            op("moved", "moved/in", overwrite=True)
        assert op("moved", "moved").file_count == 2


def test_folders_that_overlap_lose_nothing(store):
    """A target in the folder that is read would be read itself, or lie where a file was before it was moved."""
    fill(store, "a/b/y", "a/b/b/y")
    for op in (store.move_folder, store.copy_folder):
        with pytest.raises(InvalidPath, match="lies in"):
            op("a/b", "a", overwrite=True)
        with pytest.raises(InvalidPath, match="lies in"):
            op("a", "a/b/c", overwrite=True)
        assert store.read_bytes("a/b/y") == b"a/b/y"
        assert store.read_bytes("a/b/b/y") == b"a/b/b/y"
    store.move_folder("a/b", "", overwrite=True)
    assert names(store.list_files(recursive=True)) == ["b/y", "y"]


def test_real_folders_move_even_if_they_are_empty(tmp_path):
    with Store(LocalBackend(tmp_path)) as store:
        (tmp_path / "em/sub").mkdir(parents=True)
        store.copy_folder("em", "copy")
        assert (tmp_path / "copy/sub").is_dir()
        store.move_folder("em", "moved")
        assert (tmp_path / "moved/sub").is_dir()
        assert not (tmp_path / "em").exists()


def test_links_and_pipes_are_refused_before_anything_moves(tmp_path):
    with Store(LocalBackend(tmp_path)) as store:
        fill(store, "d/a", "d/z")
        (tmp_path / "d/link").symlink_to("a")
        os.mkfifo(tmp_path / "d/pipe")
        for op in (store.move_folder, store.copy_folder):
            with pytest.raises(InvalidPath, match="remove it first") as caught:
                op("d", "e")
            assert caught.value.path in ("d/link", "d/pipe")
        assert store.read_bytes("d/a") == b"d/a"
        assert not store.exists("e")
        assert store.get_folder_info("d").file_count == 2


def test_a_folder_that_is_filled_meanwhile_is_not_deleted():
    class Marked(MemoryBackend):
        """An object store that keeps an object ``d/`` for an empty folder; somebody writes after the second look."""

        looks = 2

        def list(self, prefix="", *options):
            return (info for info in super().list(prefix, *options) if not info.path.endswith("/"))

        def list_dir(self, path=""):
            found = [info for info in super().list_dir(path) if info.path != f"{path}/"]
            self.looks -= 1
            if not self.looks:
                self.put_raw("d/late", b"1")
            return iter(found)

    backend = Marked(dirs=False)
    backend.put_raw("d/", b"")
    with Store(backend) as store:
        store.delete_folder("d")
        assert store.read_bytes("d/late") == b"1"
        assert not backend.exists("d/")


def test_local_places_that_are_no_files_are_refused_and_errors_name_them(tmp_path):
    with Store(MemoryBackend()) as store:
        store.write("x", b"new")
        os.mkfifo(tmp_path / "pipe")
        for call in (lambda p: store.download("x", p, overwrite=True), lambda p: store.upload(p, "y")):
            for place in (tmp_path / "pipe", tmp_path):
                with pytest.raises(InvalidPath, match="not a file") as caught:
                    call(place)
                assert caught.value.path == str(place)
            for wrong in (b"x", 5, None, ""):
                with pytest.raises(InvalidPath, match="local file"):
                    call(wrong)
        with pytest.raises(NotFound) as missing:
            store.upload(tmp_path / "none/x.txt", "y")
        assert missing.value.path == str(tmp_path / "none/x.txt")
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub/link").symlink_to("../real")
        store.upload(tmp_path / "sub/link", "up")
        assert store.read_bytes("up") == b"old"
        store.download("x", tmp_path / "sub/link", overwrite=True)
        assert (tmp_path / "sub/link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"
        with pytest.raises(ConfigError, match="not to str"):
            store.transfer("x", "s3://bucket", "y")


def test_of_two_places_on_disk_with_one_name_the_right_one_is_named(tmp_path):
    with Store(LocalBackend(tmp_path / "store")) as store:
        with pytest.raises(NotFound) as mine:
            store.download("x", tmp_path / "x")
        assert mine.value.path == "x"
        with pytest.raises(NotFound) as local:
            store.upload(tmp_path / "x", "x")
        assert local.value.path == str(tmp_path / "x")
        store.write("x", b"1")
        (tmp_path / "x").write_bytes(b"2")
        with pytest.raises(AlreadyExists) as mine:
            store.upload(tmp_path / "x", "x")
        assert mine.value.path == "x"
        with pytest.raises(AlreadyExists) as local:
            store.download("x", tmp_path / "x")
        assert local.value.path == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("make", "plant"),
    [
        pytest.param(lambda: test_s3.fresh("moto"), test_s3.plant, id="s3-moto"),
        pytest.param(lambda: test_s3.fresh("seaweedfs"), test_s3.plant, id="s3"),
        pytest.param(gcs_places.fresh, gcs_places.plant, id="gcs"),
        pytest.param(azure_places.fresh, azure_places.plant, id="azure"),
    ],
)
def test_a_folder_that_is_but_a_marker_is_deleted(make, plant):
    backend = make()
    plant(backend, "d/", b"")
    with Store(backend) as store:
        assert store.is_folder("d")
        store.delete_folder("d")
        assert test_s3.peek(backend, "d/") is None if backend.name == "s3" else not store.is_folder("d")


def test_who_may_not_list_hears_of_what_he_asked_for():
    class Unlisted(MemoryBackend):
        def __init__(self):
            super().__init__()
            self.features = dataclasses.replace(self.features, list=False, dirs=False)

        def list(self, *arguments):
            raise CapabilityNotSupported("no listing", capability="list")

        list_dir = list

    class Forbidden(MemoryBackend):
        def list_dir(self, path=""):
            raise PermissionDenied("no")

    for backend in (Unlisted(), Forbidden()):
        with Store(backend) as store:
            for call in (store.read_bytes, store.stat, store.open, store.delete):
                with pytest.raises(NotFound):
                    call("nope")
    assert not Store(Unlisted()).exists("nope")


def test_upload_download_and_transfer(store, tmp_path):
    told = []
    data = b"0123456789" * 1000
    (tmp_path / "a#b?.bin").write_bytes(data)
    store.upload(tmp_path / "a#b?.bin", "up/a", overwrite=True, progress=told.append)
    assert store.read_bytes("up/a") == data
    assert sum(told) == len(data)
    store.download("up/a", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    with pytest.raises(AlreadyExists):
        store.download("up/a", tmp_path / "back")
    (tmp_path / "back").write_bytes(b"old")
    store.download("up/a", tmp_path / "back", overwrite=True)
    assert (tmp_path / "back").read_bytes() == data
    with Store(MemoryBackend(), "elsewhere") as other:
        store.transfer("up/a", other, "got")
        assert other.read_bytes("got") == data
        other.transfer("got", store, "again", overwrite=True)
        assert store.read_bytes("again") == data


def test_checksums(store):
    store.write("x", b"123456789", overwrite=True)
    sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
    assert store.checksum("x") == store.checksum("x", "SHA-256") == sha256
    assert store.checksum("x", "crc32c") == "e3069283"
    assert store.checksum("x", "md5") == "25f9e794323b453885f5181f1b624d0b"
    assert store.verify("x", sha256.upper())
    assert store.verify("x", "crc32c:e3069283")
    assert not store.verify("x", "0" * 64)
    for unknown in ("nope", "shake_128"):
        with pytest.raises(ConfigError, match=unknown.partition("_")[0]):
            store.checksum("x", unknown)


# -- files -------------------------------------------------------------------------------------------------------------


def test_open_reads_and_writes_as_python_does(store):
    with store.open("a.txt", "w") as file:
        file.write("one\ntwo\n")
    with store.open("a.txt", "r") as file:
        assert list(file) == ["one\n", "two\n"]
    with store.open("b", "wb") as file:
        file.write(b"\r\n")
    with store.open("b") as file:
        assert file.read() == b"\r\n"
    with store.open("b", "rt", newline="") as file:
        assert file.read() == "\r\n"
    with pytest.raises(KeyError), store.open("c", "w") as file:
        file.write("1")
        raise KeyError
    if can(store, Capability.ATOMIC_WRITE):
        assert not store.exists("c")
    if can(store, Capability.APPEND):
        with store.open("a.txt", "a") as file:
            file.write("three\n")
        assert store.read_text("a.txt") == "one\ntwo\nthree\n"
    else:
        with pytest.raises(CapabilityNotSupported):
            store.open("a.txt", "a")


def test_open_infers_the_codec_of_text(store):
    with store.open("logs/a.ndjson.gz", "wt") as file:
        file.write('{"a": "é"}\n')
    assert json.loads(gzip.decompress(store.read_bytes("logs/a.ndjson.gz"))) == {"a": "é"}
    with store.open("logs/a.ndjson.gz", "rt") as file:
        assert [json.loads(line) for line in file] == [{"a": "é"}]
    with store.open("logs/a.ndjson.gz") as file:  # bytes are taken as they are
        assert gzip.decompress(file.read()).startswith(b"{")
    with store.open("logs/a.ndjson.gz", compression="infer") as file:
        assert file.read(1) == b"{"
    with store.open_records("logs/a.ndjson.gz") as records:
        assert list(records) == [{"a": "é"}]
    with open_records(store, "logs/a.ndjson.gz", "r") as records:
        assert list(records) == [{"a": "é"}]


def test_read_seekable(store):
    store.write("x", bytes(range(256)), overwrite=True)
    with store.read_seekable("x") as file:
        assert file.seek(-2, io.SEEK_END) == 254
        assert file.read() == b"\xfe\xff"
        file.seek(10)
        assert file.read(2) == b"\x0a\x0b"
        assert file.tell() == 12


# -- what it is --------------------------------------------------------------------------------------------------------


def test_a_thousand_children_open_nothing_and_close_nothing():
    class Counting(MemoryBackend):
        closed = 0

        def close(self):
            type(self).closed += 1

    backend = Counting()
    store = Store(backend)
    children = [store.child(f"c{number}").child("x") for number in range(1000)]
    for child in children:
        with child:
            pass
        child.close()
    assert Counting.closed == 0
    children[7].write("y", b"1")
    assert store.read_bytes("c7/x/y") == b"1"
    store.close()
    assert Counting.closed == 1


def test_equality_is_that_of_backend_and_root(store):
    backend = store._backend
    same = Store(backend, "root/of it", owns=False)
    assert store == same
    assert hash(store) == hash(same)
    assert store.child("x") == same.child("x") != store.child("y")
    assert store != Store(MemoryBackend(), "root/of it")
    assert store != "store"
    assert len({store, same, store.child("x")}) == 2
    with pytest.raises(AttributeError):
        store.name = "other"
    assert store.root_path == "root/of it"


def test_pickles_as_configuration(store):
    if store.name in ("memory", "BasicBackend", "basic", "tiered"):  # what lives in this process
        return
    fill(store, "d/x")
    with pickle.loads(pickle.dumps(store)) as again:
        assert again.child("d").read_bytes("x") == b"d/x"
        assert again.root_path == "root/of it"
    with pytest.raises(BackendClosed):
        again.read_bytes("d/x")
    whole, child = pickle.loads(pickle.dumps((store, store.child("d"))))
    child.close()
    assert child.read_bytes("x") == whole.read_bytes("d/x") == b"d/x"
    whole.close()
    assert store.read_bytes("d/x") == b"d/x"


def test_a_copied_child_owns_as_little(store):
    for copied in (copy.copy(store.child("a")), copy.deepcopy(store.child("a"))):
        assert copied == store.child("a")
        copied.close()
    assert store.exists("")
    for change in (lambda: delattr(store, "_owns"), lambda: setattr(store, "_owns", True)):
        with pytest.raises(AttributeError):
            change()


def test_resolve_is_pure_and_a_probe_looks(store):
    plan = store.resolve("a/b")
    assert (plan.kind, plan.key) in ((plan.kind, "a/b"),)
    assert plan.details == store.resolve("a/b").details
    assert store.resolve("a/b", probe=True).details["exists"] is False
    fill(store, "a/b")
    assert store.resolve("a/b", probe=True).details["exists"] is True


def test_resolve_does_no_io():
    class Dead(MemoryBackend):
        def __getattribute__(self, name):
            if name.startswith(("open_", "list", "stat", "exists", "_")) and name not in ("__class__", "_closed"):
                raise AssertionError(name)
            return super().__getattribute__(name)

    store = object.__new__(Store)
    for name, value in {"_backend": None, "_root": "", "_owns": False, "_at": Dead()}.items():
        object.__setattr__(store, name, value)
    assert store.resolve("a/b").kind == "blob"


def test_native_paths_lead_back(store):
    for key in ("a", "a/b c", "é/ü"):
        assert store.native_path(key) == f"root/of it/{key}"
        assert store.to_key(store.native_path(key)) == key
    if store.url is not None:
        assert store.to_key(store.url + "a/b%20c") == "a/b c"
        assert store.to_key(store.url) == store.to_key(store.url.rstrip("/")) == ""
    for elsewhere in ("elsewhere/x", "file:///other/place", "root/of itself/x"):
        with pytest.raises(InvalidPath):
            store.to_key(elsewhere)
    for elsewhere in ("/etc/passwd", "file:///x"):
        with pytest.raises(InvalidPath):
            Store(MemoryBackend()).to_key(elsewhere)


def test_ping(store):
    fill(store, "x")
    store.ping()
    backend = store._backend
    store.close()
    with pytest.raises(BackendClosed):
        Store(backend).ping()


def test_unwrap(store):
    assert store.unwrap(type(store._backend)) is store._backend
    assert store.unwrap(Prefix) is store.as_backend() or store.name in ("basic", "BasicBackend")
    with pytest.raises(CapabilityNotSupported, match="int"):
        store.unwrap(int)


def _handles():
    import azure.storage.blob
    import botocore.client
    import google.cloud.storage
    import sqlalchemy

    sql = (sqlalchemy.Engine, lambda engine: engine.connect().close())
    containers = (azure.storage.blob.ContainerClient, lambda client: client.get_container_properties())
    return {
        "local": (Path, lambda path: list(path.iterdir())),
        "sqlite": sql,
        "postgresql": sql,
        "mariadb": sql,
        "s3": (botocore.client.BaseClient, lambda client: client.list_buckets()),
        "s3-moto": (botocore.client.BaseClient, lambda client: client.list_buckets()),
        "gcs": (google.cloud.storage.Client, lambda client: list(client.list_buckets())),
        "azure": containers,
        "azure-hns": (azure.storage.blob.ContainerClient, lambda client: client.url),
    }


@pytest.mark.parametrize("name", sorted(PLACES))
def test_unwrap_gives_the_native_handle_which_works(name):
    handles = _handles()
    with Store(PLACES[name](), "root") as store:
        if name in handles:
            kind, use = handles[name]
            fill(store, "x")
            handle = store.child("d").unwrap(kind)
            assert isinstance(handle, kind)
            use(handle)
        else:
            with pytest.raises(CapabilityNotSupported):
                store.unwrap(Path)


def test_threads_share_a_store(store):
    def one(number):
        store.write(f"t/{number}", str(number).encode(), overwrite=True)
        return store.read_bytes(f"t/{number}") == str(number).encode()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))
    assert len(list(store.list_files("t"))) == 24
    assert threading.active_count() < 100


def test_a_store_on_a_store_and_on_nothing():
    with Store(MemoryBackend()) as store:
        assert Store(store.child("a")) == store.child("a")
        inner = Store(store.child("a"), "b")
        inner.write("x", b"1")
        inner.close()
        assert store.read_bytes("a/b/x") == b"1"
    for wrong in ("s3://bucket", None, 5):
        with pytest.raises(ConfigError, match="stands on a backend"):
            Store(wrong)


# -- capabilities ------------------------------------------------------------------------------------------------------


def test_every_capability_has_a_source_and_every_flag_and_power_a_place():
    from omnistorage.core import POWERS

    assert set(SOURCES) == set(Capability)
    flags = {source for source in SOURCES.values() if isinstance(source, str)}
    powers = {source.__name__ for source in SOURCES.values() if not isinstance(source, str)}
    assert flags <= set(Features.flags())
    assert set(Features.flags()) - flags <= INTERNAL
    assert {kind.__name__ for kind in POWERS} - powers <= INTERNAL


def test_supports_is_what_capabilities_says(store):
    assert store.capabilities == {each for each in Capability if store.supports(each)}
    assert store.supports("read")
    with pytest.raises(ValueError, match="nope"):
        store.supports("nope")
    assert {"read", "write", "list", "seekable_read"} <= store.capabilities


def test_what_is_not_there_is_refused_by_name(store):
    fill(store, "x")
    if not can(store, Capability.PRESIGN):
        with pytest.raises(CapabilityNotSupported) as caught:
            store.presign("x", expires=timedelta(minutes=1))
        assert caught.value.capability == "presign"
    elif store.name != "gcs":  # whose key signs, and nobody has one here
        assert "x" in store.presign("x", expires=timedelta(minutes=1))
    if not can(store, Capability.VERSIONS):
        with pytest.raises(CapabilityNotSupported, match="VERSIONS"):
            store.versions("x")


def test_a_local_store_takes_path_objects_and_never_leaves_its_root(tmp_path):
    from omnistorage import open_store

    (tmp_path / "secret").write_text("s")
    with open_store(tmp_path / "root") as store:
        store.write(Path("a/b"), b"1")
        assert (tmp_path / "root/a/b").read_bytes() == b"1"
        with pytest.raises(InvalidPath):
            store.read_bytes("../secret")


@pytest.mark.parametrize("name", ["memory", "local", "sqlite", "tiers"])
def test_rs_7_4_neither_the_first_bytes_nor_an_atomic_write_hold_a_whole_object(name):
    import tracemalloc

    size, block = 32 << 20, bytes(1 << 20)
    with Store(PLACES[name](), "root") as store:
        tracemalloc.start()
        try:
            with store.open_atomic("big") as file:
                for _ in range(size >> 20):
                    file.write(block)
            written = tracemalloc.get_traced_memory()[1]
            kept = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with store.read("big") as stream:
                assert stream.read(16) == bytes(16)
            read = tracemalloc.get_traced_memory()[1] - kept
        finally:
            tracemalloc.stop()
        assert read < 4 << 20
        assert written < (16 << 20 if name in ("local", "sqlite") else size * 2 + (4 << 20))
