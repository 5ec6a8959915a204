"""The frameworks' environment: telemetry is off, and proxies do not swallow servers on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.data.expectations import great_expectations
from assay.environment import SWITCHES, set_environment


@pytest.mark.parametrize(
    ("given", "spared"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:1"}, "127.0.0.1,localhost,::1"),
        ({"all_proxy": "http://proxy:1", "no_proxy": "a.example, localhost"}, "a.example,localhost,127.0.0.1,::1"),
        (
            {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "a.example", "no_proxy": "b.example"},
            "b.example,a.example,127.0.0.1,localhost,::1",
        ),
    ],
)
def test_proxies_spare_loopback_and_what_the_user_spares(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], spared: str | None
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    monkeypatch.setattr(os, "environ", {**kept, **given})
    set_environment(tmp_path)
    assert os.environ.get("NO_PROXY") == os.environ.get("no_proxy") == spared


def test_a_proxy_that_is_never_used_stays_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "*"})
    set_environment(tmp_path)
    assert os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("chosen", [None, "the user's own"])
def test_switches_are_set_unless_the_user_has_set_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, chosen: str | None
) -> None:
    others = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    monkeypatch.setattr(os, "environ", others if chosen is None else {**others, name: chosen})
    great_expectations()  # sets its own switch, since the library is used without a project too
    set_environment(tmp_path)
    assert os.environ[name] == (SWITCHES[name] if chosen is None else chosen)


def test_a_process_that_asked_the_ledger_ends_silently() -> None:
    code = (
        "from assay.environment import search_garbage_rarely; search_garbage_rarely(); import duckdb; "
        "connection = duckdb.connect(); print(connection.sql('select 7').fetchall()); connection.close()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[(7,)]\n"
    assert ended.stderr == ""
