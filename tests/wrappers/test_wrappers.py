"""Prefix, ReadOnly, Observe and Retry keep every promise of what they wrap, extended or basic-only."""

import pytest

from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.testing import WrapperTests
from omnistorage.wrappers import Observe, Prefix, ReadOnly, Retry


class TestPrefix(WrapperTests):
    def wrap(self, inner):
        return Prefix(inner, "some/folder")

    def raw(self, backend, path):
        return backend.inner, f"some/folder/{path}"


@pytest.mark.ci_only
class TestPrefixWithPatternCharacters(WrapperTests):
    def wrap(self, inner):
        return Prefix(inner, "a[b]*{c}")

    def raw(self, backend, path):
        return backend.inner, f"a[b]*{{c}}/{path}"


@pytest.mark.ci_only
class TestPrefixInAPrefix(WrapperTests):
    def wrap(self, inner):
        return Prefix(Prefix(inner, "outer"), "inner")

    def raw(self, backend, path):
        return backend.inner.inner, f"outer/inner/{path}"


class TestReadOnly(WrapperTests):
    read_only = True

    def wrap(self, inner):
        return ReadOnly(inner)


class TestObserve(WrapperTests):
    def wrap(self, inner):
        return Observe(inner, [].append)


@pytest.mark.ci_only
class TestObserveUnderPrefix(WrapperTests):
    def wrap(self, inner):
        return Prefix(Observe(inner, [].append), "p")

    def raw(self, backend, path):
        return backend.inner.inner, f"p/{path}"


class TestRetry(WrapperTests):
    inner = "basic"

    @pytest.fixture
    def backend(self):
        yield from self.made(self.make())

    def wrap(self, inner):
        return Retry(inner, RequestPolicy())
