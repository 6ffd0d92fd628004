"""What training fixed: the forward process, what the network is told, and what it answers."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from skipjax import schedules
from skipjax.process.parameterizations import (
    PARAMETERIZATIONS,
    Parameterization,
    Point,
    consistency,
    edm,
)
from skipjax.schedules import Schedule, Variance

SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "rectified_flow": schedules.rectified_flow,
    "variance_exploding": schedules.variance_exploding,
}


class Precondition(Protocol):
    """What the network is told of a point: c_in(point) x, at the time c_noise(point)."""

    def c_in(self, point: Point) -> jax.Array | float: ...

    def c_noise(self, point: Point) -> jax.Array: ...


@dataclass(frozen=True)
class Times:
    """x as it is, at t scale: of ADM, DDPM, Stable Diffusion.

    Args:
        scale: 1 for t itself; 1000 / T where ADM's `rescale_timesteps` is set.
    """

    scale: float = 1.0

    def c_in(self, point: Point) -> float:
        return 1.0

    def c_noise(self, point: Point) -> jax.Array:
        return self.scale * point.t


@dataclass(frozen=True)
class Flow:
    """x as it is, at u scale, u = sigma / (alpha + sigma): of rectified flows.

    Args:
        scale: 1 for u in 0 .. 1; 1000 for networks that are told 1000 u.
        to_data: Whether time runs the other way, from the noise at 0 to the data at 1: the
            network is then told (1 - u) scale, as SiT is.
    """

    scale: float = 1.0
    to_data: bool = False

    def c_in(self, point: Point) -> float:
        return 1.0

    def c_noise(self, point: Point) -> jax.Array:
        part = point.alpha if self.to_data else point.sigma
        return self.scale * (part / (point.alpha + point.sigma))


@dataclass(frozen=True)
class Edm:
    """x of unit variance, at scale log(sigma / alpha).

        c_in = 1 / sqrt(sigma^2 + alpha^2 sigma_data^2)

    Source: Karras et al. 2022 (arXiv:2206.00364), table 1.

    Args:
        sigma_data: Standard deviation of the data.
        scale: 1/4 for EDM's networks; 250 for those of openai/consistency_models, which are told
            1000 times as much.
    """

    sigma_data: float = 0.5
    scale: float = 0.25

    def c_in(self, point: Point) -> jax.Array:
        return 1 / jnp.sqrt(point.sigma**2 + (point.alpha * self.sigma_data) ** 2)

    def c_noise(self, point: Point) -> jax.Array:
        return self.scale * jnp.log(point.sigma / point.alpha)


@dataclass(frozen=True, eq=False)
class Process:
    """What fixes the meaning of a network's output; hashed by content, static under jit.

    Args:
        schedule: The forward process; or a name in `SCHEDULES` for T = 1000 times, or betas.
        parameterization: What the output is, a name in `PARAMETERIZATIONS`.
        precondition: What the network is told of a point.
        variance: Of the noise that its own sampler adds: "small", "large", "learned_range" or
            "learned", as ADM tells them apart.
        bounds: Least and largest value of the data, by which x_0 may be clipped: (-1, 1) for
            pixels; None for latents, which have none.

    Raises:
        ValueError: For a name that is not known, betas or bounds that are none, or v of a schedule
            that does not preserve variance.
    """

    schedule: Schedule
    parameterization: str = "eps"
    precondition: Precondition = Times()
    variance: Variance = "small"
    bounds: tuple[float, float] | None = (-1.0, 1.0)

    def __post_init__(self):
        set_field = object.__setattr__
        set_field(self, "schedule", as_schedule(self.schedule))
        one_of("parameterization", self.parameterization, tuple(PARAMETERIZATIONS))
        one_of("variance", self.variance, schedules.VARIANCES)
        if self.parameterization == "v" and not self.schedule.preserves_variance:
            raise ValueError(
                "parameterization is 'v', which the schedule does not have: it must preserve "
                "variance. Of rectified flow 'velocity' is predicted"
            )
        if self.bounds is not None:
            low, high = map(float, self.bounds)
            if not low < high:
                raise ValueError(f"bounds are {self.bounds}: the least must be below the largest")
            set_field(self, "bounds", (low, high))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Process) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @cached_property  # every call of a program asks for it
    def _content(self) -> tuple[Any, ...]:
        tables = tuple(np.asarray(table).tobytes() for table in self.schedule)
        return (*tables, self.parameterization, self.precondition, self.variance, self.bounds)

    def __repr__(self) -> str:
        return (
            f"Process({called(self.schedule)}, {self.parameterization}, {self.precondition}, "
            f"variance {self.variance}, bounds {self.bounds})"
        )

    @property
    def row(self) -> Parameterization:
        """The row of the table that the output is read by."""
        if isinstance(self.precondition, Edm):
            sigma_data = self.precondition.sigma_data
            if self.parameterization == "edm":
                return edm(sigma_data)
            if self.parameterization == "consistency":
                alpha, sigma = self.schedule
                return consistency(sigma_data, float(sigma[0] / alpha[0]))
        return PARAMETERIZATIONS[self.parameterization]

    @property
    def learns_variance(self) -> bool:
        """Whether its own sampler asks the network for the variance."""
        return self.variance.startswith("learned")

    def tell(self, x: jax.Array, point: Point) -> tuple[jax.Array, jax.Array]:
        """What the network is told: c_in x, [B, ...], and the time c_noise, float [B].

        Args:
            x: The noisy samples, [B, ...].
            point: Where they stand, for all or for each.
        """
        flat = Point(point.t, *(jnp.ravel(a) if jnp.ndim(a) > 1 else a for a in point[1:]))
        t = jnp.broadcast_to(self.precondition.c_noise(flat), x.shape[:1])
        c_in = self.precondition.c_in(point)
        return (x if isinstance(c_in, float) and c_in == 1 else c_in * x), t

    def prior_std(self, point: Point) -> jax.Array | float:
        """Standard deviation of the noise that sampling starts from at a point: sigma where the
        process explodes (alpha = 1), else 1.
        """
        return point.sigma if np.all(np.asarray(self.schedule.alpha) == 1) else 1.0

    def replace(self, **changes: Any) -> "Process":
        """The same but for some fields."""
        return dataclasses.replace(self, **changes)


def as_schedule(schedule: Schedule | str | Sequence[float], T: int = 1000) -> Schedule:
    """A schedule, by its name in `SCHEDULES`, its betas, or itself.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        one_of("schedule", schedule, tuple(SCHEDULES))
        return SCHEDULES[schedule](T)
    try:
        return schedules.from_betas([float(beta) for beta in schedule])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"schedule is {schedule!r}: it must be a Schedule, one of {', '.join(SCHEDULES)}, or "
            f"a vector of betas ({error})"
        ) from None


def name_of(schedule: Schedule) -> str | None:
    """The name in `SCHEDULES` of a schedule of so many times, if it has one."""
    for name, make in SCHEDULES.items():
        try:
            known = make(schedule.T)
        except ValueError:  # of so few times there is none
            continue
        if same_schedule(known, schedule):
            return name
    return None


def same_schedule(a: Schedule, b: Schedule) -> bool:
    """Whether two schedules are equal, number by number."""
    return all(np.array_equal(*tables) for tables in zip(a, b, strict=True))


def called(schedule: Schedule) -> str:
    """What to call a schedule where people read: its name, or where it ends."""
    name = name_of(schedule)
    if name is None:
        alpha, sigma = schedule.alpha, schedule.sigma
        name = f"alpha {alpha[0]:.4g} .. {alpha[-1]:.4g}, sigma {sigma[0]:.4g} .. {sigma[-1]:.4g}"
    return f"{name}, T = {schedule.T}"


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuses a value that is not one of those known."""
    if value not in known:
        raise ValueError(f"{what} is {value!r}: it must be one of {', '.join(known)}")
