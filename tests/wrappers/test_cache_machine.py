"""Random reads and changes through a cache and behind its back: never a byte that is staler than it may be."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omnistorage import BackendUnavailable, Cache, CorruptData, Encrypt, MemoryBackend, NotFound, ops
from omnistorage.concurrency.cancellation import Clock
from omnistorage.core import ReadOptions
from omnistorage.testing import BasicBackend, Faulty
from omnistorage.testing._kit import payload
from omnistorage.wrappers import Prefix
from omnistorage.wrappers.base import Wrapper

from ..budget import pick

PATHS = ["a", "d/a", "d/e/a"]
paths = st.sampled_from(PATHS)
contents = st.builds(lambda seed, size: payload(size, f"{seed}"), st.integers(0, 999), st.integers(0, 40))


class Hands(Clock):
    time = 0

    def now(self):
        return self.time


class Tiny(Cache):
    """Takes ten bytes for large."""

    small = 10


class Unreliable(Faulty):
    """Fails the calls whose number is in ``fails``, counted from the last ``plan``."""

    fails: frozenset = frozenset()

    def plan(self, fails):
        self.fails, self.calls = frozenset(fails), 0

    def _before(self, op, number):
        if number in self.fails:
            raise BackendUnavailable("injected")


class Unsized(Wrapper):
    """States no sizes, as a server does that makes up its answers on the way."""

    def _forward(self, op, path, run):
        answer = run(path)
        return answer._replace(size=None) if op == "stat" else answer

    def _reader(self, reader, path):
        reader._info = reader._info._replace(size=None)
        return reader


class CacheMachine(RuleBasedStateMachine):
    """``states[path]`` is what the path held, oldest first, each with the time at which it ended. What was changed
    through the cache is seen at once, so states before such a change no longer count."""

    ttl = 0
    sized = True
    limits: dict = {}
    met: Counter
    make_into = staticmethod(MemoryBackend)

    @initialize()
    def start(self):
        self.clock = Hands()
        self.behind = MemoryBackend(dirs=False)
        self.into = Unreliable(type(self).make_into())
        origin = Prefix(self.behind if self.sized else Unsized(self.behind), "p")
        self.cache = Tiny(origin, self.into, ttl=self.ttl, clock=self.clock, **self.limits)
        self.now = {}
        self.ended = {}
        self.open = []
        for path, size in zip(PATHS, (5, 15, 25), strict=True):
            self.write_behind(path, payload(size))

    def changed(self, path, content, through):
        self.ended.setdefault(path, []).append((self.clock.time, self.now.get(path)))
        if content is None:
            self.now.pop(path, None)
        else:
            self.now[path] = content
        if through:
            self.ended[path] = []

    def allowed(self, path):
        past = [content for time, content in self.ended.get(path, []) if self.clock.time - time < self.ttl]
        return [*past, self.now.get(path)]

    def seen(self, path, options=None):
        try:
            with self.cache.open_reader(path, options or ReadOptions()) as reader:
                data = b"".join(iter(lambda: reader.read(7), b""))
                assert reader.info.path == path
                return data, reader.info.size
        except NotFound as error:
            failed = error
        except CorruptData as error:
            self.check_changed(path, error)
            whole = self.now.get(path)  # as good as what is there: whoever asks again gets that
            if whole is None:
                return None, None
            asked = options or ReadOptions()
            return whole[asked.offset :][: asked.length], self.told(whole)
        assert failed.path == path
        return None, None

    def check_changed(self, path, error):
        """An entry broke behind what was handed out of it, and the origin has moved on within the ttl."""
        assert error.path == path
        assert "changed while" in str(error)
        assert len(self.allowed(path)) > 1

    @rule(path=paths, content=contents)
    def write_behind(self, path, content):
        ops.write_bytes(self.behind, f"p/{path}", content)
        self.changed(path, content, through=False)

    @rule(path=paths)
    def delete_behind(self, path):
        self.behind.delete(f"p/{path}")
        self.changed(path, None, through=False)

    @rule(path=paths, content=contents)
    def write_through(self, path, content):
        ops.write_bytes(self.cache, path, content)
        self.changed(path, content, through=True)

    @rule(path=paths)
    def delete_through(self, path):
        self.cache.delete(path)
        self.changed(path, None, through=True)

    @rule(src=paths, dst=paths, moves=st.booleans())
    def carry_through(self, src, dst, moves):
        if src in self.now and src != dst:
            (self.cache.move if moves else self.cache.copy)(src, dst)
            self.changed(dst, self.now[src], through=True)
            if moves:
                self.changed(src, None, through=True)

    @rule(folder=st.sampled_from(["d", "d/e"]))
    def purge_through(self, folder):
        gone = [path for path in self.now if path.startswith(folder + "/")]
        if gone:
            self.cache.purge(folder)
            for path in gone:
                self.changed(path, None, through=True)

    @rule(path=paths, content=contents)
    def fail_to_write(self, path, content):
        with pytest.raises(KeyError), self.cache.open_writer(path) as writer:
            writer.write(content)
            raise KeyError

    @rule(folder=st.sampled_from(["", "d", "d/e", "a"]))
    def invalidate(self, folder):
        self.cache.invalidate(folder)
        for path in self.ended:
            if not folder or path == folder or path.startswith(folder + "/"):
                self.ended[path] = []

    @rule(path=paths)
    def refresh(self, path):
        if path in self.now:
            assert self.cache.refresh(path).size == self.told(self.now[path])
            self.ended[path] = []

    @rule(path=paths, times=st.integers(2, 5))
    def read_one(self, path, times):
        self.read(path, times)

    def read(self, path, times):
        for _ in range(times):
            data, size = self.seen(path)
            assert data in self.allowed(path)
            assert size == (None if data is None else self.told(data))

    @rule()
    def read_all(self):
        for path in PATHS:
            self.read(path, 2)

    @rule(path=paths, offset=st.integers(0, 45), length=st.none() | st.integers(0, 45))
    def read_a_range(self, path, offset, length):
        data, size = self.seen(path, ReadOptions(offset, length))
        choices = [None if each is None else (each[offset:][:length], self.told(each)) for each in self.allowed(path)]
        assert (None if data is None else (data, size)) in choices

    @rule(path=paths, count=st.integers(0, 30))
    def begin_to_read(self, path, count):
        if path in self.now and len(self.open) < 3:
            reader = self.cache.open_reader(path)
            choices = self.allowed(path)
            try:
                head = reader.read(count) if count else b""
            except CorruptData as error:
                self.check_changed(path, error)
                reader.close()
            else:
                self.open.append((reader, head, choices))

    @precondition(lambda self: getattr(self, "open", None))
    @rule(ends=st.sampled_from(["read", "close", "drop"]))
    def end_to_read(self, ends):
        reader, head, choices = self.open.pop(0)
        if ends == "read":
            try:
                rest = reader.read(-1)
            except CorruptData as error:
                assert "changed while" in str(error)  # noqa: PT017
            else:
                assert head + rest in choices
        if ends != "drop":
            reader.close()

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds):
        self.clock.time += seconds

    @rule(fails=st.sets(st.integers(1, 10), min_size=5))
    def into_fails_at(self, fails):
        self.into.plan(fails)

    @rule(which=st.integers(0, 20), cut=st.booleans())
    def an_entry_breaks(self, which, cut):
        raw = self.raw()
        names = sorted(info.path for info in raw.list())
        if names:
            name = names[which % len(names)]
            data = raw.peek(name)
            if cut and data and self.sized:  # else nobody could know
                raw.put_raw(name, data[: len(data) // 2])
            else:
                raw.delete(name)

    def told(self, content):
        """What is said of its size."""
        return len(content) if self.sized else None

    def raw(self):
        at = self.into.inner
        return at.inner if isinstance(at, Encrypt) else at

    @invariant()
    def no_more_is_kept_than_may_be(self):
        most = self.limits.get("max_entries")
        if most is not None and not self.into.fails and not self.cache.stats.errors:
            assert len(list(self.raw().list())) <= most

    def teardown(self):
        for reader, _, _ in getattr(self, "open", []):
            reader.close()
        if hasattr(self, "cache"):
            self.cache.close()
            for name in ("hits", "misses", "errors", "evictions"):
                type(self).met[name] += getattr(self.cache.stats, name)


KINDS = {
    "WithoutTtl": {},
    "WithTtl": {"ttl": 3},
    "WithoutTtlAndLimited": {"limits": {"max_entries": 1}},
    "WithTtlAndLimited": {"ttl": 5, "limits": {"max_bytes": 30}},
    "OfUnknownSizes": {"sized": False, "ttl": 2},
    "OfUnknownSizesInABasicBackend": {"sized": False, "make_into": staticmethod(BasicBackend)},
    "InABasicBackend": {"make_into": staticmethod(BasicBackend)},
    "InAnEncryptedBackend": {"ttl": 2, "make_into": staticmethod(lambda: Encrypt(MemoryBackend(), bytes(32)))},
}
OFTEN = pick(default=2, ci=50, soak=1000)
"""How often a run must meet what it is about."""
SHORT = ("WithTtlAndLimited", "OfUnknownSizesInABasicBackend")  # what the default run has of them
for _name, _values in KINDS.items():
    _machine = type(f"Machine{_name}", (CacheMachine,), {**_values, "met": Counter()})
    _case = _machine.TestCase
    _case.settings = settings(max_examples=pick(default=20, ci=100, soak=4000), stateful_step_count=40, deadline=None)

    def run(self, _machine=_machine, _plain=_case.runTest):
        _plain(self)
        wanted = {"hits", "misses", "errors", *(["evictions"] if _machine.limits else [])}
        few = {name: _machine.met[name] for name in wanted if _machine.met[name] < OFTEN}
        assert not few, f"a machine that meets these so rarely shows little: {few}"

    globals()[f"TestCache{_name}"] = type(
        f"TestCache{_name}", (_case,), {"runTest": run, "pytestmark": [] if _name in SHORT else [pytest.mark.ci_only]}
    )

del _case, _machine  # pytest would collect them, too
