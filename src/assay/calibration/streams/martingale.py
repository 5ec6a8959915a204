"""Test martingales: bets against p-values being independent and uniform."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Protocol, Self

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from assay.arrays import Doubles
from assay.errors import ConfigError, InputError
from assay.families import Family, Head, check_part, inner_part
from assay.parameters import Whole, check_share
from assay.parts import Array, Part

_BLOCK_ROWS = 16384
LN_10 = math.log(10)
_SMALLEST = float(np.finfo(np.float64).tiny)


class Martingale(Protocol):
    """A capital that starts at 1 and bets on p-values one after the other.

    While the p-values are independent and uniform, ``P(the capital ever reaches c) <= 1/c`` (Ville's inequality).
    """

    @property
    def log10_value(self) -> float:
        """Logarithm to base 10 of the capital."""
        ...

    def update(self, p_values: Doubles) -> Doubles:
        """Bet on p-values of shape (n,); returns the log10 capital after each, shape (n,)."""
        ...

    def fresh(self) -> Self:
        """Return a new martingale with the same parameters and capital 1."""
        ...

    def to_part(self) -> Part:
        """Return parameters and state as a part."""
        ...

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the martingale that `to_part` described, in the same state to the last bit."""
        ...


class SimpleJumper:
    """The Simple Jumper martingale: its capital is spread over three bets and jumps between them.

    The elementary bets are ``f_e(p) = 1 + e (p - 1/2)`` for e in {-1, 0, 1}; before each p-value, the share
    `jump` of the capital is redistributed evenly over them (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson,
    Gammerman 2021, `Retrain or not retrain: conformal test martingales for change-point detection`,
    algorithm 1; Vovk, Gammerman, Shafer 2022, section 8.1). The capital grows if p-values are too small or too
    large on average; no bet pays off if their mean is within about 1/24 of 1/2.

    Differs from the paper: half of the capital starts in a reserve that flows into the bets gradually (see `reserve`).
    This is a mixture over starting times of betting, and thus also a martingale. Without the reserve the capital falls
    by about 18 orders of magnitude in 10,000 rows without a change, which an alarm would first have to regain.

    The capital cannot overflow or underflow: its logarithm and the shares of the bets are stored.

    Parameters
    ----------
    jump : float
        Share that is redistributed, between 0 and 1.

    Raises
    ------
    ConfigError
        The parameter is out of range.
    """

    def __init__(self, jump: float = 0.01) -> None:
        if not 0 <= jump <= 1:
            raise ConfigError(f"simple_jumper: jump is {jump!r}; it must lie between 0 and 1 (for instance 0.01)")
        self.jump = jump
        self._n = 0
        self._log = 0.0
        self._shares = (1 / 6, 1 / 6, 1 / 6, 1 / 2)

    @property
    def log10_value(self) -> float:
        """Logarithm to base 10 of the capital."""
        return self._log / LN_10

    def update(self, p_values: Doubles) -> Doubles:
        """Bet on p-values; see `Martingale.update`.

        Raises
        ------
        InputError
            A p-value is not between 0 and 1.
        """
        path = []
        small, none, large, idle = self._shares
        n, log, kept = self._n, self._log, 1 - self.jump
        reserved = reserve(n)
        for p in check_p_values(p_values).tolist():
            n += 1
            last_reserved, reserved = reserved, reserve(n)
            released = idle * (1 - reserved / last_reserved)
            spread = (self.jump * (small + none + large) + released) / 3
            small = (kept * small + spread) * (1.5 - p)
            none = kept * none + spread
            large = (kept * large + spread) * (0.5 + p)
            idle -= released
            # Shares are normalised to 1 and the gain is added to the logarithm, so that nothing can overflow.
            gain = small + none + large + idle
            small, none, large, idle = small / gain, none / gain, large / gain, idle / gain
            log += math.log(gain)
            path.append(log)
        self._n, self._log, self._shares = n, log, (small, none, large, idle)
        return np.array(path, dtype=np.float64) / LN_10

    def fresh(self) -> Self:
        """Return a new martingale with the same `jump`."""
        return type(self)(self.jump)

    def to_part(self) -> Part:
        """Return `jump`, the number of p-values, the shares of the bets and the log capital as a part."""
        config = {"jump": self.jump, "n": self._n}
        return Part("simple_jumper", config, {"state": np.array([*self._shares, self._log])})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the martingale that `to_part` described."""
        check_part(part, {"jump": Annotated[float, Ge(0), Le(1)], "n": Whole}, {"state": "float64 5"})
        martingale = cls(part.config["jump"])
        martingale._n = part.config["n"]
        small, none, large, idle, martingale._log = part.arrays["state"].tolist()
        martingale._shares = (small, none, large, idle)
        return martingale


class Power:
    """Mixture of power martingales: bets ``f_e(p) = e p^(e - 1)``, which pay off on small p-values.

    The capital is a mean over e of ``prod_i e p_i^(e - 1)`` (Vovk, Gammerman, Shafer 2022, section 8.1). Small
    p-values pay more than with `SimpleJumper`, large ones do not pay off.

    Differs from the paper: e is mixed over the grid 0.05, 0.10, ..., 0.95 instead of an integral, so that every row
    takes the same time; half of the capital starts in a reserve, as with `SimpleJumper`; and p-values below
    the smallest normal float count as that float, which can only lower the capital.

    With F_n(e) the product above, the capital of bet e is ``F_n(e) a_n(e)``. Here ``a_n`` is the sum over rows i of the
    deposit before row i divided by ``F_{i-1}(e)``, and ``log F_n(e) = n log e + (e - 1) sum log p_i``.
    """

    GRID = np.arange(1, 20) / 20

    def __init__(self) -> None:
        self._n = 0
        self._log_sum = 0.0
        self._deposits = np.full(self.GRID.size, math.log((1 - reserve(0)) / self.GRID.size))

    @property
    def log10_value(self) -> float:
        """Logarithm to base 10 of the capital."""
        factors = _log_factors(self.GRID, np.array([self._n]), np.array([self._log_sum]))
        return float(_log10_total(factors + self._deposits, [reserve(self._n)])[0])

    def update(self, p_values: Doubles) -> Doubles:
        """Bet on p-values; see `SimpleJumper.update`."""
        logs = [math.log(max(p, _SMALLEST)) for p in check_p_values(p_values).tolist()]
        # Blocks bound the memory: a bet holds arrays of 19 columns.
        blocks = [self._bet(logs[start : start + _BLOCK_ROWS]) for start in range(0, len(logs), _BLOCK_ROWS)]
        return np.concatenate([np.empty(0), *blocks])

    def _bet(self, logs: list[float]) -> Doubles:
        n = self._n + np.arange(len(logs) + 1)
        sums = np.cumsum([self._log_sum, *logs])
        reserves = [reserve(i) for i in n.tolist()]
        released = [math.log((a - b) / self.GRID.size) for a, b in pairwise(reserves)]
        factors = _log_factors(self.GRID, n, sums)
        added = np.array(released)[:, None] - factors[:-1]
        deposits = np.logaddexp.accumulate(np.concatenate([self._deposits[None], added]))
        self._n, self._log_sum, self._deposits = int(n[-1]), float(sums[-1]), deposits[-1]
        return _log10_total(factors[1:] + deposits[1:], reserves[1:])

    def fresh(self) -> Self:
        """Return a new martingale."""
        return type(self)()

    def to_part(self) -> Part:
        """Return the number of p-values, the sum of their logarithms and the scaled deposits as a part."""
        return Part("power", {"n": self._n}, {"state": np.array([self._log_sum, *self._deposits])})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the martingale that `to_part` described."""
        check_part(part, {"n": Whole}, {"state": f"float64 {cls.GRID.size + 1}"})
        martingale = cls()
        martingale._n, state = part.config["n"], part.arrays["state"]
        martingale._log_sum, martingale._deposits = float(state[0]), state[1:].copy()
        return martingale


class LargePValues:
    """A martingale that bets on the p-values above a share only, rescaled to 0 to 1: anomalies alone are no drift.

    Under exchangeability, ``(p - share) / (1 - share)`` of the p-values with p > share are independent and uniform, so
    that Ville's inequality holds as before. The rows with the smallest p-values, the highest scores, are passed over,
    whether they are many or few. While anomalies in the stream score above the normal rows and are at most this share
    of them, the others keep uniform p-values: a rise of anomalies raises no alarm, a drift of normal rows does.
    Anomalies that score among normal rows, or more of them than the share, are a drift like any other.

    Parameters
    ----------
    martingale : Martingale, optional
        It bets on the rescaled p-values; by default a new `SimpleJumper`.
    share : float
        Between 0 and 1, both excluded.

    Raises
    ------
    ConfigError
        The share is out of range.
    """

    def __init__(self, martingale: Martingale | None = None, share: float = 0.1) -> None:
        self.share = check_share(share, "large_p_values: share")
        self._inner = martingale or SimpleJumper()

    @property
    def log10_value(self) -> float:
        """Logarithm to base 10 of the capital."""
        return self._inner.log10_value

    def update(self, p_values: Doubles) -> Doubles:
        """Bet on p-values; see `SimpleJumper.update`. The capital stays as it is where p is at most the share."""
        p = check_p_values(p_values)
        large = p > self.share
        before = self.log10_value
        path = self._inner.update(np.minimum(1.0, (p[large] - self.share) / (1 - self.share)))
        return np.asarray(np.concatenate([[before], path])[np.cumsum(large)])

    def fresh(self) -> Self:
        """Return a new martingale with the same share."""
        return type(self)(self._inner.fresh(), self.share)

    def to_part(self) -> Part:
        """Return the share, and the martingale inside, as a part."""
        inner = self._inner.to_part()
        config = {"share": self.share, "inner": {"kind": inner.kind, "config": inner.config}}
        return Part("large_p_values", config, {f"inner.{name}": array for name, array in inner.arrays.items()})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the martingale that `to_part` described."""
        check_part(part, {"share": Annotated[float, Gt(0), Lt(1)], "inner": Head}, {"inner.*": "any ..."})
        return cls(load_martingale(inner_part(part, "inner.", part.config["inner"])), part.config["share"])


def reserve(n: int) -> float:
    """Return the capital that does not bet after n rows, ``1 / (2 + ln(1 + n / 100))``: 1/2 at first.

    The outflow at row n falls slightly faster than 1/n. An alarm after n rows without a change therefore needs a gain
    larger by a factor of the order of n; without a reserve the factor is exponential in n.
    """
    return 1 / (2 + math.log1p(n / 100))


def _log_factors(grid: Array, n: Array, log_sum: Array) -> Doubles:
    factors: Doubles = n[:, None] * np.log(grid) + log_sum[:, None] * (grid - 1)
    return factors


def _log10_total(logs: Doubles, reserves: list[float]) -> Doubles:
    """Return log10 of the sum of the capitals of each row, natural logarithms of shape (n, k), and its reserve."""
    # The largest capital is factored out, so that no exponential overflows.
    most = np.maximum(logs.max(axis=1), 0)
    total = np.exp(logs - most[:, None]).sum(axis=1) + reserves * np.exp(-most)
    return np.asarray((most + np.log(total)) / LN_10)


MARTINGALES: dict[str, type[Martingale]] = {
    "simple_jumper": SimpleJumper,
    "power": Power,
    "large_p_values": LargePValues,
}
_FAMILY = Family[Martingale]("martingale", MARTINGALES)


def load_martingale(part: Part) -> Martingale:
    """Return the martingale that a part describes; raise `ScorerError` if it is of an unknown kind or damaged."""
    return _FAMILY.load(part)


def check_p_values(values: NDArray[Any]) -> Doubles:
    """Return p-values in float64; raise `InputError` unless they are of shape (n,) and between 0 and 1."""
    p_values = np.asarray(values, dtype=np.float64)
    if p_values.ndim != 1 or not np.all((p_values >= 0) & (p_values <= 1)):
        raise InputError(f"p-values of shape {p_values.shape} are not all numbers between 0 and 1; give (n,) of them")
    return p_values
