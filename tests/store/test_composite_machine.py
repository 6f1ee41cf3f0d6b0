"""Random calls on tiers that fail now and then, against a model of them."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    CompositeStore,
    MemoryBackend,
    NotFound,
    StorageError,
    Tier,
)
from omnistorage.testing.faults import Faulty

from ..budget import pick

TIERS = ("hot", "warm", "cold")
paths = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"])
tiers = st.sampled_from(TIERS)
contents = st.sampled_from([b"1", b"2", b"33"])
FIRED = {"calls": 0, "faults": 0}


class Failing(Faulty):
    """Fails at the calls whose numbers from now are in ``when``; reads from the inside never do."""

    def __init__(self):
        super().__init__(MemoryBackend(dirs=False))
        self.when = set()

    def _before(self, op, number):
        FIRED["calls"] += 1
        if self.calls in self.when:
            FIRED["faults"] += 1
            raise BackendUnavailable("injected")


class CompositeMachine(RuleBasedStateMachine):
    """``model[tier][path]`` are the bytes. After a call that failed each tier holds what it held or what was to be: the
    model is told which, and asserts that nothing else is there and that nothing was lost."""

    @initialize(
        through=st.sampled_from([False, True, ("cold",)]),
        write=st.sampled_from(["hot", "warm"]),
        skips=st.booleans(),
    )
    def start(self, through, write, skips):
        self.backends = {name: Failing() for name in TIERS}
        self.store = CompositeStore(
            [Tier(name, backend) for name, backend in self.backends.items()],
            write_tier=write, write_through=through, skip_unavailable=skips,
        )  # fmt: skip
        self.skips = skips
        self.writes = [place.name for place in self.store._tiers.writes]
        self.model = {name: {} for name in TIERS}

    def shown(self, path):
        return next((self.model[name][path] for name in TIERS if path in self.model[name]), None)

    def really(self):
        return {
            name: {info.path: backend.inner.peek(info.path) for info in backend.inner.list()}
            for name, backend in self.backends.items()
        }

    def call(self, run, *allowed):
        """Run it; where it failed by an injected fault, each object is as before or as it was to be."""
        before = FIRED["faults"]
        self.faulted = False
        try:
            return True, run()
        except allowed as error:
            return False, error
        except StorageError as error:
            if FIRED["faults"] == before:  # nothing failed, and yet
                raise
            return None, error
        finally:
            self.faulted = FIRED["faults"] > before

    @rule(which=tiers, when=st.sets(st.integers(1, 8), max_size=3))
    def a_tier_will_fail(self, which, when):
        backend = self.backends[which]
        backend.when = {backend.calls + number for number in when}

    @rule(path=paths, content=contents, overwrite=st.booleans())
    def write(self, path, content, overwrite):
        before = self.shown(path)
        ok, got = self.call(lambda: self.store.write(path, content, overwrite=overwrite), AlreadyExists)
        now = self.really()
        if ok:
            assert overwrite or before is None
            for name in self.writes:
                self.model[name][path] = content
        elif ok is None:
            for name in self.writes:
                assert now[name].get(path) in (self.model[name].get(path), content)
            done = [name for name in self.writes if now[name].get(path) == content]
            if len(done) == len(self.writes):
                assert self.shown(path) == content or before is None or overwrite
            self.model = {name: now[name] if name in self.writes else self.model[name] for name in TIERS}
        else:
            assert not overwrite, got
            assert before is not None, got

    @rule(path=paths, content=contents, into=tiers)
    def plant(self, path, content, into):
        self.backends[into].inner.put_raw(path, content)
        self.model[into][path] = content

    @rule(path=paths)
    def read(self, path):
        ok, got = self.call(lambda: self.store.read_bytes(path), NotFound)
        if ok and not (self.skips and self.faulted):
            assert got == self.shown(path)
        elif ok:
            assert got in [self.model[name].get(path) for name in TIERS]
        elif ok is False:
            assert self.shown(path) is None, "said to be missing while a tier has it"

    @rule(path=paths)
    def exists(self, path):
        ok, got = self.call(lambda: self.store.is_file(path))
        if ok:
            assert got == (self.shown(path) is not None)

    @rule(path=paths)
    def delete(self, path):
        had = any(path in self.model[name] for name in self.writes)
        ok, _ = self.call(lambda: self.store.delete(path), NotFound, CapabilityNotSupported)
        now = self.really()
        if ok:
            assert had
            for name in self.writes:
                self.model[name].pop(path, None)
        elif ok is None:
            for name in self.writes:
                assert now[name].get(path) in (self.model[name].get(path), None)
            self.model = {name: now[name] if name in self.writes else self.model[name] for name in TIERS}
        else:
            assert not had

    @rule(path=paths, source=tiers, into=tiers)
    def migrate(self, path, source, into):
        if source == into or path not in self.model[source]:
            return
        data, there = self.model[source][path], self.model[into].get(path)
        ok, _ = self.call(lambda: self.store.migrate(path, source, into), AlreadyExists)
        now = self.really()
        if ok:
            self.model[into][path] = self.model[source].pop(path)
        elif ok is False:
            assert there not in (None, data)
        else:
            assert now[into].get(path) in (there, data)
            assert data in (now[source].get(path), now[into].get(path)), "lost"
            self.model = now

    @rule(folder=st.sampled_from(["", "d", "d/e"]))
    def list_all(self, folder):
        ok, found = self.call(lambda: [(i.path, i.size) for i in self.store.list_files(folder, recursive=True)])
        if ok:
            head = folder + "/" if folder else ""
            every = sorted({path for name in TIERS for path in self.model[name] if path.startswith(head)})
            assert found == [(path, len(self.shown(path))) for path in every]

    @invariant()
    def nothing_else_is_there(self):
        if hasattr(self, "model"):
            assert self.really() == self.model

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


class TestGoal32Composite(CompositeMachine.TestCase):
    settings = settings(max_examples=pick(default=20, ci=150, soak=6000), stateful_step_count=40, deadline=None)

    def runTest(self):
        super().runTest()
        assert FIRED["faults"] >= pick(default=1, ci=250, soak=10_000), FIRED
