"""``ResumableWriter``: no byte is lost or doubled, whenever a process ends and whatever fails meanwhile."""

from __future__ import annotations

import gc
import itertools
import json
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omnistorage import LocalBackend, MemoryBackend, open_records, ops
from omnistorage.backends.s3 import S3Backend
from omnistorage.core import WriteOptions
from omnistorage.delivery import ResumableWriter
from omnistorage.errors import AlreadyExists, BackendUnavailable, NotFound, StorageError, WriterClosed
from omnistorage.records import open_decoded
from omnistorage.testing.faults import Flaky

from ..budget import FULL
from .resumed import PART, PLACES, SLOW, SUFFIX, TEXT, Raw, again, ended, kept, left, lives, opened, raw


@pytest.fixture(params=PLACES)
def store(request, tmp_path):
    yield from opened(request.param, tmp_path)


# -- every offset ------------------------------------------------------------------------------------------------------


def test_goal_11_no_byte_is_lost_wherever_in_three_parts_a_life_ends(store):
    """In the default run other stores than memory are cut around the ends of parts, and twice at a few places."""
    everywhere = FULL or isinstance(store, MemoryBackend)
    for cut in range(len(TEXT) + 1) if everywhere else (0, 1, PART - 1, PART, PART + 1, 2 * PART, len(TEXT)):
        lives(store, [cut], f"one/{cut}.raw")
    pairs = [(one, two) for one in range(len(TEXT) + 1) for two in range(one, len(TEXT) + 1)]
    far = isinstance(store, S3Backend) and SLOW < 2000
    if far or not everywhere:
        pairs = random.Random(11).sample(pairs, max(SLOW // 5, 4) if far else 30)
    for one, two in pairs:
        lives(store, [one, two], f"two/{one}-{two}.raw")
    assert left(store) == []


CODECS = sorted(SUFFIX)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_goes_on_with_a_frame_of_its_own(codec):
    store, rows, path = MemoryBackend(), [{"n": n} for n in range(90)], "x.ndjson" + SUFFIX[codec]
    writer, at = ResumableWriter(store, path, part_size=50), 0
    for end in (0, 1, 30, 30, 60, 90):
        writer.write_many(rows[at:end])
        token, at = writer.checkpoint(), end
        assert (token["records"], writer.records) == (end, end)
        writer.write({"n": -1})
        writer.abort()
        writer = ResumableWriter.resume(store, token)
    writer.close()
    assert list(open_records(store, path)) == rows
    assert [info.path for info in store.list()] == [path]


@pytest.mark.parametrize("codec", CODECS)
def test_nothing_at_all_is_a_sound_object(codec):
    for resumed in (False, True):
        store, path = MemoryBackend(), "x.ndjson" + SUFFIX[codec]
        writer = ResumableWriter(store, path)
        if resumed:
            writer = ResumableWriter.resume(store, ended(writer))
        writer.close()
        assert list(open_records(store, path)) == []


# -- which checkpoints count -------------------------------------------------------------------------------------------


def test_the_last_two_checkpoints_count_and_those_before_are_gone(store):
    writer, tokens = raw(store), []
    for at in range(5):
        writer.write(TEXT[at : at + 1])
        tokens.append(writer.checkpoint())
    writer.abort()
    with pytest.raises(NotFound):
        again(store, tokens[2])
    writer = again(store, tokens[3])
    writer.write(TEXT[4:])
    writer.abort()
    with again(store, tokens[4]) as writer:
        writer.write(TEXT[5:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT
    assert left(store) == []


def test_a_checkpoint_of_nothing_new_is_the_same_and_removes_none(store):
    writer = raw(store)
    writer.write(TEXT[:11])
    first = writer.checkpoint()
    writer.write(TEXT[11:12])
    second = writer.checkpoint()
    assert [writer.checkpoint() for _ in range(4)] == [second] * 4
    writer.abort()
    with again(store, first) as writer:
        writer.write(TEXT[11:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_a_token_is_small_plain_json_whatever_was_written(store):
    writer = raw(store, options=WriteOptions(modified_at=None, content_type="text/x"))
    writer.write(TEXT * 20)
    text = json.dumps(writer.checkpoint())
    assert len(text) < 1500
    writer.abort()
    ResumableWriter.resume(store, text.encode(), format=Raw()).close()
    assert ops.read_bytes(store, "d/x.raw") == TEXT * 20


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_without_a_checkpoint_whatever_ends_it_leaves_nothing(store):
    writer = raw(store)
    writer.write(TEXT + TEXT)
    writer.flush()
    writer.abort()
    writer.abort()
    with pytest.raises(ZeroDivisionError), raw(store) as writer:
        writer.write(TEXT + TEXT)
        writer.flush()
        _ = 1 / 0
    assert (list(store.list()), left(store)) == ([], [])
    with pytest.raises(WriterClosed):
        writer.checkpoint()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("end", ["abort", "exception", "garbage", "close"])
def test_whatever_ends_it_the_last_checkpoint_stays(store, end, monkeypatch):
    writer = raw(store)
    writer.write(TEXT[:19])
    token = writer.checkpoint()
    writer.write(TEXT)
    writer.flush()
    if end == "abort":
        writer.abort()
    elif end == "exception":
        with pytest.raises(ZeroDivisionError), writer:
            _ = 1 / 0
    elif end == "garbage":
        del writer
        gc.collect()
        list(store.list())  # what was dropped is cleared away with a later call, and this must not be
    else:
        with monkeypatch.context() as patch:
            patch.setattr(writer._sink, "close", lambda: (_ for _ in ()).throw(BackendUnavailable("now of all times")))
            with pytest.raises(BackendUnavailable):
                writer.close()
        with pytest.raises(StorageError):
            writer.write(b"x")
    assert not ops.extended(store).exists("d/x.raw")
    with again(store, token) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT
    assert left(store) == []
    assert writer.close().size == len(TEXT)


def test_a_writer_that_is_resumed_and_ends_at_once_leaves_the_checkpoint(store):
    token = kept(store)
    again(store, token).abort()
    with pytest.raises(ZeroDivisionError), again(store, token):
        _ = 1 / 0
    with again(store, token) as writer:
        writer.write(TEXT[19:])
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_discard_ends_it_for_good(store, tmp_path):
    writer = raw(store)
    writer.write(TEXT)
    token = writer.checkpoint()
    writer.abort()
    assert left(store)
    for _ in range(2):
        ResumableWriter.discard(store, token)
        assert (left(store), list(store.list())) == ([], [])
    with pytest.raises(NotFound):
        again(store, token)
    assert [path for path in tmp_path.rglob("*") if ".resume" in path.name] == []


def test_what_was_published_is_not_written_again(store):
    with raw(store) as writer:
        writer.write(TEXT)
        token = writer.checkpoint()
    told = AlreadyExists if ops.extended(store).features.user_metadata else NotFound
    with pytest.raises(told):
        again(store, token)
    ops.write_bytes(store, "d/x.raw", b"by somebody else")
    with pytest.raises(NotFound):
        again(store, token)
    assert ops.read_bytes(store, "d/x.raw") == b"by somebody else"


def test_a_kill_between_publication_and_the_end_is_told_apart(monkeypatch):
    """The checkpoints are still there: whoever resumes learns that it was published, and they go."""
    store = MemoryBackend()
    writer = raw(store)
    writer.write(TEXT)
    token = writer.checkpoint()
    monkeypatch.setattr(writer._suspended, "end", lambda: None)
    writer.close()
    assert len(left(store)) == 3
    with pytest.raises(AlreadyExists, match="was published"):
        again(store, token)
    assert left(store) == []


# -- whatever fails ----------------------------------------------------------------------------------------------------


def steps(store, said, cuts=(5, 13, 21)):
    """Write all with a checkpoint at each of ``cuts``; ``said`` gets the tokens. Goes on from the last one."""
    writer = again(store, said[-1]) if said else raw(store)
    try:
        at = said[-1]["bytes"] if said else 0
        for end in (*[cut for cut in cuts if cut > at], len(TEXT)):
            writer.write(TEXT[at:end])
            at = end
            if end < len(TEXT):
                said.append(writer.checkpoint())
        writer.close()
    except BaseException:
        writer.abort()
        raise


@pytest.mark.parametrize("sticky", [False, True])
def test_after_a_fault_at_any_step_it_goes_on_from_the_last_token(sticky):
    calls = 0
    while True:
        calls += 1
        inner, said = MemoryBackend(), []
        flaky = Flaky(inner, at=calls, sticky=sticky)
        try:
            steps(flaky, said)
        except BackendUnavailable:
            assert not inner.exists("d/x.raw") or ops.read_bytes(inner, "d/x.raw") == TEXT
        if not flaky.fired:
            break
        if not inner.exists("d/x.raw"):
            steps(inner, said)
        assert ops.read_bytes(inner, "d/x.raw") == TEXT
    assert calls > 30


ACTIONS = st.one_of(st.binary(max_size=30), st.sampled_from(["checkpoint", "die", "die twice", "fail"]))


@given(st.lists(ACTIONS, max_size=25), st.sampled_from(["none", "gzip", "lz4"]), st.integers(1, 20))
@example(["checkpoint", b"0", "checkpoint", b"1", "checkpoint", "die twice", "die twice"], "none", 1)
def test_any_lives_write_what_one_life_would(actions, codec, part):
    store = MemoryBackend()
    flaky, path = Flaky(store, at=0), "x.raw" + SUFFIX[codec]
    settings = {"format": Raw(), "part_size": part}
    writer = ResumableWriter(flaky, path, **settings)
    written, said = b"", []

    def die(back):
        nonlocal writer, written
        writer.abort()
        if len(said) < back:
            writer, written = ResumableWriter(flaky, path, **settings), b""
            said.clear()
            return
        del said[len(said) - back + 1 :]
        if back == 2:
            del said[:-1]  # the two last checkpoints count, and this was the older of them
        token, written = said[-1]
        writer = ResumableWriter.resume(flaky, token, **settings)

    for action in actions:
        if isinstance(action, bytes):
            writer.write(action)
            written += action
        elif action == "checkpoint":
            said.append((writer.checkpoint(), written))
        elif action == "fail":
            flaky.at = flaky.calls + 1
            try:
                said.append((writer.checkpoint(), written))
            except BackendUnavailable:
                die(1)
            flaky.at = 0
        else:
            tokens = {json.dumps(token) for token, _ in said[-2:]}
            die(2 if action == "die twice" and len(tokens) == 2 else 1)
    writer.close()
    with open_decoded(store.open_reader(path), codec) as reader:
        assert reader.read(-1) == written


# -- killed ------------------------------------------------------------------------------------------------------------

CHILD = Path(__file__).parent / "resumed_child.py"


def test_goal_11_kill_9_at_any_moment_and_go_on(tmp_path):
    total, kills, turns, rng = 4000, 0, 0, random.Random(11)
    while kills < SLOW // 5:
        turns += 1
        folder, far = tmp_path / str(turns), 0
        folder.mkdir()
        for _ in range(100):
            child = subprocess.Popen([sys.executable, CHILD, folder, str(total)], stdout=subprocess.PIPE)
            if next(itertools.islice(child.stdout, rng.randrange(60), None), None) is not None:
                child.kill()
            child.stdout.close()
            if child.wait() == 0:
                break
            assert child.returncode == -9
            kills += 1
            if (folder / "token").exists():
                far, before = json.loads((folder / "token").read_text())["records"], far
                assert far >= before
        with open_records(f"file://{folder}/out.ndjson.gz") as reader:
            assert [row["n"] for row in reader] == list(range(total))
        # Of a life that ended before its first token was on the disk nobody knows, nor of what was being published.
        store, old = LocalBackend(folder), timedelta(days=-1)
        ResumableWriter.clean(store, older_than=old, checkpoints=True)
        store.remove_stale_uploads(older_than=old)
        assert sorted(path.name for path in folder.iterdir()) == ["out.ndjson.gz", "token"]
