"""When two objects count as the same: section 2 of the engine's contract."""

from datetime import timedelta

import pytest

from omnistorage import ConfigError, LocalBackend, MemoryBackend
from omnistorage.checksums import new_hash
from omnistorage.core import ObjectInfo
from omnistorage.sync import SyncOptions, check
from omnistorage.sync.endpoint import Side
from omnistorage.sync.planning.comparison import Comparison

from .stores import Acting, bucket, day, failing, fill, go, held, memory, planned, put, whys

SECOND = timedelta(seconds=1)


class Hashing(MemoryBackend):
    """States digests of what it holds: in listings, or only when it is asked."""

    stated = ("md5",)
    in_listings = True

    def _put(self, path, data, options, op):
        info = super()._put(path, data, options, op)
        found = {}
        for name in self.stated:
            running = new_hash(name)
            running.update(data)
            found[name] = running.hexdigest()
        info = info._replace(hashes=found)
        self._objects[path] = self._objects[path]._replace(info=info)
        return info

    def _list(self, prefix, options):
        return (self._shown(info) for info in super()._list(prefix, options))

    def _list_dir(self, path):
        return (self._shown(info) for info in super()._list_dir(path))

    def _shown(self, info):
        return info if self.in_listings else info._replace(hashes=None)


def hashing(*names, in_listings=True, make=memory, **more):
    kind = type("Hashing", (Hashing,), {"stated": names, "in_listings": in_listings})
    return make(kind, hashes=frozenset(names), **more)


def pair(a, b, *, at=(0, 0), src=memory, dst=memory):
    src, dst = src(), dst()
    put(src, "f", a, at[0])
    put(dst, "f", b, at[1])
    return src, dst


def verdict(src, dst, **settings):
    """What is done about ``f``: the kind of the action, or "nothing"."""
    found = planned(src, dst, **settings)
    assert len(found) <= 1
    return found[0][0] if found else "nothing"


def requests(store):
    return Acting(store, lambda op, number: None)


# --- the order of the rules -------------------------------------------------------------------------------------------


def test_what_the_destination_lacks_is_transferred_whatever_the_rule():
    src = fill(memory(), "f")
    for more in ({"ignore_existing": True}, {"ignore_times": True}, {"update": True}, {"immutable": True}):
        assert verdict(src, memory(), **more) == "copy"
    for name in ("default", "rclone", "aws", "s5cmd", "size", "mtime", "checksum"):
        assert verdict(src, memory(), compare=name) == "copy"


def test_ignore_existing_leaves_what_is_there():
    src, dst = pair(b"new one", b"old", at=(5, 0))
    assert verdict(src, dst, ignore_existing=True) == "skip"
    report = go(src, dst, ignore_existing=True)
    assert held(dst) == {"f": b"old"}
    assert (report.skipped, report.equal) == (1, 0)


def test_ignore_times_transfers_what_is_there():
    src, dst = pair(b"same", b"same")
    assert verdict(src, dst) == "nothing"
    assert verdict(src, dst, ignore_times=True) == "update"


def test_another_size_is_a_difference():
    assert verdict(*pair(b"four", b"fives")) == "update"
    assert whys(*pair(b"four", b"fives")) == {"f": "the size differs"}


def test_an_unknown_size_is_no_difference():
    src, dst = pair(b"four", b"fives")

    def unsized(store):
        class Unsized(type(store)):
            def _list(self, prefix, options):
                return (info._replace(size=None) for info in super()._list(prefix, options))

            def _list_dir(self, path):
                return (info._replace(size=None) for info in super()._list_dir(path))

        store.__class__ = Unsized
        return store

    assert verdict(unsized(src), dst) == "nothing"
    assert verdict(src, unsized(dst)) == "nothing"


