"""LeNet-type networks beside plain layers of torch, and the channels that choose them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.data.modalities.image import Image
from assay.data.modalities.tabular import TABULAR
from assay.detectors.base import Detector
from assay.detectors.registry import load_detector, make_detector
from assay.errors import ConfigError
from assay.networks.build import autoencoder
from assay.networks.encoders import decoder, encoder
from assay.networks.mlp import initialise
from assay.parts import Part, read_part, write_part

CHANNELS = [3, 2]
SHAPE = (9, 6, 3)  # odd, and in colour
BATCH = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 9 * 6 * 3))).float()
QUICK: dict[str, Any] = {"members": 2, "epochs": 2, "hidden": [], "latent_dim": 2, "channels": CHANNELS}
KINDS = ("autoencoder", "denoising_autoencoder", "vae", "rapp", "ncae", "contradicting")
ONE_CLASS = ("deep_svdd", "deep_sad", "hsc", "loe")


def drawn(network: nn.Module) -> nn.Module:
    initialise(network, [np.random.default_rng(member) for member in range(2)])
    return network.eval()


def module(state: dict[str, Tensor], name: str, member: int) -> nn.Conv2d:
    """A convolution of torch with the weights of one member."""
    weight, bias = state[f"{name}.weight"][member], state.get(f"{name}.bias")
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 5, padding=2, bias=bias is not None)
    layer.weight.data = weight
    if bias is not None and layer.bias is not None:
        layer.bias.data = bias[member]
    return layer


def test_an_autoencoder_is_that_of_the_thesis_in_plain_layers() -> None:
    """5x5 convolutions, each with leaky ReLU and a 2x2 maximum; the decoder doubles where the encoder halves."""
    network = drawn(autoencoder(2, 162, [], 2, SHAPE, CHANNELS))
    state, leaky = network.state_dict(), nn.LeakyReLU(0.1)
    for member in range(2):
        images = BATCH[member].reshape(4, 9, 6, 3).permute(0, 3, 1, 2)
        maps = nn.functional.pad(images, (0, 2, 0, 3))
        for name in ("down.0", "down.3"):
            maps = nn.functional.max_pool2d(leaky(module(state, name, member)(maps)), 2)
        codes = maps.flatten(1) @ state["encoder.0.weight"][member] + state["encoder.0.bias"][member]
        maps = (codes @ state["decoder.0.weight"][member] + state["decoder.0.bias"][member]).reshape(4, 2, 3, 2)
        for name in ("up.2", "up.5"):
            doubled = leaky(maps).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            maps = module(state, name, member)(doubled)
        expected = maps[:, :, :9, :6].permute(0, 2, 3, 1).flatten(1)
        torch.testing.assert_close(network(BATCH)[member], expected)


def test_an_encoder_has_no_bias_and_normalises_before_the_maximum() -> None:
    network = drawn(encoder(2, 162, [], 2, SHAPE, CHANNELS))
    assert [name for name, _ in network.named_parameters()] == ["down.0.weight", "down.4.weight", "dense.0.weight"]
    state, leaky = network.state_dict(), nn.LeakyReLU(0.1)
    maps = nn.functional.pad(BATCH[1].reshape(4, 9, 6, 3).permute(0, 3, 1, 2), (0, 2, 0, 3))
    for name in ("down.0", "down.4"):
        maps = module(state, name, 1)(maps) / (1 + 1e-4) ** 0.5  # the averages of a network that never trained
        maps = nn.functional.max_pool2d(leaky(maps), 2)
    torch.testing.assert_close(network(BATCH)[1], maps.flatten(1) @ state["dense.0.weight"][1])


@pytest.mark.parametrize("channels", [[3], [3, 2], [4, 3, 2]])
def test_a_decoder_makes_images_of_the_size_and_is_equivariant_to_scale(channels: list[int]) -> None:
    network = drawn(decoder(2, 144, [5], 2, (8, 18), channels))
    codes = torch.ones(2, 3, 2)
    assert network(codes).shape == (2, 3, 144)
    torch.testing.assert_close(network(4 * codes), 4 * network(codes))  # no bias anywhere


@pytest.mark.parametrize("kind", [*KINDS, *ONE_CLASS])
def test_every_detector_of_images_trains_stores_and_loads_them(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(size=(40, 64)).astype(np.float32)
    labels = np.where(np.arange(40) < 6, 1, -1).astype(np.int8)
    detector = made(kind)
    detector.fit(rows, labels if detector.uses_labels else None)
    part = detector.to_part()
    assert part.config["params"]["channels"] == CHANNELS
    write_part(tmp_path, "detector", part)
    loaded = load_detector(read_part(tmp_path, "detector"))
    scores = detector.decision_function(rows)
    np.testing.assert_array_equal(loaded.decision_function(rows), scores)
    np.testing.assert_array_equal(loaded.decision_function(rows[7:8]), scores[7:8])


def made(kind: str) -> Detector:
    quick = QUICK | ({"pretrain_epochs": 1} if kind in ONE_CLASS else {}) | ({"warm_up": 1} if kind == "ncae" else {})
    return make_detector(kind, quick, seed=0, device="cpu", modality=Image((8, 8)))


def test_the_part_of_a_network_without_channels_is_that_of_before_there_were_any() -> None:
    rows = np.random.default_rng(0).uniform(size=(20, 64)).astype(np.float32)
    without = {name: value for name, value in QUICK.items() if name != "channels"}
    part = make_detector("autoencoder", without, seed=0, device="cpu", modality=Image((8, 8))).fit(rows).to_part()
    assert "channels" not in part.config["params"]
    again: Detector = load_detector(Part(part.kind, part.config, part.arrays))
    assert again.get_params()["channels"] == ()


@pytest.mark.parametrize(
    ("channels", "modality", "message"),
    [
        ([8, 4], TABULAR, r"channels is \[8, 4\], but the rows are no images"),
        (
            [8, 4, 4, 4],
            Image((8, 8)),
            "channels has 4 numbers, each of which halves .* 8 x 8",
        ),
        ([0], Image((8, 8)), "channels is .* it must be a list of integers from 1"),
    ],
)
@pytest.mark.parametrize("kind", ["autoencoder", "deep_svdd"])
def test_channels_that_do_not_fit_are_refused(kind: str, channels: list[int], modality: Any, message: str) -> None:
    rows = np.random.default_rng(0).uniform(size=(20, 64)).astype(np.float32)
    with pytest.raises(ConfigError, match=message):
        make_detector(kind, {"channels": channels}, seed=0, device="cpu", modality=modality).fit(rows)
