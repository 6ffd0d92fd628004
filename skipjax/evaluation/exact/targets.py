"""The targets that samplers are compared on."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from skipjax.denoisers import Denoise
from skipjax.evaluation.exact.gaussian import Gaussian, low_rank
from skipjax.evaluation.exact.mixture import Mixture
from skipjax.evaluation.exact.perturbation import perturbed


class Target(Protocol):
    """A law of data that is known in closed form, as `Gaussian` and `Mixture` are."""

    @property
    def dim(self) -> int:
        """D, how many values a point holds."""
        ...

    @property
    def denoise(self) -> Denoise:
        """The exact E[x_0 | x] and E[eps | x], at every level from pure noise to the data."""
        ...

    def draw(self, key: jax.Array, num: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Independent data, [num, D]."""
        ...

    def log_density(self, x: jax.Array, alpha: ArrayLike, sigma: ArrayLike) -> jax.Array:
        """log p(x) of x = alpha x_0 + sigma eps, [B]."""
        ...


class Task(NamedTuple):
    """What to draw from, and what stands in for a network.

    Attributes:
        target: The law of the data.
        denoise: Its exact denoiser, or one that errs.
    """

    target: Target
    denoise: Denoise


def tasks() -> dict[str, Task]:
    """The tasks of the benchmark by name; the same numbers in every call.

    - gaussian: 64-D, standard deviations from 1 down to 0.03, on random axes;
    - low_rank: a Gaussian in 1024-D that varies along 16 axes, and by a std of 0.02 off them;
    - four_wide, four_narrow: 2-D, four modes of unequal weight, component std 0.35 and 0.05;
    - ten_wide, ten_narrow: 64-D, ten random modes, component std 0.35 and 0.05;
    - rare: 2-D, two modes of weights 0.99 and 0.01;
    - four_wide_biased: four_wide, with a denoiser that errs by 5 % (`perturbed`).
    """
    random = np.random.default_rng(0)
    axes, _ = np.linalg.qr(random.normal(size=(64, 64)))
    stds = np.geomspace(1.0, 0.03, 64)
    gaussian = Gaussian(0.5 * random.normal(size=64), (axes * stds**2) @ axes.T)

    axes, _ = np.linalg.qr(random.normal(size=(1024, 16)))
    mean, spectrum = 0.3 * random.normal(size=1024), np.geomspace(100.0, 1.0, 16)
    few = low_rank(mean, axes, spectrum, 0.02**2)

    corners, weights = [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1], [0.9, -0.9]], [0.4, 0.3, 0.2, 0.1]
    centres, shares = random.normal(size=(10, 64)), random.dirichlet(np.full(10, 5.0))
    wide = Mixture(weights, corners, 0.35)
    exact = {
        "gaussian": gaussian,
        "low_rank": few,
        "four_wide": wide,
        "four_narrow": Mixture(weights, corners, 0.05),
        "ten_wide": Mixture(shares, centres, 0.35),
        "ten_narrow": Mixture(shares, centres, 0.05),
        "rare": Mixture([0.99, 0.01], [[-0.5, 0.0], [1.5, 0.5]], 0.2),
    }
    biased = Task(wide, perturbed(wide.denoise, 0.05))
    return {name: Task(t, t.denoise) for name, t in exact.items()} | {"four_wide_biased": biased}