def test_go_w5_size_only_looks_at_nothing_but_the_size():
    src, dst = pair(b"this", b"that", at=(0, 9))
    for more in ({"size_only": True}, {"compare": "size"}):
        assert verdict(src, dst, **more) == "nothing"
        assert check(src, dst, **more).in_sync
    src, dst = pair(b"this", b"longer")
    assert verdict(src, dst, size_only=True) == "update"
    assert not check(src, dst, size_only=True).in_sync


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apart", "window", "same"),
    [
        (0, 0, True),
        (1, 0, False),
        (1_999_999, 2, True),
        (2_000_000, 2, False),
        (2_000_001, 2, False),
        (-1_999_999, 2, True),
        (-2_000_000, 2, False),
    ],
)
def test_times_are_equal_if_they_are_strictly_less_than_the_window_apart(apart, window, same):
    src, dst = pair(b"this", b"that")
    info = dst._objects["f"].info
    moved = info._replace(modified_at=info.modified_at + timedelta(microseconds=apart))
    dst._objects["f"] = dst._objects["f"]._replace(info=moved)
    assert (verdict(src, dst, modify_window=window * SECOND) == "nothing") is same


@pytest.mark.parametrize(("one", "other", "configured"), [(2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 2, 1)])
def test_the_window_is_the_largest_of_what_is_configured_and_both_precisions(one, other, configured):
    src, dst = memory(modified_precision=one * SECOND), memory(modified_precision=other * SECOND)
    options = SyncOptions(modify_window=configured * SECOND)
    assert Comparison(Side(src, "source"), Side(dst, "destination"), options).window == 2 * SECOND


def test_another_time_with_the_same_digest_only_mends_the_time():
    make = lambda: hashing("sha256")  # noqa: E731
    src, dst = pair(b"same", b"same", at=(5, 0), src=make, dst=make)
    assert verdict(src, dst) == "touch"
    report = go(src, dst)
    assert (report.touched, report.updated, report.bytes) == (1, 0, 0)
    assert dst.stat("f").modified_at == day(5)
    assert verdict(src, dst) == "nothing"


def test_another_time_with_another_digest_is_a_difference():
    make = lambda: hashing("sha256")  # noqa: E731
    assert whys(*pair(b"this", b"that", at=(5, 0), src=make, dst=make)) == {"f": "the sha256 differs"}


def test_another_time_without_a_common_digest_is_a_difference():
    src, dst = pair(b"same", b"same", at=(5, 0), src=lambda: hashing("md5"), dst=lambda: hashing("sha1"))
    assert whys(src, dst) == {"f": "the time differs"}


def test_the_strongest_common_digest_decides():
    make = lambda: hashing("md5", "sha256", "crc32c")  # noqa: E731
    assert "sha256" in whys(*pair(b"this", b"that", at=(5, 0), src=make, dst=make))["f"]


def test_go_w1_times_are_kept_so_that_the_second_run_has_nothing_to_do():
    src, dst = fill(memory(), "a", "b/c", at=7), memory()
    assert go(src, dst).copied == 2
    assert {info.modified_at for info in dst.list()} == {day(7)}
    report = go(src, dst)
    assert (report.transferred, report.touched, report.equal) == (0, 0, 2)


def test_go_w1_a_store_that_cannot_hold_times_has_nothing_to_do_in_the_second_run_either():
    for metadata in (True, False):
        src, dst = fill(memory(), "a", "b/c", at=7), bucket(metadata=metadata)
        assert go(src, dst).copied == 2
        assert planned(src, dst) == []


# --- update -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "other_size", "found"),
    [
        (2, False, "skip"),
        (2, True, "skip"),
        (3, True, "skip"),
        (1, False, "nothing"),
        (1, True, "update"),
        (0, False, "nothing"),
        (0, True, "update"),
        (-1, True, "update"),
        (-1, False, "nothing"),
        (-2, False, "update"),
        (-2, True, "update"),
    ],
)
def test_update_leaves_a_newer_destination_and_looks_at_the_size_within_the_window(ahead, other_size, found):
    src, dst = memory(), memory()
    put(src, "f", b"this")
    put(dst, "f", b"longer" if other_size else b"that")
    info = dst._objects["f"].info
    dst._objects["f"] = dst._objects["f"]._replace(info=info._replace(modified_at=info.modified_at + ahead * SECOND))
    assert verdict(src, dst, update=True, modify_window=2 * SECOND) == found


def test_update_with_checksum_looks_at_the_digest_within_the_window():
    make = lambda: hashing("md5")  # noqa: E731
    assert verdict(*pair(b"this", b"that", src=make, dst=make), update=True, checksum=True) == "update"
    assert verdict(*pair(b"this", b"this", src=make, dst=make), update=True, checksum=True) == "nothing"
    assert verdict(*pair(b"this", b"that", at=(0, 3), src=make, dst=make), update=True, checksum=True) == "skip"


