"""WebDAV: writes that appear whole, deletes that take nothing else along, answers that get lost."""

import gc
import os
import random
import threading
import time
import tracemalloc
import warnings
from datetime import timedelta

import pytest

from omnistorage import ops
from omnistorage.core import CopyOptions, StaleUploads, WriteOptions, power
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    WriterClosed,
)

from ..servers import server
from ..servers.proxy import Answer, Lost, Proxy, Reset, Unsent
from ..waiting import LIMIT
from .http_places import file_dispose, file_peek, file_plant, on_disk, patient

SERVERS = ["wsgidav_serial", "nginx"]


@pytest.fixture(params=SERVERS)
def kind(request):
    return request.param


@pytest.fixture
def proxy(kind):
    with Proxy(server(kind)["port"]) as proxy:
        yield proxy


@pytest.fixture
def store(kind, proxy):
    nginx = kind == "nginx"
    options = {"listing": "index"} if nginx else {"conditional_writes": True}
    store = on_disk(
        kind, "put/" if nginx else "", port=proxy.port, dav=True, policy=patient(), read_timeout=10, **options
    )
    yield store
    file_dispose(store)


@pytest.fixture
def dav():
    with Proxy(server("wsgidav_serial")["port"]) as proxy:
        store = on_disk("wsgidav_serial", "", port=proxy.port, dav=True, conditional_writes=True, policy=patient())
        store.proxy = proxy
        yield store
        file_dispose(store)


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def on_the_disk(store):
    return sorted(str(file.relative_to(store.disk)) for file in store.disk.rglob("*") if file.is_file())


# -- writes ------------------------------------------------------------------------------------------------------------


def test_a_write_makes_its_folders_and_leaves_no_temporary(store):
    put(store, "a/b/c/x", b"1")
    put(store, "a/b/c/x", b"2")
    assert on_the_disk(store) == ["a/b/c/x"]
    assert file_peek(store, "a/b/c/x") == b"2"


def test_a_large_body_is_sent_with_its_length_from_bounded_memory(store, proxy):
    block = random.Random(5).randbytes(1 << 20)
    tracemalloc.start()
    try:
        with store.open_writer("deep/big") as writer:
            for _ in range(24):
                writer.write(block)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20, "the proxy in this process holds it, we do not"
    finally:
        tracemalloc.stop()
    assert file_peek(store, "deep/big") == block * 24
    (head,) = [head for head in proxy.heads if head.startswith(b"PUT")]
    assert b"Content-Length: 25165824" in head
    assert b"chunked" not in head


def test_requests_per_call_are_as_few_as_the_protocol_allows(store, proxy):
    put(store, "x", b"1")
    for call, most in (
        (lambda: put(store, "y", b"1"), 4),  # PUT, a look, MOVE, a look
        (lambda: ops.read_bytes(store, "x"), 1),
        (lambda: store.exists("x"), 1),
        (lambda: list(store.list()), 1),
        (lambda: store.copy("x", "z"), 5),
        (lambda: store.move("z", "w"), 4),
        (lambda: store.delete("w"), 2),
    ):
        proxy.forget()
        call()
        assert len(proxy.requests) <= most, proxy.requests


@pytest.mark.parametrize("end", ["abort", "exception", "drop", "prepared"])
def test_goal_8_pain_1_pain_2_what_is_not_closed_is_never_seen_and_is_cleared_away(store, end):
    put(store, "x", b"old")
    writer = store.open_writer("x")
    writer.write(b"new")
    if end in ("drop", "prepared"):
        writer.prepare()
        assert len(on_the_disk(store)) == 2, "the temporary is there, and hidden"
        assert [info.path for info in store.list()] == ["x"]
    if end == "exception":
        with pytest.raises(KeyError), writer:
            raise KeyError
    elif end == "drop":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del writer
            gc.collect()
        assert store.exists("x"), "the next call removes it"
    else:
        writer.abort()
    assert on_the_disk(store) == ["x"]
    assert file_peek(store, "x") == b"old"


def test_goal_8_a_dropped_writers_temporary_is_removed_when_the_backend_is_closed(store):
    writer = store.open_writer("x")
    writer.prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del writer
        gc.collect()
    store.close()
    assert on_the_disk(store) == []


