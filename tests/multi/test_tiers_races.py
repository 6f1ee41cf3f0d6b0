"""Tiers while others change what is in them: a migration leaves no older copy behind, a change of which a part was done
says where, and nobody waits for a store that hangs."""

import threading
from dataclasses import replace

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    CompositeStore,
    LocalBackend,
    MemoryBackend,
    MultiError,
    PreconditionFailed,
    StorageError,
    Tier,
    TieredBackend,
    WriteOptions,
)
from omnistorage.core import READ
from omnistorage.multi.common.shadow import Shadow
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT
from .places import Switch, filled


class Then(Switch):
    """Does ``then`` once, right behind the call ``after``, or ahead of the call ``before``."""

    def __init__(self, inner=None, after="", before=""):
        super().__init__(inner)
        self.after, self.before, self.then = after, before, None

    def _once(self):
        then, self.then = self.then, None
        if then is not None:
            then()

    def _call(self, op, run):
        if op == self.before:
            self._once()
        done = super()._call(op, run)
        if op == self.after:
            self._once()
        return done


def bare(**features):
    backend = MemoryBackend()
    backend.features = replace(backend.features, **features)
    return backend


class Blank(MemoryBackend):
    """Says nothing of the states of its objects."""

    def stat(self, path):
        return super().stat(path)._replace(etag=None, modified_at=None)

    def open_writer(self, path, *options):
        writer = super().open_writer(path, *options)
        close = writer.close
        writer.close = lambda: close()._replace(etag=None, modified_at=None)
        return writer


def copied_then(then, hot, cold, start, end):
    """A store in which ``then(store)`` comes between the copy and the deletion of a migration of x."""
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)], write_tier=start)
    target = hot if end == "hot" else cold
    store.write("x", b"v1")
    target.after, target.then = "close", lambda: then(store)
    return store


# -- the source changed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [("cold", "hot"), ("hot", "cold")])
def test_no_old_copy_stays_where_the_source_changed_while_it_was_migrated(start, end):
    store = copied_then(lambda s: s.write("x", b"v2", overwrite=True), Then(), Then(), start, end)
    with pytest.raises(PreconditionFailed, match="it is kept, and the old copy is gone from tier") as caught:
        store.migrate("x", start, end)
    assert (caught.value.path, caught.value.__notes__) == ("x", [f"in tier {start!r}"])
    assert store.read_bytes("x") == b"v2"
    assert not store.tier(end).exists("x")
    store.delete("x")
    assert not store.exists("x")
    store.write("x", b"v3")
    assert store.migrate("x", start, end).size == 2
    assert store.tier(end).read_bytes("x") == b"v3"


def test_no_old_copy_stays_where_there_are_no_conditions(tmp_path):
    hot = Then(LocalBackend(tmp_path / "hot"))
    cold = LocalBackend(tmp_path / "cold")
    for folder in ("hot", "cold"):
        (tmp_path / folder).mkdir()
    store = copied_then(lambda s: s.write("x", b"v2!", overwrite=True), hot, cold, "cold", "hot")
    with pytest.raises(PreconditionFailed, match="the old copy is gone"):
        store.migrate("x", "cold", "hot")
    assert store.read_bytes("x") == b"v2!"


def test_no_old_copy_stays_where_the_source_of_a_move_changed():
    a, b = Switch(), Then(after="close")
    tiers = TieredBackend([Tier("a", a, match="a/**"), Tier("b", b, match="b/**")], "match")
    write_bytes(tiers, "a/x", b"v1")
    b.then = lambda: write_bytes(tiers, "a/x", b"v2")
    with pytest.raises(PreconditionFailed, match="it is kept, and the old copy is gone from tier 'b'"):
        tiers.move("a/x", "b/x")
    assert (a.inner.peek("a/x"), b.inner.peek("b/x")) == (b"v2", None)


def test_what_somebody_else_put_where_the_copy_was_stays():
    def both_change(store):
        store.tier("hot").write("x", b"theirs", overwrite=True)
        store.tier("cold").write("x", b"v2", overwrite=True)

    hot = Then()
    store = copied_then(lambda s: None, hot, Then(), "cold", "hot")
    store._tiers.tier("cold").backend.before = "delete"
    store._tiers.tier("cold").backend.then = lambda: both_change(store)
    with pytest.raises(PreconditionFailed):
        store.migrate("x", "cold", "hot")
    assert store.tier("hot").read_bytes("x") == b"theirs"
    assert store.tier("cold").read_bytes("x") == b"v2"


@pytest.mark.parametrize("why", ["down", "nothing is said of states", "nothing is deleted"])
def test_where_the_copy_cannot_be_taken_back_it_is_said_what_stands_where(why):
    def change(store):
        store.tier("cold").write("x", b"v2", overwrite=True)
        if why == "down":
            hot.fails = {"delete"}

    inner = Blank() if why == "nothing is said of states" else MemoryBackend()
    hot, cold = Then(inner), Then(before="delete")
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)], write_tier="cold")
    store.write("x", b"v1")
    cold.then = lambda: change(store)
    if why == "nothing is deleted":
        hot.delete = lambda path, *, if_match=None: inner._refuse("delete", "delete", path)
    with pytest.raises(PreconditionFailed, match="tier 'hot' may still hold an old copy, 'x': look there"):
        store.migrate("x", "cold", "hot")
    assert read_bytes(inner, "x") == b"v1"
    assert store.tier("cold").read_bytes("x") == b"v2"