# --- immutable --------------------------------------------------------------------------------------------------------


def test_immutable_makes_a_difference_an_error_and_changes_nothing():
    src, dst = pair(b"new one", b"old", at=(5, 0))
    fill(src, "added")
    fill(dst, "gone")
    report = go(src, dst, immutable=True, raise_errors=False, delete=True, ignore_errors=True)
    assert held(dst) == {"f": b"old", "added": b"data of added"}
    assert "immutable" in str(report.failures[0].error)
    assert (report.copied, report.updated, report.deleted, report.failed) == (1, 0, 1, 1)


@pytest.mark.parametrize("more", [{}, {"move": True}], ids=["sync", "move"])
def test_immutable_makes_another_time_an_error(more):
    make = lambda: hashing("md5")  # noqa: E731
    src, dst = pair(b"this", b"this", at=(5, 0), src=make, dst=make)
    assert go(src, dst, immutable=True, raise_errors=False, **more).failed == 1
    assert dst.stat("f").modified_at == day(0)
    assert held(src) == {"f": b"this"}


def test_a_move_of_what_is_immutable_replaces_nothing():
    src, dst = pair(b"this", b"that")
    report = go(src, dst, immutable=True, move=True, raise_errors=False)
    assert (held(src), held(dst), report.failed) == ({"f": b"this"}, {"f": b"that"}, 1)


# --- checksum ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"checksum": True}, {"checksum": "strict"}, {"compare": "checksum"}], ids=str)
def test_pain_13_checksum_sees_what_size_and_time_do_not(more):
    make = lambda: hashing("md5")  # noqa: E731
    src, dst = pair(b"this", b"that", src=make, dst=make)
    assert verdict(src, dst) == "nothing"
    assert verdict(src, dst, **more) == "update"
    go(src, dst, **more)
    assert held(dst) == {"f": b"this"}
    assert verdict(src, dst, **more) == "nothing"


def test_pain_13_checksum_sees_what_is_the_same_whatever_the_times_are():
    """As in a tree that a build server makes anew each time."""
    make = lambda: hashing("md5")  # noqa: E731
    for more in ({"checksum": True}, {"compare": "checksum"}):
        assert verdict(*pair(b"same", b"same", at=(9, 0), src=make, dst=make), **more) == "nothing"


def test_go_w6_any_common_digest_serves_and_others_are_not_compared():
    src, dst = pair(b"this", b"that", src=lambda: hashing("md5", "sha1"), dst=lambda: hashing("sha1", "crc32c"))
    assert whys(src, dst, checksum=True) == {"f": "the sha1 differs"}
    src, dst = pair(b"same", b"same", src=lambda: hashing("crc32"), dst=lambda: hashing("crc32"))
    assert whys(src, dst, checksum="strict") == {}


def test_go_w6_checksum_without_any_digest_compares_size_and_time_and_counts_it():
    src, dst = pair(b"this", b"that")
    report = go(src, dst, checksum=True)
    assert held(dst) == {"f": b"that"}
    assert (report.equal, report.by_size_and_time) == (1, 1)
    assert report.as_dict()["by_size_and_time"] == 1
    assert str(report) == "0 equal, 1 by size and time only"
    src, dst = pair(b"this", b"that", at=(9, 0))
    assert verdict(src, dst, checksum=True) == "update", "never less than without it"


def test_checksum_reads_the_files_of_two_folders(tmp_path):
    for name, data in (("a", b"AAAA"), ("b", b"BBBB")):
        with LocalBackend(tmp_path / name) as store:
            put(store, "f", data)
            put(store, "same", b"same", at=7 if name == "a" else 0)
    sides = LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b")
    assert verdict(*sides) == "touch", "sizes and times are those of the other"
    for more in ({"checksum": True}, {"compare": "checksum"}):
        assert whys(*sides, **more) == {"f": "the sha256 differs"}
        report = check(*sides, **more)
        assert (report.match, report.differ, report.by_size_and_time) == (1, 1, 0)
    assert go(*sides, checksum=True).updated == 1
    assert held(sides[1])["f"] == b"AAAA"


