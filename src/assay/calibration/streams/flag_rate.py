"""Monitoring of flags: an alarm when more rows of a stream are flagged than a stated share of anomalies explains."""

from __future__ import annotations

import math

import numpy as np

from assay.arrays import Doubles, Flags
from assay.calibration.streams.martingale import LN_10
from assay.errors import ConfigError, InputError

_STEPS = 8


class FlagRate:
    """Tests whether the flags of a stream are explained by false alarms and a stated share of anomalies.

    A row is flagged if its rank ``1 + #{calibration scores >= score}`` among m calibration scores is at most l. Given
    the calibration rows, normal rows are then flagged independently of each other with some probability F, and over
    calibration rows ``F ~ Beta(l, m + 1 - l)`` (ties, where counted, only lower it). If each row is an anomaly with
    probability s, given all before it, the k flags of n rows have the probability ``L_s(k) = E[theta^k (1 -
    theta)^(n - k)]`` with ``theta = s + (1 - s) F``, where every anomaly is counted as flagged. The capital is the mean
    of ``L_s'(k) / L_s(k)`` over shares s' above the stated one, ``s + (1 - s) 2^-j`` for j = 1, ..., 8.

    **Guarantee.** If normal rows are exchangeable with the calibration rows, and each row of the stream is an anomaly
    with probability at most the stated share, given all before it, then ``P(an alarm is ever raised) <= 1 /
    threshold``, over calibration rows and stream. At exactly this share, with every anomaly flagged, the capital is a
    ratio of the probabilities of what was seen, a test martingale (Ville's inequality). It grows with every flag that
    is added, as the density of theta under a larger share, divided by that under the stated one, increases with theta.
    Fewer anomalies, or some that are not flagged, mean fewer flags and at no time a higher capital.

    F is uncertain, by about ``sqrt(eps (1 - eps) / m)``: a rise that is not well above this may never be noticed,
    however long the stream.

    Parameters
    ----------
    n_calibration : int
        Number m of calibration scores.
    rank : int
        Largest rank l that is flagged, from 1 to m; `floor((m + 1) eps)` where p <= eps is.
    share : float
        Stated share of anomalies, from 0 on and below 1.
    threshold : float
        Capital that raises the alarm, above 1; see `assay.calibration.streams.monitor.alarm_threshold`.

    Attributes
    ----------
    n_seen, n_flagged : int
    alarm : int or None
        Number of rows at the end of the update at which the capital first reached the threshold.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    def __init__(self, n_calibration: int, rank: int, *, share: float, threshold: float = 100.0) -> None:
        if not (1 <= rank <= n_calibration and 0 <= share < 1 and 1 < threshold < math.inf):
            raise ConfigError(
                f"flag rate: rank {rank!r} of {n_calibration!r} calibration rows, share {share!r}, threshold "
                f"{threshold!r}; give a rank from 1 to their number, a share from 0 on and below 1, a finite threshold "
                "above 1"
            )
        self.n_calibration, self.rank, self.share, self.threshold = n_calibration, rank, share, threshold
        self.n_seen = self.n_flagged = 0
        self.alarm: int | None = None

    @property
    def log10_value(self) -> float:
        """Logarithm to base 10 of the capital."""
        larger = self.share + (1 - self.share) / 2.0 ** np.arange(1, _STEPS + 1)
        shares = np.concatenate([[self.share], larger])
        logs = _log_likelihoods(self.n_calibration, self.rank, shares, self.n_flagged, self.n_seen - self.n_flagged)
        return float(_log_sums(logs[1:] - logs[0]) - math.log(_STEPS)) / LN_10

    def update(self, flags: Flags) -> float:
        """Process the flags of rows, bool of shape (n,), and return log10 of the capital after them.

        The capital is compared with the threshold at the end. The order of the flags makes no difference to it.

        Raises
        ------
        InputError
            The flags are not bool of shape (n,).
        """
        flags = np.asarray(flags)
        if flags.dtype != np.bool_ or flags.ndim != 1:
            raise InputError(f"flags are of {flags.dtype} and shape {flags.shape}; give bool of shape (n,)")
        self.n_seen += flags.size
        self.n_flagged += int(flags.sum())
        value = self.log10_value
        if self.alarm is None and value >= math.log10(self.threshold):
            self.alarm = self.n_seen
        return value


def _log_likelihoods(m: int, rank: int, shares: Doubles, flagged: int, clear: int) -> Doubles:
    """Return ``log E[theta^flagged (1 - theta)^clear]`` for ``theta = s + (1 - s) F`` and each share s.

    theta^flagged is a sum over the number j of flagged rows that are false alarms, and the moments of F are known.
    """
    from scipy.special import betaln, gammaln, xlog1py, xlogy

    j = np.arange(flagged + 1)
    moments = betaln(rank + j, m + 1 - rank + clear) - betaln(rank, m + 1 - rank)
    chosen = gammaln(flagged + 1) - gammaln(j + 1) - gammaln(flagged - j + 1)
    s = shares[:, None]
    return _log_sums(chosen + moments + xlogy(flagged - j, s) + xlog1py(j + clear, -s))


def _log_sums(logs: Doubles) -> Doubles:
    """Return log of the sum of the exponentials along the last axis."""
    most = logs.max(axis=-1, keepdims=True)
    return np.asarray(most[..., 0] + np.log(np.exp(logs - most).sum(axis=-1)))
