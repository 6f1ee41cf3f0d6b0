"""Two listings in, actions out: the merge behind a ``Plan``.

Names come in the order of their keys, so what is still open at any moment is a chain of names of which each begins with
the one before it: memory is bounded by their depth, not by the number of objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from omnistorage.errors import InvalidPath, NotFound, StorageError
from omnistorage.paths import check_new
from omnistorage.sync.entries import Entry
from omnistorage.sync.links import SUFFIX, StoredLinks
from omnistorage.sync.listing.ancestor_stack import Passed
from omnistorage.sync.listing.lookup_pool import Lookers

from .actions import Action
from .comparison import BY_SIZE, EQUAL, LEFT, SAME, TIME_DIFFERS, TOUCH, WEAK, Comparison
from .finalize import Ending
from .folder_times import Times
from .incomplete_folders import Unlisted
from .inputs import MergeInputs
from .listings import Listed
from .portable_names import not_portable

T = TypeVar("T")
_BOTH = "the source has objects below this name, and the destination cannot hold both"
_ONE_NAME = "a file and a link of one name, and the destination can hold one of them"
_LINK = SUFFIX.encode()
Item = Action | Callable[[], Action | None]


class _Waiting:
    """A new object that waits whether something is found below its name."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.clash = ""  # why it cannot be
        self.replaces = False


