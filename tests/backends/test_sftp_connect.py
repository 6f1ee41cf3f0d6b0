"""Who the server is and who we are: host keys, keys, passwords, agents, jump hosts, ssh_config."""

import base64
import hashlib
import hmac
import os
import pathlib
import shutil
import subprocess

import paramiko
import pytest

from omnistorage import open_backend
from omnistorage.backends.sftp import SFTPBackend
from omnistorage.backends.sftp.known_hosts import _names_host
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core.secret import Secret
from omnistorage.errors import BackendUnavailable, ConfigError, PermissionDenied

from ..servers import program, server, spawn, until
from ..servers.ssh import keys, on_disk, options_of

BOTH = pytest.mark.parametrize("name", ["sshd", "asyncssh"])
CANARY = "canary-3c9f"


@pytest.fixture
def connect():
    """Open a backend on a server, check that it can be used, and close it again."""
    folders = []

    def run(name, *leave_out, **options):
        info = server(name)
        given = options_of(info, policy=RequestPolicy(retries=0), **options)
        folders.append(on_disk(info, given["root"]))
        given = {key: value for key, value in given.items() if key not in leave_out}
        with SFTPBackend(**given) as backend:
            backend.check_health()
            return backend

    yield run
    for folder in folders:
        shutil.rmtree(folder)


def fingerprint(public):
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def other_key(tmp_path, kind="ed25519"):
    keys(tmp_path, "other", kind=kind)
    return (tmp_path / "other.pub").read_text()


# -- who the server is -------------------------------------------------------------------------------------------------


@BOTH
def test_goal_42_a_known_key_is_accepted_however_known_hosts_writes_it(connect, tmp_path, name):
    info = server(name)
    connect(name)
    line = pathlib.Path(info["known_hosts"]).read_text()
    kind, key = line.split()[1:]
    for host in ("[127.0.0.*]:*", f"elsewhere,[127.0.0.1]:{info['port']},!nobody"):
        (tmp_path / "known").write_text(f"# a comment\n\nnonsense\n{host} {kind} {key} a comment\n")
        connect(name, known_hosts=str(tmp_path / "known"))
    salt = os.urandom(20)
    hashed = hmac.digest(salt, f"[127.0.0.1]:{info['port']}".encode(), "sha1")
    words = "|".join(base64.b64encode(part).decode() for part in (salt, hashed))
    (tmp_path / "known").write_text(f"|1|{words} {kind} {key}\n")
    connect(name, known_hosts=str(tmp_path / "known"))


@BOTH
def test_goal_42_go_f7_an_unknown_key_is_refused_with_the_way_out(connect, tmp_path, name):
    info = server(name)
    (tmp_path / "known").write_text("")
    with pytest.raises(PermissionDenied) as caught:
        connect(name, known_hosts=str(tmp_path / "known"))
    text = str(caught.value)
    for word in (fingerprint(info["host_key"]), "ssh-keyscan", "host_key=", "first-use", str(info["port"])):
        assert word in text
    with pytest.raises(PermissionDenied):
        connect(name, known_hosts=str(tmp_path / "no such file"))
    assert (tmp_path / "known").read_text() == ""
    for host in (f"*,![127.0.0.1]:{info['port']}", "127.0.0.1", f"[127.0.0.1]:{info['port'] + 1}"):  # it is another's
        (tmp_path / "known").write_text(f"{host} {info['host_key']}\n")
        with pytest.raises(PermissionDenied, match="is not known"):
            connect(name, known_hosts=str(tmp_path / "known"))


@BOTH
@pytest.mark.parametrize("host_keys", ["strict", "first-use"])
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_goal_42_a_changed_key_is_refused_whatever_its_kind(connect, tmp_path, name, host_keys, kind):
    info = server(name)
    wrong = f"[127.0.0.1]:{info['port']} {' '.join(other_key(tmp_path, kind).split()[:2])}\n"
    (tmp_path / "known").write_text(wrong)
    with pytest.raises(PermissionDenied, match="HAS CHANGED"):
        connect(name, known_hosts=str(tmp_path / "known"), host_keys=host_keys)
    assert (tmp_path / "known").read_text() == wrong


