"""A hypothesis state machine for any backend: random calls, held against a dict.

TestMine = backend_machine(make=MyBackend, peek=lambda backend, path: backend.rows.get(path))

Steps are chosen from what the backend's flags allow. Whatever happens, the store and the dict agree; a failing run is
shrunk to the shortest one and printed as Python.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omnistorage.core import (
    Append,
    Backend,
    CopyOptions,
    ListOptions,
    Purge,
    ReadOptions,
    WriteOptions,
    as_extended,
    features_of,
    power,
)
from omnistorage.errors import AlreadyExists, InvalidPath, NotFound, PreconditionFailed
from omnistorage.paths import is_under, parent, sort_key

from ._kit import get, put

SEGMENTS = ("a", "b", "a-b", "a.b", "a0", "é")
# As many of each depth, and one choice for each: a run is made of choices, and most of its time is theirs.
PATHS = st.sampled_from(["/".join(names) for depth in (1, 2, 3) for names in product(SEGMENTS, repeat=depth)
                         for _ in range(6 ** (3 - depth))])  # fmt: skip
BODIES = st.one_of(st.binary(max_size=64), st.integers(0, 200_000).map(lambda n: b"%d," % n * (n // 6)))


class BackendMachine(RuleBasedStateMachine):
    """The machine; ``backend_machine`` binds it to a backend."""

    make: Callable[[], Backend]
    peek: Callable[[Any, str], bytes | None]
    dispose: Callable[[Any], None]
    one_kind = False

    @initialize()
    def start(self) -> None:
        self.backend = type(self).make()
        self.features = features_of(self.backend)
        self.extended = as_extended(self.backend)
        self.model: dict[str, bytes] = {}
        self.folders: set[str] = set()
        self.object_names: set[str] = set()
        self.folder_names: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            type(self).dispose(self.backend)

    # -- what the model knows ------------------------------------------------------------------------------------------

    def fits(self, path: str) -> bool:
        """Whether an object may stand at ``path`` where folders are real."""
        if not self.features.dirs:
            return True
        above = parent(path)
        while above:
            if above in self.model:
                return False
            above = parent(above)
        return path not in self.folders and not any(is_under(key, path) for key in self.model)

    def admits(self, path: str) -> bool:
        """Return whether the machine may write to ``path``. With ``one_kind`` the first use of a name decides whether
        it is an object or a folder for the whole run."""
        if not self.one_kind:
            return True
        above, folders = parent(path), set()
        while above:
            folders.add(above)
            above = parent(above)
        if path in self.folder_names or folders & self.object_names:
            return False
        self.object_names.add(path)
        self.folder_names |= folders
        return True

    def remember(self, path: str, data: bytes) -> None:
        self.model[path] = data
        above = parent(path)
        while above and self.features.dirs:
            self.folders.add(above)
            above = parent(above)

    def sorted_keys(self, prefix: str = "") -> list[str]:
        return sorted((key for key in self.model if is_under(key, prefix)), key=sort_key)

    # -- steps ---------------------------------------------------------------------------------------------------------

    @rule(path=PATHS, data=BODIES)
    def write(self, path: str, data: bytes) -> None:
        if not self.admits(path):
            return
        if self.fits(path):
            assert put(self.backend, path, data).size == len(data)
            self.remember(path, data)
        else:
            self.refused(InvalidPath, lambda: put(self.backend, path, data))

    @rule(path=PATHS, data=BODIES)
    def create(self, path: str, data: bytes) -> None:
        if not self.features.create_only or not self.admits(path) or not self.fits(path):
            return
        options = WriteOptions(overwrite=False)
        if path in self.model:
            self.refused(AlreadyExists, lambda: put(self.backend, path, data, options))
        else:
            put(self.backend, path, data, options)
            self.remember(path, data)

    @rule(path=PATHS, data=BODIES, prepared=st.booleans())
    def abort(self, path: str, data: bytes, prepared: bool) -> None:
        if self.admits(path) and self.fits(path):
            writer = self.backend.open_writer(path)
            writer.write(data)
            if prepared:
                writer.prepare()
            writer.abort()
            self.note_parents(path)

    def note_parents(self, path: str) -> None:
        # A writer may have made the folders above its object; whether an aborted one leaves them is the backend's own.
        if self.extended is not None and self.features.dirs:
            above = parent(path)
            while above:
                try:
                    next(self.extended.list_dir(above), None)
                    self.folders.add(above)
                except NotFound:
                    pass
                above = parent(above)

    @rule(path=PATHS)
    def read(self, path: str) -> None:
        if path in self.model:
            assert get(self.backend, path) == self.model[path]
        else:
            self.refused(NotFound, lambda: self.backend.open_reader(path))

    @rule(path=PATHS, offset=st.integers(0, 300_000), length=st.one_of(st.none(), st.integers(0, 300_000)))
    def read_range(self, path: str, offset: int, length: int | None) -> None:
        if self.features.range_read and path in self.model:
            stop = None if length is None else offset + length
            options = ReadOptions(offset=offset, length=length)
            assert get(self.backend, path, options) == self.model[path][offset:stop]

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        assert self.backend.delete(path) in (path in self.model, None)
        self.model.pop(path, None)

    @rule(path=PATHS)
    def delete_with_a_wrong_etag(self, path: str) -> None:
        if self.features.if_match:
            self.refused(PreconditionFailed, lambda: self.backend.delete(path, if_match="no such etag"))

    @rule(src=PATHS, dst=PATHS, overwrite=st.booleans(), move=st.booleans())
    def copy_or_move(self, src: str, dst: str, overwrite: bool, move: bool) -> None:
        if self.extended is None or not (self.features.move if move else self.features.copy) or not self.admits(dst):
            return
        call = self.extended.move if move else self.extended.copy
        options = CopyOptions(overwrite=overwrite if self.features.create_only else True)
        if src not in self.model:
            self.refused((NotFound, InvalidPath), lambda: call(src, dst, options))
        elif src == dst:
            call(src, dst, options)
        elif not self.fits(dst):
            self.refused((InvalidPath, NotFound), lambda: call(src, dst, options))
            self.note_parents(dst)
        elif dst in self.model and not options.overwrite:
            self.refused(AlreadyExists, lambda: call(src, dst, options))
        else:
            call(src, dst, options)
            self.remember(dst, self.model[src])
            if move:
                del self.model[src]

    @rule(path=PATHS, data=st.binary(max_size=64))
    def append(self, path: str, data: bytes) -> None:
        can = power(self.backend, Append)
        if can is not None and self.admits(path) and self.fits(path):
            with can.open_appender(path) as writer:
                writer.write(data)
            self.remember(path, self.model.get(path, b"") + data)

    @rule(path=PATHS)
    def purge(self, path: str) -> None:
        can = power(self.backend, Purge)
        if can is None:
            return
        if path in self.folders or self.sorted_keys(path):
            can.purge(path)
            for key in self.sorted_keys(path):
                del self.model[key]
            self.folders = {f for f in self.folders if f != path and not is_under(f, path)}
        else:
            self.refused(NotFound, lambda: can.purge(path))

    @rule(prefix=PATHS, after=st.one_of(st.none(), PATHS))
    def list_a_prefix(self, prefix: str, after: str | None) -> None:
        found = [info.path for info in self.backend.list(prefix, ListOptions(start_after=after))]
        wanted = [key for key in self.sorted_keys(prefix) if after is None or sort_key(key) > sort_key(after)]
        assert sorted(found, key=sort_key) == wanted

    @precondition(lambda self: self.extended is not None)
    @rule(path=PATHS)
    def stat(self, path: str) -> None:
        assert self.extended is not None
        if self.features.stat and path in self.model:
            assert self.extended.stat(path).size == len(self.model[path])
        elif self.features.stat:
            self.refused(NotFound, lambda: self.extended.stat(path))  # type: ignore[union-attr]

    @rule(path=PATHS)
    def exists(self, path: str) -> None:
        assert self.backend.exists(path) is (path in self.model)

    def refused(self, kind: Any, call: Callable[[], Any]) -> None:
        try:
            call()
        except kind:
            return
        raise AssertionError(f"{kind} was expected")

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def the_store_and_the_model_agree(self) -> None:
        if not hasattr(self, "backend"):
            return
        listed = [(info.path, info.size) for info in self.backend.list()]
        wanted = [(key, len(self.model[key])) for key in self.sorted_keys()]
        if self.features.sorted_list:
            assert listed == wanted
        else:
            assert sorted(listed) == sorted(wanted)
        for path, data in self.model.items():
            assert type(self).peek(self.backend, path) == data


def backend_machine(
    make: Callable[[], Backend],
    peek: Callable[[Any, str], bytes | None] = lambda backend, path: backend.peek(path),
    dispose: Callable[[Any], None] = lambda backend: backend.close(),
    *,
    steps: int = 5_000,
    length: int = 50,
    one_kind: bool = False,
) -> Any:
    """Make a ``unittest`` test case that takes random steps on a backend.

    Args:
        make: Returns a new, empty backend for each run.
        peek: Returns the stored bytes of a path, or None, without the backend's own code.
        dispose: Releases a backend after its run.
        steps: The least number of steps in all.
        length: Steps per run.
        one_kind: Whether a name is used as an object or as a folder, never as both in one run. For servers that remove
            an emptied folder some time later, together with an object that has taken its name meanwhile.

    Returns:
        The class of the test case; assign it to a name that begins with ``Test``.
    """
    bound: Any = type(
        "BoundMachine",
        (BackendMachine,),
        {
            "make": staticmethod(make),
            "peek": staticmethod(peek),
            "dispose": staticmethod(dispose),
            "one_kind": one_kind,
        },
    )
    case = bound.TestCase
    case.settings = settings(
        max_examples=max(1, steps // length), stateful_step_count=length, deadline=None, database=None
    )
    return case
