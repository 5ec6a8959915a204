"""The modalities by name. A new one is one file, one line here and one test file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from assay.data.encoding import Encoder
from assay.data.modalities.base import Modality
from assay.data.modalities.image import Image
from assay.data.modalities.series import Series
from assay.data.modalities.tabular import TABULAR
from assay.data.null_models import NullModel
from assay.data.observed_mean import ObservedMean
from assay.data.scaling import Scaler
from assay.errors import DataError
from assay.families import Family
from assay.parts import Part

MODALITIES: dict[str, str | type[Modality]] = {
    "tabular": "assay.data.modalities.tabular:Tabular",
    "image": "assay.data.modalities.image:Image",
    "series": "assay.data.modalities.series:Series",
    "text": "assay.data.modalities.text:Text",
}


def modality_class(name: str) -> type[Modality]:
    """Import and return the class of a registered modality; an unknown name raises `DataError`."""
    if name not in MODALITIES:
        raise DataError(f"modality {name!r} is unknown; known: {', '.join(MODALITIES)}")
    registered = MODALITIES[name]
    if not isinstance(registered, str):
        return registered
    module, _, attribute = registered.partition(":")
    imported: type[Modality] = getattr(import_module(module), attribute)
    return imported


def modality_classes() -> Iterator[type[Modality]]:
    """Yield the class of each registered modality, imported when it is reached."""
    return map(modality_class, MODALITIES)


def modality_fields(modality: Modality) -> dict[str, Any]:
    """Return the keys of a modality in ``card.json`` and ``scorer.json``; ``image_shape`` is always among them."""
    shape = {} if modality.shape is None else {f"{modality.name}_shape": list(modality.shape)}
    return {"modality": modality.name, "image_shape": None, **shape}


def read_modality(fields: Mapping[str, Any]) -> Modality:
    """Return the modality that `modality_fields` describes.

    Raises
    ------
    DataError
        It is not registered.
    ConfigError
        Its shape is missing or not a shape.
    """
    name = fields["modality"]
    return modality_class(name)(_shape(fields.get(f"{name}_shape")))


def modality_of_network(image_shape: Sequence[int] | None, series_shape: Sequence[int] | None) -> Modality:
    """Return the modality that belongs to a detector's shape arguments (see `Modality.network_arguments`)."""
    if series_shape is not None:
        return Series(_shape(series_shape))
    return TABULAR if image_shape is None else Image(_shape(image_shape))


def load_scaler(part: Part) -> Scaler:
    """Rebuild a fitted scaler from its part.

    Raises
    ------
    ScorerError
        No modality has a scaler of that kind, or the part is damaged.
    """
    classes: dict[str, type[Scaler]] = {m.scaler_class.kind: m.scaler_class for m in modality_classes()}
    return Family[Scaler]("scaler", {**classes, Encoder.kind: Encoder}).load(part)


def load_null_model(part: Part) -> NullModel:
    """Rebuild a fitted null model from its part.

    Raises
    ------
    ScorerError
        No modality has a null model of that kind, or the part is damaged.
    """
    classes: dict[str, type[NullModel]] = {m.null_model_class.kind: m.null_model_class for m in modality_classes()}
    return Family[NullModel]("null model", {**classes, ObservedMean.kind: ObservedMean}).load(part)


def _shape(shape: Any) -> Any:
    """Return a shape from JSON as a tuple; any other value unchanged, for the modality to reject."""
    return tuple(shape) if isinstance(shape, list) else shape
