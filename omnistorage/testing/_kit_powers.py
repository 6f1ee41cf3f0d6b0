"""Conformance: powers, each where the backend has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from omnistorage.core import (
    Append,
    Backend,
    BulkDelete,
    Confine,
    FolderTimes,
    HealthCheck,
    Links,
    Purge,
    ReadRanges,
    SetMetadata,
    Settle,
    power,
)
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, ConfigError, InvalidPath, NotFound, StorageError

from ._kit import Kit, flags, keys, ours, put, whole


class PowerTests(Kit):
    def test_three_flags_say_that_a_power_is_there(self, backend: Backend) -> None:
        features = flags(backend)
        for flag, kind in (("append", Append), ("purge", Purge), ("set_modified", SetMetadata)):
            assert getattr(features, flag) is (power(backend, kind) is not None), flag

    def test_append_writes_at_the_end(self, backend: Backend) -> None:
        if (can := power(backend, Append)) is None:
            return
        for part in (b"one", b"two"):
            with can.open_appender("log/x") as writer:
                writer.write(part)
        assert self.peek(backend, "log/x") == b"onetwo"
        with pytest.raises(KeyError), can.open_appender("log/x") as writer:
            writer.write(b"three")
            raise KeyError
        assert self.peek(backend, "log/x") == b"onetwo"

    def test_set_metadata_changes_the_time_and_not_the_bytes(self, backend: Backend) -> None:
        if (can := power(backend, SetMetadata)) is None:
            return
        when = datetime(2021, 5, 6, 7, 8, 9, tzinfo=UTC)
        put(backend, "x", b"bytes")
        can.set_metadata("x", modified_at=when)
        found = next(iter(backend.list())).modified_at
        assert found is not None
        assert abs(found - when) <= (flags(backend).modified_precision or timedelta(0))
        assert self.peek(backend, "x") == b"bytes"
        with ours(NotFound, path="nothing"):
            can.set_metadata("nothing", modified_at=when)
        with ours(ConfigError):
            can.set_metadata("x", modified_at=when.replace(tzinfo=None))
        with ours(StorageError):
            can.set_metadata("x", user_metadata={"Not a key": "\n"})
        assert self.peek(backend, "x") == b"bytes"

    def test_a_folders_time_can_be_set_where_listings_show_it(self, backend: Backend) -> None:
        if (can := power(backend, FolderTimes)) is None:
            return
        when = datetime(2021, 5, 6, 7, 8, 9, tzinfo=UTC)
        put(backend, "folder/inner/x", b"x")
        can.set_folder_time("folder/inner", when)
        listed = whole(backend)
        assert listed is not None
        (info,) = listed.list_dir("folder")
        assert (info.path, info.kind) == ("folder/inner", "dir")
        assert info.modified_at is not None
        assert abs(info.modified_at - when) <= (flags(backend).modified_precision or timedelta(0))
        assert self.peek(backend, "folder/inner/x") == b"x"
        for nothing in ("nothing", "folder/inner/x", "folder/inner/x/y"):
            with ours(NotFound, path=nothing):
                can.set_folder_time(nothing, when)
        with ours(ConfigError):
            can.set_folder_time("folder/inner", when.replace(tzinfo=None))
        with ours(InvalidPath):
            can.set_folder_time("folder//inner", when)

    def test_links_are_made_and_read_as_such(self, backend: Backend) -> None:
        if (can := power(backend, Links)) is None:
            return
        if not _tells(can):
            return
        when = datetime(2021, 5, 6, 7, 8, 9, tzinfo=UTC)
        put(backend, "folder/real", b"content")
        listed = whole(backend)
        assert listed is not None
        for name, target in (("link", "real"), ("up", "../elsewhere"), ("far", "/nowhere/at all"), ("ü", "\udcff")):
            try:
                info = can.make_link(f"folder/{name}", target, modified_at=when)
            except InvalidPath:  # a folder of a backend takes no link that leads out of it
                assert name == "far"
                continue
            assert can.read_link(f"folder/{name}") == (target, info)
            assert (info.path, info.kind) == (f"folder/{name}", "link")
            assert info.modified_at is not None
            assert abs(info.modified_at - when) <= (flags(backend).modified_precision or timedelta(0))
            assert info in list(listed.list_dir("folder"))
        assert self.peek(backend, "folder/link") == b"content"
        assert can.make_link("new/folder/x", "y").path == "new/folder/x"
        assert can.read_link("new/folder/x")[0] == "y"
        for nothing in ("nothing", "folder", "folder/real", "folder/real/x"):
            with ours(NotFound, path=nothing):
                can.read_link(nothing)

    def test_a_link_replaces_an_object_or_nothing(self, backend: Backend) -> None:
        if (can := power(backend, Links)) is None:
            return
        if not _tells(can):
            return
        put(backend, "x", b"old")
        put(backend, "folder/inner")
        if flags(backend).create_only:
            with ours(AlreadyExists, path="x"):
                can.make_link("x", "y", overwrite=False)
            assert can.make_link("new", "y", overwrite=False).kind == "link"
            with ours(AlreadyExists, path="new"):
                can.make_link("new", "z", overwrite=False)
            assert can.read_link("new")[0] == "y"
            assert backend.delete("new") in (True, None)
        assert self.peek(backend, "x") == b"old"
        can.make_link("x", "y")
        can.make_link("x", "z")
        assert can.read_link("x")[0] == "z"
        with ours(InvalidPath, path="folder"):
            can.make_link("folder", "y")
        for target in ("", "a\0b", "x" * 5000):
            with ours(InvalidPath, path="x"):
                can.make_link("x", target)
        with ours(ConfigError):
            can.make_link("x", "y", modified_at=datetime(2021, 5, 6))
        assert can.read_link("x")[0] == "z"
        put(backend, "x", b"new")
        assert self.peek(backend, "x") == b"new"
        # Nothing hidden is left: the folders go with what was in them.
        assert keys(backend) == ["folder/inner", "try/link", "x"]

    def test_no_link_leads_out_of_the_folder_that_a_backend_is_confined_to(self, backend: Backend) -> None:
        if (can := power(backend, Links)) is None or not _tells(can):
            return
        confine = power(backend, Confine)
        assert confine is not None, "links need a way to confine them"
        put(backend, "a/inner/x", b"inside")
        put(backend, "b/secret", b"outside")
        for name, target in (("file", "../b/secret"), ("folder", "../b"), ("inner/far", "../../b"), ("in", "inner")):
            can.make_link(f"a/{name}", target)
        confined = confine.confined("a")
        for way in ("file", "folder/secret", "inner/far/secret", "in/far/secret"):
            with ours(InvalidPath, path=f"a/{way}"):
                confined.open_reader(f"a/{way}")
            assert not confined.exists(f"a/{way}")
        for way in ("folder", "inner/far"):
            with ours(InvalidPath, path=f"a/{way}"):
                list(confined.list(f"a/{way}"))
            with ours(InvalidPath, path=f"a/{way}/new"):
                confined.open_writer(f"a/{way}/new")
            with ours(InvalidPath, path=f"a/{way}/secret"):
                confined.delete(f"a/{way}/secret")
        links = power(confined, Links)
        assert links is not None
        for name, target in (("new", "../b/secret"), ("inner/new", "../../b"), ("new", "/b")):
            with ours(InvalidPath, path=f"a/{name}"):
                links.make_link(f"a/{name}", target)
        assert links.make_link("a/inner/new", "../file").kind == "link"
        with confined.open_reader("a/in/x") as reader:
            assert reader.read() == b"inside"
        assert self.peek(backend, "b/secret") == b"outside"
        assert keys(backend) == ["a/file", "a/folder", "a/in", "a/inner/far", "a/inner/new", "a/inner/x", "b/secret",
                                 "try/link"]  # fmt: skip

    def test_no_link_leads_to_a_folder_outside_of_one_that_a_backend_is_confined_to_before(
        self, backend: Backend
    ) -> None:
        if (can := power(backend, Links)) is None or not _tells(can):
            return
        confine = power(backend, Confine)
        assert confine is not None, "links need a way to confine them"
        put(backend, "a/inner/x", b"inside")
        put(backend, "b/secret", b"outside")
        can.make_link("a/out", "../b")
        can.make_link("a/in", "inner")
        first = power(confine.confined("a"), Confine)
        assert first is not None
        outside = first.confined("a/out")
        for attempt in (outside.open_reader, outside.open_writer, outside.delete):
            with ours(InvalidPath, path="a/out/secret"):
                attempt("a/out/secret")
        with ours(InvalidPath, path="a/out"):
            list(outside.list("a/out"))
        assert self.peek(backend, "b/secret") == b"outside"
        with first.confined("a/in").open_reader("a/in/x") as reader:
            assert reader.read() == b"inside"
        new = power(confine.confined("new"), Confine)
        assert new is not None
        put(new.confined("new/inner"), "new/inner/x", b"made")
        assert self.peek(backend, "new/inner/x") == b"made"

    def test_purge_removes_a_folder_and_nothing_else(self, backend: Backend) -> None:
        if (can := power(backend, Purge)) is None:
            return
        for path in ("data/x", "data/y/z", "database/x", "data.csv"):
            put(backend, path)
        can.purge("data")
        assert sorted(keys(backend)) == ["data.csv", "database/x"]
        with ours(NotFound):
            can.purge("data")
        for wrong in ("", "..", "../x"):
            with ours(InvalidPath):
                can.purge(wrong)

    def test_read_ranges_answers_in_the_order_asked(self, backend: Backend) -> None:
        if (can := power(backend, ReadRanges)) is None:
            return
        put(backend, "x", b"0123456789")
        assert can.read_ranges("x", [(5, 2), (0, 1), (8, 5)]) == [b"56", b"0", b"89"]
        with ours(NotFound, path="nothing"):
            can.read_ranges("nothing", [(0, 1)])
        for wrong in ((-1, 2), (0, -1)):
            with ours(ConfigError):
                can.read_ranges("x", [(0, 1), wrong])

    def test_delete_many_answers_for_each_path(self, backend: Backend) -> None:
        if (can := power(backend, BulkDelete)) is None:
            return
        paths = [f"x/{n}" for n in range(20)]
        for path in paths:
            put(backend, path)
        put(backend, "y")
        assert sorted(can.delete_many([*paths, "nothing"])) == [(p, None) for p in sorted([*paths, "nothing"])]
        assert keys(backend) == ["y"]

    def test_settle_tells_what_counts_and_changes_no_byte(self, backend: Backend) -> None:
        if (can := power(backend, Settle)) is None:
            return
        put(backend, "folder/x", b"bytes")
        for _ in range(2):
            assert can.settle("folder/x") is True
            for nothing in ("nothing", "folder", "folder/x/y"):
                assert can.settle(nothing) is False
        with ours(InvalidPath):
            can.settle("../x")
        assert self.peek(backend, "folder/x") == b"bytes"
        assert keys(backend) == ["folder/x"]

    def test_a_healthy_backend_says_so(self, backend: Backend) -> None:
        if (can := power(backend, HealthCheck)) is not None:
            put(backend, "x")
            can.check_health()


def _tells(links: Links) -> bool:
    """Whether the server tells where a link leads; those that do not say so."""
    links.make_link("try/link", "target")
    try:
        assert links.read_link("try/link")[0] == "target"
    except CapabilityNotSupported as error:
        assert error.capability == "links"
        return False
    return True