@BOTH
def test_goal_42_a_revoked_key_is_refused_even_if_another_line_knows_it(connect, tmp_path, name):
    line = pathlib.Path(server(name)["known_hosts"]).read_text()
    host, kind, key = line.split()
    revoked = [
        f"@revoked {line}",
        f"@revoked * {kind} {key}\n",
        f"@revoked\t{line}",
        f"@revoked\t{host}\t{kind}\t{key}\n",
        f" @revoked  {host} \t {kind}  {key} a comment\r\n",
    ]
    for text in (revoked[0], *(line + text for text in revoked)):
        (tmp_path / "known").write_text(text)
        for host_keys in ("strict", "first-use"):
            with pytest.raises(PermissionDenied, match="revoked"):
                connect(name, known_hosts=str(tmp_path / "known"), host_keys=host_keys)


@pytest.mark.parametrize("hashed", ["Host.Example", "host.example"])
def test_a_hashed_name_counts_in_whatever_case_it_is_asked_for(hashed):
    salted = paramiko.HostKeys.hash_host(hashed)
    assert _names_host([salted], "Host.Example", paramiko)
    assert not _names_host([salted], "other.example", paramiko)


@pytest.mark.parametrize(
    "line",
    ["@REVOKED h ssh-ed25519 AAAA", "@revoked,h ssh-ed25519 AAAA", "@", "@revoked h ssh-ed25519 A", "@revoked h"],
)
def test_a_marked_line_that_cannot_be_followed_is_refused(connect, tmp_path, line):
    known = pathlib.Path(server("sshd")["known_hosts"]).read_text()
    (tmp_path / "known").write_text(f"{known}{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        connect("sshd", known_hosts=str(tmp_path / "known"))


@BOTH
def test_blanks_of_known_hosts_are_spaces_and_tabs(connect, tmp_path, name):
    fields = pathlib.Path(server(name)["known_hosts"]).read_text().split()
    (tmp_path / "known").write_text(
        "\t \n\t".join(["# a comment", "@cert-authority\t* ssh-rsa A", "  \t".join(fields)])
    )
    connect(name, known_hosts=str(tmp_path / "known"))


@BOTH
def test_goal_42_first_use_notes_the_key_once_and_is_strict_from_then_on(connect, tmp_path, name):
    line = pathlib.Path(server(name)["known_hosts"]).read_text()
    (tmp_path / "known").write_bytes(b"elsewhere ssh-ed25519 AAAA without an end of line")
    for host_keys in ("first-use", "first-use", "strict"):
        connect(name, known_hosts=str(tmp_path / "known"), host_keys=host_keys)
        first, *rest = (tmp_path / "known").read_text().splitlines(keepends=True)
        assert first.startswith("elsewhere")
        assert rest == [line]


@BOTH
def test_goal_42_a_pinned_key_needs_no_known_hosts_and_takes_no_other(connect, tmp_path, name):
    info = server(name)
    nowhere = str(tmp_path / "no such file")
    for pin in (info["host_key"], fingerprint(info["host_key"])):
        connect(name, known_hosts=nowhere, host_key=pin)
    other = other_key(tmp_path)
    for pin in (" ".join(other.split()[:2]), fingerprint(other), "SHA256:", "", "*"):
        with pytest.raises(PermissionDenied, match="not the pinned one"):
            connect(name, host_key=pin)


def test_goal_42_no_call_site_accepts_any_key():
    root = pathlib.Path(__file__).parent.parent.parent / "omnistorage"
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert "AutoAddPolicy(" not in text
        assert "set_missing_host_key_policy" not in text
        assert "WarningPolicy" not in text


def test_the_host_key_is_looked_at_before_anything_is_said_about_the_user(connect, tmp_path):
    """The key file is not even opened: it does not exist, and what is reported is the host key."""
    (tmp_path / "known").write_text("")
    with pytest.raises(PermissionDenied, match="host key"):
        connect("sshd", known_hosts=str(tmp_path / "known"), key_file=str(tmp_path / "none"))


# -- who we are --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_key_that_the_server_does_not_know_is_refused(connect, tmp_path, name):
    other_key(tmp_path)
    with pytest.raises(PermissionDenied) as caught:
        connect(name, key_file=str(tmp_path / "other"))
    assert "did not let in user" in str(caught.value)
    assert "key file" in str(caught.value)
    assert not caught.value.transient
    with pytest.raises(ConfigError):
        connect(name, key_file=str(tmp_path / "no such key"))
    (tmp_path / "garbage").write_text("garbage")
    with pytest.raises(PermissionDenied, match="not a private key"):
        connect(name, key_file=str(tmp_path / "garbage"))


@pytest.mark.parametrize(
    "kind", ["ed25519", *(pytest.param(kind, marks=pytest.mark.ci_only) for kind in ("rsa", "ecdsa"))]
)
def test_keys_of_every_kind_with_and_without_passphrase(connect, tmp_path, kind):
    keys(tmp_path, "locked", kind=kind, passphrase=CANARY)
    keys(tmp_path, "open", kind=kind)
    with open(server("sshd")["auth"], "a") as auth:
        auth.write((tmp_path / "locked.pub").read_text() + (tmp_path / "open.pub").read_text())
    locked = str(tmp_path / "locked")
    connect("sshd", key_file=str(tmp_path / "open"))
    connect("sshd", key_file=locked, passphrase=CANARY)
    connect("sshd", key_file=[str(tmp_path / "open"), locked], passphrase=Secret(CANARY))
    connect("sshd", "key_file", key=Secret.file(locked), passphrase=CANARY)
    with pytest.raises(PermissionDenied, match="passphrase"):
        connect("sshd", key_file=locked)
    with pytest.raises(PermissionDenied) as caught:
        connect("sshd", key_file=locked, passphrase=CANARY + "wrong")
    assert CANARY not in every_text(caught.value)


def every_text(error):
    found = []
    while error is not None:
        found += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(found)


def test_goal_41_a_password_opens_and_a_wrong_one_is_told_nowhere(connect, caplog):
    caplog.set_level("DEBUG")
    connect("asyncssh", "key_file", password="the right password")
    with pytest.raises(PermissionDenied) as caught:
        connect("asyncssh", "key_file", password=CANARY)
    assert "password" in str(caught.value)
    assert CANARY not in every_text(caught.value)
    assert CANARY not in caplog.text
    assert "the right password" not in caplog.text


def test_goal_41_a_password_in_a_url_is_accepted_and_never_shown():
    info = server("asyncssh")
    url = f"sftp://{info['user']}:{CANARY}%40@127.0.0.1:{info['port']}/?ssh_config=&known_hosts={info['known_hosts']}"
    backend = open_backend(url, trusted_url=True)
    assert backend._options["password"].reveal() == f"{CANARY}@"
    for text in (repr(backend), backend.url, repr(backend._options)):
        assert CANARY not in text
    backend.policy = RequestPolicy(retries=0)
    with pytest.raises(PermissionDenied) as caught:
        backend.check_health()
    assert CANARY not in every_text(caught.value)
    backend.close()
    right = open_backend(url.replace(f"{CANARY}%40", "the%20right%20password"), trusted_url=True)
    right.check_health()
    right.close()


def test_the_agent_is_asked_where_nothing_else_is_given(connect, tmp_path, monkeypatch):
    info = server("sshd")
    agent = program("ssh-agent", hint="apt-get install openssh-client")
    process = spawn([agent, "-D", "-a", tmp_path / "agent"], tmp_path)
    try:
        until((tmp_path / "agent").exists, process, tmp_path)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(PermissionDenied, match="tried nothing"):
            connect("sshd", "key_file")
        subprocess.run(["ssh-add", "-q", info["key_file"]], check=True, capture_output=True)
        connect("sshd", "key_file")
        with pytest.raises(PermissionDenied):
            connect("sshd", "key_file", agent=False)
        (tmp_path / ".ssh").mkdir()
        shutil.copy(info["key_file"], tmp_path / ".ssh/id_ed25519")
        connect("sshd", "key_file", agent=False)
    finally:
        process.kill()
        process.wait()


# -- the way there -----------------------------------------------------------------------------------------------------


def test_a_jump_host_carries_the_connection_and_is_checked_like_the_server(connect, tmp_path):
    info, other = server("sshd"), server("asyncssh")
    known = tmp_path / "known"
    known.write_text(pathlib.Path(info["known_hosts"]).read_text() + pathlib.Path(other["known_hosts"]).read_text())
    jump = f"{info['user']}@127.0.0.1:{info['port']}"
    given = options_of(info, jump=jump)
    with SFTPBackend(**given) as backend, backend.open_writer("x") as writer:
        writer.write(b"through")
        assert len(backend._pool.link()._transports) == 2
    assert (on_disk(info, given["root"]) / "x").read_bytes() == b"through"
    shutil.rmtree(on_disk(info, given["root"]))
    connect("sshd", jump=f"{jump},{jump}")
    with pytest.raises(PermissionDenied, match="host key"):  # the pin is the server's, so the jump host is a stranger
        connect("sshd", jump=jump, known_hosts=str(tmp_path / "none"), host_key=info["host_key"])
    with pytest.raises(BackendUnavailable):
        connect("sshd", jump="127.0.0.1:1")


def test_a_jump_host_is_never_told_the_password(connect):
    info = server("asyncssh")
    with pytest.raises(PermissionDenied, match="tried nothing"):
        connect("asyncssh", "key_file", password="the right password", jump=f"x@127.0.0.1:{info['port']}")


def test_ssh_config_fills_in_what_the_options_do_not_say(tmp_path):
    info = server("sshd")
    config = tmp_path / "config"
    config.write_text(
        f"Host far\n  HostName 127.0.0.1\n  Port {info['port']}\n  User {info['user']}\n"
        f"  IdentityFile {info['key_file']}\n  UserKnownHostsFile {info['known_hosts']}\n"
        f"Host farther\n  HostName 127.0.0.1\n  Port {info['port']}\n  ProxyJump far\n"
        "Host *\n  User nobody\n"
        "Host odd\n  ProxyCommand nc %h %p\n"
    )
    given = {"ssh_config": str(config), "policy": RequestPolicy(retries=0)}
    with SFTPBackend("far", info["root"], **given) as backend:
        backend.check_health()
        assert backend.url == f"sftp://far{info['root']}/"
    rest = {name: info[name] for name in ("user", "key_file", "known_hosts")}
    with SFTPBackend("farther", info["root"], **rest, **given) as backend:
        backend.check_health()
        assert len(backend._pool.link()._transports) == 2
    with SFTPBackend("far", info["root"], user="nobody-at-all", **given) as backend, pytest.raises(PermissionDenied):
        backend.check_health()
    for wrong in ({"host": "odd"}, {"host": "far", "ssh_config": str(tmp_path / "none")}):
        with SFTPBackend(**{**given, **wrong}) as backend, pytest.raises(ConfigError):
            backend.check_health()


def test_nobody_there_is_told_with_the_place_and_may_be_tried_again():
    with SFTPBackend("127.0.0.1", port=1, ssh_config="", policy=RequestPolicy(retries=0)) as backend:
        with pytest.raises(BackendUnavailable, match=r"\[127.0.0.1\]:1") as caught:
            backend.exists("x")
        assert caught.value.transient


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": "a b"},
        {"host": "-oProxyCommand=x y"},
        {"root": "a/../b"},
        {"root": "a\0b"},
        {"port": 0},
        {"port": 70000},
        {"host_keys": "ignore"},
        {"connections": 0},
        {"timeout": 0},
        {"connect_timeout": -1},
    ],
)
def test_go_f13_a_wrong_option_is_found_at_once(wrong):
    with pytest.raises(ConfigError):
        SFTPBackend(**{"host": "h", **wrong})