class _Folder:
    """A folder that is made or removed if it turns out to be empty."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.empty = True


class Merge(Listed):
    """One reading of a plan's two listings."""

    def __init__(self, inputs: MergeInputs) -> None:
        self.inputs = inputs
        self.o = inputs.options
        self.seen = inputs.seen
        self.src, self.dst = inputs.src, inputs.dst
        self.fold = self._fold()
        # A name that the filter lets pass and its other spelling that it hides would be one object at the destination.
        self.filter = replace(self.o.filter, ignore_case=True) if self.fold.case else self.o.filter
        self.comparison = Comparison(self.src, self.dst, self.o)
        self.end = Ending(self.o, self.seen, self.comparison, self.fold)
        self.times = Times(self.fold, self.comparison.window, moves=self.o.move) if inputs.sets_folder_times else None
        self.links = isinstance(self.dst.backend, StoredLinks)
        self.trees = self.dst.features.dirs  # where a name cannot be an object and a folder
        self.unlisted = Unlisted(self.fold)
        self.doubles: dict[bytes, list[str]] = {}  # names of the source that are one at the destination
        self.twins: dict[bytes, list[str]] = {}  # names of the destination that are one at the source
        self.unclear: set[bytes] = set()  # twins that the source has an object for
        self.shields = Passed[str]()
        self.files = Passed[tuple[Entry, str]]()  # of the destination; "stays", "extra", or "goes" if it is deleted
        self.waiting = Passed[_Waiting]()
        self.folders = Passed[_Folder]()  # of the source, to be made unless something is put into them
        self.extras = Passed[_Folder]()  # of the destination, to be removed unless something stays in them
        self.included = 0
        self.errors = 0

    # -- the stream ----------------------------------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        try:
            try:
                for action in self._watched(self._resolved(self._merged())):
                    self.errors += action.kind == "error"
                    yield action
            except StorageError as error:
                if not self.seen.source_objects and not self.seen.destination_objects:
                    raise  # nothing was begun
                self.seen.broken = error
                yield Action("error", "", f"the listing broke off, so nothing is deleted: {error}")
                return
            self.seen.complete = not self.unlisted.failed and not self.unlisted.unknown
            yield from self._watched(self.end.actions(self.unlisted.failed, self.included, self.errors))
            if self.times is not None:
                yield from self.times.actions()
        finally:
            self.end.close()
            if self.times is not None:
                self.times.close()

    def _watched(self, actions: Iterator[Action]) -> Iterator[Action]:
        return actions if self.times is None else self.times.watched(actions)

    def _resolved(self, items: Iterator[Item]) -> Iterator[Action]:
        """The actions in order; those that take a look at a store are found out side by side."""
        waiting: deque[Action | Future[Action | None]] = deque()
        pool: Lookers | None = None
        try:
            for item in items:
                if not isinstance(item, Action):
                    pool = pool or Lookers(self.inputs.pool(self.o.checkers))
                    waiting.append(pool.submit(item))
                elif waiting:
                    waiting.append(item)
                else:
                    yield item
                while waiting and (len(waiting) > 16 * self.o.checkers or _is_ready(waiting[0])):
                    yield from _answer(waiting.popleft())
            while waiting:
                yield from _answer(waiting.popleft())
        finally:
            if pool is not None:
                pool.close()

    def _merged(self) -> Iterator[Item]:
        with closing(self._sources()) as sources, closing(self._targets()) as targets:
            yield from self._both_read(sources, targets)

    def _both_read(self, sources: Iterator[Entry], targets: Iterator[Entry]) -> Iterator[Item]:
        seen = self.seen
        a = next(sources, None)
        if a is None:
            self._must_exist()
        b = next(targets, None)
        yield from self._doubled()
        special = {*self.doubles, *self.twins}
        quick = self.comparison.quick
        plain = self.filter.is_all and not self.o.move and not self.o.list_equal and not callable(self.o.compare)
        mixed = self.trees and not self.src.features.dirs  # only then can an object lie below another's name
        while a is not None or b is not None:
            if b is None or (a is not None and a[0] < b[0]):
                assert a is not None
                yield from self._only_source(a)
                a = next(sources, None)
            elif a is None or b[0] < a[0]:
                yield from self._only_target(b)
                b = next(targets, None)
            else:
                if plain and a[2][3] == b[2][3] == "file" and quick(a[2], b[2]) == EQUAL and a[0] not in special:
                    seen.source_objects += 1
                    seen.source_bytes += a[2][1] or 0
                    seen.destination_objects += 1
                    seen.equal += 1
                    self.included += 1
                    if self.trees:
                        yield from self._settle(a[0])
                        if mixed:
                            self._on_both_sides(b)
                else:
                    yield from self._both(a, b)
                a = next(sources, None)
                b = next(targets, None)
        yield from self._settle(None)

    # -- one entry -----------------------------------------------------------------------------------------------------

    def _doubled(self) -> Iterator[Action]:
        for names in self.doubles.values():
            for name in names:
                others = ", ".join(repr(other) for other in names if other != name)
                yield Action("error", name, f"at the destination this is the same name as {others}: rename one")

    def _only_source(self, a: Entry) -> Iterator[Item]:
        yield from self._settle(a.key)
        if a.info.is_dir:
            self._source_folder(a)
            self._note_time(a, None)
            return
        wanted, said = self._is_wanted(a)
        if said is not None:
            yield said
        if not wanted:
            return
        try:
            check_new(a.path)
        except InvalidPath as error:
            yield self._refused(a, str(error.args[0]))
            return
        if self.o.portable_names and (why := not_portable(a.path)):
            yield self._refused(a, why)
            return
        if self.unlisted.is_unknown(a.path):
            return  # reported once, for the folder
        if self.unlisted.is_kept(a.path):
            yield Action("skip", a.path, "a marker at the destination keeps others out of this folder", None, a.info)
            return
        if self.o.no_traverse:
            yield lambda: self._looked_up(a)
            return
        yield from self._new(a)

    def _new(self, a: Entry) -> Iterator[Item]:
        action = Action("copy", a.path, "new", a.info.size, a.info)
        if not self.trees:
            yield from self.end.copy(action)
            return
        waiting = _Waiting(action)
        for other, what in self._in_the_way(self.waiting, a.key):
            other.clash = _BOTH
            if what == "link":
                other.clash = waiting.clash = _ONE_NAME
        for (there, goes), what in self._in_the_way(self.files, a.key):
            if goes == "stays" or self.o.on_type_clash == "error":
                waiting.clash = f"{there.path!r} is an object at the destination, not a {what}"
                continue
            waiting.replaces = True
            if goes == "extra":
                self.end.gives_way(there, f"in the way of {a.path!r}")
        self.waiting.push(a.key, waiting)

    def _in_the_way(self, passed: Passed[T], key: bytes) -> Iterator[tuple[T, str]]:
        """What was passed of the names for which ``key`` needs a folder; and of the file ``x``, where ``key`` is that
        of its link ``x.rclonelink`` and the destination has one name for the two."""
        for value in passed.above(key):
            yield value, "folder"
        if self.links and key.endswith(_LINK):
            for value in passed.at(key[: -len(_LINK)]):
                yield value, "link"

    def _is_wanted(self, a: Entry) -> tuple[bool, Action | None]:
        """Whether the object takes part, and what is to be said if not. One that does not shields what the destination
        has under its name."""
        info = a.info
        if not self.filter.includes(a.path, info):
            self.seen.filtered += 1
            return False, None
        self.seen.source_objects += 1
        self.seen.source_bytes += info.size or 0
        self.included += 1
        if info.kind != "file":
            self.shields.push(a.key, a.path)
            what = "a symbolic link" if info.kind == "link" else "neither a file nor a folder"
            return False, Action("skip", a.path, f"it is {what}", expect_src=info)
        for folder in (*self.folders.above(a.key), *self.extras.above(a.key)):
            folder.empty = False
        return a.key not in self.doubles, None  # those were reported before

    def _refused(self, a: Entry, why: str) -> Action:
        self.shields.push(a.key, a.path)
        return Action("refused", a.path, why, a.info.size, a.info)

    def _source_folder(self, a: Entry) -> None:
        self.included += self.o.empty_dirs  # else nothing of it arrives anywhere
        for folder in self.extras.above(a.key[:-1]):
            folder.empty = False
        if self.o.empty_dirs and self.trees and self.filter.descends(a.path) and not self.unlisted.is_kept(a.path):
            for folder in self.folders.above(a.key[:-1]):
                folder.empty = False
            action = Action("mkdir", a.path, "an empty folder", expect_src=a.info)
            if any(self.files.above(a.key)):
                action = action._replace(kind="error", why="an object at the destination has the name of this folder")
            self.folders.push(a.key[:-1], _Folder(action))

    def _note_time(self, a: Entry, b: Entry | None) -> None:
        if self.times is not None and self.filter.descends(a.path) and not self.unlisted.is_kept(a.path):
            self.times.note(a, b)

    def _both(self, a: Entry, b: Entry) -> Iterator[Item]:
        yield from self._settle(a.key)
        if a.info.is_dir:
            self._note_time(a, b)
            for folder in self.folders.above(a.key[:-1]):
                folder.empty = False
            return
        if not self.filter.includes(a.path, a.info) and self.o.delete_excluded:
            self.seen.filtered += 1
            self._extra(b)
            return
        if b.key in self.twins:
            self.unclear.add(b.key)
        if self.trees:
            self._on_both_sides(b)
        wanted, said = self._is_wanted(a)
        self.seen.destination_objects += 1
        if said is not None:
            yield said
        if not wanted:
            return
        if b.key in self.twins:
            names = " and ".join(repr(name) for name in self.twins[b.key])
            yield Action("error", a.path, f"the destination has {names} for it: leave one of them", expect_src=a.info)
            return
        plain = b.info.kind == "file"
        verdict = self.comparison.quick(a.info, b.info) if plain else "the destination is no plain object"
        if verdict is None:
            yield lambda: self._asked(a, b)
        elif action := self._decided(a, b, verdict):
            yield action

    def _on_both_sides(self, b: Entry) -> None:
        """Whatever is below the name of a new object, the new one is the one too many."""
        for waiting, what in self._in_the_way(self.waiting, b.key):
            waiting.clash = _BOTH if what == "folder" else _ONE_NAME
        for folder in self.extras.above(b.key):
            folder.empty = False
        self.files.push(b.key, (b, "stays"))

    def _asked(self, a: Entry, b: Entry) -> Action | None:
        try:
            return self._decided(a, b, self.comparison.slow(a.info, b.info))
        except StorageError as error:
            return Action("error", a.path, f"cannot be compared: {error}", a.info.size, a.info, b.info)

    def _decided(self, a: Entry, b: Entry, verdict: str) -> Action | None:
        name = None if b.path == a.path else b.path
        if verdict in LEFT:
            return Action("skip", a.path, verdict, a.info.size, a.info, b.info, name)
        if verdict == TOUCH and self.o.immutable and not self.o.list_equal:
            verdict = TIME_DIFFERS
        if verdict == TOUCH and self.dst.features.set_modified and not self.o.move:
            return Action("touch", a.path, verdict, None, a.info, b.info, name)
        if verdict in SAME:
            self.seen.equal += 1
            checked = self.o.list_equal and not self.comparison.says_content
            self.seen.by_size_and_time += not self.o.move and (verdict in WEAK or checked)
            if verdict == BY_SIZE:
                self.seen.warn("some objects were compared by their size alone: neither times nor digests are known")
            if self.o.move:
                return Action("remove", a.path, verdict, a.info.size, a.info, b.info, name)
            return Action("equal", a.path, verdict, a.info.size, a.info, b.info, name) if self.o.list_equal else None
        if self.o.immutable:
            return Action("error", a.path, f"immutable, but {verdict}", a.info.size, a.info, b.info, name)
        return Action("update", a.path, verdict, a.info.size, a.info, b.info, name)

    def _looked_up(self, a: Entry) -> Action | None:
        """What to do about an object where the destination is not listed."""
        try:
            info = self.dst.backend.stat(self.dst.key(a.path))
        except NotFound:
            return Action("copy", a.path, "new", a.info.size, a.info)
        except StorageError as error:
            return Action("error", a.path, f"cannot be compared: {error}", a.info.size, a.info)
        b = Entry(a.key, a.path, info)
        self.seen.destination_objects += 1
        verdict = self.comparison.quick(a.info, info)
        return self._asked(a, b) if verdict is None else self._decided(a, b, verdict)

    def _only_target(self, b: Entry) -> Iterator[Item]:
        yield from self._settle(b.key)
        if b.info.is_dir:
            self._extra_folder(b)
        else:
            self._extra(b)

    def _is_shielded(self, b: Entry) -> bool:
        """Whether something at the source, which is not copied, keeps what has its name at the destination."""
        return bool(self.shields.above(b.key)) or (not self.o.delete_excluded and self.unlisted.is_dropped(b.path))

    def _extra(self, b: Entry) -> None:
        hidden = not self.o.delete_excluded and not self.filter.includes(b.path, b.info)
        stays = hidden or b.key in self.unclear or self._is_shielded(b)
        self.seen.destination_objects += not hidden
        state = "stays" if stays else "extra"
        for waiting, what in self._in_the_way(self.waiting, b.key):
            if stays or self.o.on_type_clash == "error":
                waiting.clash = f"a {what} at the destination has this name"
            else:
                waiting.replaces, state = True, "goes"
                self.end.gives_way(b, f"in the way of {waiting.action.path!r}")
        if state == "extra" and self.o.delete:
            state = "goes" if self.end.superfluous(b) else "stays"
        if self.trees:
            self.files.push(b.key, (b, state))
        if state != "goes":
            for folder in self.extras.above(b.key):
                folder.empty = False

    def _extra_folder(self, b: Entry) -> None:
        stays = self._is_shielded(b) or not (self.o.delete_excluded or self.filter.descends(b.path))
        goes = self.o.delete and not stays
        for waiting in self.waiting.above(b.key):
            if stays or self.o.on_type_clash == "error":
                waiting.clash = "a folder at the destination has this name"
            else:
                waiting.replaces = goes = True
        for folder in [] if goes else self.extras.above(b.key[:-1]):
            folder.empty = False
        if goes:
            self.extras.push(b.key[:-1], _Folder(Action("rmdir", b.path, "not at the source", expect_dst=b.info)))

    def _settle(self, key: bytes | None) -> Iterator[Item]:
        """What waited for names that were passed now."""
        for _ in self.shields.leave(key):
            pass
        if not self.trees:
            return
        if self.times is not None:
            self.times.leave(key)
        for _ in self.files.leave(key):
            pass
        for folder in self.folders.leave(key):
            if folder.empty:
                yield folder.action
        for folder in self.extras.leave(key):  # inner ones first
            if folder.empty and not self.unlisted.holds(folder.action.path):
                self.end.folders.add(folder.action)
        for waiting in self.waiting.leave(key):
            if not waiting.clash and self.unlisted.holds(waiting.action.path):
                waiting.clash = "a folder at the destination has this name, and not all of it is known"
            if waiting.clash:
                if not (
                    waiting.clash == _BOTH and self.o.delete
                ):  # then it is the folder that is to be as the source's
                    self.end.keep_below(waiting.action.path)
                yield waiting.action._replace(kind="error", why=waiting.clash)
            elif waiting.replaces:
                self.end.late.add(waiting.action)
            else:
                yield from self.end.copy(waiting.action)


def _is_ready(item: Action | Future[Action | None]) -> bool:
    return isinstance(item, Action) or item.done()


def _answer(item: Action | Future[Action | None]) -> Iterator[Action]:
    action = item if isinstance(item, Action) else item.result()
    if action is not None:
        yield action
