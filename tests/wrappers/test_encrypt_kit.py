"""Encrypt keeps every promise of what it wraps, over extended, flat, unsized and basic-only backends."""

import pytest

from omnistorage import Encrypt, MemoryBackend
from omnistorage.testing import BasicBackend, Chunky, WrapperTests
from omnistorage.wrappers import Prefix
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.streams import WrappedReader

from .encrypt_spec import decode, encode

KEY = bytes(range(32))


class Unsized(Wrapper):
    """Its readers do not know how much is to come."""

    def _reader(self, reader, path):
        return _Unsized(reader)


class _Unsized(WrappedReader):
    @property
    def info(self):
        return self.inner.info._replace(size=None)


class EncryptedTests(WrapperTests):
    def wrap(self, inner):
        return Encrypt(inner, KEY)

    def peek(self, backend, path):
        inner, path = self.raw(backend, path)
        stored = inner.peek(path)
        return None if stored is None else decode(KEY, stored)

    def plant(self, backend, path, data):
        inner, path = self.raw(backend, path)
        inner.put_raw(path, encode(KEY, data))


class TestEncrypt(EncryptedTests):
    pass


@pytest.mark.ci_only
class TestEncryptUnderPrefix(EncryptedTests):
    def wrap(self, inner):
        return Prefix(Encrypt(inner, {"a": bytes(32), "default": KEY}, key_id="default"), "some/folder")

    def raw(self, backend, path):
        return backend.inner.inner, f"some/folder/{path}"


@pytest.mark.ci_only
class TestEncryptOverShortReads(EncryptedTests):
    def wrap(self, inner):
        return Encrypt(Chunky(inner, size=4999), KEY)

    def raw(self, backend, path):
        return backend.inner.inner, path


@pytest.mark.ci_only
class TestEncryptOverUnknownSizesWithoutFolders(EncryptedTests):
    def make_inner(self):
        return MemoryBackend(dirs=False) if self.inner == "extended" else BasicBackend()

    def wrap(self, inner):
        return Encrypt(Unsized(inner), KEY)

    def raw(self, backend, path):
        return backend.inner.inner, path
