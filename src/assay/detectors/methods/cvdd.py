"""Context vector data description: which of several themes of normal documents a document is close to, by its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.arrays import Doubles, Singles
from assay.detectors.base import EpochProgress, check_rows, require_fitted
from assay.detectors.training.neural import DEVICE_ARGUMENTS, Fitting, NeuralDetector
from assay.errors import InputError, TrainingError
from assay.families import check_arrays, check_part, stored_parameters
from assay.networks.attention import ContextAttention, without_padding
from assay.parameters import Count, Members, NotNegative, NotNegativeRates, PositiveRates, Width
from assay.parts import Part

if TYPE_CHECKING:
    from assay.data.word_vectors import WordVectors

ALPHAS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
TOP_WORDS, NEAREST_DOCUMENTS = 10, 100
_VALUES_AT_ONCE = 2**22


@dataclass(kw_only=True, eq=False, repr=False)
class CVDD(NeuralDetector):
    """Context vector data description, for texts: distances of a document from themes of the training documents.

    Each of r attention heads reads the words of a document its own way, and compares what it read with a context
    vector; the score is the mean over the heads of the cosine distance, (1 - cos) / 2 (Ruff 2021, section 3.2, eq 3.2
    to 3.13). Contexts begin at the centres of k-means (k-means++ start) of the documents' mean word vectors, of unit
    length, and the sharpness alpha rises in five equal steps: 0, 1e-4, 1e-3, 1e-2, 1e-1.

    Differs from the thesis: places behind the last word are masked (the released code attends to them); the penalty
    of overlapping contexts is the sum of squares that eq 3.10 states, the mean in the released code; Adam's rate falls
    along half a cosine in place of one step at epoch 40, and gradients are not clipped (the training loop has one
    schedule for all detectors); alpha is annealed for every corpus, and nothing is chosen by test scores, as the thesis
    chooses the best context.

    Parameters
    ----------
    contexts_each : int
        r, the contexts and heads of each member.
    units : int
        d_a, the hidden width of the attention.
    orthogonality : float
        lambda, the weight of the penalty of overlapping contexts.
    annealed : bool
        Whether alpha rises; else it stays 0, which trains all contexts alike.
    epochs, batch_size, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`.

    Attributes
    ----------
    contexts_ : list of list of str
        The words of each context, those of the first member first: the ten that its head attends to most in the 100
        training documents nearest to it.
    """

    kind: ClassVar[str] = "cvdd"

    contexts_each: Count = 3
    units: Width = 150
    orthogonality: NotNegative = 1.0
    annealed: bool = True
    epochs: Count = 100
    batch_size: Count = 64
    learning_rate: PositiveRates = 1e-2
    weight_decay: NotNegativeRates = 0.5e-6
    members: Members = 3

    def fit(
        self,
        X: Singles,
        y: NDArray[Any] | None = None,
        *,
        progress: EpochProgress | None = None,
        checkpoint: Path | None = None,
        lexicon: WordVectors | None = None,
    ) -> Self:
        """Train on documents; see `NeuralDetector.fit`.

        Parameters
        ----------
        X : ndarray of float32, shape (n, p + places)
            Mean word vectors, then the numbers of the words, -1 behind the last one
            (`assay.data.documents.DocumentScaler` with ``sequences``).
        lexicon : WordVectors
            k words and their vectors, of length p.

        Raises
        ------
        TrainingError
            There is no lexicon, since the rows are no documents or a wrapper gives them; or fewer documents with words
            than contexts.
        """
        self.check()
        rows = check_rows(X)
        if lexicon is None:
            raise TrainingError(
                f"detector {self.kind!r} reads the words of texts, which it gets on a dataset of texts (assay ingest "
                "FILE --text COLUMN) and outside of wrappers"
            )
        self._lexicon = lexicon.vectors
        super().fit(rows, y, progress=progress, checkpoint=checkpoint)
        self._place_nothing(rows)
        self.contexts_ = self._top_words(rows, lexicon.words)
        return self

    def contexts(self) -> list[list[str]]:
        """Return the words of each context, those of the first member first, the most attended first."""
        require_fitted(self, "contexts_")
        return self.contexts_

    def read(self, X: Singles) -> tuple[Doubles, Doubles]:
        """Return how documents are read.

        Returns
        -------
        distances : ndarray of float64, shape (n, S r)
            d_k, from 0 to 1, of every context in the order of `contexts`; the score is their mean.
        attention : ndarray of float64, shape (n, S r, places)
            How each head weighs the words; 0 behind the last one.
        """
        require_fitted(self, "network_")
        places = self._places(check_rows(X, self.n_features_in_))
        n_contexts = self.members * self.contexts_each
        distances = np.zeros((len(places), n_contexts))
        attention = np.zeros((len(places), n_contexts, places.shape[1]))
        for start, chunk in self._chunks(places):
            with torch.inference_mode():
                weights = self.network_.attention(chunk)
                far = self.network_.distances(self.network_.embed(chunk, weights))
            end = start + chunk.shape[1]
            distances[start:end] = far.transpose(0, 1).reshape(end - start, n_contexts).numpy()
            by_head = weights.permute(1, 0, 3, 2).reshape(end - start, n_contexts, -1)
            attention[start:end, :, : chunk.shape[2]] = by_head.numpy()
        return distances, attention

    def embed(self, X: Singles) -> Singles:
        """Return what every member's heads read of documents, of unit length, shape (S, n, r p)."""
        require_fitted(self, "network_")
        places = self._places(check_rows(X, self.n_features_in_))
        codes = np.zeros((self.members, len(places), self.contexts_each * self._lexicon.shape[1]), dtype=np.float32)
        for start, chunk in self._chunks(places):
            with torch.inference_mode():
                embedded = self.network_.embed(chunk, self.network_.attention(chunk))
                unit = torch.nn.functional.normalize(embedded, dim=3)
            codes[:, start : start + chunk.shape[1]] = unit.flatten(2).numpy()
        return codes

    def to_part(self) -> Part:
        """Return parameters, word vectors and contexts."""
        part = super().to_part()
        return Part(part.kind, {**part.config, "contexts": self.contexts_}, part.arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the detector from its part."""
        params = stored_parameters(cls, without=DEVICE_ARGUMENTS)
        config: dict[str, Any] = {"params": params, "n_features": Count, "notes?": tuple[str, ...]}
        config |= {"contexts": tuple[tuple[str, ...], ...]}
        check_part(part, config, {"words": "float32 k p", "*": "float32 ..."})
        detector = cls(**part.config["params"])
        detector._lexicon = part.arrays["words"]
        if not detector._lexicon.size or part.config["n_features"] <= detector._lexicon.shape[1]:
            raise ValueError("its word vectors leave no column for words")
        with torch.device("meta"):  # shapes alone: a damaged part may name a network of any size
            state = detector._empty_network().state_dict()
        shapes = {name: " ".join(map(str, ("float32", *value.shape))) for name, value in state.items()}
        check_arrays(part, {**shapes, "nothing": f"{shapes['nothing']} in [0,1]"})
        network = detector._build(part.config["n_features"])
        network.load_state_dict({name: torch.tensor(array) for name, array in part.arrays.items()})
        detector._settle(network, part.config["n_features"], tuple(part.config.get("notes", ())))
        detector.contexts_ = [list(words) for words in part.config["contexts"]]
        if len(detector.contexts_) != detector.members * detector.contexts_each:
            raise ValueError(f"it names {len(detector.contexts_)} contexts, not those of all its members")
        return detector

    def _build(self, n_features: int) -> ContextAttention:
        network = self._empty_network()
        network.words.copy_(torch.tensor(self._lexicon))
        return network

    def _empty_network(self) -> ContextAttention:
        words, width = self._lexicon.shape
        return ContextAttention(self.members, words, width, self.units, self.contexts_each)

    def _train(self, fitting: Fitting) -> None:
        network = cast(ContextAttention, fitting.network)
        places = self._places(fitting.rows)
        places = places[places[:, 0] >= 0]
        self._start_contexts(network, fitting, places)
        steps = ALPHAS if self.annealed else ALPHAS[:1]

        def sharpen(epoch: int) -> None:
            network.alpha.fill_(steps[min((epoch + 1) * len(steps) // self.epochs, len(steps) - 1)])

        def loss(batch: Tensor) -> Tensor:
            return network.losses(without_padding(batch.long()), self.orthogonality)

        schedule = self._schedule(patience=None)
        fitting.run(loss, [places.astype(np.int32)], schedule, after_epoch=sharpen)

    def _start_contexts(self, network: ContextAttention, fitting: Fitting, places: NDArray[np.int64]) -> None:
        """Set the contexts to the centres of k-means of the documents' mean vectors, all of unit length."""
        from sklearn.cluster import KMeans

        sums = np.stack([self._lexicon[row[row >= 0]].sum(axis=0, dtype=np.float64) for row in places])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        means = sums / np.maximum(norms, np.finfo(np.float64).tiny)
        if (n_different := len(np.unique(means, axis=0))) < self.contexts_each:
            raise TrainingError(
                f"detector {self.kind!r}: {n_different} different training documents with known words; "
                f"{self.contexts_each} contexts need as many: give more texts, or lower contexts_each"
            )
        for member, stream in enumerate(fitting.streams):
            seed = int(stream.integers(2**31))
            centres = KMeans(self.contexts_each, n_init=1, random_state=seed).fit(means).cluster_centers_
            unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float64).tiny)
            with torch.no_grad():
                network.contexts.vectors[member] = torch.tensor(unit)

    def _place_nothing(self, rows: Singles) -> None:
        """Set the distance of documents without words: that beyond which as many of the others are as there are such.

        It stays 1, the largest one, where no training document is without words.
        """
        having = self._places(rows)[:, 0] >= 0
        if not having.all():
            distances = self._distances(self._places(rows[having]))
            scores = distances.reshape(len(distances), self.members, -1).mean(axis=2)
            limits = np.quantile(scores, having.mean(), axis=0).astype(np.float32)
            self.network_.nothing.copy_(torch.tensor(limits))

    def _top_words(self, rows: Singles, words: tuple[str, ...]) -> list[list[str]]:
        places = self._places(rows)
        distances, tops = self._distances(places), []
        for context, far in enumerate(distances.T):
            near = np.argsort(np.where(places[:, 0] >= 0, far, np.inf), kind="stable")[:NEAREST_DOCUMENTS]
            weights = np.zeros(len(words))
            is_word = places[near] >= 0
            _, attention = self.read(rows[near])
            np.add.at(weights, places[near][is_word], attention[:, context][is_word])
            most = np.argsort(-weights, kind="stable")[:TOP_WORDS]
            tops.append([words[place] for place in most if weights[place] > 0])
        return tops

    def _distances(self, places: NDArray[np.int64]) -> Doubles:
        """Return the distances of documents from every context, (n, S r)."""
        distances = np.zeros((len(places), self.members * self.contexts_each))
        for start, chunk in self._chunks(places):
            with torch.inference_mode():
                far = self.network_(chunk)
            distances[start : start + chunk.shape[1]] = far.transpose(0, 1).flatten(1).numpy()
        return distances

    def _places(self, rows: Singles) -> NDArray[np.int64]:
        """Return the numbers of words of checked rows, shape (n, places)."""
        words, width = self._lexicon.shape
        places = rows[:, width:]
        if not places.shape[1]:
            raise InputError(
                f"rows have {rows.shape[1]} columns; documents have those of words behind the {width} first"
            )
        if ((places < -1) | (places >= words) | (places != np.floor(places))).any():
            raise InputError(
                f"rows hold numbers of words that are none of the {words}; scale documents by their scaler"
            )
        return places.astype(np.int64)

    def _chunks(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each chunk of documents, and the chunk for every member, (S, some, places)."""
        width = max(self._lexicon.shape[1], self.units, 1)
        at_once = max(1, _VALUES_AT_ONCE // (places.shape[1] * width * self.members))
        for start in range(0, len(places), at_once):
            chunk = without_padding(torch.tensor(places[start : start + at_once]))
            yield start, chunk.expand(self.members, -1, -1)

    def _mean_scores(self, rows: Singles) -> Doubles:
        places, scores = self._places(rows), np.empty(len(rows))
        for start, chunk in self._chunks(places):
            with torch.inference_mode():
                far = self.network_(chunk).mean(dim=2).mean(dim=0)
            scores[start : start + chunk.shape[1]] = far.numpy()
        return scores
