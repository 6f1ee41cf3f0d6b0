"""Rules for metadata where the listing shows none, as in S3: each object is asked, and nobody else."""

import threading

import pytest

from omnistorage import MemoryBackend
from omnistorage.core import WriteOptions
from omnistorage.errors import NotFound, PermissionDenied, StorageError
from omnistorage.ops import write_bytes
from omnistorage.sync import Filter, Plan, bisync, check

from ..backends import test_s3
from ..waiting import LIMIT
from .stores import errors, fill, go, held, memory, planned

PRIVATE = Filter.parse(metadata_exclude="access=private")


class Terse(MemoryBackend):
    """Lists no metadata and notes whose ``stat`` was asked for."""

    def __init__(self, **options):
        super().__init__(**{"dirs": False, **options})
        self.asked = []

    def _list(self, prefix, options):
        return (info._replace(metadata=None) for info in super()._list(prefix, options))

    def _list_dir(self, path):
        return (info._replace(metadata=None) for info in super()._list_dir(path))

    def _stat(self, path):
        self.asked.append(path)
        return super()._stat(path)


def store(kind=Terse, **access):
    """A store whose objects have this access, each."""
    made = kind()
    for path, value in access.items():
        tagged(made, path, value)
    return made


def tagged(backend, path, value):
    write_bytes(backend, path, path.encode(), WriteOptions(user_metadata={"access": value}))


def test_what_is_private_is_not_copied():
    src, dst = store(a="public", b="private", c="public"), memory()
    report = go(src, dst, filter=PRIVATE)
    assert report.copied == 2
    assert sorted(held(dst)) == ["a", "c"]
    only = Filter.parse(metadata_include="access=private")
    assert planned(store(a="public", b="private"), memory(), filter=only) == [("copy", "b")]


def test_what_is_private_at_the_destination_is_not_deleted():
    src, dst = store(a="public"), store(a="public", b="private", c="public")
    assert go(src, dst, filter=PRIVATE, delete=True).deleted == 1
    assert sorted(held(dst)) == ["a", "b"]


def test_only_those_are_asked_that_the_other_rules_let_pass():
    src, dst = store(a="private", b="public"), store(c="private", d="public")
    both = Filter.parse(["- b", "- d"], metadata_exclude="access=private", min_size=1)
    assert planned(src, dst, filter=both, delete=True, max_delete="100%") == []
    assert (src.asked, dst.asked) == (["a"], ["c"])


@pytest.mark.parametrize("filter", [Filter(), Filter.parse(["- x"], min_size=0)])
def test_without_rules_for_metadata_nobody_is_asked(filter):
    src, dst = store(a="public", b="private"), store(a="public", c="public")
    planned(src, dst, filter=filter, delete=True)
    assert (src.asked, dst.asked) == ([], [])


def test_a_listing_that_shows_them_is_believed():
    class Shown(Terse):
        _list, _list_dir = MemoryBackend._list, MemoryBackend._list_dir

    src = store(Shown, a="public", b="private")
    assert planned(src, memory(), filter=PRIVATE) == [("copy", "a")]
    assert src.asked == []


@pytest.mark.parametrize("settings", [{}, {"ignore_case": True}, {"sort_listings": True}, {"no_traverse": True}])
def test_the_order_is_that_of_the_listing_however_many_there_are(settings):
    src, dst = Terse(), memory()
    for number in range(700):
        tagged(src, f"n{number:03}", "private" if number % 7 == 0 else "public")
    with Plan(src, dst, filter=PRIVATE, **settings) as plan:
        found = [action.path for action in plan]
    assert found == [f"n{number:03}" for number in range(700) if number % 7]
    assert sorted(src.asked) == [f"n{number:03}" for number in range(700)], "each of them once"


def test_several_are_asked_at_a_time():
    meet = threading.Barrier(4)

    class Meeting(Terse):
        def _stat(self, path):
            meet.wait(LIMIT)  # all fail if they come one by one
            return super()._stat(path)

    src = store(Meeting, a="public", b="private", c="public", d="public")
    with Plan(src, memory(), filter=PRIVATE, checkers=4) as plan:
        assert [action.path for action in plan] == ["a", "c", "d"]


@pytest.mark.parametrize("ignore_errors", [False, True])
@pytest.mark.parametrize("fails", ["source", "destination"])
def test_who_cannot_be_asked_is_neither_copied_nor_deleted(fails, ignore_errors):
    class Denied(Terse):
        def _stat(self, path):
            if path == "b":
                raise PermissionDenied("this is not yours", path=path, op="stat")
            return super()._stat(path)

    src = store(Denied if fails == "source" else Terse, a="public", **({"b": "private"} if fails == "source" else {}))
    dst = store(Denied if fails == "destination" else Terse, a="", b="private", c="", d="", e="")
    before = held(dst)
    report = go(src, dst, filter=PRIVATE, delete=True, ignore_errors=ignore_errors, max_delete=3, raise_errors=False)
    assert held(dst) == before
    assert not report.complete
    assert "exclude it by name to go on: this is not yours" in str(errors(report))
    by_name = Filter.parse(["- b"], metadata_exclude="access=private")
    assert go(src, dst, filter=by_name, delete=True, max_delete=3).ok
    assert sorted(held(dst)) == ["a", "b"]


def test_what_is_gone_when_it_is_asked_was_listed():
    class Gone(Terse):
        def _stat(self, path):
            raise NotFound("no such object", path=path, op="stat")

    assert planned(store(Gone, a="public"), memory(), filter=PRIVATE) == [("copy", "a")]


def test_a_check_asks_both_sides():
    src, dst = store(a="public", b="private", c="public"), store(a="public", c="public", d="private")
    report = check(src, dst, filter=PRIVATE, size_only=True)
    assert report.in_sync
    assert report.match == 2
    assert check(src, dst, filter=Filter.parse(metadata_include="access=private")).differences == 2


def test_two_way_what_is_private_stays_where_it_is():
    a, b, state = store(x="public", y="private"), store(z="private"), memory()
    for _ in range(2):
        bisync(a, b, state=state, filter=PRIVATE)
        assert (sorted(held(a)), sorted(held(b))) == (["x", "y"], ["x", "z"])
    a.asked.clear()
    fill(a, "new")
    assert bisync(a, b, state=state, filter=PRIVATE, max_delete=100).to_path2 == 1
    assert sorted(a.asked) == ["new", "x", "y"], "once each: the listing at the end counts by names"


@pytest.mark.parametrize("side", ["source", "destination"])
def test_on_a_server_that_lists_no_metadata(side):
    with test_s3.fresh("moto") as bucket:
        for path, value in (("f/open", "public"), ("f/secret", "private"), ("plain", "public")):
            tagged(bucket, path, value)
        assert all(info.metadata is None for info in bucket.list()), "else this shows nothing"
        if side == "source":
            dst = memory()
            assert go(bucket, dst, filter=PRIVATE).copied == 2
            assert sorted(held(dst)) == ["f/open", "plain"]
        else:
            assert go(store(new="public"), bucket, filter=PRIVATE, delete=True, max_delete=2).deleted == 2
            assert sorted(held(bucket)) == ["f/secret", "new"]


def test_a_breaking_listing_still_is_a_storage_error():
    class Broken(Terse):
        def _stat(self, path):
            raise StorageError("", path=path)

    with pytest.raises(StorageError, match="cannot be asked for"):
        planned(store(Broken, a="public"), memory(), filter=PRIVATE)