def test_a_temporary_is_no_object_by_its_name(store):
    writer = store.open_writer("x")
    writer.prepare()
    (name,) = on_the_disk(store)
    assert not store.exists(name)
    for call in (store.open_reader, store.stat, store.delete, store.open_writer):
        with pytest.raises(InvalidPath, match="temporary"):
            call(name)
    writer.abort()


@pytest.mark.parametrize(
    "fault", [Unsent("PUT", 100), Reset("PUT"), Lost("PUT"), Answer("PUT", 503), Answer("PUT", 500)]
)
def test_a_body_that_does_not_arrive_is_sent_again(store, proxy, fault):
    data = random.Random(6).randbytes(300_000)
    proxy.next(fault)
    put(store, "x", data)
    assert file_peek(store, "x") == data
    assert proxy.count("PUT") == 2
    assert on_the_disk(store) == ["x"]


def test_a_write_that_fails_for_good_leaves_the_old_object_and_nothing_else(store, proxy):
    put(store, "x", b"old")
    for fault, kind in ((Answer("PUT", 507), StorageError), (Answer("PUT", 403), PermissionDenied)):
        proxy.next(fault)
        with pytest.raises(kind):
            put(store, "x", b"new")
        assert on_the_disk(store) == ["x"]
    for fault, kind in ((Answer("MOVE", 403), PermissionDenied), (Answer("MOVE", 207), PermissionDenied)):
        proxy.next(fault)
        with pytest.raises(kind):
            put(store, "x", b"new")
        assert on_the_disk(store) == ["x"]
    assert file_peek(store, "x") == b"old"


def test_an_abort_from_another_thread_ends_a_body_on_its_way(store):
    writer = store.open_writer("x")
    writer.write(bytes(20 << 20))
    throttle, reached = store.policy.throttle, threading.Event()

    def slow(size):
        reached.set()
        while not writer._abort_asked:
            time.sleep(0.001)
        throttle(size)

    store.policy.throttle = slow
    failed = []

    def close():
        try:
            writer.close()
        except StorageError as error:
            failed.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    assert reached.wait(LIMIT)
    writer.abort()
    thread.join(LIMIT)
    assert isinstance(failed[0], WriterClosed)
    assert not store.exists("x")
    assert list(store.list()) == []


# -- what must not be taken along --------------------------------------------------------------------------------------


def test_a_folder_is_never_replaced_moved_copied_or_deleted_as_an_object(store):
    put(store, "folder/x", b"precious")
    put(store, "y", b"1")
    with pytest.raises(InvalidPath):
        put(store, "folder", b"over it")
    for call in (store.copy, store.move):
        with pytest.raises(InvalidPath):
            call("y", "folder")
        with pytest.raises(NotFound):
            call("folder", "z")
    assert store.delete("folder") is False
    assert on_the_disk(store) == ["folder/x", "y"]
    with pytest.raises(InvalidPath, match="object"):
        put(store, "y/below", b"1")


def test_what_comes_into_a_folder_while_it_is_removed_is_put_back(dav):
    dav.mkdir("folder")
    real = dav._demand_empty

    def overtaken(folder, path):
        real(folder, path)
        if folder == "folder":
            file_plant(dav, "folder/late", b"precious")

    dav._demand_empty = overtaken
    with pytest.raises(DirectoryNotEmpty):
        dav.rmdir("folder")
    assert on_the_disk(dav) == ["folder/late"]


def test_nginx_cannot_make_folders_by_themselves_and_says_so():
    store = on_disk("nginx", "put/", dav=True, listing="index")
    for call in (lambda: store.mkdir("x"), lambda: store.rmdir("x")):
        with pytest.raises(CapabilityNotSupported):
            call()
    with pytest.raises(InvalidPath, match="dot"):
        put(store, ".hidden")
    assert power(store, StaleUploads) is None
    file_dispose(store)


@pytest.mark.parametrize("name", ["a?b", "a;b", "x/a?b=c"])
def test_a_name_that_servers_read_differently_is_refused_before_anything_is_sent(dav, name):
    put(dav, "a", b"precious")
    for call in (lambda: put(dav, name), lambda: dav.copy("a", name), lambda: dav.move("a", name)):
        with pytest.raises(InvalidPath, match="differently"):
            call()
    assert on_the_disk(dav) == ["a"]


