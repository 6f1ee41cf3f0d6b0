"""A folder on an SSH server as a backend.

What makes it more than an SFTP client: writes go to a hidden temporary beside their destination and appear whole, by
``posix-rename@openssh.com``, or by ``hardlink@openssh.com`` where nothing may be replaced (link(2) is the one operation
of the protocol that is atomic and refuses an existing name on every server; the plain rename of version 3 is not: some
servers look first and rename then). When the answer to a publication is lost, the backend looks what happened before it
says anything. Wire, connections, tree and streams stand in the ``_sftp_*`` modules.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from omnistorage.backends.streams import check_conditions
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import Features, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.option_checks import check_time
from omnistorage.core.secret import Secret
from omnistorage.errors import ConfigError, InvalidPath, NotFound
from omnistorage.paths import check_key

from .connection import Link
from .links import Powers
from .paths import Place, info_of, is_file, is_folder, look, look_at_handle, visible, walk
from .pool import Pool
from .protocol import SETSTAT, STAT, Attrs, Session, string
from .settings import NAME, Settings
from .streams import SFTPReader, SFTPWriter, seconds_of

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_HOST = re.compile(r"[A-Za-z0-9_.:%-]+", re.ASCII)

_FEATURES = Features(
    read=True,
    write=True,
    delete=True,
    list=True,
    sorted_list=True,
    list_seek=True,
    stat=True,
    move=True,
    dirs=True,
    range_read=True,
    lazy_read=True,
    purge=True,
    set_modified=True,
    modified_precision=timedelta(seconds=1),
)


class SFTPBackend(Powers):
    """The files under the folder ``root`` of the SSH server ``host``. ``root`` is absolute, or relative to the folder
    one is logged into; it need not exist before the first write makes it.

    Who the server is: ``host_keys="strict"`` (the default) demands that its key stands in ``known_hosts`` (default:
    the user's and the system's); ``"first-use"`` notes an unknown key there, once, and refuses a changed one like
    ``"strict"``; ``host_key`` pins one key, by ``SHA256:...`` fingerprint or as ``ssh-ed25519 AAAA...``.
    Who we are: ``key_file`` (one or several) or ``key`` (the text of a private key), with ``passphrase``; the ssh-agent
    (by default where neither key nor password is given; ``agent`` says otherwise); ``password``. ``jump`` is
    ``user@host:port``, several with commas; jump hosts are never told the password. They are offered the keys, the
    agent's and the default ones too, as ssh(1) does, also where the server itself has a password. ``ssh_config``
    (empty: none) fills in HostName, Port, User, IdentityFile, ProxyJump and UserKnownHostsFile where the options say
    nothing.

    At most ``connections`` at once, opened when needed and again when they died, with a keepalive every ``keepalive``
    seconds. ``connect_timeout`` bounds each step of connecting, ``timeout`` the seconds without a sign of the server.

    What the server must offer is assumed as OpenSSH has it and refused at the first use where it is not there:
    ``posix_rename=False`` publishes without that extension (the old object steps aside for a moment: ``atomic_write``
    and ``atomic_move`` are off), ``hardlinks=False`` turns ``create_only`` off, ``server_copy=True`` turns ``copy`` on
    (``copy-data``, OpenSSH 9.0).

    Times are whole seconds, and an etag is made of time and size: a change within one second that keeps the size is not
    seen by it, and nothing is claimed to be conditional on it but the opening of a reader. Symlinks inside the root are
    followed by reads and replaced by writes; ``list`` yields them as kind ``"link"``; one that leads out of the root
    raises ``InvalidPath`` (``paths`` says what that is worth against somebody who swaps them meanwhile). A write
    keeps the mode of the file it replaces; new files get what the server's umask leaves. An aborted write may leave the
    folders it made, a dropped connection a hidden temporary: ``remove_stale_uploads``.
    """

    name = NAME
    not_from_urls = frozenset(
        {
            *("key_file", "key", "passphrase", "agent", "host_keys", "host_key", "known_hosts", "ssh_config"),
            "jump",
        }
    )
    probes: ClassVar = {
        "posix_rename": ("replacing",),
        "hardlinks": ("one winner of new keys",),
        "server_copy": ("copying",),
    }

    def __init__(
        self,
        host: str,
        root: str = "",
        *,
        port: int | None = None,
        user: str | None = None,
        password: str | Secret | None = None,
        key_file: str | Sequence[str] | None = None,
        key: str | Secret | None = None,
        passphrase: str | Secret | None = None,
        agent: bool | None = None,
        host_keys: str = "strict",
        host_key: str | None = None,
        known_hosts: str | None = None,
        jump: str | None = None,
        ssh_config: str = "~/.ssh/config",
        connections: int = 4,
        connect_timeout: float = 10.0,
        timeout: float = 30.0,
        keepalive: float = 30.0,
        posix_rename: bool = True,
        hardlinks: bool = True,
        server_copy: bool = False,
        policy: RequestPolicy | None = None,
    ) -> None:
        self._options = {k: v for k, v in locals().items() if k not in ("self", "__class__") and v is not None}
        for name in ("password", "key", "passphrase"):
            if isinstance(self._options.get(name), str):
                self._options[name] = Secret(self._options[name])
        self._check_options()
        files = (key_file,) if isinstance(key_file, str) else tuple(key_file or ())
        settings = Settings(
            host, port, user, self._options.get("password"), files, self._options.get("key"),
            self._options.get("passphrase"), agent, host_keys, host_key, known_hosts, jump, ssh_config,
            connect_timeout, timeout, keepalive,
        )  # fmt: skip
        self.policy = policy or RequestPolicy()
        self.features = replace(
            _FEATURES, atomic_write=posix_rename, atomic_move=posix_rename, create_only=hardlinks, copy=server_copy
        )
        self.url = _url(host, port, user, root)
        self.live, self.leftovers = set(), deque()
        self._posix_rename = posix_rename
        self._pool = Pool(settings, connections)
        self._place = Place(root)

    def _check_options(self) -> None:
        given = self._options
        host, root = given["host"], given["root"]
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise ConfigError(f"host is the name or address of a server, not {host!r:.100}")
        if not isinstance(root, str) or "\0" in root or ".." in root.split("/"):
            raise ConfigError(f"root is a folder of the server without '..' and NUL, not {root!r}")
        if given["host_keys"] not in ("strict", "first-use"):
            raise ConfigError(f"host_keys is 'strict' or 'first-use', not {given['host_keys']!r}")
        if not 0 < given.get("port", 22) < 65536:
            raise ConfigError(f"port is a number from 1 to 65535, not {given['port']!r}")
        if given["connections"] < 1:
            raise ConfigError("connections is at least 1")
        if min(given["connect_timeout"], given["timeout"]) <= 0 or given["keepalive"] < 0:
            raise ConfigError("connect_timeout and timeout are above zero; keepalive=0 sends none")

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """The options in ``sftp://user@host:port/path``, and the object's path that is left. ``/~/path`` is relative to
        the folder one is logged into."""
        from urllib.parse import unquote

        try:
            port = parts.port
        except ValueError as error:
            raise ConfigError("the port in an sftp URL is a number from 1 to 65535") from error
        options: dict[str, Any] = {"host": parts.hostname or ""}
        if port is not None:
            options["port"] = port
        if parts.username:
            options["user"] = unquote(parts.username)
        if parts.password:
            options["password"] = Secret(unquote(parts.password))
        path = unquote(parts.path, errors="surrogateescape")
        left = ""
        if is_object:
            path, _, left = path.rpartition("/")
            path = path or "/"
        if path == "/~" or path.startswith("/~/"):
            path = path[3:]
        options["root"] = path.rstrip("/") or path[:1]
        return options, left

    def __repr__(self) -> str:
        return f"SFTPBackend({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._options, self._place.chain)

    @property
    def _closed(self) -> bool:
        return self._pool.closed

    @_closed.setter
    def _closed(self, value: bool) -> None:
        self._pool.closed = value

    def _close(self) -> None:
        try:
            link = self._pool.idle()
            if link is not None and self.leftovers:
                self._sweep(link.sftp)
        except Exception:  # noqa: S110  (what could not be removed is found by the StaleUploads power)
            pass
        self._pool.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _object(self, session: Session, path: str, op: str) -> Attrs:
        """What the object ``path`` is, wherever a symlink inside the root leads."""
        found = self._place.find(session, path, op)
        if found is None:
            raise NotFound("no such object", path=path, op=op, backend=NAME)
        if is_folder(found):
            raise NotFound("this is a folder, not an object", path=path, op=op, backend=NAME)
        return found

    def _open(self, path: str, options: ReadOptions, op: str) -> SFTPReader:
        def run(link: Link, session: Session) -> SFTPReader:
            if not is_file(self._object(session, path, op)):  # before the open, which would wait for ever at a pipe
                raise InvalidPath("not a regular file", path=path, op=op, backend=NAME)
            handle = self._place.opened(session, path, op)
            try:
                info = info_of(path, look_at_handle(session, handle))
                check_conditions(info, options, NAME)
                return SFTPReader(link, session, handle, info, options, self.policy)
            except BaseException:
                session.closing.append(handle)
                raise

        return self._ask(op, path, run)

    def _open_reader(self, path: str, options: ReadOptions) -> SFTPReader:
        self._key(path, "open_reader")
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        return self._open(path, options, "open_reader")

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._enter("range_read", "read_ranges", path)
        self._key(check_key(path, op="read_ranges"), "read_ranges")
        for offset, length in ranges:
            ReadOptions(offset, length)  # refuses what counts from below zero
        with self._open(path, ReadOptions(), "read_ranges") as reader:
            return reader.read_ranges(ranges)

    def _exists(self, path: str) -> bool:
        if self._place.why_not(path) is not None:
            return False
        try:
            found = self._ask("exists", path, lambda _, session: self._place.find(session, path, "exists"))
        except InvalidPath:
            return False
        return found is not None and not is_folder(found)

    def _stat(self, path: str) -> ObjectInfo:
        self._key(path, "stat")
        return self._ask("stat", path, lambda _, session: info_of(path, self._object(session, path, "stat")))

    def check_health(self) -> None:
        self._enter("read", "check_health", "")

        def run(_: Link, session: Session) -> None:
            found = look(session, self._place.full(session, ""), STAT)
            if found is None or not is_folder(found):
                raise NotFound("the root is not there", path="", op="check_health", backend=NAME)

        self._ask("check_health", "", run)

    # -- listing -------------------------------------------------------------------------------------------------------

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        if prefix:
            self._key(prefix, "list")
        head = prefix + "/" if prefix else ""
        return walk(lambda folder: self._folder(folder[:-1], "list", missing_ok=folder == head), prefix, options)

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        if path:
            self._key(path, "list_dir")
        return self._children(path)

    def _children(self, path: str) -> Iterator[ObjectInfo]:
        head = path + "/" if path else ""
        for info in visible(self._folder(path, "list_dir")):
            yield info._replace(path=head + info.path) if head else info

    # -- writing -------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> SFTPWriter:
        self._key(path, "open_writer")
        if options.modified_at is not None:
            seconds_of(options.modified_at)

        def run(link: Link, session: Session) -> SFTPWriter:
            found = self.check_target(session, path, "open_writer", overwrite=options.overwrite)
            mode = found.mode & 0o777 if found is not None and found.mode and is_file(found) else None
            handle, temporary = self.new_temporary(session, path, mode, "open_writer")
            return SFTPWriter(self, link, session, handle, temporary, found, path, options)

        return self._ask("open_writer", path, run)

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        self._enter("set_modified", "set_metadata", path)
        self._key(check_key(path, op="set_metadata"), "set_metadata")
        if user_metadata is not None:
            self._refuse("user_metadata", "set_metadata", path)
        check_time(modified_at)
        if modified_at is None:
            return self.stat(path)
        mtime = seconds_of(modified_at)

        def run(_: Link, session: Session) -> ObjectInfo:
            found = self._object(session, path, "set_metadata")
            full = string(self._place.full(session, path))
            session.call(SETSTAT, full, Attrs(atime=found.atime, mtime=mtime).packed())
            return info_of(path, self._object(session, path, "set_metadata"))

        return self._ask("set_metadata", path, run)


def _again(cls: type[SFTPBackend], options: dict[str, Any], chain: tuple[str, ...]) -> SFTPBackend:
    made = cls(**options)
    for folder in chain:
        made = made.confined(folder)
    return made


def _url(host: str, port: int | None, user: str | None, root: str) -> str:
    from urllib.parse import quote

    who = f"{quote(user, safe='')}@" if user else ""
    where = f"[{host}]" if ":" in host else host
    path = quote(root.strip("/"), safe="/~", errors="surrogateescape")
    start = "/" if root.startswith("/") else "/~/"
    return f"sftp://{who}{where}{f':{port}' if port else ''}{start}{path}{'/' if path else ''}"
