"""The pages of what stores can do and guarantee say what the tests say, and every cell has its test."""

import subprocess
import sys
import tomllib

import pytest

from .test_regressions import TESTS, known_tests

GUARANTEES = tomllib.loads((TESTS / "guarantees.toml").read_text())
DEFAULT = GUARANTEES.pop("default")


def test_the_pages_are_up_to_date():
    done = subprocess.run([sys.executable, TESTS.parent / "docs/tables.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(GUARANTEES))
def test_goal_49_every_cell_of_the_guarantees_names_tests_that_exist(name):
    backend, known = GUARANTEES[name], known_tests()
    source = (TESTS / backend["kit"]).read_text()
    assert "BackendTests" in source or "SQLTests" in source, "the kit runs here"
    for cell in DEFAULT:
        tests = backend.get(cell, DEFAULT[cell])["tests"]
        assert tests, (name, cell)
        assert set(tests) <= known, (name, cell)


def test_goal_49_every_kind_of_backend_that_writes_is_in_the_table():
    titles = set(GUARANTEES)
    assert titles == {"memory", "local", "channel", "s3", "gcs", "azure", "sftp", "http", "sql", "tiered", "multi"}
