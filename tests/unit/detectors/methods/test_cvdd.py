"""CVDD: attention, contexts, loss and scores, beside values computed by hand and by plain NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from tests.damage import assert_damaged_parts_are_refused, assert_wrong_parameters_are_refused
from tests.texts import ODD, THEMES, made_up
from threadpoolctl import threadpool_limits

from assay.data.documents import DocumentScaler
from assay.data.word_vectors import WordVectors, learned_vectors
from assay.data.words import Codes, document_rows
from assay.detectors.base import Detector, Embeds, ReadsWords
from assay.detectors.methods.cvdd import ALPHAS, CVDD
from assay.detectors.registry import load_detector, make_detector
from assay.errors import InputError, TrainingError
from assay.evaluation.metrics import auroc
from assay.networks.attention import ContextAttention, without_padding
from assay.parts import read_part, write_part

QUICK: dict[str, Any] = {"epochs": 15, "members": 2, "units": 20, "device": "cpu"}


class Corpus:
    """Documents of three themes, scaled."""

    def __init__(self) -> None:
        codes = Codes()
        rows = document_rows(made_up(150), codes)
        self.scaler = DocumentScaler(codes.words, sequences=True).fit(rows)
        self.rows = self.scaler.transform(rows)

    def of(self, texts: list[str]) -> np.ndarray:
        return self.scaler.transform(document_rows(texts))

    def fit(self, **params: Any) -> CVDD:
        return CVDD(**{**QUICK, **params}).fit(self.rows, lexicon=self.scaler.lexicon)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def fitted(corpus: Corpus) -> CVDD:
    return corpus.fit(epochs=60)


def network() -> ContextAttention:
    """Two words along two axes, one head that prefers the first, and contexts along the first axis and against it."""
    made = ContextAttention(1, 2, 2, 1, 2).double()
    with torch.no_grad():
        made.words.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        made.project.weight.copy_(torch.tensor([[[1.0], [0.0]]]))
        made.attend.weight.copy_(torch.tensor([[[2.0, 0.0]]]))
        made.contexts.vectors.copy_(torch.tensor([[[1.0, 0.0], [-3.0, 0.0]]]))
    return made


def test_the_number_of_threads_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    lexicon = WordVectors(tuple(f"word{i}" for i in range(2000)), rng.normal(size=(2000, 50)).astype(np.float32))
    places = rng.integers(0, 2000, size=(6000, 4))
    rows = np.concatenate([np.zeros((6000, 50)), places], axis=1).astype(np.float32)
    vectors, contexts = [], []
    for threads in (1, 4, 4, 4):
        with threadpool_limits(limits=threads):
            vectors.append(learned_vectors(places, 2000).tobytes())
            fitted = CVDD(epochs=1, members=1, units=2, device="cpu").fit(rows, lexicon=lexicon)
        contexts.append(fitted.to_part().arrays["contexts.vectors"].tobytes())
    assert len(set(vectors)) == 1
    assert len(set(contexts)) == 1


def test_attention_distances_and_loss_are_those_computed_by_hand() -> None:
    made, places = network(), torch.tensor([[[0, 1]]])
    first = np.exp(2 * np.tanh(1)) / (np.exp(2 * np.tanh(1)) + 1)
    np.testing.assert_allclose(made.attention(places)[0, 0].detach(), [[first, 0.5], [1 - first, 0.5]])
    cosines = np.array([first / np.hypot(first, 1 - first), -np.sqrt(0.5)])
    distances = (1 - cosines) / 2
    np.testing.assert_allclose(made(places)[0, 0].detach(), distances)
    np.testing.assert_allclose(made.overlap().detach(), [0 + 2 * 9 + 64])  # C C' = [[1, -3], [-3, 9]]
    for alpha in (0.0, 2.0):
        made.alpha.fill_(alpha)
        weights = np.exp(-alpha * distances) / np.exp(-alpha * distances).sum()
        expected = (weights * distances).sum() + 0.1 * 82
        np.testing.assert_allclose(made.losses(places, 0.1)[0, 0].detach(), expected)


def test_padding_gets_no_weight_and_changes_nothing() -> None:
    made = network()
    short, padded = torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1, -1, -1, -1]]])
    np.testing.assert_allclose(made(padded).detach(), made(short).detach(), rtol=1e-14)
    assert (made.attention(padded)[0, 0, 2:] == 0).all()
    assert without_padding(padded).shape == (1, 1, 2)
    empty = made(torch.tensor([[[-1, -1]]]))
    assert (empty == 1).all()
    (gradient,) = torch.autograd.grad(made.losses(padded, 1.0).sum() + empty.sum(), made.project.weight)
    assert gradient.isfinite().all()


def test_contexts_start_at_the_centres_of_themes_with_unit_length(corpus: Corpus) -> None:
    made = corpus.fit(epochs=1, learning_rate=1e-9)
    contexts = made.network_.contexts.vectors.detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(contexts, axis=2), 1, rtol=1e-6)
    vectors = dict(zip(corpus.scaler.words_, corpus.scaler.vectors_, strict=True))
    for member in contexts:
        nearest = {int(np.argmax(member @ np.mean([vectors[word] for word in theme], axis=0))) for theme in THEMES}
        assert nearest == {0, 1, 2}


def test_alpha_rises_in_five_steps_or_stays(corpus: Corpus) -> None:
    assert corpus.fit(epochs=10).network_.alpha.tolist() == pytest.approx([ALPHAS[-1]] * 2)
    assert corpus.fit(epochs=10, annealed=False).network_.alpha.tolist() == [0, 0]


def test_orthogonality_keeps_contexts_apart(corpus: Corpus) -> None:
    loose, strict = (corpus.fit(epochs=40, orthogonality=weight).network_.overlap() for weight in (0.0, 10.0))
    assert (strict < 0.2 * loose).all()


def test_odd_documents_and_those_without_words_score_high(corpus: Corpus, fitted: CVDD) -> None:
    usual = fitted.decision_function(corpus.rows)
    assert (fitted.decision_function(corpus.of(["", "unheard of", " ".join(ODD)])) == 1).all()
    assert usual.max() < 1


def test_documents_without_words_that_are_common_are_not_the_oddest(corpus: Corpus) -> None:
    rows = np.concatenate([corpus.rows, corpus.of([""] * 30)])
    detector = CVDD(**QUICK).fit(rows, lexicon=corpus.scaler.lexicon)
    distances, _ = detector.read(rows)
    by_member = distances.reshape(len(rows), 2, 3).mean(axis=2)
    np.testing.assert_allclose(by_member[-1], np.quantile(by_member[:-30], 150 / 180, axis=0), rtol=1e-6)
    loaded = load_detector(detector.to_part())
    np.testing.assert_array_equal(loaded.decision_function(rows), detector.decision_function(rows))


def test_documents_of_another_theme_score_higher_where_its_words_are_known() -> None:
    codes = Codes()
    rows = document_rows([*made_up(150, THEMES[:1]), *made_up(50, (ODD,))], codes)
    scaler = DocumentScaler(codes.words, sequences=True).fit(rows)
    scaled = scaler.transform(rows)
    detector = CVDD(**{**QUICK, "epochs": 60, "contexts_each": 1}).fit(scaled[:100], lexicon=scaler.lexicon)
    scores = detector.decision_function(scaled)
    truth = np.repeat([0, 1], [50, 50])
    assert auroc(truth, scores[100:]) > 0.95


def test_contexts_are_named_by_the_words_of_themes(corpus: Corpus, fitted: CVDD) -> None:
    contexts = fitted.contexts()
    assert len(contexts) == fitted.members * fitted.contexts_each
    assert all(0 < len(words) <= 10 for words in contexts)
    assert {word for words in contexts for word in words} <= set(corpus.scaler.words_)
    assert max(len(set(words[:5]) & set(theme)) for words in contexts for theme in THEMES) >= 3


def test_the_score_is_the_mean_of_distances_that_plain_numpy_finds_too(corpus: Corpus, fitted: CVDD) -> None:
    rows = corpus.rows[:20]
    distances, attention = fitted.read(rows)
    np.testing.assert_array_equal(distances.mean(axis=1).astype(np.float32), fitted.decision_function(rows))
    arrays = {name: array.astype(np.float64) for name, array in fitted.to_part().arrays.items()}
    width = corpus.scaler.dimensions
    for row, far, heads in zip(rows, distances, attention, strict=True):
        places = row[width:][row[width:] >= 0].astype(int)
        given = arrays["words"][places]
        for member in range(2):
            logits = np.tanh(given @ arrays["project.weight"][member]) @ arrays["attend.weight"][member]
            weights = np.exp(logits) / np.exp(logits).sum(axis=0)
            seen = weights.T @ given
            contexts = arrays["contexts.vectors"][member]
            norms = np.linalg.norm(seen, axis=1) * np.linalg.norm(contexts, axis=1)
            expected = (1 - (seen * contexts).sum(axis=1) / norms) / 2
            np.testing.assert_allclose(far[3 * member : 3 * member + 3], expected, rtol=1e-9)
            np.testing.assert_allclose(heads[3 * member : 3 * member + 3, : len(places)], weights.T, rtol=1e-9)
    np.testing.assert_allclose(attention.sum(axis=2), 1)


def test_a_document_scores_the_same_in_any_company_and_after_saving(
    corpus: Corpus, fitted: CVDD, tmp_path: Path
) -> None:
    rows = np.concatenate([corpus.rows, corpus.of(["", "bank"])])
    scores, codes = fitted.decision_function(rows), fitted.embed(rows)
    alone = np.concatenate([fitted.decision_function(row[None]) for row in rows])
    np.testing.assert_array_equal(alone, scores)
    assert scores.dtype == np.float32
    assert codes.shape == (2, len(rows), 3 * corpus.scaler.dimensions)
    write_part(tmp_path, "detector", fitted.to_part())
    loaded = load_detector(read_part(tmp_path, "detector"))
    np.testing.assert_array_equal(loaded.decision_function(rows), scores)
    assert isinstance(loaded, Detector)
    assert isinstance(loaded, Embeds)
    assert isinstance(loaded, ReadsWords)
    np.testing.assert_array_equal(loaded.embed(rows), codes)
    assert loaded.contexts() == fitted.contexts()
    assert fitted.decision_function(rows[:0]).shape == (0,)


def test_the_seed_decides_the_bytes(corpus: Corpus) -> None:
    first, again, other = (corpus.fit(seed=seed).to_part() for seed in (0, 0, 1))
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    assert not np.array_equal(first.arrays["project.weight"], other.arrays["project.weight"])


def test_an_interrupted_training_goes_on_with_the_same_result(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.detectors.training.checkpoints.SECONDS_BETWEEN", 0.0)
    lexicon = corpus.scaler.lexicon

    def stop(epoch: int, *_: object) -> None:
        if epoch == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CVDD(**QUICK).fit(corpus.rows, lexicon=lexicon, progress=stop, checkpoint=tmp_path / "state")
    epochs: list[int] = []
    resumed = CVDD(**QUICK).fit(
        corpus.rows, lexicon=lexicon, progress=lambda epoch, *_: epochs.append(epoch), checkpoint=tmp_path / "state"
    )
    assert epochs[0] == 9
    for name, array in corpus.fit().to_part().arrays.items():
        np.testing.assert_array_equal(resumed.to_part().arrays[name], array)


def test_what_it_cannot_use_is_refused(corpus: Corpus, fitted: CVDD) -> None:
    with pytest.raises(TrainingError, match="'cvdd' reads the words of texts, which it gets on a dataset of texts"):
        CVDD().fit(corpus.rows)
    with pytest.raises(TrainingError, match="'cvdd' reads the words"):
        make_detector("subsampled", {"detector": "cvdd", "sample_size": 60}, seed=0, device="cpu").fit(corpus.rows)
    with pytest.raises(TrainingError, match="1 different training documents with known words; 3 contexts need as many"):
        CVDD(**QUICK).fit(np.repeat(corpus.rows[:1], 9, axis=0), lexicon=corpus.scaler.lexicon)
    with pytest.raises(InputError, match="cannot use labelled anomalies"):
        CVDD(**QUICK).fit(corpus.rows, np.eye(1, len(corpus.rows))[0], lexicon=corpus.scaler.lexicon)
    wrong = corpus.rows.copy()
    for value in (-2, 0.5, 1e6):
        wrong[0, -1] = value
        with pytest.raises(InputError, match="numbers of words that are none of the"):
            fitted.decision_function(wrong)
    for method in ("decision_function", "embed", "read"):
        with pytest.raises(NotFittedError):
            getattr(clone(fitted), method)(corpus.rows)


def test_damaged_parts_and_wrong_parameters_are_refused(corpus: Corpus, fitted: CVDD) -> None:
    assert_damaged_parts_are_refused("detector", load_detector, fitted.to_part())

    def make(params: Any) -> None:
        CVDD(**params).fit(corpus.rows, lexicon=corpus.scaler.lexicon)

    assert_wrong_parameters_are_refused("detector 'cvdd'", CVDD, make)
