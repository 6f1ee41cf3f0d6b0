"""One place under two names: what a move and a sync must not take for two."""

import os

import pytest

from omnistorage import ConfigError, LocalBackend, MemoryBackend, StorageError
from omnistorage.core import ObjectInfo
from omnistorage.ops.same_bucket import differ_by_host_alone
from omnistorage.ops.volumes import volume_path
from omnistorage.sync import Filter, Plan
from omnistorage.sync.endpoint import Side
from omnistorage.sync.endpoint_aliases import FirstRemoval, is_one_object
from omnistorage.sync.overlap import overlap

from .simulation import Inline
from .stores import bucket, carry_out, day, errors, fill, go, held, memory, put

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 8:1 /srv/data /mnt/bound rw - ext4 /dev/sda1 rw
31 22 8:2 / /media/one rw - xfs /dev/sdb rw
32 22 8:2 / /media/two\\040three rw - xfs /dev/sdb rw
33 22 8:3 / /media/one/inner rw - xfs /dev/sdc rw
"""


class Alias(MemoryBackend):
    """Another name of a store in memory."""

    def __init__(self, other, url):
        super().__init__(dirs=other.features.dirs)
        self.features, self._objects, self._lock = other.features, other._objects, other._lock
        self._etags, self._folders = other._etags, other._folders
        self.url = url


def one_by_one(plan):
    with plan:
        return carry_out(plan, raise_errors=False)


@pytest.mark.parametrize("make", [memory, bucket])
def test_a_move_to_another_name_of_its_source_writes_the_first_object_back_and_stops(make):
    store = fill(make(), "a", "b", "c/d")
    before = held(store)
    report = one_by_one(Plan(store, Alias(store, "memory://another/"), move=True, pool=Inline))
    assert held(store) == before
    assert (report.removed, report.failed) == (0, 1)
    assert not report.ok
    assert report.stopped


def test_an_object_with_odd_metadata_is_written_back():
    store = fill(memory(), "a")
    found = store._objects["a"]
    store._objects["a"] = found._replace(info=found.info._replace(metadata={"good": "1", "Not-Ours": "2"}))
    before = held(store)
    report = one_by_one(Plan(store, Alias(store, "memory://another/"), move=True, pool=Inline))
    assert held(store) == before
    assert dict(store.stat("a").metadata) == {"good": "1"}
    assert report.failed == 1


def test_a_new_copy_in_a_bucket_of_the_same_name_may_be_its_source_as_well():
    """An upload onto itself has the etag of before, where etags are those of content."""
    store = fill(bucket(), "a", "b")
    store.url = "s3+http://127.0.0.1:8333/bench/"
    alias = Alias(store, "s3+http://localhost:8333/bench/")
    removal = FirstRemoval(Side(store, "source"), Side(alias, "destination"))
    before, seen = held(store), store.stat("a")
    with pytest.raises(StorageError):
        removal.remove(seen, seen._replace(modified_at=None), lambda: store.delete("a"), found=False)
    assert held(store) == before
    with pytest.raises(StorageError):
        removal.remove(store.stat("b"), seen._replace(path="b"), lambda: store.delete("b"), found=False)
    assert held(store) == before


def test_what_is_too_long_to_be_held_is_the_only_loss_and_is_said(monkeypatch):
    monkeypatch.setattr("omnistorage.sync.endpoint_aliases._HELD", 3)
    store = fill(memory(), a=b"long", b=b"longer", c=b"longest")
    report = one_by_one(Plan(store, Alias(store, "memory://another/"), move=True, pool=Inline))
    assert set(held(store)) == {"b", "c"}
    assert set(errors(report)) == {"a"}
    assert report.stopped


def test_a_move_looks_once_whether_its_copies_are_still_there():
    src, dst = fill(memory(), "a", "b", "c"), fill(memory(), "a", "b")
    report = go(src, dst, move=True)
    assert (report.removed, set(held(src)), set(held(dst))) == (3, set(), {"a", "b", "c"})


def folders(tmp_path):
    with LocalBackend(tmp_path / "data") as store:
        fill(store, "a", "d/b")
    (tmp_path / "other").mkdir()
    return tmp_path / "data", tmp_path / "other"


def test_a_move_removes_no_file_that_is_the_copy_itself(tmp_path):
    """The other name comes to lead to the source after the plan was made, as a mount does that is not listed."""
    data, other = folders(tmp_path)
    plan = Plan(LocalBackend(data), LocalBackend(other), move=True, pool=Inline)
    other.rmdir()
    other.symlink_to(data)
    report = one_by_one(plan)
    assert (report.removed, report.ok) == (0, False)
    assert (data / "a").read_text() == "data of a"
    assert (data / "d" / "b").read_text() == "data of d/b"


def test_hard_links_in_two_folders_are_two_names_of_which_one_can_go(tmp_path):
    data, other = folders(tmp_path)
    (other / "d").mkdir()
    for name in ("a", "d/b"):
        os.link(data / name, other / name)
    report = go(LocalBackend(data), LocalBackend(other), move=True)
    assert report.removed == 2
    assert (other / "a").read_text() == "data of a"
    assert not (data / "a").exists()


def test_two_objects_of_one_bucket_at_two_hosts_are_one_if_etag_and_upload_are():
    one, other = bucket(), bucket()
    for store in (one, other):
        put(store, "f", b"same")
    one.url, other.url = "s3+http://127.0.0.1:8333/bench/p/", "s3+http://localhost:8333/bench/p/"
    src, dst = Side(one, "source"), Side(other, "destination")
    info = ObjectInfo("f", 4, day(1), etag="x")
    assert is_one_object(src, info, dst, info)
    assert not is_one_object(src, info, dst, info._replace(etag="y"))
    assert not is_one_object(src, info, dst, info._replace(modified_at=day(2)))
    assert not is_one_object(src, info, dst, info._replace(path="g"))
    report = go(one, other, move=True, raise_errors=False)
    assert (report.removed, report.failed) == (0, 1)
    assert held(one) == held(other) == {"f": b"same"}


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("s3+http://a:1/bench/p/", "s3+http://b:1/bench/p/", True),
        ("s3+http://a:1/bench/p/", "s3+http://b:1/bench/p/k/", True),
        ("s3://bench/p/", "s3+https://s3.amazonaws.com/bench/", True),
        ("s3+http://a:1/bench/p/", "s3+http://b:1/bench/q/", False),
        ("s3+http://a:1/bench/p/", "s3+http://a:1/bench/p/", False),
        ("s3+http://a:1/bench/p/", "gs+http://b:1/bench/p/", False),
        ("sftp://a/data/", "sftp://b/data/", False),
        ("s3+http://a:1/bench/p/", None, False),
    ],
)
def test_buckets_that_differ_by_their_host_alone(one, other, found):
    assert differ_by_host_alone(one, other) is found
    assert differ_by_host_alone(other, one) is found


def test_a_sync_that_deletes_warns_where_two_hosts_may_have_one_bucket():
    one, other = bucket(), bucket()
    one.url, other.url = "s3+http://127.0.0.1:1/bench/p/", "s3+http://localhost:1/bench/p/k/"
    fill(one, "a")
    assert len(go(one, other, delete=True).warnings) == 1
    assert go(one, other).warnings == []


def test_a_path_is_found_on_its_volume_whatever_is_mounted_where():
    found = {
        "/srv/data/x": ("8:1", "/srv/data/x"),
        "/mnt/bound/x": ("8:1", "/srv/data/x"),
        "/mnt/bound": ("8:1", "/srv/data/"),
        "/mnt/boundary": ("8:1", "/mnt/boundary"),
        "/media/one/x": ("8:2", "/x"),
        "/media/two three/x": ("8:2", "/x"),
        "/media/one/inner/x": ("8:3", "/x"),
    }
    assert {path: volume_path(path, MOUNTS) for path in found} == found
    assert volume_path("/x", "") is None


@pytest.mark.parametrize(
    ("root", "inner"),
    [("/srv/dst", "mnt"), ("/srv", "mnt/dst"), ("/srv/dst/k", "mnt"), ("/srv/other", None), ("/srv/dst2", None)],
)
def test_a_mount_inside_a_place_that_shows_the_other_is_an_overlap(monkeypatch, tmp_path, root, inner):
    for name in ("src", "dst"):
        (tmp_path / name).mkdir()
    mounts = f"""\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 8:1 /srv/dst {tmp_path}/dst rw - ext4 /dev/sda1 rw
