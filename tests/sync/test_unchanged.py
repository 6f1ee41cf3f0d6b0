"""A local file whose reader cannot say that nothing happened to it: what stands under its name decides."""

import os

import pytest

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.errors import PreconditionFailed
from omnistorage.sync import sync

from .stores import held

DATA = b"x" * 3_000_000
OLD = 1_600_000_000


class Counting(LocalBackend):
    """Counts how often it is asked for the file as it stands there now."""

    looks = 0

    def stat(self, path):
        self.looks += 1
        return super().stat(path)


@pytest.fixture
def source(tmp_path):
    """A file that is old in every respect, so that whatever happens to it gives it other times."""
    file = tmp_path / "source" / "f"
    file.parent.mkdir()
    file.write_bytes(DATA)
    os.utime(file, (OLD, OLD))
    probe = tmp_path / "probe"
    probe.touch()
    while probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        os.utime(probe)
    return file


def sync_while(change, source):
    """What arrives when ``change`` happens behind the first block; the report, and how often was looked."""
    done = []

    def listen(event):
        if event.kind == "bytes" and not done:
            done.append(change(source))

    store, target = Counting(source.parent), MemoryBackend()
    report = sync(store, target, listeners=[listen], raise_errors=False, retries=0)
    assert done
    return held(target), report, store.looks


def in_place(file):
    with open(file, "r+b") as opened:
        opened.write(b"other")


def replaced(file):
    other = file.parent.parent / "other"
    other.write_bytes(DATA)
    os.utime(other, (OLD, OLD))
    other.replace(file)


def renamed(file):
    file.rename(file.parent.parent / "elsewhere")


@pytest.mark.parametrize("change", [in_place, replaced, os.unlink, renamed])
def test_goal_38_what_is_another_file_afterwards_is_not_published(source, change):
    arrived, report, looks = sync_while(change, source)
    assert arrived == {}
    assert [(failure.path, type(failure.error)) for failure in report.failures] == [("f", PreconditionFailed)]
    assert looks == 1


@pytest.mark.parametrize(
    "change", [lambda file: file.chmod(0o600), lambda file: os.link(file, file.parent.parent / "too")]
)
def test_what_is_the_same_file_afterwards_is_published_whatever_else_changed(source, change):
    arrived, report, looks = sync_while(change, source)
    assert arrived == {"f": DATA}
    assert report.ok
    assert looks == 1


def test_nothing_happened_and_nobody_looks_again(source):
    arrived, report, looks = sync_while(lambda file: True, source)
    assert arrived == {"f": DATA}
    assert report.ok
    assert looks == 0