def test_an_equal_object_that_was_there_before_is_not_taken_back():
    hot, cold = Then(before="delete"), filled(x=b"v1")
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)])
    store.write("x", b"v1", overwrite=True)
    hot.then = lambda: hot.inner.put_raw("x", b"v2")
    with pytest.raises(PreconditionFailed, match="tier 'cold' still holds 'x', as before"):
        store.migrate("x", "hot", "cold")
    assert (hot.inner.peek("x"), cold.peek("x")) == (b"v2", b"v1")


@pytest.mark.parametrize("conditions", [True, False])
def test_the_only_copy_of_what_somebody_else_migrated_too_is_never_taken_back(conditions):
    hot = Then(bare(if_match=conditions), before="delete" if conditions else "")
    cold = Then(after="" if conditions else "close")
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)])
    store.write("x", b"v1")
    (hot if conditions else cold).then = lambda: store.migrate("x", "hot", "cold")
    with pytest.raises(PreconditionFailed, match=r"the source is gone.*stands in tier 'cold'"):
        store.migrate("x", "hot", "cold")
    assert store.read_bytes("x") == b"v1"


@pytest.mark.parametrize("lost", ["delete", "everything"])
def test_a_source_that_cannot_be_asked_keeps_its_copy_and_both_are_named(lost):
    def fall(hot):
        if lost == "everything":
            hot.inner.put_raw("x", b"v2")  # the deletion is refused, and then nothing answers
            refuse(hot)
        else:
            hot.fails = {"delete"}

    def refuse(hot):
        def delete(path, *, if_match=None):
            hot.down = True
            raise PreconditionFailed("it is another one", path=path)

        hot.delete = delete

    hot, cold = Switch(), Then(after="close")
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)])
    store.write("x", b"v1")
    cold.then = lambda: fall(hot)
    with pytest.raises(StorageError) as caught:
        store.migrate("x", "hot", "cold")
    assert isinstance(caught.value, PreconditionFailed if lost == "everything" else BackendUnavailable)
    notes = caught.value.__notes__
    assert "in tier 'hot'" in notes
    assert any("'x' stands in tier 'cold', and perhaps still 'x' in tier 'hot'" in note for note in notes)
    assert caught.value.path == "x"
    assert cold.inner.peek("x") == b"v1"


# -- metadata ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conditions", "settable"])
def test_a_migration_onto_equal_bytes_takes_the_metadata_of_the_source(kind):
    cold = MemoryBackend() if kind == "conditions" else bare(if_match=False)
    tiers = TieredBackend([Tier("hot", MemoryBackend()), Tier("cold", cold)])
    store = CompositeStore(tiers)
    write_bytes(tiers, "x", b"v", WriteOptions(user_metadata={"k": "new"}))
    write_bytes(cold, "x", b"v", WriteOptions(user_metadata={"k": "old"}))
    assert store.migrate("x", "hot", "cold").metadata == {"k": "new"}
    assert tiers.stat("x").metadata == {"k": "new"}
    assert not store.tier("hot").exists("x")


def test_a_source_that_changed_is_not_taken_for_its_metadata():
    hot, cold = MemoryBackend(), Then(after="open_reader")
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", cold)])
    write_bytes(tiers, "x", b"v1", WriteOptions(user_metadata={"k": "new"}))
    write_bytes(cold, "x", b"v1")
    cold.then = lambda: hot.put_raw("x", b"v2")
    with pytest.raises(PreconditionFailed) as caught:
        CompositeStore(tiers).migrate("x", "hot", "cold")
    assert "from tier 'hot' to tier 'cold'" in caught.value.__notes__
    assert (hot.peek("x"), cold.inner.peek("x")) == (b"v2", b"v1")


def test_metadata_that_cannot_be_given_to_equal_bytes_keeps_the_source():
    cold = bare(if_match=False, set_modified=False)
    cold.power_of = lambda kind: None
    tiers = TieredBackend([Tier("hot", MemoryBackend()), Tier("cold", cold)])
    write_bytes(tiers, "x", b"v", WriteOptions(user_metadata={"k": "new"}))
    write_bytes(cold, "x", b"v")
    store = CompositeStore(tiers)
    with pytest.raises(AlreadyExists, match=r"same bytes with other metadata.*overwrite=True"):
        store.migrate("x", "hot", "cold")
    assert tiers.stat("x").metadata == {"k": "new"}
    assert store.migrate("x", "hot", "cold", overwrite=True).size == 1
    assert tiers.stat("x").metadata == {"k": "new"}