# -- answers that get lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [True, False])
def test_goal_26_a_publication_whose_answer_was_lost_is_found(store, proxy, overwrite):
    if not overwrite and not store.features.create_only:
        return
    proxy.next(Lost("MOVE"))
    put(store, "x", b"ours", overwrite=overwrite)
    assert file_peek(store, "x") == b"ours"
    assert proxy.count("MOVE") == 1, "done once, and looked for"


def test_goal_26_a_publication_that_never_arrived_is_sent_again(store, proxy):
    proxy.next(Answer("MOVE", 502))
    put(store, "x", b"ours")
    assert file_peek(store, "x") == b"ours"
    assert proxy.count("MOVE") == 2


def test_goal_26_when_nobody_answers_any_more_the_outcome_is_unknown(dav):
    dav.policy.retries = 1
    dav.proxy.next(Lost("MOVE"), *[Reset("PROPFIND")] * 3)
    writer = dav.open_writer("x")
    writer.write(b"1")
    real = dav._look
    asked = []

    def look(path):
        asked.append(path)
        if len(asked) > 1:
            raise BackendUnavailable("gone")
        return

    dav._look = look
    with pytest.raises(OutcomeUnknown):
        writer.close()
    dav._look = real
    assert file_peek(dav, "x") == b"1", "and it had happened"


def test_goal_26_a_conflict_is_a_conflict_and_never_a_success(dav):
    put(dav, "x", b"theirs")
    dav.proxy.next(Lost("PUT"))
    with pytest.raises(AlreadyExists):
        put(dav, "x", b"ours", overwrite=False)
    assert on_the_disk(dav) == ["x"]
    assert file_peek(dav, "x") == b"theirs"


def test_goal_26_a_delete_or_move_whose_answer_was_lost_was_done(store, proxy):
    put(store, "x", b"12345")
    proxy.next(Lost("DELETE"))
    assert store.delete("x") is None, "it is gone, and nobody can say by whom"
    put(store, "x", b"12345")
    proxy.next(Lost("MOVE"))
    assert store.move("x", "y").size == 5
    assert on_the_disk(store) == ["y"]


def test_goal_26_a_move_whose_target_then_is_another_is_unknown(dav):
    put(dav, "x", b"12345")
    real = dav._check_arrival

    def late(dst, moved, lost):
        file_plant(dav, "y", b"somebody else's")
        real(dst, moved, lost)

    dav._check_arrival = late
    dav.proxy.next(Lost("MOVE"))
    with pytest.raises(OutcomeUnknown):
        dav.move("x", "y")


# -- conditions --------------------------------------------------------------------------------------------------------


def test_pain_14_conditions_are_refused_unless_the_server_is_said_to_keep_them():
    store = on_disk("wsgidav", "", dav=True)
    put(store, "x")
    for options in ({"overwrite": False}, {"if_match": "e"}):
        with pytest.raises(CapabilityNotSupported, match="conditional_writes=True"):
            put(store, "y", **options)
    with pytest.raises(CapabilityNotSupported):
        store.delete("x", if_match="e")
    file_dispose(store)


def test_rs_7_2_pain_14_sixteen_writers_of_one_new_key_have_one_winner(dav):
    start, won, lost = threading.Barrier(16), [], []

    def run(number):
        start.wait()
        try:
            put(dav, "race", b"%d" % number, overwrite=False)
            won.append(number)
        except AlreadyExists:
            lost.append(number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 15)
    assert file_peek(dav, "race") == b"%d" % won[0]
    assert on_the_disk(dav) == ["race"]


def test_conditions_are_sent_too_for_what_changes_after_the_look(dav):
    put(dav, "x", b"old")
    etag = dav.stat("x").etag
    real = dav._renamed

    def overtaken(*args):
        file_plant(dav, "x", b"theirs, and newer")
        return real(*args)

    dav._renamed = overtaken
    with pytest.raises(PreconditionFailed):
        put(dav, "x", b"ours", if_match=etag)
    assert file_peek(dav, "x") == b"theirs, and newer"
    dav._renamed = real
    with pytest.raises(PreconditionFailed):
        dav.copy("x", "y", CopyOptions(source_if_match=etag))
    assert on_the_disk(dav) == ["x"]