def test_go_w6_strict_reads_where_no_digest_is_stated():
    src, dst = pair(b"this", b"that")
    assert verdict(src, dst, checksum="strict") == "update"
    assert verdict(*pair(b"same", b"same", at=(9, 0)), checksum="strict") == "nothing"
    assert not go(*pair(b"same", b"same"), checksum="strict").warnings


def test_go_w6_where_one_side_states_a_digest_the_other_is_read():
    for more in ({"checksum": True}, {"checksum": "strict"}):
        src, dst = pair(b"this", b"that", src=lambda: hashing("sha1"))
        assert whys(src, dst, **more) == {"f": "the sha1 differs"}
        src, dst = pair(b"same", b"same", at=(0, 9), src=lambda: hashing("sha1"))
        assert whys(src, dst, **more) == {}


def test_a_digest_that_only_a_request_shows_is_asked_for():
    make = lambda: hashing("md5", in_listings=False)  # noqa: E731
    src, dst = pair(b"this", b"that", src=make, dst=make)
    assert verdict(src, dst, checksum=True) == "update"
    assert verdict(*pair(b"same", b"same", at=(9, 0), src=make, dst=make), checksum=True) == "nothing"


def test_go_w7_what_cannot_be_asked_is_an_error_and_not_a_match():
    make = lambda: hashing("md5", in_listings=False)  # noqa: E731
    src, dst = pair(b"this", b"that", src=make, dst=make)
    for sides in ((failing(src, "stat", None), dst), (src, failing(dst, "stat", None))):
        assert verdict(*sides, checksum=True) == "error"
        assert "cannot be compared" in whys(*sides, checksum=True)["f"]
        report = go(*sides, checksum=True, raise_errors=False)
        assert (report.failed, report.equal, report.ok) == (1, 0, False)


def test_go_w7_where_a_listing_says_nothing_nothing_matches():
    class Silent(MemoryBackend):
        """Its listing knows names only, and it cannot be asked."""

        def _list(self, prefix, options):
            return (ObjectInfo(info.path) for info in super()._list(prefix, options))

        def _list_dir(self, path):
            return (ObjectInfo(info.path, kind=info.kind) for info in super()._list_dir(path))

    make = lambda: memory(Silent, stat=False, set_modified=False, modified_precision=None)  # noqa: E731
    src, dst = pair(b"one", b"two two", src=make, dst=make)
    for name in ("default", "rclone", "aws", "s5cmd", "size", "mtime"):
        assert verdict(src, dst, compare=name) == "update", name
    found = check(src, dst)
    assert (found.match, found.errors, found.in_sync) == (0, 1, False)


# --- a destination that keeps no times of its own ---------------------------------------------------------------------


def test_by_default_a_bucket_that_has_it_since_the_source_changed_is_equal():
    src, dst = pair(b"this", b"that", at=(0, 0), dst=lambda: bucket(now=lambda: day(1)))
    assert verdict(src, dst) == "nothing"
    src, dst = pair(b"this", b"that", at=(1, 0), dst=lambda: bucket(now=lambda: day(1)))
    assert verdict(src, dst) == "nothing", "the very same moment"
    src, dst = pair(b"this", b"that", at=(2, 0), dst=lambda: bucket(now=lambda: day(1)))
    assert whys(src, dst) == {"f": "the source is newer"}


def test_by_default_a_digest_of_both_listings_decides_for_a_bucket():
    make = lambda: hashing("md5", make=bucket)  # noqa: E731
    source = lambda: hashing("md5")  # noqa: E731
    assert verdict(*pair(b"same", b"same", at=(300, 0), src=source, dst=make)) == "nothing"
    assert verdict(*pair(b"this", b"that", at=(0, 0), src=source, dst=make)) == "update"


def test_go_p3_by_default_no_object_of_a_bucket_is_asked_for():
    names = [f"f{n:04}" for n in range(500)]
    src, dst = fill(memory(dirs=False), *names), fill(bucket(metadata=True), *names)
    one, other = requests(src), requests(dst)
    report = go(one, other, delete=True)
    assert report.equal == 500
    assert set(one.log) | set(other.log) == {"list"}


