"""WebDAV while others write, and gateways that answer for a server that goes on: nothing acknowledged is lost, no
success is claimed that was none, and nobody is in conflict with himself."""

import os
import threading
import time
from datetime import timedelta

import pytest

from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.http.urls import new_hidden
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, ObjectInfo, WriteOptions
from omnistorage.errors import BackendUnavailable, CorruptData, DirectoryNotEmpty, NotFound, OutcomeUnknown

from ..servers import server
from ..servers.proxy import Answer, Lost, Proxy
from .http_places import NoWait, file_dispose, file_peek, file_plant, on_disk, patient


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


def old_hidden():
    return f".omnistorage-{int(time.time()) - 7200:08x}{'0' * 16}.tmp"


# -- folders that are removed while others write -----------------------------------------------------------------------


def overtaken(dav, names):
    """``names`` come into the folder one after the other, each after a look at it."""
    real, waiting = dav._demand_empty, list(names)

    def demand(folder, path):
        if folder != "folder":
            for name in waiting:
                file_plant(dav, name, b"after")
        real(folder, path)
        if folder == "folder":
            file_plant(dav, waiting.pop(0), b"before")

    dav._demand_empty = demand


def test_what_was_written_into_a_folder_that_is_removed_and_made_anew_is_put_into_the_new_one(dav):
    dav.mkdir("folder")
    overtaken(dav, ["folder/late", "folder/other"])
    with pytest.raises(DirectoryNotEmpty):
        dav.rmdir("folder")
    assert on_the_disk(dav) == ["folder/late", "folder/other"]
    assert not [name for name in os.listdir(dav.disk) if name.startswith(".")]
    assert file_peek(dav, "folder/late") == b"before"


def test_what_cannot_be_put_back_is_named_and_never_counts_as_left_over(dav):
    dav.mkdir("folder")
    overtaken(dav, ["folder/late", "folder/late"])
    with pytest.raises(OutcomeUnknown, match=r"omnistorage-[0-9a-f]{24}\.tmp"):
        dav.rmdir("folder")
    assert file_peek(dav, "folder/late") == b"after"
    (aside,) = [name for name in os.listdir(dav.disk) if name.startswith(".")]
    assert file_peek(dav, f"{aside}/late") == b"before"
    (dav.disk / aside).rename(dav.disk / old_hidden())
    assert dav.remove_stale_uploads() == 0
    assert file_peek(dav, f"{old_hidden()}/late") or len(on_the_disk(dav)) == 2


def test_a_hidden_folder_counts_as_left_over_only_when_it_is_old_and_empty(dav):
    (dav.disk / new_hidden()).mkdir()
    (dav.disk / old_hidden()).mkdir()
    assert [info.is_dir for info in dav.stale_uploads(older_than=timedelta(0))] == [True]
    assert dav.remove_stale_uploads() == 1
    assert len(os.listdir(dav.disk)) == 1


def test_the_temporary_of_a_live_copy_is_young_though_its_source_is_old(dav):
    put(dav, "x")
    old = time.time() - 7200
    os.utime(dav.disk / "x", (old, old))
    other, real, seen = HTTPBackend(dav.url, dav=True, policy=patient()), dav.rename, []

    def rename(moving):
        seen.extend(other.stale_uploads())
        (temporary,) = [name for name in on_the_disk(dav) if name.startswith(".")]
        os.utime(dav.disk / temporary, (old, old))  # as servers do that keep the time of the source
        seen.extend(other.stale_uploads())
        real(moving)

    dav.rename = rename
    dav.copy("x", "y")
    assert seen == []
    assert on_the_disk(dav) == ["x", "y"]
    other.close()


# -- moves -------------------------------------------------------------------------------------------------------------


def test_a_move_onto_itself_through_another_spelling_of_the_root_deletes_nothing(dav):
    (dav.disk / "a~b").mkdir()
    (dav.disk / "a~b/x").write_bytes(b"precious")
    one, other = (HTTPBackend(f"{dav.url}{name}/", dav=True, policy=patient()) for name in ("a~b", "a%7Eb"))
    one.move("x", "x", CopyOptions(source=other))
    assert file_peek(dav, "a~b/x") == b"precious"
    one.close()
    other.close()


def test_a_move_from_another_root_is_one_request_and_never_deletes_what_came_meanwhile(dav):
    other = on_disk("wsgidav_serial", "", port=dav.proxy.port, dav=True, policy=patient())
    put(other, "x", b"1")
    real, rename = dav._target, dav.rename

    def target(*args):
        file_plant(other, "x", b"newer")
        return real(*args)

    def renamed(moving):
        rename(moving)
        file_plant(other, "x", b"newest")

    dav._target, dav.rename = target, renamed
    dav.proxy.forget()
    dav.move("x", "y", CopyOptions(source=other))
    assert file_peek(dav, "y") == b"newer"
    assert file_peek(other, "x") == b"newest"
    assert (dav.proxy.count("MOVE"), dav.proxy.count("COPY"), dav.proxy.count("DELETE")) == (1, 0, 0)
    file_dispose(other)


def test_a_move_whose_source_is_gone_says_so_and_makes_no_folders(dav):
    put(dav, "x")
    real = dav._target

    def target(*args):
        found = real(*args)
        (dav.disk / "x").unlink()
        return found

    dav._target = target
    with pytest.raises(NotFound) as caught:
        dav.move("x", "new/deep/y")
    assert caught.value.path == "x"
    assert os.listdir(dav.disk) == []


