"""What can be wrong with a part, and with a parameter: whatever is registered, in whatever family, is tried with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from assay.errors import ConfigError, ScorerError
from assay.parameters import parameters_of
from assay.parts import Part

ODD = {"odd": [None]}  # no setting may be that
WRONG = (ODD, -1, float("nan"), float("inf"), "odd", b"odd", [[]], object())


def assert_damaged_parts_are_refused(noun: str, load: Callable[[Part], Any], part: Part) -> None:
    """Assert that a part is loaded, and that one error says what is wrong with each damaged copy of it."""
    load(part)
    for what, damaged in damaged_parts(part):
        with pytest.raises(ScorerError) as caught:
            load(damaged)
        said = str(caught.value)
        assert "damaged" in said, (what, said)
        assert noun in said, (what, said)
        assert what.rpartition(".")[2] in said, (what, said)
        assert "\n" not in said, (what, said)


def damaged_parts(part: Part) -> Iterator[tuple[str, Part]]:
    """Yield copies with one damage each, and a word that the error must hold."""
    for kind in ("os.system", None, ["knn"]):
        yield "unknown", Part(kind, part.config, part.arrays)  # type: ignore[arg-type]
    for config in (None, [], "text", [part.config]):
        yield part.kind, Part(part.kind, config, part.arrays)  # type: ignore[arg-type]
    for name, config in _damaged_settings(part.config):
        yield name, Part(part.kind, config, part.arrays)
    for name, array in part.arrays.items():
        others = {other: kept for other, kept in part.arrays.items() if other != name}
        yield "array", Part(part.kind, part.config, others)
        for dtype, shape in ((np.float16, array.shape), (np.complex64, array.shape), (array.dtype, (1, *array.shape))):
            bad = np.zeros(shape, dtype)
            yield "array", Part(part.kind, part.config, {**others, name: bad})
    yield "array", Part(part.kind, part.config, {**part.arrays, "odd": np.zeros(1)})


def crafted_parts(part: Part) -> Iterator[tuple[str, Part]]:
    """Yield copies in which one number of an array, or its length, is another one."""
    for name, array in part.arrays.items():
        changed = [] if array.ndim == 0 else [("empty", array[:0]), ("one less", array[:-1])]
        if array.size:
            limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
            for value in (0, -1, limits.max, limits.min) if limits else (np.nan, np.inf, -np.inf, 0, -1):
                crafted = array.copy()
                crafted.reshape(-1)[0] = value
                changed.append((str(value), crafted))
        for what, new in changed:
            yield f"{name} {what}", Part(part.kind, part.config, {**part.arrays, name: new})


def _damaged_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in config.items():
        if name not in ("notes", "precision"):  # which parts may lack
            yield name, {other: kept for other, kept in config.items() if other != name}
        yield name, {**config, name: ODD}
        if name == "params":
            for inner, damaged in _damaged_settings(value):
                yield inner, {**config, name: damaged}
    yield "odd", {**config, "odd": 1}


def assert_wrong_parameters_are_refused(who: str, cls: type, make: Callable[[Mapping[str, Any]], Any]) -> None:
    """Assert that every wrong value of every parameter is named, with what is allowed."""
    for name, one in parameters_of(cls).items():
        for value in WRONG:
            with pytest.raises(ConfigError) as caught:
                make({name: value})
            said = str(caught.value)
            if "there is no detector" not in said:  # a wrapper may hold anything that has a name
                assert f"{who}: {name} is {value!r}; it must be {one.text}" == said
        if one.text != "true or false":
            with pytest.raises(ConfigError):
                make({name: True})
