"""The test rows with the highest scores, and why they have them, for a run's report."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.data.dataset import RowSet
from assay.data.documents import DocumentScaler

if TYPE_CHECKING:
    from assay.scorer.scorer import Scorer

MOST_SUSPECTS, NAMED = 8, 3
MOST_SCORED, MOST_EXPLAINED_PIECES = 20_000, 300


def suspected_rows(test: RowSet, scorer: Scorer) -> list[str]:
    """Return the names of the rows with the highest scores, with what raises each score.

    None for very wide rows; of very many rows those of the first 20,000.
    """
    from assay.scorer.batch import named_pieces
    from assay.scorer.explaining import Normals, pieces_of
    from assay.scorer.explaining_words import read_documents

    if not isinstance(scorer.reference.strata, Normals) or pieces_of(scorer.head).max() >= MOST_EXPLAINED_PIECES:
        return []
    if scorer.categories is not None:  # rows of others are not compared
        test = test.take(test.rows["category"].isin(scorer.categories).to_numpy())
    function, test = scorer.function, test.take(np.arange(min(len(test), MOST_SCORED)))
    top = test.take(np.argsort(-function(test.features), kind="stable")[:MOST_SUSPECTS])
    if isinstance(function.scaler, DocumentScaler):
        documents = read_documents(function.detector, function.scaler, function, top.features)
        whys = [document.sentence(NAMED) for document in documents]
    else:
        categories = top.rows["category"].to_numpy(dtype=object) if scorer.categories is not None else None
        explained = scorer.explain_scored(function.scored(top.features, categories, top.rows["row_id"].to_numpy()))
        whys = [named_pieces(scorer, shares, NAMED) for shares in explained.shares]
    return [f"{name} ({why})" for name, why in zip(top.rows["row_id"], whys, strict=True)]


def suspected_images(test: RowSet, scorer: Scorer) -> tuple[list[str], str]:
    """Return the names of the images with the highest scores, and the picture of these and of their heat maps."""
    from assay.evaluation.pictures import heat_map_picture

    top = test.take(np.argsort(-scorer.decision_function(test.features), kind="stable")[:MOST_SUSPECTS])
    heat_maps = scorer.heat_maps(top.features)
    return top.rows["row_id"].tolist(), picture_source(
        heat_map_picture(top.features.reshape(*heat_maps.shape, -1), heat_maps)
    )


def picture_source(figure: Any) -> str:
    """Return a picture as the source of an image of a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