# -- listings and leftovers --------------------------------------------------------------------------------------------


def test_goal_30_a_folder_is_asked_for_with_depth_1_never_infinity(dav):
    for path in ("a/b/x", "a/y", "z"):
        put(dav, path)
    dav.proxy.forget()
    assert [info.path for info in dav.list()] == ["a/b/x", "a/y", "z"]
    assert [line.split()[0] for line in dav.proxy.requests] == ["PROPFIND"] * 3
    assert all(b"Depth: 1\r\n" in head for head in dav.proxy.heads)


def multistatus(*rows):
    body = "".join(f"<D:response><D:href>{href}</D:href>{rest}</D:response>" for href, rest in rows)
    return f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{body}</D:multistatus>'.encode()


FOUND = "<D:propstat><D:prop>{}</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>"
FOLDER = FOUND.format("<D:resourcetype><D:collection/></D:resourcetype>")
FILE = FOUND.format("<D:getcontentlength>3</D:getcontentlength>")


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "%2e%2e", "a%2Fb", "a%00b", "."])
def test_goal_40_a_server_cannot_list_a_name_that_leads_elsewhere(dav, name):
    root = dav.root.path
    rows = [(root, FOLDER), (root + name, FILE)]
    dav.proxy.next(Answer("PROPFIND", 207, multistatus(*rows), {"Content-Type": "application/xml"}))
    try:
        assert [info.path for info in dav.list()] == []
    except (CorruptData, InvalidPath):
        pass


def test_a_listing_that_is_cut_off_or_in_part_refused_is_never_believed(dav):
    put(dav, "x")
    root = dav.root.path
    whole = multistatus((root, FOLDER), (root + "y", FILE))
    for body, kind in (
        (whole[:-20], CorruptData),
        (multistatus((root, FOLDER), (root + "y", "<D:status>HTTP/1.1 403 Forbidden</D:status>")), PermissionDenied),
        (multistatus(), NotFound),
        (b"<html/>", CorruptData),
    ):
        dav.proxy.next(Answer("PROPFIND", 207, body))
        with pytest.raises(kind):
            list(dav.list())
    dav.proxy.next(Answer("PROPFIND", 207, whole))
    assert [(info.path, info.size) for info in dav.list()] == [("y", 3)]
    dav.proxy.next(Answer("PROPFIND", 405))
    with pytest.raises(CapabilityNotSupported):
        list(dav.list())


def test_what_dead_writers_left_is_found_by_its_age_and_removed(dav):
    put(dav, "folder/x")
    file_plant(dav, "folder/.omnistorage-0123456789abcdef01234567.tmp", b"left")
    assert list(dav.stale_uploads(older_than=timedelta(0))) == [], "it may be somebody's, for an hour"
    old = time.time() - 7200
    os.utime(dav.disk / "folder/.omnistorage-0123456789abcdef01234567.tmp", (old, old))
    live = dav.open_writer("folder/y")
    live.prepare()
    assert [info.path for info in dav.stale_uploads()] == ["folder/.omnistorage-0123456789abcdef01234567.tmp"]
    assert dav.remove_stale_uploads() == 1
    live.close()
    assert on_the_disk(dav) == ["folder/x", "folder/y"]


def test_another_root_of_the_same_server_is_a_source(dav):
    other = on_disk("wsgidav_serial", "", port=dav.proxy.port, dav=True, policy=patient())
    put(other, "src", b"over there")
    assert dav.copy("src", "a/copied", CopyOptions(source=other)).size == 10
    assert file_peek(dav, "a/copied") == b"over there"
    dav.move("src", "moved", CopyOptions(source=other))
    assert (file_peek(dav, "moved"), file_peek(other, "src")) == (b"over there", None)
    with on_disk("wsgidav", "", dav=True) as elsewhere, pytest.raises(CapabilityNotSupported):
        dav.copy("x", "y", CopyOptions(source=elsewhere))
    file_dispose(other)
