"""The normality-calibrated autoencoder: training on rows with an unknown subset of anomalies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn.functional import softplus

from assay.arrays import Doubles, Flags, Singles
from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.training.loop import pinned_threads
from assay.detectors.training.neural import NETWORK_ROWS, Fitting
from assay.detectors.training.updates import Step
from assay.errors import TrainingError
from assay.networks.adversarial import CalibrationGame, place_codes
from assay.networks.build import Coder
from assay.networks.mlp import initialise
from assay.parameters import Count, PositiveRates, Share

CENTRE = 3.0
MEAN_RATE = 0.01
SAMPLES = 256
SAMPLE_SEED = 0
MOST_TAU = 0.5
_LEAST_SPREAD, _LEAST_VARIETY = 0.01, 0.01
_TINY = 1e-9
_MOST_FITTED, _START, _ROUNDS, _LEAST_VARIANCE, _GRID, _DIP = 2_000, 0.1, 100, 0.01, 101, 0.8


@dataclass(kw_only=True, eq=False, repr=False)
class NormalityCalibratedAutoencoder(Autoencoder):
    """Autoencoder that learns to reconstruct suspect training rows as normal ones (NCAE, Yu et al. 2023).

    The decoder makes samples of normality from codes near the mean code, w ~ N(mean, sigma I), against a discriminator
    of samples (eq 6). In every batch the ceil(tau m) rows whose codes are least like those of the
    samples (mean cosine, eq 7) are treated as contaminated: the autoencoder is trained to reconstruct them as the mean
    sample, and all other rows as themselves (eq 3 and 8a), while a discriminator of codes (eq 4) draws the codes
    towards N(mean, I). The score is the mean squared reconstruction error, averaged over the members.

    It assumes that training rows are contaminated. On clean data it treats normal rows as contaminated and learns to
    reconstruct them badly.

    Differs from the paper:

    * A plain autoencoder is trained first (`warm_up`), and its codes are then mapped linearly, decoder included, to
      mean (3, ..., 3) and covariance I. Cosines depend on where the origin lies, which no loss of the paper
      determines; after the map they measure the distance from the mean code. Without it the codes have far too small
      a variance at first, and the code discriminator drives the encoder to one code for all rows.
    * The lowest similarities are selected (the text of section 3.3 sorts in the other direction); a contaminated
      row's *reconstruction* is drawn to the mean sample, which gets no gradient (eq 8a as printed contains no
      reconstruction).
    * The decoder's two losses are one step, as in eq 8, instead of two as in algorithm 1: a separate step
      of Adam has the size of the learning rate, however small the loss. Generators minimise -log D, not log(1 - D).
    * `tau` can be found from the data; the learning rate starts at 1e-3, not 0.01, and falls along half a cosine.
    * The running mean of the codes moves by .01 of the way to each batch's mean throughout. The gamma of eq 5 is the
      learning rate of algorithm 1, .01 at first, which falls by a factor of ten every ten epochs: the mean stops moving
      while the codes go on.
    * The leaky ReLUs of the image autoencoder have slope .01 (the paper: .1), those of the discriminators .2 (the
      paper does not say); hidden layers for other rows are bounded (tanh), and their widths are 64-32-8 (the paper:
      32-16-8).

    Parameters
    ----------
    tau : float or "auto"
        Share of each batch that is treated as contaminated, from 0 to 0.5. "auto": the share of rows in a second
        mode of suspicion, estimated after every epoch (see `second_mode`): 0 on clean rows, but also for scattered
        contaminants, so that it is conservative.
    sigma : float
        Variance (not standard deviation) of the codes that samples are made from.
    warm_up : int
        Epochs of the plain autoencoder before adversarial training.
    hidden, latent_dim
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    epochs : int
        Epochs of adversarial training.
    batch_size, learning_rate, weight_decay
        See `assay.detectors.training.loop.Schedule`; no rows are held out.
    members : int
        S, the number of autoencoders, which differ by their random streams.
    max_steps : int, optional
        So many steps are the most, in either phase; None: as many as the epochs have.
    channels, image_shape, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.

    Attributes
    ----------
    suspicion_ : ndarray of float32, shape (n,)
        log(1 - similarity) of the training rows, the similarity averaged over the epochs of adversarial training
        and the members; not stored.
    suspects_ : ndarray of bool, shape (n,)
        The share tau of them with the highest suspicion, but for those labelled normal; not stored.
    tau_ : float
        That share.
    """

    kind: ClassVar[str] = "ncae"
    usual_steps: ClassVar[tuple[int | None, int | None]] = (None, None)

    tau: Literal["auto"] | Annotated[float, Ge(0), Le(MOST_TAU)] = 0.1
    sigma: Share = 0.1
    warm_up: Count = 50
    epochs: Count = 100
    learning_rate: PositiveRates = 1e-3

    def _total_epochs(self) -> int:
        return self.warm_up + self.epochs

    def _train(self, fitting: Fitting) -> None:
        self._reconstruct_all(fitting)
        game = self._start(fitting)
        rows = torch.tensor(fitting.rows, device=fitting.compute.device)
        noise = _fixed_noise(self.latent_dim).to(fitting.compute.device)

        def after_epoch(epoch: int) -> None:
            game.total += _similarities(game, rows, noise)
            if self.tau == "auto":
                game.tau.copy_(_second_modes(game, epoch + 1))

        unverified = fitting.labels != 0
        fitting.run(
            steps(game),
            [fitting.rows, *([] if unverified.all() else [unverified])],
            self._schedule(patience=None),
            network=game,
            finished=self.warm_up,
            noise=self.latent_dim,
            after_epoch=after_epoch,
        )
        self._conclude(game, fitting)

    def _reconstruct_all(self, fitting: Fitting) -> None:
        coder: Any = fitting.network

        def loss(batch: Tensor) -> Tensor:
            errors: Tensor = (coder(batch) - batch).square()
            return errors.mean(dim=2)

        fitting.run(loss, [fitting.rows], self._schedule(epochs=self.warm_up, patience=None))

    def _start(self, fitting: Fitting) -> CalibrationGame:
        """Place the codes of the trained autoencoder and set up its discriminators."""
        coder = cast(Coder, fitting.network)
        rows = torch.tensor(fitting.rows)
        shape = None if self.image_shape is None else tuple(map(int, self.image_shape))
        with torch.no_grad(), pinned_threads():
            codes = _codes(coder, rows, self.members)
            self._require_spread(codes, _TINY)
            place_codes(coder, codes, CENTRE)
            game = CalibrationGame(coder, self.members, rows.shape[1], self.latent_dim, shape, len(rows), self.sigma)
            game.mean.copy_(_codes(coder, rows, self.members).mean(dim=1, keepdim=True))
            similarities = _similarities(game, rows, _fixed_noise(self.latent_dim))
        initialise(game.latent_critic, fitting.streams)
        initialise(game.sample_critic, fitting.streams)
        if self.tau == "auto":
            game.total += similarities
            game.tau.copy_(_second_modes(game, 1))
            game.total.zero_()
        else:
            game.tau.fill_(float(self.tau))
        return game

    def _conclude(self, game: CalibrationGame, fitting: Fitting) -> None:
        """Check the result of adversarial training and store suspicion and suspects of the training rows."""
        rows = torch.tensor(fitting.rows)
        with torch.no_grad(), pinned_threads():
            self._require_spread(_codes(game.coder, rows, self.members), _LEAST_SPREAD)
            samples = game.samples(_fixed_noise(self.latent_dim).expand(self.members, -1, -1))
            variety = samples.std(dim=1).mean(dim=1) / rows.std(dim=0).mean()
        if float(variety.min()) < _LEAST_VARIETY:
            fitting.notes.append(
                "generator collapse: the samples of normality are all alike (spread "
                f"{float(variety.min()):.1g} of the rows'), so rows were compared with a single one"
            )
        self.tau_ = float(game.tau.mean())
        epochs = self._schedule().within(-(-len(fitting.rows) // self.batch_size)).epochs
        self.suspicion_: Singles = _suspicion(game, epochs).mean(axis=0).astype(np.float32)
        self.suspects_: Flags = np.zeros(len(rows), dtype=np.bool_)
        self.suspects_[np.argsort(-self.suspicion_, kind="stable")[: math.ceil(self.tau_ * len(rows) - _TINY)]] = True
        self.suspects_ &= fitting.labels != 0

    def _require_spread(self, codes: Tensor, least: float) -> None:
        """Raise `TrainingError` if a member's codes (S, n, k) hardly differ."""
        spread = codes.std(dim=1).mean(dim=1)
        if float(spread.min()) < least:
            raise TrainingError(
                f"the encoder of member {int(spread.argmin())} maps all training rows to almost one code (standard "
                f"deviation {float(spread.min()):.1g}): check that the rows differ, or lower learning_rate "
                f"(now {self.learning_rate}) or weight_decay (now {self.weight_decay})"
            )


