"""Who gets in: tokens with roles, kept as hashes, and no requests of other sites; nothing of them in a log."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import Request
from tests.unit.service.conftest import Serve
from tests.unit.service.test_routes import assert_refused, content

from assay.errors import ConfigError, RequestError
from assay.scorer.scorer import Scorer
from assay.service.access import ACCESS_LOG
from assay.service.guard import Access, require_role
from assay.service.limits import SERVICE_LIMITS
from assay.service.tokens import TOKENS, TokenFile, new_token, read_tokens, revoke_token

SECRET = 1234567.125


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def body(scorer: Scorer) -> dict[str, Any]:
    return content(scorer, np.full((1, len(scorer.columns)), SECRET))


def test_a_token_is_kept_as_its_hash_alone(path: Path) -> None:
    token, text = new_token(path, "score")
    _, other = new_token(path, "admin")
    kept = path.read_text()
    assert text not in kept
    assert text.rpartition("_")[2] not in kept
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TokenFile(path).find(text) == token
    assert TokenFile(path).find(text[:-1]) is None
    assert TokenFile(path).find("") is None
    assert len({text, other, new_token(path, "score")[1]}) == 3
    assert [each.role for each in read_tokens(path)] == ["score", "admin", "score"]


def test_tokens_that_are_made_at_the_same_time_are_all_kept(path: Path) -> None:
    command = (
        "import sys; from pathlib import Path; from assay.service.tokens import new_token; p = Path(sys.argv[1])\n"
    )
    command += "for _ in range(10): new_token(p, 'score')"
    processes = [subprocess.Popen([sys.executable, "-c", command, str(path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len({token.id for token in read_tokens(path)}) == 30


@pytest.mark.parametrize("damage", ["", "[]", '{"tokens": [{"id": "x"}]}', '{"tokens": [1]}', '{"tokens": 1}', "\xff"])
def test_a_damaged_file_of_tokens_lets_nobody_in(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    _, text = new_token(path, "score")
    tokens = TokenFile(path)
    assert tokens.find(text) is not None
    path.write_bytes(damage.encode("latin-1"))
    assert tokens.find(text) is None
    assert tokens.find(text) is None
    assert caplog.text.count("is no file of tokens") == 1
    with pytest.raises(ConfigError, match="is no file of tokens; remove it"):
        read_tokens(path)
    with pytest.raises(ConfigError, match="is no file of tokens"):
        new_token(path, "score")


def test_every_request_needs_a_token_but_those_of_platforms(scorer: Scorer, serving: Serve, path: Path) -> None:
    _, text = new_token(path, "score")
    with serving(scorer, SERVICE_LIMITS, Access(TokenFile(path), True)) as (client, _):
        for open_to_all in ("/livez", "/readyz", "/healthz", "/"):
            assert client.get(open_to_all).status_code == 200
        for closed in (
            "/info",
            "/version",
            "/metrics",
            "/openapi.json",
            "/docs.json",
            "/nothing",
            "/livez/",
        ):
            assert_refused(client.get(closed), 401, "this service needs a token; `assay token new ROLE` makes one")
        refused = client.post("/score", json=body(scorer))
        assert_refused(refused, 401, "this service needs a token")
        assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in (f"Bearer {text}x", f"Basic {text}", text, "Bearer", "Bearer \xff", f"Bearer {text} {text}"):
            response = client.post("/score", json=body(scorer), headers={"authorization": wrong.encode("latin-1")})
            assert_refused(response, 401, "this token is not known")
        assert client.post("/score", json=body(scorer), headers=bearer(text)).status_code == 200
        assert client.get("/info", headers={"Authorization": f"bearer {text}"}).status_code == 200
        (token,) = read_tokens(path)
        revoke_token(path, token.id)
        assert_refused(client.get("/info", headers=bearer(text)), 401, "it may have been revoked")
    with pytest.raises(ConfigError, match=f"there is no token '{token.id}'"):
        revoke_token(path, token.id)


def test_a_role_may_do_what_those_before_it_may(path: Path) -> None:
    tokens = {role: new_token(path, role)[0] for role in ("score", "feedback", "admin")}
    may: dict[str, list[str]] = {}
    statuses = set()
    for has, token in tokens.items():
        request = Request({"type": "http", "assay.token": token, "assay.token_required": True})
        for needed in tokens:
            try:
                require_role(request, needed)
            except RequestError as error:
                statuses.add(error.status)
            else:
                may.setdefault(has, []).append(needed)
    assert statuses == {403}
    assert may == {"score": ["score"], "feedback": ["score", "feedback"], "admin": ["score", "feedback", "admin"]}
    require_role(Request({"type": "http", "assay.token": tokens["score"]}), "feedback")
    with pytest.raises(RequestError, match="this needs a token of the role admin, also on this machine"):
        require_role(Request({"type": "http"}), "admin")


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("POST", {}, True),
        ("POST", {"sec-fetch-site": "same-origin", "origin": "http://elsewhere"}, True),
        ("POST", {"sec-fetch-site": "none"}, True),
        ("POST", {"sec-fetch-site": "cross-site"}, False),
        ("POST", {"sec-fetch-site": "same-site"}, False),
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
        ("POST", {"origin": "http://elsewhere:3000"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://["}, False),
        ("POST", {"origin": "http://here:3000", "host": "here:3000"}, True),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        ("GET", {"origin": "http://elsewhere:3000"}, True),
    ],
)
def test_requests_of_other_sites_are_refused(
    scorer: Scorer, serving: Serve, method: str, headers: dict[str, str], passes: bool
) -> None:
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        response = client.request(method, "/info", headers=headers)
    if passes:
        assert response.status_code == 200
    else:
        assert_refused(response, 403, "a page of another site sent this request")


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        *(
            (host, True)
            for host in ("localhost", "LOCALHOST:3000", "127.0.0.1:3000", "127.9.9.9", "[::1]:3000", "a.localhost")
        ),
        *(
            (host, False)
            for host in ("elsewhere:3000", "127.0.0.1.elsewhere", "localhost.elsewhere", "10.0.0.1", "", "[")
        ),
    ],
)
def test_without_tokens_only_names_of_this_machine_are_answered(
    scorer: Scorer, serving: Serve, path: Path, host: str, passes: bool
) -> None:
    """A page elsewhere whose name is made to lead to this machine is of the same site, for a browser."""
    with serving(scorer, SERVICE_LIMITS, Access(TokenFile(path), False)) as (client, _):
        response = client.get("/info", headers={"host": host})
    if passes:
        assert response.status_code == 200
    else:
        assert_refused(response, 403, "without tokens this service answers to names of this machine alone")


def asked(client: httpx.Client, scorer: Scorer, text: str) -> None:
    """Ask in ways that put the token and the row wherever a log may look."""
    rows = body(scorer)
    assert client.post("/score", json=rows, headers=bearer(text)).status_code == 200
    client.post(f"/score?eps={text}", json=rows, headers=bearer(text))
    client.post(f"/score/{text}/{SECRET}", json=rows, headers=bearer(text))
    client.post("/score", json=rows | {"columns": [text]}, headers=bearer(text))
    client.request("PROPFIND", f"/score?{SECRET}", headers={**bearer(text), "user-agent": text, "referer": text})
    client.get("/info", headers=bearer(f"{text}wrong"))


def test_an_access_log_holds_nothing_that_a_client_wrote(
    scorer: Scorer,
    serving: Serve,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    token, text = new_token(path, "score")
    monkeypatch.setenv(TOKENS, str(path))
    monkeypatch.setenv(ACCESS_LOG, "1")
    for library in ("httpx", "httpcore"):
        logging.getLogger(library).setLevel(logging.WARNING)  # the client is in this process
    with caplog.at_level(logging.DEBUG), serving(scorer, SERVICE_LIMITS) as (client, _):
        asked(client, scorer, text)
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["method"], line["route"], line["status"], line["token"]) for line in lines] == [
        ("POST", "/score", 200, token.id),
        ("POST", "/score", 400, token.id),
        ("POST", None, 404, token.id),
        ("POST", "/score", 400, token.id),
        (None, "/score", 405, token.id),
        ("GET", None, 401, None),
    ]
    assert all(line["client"] == "127.0.0.1" and line["seconds"] > 0 and line["bytes"] > 0 for line in lines)
    everything = out + err + caplog.text
    assert text not in everything
    assert str(SECRET) not in everything


def test_without_asking_there_is_no_log_of_requests(
    scorer: Scorer, serving: Serve, path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    _, text = new_token(path, "score")
    with serving(scorer, SERVICE_LIMITS, Access(TokenFile(path), True)) as (client, _):
        asked(client, scorer, text)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
