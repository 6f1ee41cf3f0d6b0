"""Azure Blob Storage and Data Lake Storage, through Microsoft's SDKs.

Every request is sent once by the SDK and tried again by our ``RequestPolicy`` alone. A body of up to ``part_size``
bytes is one Put Blob; a longer one goes as blocks, ``concurrency`` on their way at once, so that a stream takes
``part_size * (concurrency + 2)`` bytes. After 1,000 blocks they double, up to 4,000 MiB, unless
``WriteOptions(size=)`` tells the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, unquote

from omnistorage.backends.base import check_expires, checked_prefix, is_folder_error
from omnistorage.backends.object_store.backend import SECOND, ObjectBackend
from omnistorage.backends.object_store.obstore import check_client
from omnistorage.backends.object_store.writer import ObjectWriter, new_put, noting
from omnistorage.concurrency.cancellation import pause
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.concurrency.pools import side_by_side
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import CopyOptions, ListOptions, ObjectInfo, Reader, ReadOptions, WriteOptions
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    AlreadyExists,
    ConfigError,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
)
from omnistorage.media_types import content_type
from omnistorage.paths import check_key, suffixes

from .account import DEFAULT, NAME, SIGNED, SUFFIX, account_of, blob_url, check_sendable, features_of, root_url
from .client import EXTRA, AzureClient, check_headers
from .copy import check_names, conclude_copy, put_for_copy
from .directories import Folders
from .obstore import make_client, unable
from .writer import MAX_BLOCK, BlockWriter, DigestWriter, in_byte_order

PART_SIZE = 8 << 20
LEAST_PART = 64 << 10
BATCH = 256
"""How many blobs one Blob Batch request deletes, at most."""
SECRETS = ("account_key", "sas_token", "connection_string")


class AzureBackend(ObjectBackend):
    """The blobs of ``container`` whose names begin with ``prefix/``, in the account ``account_name`` (or the one that
    ``endpoint_url`` or ``connection_string`` names).

    One is known by ``account_key``, ``sas_token``, ``connection_string``, ``credential`` (an object of azure-identity),
    ``anonymous=True``, or else by ``DefaultAzureCredential``: at servers of Microsoft's alone, unless
    ``credential="default"`` says that another one is to have the machine's token. A connection string is read when the
    backend is made; ``AZURE_STORAGE_CONNECTION_STRING`` gives one where no option names an account or says who one is.
    ``hierarchical=True`` says that the account has a hierarchical namespace (``is_hierarchical()`` asks the account):
    there folders are real, a move is one atomic rename, and a folder is purged at once. ``checksums`` sends an MD5 with
    each body and block, keeps one of the whole blob, and holds what is read against it: on for Microsoft's endpoints.
    ``client`` is "sdk", "obstore" (``[accel]``: reads and small writes for a fraction of the CPU time; without
    ``checksums``, SAS and real folders), or "auto": obstore where it is installed and can do all that the SDK would.

    ``WriteOptions.extra`` takes ``azure.access_tier``, ``azure.tags``, ``azure.encryption_scope``,
    ``azure.cache_control`` and ``azure.content_disposition``, ``_encoding``, ``_language``. ``delete`` takes a blob's
    snapshots along. A copy is made by the store; one that takes it long is waited for, and what stood at its target is
    gone meanwhile. A move is a copy and a delete of exactly what was copied.

    All writers of one blob share its list of uncommitted blocks: whoever publishes first clears it, and a longer body
    of another writer then fails with ``PreconditionFailed`` (``AlreadyExists`` under ``overwrite=False``), never mixed,
    never in silence. What an abort or a kill leaves are uncommitted blocks, which nobody sees and the service forgets
    after a week. Names with a segment ``.`` or ``..``, or with a backslash, are refused.
    """

    name = NAME
    extra_keys = frozenset(EXTRA)
    not_from_urls = frozenset({"credential"})
    delete_batch = BATCH
    most_parts: int | None = 50_000

    def __init__(
        self,
        container: str,
        prefix: str = "",
        *,
        account_name: str | None = None,
        account_key: Secret | str | None = None,
        sas_token: Secret | str | None = None,
        connection_string: Secret | str | None = None,
        credential: Any = None,
        anonymous: bool = False,
        endpoint_url: str | None = None,
        dfs_endpoint_url: str | None = None,
        endpoint_suffix: str = SUFFIX,
        hierarchical: bool = False,
        checksums: bool | None = None,
        client: str = "auto",
        api_version: str | None = None,
        part_size: int = PART_SIZE,
        concurrency: int = 4,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        policy: RequestPolicy | None = None,
    ) -> None:
        if not isinstance(container, str) or not container or "/" in container:
            raise ConfigError(f"a container has a name without slashes, not {container!r}")
        prefix = checked_prefix(prefix)
        if isinstance(credential, str | Secret) and credential != DEFAULT:
            raise ConfigError(
                "credential is an object of azure-identity or 'default'; a text is account_key or sas_token"
            )
        if isinstance(part_size, int) and part_size > MAX_BLOCK:
            raise ConfigError(f"Azure's blocks have at most {MAX_BLOCK} bytes: part_size={part_size} is too much")
        if isinstance(sas_token, str):
            sas_token = sas_token.lstrip("?")
        self._options: dict[str, Any] = {
            "container": container, "prefix": prefix, "account_name": account_name,
            "account_key": _secret(account_key), "sas_token": _secret(sas_token),
            "connection_string": _secret(connection_string), "credential": credential, "anonymous": anonymous,
            "endpoint_url": endpoint_url, "dfs_endpoint_url": dfs_endpoint_url, "endpoint_suffix": endpoint_suffix,
            "hierarchical": hierarchical, "checksums": checksums, "client": client, "api_version": api_version,
            "part_size": part_size, "concurrency": concurrency, "connect_timeout": connect_timeout,
            "read_timeout": read_timeout, "policy": policy,
        }  # fmt: skip
        self.container = container
        self.hierarchical = hierarchical
        self._account = account_of(self._options)
        self._checksums = self._account.microsoft if checksums is None else checksums
        check_client(client, unable(self._account, self._options, checksums=self._checksums))
        self.url = root_url(self._account, container, prefix)
        self.features = features_of(hierarchical)
        super().__init__(prefix, policy, part_size=part_size, concurrency=concurrency, least_part=LEAST_PART)

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """``az://container/key?account_name=...``, or ``abfss://container@account.dfs.core.windows.net/key``; a root
        or an object as for every backend; percent-encoded."""
        container, at, host = parts.netloc.partition("@")
        if ":" in parts.netloc:
            raise ConfigError(
                "an Azure URL is az://container/key or abfss://container@account.dfs.core.windows.net/key"
            )
        options: dict[str, Any] = {"container": unquote(container)}
        if at:
            account, _, suffix = host.partition(".")
            kind, _, suffix = suffix.partition(".")
            if not account or kind not in ("dfs", "blob") or not suffix:
                raise ConfigError("behind the container stands account.dfs.core.windows.net")
            options |= {"account_name": account, "endpoint_suffix": suffix}
        key = unquote(parts.path[1:])
        if is_object:
            return options, "" if key.endswith("/") else key
        return {**options, "prefix": key}, ""

    def __repr__(self) -> str:
        return f"AzureBackend({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._options["credential"] not in (None, DEFAULT):
            raise ConfigError(
                "a credential object does not pickle: let DefaultAzureCredential find one, or use a Secret"
            )
        return _rebuild, (type(self), self._options)

    # -- the client ----------------------------------------------------------------------------------------------------

    def _make_client(self) -> AzureClient:
        self._made_folders: Folders | None = None
        return make_client(self._account, self._options, len(self._prefix), checksums=self._checksums)

    def native(self) -> object:
        return self._azure.clients.container

    @property
    def _azure(self) -> AzureClient:
        client = self.client
        assert isinstance(client, AzureClient)
        return client

    @property
    def _folders(self) -> Folders:
        client = self._azure
        if self._made_folders is None:
            self._made_folders = Folders(client)
        return self._made_folders

    def is_hierarchical(self) -> bool:
        """Whether the account has a hierarchical namespace, asked of the account: the value for ``hierarchical``."""
        self._enter("read", "is_hierarchical", "")
        return self.run("is_hierarchical", "", lambda: self._azure.is_hierarchical())

    # -- streams and listings ------------------------------------------------------------------------------------------

    def _open_reader(self, path: str, options: ReadOptions) -> Reader:
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        return super()._open_reader(path, options)

    def _exists(self, path: str) -> bool:
        try:
            return super()._exists(path)
        except InvalidPath:  # a name that no blob has
            return False

    def _checked(self, path: str, op: str) -> str:
        return super()._checked(check_sendable(path), op)

    def _open_writer(self, path: str, options: WriteOptions) -> ObjectWriter:
        self._checked(path, "open_writer")
        check_names(options.user_metadata)
        self.client  # noqa: B018  a configuration that cannot work is an error here, not in the first write
        put = check_headers(new_put(options, content_type("x" + "".join(suffixes(path)[-2:]))))
        kind = DigestWriter if self._checksums else BlockWriter
        return kind(self, path, self._prefix + path, options, put)

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        found = super()._list(prefix, options)
        return found if self.hierarchical else in_byte_order(found)

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        if not self.hierarchical:
            return in_byte_order(super()._list_dir(path))
        return self._list_folder(path)

    def _list_folder(self, path: str) -> Iterator[ObjectInfo]:
        found = super()._list_dir(path)
        try:
            seen = None
            for info in found:  # a folder may be named twice: as one, and by what is in it
                if info != seen:
                    yield info
                seen = info
        except NotFound:
            if not self.run("list_dir", path, lambda: self._azure.is_folder(self._prefix + path)):
                raise

    def _delete_keys(self, keys: list[str]) -> list[StorageError | None]:
        if not self.hierarchical:
            return super()._delete_keys(keys)
        answers: list[StorageError | None] = [None] * len(keys)

        def delete(at: int) -> None:  # one by one: a batch would take empty folders for objects
            try:
                self.run("delete_many", "", lambda: self._folders.delete_object(keys[at], None))
            except StorageError as error:
                answers[at] = error

        side_by_side(delete, range(len(keys)), self.concurrency)
        return answers

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        key, lost = self._prefix + path, list[StorageError]()

        def attempt() -> bool:
            delete = self._folders.delete_object if self.hierarchical else self._azure.delete
            return delete(key, if_match)

        try:
            if self.run("delete", path, noting(self.client, attempt, lost)):
                return True
        except PreconditionFailed as error:
            if not lost:
                raise
            if self._exists(path):
                raise OutcomeUnknown(
                    f"the answer to the deletion was lost ({lost[0].args[0]}), and another object stands there now",
                    path=path,
                    backend=self.name,
                    op="delete",
                ) from error
        if lost:
            return None  # an attempt whose answer was lost may have been the one
        if if_match is not None:
            raise PreconditionFailed("there is no object to delete", path=path, backend=self.name, op="delete")
        return False

    # -- copy and move -------------------------------------------------------------------------------------------------

    def _place(self, path: str) -> tuple[str, str]:
        return f"{self._account.url}/{self.container}", self._prefix + path

    def _source(self, options: CopyOptions, src: str, op: str) -> tuple[str, str]:
        source = options.source or self
        if not isinstance(source, AzureBackend):
            self._refuse("source", op, src)
        if source._account.url != self._account.url and source._account.key is None and source._account.sas is None:
            self._refuse("source", op, src)  # a token opens the accounts that it opens, not one to the other
        return source._place(src)

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        if self._source(options, src, "copy") == self._place(dst):
            return self._onto_itself("copy", dst, options)
        return self._copied("copy", src, dst, options)[0]

    def _copied(self, op: str, src: str, dst: str, options: CopyOptions) -> tuple[ObjectInfo, str | None]:
        """Copy; the etag of what was copied, where it is known."""
        check_names(options.user_metadata)
        from_ = options.source if isinstance(options.source, AzureBackend) else self
        client, key, etag, put = self._azure, self._prefix + dst, options.source_if_match, None
        source = self._opened(from_, src)
        replaces = not options.overwrite or options.if_match is not None or options.user_metadata is not None
        if replaces or from_.hierarchical:  # where Copy Blob would take a folder, too
            head = from_.run(op, src, lambda: from_.client.head(from_._prefix + src))
            if etag not in (None, head.etag):
                raise PreconditionFailed("the source is not the one expected", path=src, backend=self.name, op=op)
            etag, put = head.etag, put_for_copy(head, options) if replaces else None
        answers: list[str | None] = []

        def request() -> ObjectInfo:
            info, copy_id = client.begin_copy(source, key, put, etag)
            answers[:] = [copy_id]
            return info

        if put is None:
            info = self.run(op, src, request)
        else:
            try:
                info = conclude_copy(self, op, src, dst, key, put, request)
            except AlreadyExists as error:
                self._unless_folder(op, dst, error)
                raise
        # Without an answer it was found by its id, and perhaps the store is at it yet.
        under_way = answers[0] if answers else self.run(op, dst, lambda: client.copy_state(key))[0]
        return (info if under_way is None else self._awaited(op, dst, key, under_way)), etag

    def _opened(self, from_: AzureBackend, src: str) -> tuple[str, str]:
        """The URL of a source, and the SAS by which the store may read it where our own name does not suffice."""
        url, account = blob_url(*from_._place(src)), from_._account
        if account.sas is not None:
            return url, account.sas.reveal().lstrip("?")
        if account.url == self._account.url:
            return url, ""
        return url, from_._azure.clients.signed(from_._prefix + src, "r", timedelta(days=1))

    def _awaited(self, op: str, dst: str, key: str, copy_id: str) -> ObjectInfo:
        """Wait for a copy that the store makes by and by; one that fails, or is cancelled, is taken back."""
        client, delay = self._azure, 0.1
        try:
            while True:
                found, status, info = self.run(op, dst, lambda: client.copy_state(key))
                if found != copy_id:
                    raise PreconditionFailed("another write took the place of the copy", path=dst, op=op)
                if status.startswith("success"):
                    return info
                if not status.startswith("pending"):
                    raise StorageError(f"the store gave up the copy: {status}", path=dst, backend=self.name, op=op)
                pause(delay, self._policy.clock, op, dst)
                delay = min(2 * delay, 5.0)
        except BaseException:
            taking_back(lambda: self._take_back(dst, key, copy_id))
            raise

    def _take_back(self, dst: str, key: str, copy_id: str) -> None:
        client = self._azure
        try:
            if client.copy_state(key)[1].startswith("pending"):
                self.run("abort", dst, lambda: client.abort_copy(key, copy_id))
            found, status, info = self.run("abort", dst, lambda: client.copy_state(key))
            if found == copy_id and not status.startswith("success"):  # an empty blob, which nobody wrote
                self.run("abort", dst, lambda: client.delete(key, info.etag))
        except Exception:  # noqa: S110  the error of the copy says more
            pass

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        place = self._source(options, src, "move")
        source = options.source if isinstance(options.source, AzureBackend) else self
        if place == self._place(dst):
            return self._onto_itself("move", dst, options)
        if self.hierarchical and place[0] == self._place(dst)[0]:
            return self._rename(source, src, dst, options)
        info, etag = self._copied("move", src, dst, options)
        for _ in range(3):
            if self._removed(source, src, info, etag):
                return info
            if options.source_if_match is not None:
                break
            # It changed, or is so young that its time does not tell: copy once more what is there now.
            try:
                info, etag = self._copied("move", src, dst, replace(options, overwrite=True, if_match=info.etag))
            except NotFound:
                return info  # somebody else removed it
        raise PreconditionFailed("the source changed as it was copied", path=src, backend=self.name, op="move")

    def _removed(self, source: AzureBackend, src: str, info: ObjectInfo, etag: str | None) -> bool:
        """Remove what was copied, and nothing newer; whether that is so. A copy in one request does not tell its
        source's etag, but when it was made."""
        before = info.modified_at - SECOND if etag is None and info.modified_at is not None else None
        try:
            source.run("move", src, lambda: source._azure.delete(source._prefix + src, etag, before))
        except PreconditionFailed:
            return False
        return True

    # -- folders of hierarchical accounts ------------------------------------------------------------------------------

    def _rename(self, source: AzureBackend, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        check_names(options.user_metadata)
        from_, key = source._prefix + src, self._prefix + dst
        head = self.run("move", src, lambda: self.client.head(from_))
        if options.source_if_match not in (None, head.etag):
            raise PreconditionFailed("the source is not the one expected", path=src, backend=self.name, op="move")
        put = put_for_copy(head, options)

        def rename() -> ObjectInfo:
            return conclude_copy(
                self, "move", src, dst, key, put, lambda: self._folders.rename(from_, key, put, head.etag)
            )

        try:
            info = rename()
        except AlreadyExists as error:
            self._unless_folder("move", dst, error)
            raise
        except NotFound as error:
            if getattr(error.__cause__, "code", "") != "RenameDestinationParentPathNotFound":
                raise
            self._make_folder(key.rpartition("/")[0], dst, "move")  # its folder was missing
            info = rename()
        return info._replace(size=head.size, content_type=head.content_type, hashes=head.hashes)

    def _unless_folder(self, op: str, path: str, error: AlreadyExists) -> None:
        """Raise ``InvalidPath`` if what is there already is a folder, which no object can replace."""
        if self.hierarchical and self.run(op, path, lambda: self._azure.is_folder(self._prefix + path)):
            raise is_folder_error(path, op, self.name) from error

    def _make_folder(self, key: str, path: str, op: str) -> None:
        if self.run(op, path, lambda: self._folders.make(key)):
            return
        if not self.run(op, path, lambda: self._azure.is_folder(key)):
            raise AlreadyExists("an object has this name", path=path, backend=self.name, op=op)

    def _mkdir(self, path: str) -> None:
        self._make_folder(self._prefix + path, path, "mkdir")

    def _rmdir(self, path: str) -> None:
        self._need_folder(path, "rmdir")
        self._end("rmdir", path, lambda: self._folders.remove(self._prefix + path))

    def purge(self, path: str) -> None:
        if not self.hierarchical:
            super().purge(path)
            return
        self._enter("purge", "purge", path)
        check_key(path, op="purge")
        self._need_folder(path, "purge")
        self._end("purge", path, lambda: self._folders.remove_all(self._prefix + path))

    def _end(self, op: str, path: str, call: Callable[[], None]) -> None:
        """Remove a folder; if an answer was lost, that it is gone is what was asked for."""
        lost = list[StorageError]()
        try:
            self.run(op, path, noting(self.client, call, lost))
        except NotFound:
            if not lost:
                raise

    def _need_folder(self, path: str, op: str) -> None:
        if not self.run(op, path, lambda: self._azure.is_folder(self._prefix + path)):
            raise NotFound("no such folder", path=path, backend=self.name, op=op)

    # -- powers --------------------------------------------------------------------------------------------------------

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        """For GET, PUT (whose sender adds the header ``x-ms-blob-type: BlockBlob``), HEAD and DELETE. The account's key
        signs here; a token has the service lend a key, in one request; a SAS can sign nothing."""
        self._enter("read", "presign", path)
        check_key(path, op="presign")
        if method not in SIGNED:
            raise ConfigError(f"method={method!r}: use one of {', '.join(SIGNED)}", path=path, op="presign")
        check_expires(expires, path)
        sas = self.run(
            "presign", path, lambda: self._azure.clients.signed(self._prefix + path, SIGNED[method], expires)
        )
        return f"{blob_url(*self._place(path))}?{sas}"


def _secret(value: Secret | str | None) -> Secret | None:
    return Secret(value) if isinstance(value, str) else value


def _rebuild(cls: type[AzureBackend], options: Mapping[str, Any]) -> AzureBackend:
    return cls(**options)
