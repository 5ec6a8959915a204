"""What is counted of answers: by category, with a bound on how many there are; and how many at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from assay.scorer.scorer import Scorer
from assay.service.answers import Decision, score_answer
from assay.service.metrics import _MOST_COUNTED, Metrics, VersionMetrics
from assay.service.noting import Noted, Notes
from assay.service.requests import Question
from assay.service.routes import make_application
from assay.service.spool import MONITORED, Spool, read_spool, spool_path


def shown(metrics: Metrics, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels[label] for label in labels): sample.value for sample in samples}


def test_rows_are_counted_by_category() -> None:
    metrics = Metrics()
    version = VersionMetrics(metrics, "rows", "1")
    version.count(np.array([0.01, 0.02, 0.95]), np.array([True, True, False]), ["a", "b", "a"])
    version.count(np.array([0.96]), np.array([False]), ["a"])
    assert shown(metrics, "assay_category_p_values_total", "category", "bin") == {
        ("a", "0-0.01"): 1,
        ("b", "0.01-0.05"): 1,
        ("a", "0.9-1"): 2,
    }
    assert shown(metrics, "assay_category_flagged_rows_total", "category") == {("a",): 1, ("b",): 1}
    assert shown(metrics, "assay_rows_total", "dataset") == {("rows",): 4}


def test_only_so_many_categories_are_counted_by_themselves() -> None:
    metrics = Metrics()
    names = [f"c{i}" for i in range(_MOST_COUNTED + 5)]
    VersionMetrics(metrics, "rows", "1").count(np.full(len(names), 0.5), np.ones(len(names), bool), names)
    by_category = shown(metrics, "assay_category_flagged_rows_total", "category")
    assert len(by_category) == _MOST_COUNTED + 1
    assert by_category[("",)] == 5


def test_answers_are_kept_in_their_order_a_moment_later(scorer: Scorer, tmp_path: Path) -> None:
    metrics, spool, decision = Metrics(), Spool(tmp_path / "rows.scores"), Decision.of(scorer)
    version, other = (VersionMetrics(metrics, "rows", version) for version in "12")
    rows = np.random.default_rng(0).normal(size=(6, len(scorer.columns)))
    answers = [score_answer(scorer, Question(rows[i : i + 2]), decision) for i in (0, 2, 4)]

    async def answered() -> None:
        notes = Notes()
        for answer in answers:
            notes.add(Noted(version, spool, 200, 0.001, answer))
        notes.add(Noted(other, Spool(None), 400, 0.001, None))
        assert not (tmp_path / "rows.scores").exists()
        while not (tmp_path / "rows.scores").exists():
            await asyncio.sleep(0.01)

    asyncio.run(answered())
    assert read_spool(tmp_path / "rows.scores").tolist() == scorer.judge(rows).scores.tolist()
    assert shown(metrics, "assay_requests_total", "version", "status") == {("1", "200"): 3, ("2", "400"): 1}


def test_a_bento_that_ends_keeps_the_scores_of_its_last_answers(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BentoML runs the lifespan of what it mounts."""
    monkeypatch.setenv(MONITORED, str(tmp_path))
    application, record = make_application(scorer), dict.fromkeys(scorer.columns, 1.0)

    async def served() -> None:
        transport = httpx.ASGITransport(application)
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            assert (await client.post("/score", json={"record": record})).status_code == 200

    asyncio.run(served())
    assert len(read_spool(spool_path(tmp_path, scorer.tag))) == 1
