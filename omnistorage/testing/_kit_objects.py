"""Conformance: existence, deletion, folders, copies, and the shape of the backend itself."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from omnistorage.core import Backend, CopyOptions, ExtendedBackend, Features, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendClosed,
    CapabilityNotSupported,
    ConfigError,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    StorageError,
)

from ._kit import Kit, flags, get, keys, ours, payload, put, refused, whole

ESCAPES = ("..", "../x", "a/../../x", "../../etc/passwd", "a/..", "\0", "a\0b", "")


class ObjectTests(Kit):
    def test_exists_is_true_for_objects_only(self, backend: Backend) -> None:
        put(backend, "folder/x")
        assert backend.exists("folder/x") is True
        for path in ("folder", "folder/y", "x", "folder/x/y", "folde"):
            assert backend.exists(path) is False

    def test_delete_says_what_it_did(self, backend: Backend) -> None:
        put(backend, "folder/x")
        assert backend.delete("folder/x") in (True, None)
        assert self.peek(backend, "folder/x") is None
        assert not backend.exists("folder/x")
        assert backend.delete("folder/x") in (False, None)
        assert backend.delete("never/was") in (False, None)

    def test_delete_of_a_folder_deletes_nothing(self, backend: Backend) -> None:
        put(backend, "folder/x")
        assert backend.delete("folder") in (False, None)
        assert self.peek(backend, "folder/x") == b"data"

    def test_delete_touches_no_neighbour(self, backend: Backend) -> None:
        for path in ("x", "xy", "x.z", "w/x"):
            put(backend, path)
        backend.delete("x")
        assert sorted(keys(backend)) == ["w/x", "x.z", "xy"]

    @pytest.mark.parametrize("path", ["/folder/x", "folder//x", "//folder/x"])
    def test_an_empty_segment_names_no_other_object(self, backend: Backend, path: str) -> None:
        put(backend, "folder/x")
        assert backend.exists(path) is False
        with pytest.raises((NotFound, InvalidPath)):
            get(backend, path)
        if flags(backend).delete:
            with contextlib.suppress(InvalidPath):
                assert backend.delete(path) in (False, None)
            assert self.peek(backend, "folder/x") == b"data"

    def test_if_match_on_a_delete_is_honoured_or_refused(self, backend: Backend) -> None:
        put(backend, "x")
        if not flags(backend).if_match:
            with refused():
                backend.delete("x", if_match="?")
        else:
            with ours(PreconditionFailed, path="x"):
                backend.delete("x", if_match="something else")
            assert self.peek(backend, "x") == b"data"
            assert backend.delete("x", if_match=next(iter(backend.list())).etag) in (True, None)
        assert self.peek(backend, "x") in (None, b"data")

    @pytest.mark.parametrize("etag", ["a\n", "a\r\nx: y", "\x7f", 5, "\xe9"])
    def test_an_etag_that_no_header_holds_is_refused_at_once(self, backend: Backend, etag: Any) -> None:
        put(backend, "x")
        kinds = (ConfigError, CapabilityNotSupported) + ((PreconditionFailed,) if etag == "\xe9" else ())
        with ours(*kinds):
            get(backend, "x", ReadOptions(if_match=etag))
        if flags(backend).write:
            with ours(*kinds):
                put(backend, "x", b"two", WriteOptions(if_match=etag))
        if flags(backend).delete:
            with ours(*kinds):
                backend.delete("x", if_match=etag)
        assert get(backend, "x") == b"data"

    @pytest.mark.parametrize("path", ESCAPES)
    def test_no_method_lets_a_path_escape(self, backend: Backend, path: str) -> None:
        put(backend, "inside")
        extended = whole(backend)
        calls = [
            lambda: backend.open_reader(path),
            lambda: backend.exists(path),
            lambda: backend.delete(path),
            lambda: backend.open_writer(path).close(),
        ]
        if extended is not None:
            calls.append(lambda: extended.stat(path))
            if path:
                calls.append(lambda: list(extended.list_dir(path)))
            if extended.features.dirs:
                calls += [lambda: extended.mkdir(path), lambda: extended.rmdir(path)]
            if extended.features.copy:
                calls += [lambda: extended.copy("inside", path), lambda: extended.copy(path, "y")]
            if extended.features.move:
                calls += [lambda: extended.move("inside", path), lambda: extended.move(path, "y")]
        for call in calls:
            with ours(InvalidPath):
                call()
        assert keys(backend) == ["inside"]

    def test_stat_tells_about_one_object(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is None:
            return
        put(backend, "folder/x", b"12345")
        if not extended.features.stat:
            with refused():
                extended.stat("folder/x")
            return
        info = extended.stat("folder/x")
        assert (info.path, info.size, info.kind) == ("folder/x", 5, "file")
        for path in ("folder", "nothing", "folder/y"):
            with ours(NotFound, path=path):
                extended.stat(path)


class FolderTests(Kit):
    def folders(self, backend: Backend) -> ExtendedBackend | None:
        extended = whole(backend)
        if extended is None or extended.features.dirs:
            return extended
        for call in (lambda: extended.mkdir("folder"), lambda: extended.rmdir("folder")):
            with refused():
                call()
        return None

    def test_mkdir_makes_parents_and_is_content_with_what_is_there(self, backend: Backend) -> None:
        if (store := self.folders(backend)) is not None:
            store.mkdir("a/b/c")
            store.mkdir("a/b/c")
            store.mkdir("a")
            assert [(i.path, i.kind) for i in store.list_dir("a/b")] == [("a/b/c", "dir")]
            assert list(store.list_dir("a/b/c")) == []

    def test_mkdir_over_an_object_is_refused(self, backend: Backend) -> None:
        if (store := self.folders(backend)) is not None:
            put(backend, "x")
            with ours(AlreadyExists, path="x"):
                store.mkdir("x")
            with ours(InvalidPath, AlreadyExists):
                store.mkdir("x/y")
            assert self.peek(backend, "x") == b"data"

    def test_rmdir_removes_only_empty_folders(self, backend: Backend) -> None:
        if (store := self.folders(backend)) is not None:
            store.mkdir("a/b")
            put(backend, "full/x")
            for path in ("a", "full"):
                with ours(DirectoryNotEmpty, path=path):
                    store.rmdir(path)
            with ours(NotFound, path="nothing"):
                store.rmdir("nothing")
            store.rmdir("a/b")
            store.rmdir("a")
            assert [i.path for i in store.list_dir()] == ["full"]

    def test_an_object_and_a_folder_cannot_share_a_name(self, backend: Backend) -> None:
        if (store := self.folders(backend)) is not None:
            put(backend, "x")
            store.mkdir("folder")
            with ours(InvalidPath):
                put(backend, "folder", b"over a folder")
            with ours(InvalidPath):
                put(backend, "x/y", b"below an object")
            assert keys(backend) == ["x"]


class CopyTests(Kit):
    @contextlib.contextmanager
    def each(self, backend: Backend) -> Iterator[list[tuple[str, Any]]]:
        extended = whole(backend)
        found: list[tuple[str, Any]] = []
        for op in ("copy", "move"):
            if extended is None:
                continue
            if getattr(extended.features, op):
                found.append((op, getattr(extended, op)))
            else:
                put(backend, "x-refused")
                with refused():
                    getattr(extended, op)("x-refused", "y-refused")
                backend.delete("x-refused")
        yield found

    def test_the_target_holds_the_same_bytes(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for op, call in calls:
                data = payload(100_000, op)
                put(backend, f"{op}/src", data)
                info = call(f"{op}/src", f"{op}/new/dst")
                assert info.path == f"{op}/new/dst"
                assert info.size in (len(data), None)
                assert self.peek(backend, f"{op}/new/dst") == data
                assert self.peek(backend, f"{op}/src") == (data if op == "copy" else None)

    def test_an_existing_target_is_replaced_unless_forbidden(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for _, call in calls:
                put(backend, "src", b"new")
                put(backend, "dst", b"the old one")
                if flags(backend).create_only:
                    with ours(AlreadyExists):
                        call("src", "dst", CopyOptions(overwrite=False))
                    assert (self.peek(backend, "src"), self.peek(backend, "dst")) == (b"new", b"the old one")
                call("src", "dst")
                assert self.peek(backend, "dst") == b"new"

    def test_a_missing_source_changes_nothing(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for _, call in calls:
                put(backend, "dst", b"old")
                put(backend, "folder/x")
                for src in ("nothing", "folder"):
                    with ours(NotFound):
                        call(src, "dst")
                    with ours(NotFound):
                        call(src, src)
                assert self.peek(backend, "dst") == b"old"

    def test_onto_itself_nothing_changes(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for _, call in calls:
                put(backend, "x", b"precious")
                assert call("x", "x").size == 8
                assert self.peek(backend, "x") == b"precious"
                with ours(StorageError):
                    call("x", "x", CopyOptions(user_metadata={"k": "v"}))
                assert self.peek(backend, "x") == b"precious"
                with contextlib.suppress(CapabilityNotSupported):
                    assert call("x", "x", CopyOptions(source=backend)).size == 8
                assert self.peek(backend, "x") == b"precious"

    def test_conditions_hold_onto_itself_too(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for _, call in calls:
                put(backend, "x", b"precious")
                for options in (CopyOptions(if_match="something else"), CopyOptions(source_if_match="something else")):
                    with ours(StorageError) as caught:
                        call("x", "x", options)
                    wanted = PreconditionFailed if flags(backend).if_match else CapabilityNotSupported
                    assert isinstance(caught.value, wanted)
                    assert self.peek(backend, "x") == b"precious"
                if flags(backend).if_match:
                    etag = next(iter(backend.list())).etag
                    assert call("x", "x", CopyOptions(if_match=etag, source_if_match=etag)).etag == etag

    def test_metadata_goes_along_unless_replaced(self, backend: Backend) -> None:
        if not flags(backend).user_metadata:
            return
        with self.each(backend) as calls:
            for op, call in calls:
                put(backend, "src", b"x", WriteOptions(user_metadata={"k": "v"}, content_type="text/plain"))
                for number, (wanted, options) in enumerate(
                    (({"k": "v"}, CopyOptions()), ({"n": "1"}, CopyOptions(user_metadata={"n": "1"})))
                ):
                    if op == "move":
                        put(backend, "src", b"x", WriteOptions(user_metadata={"k": "v"}, content_type="text/plain"))
                    call("src", f"{op}{number}", options)
                    with backend.open_reader(f"{op}{number}") as reader:
                        assert reader.info.metadata == wanted
                        assert reader.info.content_type in ("text/plain", None)

    def test_conditions_on_a_copy_are_honoured_or_refused(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for _, call in calls:
                put(backend, "src", b"new")
                put(backend, "dst", b"old")
                for options in (CopyOptions(if_match="something else"), CopyOptions(source_if_match="something else")):
                    with ours(StorageError) as caught:
                        call("src", "dst", options)
                    if flags(backend).if_match:
                        assert isinstance(caught.value, PreconditionFailed)
                    assert (self.peek(backend, "src"), self.peek(backend, "dst")) == (b"new", b"old")

    def test_a_bad_target_name_is_refused(self, backend: Backend) -> None:
        with self.each(backend) as calls:
            for _, call in calls:
                put(backend, "src")
                for dst in ("a//b", "/a", "a/", "./a", "a\nb"):
                    with ours(InvalidPath):
                        call("src", dst)
                assert keys(backend) == ["src"]


class ShapeTests(Kit):
    def test_it_is_a_backend_and_its_features_are_features(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        extended = whole(backend)
        if extended is not None:
            assert isinstance(extended.features, Features)
            assert extended.features == extended.features
            assert extended.name
            assert extended.url is None or extended.url.endswith("/")

    def test_every_method_whose_flag_is_off_refuses(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is None:
            return
        put(backend, "x")
        calls = {
            "stat": lambda: extended.stat("x"),
            "copy": lambda: extended.copy("x", "y"),
            "move": lambda: extended.move("x", "y"),
            "dirs": lambda: extended.mkdir("folder"),
            "range_read": lambda: extended.open_reader("x"),
        }
        for flag, call in calls.items():
            if getattr(extended.features, flag) or flag == "range_read":
                call()
                put(backend, "x")
            else:
                with refused():
                    call()

    def test_close_is_idempotent_and_final(self, backend: Backend) -> None:
        put(backend, "x")
        backend.close()
        backend.close()
        for call in (
            lambda: backend.open_reader("x"),
            lambda: backend.open_writer("x"),
            lambda: backend.exists("x"),
            lambda: backend.delete("x"),
            lambda: list(backend.list()),
        ):
            with ours(BackendClosed):
                call()

    def test_it_pickles_as_configuration_or_says_why_not(self, backend: Backend) -> None:
        put(backend, "x", b"shared")
        try:
            twin = pickle.loads(pickle.dumps(backend))
        except ConfigError as error:
            assert str(error)
            return
        assert get(twin, "x") == b"shared"
        twin.close()
        assert get(backend, "x") == b"shared"

    def test_its_errors_pickle_and_name_the_path(self, backend: Backend) -> None:
        with ours(NotFound, path="no/such") as caught:
            backend.open_reader("no/such")
        twin = pickle.loads(pickle.dumps(caught.value))
        assert (type(twin), twin.path, str(twin)) == (NotFound, "no/such", str(caught.value))

    def test_its_repr_is_short_and_harmless(self, backend: Backend) -> None:
        assert len(repr(backend)) < 500
