"""Google Cloud Storage, through google-cloud-storage.

Every request is sent once by the SDK and tried again by our ``RequestPolicy`` alone. A body of up to ``part_size``
bytes is one request; a longer one is a resumable upload, whose chunks go one after another while the next one fills, so
that a stream takes ``3 * part_size`` bytes whatever its length. A long object is read as ranges of ``part_size`` bytes,
``concurrency`` of them side by side. The store checks the CRC32C of every body, unless ``checksums`` are off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import SplitResult, unquote

from omnistorage.backends.base import check_expires, checked_prefix
from omnistorage.backends.connections import Connections
from omnistorage.backends.object_store.backend import ObjectBackend
from omnistorage.backends.object_store.client import Put
from omnistorage.backends.object_store.conditions_probe import Kept
from omnistorage.backends.object_store.endpoints import split_endpoint
from omnistorage.backends.object_store.obstore import check_client
from omnistorage.backends.object_store.writer import ObjectWriter, conclude, new_put
from omnistorage.concurrency.pools import side_by_side
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import WRITE, CopyOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    MissingExtra,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.media_types import content_type
from omnistorage.paths import check_key, check_new

from .client import EXTRA, QUANTUM, GCSClient
from .errors import NAME, translate
from .obstore import ObstoreGCSClient, takes_over, unable
from .response_marks import checker
from .vendors import VENDORS, features_of

T = TypeVar("T")
ENDPOINT = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
PART_SIZE = 8 << 20
MOST_COMPOSED = 32
BATCH = 100
"""The most calls that one request of the batch endpoint takes."""


class GCSBackend(ObjectBackend):
    """The objects of ``bucket`` whose names begin with ``prefix/``.

    Credentials come from the SDK's default chain (ADC), or from a service account's key: the ``credentials_file`` that
    holds it, or ``credentials``, its JSON text; ``anonymous=True`` sends none. ``endpoint_url`` is another server than
    Google's, by default the one in ``STORAGE_EMULATOR_HOST``, and gets no credentials but those given here. ``vendor``
    names what it is (one of ``VENDORS``) and so what it can do. ``conditional_writes`` says whether it keeps generation
    preconditions (``overwrite=False``, ``if_match``); with "auto", the default, the vendor says it, or else creates
    are tried at the first write with a condition, as ``S3Backend`` does it. ``conditional_uploads=False`` says that it
    does not keep them at the end of resumable uploads, ``ordered_listing=True`` that it lists names in the order of
    their bytes; ``omnistorage.probe`` looks closer. ``checksums=False`` holds no body that is read against the store's
    CRC32C, and sends none with a small one. ``client`` is "sdk", "obstore" (``[accel]``: reads and small writes for a
    fraction of the CPU time, without ``checksums``, of a server that answers the XML API), or "auto": obstore where it
    can do all that the SDK would.

    An etag is the object's generation, and so is its version. ``durable`` writes need nothing more.
    ``WriteOptions.extra`` takes ``gcs.storage_class``, ``gcs.predefined_acl``, ``gcs.kms_key_name``,
    ``gcs.cache_control`` and ``gcs.content_disposition``, ``_encoding``, ``_language``. ``prepare`` leaves less than
    256 KiB of a long body to the request that publishes. A move is a copy and a delete, each on the condition that the
    source is still the same. What a kill leaves of an upload is invisible, cannot be listed, and is the store's to
    remove (it does after a week).
    """

    not_from_urls = frozenset({"credentials_file"})
    name = NAME
    extra_keys = EXTRA
    any_order = False
    most_parts: int | None = None
    probe_with: ClassVar = {"part_size": QUANTUM}
    probes: ClassVar = {
        "conditional_writes": ("one winner of new keys", "conditions by etag", "conditions of deletes and copies"),
        "conditional_uploads": ("one winner of new keys in uploads", "conditions by etag in uploads"),
        "ordered_listing": ("order of listings",),
    }

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        project: str | None = None,
        credentials_file: str | None = None,
        credentials: Secret | str | None = None,
        anonymous: bool = False,
        endpoint_url: str | None = None,
        vendor: str | None = None,
        conditional_writes: bool | Literal["auto"] = "auto",
        conditional_uploads: bool | None = None,
        ordered_listing: bool | None = None,
        checksums: bool = True,
        client: str = "auto",
        part_size: int = PART_SIZE,
        concurrency: int = 4,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        policy: RequestPolicy | None = None,
    ) -> None:
        if not isinstance(bucket, str) or not bucket or "/" in bucket:
            raise ConfigError(f"a bucket has a name without slashes, not {bucket!r}")
        prefix = checked_prefix(prefix)
        if endpoint_url is None and (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
            endpoint_url = emulator if "://" in emulator else f"http://{emulator}"
        vendor = vendor or ("google" if endpoint_url is None else "other")
        if vendor not in VENDORS:
            known = ", ".join(sorted(VENDORS))
            raise ConfigError(f"vendor={vendor!r}: use one of {known}, or say conditional_writes and ordered_listing")
        if (credentials_file is not None) + (credentials is not None) + anonymous > 1:
            raise ConfigError("give one of credentials_file, credentials and anonymous")
        if type(part_size) is int and part_size % QUANTUM:
            raise ConfigError(f"part_size is a multiple of {QUANTUM} bytes, not {part_size}")
        if conditional_writes not in (True, False, "auto"):
            raise ConfigError(f"conditional_writes={conditional_writes!r}: use True, False or 'auto'")
        check_client(client, unable(xml=VENDORS[vendor].xml, checksums=checksums))
        self._options: dict[str, Any] = {
            "bucket": bucket, "prefix": prefix, "project": project, "credentials_file": credentials_file,
            "credentials": Secret(credentials) if isinstance(credentials, str) else credentials,
            "anonymous": anonymous, "endpoint_url": endpoint_url,
            "vendor": vendor, "conditional_writes": conditional_writes,
            "conditional_uploads": conditional_uploads, "ordered_listing": ordered_listing,
            "checksums": checksums, "client": client,
            "part_size": part_size, "concurrency": concurrency, "connect_timeout": connect_timeout,
            "read_timeout": read_timeout, "policy": policy,
        }  # fmt: skip
        self.bucket = bucket
        self.endpoint_url = endpoint_url
        self._vendor = VENDORS[vendor]
        self.delete_batch = BATCH if self._vendor.batches else concurrency
        self.url = _url(endpoint_url, bucket, prefix)
        said = self._vendor.conditional_writes if conditional_writes == "auto" else conditional_writes
        self._unknown = _url(endpoint_url, bucket, "") if said is None else None
        sure = conditional_writes is True
        uploads = sure or self._vendor.conditional_uploads
        self._take(
            Kept(bool(said), bool(said), uploads), deletes=sure or bool(said and self._vendor.conditional_copies)
        )
        super().__init__(prefix, policy, part_size=part_size, concurrency=concurrency, least_part=QUANTUM)

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """``gs://bucket/name`` names an object of a bucket, ``gs://bucket/prefix`` a root; percent-encoded."""
        if "@" in parts.netloc or ":" in parts.netloc:
            raise ConfigError("a gs URL is gs://bucket/name: the endpoint and credentials are options (?endpoint_url=)")
        name = unquote(parts.path[1:])
        if is_object:
            return {"bucket": parts.netloc}, "" if name.endswith("/") else name
        return {"bucket": parts.netloc, "prefix": name}, ""

    def _take(self, kept: Kept, *, deletes: bool = False) -> None:
        uploads, ordered = self._options["conditional_uploads"], self._options["ordered_listing"]
        self._why = kept.why
        self.conditional_deletes = deletes
        self.conditional_uploads = kept.uploads if uploads is None else uploads
        ordered = self._vendor.ordered_listing if ordered is None else ordered
        self.features = features_of(kept.create_only, deletes, ordered)

    def __repr__(self) -> str:
        return f"GCSBackend({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._options)

    # -- the client ----------------------------------------------------------------------------------------------------

    def _make_client(self) -> GCSClient:
        try:
            from google.auth.credentials import AnonymousCredentials
            from google.auth.transport.requests import AuthorizedSession
            from google.cloud import storage
            from requests import Session
            from requests.adapters import HTTPAdapter
        except ImportError as error:
            raise MissingExtra(
                'the gcs backend needs google-cloud-storage: pip install "omnistorage[gcs]"', extra="gcs",
                backend=self.name,
            ) from error  # fmt: skip
        o = self._options
        try:
            credentials = self._credentials()
            # Nothing can be refreshed for nobody: trying to would leave the refused answer open.
            session = Session() if isinstance(credentials, AnonymousCredentials) else AuthorizedSession(credentials)
            connections = Connections()
            pool = HTTPAdapter(pool_connections=4, pool_maxsize=max(32, 2 * self.concurrency), max_retries=0)
            connections.follow_adapter(pool)
            session.mount("https://", pool)
            session.mount("http://", pool)
            session.hooks["response"].append(checker(ids=self._vendor.ids, bodies=self._vendor.bodies))
            project = o["project"] or getattr(credentials, "project_id", None) or "-"  # objects need none
            endpoint = (self.endpoint_url or ENDPOINT).rstrip("/")
            sdk = storage.Client(project, credentials, _http=session, client_options={"api_endpoint": endpoint})
            # Without this it asks for the bucket, in a thread, to adorn traces: requests that nobody wanted.
            sdk._bucket_metadata_cache = None
        except Exception as error:
            ours = translate(error)
            if isinstance(error, FileNotFoundError):
                ours = PermissionDenied(f"no usable credentials: there is no {error.filename}", backend=self.name)
            elif ours is None and isinstance(error, ValueError):
                ours = ConfigError("the credentials cannot be used: a key is the JSON text of a service account's key")
            if ours is None:
                raise
            raise ours from error
        where = sdk, session, self.bucket, len(self._prefix)
        told = {
            "connections": connections, "endpoint": endpoint, "timeout": (o["connect_timeout"], o["read_timeout"]),
            "checksums": o["checksums"], "xml": self._vendor.xml, "resumes": self._vendor.resumes,
            "batches": self._vendor.batches,
        }  # fmt: skip
        if takes_over(o["client"], endpoint, xml=self._vendor.xml, checksums=o["checksums"]):
            return ObstoreGCSClient(*where, credentials=credentials, **told)
        return GCSClient(*where, **told)

    def _credentials(self) -> Any:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.oauth2 import service_account

        o = self._options
        if o["credentials"] is not None:
            import json

            try:
                told = json.loads(o["credentials"].reveal())
            except ValueError:
                raise ConfigError(
                    "credentials is the JSON text of a service account's key, and this is no JSON"
                ) from None
            return service_account.Credentials.from_service_account_info(told, scopes=[SCOPE])
        if o["credentials_file"] is not None:
            return service_account.Credentials.from_service_account_file(o["credentials_file"], scopes=[SCOPE])
        if o["anonymous"] or self.endpoint_url is not None:
            return AnonymousCredentials()
        found, _ = google.auth.default(scopes=[SCOPE])
        return found

    def native(self) -> object:
        return self._gcs.sdk

    @property
    def _gcs(self) -> GCSClient:
        client = self.client
        assert isinstance(client, GCSClient)
        return client

    # -- what GCS does its own way -------------------------------------------------------------------------------------

    def _refuse(self, capability: str, op: str, path: str) -> Any:
        hint = {"create_only": "overwrite=False", "if_match": "if_match"}.get(capability)
        if hint is None or getattr(self.features, capability):
            super()._refuse(capability, op, path)
        raise CapabilityNotSupported(
            f"this server is not known to keep {hint}{self._why and ': '}{self._why}; if it does, say "
            "conditional_writes=true (or vendor=...)", capability=capability, backend=self.name, op=op, path=path,
        )  # fmt: skip

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        try:
            return self._remove(path, if_match)
        except NotFound as error:
            if if_match is None or isinstance(error, BucketNotFound):
                raise
            raise PreconditionFailed(
                "there is no object to delete", path=path, backend=self.name, op="delete"
            ) from error

    def _remove(self, path: str, if_match: str | None) -> bool | None:
        tries = 0

        def once() -> bool | None:
            nonlocal tries
            tries += 1
            try:
                removed = self.client.delete(self._prefix + path, if_match)
            except Exception as error:
                ours = self.client.translate(error)
                is_own_retry = tries > 1 and if_match is not None and not isinstance(ours, BucketNotFound)
                if is_own_retry and isinstance(ours, NotFound | PreconditionFailed):
                    return None  # a generation is gone for good: the answer that was lost said that it is deleted
                raise
            return None if tries > 1 and not removed else removed  # it may have been ours, whose answer was lost

        return self.run("delete", path, once)

    def _delete_keys(self, keys: list[str]) -> list[StorageError | None]:
        if self._vendor.batches or len(keys) < 2:
            return super()._delete_keys(keys)
        found: list[StorageError | None] = [None] * len(keys)

        def delete(at: int) -> None:
            found[at] = super(GCSBackend, self)._delete_keys([keys[at]])[0]

        side_by_side(delete, range(len(keys)), self.concurrency)
        return found

    def _source(self, options: CopyOptions, src: str, op: str) -> tuple[str, str]:
        source = options.source or self
        if not isinstance(source, GCSBackend) or source.endpoint_url != self.endpoint_url:
            super()._refuse("source", op, src)
        return source.bucket, source._prefix + src

    def _place(self, path: str) -> tuple[str, str]:
        return self.bucket, self._prefix + path

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._source(options, src, "copy")
        if source == self._place(dst):
            return self._onto_itself("copy", dst, options)
        conditional = not options.overwrite or options.if_match is not None
        if not conditional and options.user_metadata is None:
            matches = options.source_if_match
            return self._rewritten(src, lambda token: self._step("copy", src, source, dst, None, matches, token))
        from_ = options.source if isinstance(options.source, GCSBackend) else self
        head, kept = from_.run("copy", src, lambda: from_._gcs.head_for_copy(source[1]))
        if options.source_if_match not in (None, head.etag):
            raise PreconditionFailed("the source is not the one expected", path=src, backend=self.name, op="copy")
        put = _put_for_copy(head, kept, options)
        if conditional and not self.conditional_deletes:
            return self._through(from_, src, dst, head, put)
        etag = head.etag if self.conditional_deletes else None
        return self._rewritten(src, lambda token: self._step("copy", dst, source, dst, put, etag, token))

    def _through(self, from_: GCSBackend, src: str, dst: str, head: ObjectInfo, put: Put) -> ObjectInfo:
        """A copy through this process, for servers that keep conditions of writes and not of copies."""
        writer = ObjectWriter(self, dst, self._prefix + dst, WriteOptions(size=head.size), put)
        try:
            with from_._open_reader(src, ReadOptions(if_match=head.etag)) as reader:
                while data := reader.read(self.part_size):
                    writer.write(data)
            return writer.close()
        except BaseException:
            writer.abort()
            raise

    def _rewritten(self, src: str, step: Callable[[str | None], tuple[str | None, ObjectInfo]]) -> ObjectInfo:
        """A copy, step by step: the store copies long objects between places in several requests."""
        token, seen = None, set[str]()
        while True:
            token, info = step(token)
            if token is None:
                return info
            if token in seen:
                raise StorageError("the store repeats a step of its copy", path=src, backend=self.name, op="copy")
            seen.add(token)

    def _step(
        self,
        op: str,
        path: str,
        source: tuple[str, str],
        dst: str,
        put: Put | None,
        matches: str | None,
        token: str | None,
    ) -> tuple[str | None, ObjectInfo]:
        following: str | None = None

        def request() -> ObjectInfo:
            nonlocal following
            following, info = self._gcs.rewrite(source, self._prefix + dst, put, matches, token)
            return info

        if put is None:
            return self.run(op, path, lambda: (request(), following)[::-1])
        info = conclude(self, op, path, self._prefix + dst, put, request)
        return following, info

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._source(options, src, "move")
        if source == self._place(dst):
            return self._onto_itself("move", dst, options)
        from_ = options.source if isinstance(options.source, GCSBackend) else self
        if not self.conditional_deletes:
            info = self._copy(src, dst, options)
            from_.delete(src)
            return info
        # What is deleted is what was copied, and nothing that has been written since.
        etag = options.source_if_match or from_.stat(src).etag
        info = self._copy(src, dst, replace(options, source_if_match=etag))
        try:
            from_._remove(src, etag)
        except NotFound:  # somebody else removed it
            pass
        return info

    # -- powers --------------------------------------------------------------------------------------------------------

    def compose(self, sources: Sequence[str], dst: str, options: WriteOptions = WRITE) -> ObjectInfo:
        """Make ``dst`` of the objects ``sources`` (2 to 32 of them), one behind the other, at the store. Conditions and
        metadata are those of a write; ``dst`` may be one of the sources."""
        self._enter("copy", "compose", dst)
        check_new(dst, op="compose")
        if not 1 <= len(sources) <= MOST_COMPOSED:
            raise ConfigError(f"compose takes 1 to {MOST_COMPOSED} objects, not {len(sources)}", path=dst, op="compose")
        self._check_write(dst, options, "compose")
        if options.expect:
            self._refuse("expect", "compose", dst)
        if "gcs.predefined_acl" in (options.extra or {}):
            self._refuse("extra['gcs.predefined_acl']", "compose", dst)
        if dst in sources and options.overwrite and options.if_match is None and self.conditional_deletes:
            options = replace(options, if_match=self.stat(dst).etag)  # sent twice, it would be appended twice
        keys = [self._prefix + check_key(path, op="compose") for path in sources]
        put = new_put(options, content_type(dst))
        return conclude(
            self, "compose", dst, self._prefix + dst, put, lambda: self._gcs.compose(keys, self._prefix + dst, put)
        )

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        """For GET, PUT, HEAD and DELETE, up to seven days; signed here, without a request. Needs a service account."""
        self._enter("read", "presign", path)
        check_key(path, op="presign")
        if method not in ("GET", "PUT", "HEAD", "DELETE"):
            raise ConfigError(f"method={method!r}: use one of GET, PUT, HEAD, DELETE", path=path, op="presign")
        check_expires(expires, path)

        def sign() -> str:
            blob = self._gcs.blob(self._prefix + path)
            try:
                return str(
                    blob.generate_signed_url(
                        version="v4",
                        expiration=expires,
                        method=method,
                        api_access_endpoint=(self.endpoint_url or ENDPOINT).rstrip("/"),
                    )
                )
            except (AttributeError, ValueError) as error:
                raise ConfigError(
                    f"these credentials cannot sign a URL: {error}", path=path, backend=self.name, op="presign"
                ) from error

        return self.run("presign", path, sign)

    def versions(self, path: str) -> Iterator[ObjectInfo]:
        self._enter("read", "versions", path)
        check_key(path, op="versions")
        return self._versions(path)

    def _versions(self, path: str) -> Iterator[ObjectInfo]:
        token: Any = None
        found: list[ObjectInfo] = []
        while True:
            page, token = self.run("versions", path, partial(self._gcs.versions, self._prefix + path, token))
            found += page
            if token is None:
                break
        if not found:
            raise NotFound("no such object", path=path, backend=self.name, op="versions")
        yield from sorted(found, key=lambda info: -int(info.version or 0))  # newest first


def _put_for_copy(head: ObjectInfo, kept: Mapping[str, Any], options: CopyOptions) -> Put:
    put = new_put(WriteOptions(overwrite=options.overwrite, if_match=options.if_match), "")
    metadata = head.metadata if options.user_metadata is None else options.user_metadata
    return replace(put, content_type=head.content_type or put.content_type, metadata=dict(metadata or {}), extra=kept)


def _rebuild(cls: type[GCSBackend], options: Mapping[str, Any]) -> GCSBackend:
    return cls(**options)


def _url(endpoint_url: str | None, bucket: str, prefix: str) -> str:
    """Two backends with the same URL have the same root."""
    below = f"{bucket}/{prefix}/" if prefix else f"{bucket}/"
    if endpoint_url is None:
        return f"gs://{below}"
    parts = split_endpoint(endpoint_url, "endpoint_url", "credentials_file or credentials")
    return f"gs+{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/{below}"
