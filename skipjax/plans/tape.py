"""The tape on which a sampler is written as in its paper, and read off as a table.

A sampler does its arithmetic with sums of points, predictions and noises; what multiplies what is
then the table: in float64, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from skipjax.plans.path import Level, levels
from skipjax.plans.plan import Origin, Plan, Space
from skipjax.schedules import DATA, Schedule


class Symbol(NamedTuple):
    """One of the quantities that a sum is over: x_i, m_i, z_i, g_i or d_i."""

    kind: Literal["x", "m", "z", "g", "d"]
    i: int


class Combination:
    """A weighted sum of symbols: what a sampler does arithmetic with while it is recorded."""

    # NumPy scalars on the left must leave multiplication to this class.
    __array_ufunc__ = None

    def __init__(self, weights: dict[Symbol, float]):
        self.weights = weights

    def __add__(self, other: Combination) -> Combination:
        total = dict(self.weights)
        for symbol, weight in other.weights.items():
            total[symbol] = total.get(symbol, 0.0) + weight
        return Combination(total)

    def __mul__(self, factor: float | np.ndarray) -> Combination:
        return Combination(
            {symbol: float(factor) * weight for symbol, weight in self.weights.items()}
        )

    __rmul__ = __mul__

    def __sub__(self, other: Combination) -> Combination:
        return self + other * -1.0

    def __truediv__(self, divisor: float) -> Combination:
        return self * (1 / divisor)


def combine(weights: Iterable[float], terms: Iterable[Combination]) -> Combination:
    """The sum of terms, each times its weight."""
    total = Combination({})
    for weight, term in zip(weights, terms, strict=True):
        total += weight * term
    return total


class Called(NamedTuple):
    """A point at which the network was called, and what it said there, in both readings."""

    x: Combination
    x_0: Combination
    eps: Combination


class Tape:
    """Records a sampler's network calls and updates, and reads the table off them.

        tape = Tape(schedule)
        x = tape.start()
        for t, s in steps:
            x_t, x_0, eps = tape.call(x, t)
            x = ...              # a sum of x_t, x_0, eps, those of earlier calls, tape.noise()
        plan = tape.plan(x, "my sampler")

    Where x is a sum that holds an older point than the newest (a method with several calls a
    step starts each from the same point), that point is written in terms of the newer ones.

    Args:
        schedule: The forward process that the times refer to.
        space: What the table multiplies: the network's x_0 or its eps. Without clipping the two
            give the same sampler.

    Raises:
        ValueError: For another space.
    """

    def __init__(self, schedule: Schedule, space: Space = "x_0"):
        if space not in ("x_0", "eps"):
            raise ValueError(f"space is {space!r}: it must be 'x_0' or 'eps'")
        self._schedule = schedule
        self._space: Space = space
        self._levels: list[tuple[float, float, float]] = []
        self._sums: list[dict[Symbol, float]] = []  # x_{i+1} in terms of x_i, m_j, z_i, g_i, d_i
        self._noises = self._spent = 0
        self._shifted: set[int] = set()  # rows that guidance reaches through the mean
        self._bounds: dict[int, tuple[float, float]] = {}  # of rows with a learned variance

    def start(self) -> Combination:
        """The noise that sampling starts from."""
        return Combination({Symbol("x", 0): 1.0})

    def noise(self) -> Combination:
        """Fresh noise, N(0, I)."""
        self._noises += 1
        return Combination({Symbol("z", self._noises - 1): 1.0})

    def gradient(self) -> Combination:
        """What guides, at the newest call: the scaled gradient of log p(y | x_t).

        A step that adds it keeps the prediction as the network said it. All others are guided
        through the prediction, eps - sigma gradient, and need not know of it.

        Raises:
            ValueError: Before the first call.
        """
        i = self._newest()
        self._shifted.add(i)
        return Combination({Symbol("g", i): 1.0})

    def excess(self) -> Combination:
        """What clipping took off x_0 at the newest call: x_0 as the network says it, less x_0 as
        `call` gives it.

        Raises:
            ValueError: Before the first call.
        """
        return Combination({Symbol("d", self._newest()): 1.0})

    def learned(self, log_small: float, log_large: float) -> None:
        """Lets the network choose the variance S^2 of the newest call's step, between two bounds.

        In that step `noise()` stands for S z, and `gradient()` for S^2 times the gradient.

        Raises:
            ValueError: Before the first call.
        """
        self._bounds[self._newest()] = (log_small, log_large)

    def call(self, x: Combination, at: float | Level) -> Called:
        """Calls the network at the point x, which stands at the level of a time.

        Args:
            x: The point.
            at: The time; or its level, for a writer who has looked it up.

        Raises:
            ValueError: As `plan` does; if the first call is not at the start; or for eps at zero
                SNR, of which x_0 does not follow.
        """
        i = len(self._levels)
        if i:
            self._sums.append(self._sum(x))
        elif x.weights != self.start().weights:
            raise ValueError("the first call must be at tape.start(), the noise itself")
        t, alpha, sigma, _ = at if isinstance(at, Level) else levels(self._schedule, [at])[0]
        if not alpha and self._space == "eps":
            raise ValueError(
                f"at time {t:g} alpha is 0, and eps says nothing of x_0: use a method that works "
                "on x_0 (ddim, dpmpp, unipc), or start at a lower time"
            )
        self._levels.append((t, alpha, sigma))
        x, m = Combination({Symbol("x", i): 1.0}), Combination({Symbol("m", i): 1.0})
        if self._space == "x_0":
            return Called(x, x_0=m, eps=(x - alpha * m) / sigma)
        return Called(x, x_0=(x - sigma * m) / alpha, eps=m)

    def since(self, x: Combination) -> Combination:
        """x in terms of the newest point, with older ones eliminated.

        A method that carries a point along at which the network is never called (a corrector's)
        rewrites it so after each call, or it would grow with the number of steps.
        """
        return Combination(self._eliminated(x))

    def plan(self, x: Combination, method: str = "of your own", end: float = DATA) -> Plan:
        """The table of the sampler that ends in x.

        Args:
            x: The picture.
            method: What the sampler is called.
            end: Time whose level x stands at.

        Raises:
            ValueError: If a point needs an older one of which nothing is left, or more than the
                one noise that is fresh in its step.
        """
        if not self._levels:
            raise ValueError("nothing is recorded: a plan calls the network at least once")
        sums = [*self._sums, self._sum(x)]
        num = len(sums)
        oldest = (i - s.i for i, w in enumerate(sums) for s in w if s.kind == "m")
        keep, noise, guide_mean, excess = np.zeros((4, num))
        mix = np.zeros((num, 1 + max(oldest, default=0)))
        for i, weights in enumerate(sums):
            for symbol, weight in weights.items():
                match symbol.kind:
                    case "x":
                        keep[i] = weight
                    case "z":
                        noise[i] = weight
                    case "g":
                        guide_mean[i] = weight
                    case "d":
                        excess[i] = weight
                    case "m":
                        mix[i, i - symbol.i] = weight
        t, alpha, sigma = np.array(self._levels).T
        guide_eps = np.array([float(i not in self._shifted) for i in range(num)])
        bounds = None
        if self._bounds:
            bounds = np.array([self._bounds.get(i, (0, 0)) for i in range(num)], float)
        origin = Origin(method, self._schedule.fingerprint, float(end))
        plan = Plan(
            t, alpha, sigma, keep, mix, noise, self._space, guide_eps, guide_mean, bounds, origin
        )
        return plan.replace(excess=excess) if excess.any() else plan

    def _newest(self) -> int:
        """The row of the newest call."""
        if not self._levels:
            raise ValueError(
                "guidance, clipping and a learned variance belong to a call: none is recorded"
            )
        return len(self._levels) - 1

    def _sum(self, x: Combination) -> dict[Symbol, float]:
        """x in terms of the newest point, if a row of the table can say it."""
        newest = len(self._levels) - 1
        weights = self._eliminated(x)
        noises = [s.i for s in weights if s.kind == "z"]
        if len(noises) > 1 or any(index < self._spent for index in noises):
            raise ValueError(
                "a step uses more than one noise, or one that an earlier step used. If it comes "
                f"with an older point, the method may do in another space than {self._space}"
            )
        if any(s.kind == "g" and s.i < newest for s in weights):
            raise ValueError("a step uses the gradient of an earlier call: only the newest guides")
        if any(s.kind == "d" and s.i < newest for s in weights):
            raise ValueError("a step undoes the clipping of an earlier call: only of the newest")
        self._spent = max(noises, default=self._spent - 1) + 1
        return weights

    def _eliminated(self, x: Combination) -> dict[Symbol, float]:
        """x with its older points eliminated: x_{j+1} = keep x_j + rest gives x_j."""
        newest = len(self._levels) - 1
        weights = dict(x.weights)
        while older := [s for s in weights if s.kind == "x" and s.i < newest]:
            j = min(older).i
            weight = weights.pop(Symbol("x", j))
            rest = dict(self._sums[j])
            keep = rest.pop(Symbol("x", j), 0.0)
            if not keep:
                raise ValueError(f"a step uses x_{j} again, of which x_{j + 1} keeps nothing")
            rest[Symbol("x", j + 1)] = -1.0
            for symbol, other in rest.items():
                weights[symbol] = weights.get(symbol, 0.0) - weight / keep * other
        return {symbol: weight for symbol, weight in weights.items() if weight}
