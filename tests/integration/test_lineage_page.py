"""`assay audit show`: the chain as text, as JSON, and as one HTML file that a browser draws."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.browser import chromium_program
from tests.conftest import Checkout
from tests.waiting import HANG_SECONDS

from assay.audit.page import write_page
from assay.audit.show import Shown, show_scorer
from assay.parts import read_json
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.scorer.statement import read_statement

NAME = "breast_cancer"
KINDS = (("answers", "csv"), ("expectations", "json"), ("labels", "csv"), ("quarantine", "csv"), ("targets", "csv"))
SETTINGS = [f"{folder}/{NAME}.{kind}" for folder, kind in KINDS]
KEYS = ["code", "data", *SETTINGS, *STAGES, "bento", "deployment"]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1300,1500"
)


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


@pytest.fixture(scope="module")
def shown(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    root = tmp_path_factory.mktemp("shown") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        return show_scorer(Project(root), NAME)


class Page(html.parser.HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag and kind in [*(attrs.get("class") or "").split(), ""]]


def drawn(shown: Shown, path: Path) -> str:
    write_page(path, shown)
    return path.read_text()


def chromium(page: Path, profile: Path, *arguments: str) -> str:
    command = [chromium_program(), *FLAGS.split(), f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_SECONDS).stdout


def test_every_link_of_the_chain_is_told(finished: Checkout, shown: Shown) -> None:
    told = json.loads(finished.assay("audit", "show", NAME, "--json").stdout)
    assert told == shown.to_json()
    nodes = {node["key"]: node for node in told["nodes"]}
    assert list(nodes) == KEYS
    assert {node["state"] for node in nodes.values()} == {"ok"}
    work = finished.root / "work" / NAME
    (path,) = (finished.root / "work/package" / NAME).glob("*/scorer.json")
    statement = read_statement(path.parent)
    assert nodes["data"]["digest"] == statement.data_version
    assert {stage: nodes[stage]["digest"] for stage in statement.record_hashes} == statement.record_hashes
    assert nodes["package"]["facts"]["statement"] == statement.id
    plan = read_json(work / "contaminate/plan.json")["levels"]
    assert [level["n_injected"] for level in nodes["contaminate"]["facts"]["levels"]] == [
        level["n_injected"] for level in plan
    ]
    evaluation = read_json(work / "evaluate/evaluation.json")["candidates"]
    chosen = statement.candidate
    (row,) = (row for row in evaluation if all(row[name] == value for name, value in chosen.items()))
    assert nodes["evaluate"]["facts"]["auroc"] == row["auroc"]
    assert nodes["calibrate"]["facts"]["m"] == row["n_calibration"]
    assert nodes["calibrate"]["facts"]["smallest_eps"] == row["smallest_eps"]
    assert nodes["train"]["facts"]["seed"] == 0
    assert nodes["train"]["reads"]["split"] == ["train"]
    assert nodes["select"]["reads"] == {
        "split": ["pool", "selection"],
        "contaminate": ["plan.json"],
        "train": ["isolation_forest", "knn", "mcd"],
        "calibrate": ["isolation_forest", "knn", "mcd"],
    }


def test_injected_rows_are_told_with_whence_and_seed(finished: Checkout, shown: Shown) -> None:
    lines = finished.assay("audit", "show", NAME, "--rows").stdout.splitlines()
    written = (finished.root / f"work/{NAME}/contaminate/level-0.1/rows.csv").read_text().splitlines()[1:]
    assert shown.injected is not None
    assert len(shown.injected) == len(written) > 0
    assert all(row["recipe"] == "pool" and row["seed"] == 1 and row["levels"] == [0.1] for row in shown.injected)
    for row, line in zip(shown.injected, written, strict=True):
        assert line.startswith(row["row_id"])
        assert any(text.split()[:3] == [row["row_id"], "from", row["source_row"]] for text in lines)


def test_the_text_goes_from_the_deployment_back_to_the_raw_bytes(shown: Shown) -> None:
    heads = [line for line in shown.lines() if not line.startswith(" ")]
    assert [line.split("  ")[0] for line in heads[: len(KEYS)]] == [node.title for node in reversed(shown.nodes)]
    assert heads[-1] == f"{shown.findings.tag}-{shown.findings.statement}: intact (assay audit verify)"


def test_what_moved_on_is_told_from_the_cache_of_dvc(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, new = moved_on
    before, after = (show_scorer(Project(project.root), f"{NAME}:{version}") for version in (old, new))
    states = {node.key: node.state for node in before.nodes}
    assert [key for key, state in states.items() if state == "superseded"] == [
        "train",
        "calibrate",
        "select",
        "evaluate",
    ]
    for key, name in (("evaluate", "auroc"), ("select", "mean_power")):
        (then,), (now,) = ([node.facts[name] for node in shown.nodes if node.key == key] for shown in (before, after))
        assert isinstance(then, float)
        assert isinstance(now, float)
    old_eps, new_eps = (next(n.facts["eps"] for n in shown.nodes if n.key == "evaluate") for shown in (before, after))
    assert (old_eps, new_eps) == (0.05, 0.1)


def test_a_changed_file_shows_and_its_numbers_do_not(finished: Checkout) -> None:
    """No number is told of a file that is not the recorded one; DVC's cache may still have it."""
    shutil.rmtree(finished.root / ".dvc/cache")
    path = finished.root / f"work/{NAME}/evaluate/evaluation.json"
    path.write_text(path.read_text().replace('"auroc": 0.9', '"auroc": 0.8'))
    shown = show_scorer(Project(finished.root), NAME)
    (node,) = (node for node in shown.nodes if node.key == "evaluate")
    assert node.state == "differs"
    assert "auroc" not in node.facts
    text = drawn(shown, finished.root / "page.html")
    assert "Not as recorded" in text
    assert f"{path} was changed" in text


