"""Small stores for the tests of the sync engine, and a run of it on one thread with a virtual clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from omnistorage import MemoryBackend, ops
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.errors import PermissionDenied, StorageError
from omnistorage.sync import Plan, run
from omnistorage.testing import Faulty

from .simulation import Inline, VirtualClock

START = datetime(2026, 1, 1, tzinfo=UTC)


def day(number):
    return START + timedelta(days=number)


def memory(kind=MemoryBackend, *, dirs=True, now=lambda: START, **features):
    """A store in memory with other features than its own."""
    made = kind(dirs=dirs, now=now)
    made.features = replace(made.features, **features)
    return made


def bucket(kind=MemoryBackend, *, now=lambda: day(100), metadata=False, **features):
    """A flat store that keeps no times but its own, as object stores do."""
    return memory(kind, dirs=False, now=now, set_modified=False, user_metadata=metadata, **features)


def blind(kind=MemoryBackend, **features):
    """A store that checks no conditions, as a file system is one."""
    return memory(kind, if_match=False, create_only=False, **features)


def put(store, path, data=b"data", at=0, **more):
    when = day(at) if store.features.set_modified else None
    data = data if isinstance(data, bytes) else data.encode()
    return ops.write_bytes(store, path, data, WriteOptions(modified_at=when, **more))


def fill(store, *paths, at=0, **named):
    for path in paths:
        put(store, path, f"data of {path}", at)
    for path, data in named.items():
        put(store, path, data, at)
    return store


def held(store):
    """Every object's bytes, by way of the store itself."""
    return {info.path: ops.read_bytes(store, info.path) for info in store.list() if info.kind == "file"}


def planned(src, dst, **settings):
    """The actions of a plan, as kinds and paths."""
    with Plan(src, dst, pool=Inline, **settings) as made:
        return [(action.kind, action.path) for action in made]


def whys(src, dst, **settings):
    with Plan(src, dst, pool=Inline, **settings) as made:
        return {action.path: action.why for action in made}


def go(src, dst, *, raise_errors=True, clock=None, listeners=(), dry_run=False, **settings):
    """Run it on this thread."""
    with Plan(src, dst, pool=Inline, **settings) as made:
        return carry_out(made, raise_errors=raise_errors, clock=clock, listeners=listeners, dry_run=dry_run)


def carry_out(plan, *, raise_errors=True, clock=None, listeners=(), dry_run=False):
    return run(
        plan,
        Inline(),
        raise_errors=raise_errors,
        clock=clock or VirtualClock(),
        listeners=listeners,
        dry_run=dry_run,
        backoff=Backoff(draw=lambda: 0.5),
    )


class Replayed(Plan):
    """A plan that was read before; the world has gone on."""

    def __iter__(self):
        return iter(self.was_read)


def replayed(src, dst, **settings):
    plan = Plan(src, dst, pool=Inline, **settings)
    plan.was_read = list(plan)
    plan.__class__ = Replayed
    return plan


def errors(report):
    return {failure.path: str(failure.error) for failure in report.failures}


class Acting(Faulty):
    """Calls ``act`` before every call, with its name and how often that name came."""

    def __init__(self, inner, act):
        super().__init__(inner)
        self.act = act

    def _before(self, op, number):
        self.act(op, self.log.count(op))


def failing(inner, op, at=1, error=lambda: PermissionDenied("injected")):
    """Call ``at`` of the name ``op`` fails; None: every one."""

    def act(name, number):
        if name == op and at in (None, number):
            raise error()

    return Acting(inner, act)


def meanwhile(inner, op, do, at=1):
    """``do`` is called just before call ``at`` of the name ``op``."""

    def act(name, number):
        if (name, number) == (op, at):
            do()

    return Acting(inner, act)


class HalfListed(MemoryBackend):
    """Its listing breaks off after two names."""

    def _list(self, prefix, options):
        yield from self._broken(super()._list(prefix, options))

    def _list_dir(self, path):
        yield from self._broken(super()._list_dir(path))

    def _broken(self, infos):
        for number, info in enumerate(infos):
            if number == 2:
                raise StorageError("the connection broke", op="list", backend=self.name)
            yield info


class Locked(MemoryBackend):
    """The folder ``locked`` cannot be read."""

    def _list_dir(self, path):
        if path == "locked":
            raise PermissionDenied("this folder is not yours", path=path, op="list_dir")
        return super()._list_dir(path)

    def _list(self, prefix, options):
        error = PermissionDenied("this folder is not yours", path="locked", op="list")
        if options.on_error is None:
            raise error
        options.on_error(error)
        return (info for info in super()._list(prefix, options) if not info.path.startswith("locked/"))


class Shuffled(MemoryBackend):
    """Lists in no order at all, whatever it promises."""

    def _list(self, prefix, options):
        return iter(self._mixed(super()._list(prefix, options)))

    def _list_dir(self, path):
        return iter(self._mixed(super()._list_dir(path)))

    def _mixed(self, infos):
        return sorted(infos, key=lambda info: hash_of(info.path))


def hash_of(path):
    return sum(ord(char) * 7919 ** (at % 5) for at, char in enumerate(path)) % 104_729


class Folding(MemoryBackend):
    """Names that differ in letter case are one object, as on Windows and macOS; shown as first written."""

    def __init__(self, **options):
        super().__init__(**options)
        self.features = replace(self.features, case_sensitive=False)
        self._names = {}

    def _known(self, path):
        return self._names.get(path.casefold(), path)

    def _get(self, path, op):
        return super()._get(self._known(path), op)

    def _exists(self, path):
        return super()._exists(self._known(path))

    def _check_target(self, path, overwrite, if_match, op):
        super()._check_target(self._known(path), overwrite, if_match, op)

    def _store(self, path, found):
        known = self._names.setdefault(path.casefold(), path)
        super()._store(known, found._replace(info=found.info._replace(path=known)))

    def _delete(self, path, if_match):
        known = self._known(path)
        self._names.pop(path.casefold(), None)
        return super()._delete(known, if_match)


class Listing(MemoryBackend):
    """Shows the given entries besides its objects: links, and names that others made."""

    shown = ()

    def _list(self, prefix, options):
        found = {info.path: info for info in (*super()._list(prefix, options), *self.shown)}
        return iter([found[path] for path in sorted(found, key=str.encode)])

    def _list_dir(self, path):
        assert path == "" or not self.shown, "entries are shown at the root only"
        found = {info.path: info for info in (*super()._list_dir(path), *self.shown)}
        return iter([found[path] for path in sorted(found, key=str.encode)])


def listing(*infos, **options):
    made = memory(Listing, **options)
    made.shown = tuple(info if isinstance(info, ObjectInfo) else ObjectInfo(info, kind="link") for info in infos)
    return made
