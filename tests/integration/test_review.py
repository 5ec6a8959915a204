"""`assay review` through the real stages: what it asks, and what answers change and leave alone."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.browser import chromium_program
from tests.waiting import HANG_SECONDS

from assay.data.answers import ensure_answers, read_row_answers
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, read_rows, write_dataset
from assay.data.expectations import learn_suite
from assay.data.labelling import ensure_labels
from assay.data.modalities.image import Image
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import ensure_quarantine
from assay.data.splitting import ROLES
from assay.data.target import ensure_target
from assay.errors import ConfigError, DataError, StageError
from assay.hashing import hash_tree
from assay.parts import read_json, read_part, write_json
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.runs.answering import open_lines, require_taken, take_answers
from assay.runs.review_page import shown_lines, write_review
from assay.runs.reviewing import ReviewItem, questions_of

ROOT = Path(__file__).parents[2]
NAME, N, ODD = "plant", 700, 60
COLUMNS = ("heat [C]", "</script><b>speed</b>", "shift")
PARAMS: dict[str, Any] = {
    "dataset": NAME,
    "datasets": [NAME],
    "eps": 0.1,
    "split": {"seed": 0},
    "contaminate": {"levels": [0], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 0, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "promise": "average", "seed": 2},
    "detectors": {"isolation_forest": {"n_estimators": 20}, "knn": {}, "mcd": {}, "cross": {"folds": 4}},
    "adapters": ["none"],
    "select": {"seed": 0, "without_labels": "probes"},
    "run": {"cells_at_once": 1, "runner": "local", "address": ""},
}
OTHERS = [role for role in ROLES if role != "train"]


def readings(n: int = N, odd: int = ODD, seed: int = 0) -> RowSet:
    """Unlabelled readings; the first are of a kind of their own: hot, fast, at night."""
    rng = np.random.default_rng(seed)
    is_odd = np.arange(n) < odd
    heat = np.where(is_odd, rng.normal(95, 0.3, n), rng.normal(70, 3, n))
    speed = np.where(is_odd, rng.normal(1900, 5, n), rng.normal(1500, 60, n))
    shift = np.where(is_odd, 1.0, rng.integers(0, 2, n))
    rows = {"row_id": [f"r{i}" for i in range(n)], "label": np.full(n, -1, dtype=np.int8), "group": "", "time": ""}
    return RowSet(np.column_stack([heat, speed, shift]), pd.DataFrame(rows))


def make_project(root: Path, card: Card, data: RowSet) -> Project:
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    dataset = Dataset(card, data)
    write_dataset(root / "data" / NAME, dataset)
    write_json(root / "expectations" / f"{NAME}.json", learn_suite(dataset))
    for ensure in (ensure_answers, ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, NAME)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return Project(root)


def run(project: Project, upto: str) -> None:
    for verb in list(STAGES)[: list(STAGES).index(upto) + 1]:
        for stage in project.stages_of(verb):
            run_verb(project, stage.name)


def card(**changes: Any) -> Card:
    return Card(NAME, TABULAR, COLUMNS, "made here", vocabulary={"shift": ("day", "<night>")}, **changes)


@pytest.fixture(scope="module")
def split_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("review") / "project", card(), readings())
    run(project, "split")
    return project.root


@pytest.fixture
def project(split_once: Path, tmp_path: Path) -> Project:
    shutil.copytree(split_once, tmp_path / "project")
    return Project(tmp_path / "project")


def roles_of(project: Project) -> dict[str, list[str]]:
    return {role: read_rows(project.folder("split") / role).rows["row_id"].tolist() for role in (*ROLES, "excluded")}


def odd_of(row_ids: list[str]) -> set[str]:
    return {row_id for row_id in row_ids if int(row_id[1:]) < ODD}


def answered(project: Project, questions: list[ReviewItem], answers: dict[int, str]) -> Path:
    """Fill in an answer in the first line of each question."""
    lines = open_lines(questions)
    for number, answer in answers.items():
        lines.loc[lines.index[lines["question"] == questions[number - 1].name][0], "answer"] = answer
    path = project.root / "answers.csv"
    lines.to_csv(path, index=False)
    return path


def test_the_kind_that_lies_apart_is_asked_about_first_in_the_units_of_the_file(project: Project) -> None:
    questions = questions_of(project, budget=6)
    first, train = questions[0], roles_of(project)["train"]
    assert set(first.rows["row_id"]) == odd_of(train)
    assert first.asked == "group"
    assert re.search(r"times the usual distance from the others", first.why)
    assert re.search(r"heat \[C\]: 9[45][.\d]* \(elsewhere (69|70)", first.sentence)
    assert "</script><b>speed</b>: 1" in first.sentence
    assert {row_id for row_id, _ in first.typical + first.extreme} <= set(first.rows["row_id"])
    assert any("<night>" in cells for _, cells in first.typical)
    assert [question.asked for question in questions[-3:]] == ["row"] * 3
    assert len(questions) == 6
    assert not set(pd.concat([each.rows for each in questions])["row_id"]) - set(train)


def test_answers_change_the_training_rows_and_no_others(project: Project) -> None:
    before, hashes = roles_of(project), hash_tree(project.folder("split"))
    questions = questions_of(project, budget=6)
    path = answered(project, questions, {1: "bad", 5: "good", 6: "unsure"})
    taken = take_answers(project, path)
    n_bad = len(odd_of(before["train"]))
    assert taken.counts == {"bad": n_bad, "good": 1, "unsure": 1}
    event = project.events.last("answered")
    assert event is not None
    assert (event["dataset"], event["bad"], event["rows"]) == (NAME, n_bad, n_bad + 2)
    asked = {row_id for question in questions_of(project, budget=9) for row_id in question.rows["row_id"]}
    assert not asked & (odd_of(before["train"]) | {questions[4].rows["row_id"].iloc[0]})
    run(project, "calibrate")
    after, now = roles_of(project), hash_tree(project.folder("split"))
    assert set(after["excluded"]) == odd_of(before["train"])
    assert set(after["train"]) == set(before["train"]) - odd_of(before["train"])
    assert {name: now[name] for name in hashes if name.split("/")[0] in OTHERS} == {
        name: hashes[name] for name in hashes if name.split("/")[0] in OTHERS
    }
    assert any(row_id in odd_of(before["calibration"]) for row_id in after["calibration"])
    assert read_json(project.folder("split") / "split.json")["answered"] == {"bad": n_bad, "unseen": n_bad, "good": 1}
    # Rows left the training for their group: calibrated on them too, `cross` would lack the normal ones among them.
    assert read_part(project.folder("calibrate", "cross") / "reference/level-0", "cross+none").kind == "conformal"
    assert not questions_of(project, budget=1)[0].rows["row_id"].isin(after["excluded"]).any()


def test_without_answers_about_groups_cross_calibrates_on_training_rows_too(project: Project) -> None:
    questions = questions_of(project, budget=6)
    take_answers(project, answered(project, questions, {6: "bad"}))
    run(project, "calibrate")
    assert read_json(project.folder("split") / "split.json")["answered"] == {"bad": 1, "unseen": 0, "good": 0}
    assert read_part(project.folder("calibrate", "cross") / "reference/level-0", "cross+none").kind == "cross"


def test_rows_that_come_to_another_role_are_not_left_out_there(project: Project) -> None:
    take_answers(project, answered(project, questions_of(project, budget=2), {1: "bad"}))
    bad = odd_of(roles_of(project)["train"])
    (project.root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "split": {"seed": 5}}))
    project = Project(project.root)
    run(project, "split")
    after = roles_of(project)
    elsewhere = {row_id for role in OTHERS for row_id in after[role]} & bad
    assert len(elsewhere) > 5
    assert any(row_id in bad for row_id in after["calibration"])
    assert not bad & set(after["train"])
    assert set(after["excluded"]) == bad - elsewhere


def test_a_row_that_was_judged_itself_keeps_its_answer(project: Project) -> None:
    questions = questions_of(project, budget=2)
    path = answered(project, questions, {1: "bad"})
    lines = pd.read_csv(path, dtype=str, keep_default_na=False)
    alone = lines.iloc[[0]].assign(asked="row", question="alone", answer="good", who="Kim")
    alone.to_csv(path, index=False)
    take_answers(project, path)
    lines.to_csv(path, index=False)
    n_group = len(questions[0].rows)
    assert take_answers(project, path).counts == {"bad": n_group - 1, "good": 1, "unsure": 0}
    lines.assign(answer="unsure").to_csv(path, index=False)
    assert take_answers(project, path).counts["unsure"] >= n_group - 1


def test_answers_that_a_spreadsheet_program_saved_are_taken(project: Project) -> None:
    questions = questions_of(project, budget=2)
    lines = pd.read_csv(answered(project, questions, {1: "bad"}), dtype=str, keep_default_na=False)
    path = project.root / "saved.csv"
    # As with `;` between fields, ids that look like dates or numbers written its way, and a mark of its encoding.
    saved = lines.assign(row_id="1.23E+16").to_csv(index=False, sep=";", lineterminator="\r\n")
    path.write_text(saved, encoding="utf-8-sig")
    assert take_answers(project, path).counts["bad"] == len(questions[0].rows)
    assert set(read_row_answers(project.root / "answers/plant.csv")["row_id"]) == set(questions[0].rows["row_id"])


def test_a_sheet_with_answers_that_were_not_taken_is_not_written_anew(project: Project) -> None:
    require_taken(project, project.root / "sheet.csv")
    questions = questions_of(project, budget=2)
    _, sheet = write_review(project.root, NAME, questions)
    require_taken(project, sheet)
    shutil.copy(answered(project, questions, {1: "bad"}), sheet)
    with pytest.raises(DataError, match=r"plant.csv holds answers that were not taken, about 'r\d+'"):
        require_taken(project, sheet)
    take_answers(project, sheet)
    require_taken(project, sheet)


def test_an_answer_may_change_more_than_once_between_two_runs(project: Project) -> None:
    path = answered(project, questions_of(project, budget=2), {1: "bad"})
    take_answers(project, path)
    run(project, "split")
    lines = pd.read_csv(path, dtype=str, keep_default_na=False)
    for answer in ("good", "unsure", "bad", "good"):
        lines.assign(answer=np.where(lines["asked"] == "group", answer, "")).to_csv(path, index=False)
        assert take_answers(project, path).counts[answer] > 5
    questions = questions_of(project, budget=2)
    assert not any(odd_of(question.rows["row_id"].tolist()) for question in questions)
    bad = odd_of(roles_of(project)["excluded"])
    assert len(bad) > 5
    run(project, "split")
    assert not roles_of(project)["excluded"]
    assert bad <= set(roles_of(project)["train"])


@pytest.mark.parametrize("wrong", ["calibration", "two answers", "none", "content", "column", "typo"])
def test_what_cannot_be_taken_is_refused_and_changes_nothing(project: Project, wrong: str) -> None:
    path = answered(project, questions_of(project, budget=3), {1: "bad"})
    lines = pd.read_csv(path, dtype=str, keep_default_na=False)
    words = "is no training row of plant with that content; nothing was changed.*assay label"
    if wrong == "calibration":
        row = read_rows(project.folder("split") / "calibration").rows.iloc[0]
        lines.loc[0, ["fingerprint", "copy", "row_id"]] = [row["fingerprint"], str(row["copy"]), row["row_id"]]
    elif wrong == "two answers":
        lines.loc[1, "answer"], words = "good", "has the answers bad and good; give one for its group"
    elif wrong == "none":
        lines["answer"], words = "", "holds no answer; fill in the column answer"
    elif wrong == "typo":
        lines.loc[len(lines) - 1, "answer"], words = "goood", f"row {len(lines)}: answer is 'goood', not bad, good or"
    elif wrong == "content":
        lines.loc[0, "fingerprint"] = "0" * 32
    else:
        lines, words = lines.drop(columns="asked"), "lacks the column asked"
    lines.to_csv(path, index=False)
    before = (project.root / "answers/plant.csv").read_bytes()
    with pytest.raises(DataError, match=words):
        take_answers(project, path)
    assert (project.root / "answers/plant.csv").read_bytes() == before
    assert project.events.last("answered") is None


def test_a_pipeline_that_would_ignore_answers_is_said(project: Project) -> None:
    path = answered(project, questions_of(project, budget=2), {1: "bad"})
    text = (project.root / "dvc.yaml").read_text()
    (project.root / "dvc.yaml").write_text(text.replace("        - answers/${item}.csv\n", ""))
    with pytest.raises(ConfigError, match=r'run `assay migrate`, or .* - "answers/\$\{item\}.csv" to its deps'):
        take_answers(Project(project.root), path)


def test_what_cannot_be_asked_is_said(project: Project) -> None:
    shutil.rmtree(project.folder("split"))
    with pytest.raises(StageError, match="have no roles yet; run `assay run --dataset plant`"):
        questions_of(project, budget=2)
    written = read_json(project.data / "card.json")
    write_json(project.data / "card.json", {**written, "text_column": "body"})
    with pytest.raises(DataError, match="dataset of texts, which `assay review` does not compare"):
        questions_of(Project(project.root), budget=2)


def page_of(project: Project, folder: Path) -> tuple[str, list[ReviewItem]]:
    questions = questions_of(project, budget=4)
    page, sheet = write_review(folder, NAME, questions)
    assert pd.read_csv(sheet, dtype=str, keep_default_na=False).equals(open_lines(questions))
    return page.read_text(), questions


def test_the_page_is_one_file_without_network_and_shows_names_as_they_are(project: Project, tmp_path: Path) -> None:
    text, questions = page_of(project, tmp_path)
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<b>" not in text
    assert "<night>" not in text
    assert "&lt;night&gt;" in text
    assert not re.search(r"https?:|src=(?!\"data:)|@import|url\(", text)
    (data,) = re.findall(r'<script type="application/json" id="lines">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["lines"] == open_lines(questions).to_numpy().tolist()
    assert text.count('data-answer="bad"') == len(questions)


def test_the_terminal_shows_names_as_they_are(project: Project) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    for line in shown_lines(questions_of(project, budget=2)):
        console.print(line)
    text = console.export_text()
    assert "heat [C]" in text
    assert "</script><b>speed</b>" in text
    assert text.count("typical") == 3


def test_images_are_shown_as_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((300, 16)) * 0.2 + np.where(np.arange(300) < 30, 0.8, 0.0)[:, None]
    columns = tuple(f"pixel_{i}_{j}" for i in range(4) for j in range(4))
    rows = {"row_id": [f"r{i}" for i in range(300)], "label": np.full(300, -1, dtype=np.int8), "group": "", "time": ""}
    project = make_project(
        tmp_path / "p", Card(NAME, Image((4, 4)), columns, "made"), RowSet(pixels, pd.DataFrame(rows))
    )
    run(project, "split")
    first = questions_of(project, budget=2)[0]
    assert {int(row_id[1:]) < 30 for row_id in first.rows["row_id"]} == {True}
    assert len(first.pictures) == len(first.typical) + len(first.extreme) == 6
    assert first.pictures[0].shape == (4, 4)
    assert first.pictures[0].min() > 180
    page, _ = write_review(tmp_path / "page", NAME, [first])
    assert page.read_text().count('src="data:image/png;base64,') == 6


def test_a_browser_takes_answers_by_keys_and_makes_the_file(project: Project, tmp_path: Path) -> None:
    program = chromium_program()
    text, questions = page_of(project, tmp_path)
    presses = """<script>
      for (const key of ["b", "j", "g", "j", "u", "u"]) document.dispatchEvent(new KeyboardEvent("keydown", {key}));
      who.value = 'Kim, "K"';
      document.body.append(Object.assign(document.createElement("pre"), {id: "made", textContent: csv()}));
    </script></body>"""
    pressed = tmp_path / "pressed.html"
    pressed.write_text(text.replace("</body>", presses))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --dump-dom"
    command = [program, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", pressed.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_SECONDS).stdout
    (made,) = re.findall(r'<pre id="made">(.*?)</pre>', shown, re.DOTALL)
    path = tmp_path / "answers.csv"
    path.write_text(made.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "2 of 4 answered" in shown
    taken = take_answers(project, path)
    sizes = [len(question.rows) for question in questions]
    assert taken.counts == {"bad": sizes[0], "good": sizes[1], "unsure": 0}
    assert set(pd.read_csv(project.root / "answers/plant.csv")["who"]) == {'Kim, "K"'}