def test_the_page_is_one_file_that_asks_for_nothing(shown: Shown, tmp_path: Path) -> None:
    text = drawn(shown, tmp_path / "page.html")
    page = Page(text)
    assert not re.search(r"(?i)https?://|url\((?!#)|@import|<script|<img|<link|<iframe", text)
    assert all(
        not (attrs.get("href") or "#").strip("#") or (attrs["href"] or "").startswith("#") for _, attrs in page.tags
    )
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "src"]


def test_every_box_leads_to_its_card_and_every_arrow_joins_two_boxes(shown: Shown, tmp_path: Path) -> None:
    page = Page(drawn(shown, tmp_path / "page.html"))
    cards = {attrs["id"] for attrs in page.of("details") if "id" in attrs}
    boxes = page.of("a", "box")
    assert {(box["href"] or "").removeprefix("#") for box in boxes} == cards
    assert [(box["aria-label"] or "").partition(":")[0] for box in boxes] == [node.title for node in shown.nodes]
    arrows = [re.findall(r"(?:from|to)-(\d+)", attrs["class"] or "") for attrs in page.of("path", "edge")]
    keys = [node.key for node in shown.nodes]
    assert sorted((keys[int(a)], keys[int(b)]) for a, b in arrows) == sorted(
        (source, node.key) for node in shown.nodes for source in node.reads
    )


def test_names_from_files_are_text_on_the_page(shown: Shown, tmp_path: Path) -> None:
    from dataclasses import replace

    odd = replace(shown.nodes[-1], facts={"reason": "<script>alert(1)</script>"})
    text = drawn(replace(shown, nodes=(*shown.nodes[:-1], odd)), tmp_path / "page.html")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_page_that_cannot_be_written_is_told_on_one_line(finished: Checkout) -> None:
    (finished.root / "file").write_text("")
    done = finished.assay("audit", "show", NAME, "--html", "file/page.html", code=2)
    assert len(done.stderr.splitlines()) == 1
    assert "file/page.html cannot be written" in done.stderr


def test_a_browser_draws_the_graph(shown: Shown, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    drawn(shown, path)
    page = Page(chromium(path, tmp_path / "profile", "--dump-dom"))
    assert len(page.of("a", "box")) == len(KEYS)
    assert len(page.of("details")) == len(KEYS) + 2
    chromium(path, tmp_path / "profile", f"--screenshot={tmp_path / 'page.png'}")
    from matplotlib.image import imread

    left = (imread(tmp_path / "page.png")[150:, :650, :3] * 255).round().astype(int)
    green = (abs(left - [0xEA, 0xF6, 0xEF]).max(axis=2) <= 2).mean()
    assert green > 0.15, "the boxes of what is as recorded are not filled in green"
