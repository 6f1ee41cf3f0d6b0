"""The protocol itself: every status has its error, and an answer that is not SFTP is never taken for one."""

import errno
import struct

import pytest

from omnistorage.backends.sftp.paths import info_of, read_folder, translate, why_not
from omnistorage.backends.sftp.protocol import Answer, Attrs, Lost, Session, Status, Stopped, string
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
    WriterClosed,
)

EXPECTED = {
    2: NotFound, 3: PermissionDenied, 5: InvalidPath, 8: CapabilityNotSupported, 10: NotFound, 11: AlreadyExists,
    18: DirectoryNotEmpty, 19: NotFound, 24: InvalidPath,
}  # fmt: skip
GREETING = struct.pack(">IBI", 5, 2, 3)


@pytest.mark.parametrize("code", range(1, 32))
def test_goal_24_every_status_has_its_error_and_none_is_worth_a_retry(code):
    error = translate(Status(code, "what the server said"))
    assert type(error) is EXPECTED.get(code, StorageError)
    assert not error.transient
    assert error.args[0]


def test_of_what_a_server_says_no_more_is_repeated_than_a_person_reads():
    assert len(str(translate(Status(4, "x" * 100_000)))) < 1000


def test_goal_24_only_a_lost_connection_may_be_tried_again():
    assert [translate(Status(code, "full")).errno for code in (14, 15)] == [errno.ENOSPC, errno.EDQUOT]
    assert type(translate(Lost("gone"))) is BackendUnavailable
    assert translate(Lost("gone")).transient
    assert type(translate(Stopped())) is WriterClosed
    assert translate(KeyError("a mistake of ours")) is None


class Channel:
    """Plays back what a server could say."""

    def __init__(self, *said):
        self.said = list(said)

    def settimeout(self, seconds):
        pass

    def send(self, data):
        return len(data)

    def recv(self, size):
        return self.said.pop(0) if self.said else b""


@pytest.mark.parametrize(
    "said",
    [
        (),
        (b"",),
        (b"Welcome to the machine!\n",),
        (struct.pack(">IB", 0xFFFFFFFF, 2),),
        (struct.pack(">IB", 1, 2),),
        (struct.pack(">IBI", 5, 2, 2),),
        (struct.pack(">IBI", 7, 2, 3) + b"\0\0",),
        (struct.pack(">IBI", 13, 2, 3) + struct.pack(">II", 99, 1),),
        (GREETING[:3],),
    ],
)
def test_a_greeting_that_is_not_sftp_is_refused(said):
    lost = []
    with pytest.raises(Lost) as caught:
        Session(Channel(*said), 1, lambda: lost.append(1))
    assert str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack(">IBI", 5, 105, 1),  # attributes without a word in them
        struct.pack(">IBII", 9, 105, 1, 1),  # a size that is not there
        struct.pack(">IBII", 9, 102, 1, 4),  # a handle instead
        struct.pack(">IBI", 4, 105, 1),
        struct.pack(">IB", 17 << 20, 105),
    ],
)
def test_an_answer_that_is_cut_short_or_something_else_is_an_error(answer):
    session = Session(Channel(GREETING, answer), 1, lambda: None)
    with pytest.raises(Lost):
        session.call(7, string(b"/x"), want=105).attrs()


def test_answers_may_come_in_any_order_and_in_any_pieces():
    said = b"".join(struct.pack(">IBIIQ", 17, 105, number, 1, number * 10) for number in (3, 1, 2))
    session = Session(Channel(GREETING, *(said[n : n + 1] for n in range(len(said)))), 1, lambda: None)
    slots = [session.send(7, string(b"/x")) for _ in range(3)]
    assert [session.answer(slot, 105).attrs().size for slot in slots] == [10, 20, 30]


@pytest.mark.parametrize("name", [b"", b"../../etc/passwd", b"a/b", b"a\0b", b"x" * 1025])
def test_goal_40_a_server_cannot_list_a_name_that_leads_elsewhere(name):
    entries = struct.pack(">I", 1) + string(name) + string(b"") + Attrs(size=1).packed()
    handle = struct.pack(">IBI", 10, 102, 1) + string(b"h")
    named = struct.pack(">IBI", 5 + len(entries), 104, 2) + entries
    end = struct.pack(">IBII", 9, 101, 3, 1)
    session = Session(Channel(GREETING, handle, named, end), 1, lambda: None)
    with pytest.raises(StorageError, match="cannot be one"):
        list(read_folder(session, b"/"))


def test_attributes_survive_the_way_there_and_back():
    for attrs in (
        Attrs(),
        Attrs(size=1 << 40),
        Attrs(mode=0o100644),
        Attrs(atime=5, mtime=(1 << 32) - 1),
        Attrs(7, 0o40755, 1, 2),
    ):
        assert Answer(memoryview(attrs.packed())).attrs() == attrs
    more = struct.pack(">IIIII", 0x8000000A, 1, 2, 3, 4) + struct.pack(">I", 1) + string(b"k") + string(b"v") + b"rest"
    answer = Answer(memoryview(more))
    assert answer.attrs() == Attrs(atime=3, mtime=4)
    assert bytes(more[answer._at :]) == b"rest"


def test_what_a_server_leaves_out_is_none_and_not_zero():
    info = info_of("x", Attrs())
    assert (info.size, info.modified_at, info.etag, info.kind) == (None, None, None, "file")
    assert info_of("x", Attrs(size=1)).etag is None


@pytest.mark.parametrize(
    "path",
    [
        "a//b", "/a", "a/", "./a", "a/.", "n" * 256, "é" * 128, "\ud800",
        "x/.omnistorage-0123456789abcdef.tmp", ".omnistorage-0123456789abcdef.old",
    ],
)  # fmt: skip
def test_names_that_would_alias_others_or_ours_are_refused(path):
    assert why_not(path)


@pytest.mark.parametrize("path", ["a", "a/b", ".a", "a.", ".omnistorage-x.tmp", "n" * 255, "caf\udce9", "..a"])
def test_other_names_are_fine(path):
    assert why_not(path) is None
