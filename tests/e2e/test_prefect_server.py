"""Where Prefect cannot be used, a run says so in one line."""

from __future__ import annotations

import json
import os
import stat
from base64 import b64encode
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tests.conftest import QUICK, Checkout, prefect_url

from assay.environment import SWITCHES
from assay.project.layout import Project
from assay.runs.scheduling import PASSWORD, password_path, prefect_server


def test_a_server_that_cannot_be_used_is_named_in_one_line(finished: Checkout) -> None:
    finished.params(QUICK.replace("n_estimators: 25", "n_estimators: 26"))
    (line,) = finished.assay("run", code=1, PREFECT_API_URL="http://127.0.0.1:9/api").stderr.splitlines()
    assert line.startswith("assay: no Prefect server answers at PREFECT_API_URL=http://127.0.0.1:9/api")
    (finished.root / ".prefect").write_text("where Prefect wants a folder")
    (line,) = finished.assay("run", code=1, PREFECT_API_URL="").stderr.splitlines()
    assert line.startswith("assay: the local Prefect server did not start; its log is ")


def test_a_server_of_a_command_answers_nobody_without_its_password(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may change the deployment of a schedule has it run any file as its user."""
    for name, value in {**SWITCHES, "PREFECT_HOME": str(checkout.root / ".prefect"), PASSWORD: "mine"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    project = Project(checkout.root)
    project.state.mkdir()
    (left := password_path(project, "http://127.0.0.1:9/api")).touch()
    with prefect_server(project) as url:
        assert not left.exists(), "of a command that was killed"
        path = password_path(project, url)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        password = path.read_text().strip()
        assert os.environ[PASSWORD] == password != "mine"
        for name in ("deployments", "flow_runs", "variables"):
            for header in ({}, {"Authorization": f"Basic {b64encode(b'assay:').decode()}"}):
                request = Request(f"{url}/{name}/filter", b"{}", {"Content-Type": "application/json", **header})
                with pytest.raises(HTTPError, match="401"):
                    urlopen(request)
            request.add_header("Authorization", f"Basic {b64encode(password.encode()).decode()}")
            with urlopen(request) as answer:
                assert json.load(answer) == []
    assert not path.exists()
    assert os.environ[PASSWORD] == "mine"
    assert "PREFECT_API_URL" not in os.environ


def test_the_page_of_the_server_asks_this_server() -> None:
    with urlopen(f"{prefect_url().removesuffix('/api')}/ui-settings") as answer:
        assert json.load(answer)["api_url"] == prefect_url()
