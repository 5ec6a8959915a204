"""What is judged of rows whose columns mean little by themselves: pixels of large images, and words of texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from assay.arrays import Doubles
from assay.data.mapped import row_blocks
from assay.data.modalities.image import COLOURS
from assay.data.words import word_code

WORDS = "words"
IMAGE_SUMMARIES = ("mean", "contrast", "darkest", "lightest", "detail")


def image_summaries(features: Doubles, shape: Sequence[int]) -> Iterator[tuple[str, Doubles]]:
    """Yield, of images (n, d), what `IMAGE_SUMMARIES` name, each of shape (n,), and of colours the mean of each.

    Contrast is the standard deviation of an image's values; detail the mean difference of a pixel and the one below.
    """
    colours = COLOURS if len(shape) > 2 else ()
    names = [*IMAGE_SUMMARIES, *(f"mean{colour.replace('_', ' of ')}" for colour in colours)]
    columns = np.empty((len(names), len(features)))
    for block in row_blocks(features):
        with np.errstate(invalid="ignore"):  # an infinite pixel makes its image's summaries missing
            images = np.asarray(features[block]).reshape(
                -1, shape[0], shape[1], features.shape[1] // (shape[0] * shape[1])
            )
            of_all = [function(images, axis=(1, 2, 3)) for function in (np.mean, np.std, np.min, np.max)]
            of_all.append(
                np.abs(np.diff(images, axis=1)).mean(axis=(1, 2, 3)) if shape[0] > 1 else np.zeros(len(images))
            )
            columns[:, block] = [*of_all, *(images.mean(axis=(1, 2)).T if len(names) > len(of_all) else [])]
    yield from zip(names, columns, strict=True)


def text_summaries(features: Doubles, words: Sequence[str]) -> Iterator[tuple[str, Doubles]]:
    """Yield, of documents (n, d), the numbers of words, and the share of words in each script; NaN where there is none.

    A word's script is that of its first letter, by the first word of the letter's Unicode name: "LATIN", "CYRILLIC".
    """
    codes = np.array([word_code(word) for word in words])
    names = np.array([unicodedata.name(word[0], "UNKNOWN").split()[0].split("-")[0] for word in words], dtype=object)
    codes_of = {script: np.sort(codes[names == script]) for script in sorted(set(names))}
    columns = np.empty((1 + len(codes_of), len(features)))
    for block in row_blocks(features):
        rows = features[block]
        columns[0, block] = counts = (~np.isnan(rows)).sum(axis=1)
        for column, within in zip(columns[1:], codes_of.values(), strict=True):
            is_in_script = within[np.searchsorted(within, rows).clip(max=len(within) - 1)] == rows
            column[block] = is_in_script.sum(axis=1) / np.where(counts, counts, np.nan)
    yield from zip([WORDS, *(f"share of words in {script}" for script in codes_of)], columns, strict=True)
