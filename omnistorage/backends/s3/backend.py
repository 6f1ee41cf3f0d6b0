"""S3, and what speaks its API, through boto3.

Every request is sent once by the SDK and tried again by our ``RequestPolicy`` alone. A body of up to ``part_size``
bytes is one PUT; a longer one is a multipart upload with ``concurrency`` parts on their way at once, so that a stream
takes ``part_size * (concurrency + 2)`` bytes. After 1,000 parts they double (10,000 hold 8 TiB), unless
``WriteOptions(size=)`` tells the size beforehand; where all parts must be equally long (R2) give ``size`` or a
``part_size`` that suffices. Of a long object that is read, ``concurrency`` ranges of ``part_size`` come side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from omnistorage.backends.base import check_expires, checked_prefix
from omnistorage.backends.object_store.backend import LIVE, MAX_COPY
from omnistorage.backends.object_store.client import Put
from omnistorage.backends.object_store.conditions_probe import Kept
from omnistorage.backends.object_store.writer import ObjectWriter, conclude, new_put, noting
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import CopyOptions, ObjectInfo, Reader, ReadOptions, WriteOptions
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    AlreadyExists,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
)
from omnistorage.media_types import CONTENT_TYPE
from omnistorage.paths import check_key

from .botocore_tuning import models, parse_time, send_at_once
from .client import EXTRA, S3Client
from .errors import NAME, is_too_long, translate
from .obstore import ObstoreS3Client, store_options, use_obstore
from .response_marks import checker, stayer
from .resumable import Resumes
from .settings import as_secret, configured_endpoint, revealed, root_url
from .vendors import VENDORS, Vendor, features_of, vendor_of_host, vendor_of_server

PART_SIZE = 8 << 20
LEAST_PART = 5 << 20


class S3Backend(Resumes):
    """The objects of ``bucket`` whose keys begin with ``prefix/``.

    Credentials come from the SDK's default chain, from a ``profile``, or from ``access_key``, ``secret_key`` and
    ``session_token``; ``anonymous=True`` sends none. ``endpoint_url`` is another server than AWS, by default the one
    that ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` or the profile names. ``vendor`` says what it is, one of
    ``VENDORS``, by default as its host name tells.

    ``conditional_writes`` says whether the server keeps ``If-None-Match`` and ``If-Match`` (``overwrite=False``,
    ``if_match``). With "auto", the default, the vendor says it, or else it is tried at the first write with a
    condition: by about 30 requests for an object ``.omnistorage-probe-...`` below ``prefix``, which is removed again.
    The answer holds for the process. Until then ``features`` claim neither. ``conditional_uploads=False`` says that it
    keeps them only of PUTs, as SeaweedFS: then a body with a condition has at most ``part_size`` bytes.
    ``ordered_listing=True`` says that it lists keys in the order of their bytes, as AWS does. ``omnistorage.probe``
    looks closer.

    ``checksums`` adds a CRC32 to what is sent, and checks one that comes back: on for AWS, off for custom endpoints,
    where many servers refuse it.
    ``addressing`` is "path", "virtual" or "auto" (path for custom endpoints). ``client`` is "sdk", "obstore"
    (``[accel]``: reads and small writes for about a fifth of the CPU time, without ``checksums``), or "auto": obstore
    where it is installed and can do all that the SDK would.

    ``durable`` writes need nothing more. ``WriteOptions.extra`` takes ``s3.storage_class``, ``s3.acl``, ``s3.tags``,
    ``s3.server_side_encryption``, ``s3.sse_kms_key_id``, ``s3.cache_control`` and ``s3.content_disposition``,
    ``_encoding``, ``_language``. ``close`` does not know ``modified_at``. ``delete`` cannot say whether there was an
    object. A copy with conditions on its target, or of more than 5 GiB, is an upload of copied parts. A move is a copy
    and a delete. A kill leaves at most an unfinished upload, which ``StaleUploads`` finds; so may an abort that cannot
    reach the server.
    """

    not_from_urls = frozenset({"profile"})
    _seen: Kept | None = None  # by a probe
    name = NAME
    extra_keys = frozenset(EXTRA)
    probe_with: ClassVar = {"part_size": LEAST_PART}
    probes: ClassVar = {
        "conditional_writes": ("one winner of new keys", "conditions by etag"),
        "conditional_uploads": (
            "one winner of new keys in uploads",
            "conditions by etag in uploads",
            "conditions of copies in uploads",
        ),
        "ordered_listing": ("order of listings",),
    }

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        access_key: str | None = None,
        secret_key: Secret | str | None = None,
        session_token: Secret | str | None = None,
        anonymous: bool = False,
        vendor: str | None = None,
        conditional_writes: bool | Literal["auto"] = "auto",
        conditional_uploads: bool | None = None,
        ordered_listing: bool | None = None,
        checksums: bool | None = None,
        addressing: str = "auto",
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
        endpoint_url = endpoint_url or configured_endpoint(profile)
        self.url = root_url(endpoint_url, bucket, prefix)
        vendor, self._names_itself = _vendor(vendor, endpoint_url), vendor is None
        if conditional_writes not in (True, False, "auto"):
            raise ConfigError(f"conditional_writes={conditional_writes!r}: use True, False or 'auto'")
        if addressing not in ("auto", "path", "virtual"):
            raise ConfigError(f"addressing={addressing!r}: use auto, path or virtual")
        if client not in ("auto", "sdk", "obstore"):
            raise ConfigError(f"client={client!r}: use auto, sdk or obstore")
        if client == "obstore" and (checksums is True or (checksums is None and endpoint_url is None)):
            raise ConfigError("obstore does not check what it reads: say checksums=False beside client='obstore'")
        if client == "obstore" and addressing == "virtual":
            raise ConfigError("obstore takes another endpoint for virtual addressing: use client='sdk'")
        if (access_key is None) != (secret_key is None):
            raise ConfigError("access_key and secret_key come together")
        self._options: dict[str, Any] = {
            "bucket": bucket, "prefix": prefix, "region": region, "endpoint_url": endpoint_url, "profile": profile,
            "access_key": access_key, "secret_key": as_secret(secret_key), "session_token": as_secret(session_token),
            "anonymous": anonymous, "vendor": None if self._names_itself else vendor,
            "conditional_writes": conditional_writes,
            "conditional_uploads": conditional_uploads,
            "ordered_listing": ordered_listing, "checksums": checksums, "addressing": addressing, "client": client,
            "part_size": part_size, "concurrency": concurrency, "connect_timeout": connect_timeout,
            "read_timeout": read_timeout, "policy": policy,
        }  # fmt: skip
        self.bucket = bucket
        self.endpoint_url = endpoint_url
        self._use = client
        self._checksums = endpoint_url is None if checksums is None else checksums
        self._is(VENDORS[vendor])
        super().__init__(prefix, policy, part_size=part_size, concurrency=concurrency, least_part=LEAST_PART)

    def _is(self, vendor: Vendor, kept: Kept | None = None) -> None:
        """Do as ``vendor`` needs it. Its conditions are as the options say, or the vendor, or a probe: ``kept``."""
        o, self._vendor = self._options, vendor
        said = vendor.conditional_writes if o["conditional_writes"] == "auto" else o["conditional_writes"]
        self._unknown = root_url(self.endpoint_url, self.bucket, "") if said is None and kept is None else None
        if said is not None or kept is None:
            uploads = o["conditional_writes"] is True or vendor.conditional_uploads
            kept = Kept(bool(said), bool(said), uploads, vendor.why)
        self._why = kept.why
        self.conditional_deletes = kept.if_match and vendor.conditional_copies
        self.conditional_uploads = kept.uploads if o["conditional_uploads"] is None else o["conditional_uploads"]
        ordered = vendor.ordered_listing if o["ordered_listing"] is None else o["ordered_listing"]
        self.features = features_of(vendor, kept, ordered, self._checksums)
        self.ranged = vendor.ranged and not self._checksums  # only a whole body comes with its checksum

    def _take(self, kept: Kept) -> None:
        self._seen = kept
        self._is(self._vendor, kept)

    def _names(self, http_response: Any, **_: Any) -> None:
        """Hear from an answer which server it is, as long as nobody has said it."""
        if self._names_itself:
            self._names_itself = False
            if (found := vendor_of_server(http_response.headers.get("Server", ""))) is not None:
                self._is(found, self._seen)

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """``s3://bucket/key`` names an object of a bucket, ``s3://bucket/prefix`` a root; percent-encoded."""
        if "@" in parts.netloc or ":" in parts.netloc:
            raise ConfigError("an s3 URL is s3://bucket/key: the endpoint and credentials are options (?endpoint_url=)")
        key = unquote(parts.path[1:])
        if is_object:
            return {"bucket": parts.netloc}, "" if key.endswith("/") else key
        return {"bucket": parts.netloc, "prefix": key}, ""

    def __repr__(self) -> str:
        return f"S3Backend({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._options)

    # -- the client ----------------------------------------------------------------------------------------------------

    def _make_client(self) -> S3Client:
        try:
            import boto3
            from botocore import UNSIGNED
            from botocore.config import Config
            from botocore.session import Session
        except ImportError as error:
            raise MissingExtra(
                'the s3 backend needs boto3: pip install "omnistorage[s3]"', extra="s3", backend=self.name
            ) from error
        o = self._options
        when = "when_supported" if self._checksums else "when_required"
        style = "path" if o["addressing"] == "auto" and self.endpoint_url is not None else o["addressing"]
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=o["connect_timeout"],
            read_timeout=o["read_timeout"],
            max_pool_connections=max(32, 2 * self.concurrency),
            request_checksum_calculation=when,
            response_checksum_validation=when,
            s3={"addressing_style": style},
            user_agent=f"omnistorage boto3/{boto3.__version__}",  # a tenth of a request goes into making the SDK's own
            ignore_configured_endpoint_urls=True,  # what a server can do is said beside its endpoint_url
            signature_version=UNSIGNED if o["anonymous"] else "s3v4",  # presigned URLs too
        )
        try:
            core = Session(profile=o["profile"])
            if core.get_config_variable("data_path") is None:
                core.register_component("data_loader", models())
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
            session = boto3.session.Session(
                botocore_session=core,
                aws_access_key_id=o["access_key"],
                aws_secret_access_key=revealed(o["secret_key"]),
                aws_session_token=revealed(o["session_token"]),
                region_name=o["region"],
            )
            region = None if session.region_name or self.endpoint_url is None else "us-east-1"
            sdk = session.client("s3", endpoint_url=self.endpoint_url, config=config, region_name=region)
            sdk.meta.events.register_last("before-call.s3", send_at_once)
            sdk.meta.events.register_first("needs-retry.s3", stayer(custom=self.endpoint_url is not None))
            vendor = self._vendor
            sdk.meta.events.register("after-call.s3", checker(request_ids=vendor.request_ids, loose=vendor.loose))
            if self._names_itself and self.endpoint_url is not None:
                sdk.meta.events.register("after-call.s3", self._names)
        except Exception as error:
            ours = translate(error) or (ConfigError(str(error)) if isinstance(error, ValueError) else None)
            if ours is None:
                raise
            raise ours from error
        bucket, skip, md5_etags = self.bucket, len(self._prefix), self._vendor.md5_etags
        suits = not self._checksums and o["addressing"] != "virtual" and self._vendor.ranges
        if use_obstore(self._use, suits, core, sdk.meta.endpoint_url):
            credentials = None if o["anonymous"] else session.get_credentials()
            if o["anonymous"] or credentials is not None:  # nobody's are the SDK's to complain of
                timeouts = o["connect_timeout"], o["read_timeout"]
                options = store_options(sdk.meta.endpoint_url, sdk.meta.region_name, credentials, timeouts)
                return ObstoreS3Client(sdk, bucket, skip, md5_etags=md5_etags, options=options)
        return S3Client(sdk, bucket, skip, checksums=self._checksums, md5_etags=md5_etags)

    def native(self) -> object:
        return self._s3.sdk

    @property
    def _s3(self) -> S3Client:
        client = self.client
        assert isinstance(client, S3Client)
        return client

    # -- what S3 does its own way --------------------------------------------------------------------------------------

    def _refuse(self, capability: str, op: str, path: str) -> Any:
        hint = {"create_only": "overwrite=False", "if_match": "if_match"}.get(capability)
        if hint is None or getattr(self.features, capability):
            super()._refuse(capability, op, path)
        raise CapabilityNotSupported(
            f"this server is not known to keep {hint}{self._why and ': '}{self._why}; if it does, say "
            "conditional_writes=true (or vendor=...)", capability=capability, backend=self.name, op=op, path=path,
        )  # fmt: skip

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        self._checked(path, "delete")
        if if_match is not None and not self.conditional_deletes:
            super()._refuse("if_match", "delete", path)
        if if_match is None:
            return super()._delete(path, if_match)
        lost: list[StorageError] = []
        delete = noting(self.client, lambda: self.client.delete(self._prefix + path, if_match), lost)
        try:
            return self.run("delete", path, delete)
        except (NotFound, PreconditionFailed) as error:
            if not lost or isinstance(error, BucketNotFound):
                raise
            if not super()._exists(path):
                return None  # the try whose answer was lost may have been the one
            raise OutcomeUnknown(
                f"the answer to the deletion was lost ({lost[0].args[0]}), and another object is there now: look at it",
                path=path, backend=self.name, op="delete",
            ) from error  # fmt: skip

    def _source(self, options: CopyOptions, src: str, op: str) -> tuple[str, str]:
        source = options.source or self
        if not isinstance(source, S3Backend) or source.endpoint_url != self.endpoint_url:
            super()._refuse("source", op, src)
        self._checked(src, op)
        return source.bucket, source._prefix + src

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source, client, key = self._source(options, src, "copy"), self._s3, self._prefix + dst
        if source == self._place(dst):
            return self._onto_itself("copy", dst, options)
        self._checked(dst, "copy")
        self._check_metadata(options.user_metadata, dst, "copy")
        conditional, seen = not options.overwrite or options.if_match is not None, options.source_if_match
        # Whether an answer that was lost can be told by what stands there then: the copy has its source's etag.
        telling = seen is not None and "-" not in seen
        if (
            options.user_metadata is None
            and (self.conditional_deletes or seen is None)
            and (telling or not conditional)
        ):
            put = replace(new_put(_conditions(options), CONTENT_TYPE), write_id=None)
            request = partial(client.copy, source, key, put, seen, keep=True)
            try:
                if not conditional:
                    return self.run("copy", src, request)
                return conclude(self, "copy", dst, key, put, request, etag=seen)
            except StorageError as error:
                # Which condition it was, and whose name is not there, is told the longer way.
                untold = conditional and isinstance(error, AlreadyExists | PreconditionFailed | NotFound)
                if not (untold or is_too_long(error)):
                    raise
        from_ = options.source if isinstance(options.source, S3Backend) else self
        head, kept = from_.run("copy", src, lambda: from_._s3.head_for_copy(source[1]))
        if options.source_if_match not in (None, head.etag):
            raise PreconditionFailed("the source is not the one expected", path=src, backend=self.name, op="copy")
        put = _put_for_copy(head, kept, options)
        if (head.size or 0) > MAX_COPY or (conditional and not self.conditional_deletes):
            if conditional and not self.conditional_uploads:
                super()._refuse("conditional_uploads", "copy", dst)
            return self._copy_in_parts(source, head, src, dst, put, head.etag)
        return conclude(self, "copy", dst, key, put, lambda: client.copy(source, key, put, head.etag))

    def _open_writer(self, path: str, options: WriteOptions) -> ObjectWriter:
        self._checked(path, "open_writer")
        self._check_metadata(options.user_metadata, path, "open_writer")
        return super()._open_writer(path, options)

    def _check_metadata(self, metadata: Mapping[str, str] | None, path: str, op: str) -> None:
        """Refuse what the store would change: a header has no spaces around its value."""
        for name, value in (metadata or {}).items():
            if value != value.strip() or not (value or self._vendor.empty_metadata):
                raise ConfigError(
                    f"the metadata value of {name!r} is {value!r}: S3 keeps no spaces around a value, and this server "
                    "perhaps no empty one; give another value",
                    path=path, backend=self.name, op=op,
                )  # fmt: skip

    def _open_reader(self, path: str, options: ReadOptions) -> Reader:
        self._checked(path, "open_reader")
        return super()._open_reader(path, options)

    def _stat(self, path: str) -> ObjectInfo:
        self._checked(path, "stat")
        return super()._stat(path)

    def _exists(self, path: str) -> bool:
        return self._misread(path) is None and super()._exists(path)

    def _place(self, path: str) -> tuple[str, str]:
        return self.bucket, self._prefix + path

    def _checked(self, path: str, op: str) -> str:
        if (why := self._misread(path)) is not None:
            raise InvalidPath(why, path=path, backend=self.name, op=op)
        return super()._checked(path, op)

    def _misread(self, path: str) -> str | None:
        """Why the server takes ``path`` for another key; None if it does not."""
        if "\\" in path and not self._vendor.backslashes:
            return "this server takes a backslash for a slash: give a name without one"
        if ("//" in path or path.startswith("/")) and not self._vendor.empty_segments:
            return "this server drops empty segments, and would take another object: give the name without them"
        if path.endswith("/") and not self._vendor.markers:
            return "this server drops a slash at the end, and would take another object: give the name without it"
        return None

    # -- powers --------------------------------------------------------------------------------------------------------

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        """For GET, PUT, HEAD and DELETE; signed here, without a request."""
        self._enter("read", "presign", path)
        check_key(path, op="presign")
        calls = {"GET": "get_object", "PUT": "put_object", "HEAD": "head_object", "DELETE": "delete_object"}
        if method not in calls:
            raise ConfigError(f"method={method!r}: use one of {', '.join(calls)}", path=path, op="presign")
        check_expires(expires, path)
        url = self.run(
            "presign",
            path,
            lambda: self._s3.sdk.generate_presigned_url(
                calls[method],
                Params={"Bucket": self.bucket, "Key": self._prefix + path},
                ExpiresIn=int(expires.total_seconds()),
            ),
        )
        return str(url)

    def versions(self, path: str) -> Iterator[ObjectInfo]:
        self._enter("read", "versions", path)
        check_key(path, op="versions")
        return self._versions(path)

    def _versions(self, path: str) -> Iterator[ObjectInfo]:
        token: Any = None
        key, found = self._prefix + path, False
        while True:
            page, token = self.run("versions", path, partial(self._s3.versions, key, token))
            found = found or bool(page)
            yield from page
            if token is None:
                break
        if not found:
            raise NotFound("no such object", path=path, backend=self.name, op="versions")

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> Iterator[ObjectInfo]:
        """Multipart uploads that nobody has touched for ``older_than``; ``size`` is what has arrived. Those of writers
        of this process are never among them, those of others while parts arrive or a checkpoint of theirs is kept."""
        self._enter("list", "stale_uploads", prefix)
        for info, _ in self._stale(prefix, older_than):
            yield info

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> int:
        self._enter("delete", "remove_stale_uploads", prefix)
        removed = 0
        for info, upload in self._stale(prefix, older_than):
            try:
                self.run("abort", info.path, partial(self._abort, self._prefix + info.path, upload))
                removed += 1
            except NotFound:
                pass  # it ended meanwhile
        return removed

    def _abort(self, key: str, upload: str) -> None:
        self._s3.sdk.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)

    def _stale(self, prefix: str, older_than: timedelta) -> Iterator[tuple[ObjectInfo, str]]:
        head = self._prefix + prefix.strip("/") + "/" if prefix.strip("/") else self._prefix
        before = datetime.now(UTC) - older_than
        token: Any = None
        while True:
            page, token = self.run("stale_uploads", prefix, partial(self._s3.uploads, head, token))
            for key, upload, begun in page:
                if begun > before or upload in LIVE or not key.startswith(head):
                    continue
                touched, size = self._progress(key, upload, begun)
                if touched <= before and not self.is_suspended(key[len(self._prefix) :]):
                    yield ObjectInfo(key[len(self._prefix) :], size, touched), upload
            if token is None:
                return

    def _progress(self, key: str, upload: str, begun: datetime) -> tuple[datetime, int]:
        """When an upload got its last part, and how much it has."""
        token: Any = None
        size = 0
        while True:
            try:
                page, token = self.run("stale_uploads", key, partial(self._s3.parts, key, upload, token))
            except NotFound:  # it ended meanwhile
                return datetime.max.replace(tzinfo=UTC), 0
            for length, arrived in page:
                begun, size = max(begun, arrived), size + length
            if token is None:
                return begun, size


def _put_for_copy(head: ObjectInfo, kept: Mapping[str, Any], options: CopyOptions) -> Put:
    put = new_put(_conditions(options), CONTENT_TYPE)
    metadata = head.metadata if options.user_metadata is None else options.user_metadata
    return replace(put, content_type=head.content_type or CONTENT_TYPE, metadata=dict(metadata or {}), extra=kept)


def _conditions(options: CopyOptions) -> WriteOptions:
    return WriteOptions(overwrite=options.overwrite, if_match=options.if_match)


def _vendor(vendor: str | None, endpoint_url: str | None) -> str:
    if vendor is None:
        return "aws" if endpoint_url is None else vendor_of_host(urlsplit(endpoint_url).hostname or "")
    if vendor not in VENDORS:
        known = ", ".join(sorted(VENDORS))
        raise ConfigError(f"vendor={vendor!r}: use one of {known}, or say conditional_writes and ordered_listing")
    return vendor


def _rebuild(cls: type[S3Backend], options: Mapping[str, Any]) -> S3Backend:
    return cls(**options)