31 22 8:1 {root} {tmp_path}/src/mnt rw - ext4 /dev/sda1 rw
32 22 8:9 /srv/dst {tmp_path}/src/else rw - ext4 /dev/sdb rw
"""
    monkeypatch.setattr("omnistorage.ops.volumes._mounts", lambda: mounts)
    src, dst = Side(tmp_path / "src", "source"), Side(tmp_path / "dst", "destination")
    assert overlap(src, dst) == overlap(dst, src) == inner
    if inner is not None:
        with pytest.raises(ConfigError):
            Plan(tmp_path / "src", tmp_path / "dst", delete=True)
        Plan(tmp_path / "src", tmp_path / "dst", delete=True, filter=Filter.parse(exclude=["/mnt/**"])).close()


def test_two_mounts_of_one_volume_overlap(monkeypatch, tmp_path):
    names = {"data": ("8:1", "/srv"), "bound": ("8:1", "/srv/k"), "other": ("8:1", "/srv2"), "else": ("8:2", "/srv")}
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr("omnistorage.ops.volumes.volume_path", lambda path: names[os.path.basename(path.rstrip("/"))])
    sides = {name: Side(tmp_path / name, "source") for name in names}
    assert overlap(sides["data"], sides["bound"]) == "k"
    assert overlap(sides["bound"], sides["data"]) == "k"
    assert overlap(sides["data"], sides["other"]) is None
    assert overlap(sides["data"], sides["else"]) is None
