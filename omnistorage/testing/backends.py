"""``BackendTests``: every sentence a backend must keep, as one test each.

from omnistorage.testing import BackendTests

class TestMine(BackendTests):
        def make(self):
            return MyBackend()

def peek(self, backend, path):          # the raw back doors: not through the methods under test
            return backend.rows.get(path)

def plant(self, backend, path, data):
            backend.rows[path] = data

A basic backend is asked about its six methods, an extended one about all; what a flag denies must be refused.
``failures`` runs the kit without pytest, to see what it rejects.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from omnistorage.core import Backend, as_extended, features_of
from omnistorage.wrappers.base import Wrapper

from ._kit import Kit, put, refused
from ._kit_list import ListTests
from ._kit_objects import CopyTests, FolderTests, ObjectTests, ShapeTests
from ._kit_powers import PowerTests
from ._kit_read import ReadTests
from ._kit_write import WriteTests
from .basic import BasicBackend

_CHANGING = frozenset(
    {
        *(name for part in (WriteTests, CopyTests, FolderTests) for name in vars(part) if name.startswith("test_")),
        "test_close_is_idempotent_and_final",
        "test_delete_of_a_folder_deletes_nothing",
        "test_delete_says_what_it_did",
        "test_delete_touches_no_neighbour",
        "test_every_listed_path_is_accepted_back",
        "test_list_forgets_what_is_deleted",
        "test_no_method_lets_a_path_escape",
        "test_stable_keys_appear_exactly_once_while_others_come_and_go",
    }
)


class BackendTests(ReadTests, WriteTests, ListTests, ObjectTests, FolderTests, CopyTests, PowerTests, ShapeTests):
    """The whole backend suite. Define ``make``, and ``peek`` and ``plant`` unless the backend has such methods.

    A backend that can only read says ``read_only = True``: what the other tests write is planted, those about changing
    something are left out, and that every changing method refuses is still asked.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.read_only:
            for name in _CHANGING:
                setattr(cls, name, None)


class WrapperTests(BackendTests):
    """The backend suite for a wrapper, once over an extended inner backend and once over a basic-only one.

    Define ``wrap(inner)``. The raw back doors are the inner backend's; override ``raw`` if the wrapper renames paths.
    """

    inner = "extended"

    def wrap(self, inner: Backend) -> Backend:
        raise TypeError(f"{type(self).__name__} must define wrap(self, inner) -> Backend")

    def make_inner(self) -> Backend:
        from omnistorage.backends.memory import MemoryBackend

        return MemoryBackend() if self.inner == "extended" else BasicBackend()

    def make(self) -> Backend:
        return self.wrap(self.make_inner())

    def raw(self, backend: Any, path: str) -> tuple[Any, str]:
        """The inner backend and the inner path."""
        return backend.inner, path

    def peek(self, backend: Any, path: str) -> bytes | None:
        inner, path = self.raw(backend, path)
        return super().peek(inner, path)

    def plant(self, backend: Any, path: str, data: bytes) -> None:
        inner, path = self.raw(backend, path)
        super().plant(inner, path, data)

    @pytest.fixture(params=["extended", "basic"])
    def backend(self, request: pytest.FixtureRequest) -> Iterator[Backend]:
        self.inner = request.param
        yield from self.made(self.make())

    def test_a_wrapper_is_extended_exactly_if_its_inner_backend_is(self, backend: Any) -> None:
        assert (as_extended(backend) is None) == (as_extended(backend.inner) is None)

    def test_a_wrapper_clears_flags_and_never_invents_one(self, backend: Any) -> None:
        outer, inner = features_of(backend), features_of(backend.inner)
        for flag in type(outer).flags():
            assert getattr(inner, flag) or not getattr(outer, flag), flag
            if flag in backend.clears:
                assert not getattr(outer, flag)

    def test_a_wrapper_around_a_basic_backend_refuses_the_rest(self, backend: Any) -> None:
        if as_extended(backend) is not None:
            return
        put(backend, "x")
        for call in (
            lambda: backend.stat("x"),
            lambda: backend.list_dir(""),
            lambda: backend.mkdir("x"),
            lambda: backend.rmdir("x"),
            lambda: backend.copy("x", "y"),
            lambda: backend.move("x", "y"),
            lambda: backend.purge("x"),
        ):
            with refused():
                call()

    def test_a_wrapper_defines_every_member_of_the_protocols(self, backend: Any) -> None:
        for member in ("open_reader", "open_writer", "exists", "delete", "list", "close", "stat", "list_dir", "mkdir",
                       "rmdir", "copy", "move", "name", "url", "features"):  # fmt: skip
            assert hasattr(backend, member), member

    def test_a_wrapper_prints_its_stack(self, backend: Any) -> None:
        assert isinstance(backend, Wrapper)
        assert type(backend).__name__ in repr(backend)


def failures(kit: Kit, *, only: set[str] | None = None) -> dict[str, BaseException]:
    """Run a backend kit in process, each test on a fresh backend: the names of the tests that failed, with the errors.

    Fixtures other than ``backend`` are not known here; parameters are expanded.
    """
    found: dict[str, BaseException] = {}
    for name in sorted(dir(kit)):
        if not name.startswith("test_") or (only is not None and name not in only):
            continue
        test = getattr(kit, name)
        for arguments in _parameters(test):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    test(kit.make(), **arguments)
            except (Exception, pytest.fail.Exception) as error:
                found.setdefault(name, error)
                break
    return found


def _parameters(test: Any) -> Iterator[dict[str, Any]]:
    marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    columns = []
    for mark in marks:
        names, values = mark.args[:2]
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        columns.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values])
    for rows in itertools.product(*columns):
        yield {key: value for row in rows for key, value in row.items()}
