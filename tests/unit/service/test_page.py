"""The page at /, clicked through in a browser: what is deployed, what came in, and a file that is scored."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.browser import Browser
from tests.unit.service.conftest import Serve
from tests.unit.service.test_routes import content

from assay.scorer.scorer import Scorer
from assay.service.guard import Access
from assay.service.limits import SERVICE_LIMITS
from assay.service.projects import PROJECT, for_clients
from assay.service.tokens import TokenFile, new_token

MARKUP = "<img src=x onerror=document.title='run'>"
READY = "document.getElementById('facts').children.length > 0"
SCORED = "!document.getElementById('result').hidden || document.getElementById('progress').innerText.startsWith('not')"


@pytest.fixture(scope="module")
def odd(scorer: Scorer) -> Scorer:
    """The scorer, with a name and a first column that are markup."""
    statement = replace(scorer.statement, content={**scorer.statement.content, "name": MARKUP})
    return replace(
        scorer, statement=statement, head={**scorer.head, "columns": [f'{MARKUP}"a", b', *scorer.columns[1:]]}
    )


def rows_of(scorer: Scorer) -> NDArray[Any]:
    return np.random.default_rng(0).normal(15, 5, size=(7, len(scorer.columns)))


def csv_of(scorer: Scorer, rows: NDArray[Any], separator: str = ",") -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator)
    writer.writerow(["na\nme", *reversed(scorer.columns)])
    for number, row in enumerate(rows.tolist()):
        writer.writerow([f'row "{number}", {MARKUP} {separator}', *reversed(row)])
    return stream.getvalue()


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_else(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        page = client.get("/")
        names = re.findall(r'(?:src|href)="([^":]+)"', page.text)
        assert set(names) == {"page.css", "page.js", "report", "lineage", "docs"}
        for name in ("page.css", "page.js", "docs"):
            answer = client.get(f"/{name}")
            assert answer.status_code == 200
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"<script>|<style|\son\w+=", page.text)
        assert "innerHTML" not in client.get("/page.js").text
        named = re.findall(r'(?:src|href)="\./([^"]+)"', client.get("/docs").text)
        assert len(named) == 4
        assert {client.get(f"/{name}").status_code for name in named} == {200}


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_file_is_scored_in_the_browser(odd: Scorer, serving: Serve, tmp_path: Path, separator: str) -> None:
    rows = rows_of(odd)
    (tmp_path / "rows.csv").write_text("\ufeff" + csv_of(odd, rows, separator))
    with serving(odd, SERVICE_LIMITS) as (client, _), Browser(tmp_path) as browser:
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        browser.open(str(client.base_url))
        browser.until(READY)
        assert browser.text("tag").startswith(f"{MARKUP}:{odd.version}")
        assert browser.text("guarantee") == odd.guarantee
        facts = browser.text("facts")
        assert MARKUP in facts
        assert f"{odd.calibrator.n_rows} calibration rows" in facts
        browser.choose("file", tmp_path / "rows.csv")
        browser.until(SCORED)
        assert browser.text("progress").startswith(f"7 rows of rows.csv scored by {MARKUP}:{odd.version}")
        browser.until("document.getElementById('counts').innerText.startsWith('7 rows')")
        assert browser.value("document.querySelectorAll('#histogram rect').length") == 10
        assert re.fullmatch(r"1 requests: half took (at most|more than) [\d.]+ ms, 99 % .* ms", browser.text("latency"))
        browser.value("document.getElementById('result').click()")
        browser.until((tmp_path / "rows.scored.csv").is_file)
        assert browser.value("document.title") == f"{MARKUP} - Assay"
        assert browser.value("document.querySelectorAll('img').length") == 0
        assert browser.errors == []
    with (tmp_path / "rows.scored.csv").open(newline="") as stream:
        result = list(csv.DictReader(stream))
    judged = odd.judge(rows)
    assert [float(row["score"]) for row in result] == judged.scores.astype(np.float64).tolist()
    assert [float(row["p_value"]) for row in result] == judged.p_values.tolist()
    assert [row["flagged"] == "1" for row in result] == (judged.p_values <= odd.head["eps"]).tolist()
    assert [row["na\nme"] for row in result] == [f'row "{n}", {MARKUP} {separator}' for n in range(7)]
    assert [float(row[odd.columns[0]]) for row in result] == rows[:, 0].tolist()


def test_the_course_of_a_monitor_is_drawn_up_to_its_alarm(scorer: Scorer, serving: Serve, tmp_path: Path) -> None:
    with serving(scorer, SERVICE_LIMITS) as (client, _), Browser(tmp_path) as browser:
        browser.open(str(client.base_url))
        browser.until(READY)
        points = []
        for rows, capital in ((10, 0.5), (10, 0.5), (20, 3.0)):
            monitor = f"{{name: 'drift', rows: {rows}, log10_capital: {capital}, log10_threshold: 2, alarm: null}}"
            browser.value(f"(info = {{...info, monitors: [{monitor}]}}, describe())")
            points.append(browser.value("document.querySelector('#monitors polyline').getAttribute('points')"))
        browser.value("(() => { for (let i = 21; i < 3000; i++) course({...info.monitors[0], rows: i}); })()")
        kept = browser.value("[...courses.values()][0].length")
        first = browser.value("[...courses.values()][0][0].join()")
    assert [len(each.split()) for each in points] == [2, 2, 3]
    assert points[-1].split()[0].startswith("10,"), "a capital of 1 before the first row"
    assert points[-1].split()[-1] == "410,5", "above the alarm"
    assert 100 < kept <= 401
    assert first == "0,0"


def test_a_file_that_cannot_be_scored_says_why(scorer: Scorer, serving: Serve, tmp_path: Path) -> None:
    head, row = ",".join(scorer.columns), ",".join(["1.5"] * len(scorer.columns))
    bad = {
        "the file has no column mean radius": f"{head.replace('mean radius', 'radius')}\n{row}\n",
        "row 2 has 2 cells; every row needs all columns": f"{head}\n{row}\n1,2\n",
        'row 1, column mean radius: "a" is no number': f"{head}\n{row.replace('1.5', 'a', 1)}\n",
        "'mean radius' is null": f"{head}\n{row.replace('1.5', '', 1)}\n",
        "a quote is opened and never closed": f'{head}\n"{row}\n',
        "the file is empty": "",
    }
    with serving(scorer, SERVICE_LIMITS) as (client, _), Browser(tmp_path) as browser:
        browser.open(str(client.base_url))
        browser.until(READY)
        for words, text in bad.items():
            (tmp_path / "bad.csv").write_text(text)
            browser.choose("file", tmp_path / "bad.csv")
            browser.until(f"document.getElementById('progress').innerText.includes({words!r})")
            assert browser.value("document.getElementById('result').hidden")


def test_the_keyboard_alone_enters_a_token(scorer: Scorer, serving: Serve, tmp_path: Path) -> None:
    _, text = new_token(tmp_path / "tokens.json", "score")
    access = Access(TokenFile(tmp_path / "tokens.json"), True)
    with serving(scorer, SERVICE_LIMITS, access) as (client, _), Browser(tmp_path) as browser:
        browser.open(str(client.base_url))
        browser.until("document.getElementById('problem').innerText.includes('this service needs a token')")
        browser.keys("\t")
        assert browser.value("document.activeElement.id") == "token"
        browser.keys(f"{text}\n")
        browser.until(READY)
        assert browser.text("problem") == ""
        assert browser.value("document.getElementById('token').value") == ""
        assert text not in browser.value("document.documentElement.outerHTML")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scorer: Scorer, serving: Serve, tmp_path: Path, scheme: str) -> None:
    """Text and ground differ in contrast by 4.5 or more, as WCAG 2 asks (level AA)."""
    contrast = """(() => {
      const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
      const ground = (e) => { const c = getComputedStyle(e).backgroundColor;
        return c === 'rgba(0, 0, 0, 0)' ? ground(e.parentElement) : c; };
      return Math.min(...[...document.querySelectorAll('h1, h2, p, dt, dd, a, button, figcaption, label')].map((e) => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        return (a + .05) / (b + .05); }));
    })()"""
    with serving(scorer, SERVICE_LIMITS) as (client, _), Browser(tmp_path) as browser:
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=media)
        browser.open(str(client.base_url))
        browser.until(READY)
        assert browser.value(contrast) >= 4.5
        ground = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) > 380) == (scheme == "light")
        client.post("/score", json=content(scorer, rows_of(scorer)))


def test_answers_of_a_service_without_a_project_say_so(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        assert client.get("/project").json() == {"project": False, "report": False}
        for path in ("/scorers", "/report", "/lineage"):
            answer: httpx.Response = client.get(path)
            assert answer.status_code == 404
            assert "was not started in a project" in answer.json()["detail"]
        assert client.post("/promote", json={"tag": scorer.tag, "why": "x"}).status_code == 401


def test_what_clients_read_does_not_say_where_the_project_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT, "/srv/a&b")
    monkeypatch.setenv("BENTOML_HOME", "/srv/a&b/.bentoml")
    said = "/srv/a&b/work/x, /srv/a&amp;b/y; in /srv/a&b: /srv/a&b2/z"
    assert for_clients(said) == "work/x, y; in the project: /srv/a&b2/z"
    said = "/srv/a&b/.bentoml/models/m, https://example.org/srv/a&b/x"
    assert for_clients(said) == "models/m, https://example.org/srv/a&b/x"