@pytest.mark.parametrize("changes", [5, 100])
def test_a_place_that_changes_after_each_look_is_looked_at_again_and_not_for_ever(dav, changes):
    dav.policy, real, looks = patient(retries=0), dav._target, []

    def target(*args):
        (dav.disk / "x").unlink(missing_ok=True)
        found = real(*args)
        looks.append(found)
        if len(looks) <= changes:
            file_plant(dav, "x", b"theirs")
        return found

    dav._target = target
    if changes == 5:
        put(dav, "x", b"ours")
        assert file_peek(dav, "x") == b"ours"
        assert len(looks) == 6
    else:
        with pytest.raises(BackendUnavailable, match="changes"):
            put(dav, "x", b"ours")
        assert file_peek(dav, "x") == b"theirs"
        assert len(looks) < 100
    assert on_the_disk(dav) == ["x"]


def test_plain_overwrites_under_contention_all_succeed(dav):
    dav.policy = RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1))
    start, failed = threading.Barrier(12), []

    def run(number):
        start.wait()
        for _ in range(3):
            try:
                put(dav, "k", b"%d" % number)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert on_the_disk(dav) == ["k"]


# -- answers that get lost ---------------------------------------------------------------------------------------------


def after(dav, status, method="MOVE"):
    """The next request of this ``method`` is done, and answered with ``status`` by a gateway."""
    real, left = dav.client.send, [1]

    def send(verb, url, *args, **options):
        answer = real(verb, url, *args, **options)
        if verb == method and left:
            left.clear()
            answer.status = status
        return answer

    dav.client.send = send


def delayed(dav, status=504):
    """The next MOVE is answered with ``status`` at once, and done after the look that follows."""
    real, held, left = dav.client.send, [], [1]

    def send(verb, url, *args, **options):
        if verb == "MOVE" and left:
            left.clear()
            held.append((verb, url, *args))
            answer = real("OPTIONS", dav.root.url, follow=False)
            answer.status = status
            return answer
        answer = real(verb, url, *args, **options)
        if held:
            late = real(*held.pop(), follow=False)
            late.read()
            late.release_conn()
        return answer

    dav.client.send = send


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("how", [lambda dav: after(dav, 503), delayed])
def test_a_publication_that_a_gateway_gave_up_on_is_found_and_is_no_conflict_with_ourselves(dav, overwrite, how):
    how(dav)
    put(dav, "x", b"ours", overwrite=overwrite)
    assert on_the_disk(dav) == ["x"]
    assert file_peek(dav, "x") == b"ours"
    assert not dav._live


@pytest.mark.parametrize("how", [lambda dav: after(dav, 503), delayed])
def test_a_move_that_a_gateway_gave_up_on_was_done(dav, how):
    put(dav, "x", b"12345")
    how(dav)
    dav.move("x", "y")
    assert on_the_disk(dav) == ["y"]


def test_deletes_that_a_gateway_gave_up_on_were_done(dav):
    put(dav, "x")
    after(dav, 503, "DELETE")
    assert dav.delete("x") is None
    for call in (dav.rmdir, dav.purge):
        dav.mkdir("d")
        after(dav, 503, "DELETE")
        call("d")
        assert os.listdir(dav.disk) == []


def test_after_a_lost_answer_a_conflict_is_an_unknown_outcome_while_ours_still_stands_there(dav):
    dav.proxy.next(Answer("MOVE", 502))
    real = dav._has_gone

    def gone(moving):
        file_plant(dav, "x", b"theirs")
        return real(moving)

    dav._has_gone = gone
    with pytest.raises(OutcomeUnknown):
        put(dav, "x", b"ours", overwrite=False)
    assert file_peek(dav, "x") == b"theirs"
    assert not dav._live


def test_a_temporary_that_is_gone_is_no_success_unless_it_has_arrived(dav):
    real = dav._check_arrival

    def late(dst, moved, lost):
        file_plant(dav, "x", b"somebody else's")
        real(dst, moved, lost)

    dav._check_arrival = late
    dav.proxy.next(Lost("MOVE"))
    with pytest.raises(OutcomeUnknown):
        put(dav, "x", b"ours")


def test_an_empty_answer_is_not_taken_for_nothing_is_there(dav):
    empty = b'<D:multistatus xmlns:D="DAV:"/>'
    put(dav, "x", b"old")
    dav.proxy.next(Answer("PROPFIND", 207, empty))
    with pytest.raises(CorruptData):
        dav.exists("x")
    real = dav._has_gone

    def gone(moving):
        dav.proxy.next(Answer("PROPFIND", 207, empty))
        return real(moving)

    dav._has_gone = gone
    dav.proxy.next(Answer("MOVE", 502))
    with pytest.raises(OutcomeUnknown):
        put(dav, "x", b"new")
    assert file_peek(dav, "x") == b"old"


def test_times_that_are_not_known_are_not_compared(dav):
    put(dav, "y", b"12345")
    dav._check_arrival("y", ObjectInfo("x", 5), BackendUnavailable("lost"))
    dav._check_arrival("y", ObjectInfo("x", None), BackendUnavailable("lost"))
    with pytest.raises(OutcomeUnknown):
        dav._check_arrival("y", ObjectInfo("x", 6), BackendUnavailable("lost"))


def test_a_move_answered_with_a_page_is_not_published(dav):
    page = Answer("MOVE", 200, b"<html>login</html>", {"Content-Type": "text/html"})
    dav.proxy.next(*[page] * 50)
    with pytest.raises(OutcomeUnknown):
        put(dav, "x")
    dav.proxy.forget()
    assert file_peek(dav, "x") is None