def steps(game: CalibrationGame) -> list[Step]:
    """Return the updates within each batch: both discriminators, then the autoencoder.

    Their losses get rows (S, m, d), where some are known to be normal which are not (S, m), and standard normals
    (S, m, latent_dim), and return (S, m).
    """
    coder = game.coder

    def sample_critic_loss(x: Tensor, *given: Tensor) -> Tensor:
        """Loss of the discriminator of samples (eq 6)."""
        with torch.no_grad():
            samples = game.samples(given[-1])
        return _discrimination(game.sample_critic(x), game.sample_critic(samples))

    def code_critic_loss(x: Tensor, *given: Tensor) -> Tensor:
        """Loss of the discriminator of codes (eq 4)."""
        with torch.no_grad():
            codes = coder.encode(x)
        return _discrimination(game.latent_critic(game.mean + given[-1]), game.latent_critic(codes))

    def autoencoder_loss(x: Tensor, *given: Tensor) -> Tensor:
        """Loss of the autoencoder (eq 8): (a) + (b) reach the encoder, (a) + (c) the decoder."""
        codes, samples = coder.encode(x), game.samples(given[-1])
        with torch.no_grad():
            suspect = lowest(game.similarity(codes, samples), game.tau)
            suspect = suspect & given[0] if len(given) > 1 else suspect
            target = torch.where(suspect.unsqueeze(2), samples.mean(dim=1, keepdim=True), x)
            game.mean.lerp_(codes.mean(dim=1, keepdim=True).to(game.mean.dtype), MEAN_RATE)
        error = (coder.decode(codes) - target).square().sum(dim=2)
        return error + _deception(game.latent_critic(codes)) + _deception(game.sample_critic(samples))

    return [
        Step(sample_critic_loss, list(game.sample_critic.parameters())),
        Step(code_critic_loss, list(game.latent_critic.parameters())),
        Step(autoencoder_loss, list(coder.parameters())),
    ]


