"""Every promise of the Store, on every backend: reading, writing, paths, listings, deletions."""

import errno
import gzip
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from omnistorage import (
    AlreadyExists,
    Capability,
    CapabilityNotSupported,
    ConfigError,
    DirectoryNotEmpty,
    InvalidPath,
    MemoryBackend,
    NotFound,
    ObjectInfo,
    PreconditionFailed,
    RemotePath,
    Store,
    open_records,
)
from omnistorage.paths import location_of

from .filled import can, fill, names

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
        assert caught.value.errno == errno.ENOENT
        url = store.url
        assert url is None or caught.value.location == location_of(url, "deep/er/a/b")


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


def test_what_exists_says_once_how_to_replace_it():
    store = Store(MemoryBackend())
    store.write("x", b"x")
    store.write("y", b"y")
    for call in (store.write, store.write_text, store.write_atomic):
        with pytest.raises(AlreadyExists) as caught:
            call("x", "y" if call == store.write_text else b"y")
        assert str(caught.value).count("overwrite=True") == 1
    with pytest.raises(AlreadyExists) as caught:
        store.copy("y", "x")
    assert str(caught.value).count("overwrite=True") == 1
