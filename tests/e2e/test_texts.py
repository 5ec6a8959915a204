"""A user's own texts, from `assay ingest --text` to scores, explanations and answers over HTTP."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from tests.conftest import QUICK, Checkout, make_checkout
from tests.texts import ODD, THEMES, made_up

from assay.data.card import read_card
from assay.data.documents import DocumentScaler
from assay.data.modalities.registry import load_scaler
from assay.data.words import document_rows
from assay.detectors.base import ReadsWords
from assay.detectors.registry import load_detector
from assay.errors import InputError
from assay.parts import read_part
from assay.project.scorers import find_packaged
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.requests import read_question
from assay.service.rows import ColumnLayout

PARAMS = (
    QUICK.replace("levels: [0, 0.1]", "levels: [0, 0.05]")
    .replace("[none, cadet]", "[none]")
    .replace("without_labels: probes", "without_labels: cvdd")
    .replace("  mcd: {}\n", "  mcd: {}\n  cvdd: {epochs: 30, members: 2}\n")
)
NEW = ["The bank says: 5 % interest, a new loan!", "Football, goal and match", "", "unheard of"]


def news(n: int = 420, seed: int = 0) -> pd.DataFrame:
    texts = [*made_up(n, seed=seed), *made_up(20, (ODD,), seed=seed)]
    return pd.DataFrame({"key": range(len(texts)), "text": texts, "note": "x"})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run on unlabelled texts, by which CVDD ships."""
    made = make_checkout(tmp_path_factory.mktemp("texts") / "project")
    made.params(PARAMS)
    news().to_csv(made.root / "news.tsv", sep="\t", index=False)
    told = made.assay("ingest", "news.tsv", "--name", "news", "--text", "text", "--id", "key").stdout
    assert "440 rows x 500 columns, 0 labelled anomalies, 440 unlabelled" in told
    assert "left out: note" in told
    assert "texts: text (36 different words)" in told
    assert "word vectors: learned from training rows" in told
    result = json.loads(made.assay("run", "--dataset", "news", "--json").stdout)
    assert result["evidence"] == "probes"
    return made


@pytest.fixture(scope="module")
def scorer(project: Checkout) -> Scorer:
    return load_scorer(find_packaged("news", project.root).folder)


def test_the_scorer_takes_texts_in_every_form_and_gives_each_its_score(scorer: Scorer) -> None:
    assert scorer.columns == ("text",)
    assert scorer.statement.candidate["detector"] == "cvdd"
    judged = scorer.judge(NEW)
    assert judged.p_values.shape == (4,)
    assert judged.p_values[0] > 0.05
    assert (judged.p_values[2:] <= 0.05).all()  # no known word
    forms = (pd.DataFrame({"text": NEW}), np.array(NEW, dtype=object)[:, None], [[text] for text in NEW])
    for form in forms:
        np.testing.assert_array_equal(scorer.judge(form).p_values, judged.p_values)
    np.testing.assert_array_equal([scorer.decision_function([text])[0] for text in NEW], judged.scores)
    for wrong, said in (("one text", "give a list of texts"), ([1.5], r"row 0 is 1\.5"), ([["a", "b"]], r"\(n, 1\)")):
        with pytest.raises(InputError, match=said):
            scorer.decision_function(wrong)
    with pytest.raises(InputError, match="unknown column 'body'"):
        scorer.decision_function(pd.DataFrame({"body": NEW}))


def test_an_explanation_names_the_context_and_the_words(scorer: Scorer) -> None:
    bank, football, empty, nothing = scorer.explain_texts(NEW)
    assert bank.attended
    assert set(bank.words) == {"bank", "interest", "new", "loan"}
    assert sum(bank.words.values()) == pytest.approx(1)
    assert bank.context is not None
    assert bank.distances[bank.context - 1] == bank.distances.min()
    assert bank.sentence(2).startswith(f"nearest context {bank.context} ({', '.join(bank.context_words[:3])}) at 0.")
    assert empty.sentence(3) == "no known word"
    assert (bank.unknown, bank.counted) == (1, 5)  # "says"
    assert bank.sentence(2).endswith("; 1 of 5 words unknown")
    assert nothing.sentence(3) == "no known word; 1 of 1 words unknown"
    assert set(football.words) <= set(ODD)
    explained = scorer.explain(NEW)
    assert not explained.contributions[2:].any(), "no word is known"
    near = scorer.reference.strata.nearest(scorer.scored(NEW).scaled[:2], 3)  # type: ignore[attr-defined]
    of_near = scorer.function.detector.decision_function(near.reshape(6, -1)).reshape(2, 3).mean(axis=1)
    excess = scorer.decision_function(NEW)[:2] - of_near
    np.testing.assert_allclose(explained.contributions[:2].sum(axis=1), excess, atol=1e-4)


