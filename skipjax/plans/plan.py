"""A sampler as a table, and the tape that writes one.

Every linear sampler is

    x_{i+1} = keep_i x_i + sum_{j < K} mix_{ij} m_{i-j} + noise_i z_i        i = 0 .. N-1

where x_i is the point at which the network is called for the i-th time, m_i what it predicted
there, z_i fresh noise, and x_N the picture. A sampler is written on a `Tape` as in its paper, in
sums of points, predictions and noises, and the table is read off the sums: in float64, once.

Two things join where a network offers them. With g_i the gradient that guides (of log p(y | x_i),
scaled), a row says by `steer` how much of it goes into the prediction, as eps_i - steer_i sigma_i
g_i, and by `shift` how much into the mean. With a learned variance, noise and shift of a row are
in units of S_i, the standard deviation that the network gives each pixel between two bounds:

    x_{i+1} = keep_i x_i + sum_j mix_{ij} m_{i-j} + noise_i S_i z_i + shift_i S_i^2 g_i
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from skipjax.schedules import Schedule

Space = Literal["x_0", "eps"]
Column = Any  # float64 NumPy as written, a jax.Array once it is traced or placed on a device


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Plan:
    """The coefficients of a sampler: N rows, one network call each.

    Two plans with the same N, K and `space` have the same compiled program.

    Attributes:
        t: Time given to the network, float64 [N].
        alpha: Scale of the data in x_i, float64 [N].
        sigma: Standard deviation of the noise in x_i, float64 [N].
        keep: Weight of x_i in x_{i+1}, float64 [N].
        mix: Weights of the last K predictions, newest first, float64 [N, K].
        noise: Weight of fresh noise, float64 [N]; 0 throughout for a deterministic sampler.
        steer: Weight of guidance in the prediction, float64 [N]: 1, or 0 where it shifts the mean.
        shift: Weight of guidance in the mean, float64 [N].
        log_variance: Bounds of log S^2, smallest and largest, float64 [N, 2]; None for a sampler
            that does not ask the network for its variance, S = 1.
        space: What the predictions are: "x_0" or "eps".
    """

    t: Column
    alpha: Column
    sigma: Column
    keep: Column
    mix: Column
    noise: Column
    space: Space = field(default="x_0", metadata={"static": True})
    steer: Column | None = None
    shift: Column | None = None
    log_variance: Column | None = None

    @property
    def nfe(self) -> int:
        """Number of function evaluations: how often the network is called."""
        return self.keep.shape[-1]

    @property
    def history(self) -> int:
        """K: how many predictions a step looks at, its own included."""
        return self.mix.shape[-1]


class Symbol(NamedTuple):
    """One of the quantities that a sum is over: x_i, m_i, z_i or g_i."""

    kind: Literal["x", "m", "z", "g"]
    i: int


class Form:
    """A weighted sum of symbols: what a sampler does arithmetic with while it is recorded."""

    # NumPy scalars on the left must leave multiplication to this class.
    __array_ufunc__ = None

    def __init__(self, weights: dict[Symbol, float]):
        self.weights = weights

    def __add__(self, other: Form) -> Form:
        total = dict(self.weights)
        for symbol, weight in other.weights.items():
            total[symbol] = total.get(symbol, 0.0) + weight
        return Form(total)

    def __mul__(self, factor: float | np.ndarray) -> Form:
        return Form({symbol: float(factor) * weight for symbol, weight in self.weights.items()})

    __rmul__ = __mul__

    def __sub__(self, other: Form) -> Form:
        return self + other * -1.0

    def __truediv__(self, divisor: float) -> Form:
        return self * (1 / divisor)


class Called(NamedTuple):
    """A point at which the network was called, and what it said there, in both readings."""

    x: Form
    x_0: Form
    eps: Form


class Tape:
    """Records a sampler's network calls and updates, and reads the table off them.

        tape = Tape(schedule)
        x = tape.start()
        for t, s in steps:
            x_t, x_0, eps = tape.call(x, t)
            x = ...              # a sum of x_t, x_0, eps, those of earlier calls, tape.noise()
        plan = tape.plan(x)

    Where x is a sum that holds an older point than the newest (a method with several calls a
    step starts each from the same point), that point is written in terms of the newer ones.

    Args:
        schedule: The forward process that the times refer to.
        space: What the table multiplies: the network's x_0 or its eps. Without clipping the two
            give the same sampler.
    """

    def __init__(self, schedule: Schedule, space: Space = "x_0"):
        self._schedule = schedule
        self._space: Space = space
        self._levels: list[tuple[float, float, float]] = []
        self._sums: list[dict[Symbol, float]] = []  # x_{i+1} in terms of x_i, m_j, z_i and g_i
        self._noises = self._spent = 0
        self._shifted: set[int] = set()  # rows that guidance reaches through the mean
        self._bounds: dict[int, tuple[float, float]] = {}  # of rows with a learned variance

    def start(self) -> Form:
        """The noise that sampling starts from."""
        return Form({Symbol("x", 0): 1.0})

    def noise(self) -> Form:
        """Fresh noise, N(0, I)."""
        self._noises += 1
        return Form({Symbol("z", self._noises - 1): 1.0})

    def gradient(self) -> Form:
        """What guides, at the newest call: the scaled gradient of log p(y | x_t).

        A step that adds it keeps the prediction as the network said it. All others are guided
        through the prediction, eps - sigma gradient, and need not know of it.

        Raises:
            ValueError: Before the first call.
        """
        i = self._newest()
        self._shifted.add(i)
        return Form({Symbol("g", i): 1.0})

    def learned(self, log_small: float, log_large: float) -> None:
        """Lets the network choose the variance S^2 of the newest call's step, between two bounds.

        In that step `noise()` stands for S z, and `gradient()` for S^2 times the gradient.

        Raises:
            ValueError: Before the first call.
        """
        self._bounds[self._newest()] = (log_small, log_large)

    def call(self, x: Form, t: int) -> Called:
        """Calls the network at the point x, which stands at the level of time t.

        Raises:
            ValueError: As `plan` does; or if the first call is not at the start.
        """
        i = len(self._levels)
        if i:
            self._sums.append(self._sum(x))
        elif x.weights != self.start().weights:
            raise ValueError("the first call must be at tape.start(), the noise itself")
        alpha, sigma = map(float, self._schedule.at(t))
        self._levels.append((float(t), alpha, sigma))
        x, m = Form({Symbol("x", i): 1.0}), Form({Symbol("m", i): 1.0})
        if self._space == "x_0":
            return Called(x, x_0=m, eps=(x - alpha * m) / sigma)
        return Called(x, x_0=(x - sigma * m) / alpha, eps=m)

    def plan(self, x: Form) -> Plan:
        """The table of the sampler that ends in x.

        Raises:
            ValueError: If a point needs an older one of which nothing is left, or more than the
                one noise that is fresh in its step.
        """
        if not self._levels:
            raise ValueError("nothing is recorded: a plan calls the network at least once")
        sums = [*self._sums, self._sum(x)]
        num = len(sums)
        oldest = (i - s.i for i, w in enumerate(sums) for s in w if s.kind == "m")
        keep, noise, shift = np.zeros((3, num))
        mix = np.zeros((num, 1 + max(oldest, default=0)))
        for i, weights in enumerate(sums):
            for symbol, weight in weights.items():
                match symbol.kind:
                    case "x":
                        keep[i] = weight
                    case "z":
                        noise[i] = weight
                    case "g":
                        shift[i] = weight
                    case "m":
                        mix[i, i - symbol.i] = weight
        t, alpha, sigma = np.array(self._levels).T
        steer = np.array([float(i not in self._shifted) for i in range(num)])
        bounds = None
        if self._bounds:
            bounds = np.array([self._bounds.get(i, (0, 0)) for i in range(num)], float)
        return Plan(t, alpha, sigma, keep, mix, noise, self._space, steer, shift, bounds)

    def _newest(self) -> int:
        """The row of the newest call."""
        if not self._levels:
            raise ValueError("guidance and a learned variance belong to a call: none is recorded")
        return len(self._levels) - 1

    def _sum(self, x: Form) -> dict[Symbol, float]:
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
        noises = [s.i for s, w in weights.items() if s.kind == "z" and w]
        if len(noises) > 1 or any(index < self._spent for index in noises):
            raise ValueError(
                "a step uses more than one noise, or one that an earlier step used. If it comes "
                f"with an older point, the method may do in another space than {self._space}"
            )
        if any(s.kind == "g" and s.i < newest for s in weights):
            raise ValueError("a step uses the gradient of an earlier call: only the newest guides")
        self._spent = max(noises, default=self._spent - 1) + 1
        return {symbol: weight for symbol, weight in weights.items() if weight}