def test_urls_say_where_a_root_is():
    def opened(url):
        backend = open_backend(url)
        return backend._options["root"], backend.url

    assert opened("sftp://h") == ("", "sftp://h/~/")
    assert opened("sftp://h/~/a") == ("a", "sftp://h/~/a/")
    assert opened("sftp://h/") == ("/", "sftp://h/")
    assert opened("sftp://u@h:2222/a/b%20c/") == ("/a/b c", "sftp://u@h:2222/a/b%20c/")
    assert opened("sftp://[::1]:2222/a") == ("/a", "sftp://[::1]:2222/a/")
    for wrong in ("sftp:///a", "sftp://h:port/a", "sftp://h/a?no_such_option=1", "sftp://h/a?port=x"):
        with pytest.raises(ConfigError):
            open_backend(wrong)


def test_a_missing_library_names_the_command(monkeypatch):
    import sys

    from omnistorage.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "paramiko", None)
    with SFTPBackend("h", ssh_config="") as backend, pytest.raises(MissingExtra) as caught:
        backend.exists("x")
    assert caught.value.command == 'pip install "omnistorage[sftp]"'
    assert "omnistorage[sftp]" in str(caught.value)


def test_known_hosts_gets_a_line_even_where_its_folder_is_missing_or_says_why_not(connect, tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        connect("sshd", known_hosts=str(tmp_path / "no/such/folder"), host_keys="first-use")
    assert os.listdir(tmp_path) == []