def test_the_service_takes_records_of_texts(scorer: Scorer) -> None:
    layout = ColumnLayout.of(scorer)
    expected = scorer.p_values(NEW)
    for body in (
        {"records": [{"text": text} for text in NEW]},
        {"columns": ["text"], "rows": [[text] for text in NEW]},
        {"columns": {"text": NEW}},
    ):
        question = read_question(json.dumps(body).encode(), layout)
        np.testing.assert_array_equal(scorer.p_values(question.rows), expected)
    missing = read_question(b'{"record": {"text": null}}', layout)
    np.testing.assert_array_equal(scorer.p_values(missing.rows), scorer.p_values([""]))
    with pytest.raises(InputError, match="body"):
        read_question(b'{"record": {"body": "a"}}', layout)
    with pytest.raises(InputError, match="a document is a text"):
        scorer.judge(read_question(b'{"record": {"text": 5}}', layout).rows)


def test_the_report_lists_the_contexts(project: Checkout, scorer: Scorer) -> None:
    page = (project.root / ".assay" / "reports" / "news.html").read_text()
    detector = scorer.function.detector
    assert isinstance(detector, ReadsWords)
    assert len(detector.contexts()) == 6
    for words in detector.contexts():
        assert f"<td>{', '.join(words)}</td>" in page


def test_a_file_is_scored_explained_and_found_again(project: Checkout, scorer: Scorer) -> None:
    pd.DataFrame({"from": ["a", "b", "c", "d"], "text": NEW}).to_csv(project.root / "new.csv", index=False)
    project.assay("score", "new.csv", "news", "--explain", "2", "--out", "scored.csv")
    scored = pd.read_csv(project.root / "scored.csv", keep_default_na=False)
    assert list(scored.columns) == ["from", "score", "p_value", "flagged", "because"]
    np.testing.assert_allclose(scored["p_value"], scorer.p_values(NEW))
    assert scored["because"].tolist()[2:] == ["no known word", "no known word; 1 of 1 words unknown"]
    project.assay("score", "new.csv", "news", "--out", "scored.parquet")
    news()[["text"]].iloc[:3].to_csv(project.root / "some.csv", index=False)
    known = json.loads(project.assay("audit", "who-saw", "some.csv", "--json").stdout)
    assert known["known"] == 3
    refused = project.assay("reweight", "new.csv", code=2).stderr
    assert "news is a dataset of texts, and calibration is not weighted towards texts" in refused


def test_texts_are_appended_and_quarantined_by_their_words(project: Checkout) -> None:
    before = read_card(project.root / "data" / "news").words
    more = news(60, seed=1).assign(key=lambda frame: frame["key"] + 1000)
    more.loc[0, "text"] = "A word of its own: zebra zebra"
    more.to_csv(project.root / "more.csv", index=False)
    project.assay("ingest", "--append", "more.csv", "--name", "news", "--batch", "more")
    card = read_card(project.root / "data" / "news")
    assert card.words[-1] == "zebra"
    assert [arrival.rows for arrival in card.batches] == [440, 80]
    project.assay("data", "drop", "more", "--name", "news")
    assert read_card(project.root / "data" / "news").words == before


def test_labelled_texts_with_vectors_of_the_users_own(checkout: Checkout) -> None:
    frame = news().assign(kind=lambda rows: np.where(rows["key"] < 420, "ham", "spam"))
    frame.loc[400:419, "text"] = ["", "goalkeepers only"] * 10  # which no vector is for
    frame.to_parquet(checkout.root / "mail.parquet")
    rng = np.random.default_rng(0)
    themes = np.eye(4, 12)
    lines = [
        " ".join([word, *(f"{x:.3f}" for x in themes[number] + 0.1 * rng.normal(size=12))])
        for number, theme in enumerate((*THEMES, ODD))
        for word in theme
    ]
    (checkout.root / "vectors.txt").write_text("\n".join([*lines, "elsewhere " + " ".join(["0"] * 12)]))
    checkout.params(PARAMS.replace("epochs: 30", "epochs: 3"))
    options = ("--name", "mail", "--text", "text", "--label", "kind", "--normal", "ham", "--vectors", "vectors.txt")
    checkout.assay("ingest", "mail.parquet", *options, "--check")
    told = checkout.assay("ingest", "mail.parquet", *options)
    assert "vectors of 28 of 38 words" in told.stdout + told.stderr
    assert "word vectors: vectors.txt" in told.stdout
    result = json.loads(checkout.assay("run", "--dataset", "mail", "--json").stdout)
    assert {row["detector"] for row in result["candidates"]} == {"knn", "isolation_forest", "mcd", "cvdd"}
    trained = checkout.root / "work/mail/train/knn/level-0"
    knn, scaler = load_detector(read_part(trained, "knn")), load_scaler(read_part(trained, "scaler"))
    assert isinstance(scaler, DocumentScaler)
    far, near = (
        knn.decision_function(scaler.transform(document_rows(texts)))
        for texts in (["", "unheard of"], frame["text"][:100])
    )
    assert far.min() > np.quantile(near, 0.9)  # texts without a known word are no neighbours of each other
    for wrong, said in (
        (("--name", "m", "--vectors", "vectors.txt"), "name the column of texts with --text"),
        (("--name", "m", "--text", "text", "--impute", "note"), "takes one column of texts"),
        (("--name", "m", "--text", "body"), "'body'"),
    ):
        assert said in checkout.assay("ingest", "mail.parquet", *wrong, code=2).stderr
