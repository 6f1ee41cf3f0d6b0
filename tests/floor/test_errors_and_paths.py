"""The tree of errors, and the two gates that paths pass."""

import errno
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import errors, paths
from omnistorage.errors import (
    CorruptData,
    InvalidPath,
    MissingExtra,
    MultiError,
    NotFound,
    RecordError,
    StorageError,
    SyncError,
)
from omnistorage.testing._kit_write import BAD_NEW_NAMES, GOOD_ODD_NAMES

TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, StorageError)]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_pickles_with_all_it_carries(kind):
    args = ("m", [NotFound("a", path="1"), ValueError("b")]) if issubclass(kind, ExceptionGroup) else ("m",)
    if kind.__name__ == "_GroupError":
        return
    error = kind(*args, path="p/q", backend="memory", op="stat", transient=True, retry_after=2.5)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert (twin.path, twin.backend, twin.op, twin.transient, twin.retry_after) == ("p/q", "memory", "stat", True, 2.5)
    assert str(twin) == str(error)
    assert "m" in str(error)


@pytest.mark.parametrize(
    ("kind", "native"),
    [
        ("NotFound", FileNotFoundError),
        ("AlreadyExists", FileExistsError),
        ("PermissionDenied", PermissionError),
        ("InvalidPath", ValueError),
        ("ConfigError", ValueError),
        ("RecordError", ValueError),
        ("MissingExtra", ImportError),
        ("DeadlineExceeded", TimeoutError),
    ],
)
def test_errors_can_be_caught_as_the_native_ones(kind, native):
    assert issubclass(getattr(errors, kind), native)


def test_an_error_shows_path_op_and_backend():
    text = str(NotFound("no such object", path="a/b", op="stat", backend="local"))
    assert text == "no such object [path='a/b', op='stat', backend='local']"
    error = NotFound("x", path="inner")
    error.path = "outer/inner"  # wrappers rebase
    assert "outer/inner" in str(error)


@pytest.mark.parametrize(
    ("path", "location", "shown"),
    [
        ("a/b", None, "[path='a/b']"),
        ("a/b", "s3://bucket/x/a/b", "[path='s3://bucket/x/a/b']"),
        ("a/b", "/disk/8f3e", "[path='a/b', location='/disk/8f3e']"),  # a wrapper gave it another name
        (None, "s3://bucket/x/", "[path='s3://bucket/x/']"),
    ],
)
def test_an_error_names_the_full_path(path, location, shown):
    error = errors.NotFound("no such object", path=path)
    error.location = location
    assert str(error) == f"no such object {shown}"
    assert (error.errno, error.filename) == (errno.ENOENT, location or path)
    assert pickle.loads(pickle.dumps(error)).location == location


@pytest.mark.parametrize(
    ("url", "path", "location"),
    [
        (None, "a", None),
        ("file:///srv/new%20data/", "a b.txt", "/srv/new data/a b.txt"),
        ("file:///srv/%FF/", "x", "/srv/\udcff/x"),
        ("s3://bucket/", "a b#c?d.txt", "s3://bucket/a%20b%23c%3Fd.txt"),
        ("s3://bucket/x/", "", "s3://bucket/x/"),
        ("s3://bucket/", "\ud800", "s3://bucket/%5Cud800"),
    ],
)
def test_the_location_of_a_path(url, path, location):
    assert paths.location_of(url, path) == location


def test_a_record_error_shows_number_offset_and_a_bounded_piece():
    error = RecordError("not JSON", number=7, offset=123, raw=b"x" * 1_000_000)
    assert len(error.raw) == 65536
    assert str(error).startswith("record 7, byte 123: not JSON")
    assert len(str(error)) < 300


def test_corrupt_data_shows_where():
    assert str(CorruptData("cut off", offset=99)).endswith("(at byte 99)")


def test_a_missing_extra_names_the_command():
    assert 'pip install "omnistorage[s3]"' in str(MissingExtra(extra="s3"))


@pytest.mark.parametrize("kind", [MultiError, SyncError])
def test_group_errors_are_both_a_group_and_ours(kind):
    caught = []
    try:
        raise kind("two failed", [NotFound("a", path="1"), ValueError("b")], path="p")
    except* NotFound as group:
        caught.append((type(group), group.exceptions[0].path, group.path))
    except* ValueError as group:
        caught.append((type(group), str(group.exceptions[0]), group.path))
    assert caught == [(kind, "1", "p"), (kind, "b", "p")]


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_NEW_NAMES)
def test_new_names_that_some_store_would_mangle_are_refused(name):
    with pytest.raises(InvalidPath):
        paths.check_new(name)


@pytest.mark.parametrize("name", [*GOOD_ODD_NAMES, "a/b/c", "x" * 1024, "é" * 512])
def test_odd_but_honest_names_are_accepted(name):
    assert paths.check_new(name) == name
    assert paths.check_key(name) == name


@pytest.mark.parametrize("name", ["a//b", "/a", "a/", "./a", "a\nb", "\udcff", "x" * 5000])
def test_existing_names_are_accepted_however_odd(name):
    assert paths.check_key(name) == name


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../b", "a/..", "a\0b", b"x", None, 5])
def test_escapes_and_nul_are_refused_even_for_existing_names(name):
    with pytest.raises(InvalidPath):
        paths.check_key(name)


@given(st.text(max_size=40))
def test_whatever_is_new_is_also_a_key(name):
    try:
        paths.check_new(name)
    except InvalidPath:
        return
    paths.check_key(name)
    assert all(segment not in ("", ".", "..") for segment in name.split("/"))
    name.encode()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)))
def test_sort_key_orders_by_utf8_bytes(names):
    assert sorted(names, key=paths.sort_key) == sorted(names, key=lambda name: name.encode())


def test_sort_key_keeps_raw_bytes_of_names_that_are_not_utf8():
    assert paths.sort_key("a\udcff") == b"a\xff"


def test_a_prefix_binds_to_a_folder():
    assert paths.is_under("data/x", "data")
    assert not paths.is_under("database/x", "data")
    assert not paths.is_under("data", "data")
    assert paths.is_under("anything", "")
    assert [paths.check_prefix(p) for p in ("", "a", "a/", "a/b/")] == ["", "a", "a", "a/b"]


def test_the_parts_of_a_path():
    assert (paths.parent("a/b/c"), paths.parent("c"), paths.name("a/b/c")) == ("a/b", "", "c")
    assert paths.join("a", "", "b/c") == "a/b/c"
    assert paths.suffixes("x/A.NDJSON.GZ") == [".ndjson", ".gz"]
    assert paths.suffixes(".profile") == []
