"""A server that is not there, or does not start: one reason, never an error in each test."""

from pathlib import Path

import pytest

from . import servers
from .servers import sql


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Make ``server("broken")`` call the function that a test gives."""

    def use(function, required=""):
        monkeypatch.setenv(servers.RUN, str(tmp_path))
        monkeypatch.setenv("OMNISTORAGE_REQUIRE_SERVERS", required)
        monkeypatch.setitem(servers.HOMES, "broken", ".sql")
        monkeypatch.setattr(sql, "start_broken", function, raising=False)

    return use


def missing(folder):
    raise servers.Missing("apt-get install broken")


def says_nothing(folder):
    raise ValueError


def fails(folder):
    (folder / "started").touch()
    raise OSError("no configuration")


def test_missing_program_skips_with_command_to_install(start):
    start(missing)
    with pytest.raises(pytest.skip.Exception, match="apt-get install broken"):
        servers.server("broken")


def test_failed_start_skips_with_reason(start):
    start(fails)
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="no configuration"):
            servers.server("broken")


@pytest.mark.parametrize("function", [missing, fails, says_nothing])
@pytest.mark.parametrize("required", ["all", "other,broken"])
def test_required_server_fails_one_test_and_skips_the_others(start, monkeypatch, function, required):
    start(function, required)
    with pytest.raises(pytest.fail.Exception, match="broken"):
        servers.server("broken")
    with pytest.raises(pytest.fail.Exception, match="broken"):
        servers.server("broken")  # the same test again, as hypothesis tries one that failed
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "another test (call)")
    for _ in range(3):
        with pytest.raises(servers.ReportedBefore):
            servers.server("broken")


def test_folder_that_others_may_not_enter_is_seen(tmp_path):
    tmp_path.chmod(0o700)
    assert sql._may_enter(Path("/"))
    assert not sql._may_enter(tmp_path / ".." / tmp_path.name)