def test_what_was_copied_to_a_bucket_whose_clock_is_behind_is_known_by_its_kept_time():
    src, dst = memory(), bucket(now=lambda: day(1), metadata=True, copy=False)
    put(src, "f", b"data", at=5)
    go(src, dst)
    assert dst.stat("f").metadata["mtime"].startswith(str(int(day(5).timestamp())))
    assert verdict(src, dst) == "nothing"
    put(src, "f", b"DATA", at=6)
    assert verdict(src, dst) == "update"


def test_etags_of_different_stores_are_never_compared():
    src, dst = pair(b"same", b"same")
    assert src.stat("f").etag == dst.stat("f").etag
    info = dst._objects["f"].info._replace(etag="other")
    dst._objects["f"] = dst._objects["f"]._replace(info=info)
    assert verdict(src, dst) == "nothing"


# --- other people's rules ---------------------------------------------------------------------------------------------


def test_rclones_rule_pays_for_the_kept_times():
    src, dst = memory(), bucket(now=lambda: day(50), metadata=True, copy=False)
    put(src, "f", b"data", at=5)
    go(src, dst)
    put(src, "f", b"DATA", at=3)
    watched = requests(dst)
    assert verdict(src, watched, compare="rclone") == "update", "the source went back in time"
    assert watched.log.count("stat") == 1
    assert verdict(src, dst) == "nothing"
    put(src, "f", b"DATA", at=5)
    assert verdict(src, dst, compare="rclone") == "nothing"


def test_rclones_rule_between_stores_that_hold_times_is_size_and_time():
    assert verdict(*pair(b"this", b"that"), compare="rclone") == "nothing"
    assert verdict(*pair(b"this", b"this", at=(0, 9)), compare="rclone") == "update"


def test_awss_rule_uploads_what_is_newer_and_downloads_what_is_not():
    local, store = memory, lambda: bucket(now=lambda: day(5))
    assert verdict(*pair(b"this", b"that", at=(6, 0), src=local, dst=store), compare="aws") == "update"
    assert verdict(*pair(b"this", b"that", at=(4, 0), src=local, dst=store), compare="aws") == "nothing"
    assert verdict(*pair(b"this", b"that", at=(0, 6), src=store, dst=local), compare="aws") == "update"
    assert verdict(*pair(b"this", b"that", at=(0, 4), src=store, dst=local), compare="aws") == "nothing"
    assert verdict(*pair(b"this", b"longer", at=(0, 4), src=store, dst=local), compare="aws") == "update"


def test_s5cmds_rule_transfers_what_is_newer_or_of_another_size():
    assert verdict(*pair(b"this", b"that", at=(0, 5)), compare="s5cmd") == "nothing"
    assert verdict(*pair(b"this", b"that", at=(5, 5)), compare="s5cmd") == "nothing"
    assert verdict(*pair(b"this", b"that", at=(6, 5)), compare="s5cmd") == "update"
    assert verdict(*pair(b"this", b"longer", at=(0, 5)), compare="s5cmd") == "update"


def test_mtime_is_size_and_time_alone():
    make = lambda: hashing("md5")  # noqa: E731
    assert verdict(*pair(b"same", b"same", at=(5, 0), src=make, dst=make), compare="mtime") == "update"
    assert verdict(*pair(b"this", b"that", src=make, dst=make), compare="mtime") == "nothing"


def test_a_callable_decides_by_itself():
    seen = []

    def rule(a, b):
        seen.append((a.path, a.size, b.size))
        return {"same": True, "other": False, "why": "it is tuesday"}[a.path]

    src, dst = fill(memory(), same=b"1", other=b"1", why=b"1"), fill(memory(), same=b"longer", other=b"1", why=b"1")
    assert whys(src, dst, compare=rule) == {"other": "the given comparison says so", "why": "it is tuesday"}
    assert sorted(seen) == [("other", 1, 1), ("same", 1, 6), ("why", 1, 1)]


def test_an_unknown_rule_is_refused():
    for bad in ({"compare": "best"}, {"checksum": "fast"}, {"size_only": True, "checksum": True}):
        with pytest.raises(ConfigError):
            SyncOptions(**bad)