def test_an_equal_object_with_the_same_metadata_is_not_written_again():
    cold = Switch()
    store = CompositeStore([Tier("hot", MemoryBackend()), Tier("cold", cold)])
    for backend in (store.tier("hot").as_backend(), cold):
        write_bytes(backend, "x", b"v", WriteOptions(user_metadata={"k": "v"}))
    before = cold.stat("x").etag
    cold.fails = {"set_metadata"}
    assert store.migrate("x", "hot", "cold").etag == f"cold:{before}"
    assert (store.tier("hot").exists("x"), cold.inner.peek("x")) == (False, b"v")


# -- names and outcomes ------------------------------------------------------------------------------------------------


def test_a_failure_names_its_tier_and_its_path_in_match_mode_too():
    a, b = Switch(), Switch()
    tiers = TieredBackend([Tier("a", a, match="a/**"), Tier("b", b, match="b/**")], "match")
    write_bytes(tiers, "a/x", b"1")
    b.down = True
    calls = (
        lambda: tiers.delete("b/x"), lambda: tiers.open_writer("b/x"), lambda: tiers.open_appender("b/x"),
        lambda: tiers.move("b/x", "b/y"), lambda: tiers.copy("b/x", "b/y"), lambda: tiers.stat("b/x"),
        lambda: tiers.set_metadata("b/x", user_metadata={"a": "b"}), lambda: read_bytes(tiers, "b/x"),
    )  # fmt: skip
    for number, call in enumerate(calls):
        with pytest.raises(BackendUnavailable) as caught:
            call()
        assert (number, caught.value.__notes__, caught.value.path) == (number, ["in tier 'b'"], "b/x")
    for op in ("copy", "move"):
        with pytest.raises(BackendUnavailable) as caught:
            getattr(tiers, op)("a/x", "b/y")
        assert (caught.value.__notes__, caught.value.path) == (["from tier 'a' to tier 'b'"], "a/x")


def changes(tiers):
    return {
        "set_metadata": lambda: tiers.set_metadata("x", user_metadata={"a": "b"}),
        "delete": lambda: tiers.delete("x"),
        "mkdir": lambda: tiers.mkdir("new"),
        "rmdir": lambda: tiers.rmdir("d"),
    }


@pytest.mark.parametrize("op", ["set_metadata", "delete", "mkdir", "rmdir"])
@pytest.mark.parametrize("unsure", [False, True])
def test_a_change_that_was_done_in_one_tier_alone_says_so(op, unsure):
    hot, cold = Switch(), Switch()
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", cold)], write_through=True)
    write_bytes(tiers, "x", b"v")
    tiers.mkdir("d")
    second = hot if op == "delete" else cold

    def fail(asked, number):
        if asked == op:
            raise BackendUnavailable("pulled out", transient=unsure)

    second._before = fail
    with pytest.raises(MultiError) as caught:
        changes(tiers)[op]()
    names = ("cold", "hot") if op == "delete" else ("hot", "cold")
    found = [(outcome.target, outcome.state) for outcome in caught.value.outcomes]
    assert found == [(names[0], "committed"), (names[1], "unknown" if unsure else "failed")]
    path = {"mkdir": "new", "rmdir": "d"}.get(op, "x")
    assert (caught.value.path, caught.value.op, {one.path for one in caught.value.outcomes}) == (path, op, {path})
    assert caught.value.exceptions[0].__notes__ == [f"in tier {names[1]!r}"]
    assert f"{op} was done in tier {names[0]}" in str(caught.value)


@pytest.mark.parametrize("op", ["set_metadata", "delete", "mkdir", "rmdir"])
def test_a_change_that_was_done_nowhere_is_the_error_itself(op):
    hot, cold = Switch(), Switch()
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", cold)], write_through=True)
    write_bytes(tiers, "x", b"v")
    tiers.mkdir("d")
    (cold if op == "delete" else hot).fails = {op}
    with pytest.raises(BackendUnavailable) as caught:
        changes(tiers)[op]()
    assert caught.value.__notes__ == [f"in tier {'cold' if op == 'delete' else 'hot'!r}"]


# -- what hangs --------------------------------------------------------------------------------------------------------


class Deaf(Faulty):
    """Answers only when it is let go, whoever cancels."""

    def __init__(self, inner):
        super().__init__(inner)
        self.asked, self.go, self.answered = threading.Event(), threading.Event(), threading.Event()

    def _before(self, op, number):
        self.asked.set()
        self.go.wait(LIMIT)
        self.answered.set()


def test_closing_does_not_wait_without_end_for_a_shadow_that_hangs():
    deaf, told = Deaf(filled(x=b"xy")), []
    tiers = TieredBackend([Tier("old", filled(x=b"yx")), Tier("new", deaf)], read="shadow")
    shadow = tiers._shadow = Shadow(tiers.places, told.append, patience=0.01)
    read_bytes(tiers, "x", READ)
    assert deaf.asked.wait(LIMIT)
    tiers.close()
    assert not deaf.answered.is_set()
    deaf.go.set()
    shadow.drain()
    assert told == []  # who was closed tells nobody any more