def lowest(similarity: Tensor, tau: Tensor) -> Tensor:
    """Return which ceil(tau m) rows of each batch have the lowest similarity: (S, m) and (S,) -> bool (S, m)."""
    ranks = similarity.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < (tau * similarity.shape[1] - _TINY).ceil().unsqueeze(1)


def second_mode(suspicion: Doubles) -> float:
    """Return the share of rows in a second mode of suspicion, above the first; 0 if there is none.

    A mixture of two Gaussians is fitted (expectation maximisation from the top tenth). Of more than 2,000 rows it takes
    at most that many, evenly spaced by rank, so that the order of the rows does not matter. The mixture has a second
    mode if its density between the means falls below 0.8 times the smaller of its values at the means. Neither a long
    tail nor scattered contaminants are a second mode: for those the share is 0.

    Parameters
    ----------
    suspicion : ndarray of shape (n,)
    """
    ordered = np.sort(suspicion)
    spread = float(ordered.std())
    if spread < _TINY:
        return 0.0
    step = math.ceil(len(ordered) / _MOST_FITTED)
    values = ((ordered - ordered.mean()) / spread)[step // 2 :: step]
    upper = (values >= np.quantile(values, 1 - _START)).astype(np.float64)
    for _ in range(_ROUNDS):
        shares = np.stack([1 - upper, upper])
        weights = shares.mean(axis=1)
        if weights.min() < _TINY:
            return 0.0
        means = (shares * values).mean(axis=1) / weights
        moved = values - means[:, None]
        variances = np.maximum((shares * moved**2).mean(axis=1) / weights, _LEAST_VARIANCE)
        densities = _densities(values, weights, means, variances)
        upper = densities[1] / np.maximum(densities.sum(axis=0), np.finfo(np.float64).tiny)
    between = _densities(np.linspace(means[0], means[1], _GRID), weights, means, variances).sum(axis=0)
    apart = means[0] < means[1] and between.min() < _DIP * min(between[0], between[-1])
    return float(weights[1]) if apart and weights[1] <= MOST_TAU else 0.0


def _second_modes(game: CalibrationGame, epochs: int) -> Tensor:
    """Return each member's share of rows in a second mode of suspicion, of shape (S,)."""
    return torch.tensor([second_mode(suspicion) for suspicion in _suspicion(game, epochs)])


def _densities(values: Doubles, weights: Doubles, means: Doubles, variances: Doubles) -> Doubles:
    """Return the weighted densities of two Gaussians, without the common constant, of shape (2, n)."""
    moved = values - means[:, None]

    densities: Doubles = (weights / np.sqrt(variances))[:, None] * np.exp(-(moved**2) / (2 * variances[:, None]))
    return densities


def _discrimination(real: Tensor, generated: Tensor) -> Tensor:
    """Return -log D(real) - log(1 - D(made)) of logits (S, m, 1), of shape (S, m)."""
    return (softplus(-real) + softplus(generated)).squeeze(2)


def _deception(generated: Tensor) -> Tensor:
    """Return -log D(made) of logits (S, m, 1), of shape (S, m)."""
    return softplus(-generated).squeeze(2)


def _fixed_noise(latent_dim: int) -> Tensor:
    """Return the standard normals for the samples that all training rows are compared with."""
    rng = np.random.default_rng(SAMPLE_SEED)
    return torch.from_numpy(rng.standard_normal((1, SAMPLES, latent_dim), dtype=np.float32))


def _codes(coder: Coder, rows: Tensor, members: int) -> Tensor:
    """Return the codes of rows (n, d), of shape (S, n, latent_dim)."""
    parts = [coder.encode(part.expand(members, -1, -1)) for part in rows.split(NETWORK_ROWS)]  # type: ignore[no-untyped-call]
    return torch.cat(parts, dim=1)


def _similarities(game: CalibrationGame, rows: Tensor, noise: Tensor) -> Tensor:
    """Return the similarity of all rows (n, d) to samples of the given noise (1, m, latent_dim), of shape (S, n)."""
    members = len(game.mean)
    samples = game.samples(noise.expand(members, -1, -1))
    return game.similarity(_codes(game.coder, rows, members), samples)


def _suspicion(game: CalibrationGame, epochs: int) -> Doubles:
    """Return log(1 - similarity) of the training rows, averaged over so many epochs, of shape (S, n)."""
    away = 1 - game.total.double().cpu().numpy() / epochs

    suspicion: Doubles = np.log(np.maximum(away, _TINY))
    return suspicion
