"""Conformance: listing. Complete, in order, on folder boundaries, with everything a listing carries."""

from __future__ import annotations

import pytest

from omnistorage.core import Backend, ListOptions, ObjectInfo
from omnistorage.errors import InvalidPath, NotFound
from omnistorage.paths import sort_key

from ._kit import Kit, flags, get, keys, ours, put, tree_for, whole


class ListTests(Kit):
    def fill(self, backend: Backend) -> list[str]:
        paths = tree_for(backend)
        for path in paths:
            put(backend, path, path.encode())
        return sorted(paths, key=sort_key)

    def test_an_empty_store_lists_nothing(self, backend: Backend) -> None:
        assert keys(backend) == []

    def test_list_yields_every_object_once(self, backend: Backend) -> None:
        expected = self.fill(backend)
        assert sorted(keys(backend), key=sort_key) == expected

    def test_list_sees_what_others_wrote(self, backend: Backend) -> None:
        self.plant(backend, "planted/x", b"12345")
        assert [(i.path, i.size) for i in backend.list()] == [("planted/x", 5)]

    def test_list_forgets_what_is_deleted(self, backend: Backend) -> None:
        for path in ("a/1", "a/2", "a/3"):
            put(backend, path)
        backend.delete("a/2")
        assert sorted(keys(backend)) == ["a/1", "a/3"]

    def test_list_is_in_key_order_if_it_says_so(self, backend: Backend) -> None:
        expected = self.fill(backend)
        if flags(backend).sorted_list:
            assert keys(backend) == expected

    def test_list_is_lazy(self, backend: Backend) -> None:
        self.fill(backend)
        listing = backend.list()
        assert iter(listing) is listing
        assert isinstance(next(listing), ObjectInfo)
        getattr(listing, "close", lambda: None)()

    def test_a_prefix_is_a_folder_never_a_string_prefix(self, backend: Backend) -> None:
        expected = self.fill(backend)
        assert keys(backend, "data") == keys(backend, "data/") == ["data/x"]
        for prefix in ("a/c", "z", "database"):
            found = sorted(keys(backend, prefix), key=sort_key)
            assert found == [key for key in expected if key.startswith(prefix + "/")]

    def test_a_prefix_with_nothing_under_it_yields_nothing(self, backend: Backend) -> None:
        self.fill(backend)
        for prefix in ("nothing", "a/c/nothing", "data.csv", "dat", "a/c/d/e"):
            assert keys(backend, prefix) == []

    def test_a_prefix_cannot_leave_the_root(self, backend: Backend) -> None:
        put(backend, "x")
        for prefix in ("..", "../x", "a/../..", "../../etc", "a/..", "a\0"):
            with ours(InvalidPath):
                keys(backend, prefix)

    def test_start_after_means_greater_in_bytes(self, backend: Backend) -> None:
        expected = self.fill(backend)
        for after in (*expected, "", "a", "a/", "a/c", "a/c/e", "zzz", "\U0010ffff"):
            found = [info.path for info in backend.list("", ListOptions(start_after=after))]
            wanted = [key for key in expected if sort_key(key) > sort_key(after)]
            assert sorted(found, key=sort_key) == wanted, after
            if flags(backend).sorted_list:
                assert found == wanted

    def test_start_after_works_below_a_prefix(self, backend: Backend) -> None:
        self.fill(backend)
        found = [info.path for info in backend.list("a", ListOptions(start_after="a/c/d"))]
        assert found == ["a/c/e/f"]

    def test_listing_carries_size_time_and_etag(self, backend: Backend) -> None:
        put(backend, "folder/x", b"12345")
        (info,) = backend.list()
        assert (info.path, info.name, info.size, info.kind, info.is_dir) == ("folder/x", "x", 5, "file", False)
        extended = whole(backend)
        if extended is not None and extended.features.stat:
            stat = extended.stat("folder/x")
            assert (stat.size, stat.modified_at, stat.etag) == (info.size, info.modified_at, info.etag)
            assert (info.modified_at is not None) == (extended.features.modified_precision is not None)

    def test_every_listed_path_is_accepted_back(self, backend: Backend) -> None:
        self.fill(backend)
        for info in list(backend.list()):
            assert backend.exists(info.path)
            assert get(backend, info.path) == info.path.encode()
            assert backend.delete(info.path) in (True, None)
        assert keys(backend) == []

    def test_list_speaks_of_objects_not_folders(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is not None and extended.features.dirs:
            extended.mkdir("empty/folder")
            put(backend, "full/x")
            assert keys(backend) == ["full/x"]

    def test_stable_keys_appear_exactly_once_while_others_come_and_go(self, backend: Backend) -> None:
        stable = [f"s/{n:03d}" for n in range(60)]
        for path in stable:
            put(backend, path)
        put(backend, "s/000-goes")
        found = []
        for n, info in enumerate(backend.list()):
            found.append(info.path)
            if n % 10 == 0:
                put(backend, f"s/{n:03d}-comes")
                put(backend, f"a/{n:03d}-before")
                backend.delete("s/000-goes")
        assert sorted(path for path in found if path in set(stable)) == stable
        assert len(found) == len(set(found))

    def test_a_listing_may_be_left_early(self, backend: Backend) -> None:
        self.fill(backend)
        for _ in range(50):
            listing = backend.list()
            next(listing)
        assert len(keys(backend)) == len(tree_for(backend))

    def test_on_error_hears_nothing_when_all_is_well(self, backend: Backend) -> None:
        expected = self.fill(backend)
        errors: list[Exception] = []
        found = [info.path for info in backend.list("", ListOptions(on_error=errors.append))]
        assert (sorted(found, key=sort_key), errors) == (expected, [])

    # -- folder by folder ----------------------------------------------------------------------------------------------

    def test_list_dir_yields_the_immediate_children(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is None:
            return
        for path in ("a/b", "a/c/d", "a/c/e", "a.x", "ab"):
            put(backend, path, b"123")
        assert [(i.path, i.kind) for i in extended.list_dir()] == [("a.x", "file"), ("a", "dir"), ("ab", "file")]
        children = list(extended.list_dir("a"))
        assert [(i.path, i.kind) for i in children] == [("a/b", "file"), ("a/c", "dir")]
        assert children[0].size == 3
        assert list(extended.list_dir("a/")) == children

    def test_list_dir_agrees_with_list(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is None:
            return
        expected = self.fill(backend)
        found: list[str] = []
        folders = [""]
        while folders:
            for info in extended.list_dir(folders.pop()):
                (folders if info.is_dir else found).append(info.path)
        assert sorted(found, key=sort_key) == expected

    def test_list_dir_is_sorted(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is not None:
            self.fill(backend)
            for folder in ("", "a", "z"):
                names = [info.path + "/" * info.is_dir for info in extended.list_dir(folder)]
                assert names == sorted(names, key=sort_key)
                assert len(names) == len(set(names))

    @pytest.mark.parametrize("folder", ["nothing", "full/nothing", "full/x"])
    def test_list_dir_of_no_folder_raises_not_found(self, backend: Backend, folder: str) -> None:
        extended = whole(backend)
        if extended is not None:
            put(backend, "full/x")
            with ours(NotFound, path=folder):
                list(extended.list_dir(folder))

    def test_list_dir_of_an_empty_root_yields_nothing(self, backend: Backend) -> None:
        extended = whole(backend)
        if extended is not None:
            assert list(extended.list_dir()) == []
