"""What the page asks of the project: versions, promotion and roll-back, report and lineage, and who may."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.browser import Browser
from tests.conftest import Checkout
from tests.integration.test_service import fit_scorer
from tests.waiting import HANG_SECONDS, wait_until

from assay.project.deployment import read_deployment
from assay.service.tokens import new_token, tokens_path

NAME = "breast_cancer"


@pytest.fixture
def project(finished: Checkout) -> Checkout:
    """A project with a champion, and with another scorer of the same rows."""
    fit_scorer(finished.root / "work/package" / NAME, NAME)
    return finished


@contextmanager
def serving(project: Checkout) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = project.start("assay", "serve", NAME, "--port", str(port), "--workers", "2")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_SECONDS) as client:

            def is_ready() -> bool:
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(is_ready, process)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=HANG_SECONDS)


def versions_of(project: Checkout) -> tuple[str, str]:
    """The champion's version, and another one's."""
    deployment = read_deployment(project.root, NAME)
    assert deployment is not None
    others = {path.name for store in ("scorers", "work/package") for path in (project.root / store / NAME).iterdir()}
    (other,) = (name for name in others if len(name) == 12 and name != deployment.version)
    return deployment.version, other


def test_versions_are_promoted_on_the_page(project: Checkout, tmp_path: Path) -> None:
    champion, other = versions_of(project)
    _, admin = new_token(tokens_path(project.root), "admin")
    reports = project.root / ".assay" / "reports"
    reports.mkdir(exist_ok=True)
    (reports / f"{NAME}.html").write_text("<script>document.title = 'run'</script><p id=x>report</p>")
    with serving(project) as client, Browser(tmp_path) as browser:
        browser.open(str(client.base_url))
        browser.until("!document.getElementById('project').hidden")
        assert browser.text("tag").startswith(f"{NAME}:{champion}")
        browser.value("document.getElementById('load').focus()")
        browser.keys("\n")
        browser.until("!document.getElementById('versions').hidden")
        assert "enter a token of the role admin" in browser.text("done")
        buttons = f"document.querySelectorAll('[aria-label$=\"{NAME}:{other}\"]')"
        assert browser.value(f"{buttons}.length") == 1
        assert browser.value(f"{buttons}[0].disabled")
        browser.value("document.getElementById('token').focus()")
        browser.keys(f"{admin}\n")
        browser.until(f"{buttons}.length && !{buttons}[0].disabled && !document.getElementById('done').innerText")
        browser.screenshot(tmp_path / "versions.png")
        browser.value(f"{buttons}[0].focus()")
        browser.keys("\nback <b>again</b>\n")
        browser.until("document.getElementById('done').innerText.includes('is the champion')")
        deployment = read_deployment(project.root, NAME)
        assert deployment is not None
        assert deployment.version == other
        assert re.fullmatch(r"back <b>again</b> \(by token [0-9a-f]{8}\)", deployment.reason)
        browser.until(f"document.getElementById('tag').innerText.includes({other!r})")
        back = f"document.querySelectorAll('[aria-label=\"Roll back to {NAME}:{champion}\"]')"
        assert browser.value(f"{back}[0].innerText") == "Roll back"
        assert browser.errors == []
        browser.value("sessionStorage.removeItem('token')")
        for link, words in (("report", "report"), ("lineage", other)):
            browser.open(f"{client.base_url}/{link}")
            assert words in browser.value("document.body.innerText")
            assert browser.value("document.title") != "run"
            assert browser.value("origin") == "null"


def test_only_an_admin_of_this_page_promotes(project: Checkout) -> None:
    champion, other = versions_of(project)
    path = tokens_path(project.root)
    tokens = {role: {"authorization": f"Bearer {new_token(path, role)[1]}"} for role in ("score", "feedback", "admin")}
    body = {"tag": f"{NAME}:{other}", "why": "again"}
    wrong = [
        (body | {"tag": "--help"}, "give a scorer of this dataset"),
        (body | {"tag": f"digits:{other}"}, "give a scorer of this dataset"),
        (body | {"tag": [1]}, "give a scorer of this dataset"),
        (body | {"why": "two\nlines"}, "give a reason on one line"),
        (body | {"why": "  "}, "give a reason on one line"),
        (body | {"why": "x" * 501}, "give a reason on one line"),
        ([body], "the body is not"),
    ]
    with serving(project) as client:
        assert client.post("/promote", json=body).status_code == 401
        for role in ("score", "feedback"):
            answer = client.post("/promote", json=body, headers=tokens[role])
            assert (answer.status_code, f"has the role {role}, and this needs admin" in answer.text) == (403, True)
        elsewhere = tokens["admin"] | {"origin": "http://elsewhere", "sec-fetch-site": "cross-site"}
        assert client.post("/promote", json=body, headers=elsewhere).status_code == 403
        assert client.get("/promote", headers=tokens["admin"]).status_code == 405
        for content, words in wrong:
            answer = client.post("/promote", json=content, headers=tokens["admin"])
            assert (answer.status_code, words in answer.json()["detail"]) == (400, True), answer.text
        assert client.post("/promote", content=bytes(10_001), headers=tokens["admin"]).status_code == 413
        answer = client.post("/promote", json=body | {"tag": f"{NAME}:{'0' * 12}"}, headers=tokens["admin"])
        assert answer.status_code == 409
        assert "0" * 12 in answer.json()["detail"]
        deployment = read_deployment(project.root, NAME)
        assert deployment is not None
        assert deployment.version == champion
        (project.root / "work/package" / NAME / other / "scorer.json").write_text("[]")
        for path in ("scorers", "lineage", "info", "report"):
            assert str(project.root) not in client.get(f"/{path}").text
        broken = [row["broken"] for row in client.get("/scorers").json()["scorers"]]
        assert any(each and each.startswith(f"work/package/{NAME}/{other}/") for each in broken), broken
        listed = {row["tag"]: row["champion"] for row in client.get("/scorers").json()["scorers"]}
        assert listed == {f"{NAME}:{champion}": True, f"{NAME}:{other}": False}
