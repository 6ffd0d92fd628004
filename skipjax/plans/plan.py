"""A sampler as a table.

Every linear sampler is

    x_{i+1} = keep_i x_i + sum_{j < K} mix_{ij} m_{i-j} + noise_i z_i        i = 0 .. N-1

where x_i is the point at which the network is called for the i-th time, m_i what it predicted
there, z_i fresh noise, and x_N the picture.

Two things join where a network offers them. With g_i the gradient that guides (of log p(y | x_i),
scaled), a row says by `guide_eps` how much of it goes into the prediction, as
eps_i - guide_eps_i sigma_i g_i, and by `guide_mean` how much into the mean. With a learned
variance, noise and guide_mean of a row are in units of S_i, the standard deviation that the
network gives each pixel between two bounds:

    x_{i+1} = keep_i x_i + sum_j mix_{ij} m_{i-j} + noise_i S_i z_i + guide_mean_i S_i^2 g_i

And with d_i what clipping took off x_0 at the newest call, a row may undo some of it, by
excess_i d_i: DDIM whose eps does not follow the clipped x_0 is written so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import jax
import numpy as np

from skipjax.schedules import Schedule

Space = Literal["x_0", "eps"]
Column = Any  # float64 NumPy as written, a jax.Array once it is traced or placed on a device
OPTIONAL = ("log_variance", "prior_std", "excess")  # columns that few plans have


@dataclass(frozen=True)
class Origin:
    """Where a plan comes from: for people, and for checks before anything is compiled.

    It is no part of the pytree: plans of any method and schedule share one compiled program, and
    what comes out of a compiled function, or a map over its columns, has no origin.

    Attributes:
        method: What wrote the plan, such as "dpmpp_2m".
        schedule: Fingerprint of the schedule that it was written for.
        end: Time at which the picture stands, `schedules.DATA` or another.
        tuned: For which network the plan was learned, how, and how it did on noise that it was
            not learned from, as JSON has it; None for a plan that was written.
    """

    method: str
    schedule: tuple[float, ...]
    end: float
    tuned: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False, repr=False)
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
        space: What the predictions are: "x_0" or "eps".
        guide_eps: Weight of guidance in the prediction, float64 [N]: 1, or 0 where it guides
            the mean.
        guide_mean: Weight of guidance in the mean, float64 [N].
        log_variance: Bounds of log S^2, smallest and largest, float64 [N, 2]; None for a sampler
            that does not ask the network for its variance, S = 1.
        origin: What wrote the plan, and for which schedule; None for a plan of the user's own, and
            for one that went through `jit`.
        prior_std: Standard deviation of the noise that it starts from, float64 []; default: None,
            which is the process's own.
        excess: Weight of what clipping took off x_0, d_i = x_0 as the network says it, less x_0
            as it is used, float64 [N]; default: None, for 0.
    """

    t: Column
    alpha: Column
    sigma: Column
    keep: Column
    mix: Column
    noise: Column
    space: Space = "x_0"
    guide_eps: Column | None = None
    guide_mean: Column | None = None
    log_variance: Column | None = None
    origin: Origin | None = None
    prior_std: Column | None = None
    excess: Column | None = None

    @property
    def nfe(self) -> int:
        """Number of function evaluations: how often the network is called."""
        return self.keep.shape[-1]

    @property
    def history(self) -> int:
        """K: how many predictions a step looks at, its own included."""
        return self.mix.shape[-1]

    def __repr__(self) -> str:
        method = self.origin.method if self.origin else "of your own"
        many = "".join(f"{size} x " for size in self.keep.shape[:-1])
        try:
            rows = np.any(np.asarray(self.noise), axis=tuple(range(self.noise.ndim - 1)))
            noise = f"noise in {rows.sum()} rows" if rows.any() else "no noise"
        except jax.errors.TracerArrayConversionError:
            noise = "traced"
        return f"Plan({many}{method}, {self.nfe} NFE, K = {self.history}, {self.space}, {noise})"

    def replace(self, **changes: Any) -> Plan:
        """The same but for some columns."""
        return replace(self, **changes)

    def named(self, method: str) -> Plan:
        """The same plan under another name of its method."""
        if self.origin is None:
            raise ValueError("a plan without an origin has no method to be named")
        return replace(self, origin=replace(self.origin, method=method))

    def widened(self, history: int) -> Plan:
        """The same sampler with weights of 0 for predictions further back, K = `history`: plans of
        one NFE, K and space share a program.
        """
        return replace(self, mix=np.pad(self.mix, ((0, 0), (0, history - self.history))))

    def belongs(self, schedule: Schedule) -> bool:
        """Whether the plan was written for this schedule, as far as it remembers."""
        return self.origin is None or schedule.has(self.origin.schedule)

    def matrix(self) -> np.ndarray:
        """Every point as a sum of the starting noise and the predictions.

            x_{i+1} = M_{i,0} x_0 + sum_{j <= i} M_{i,j+1} m_j          i = 0 .. N-1

        apart from fresh noise and guidance.

        Returns:
            float64 [N, N+1].
        """
        keep, mix = np.asarray(self.keep, np.float64), np.asarray(self.mix, np.float64)
        if keep.ndim != 1:
            raise ValueError(f"matrix is of one plan, and here are {keep.shape[:-1]} stacked")
        rows, row = np.zeros((self.nfe, self.nfe + 1)), np.eye(1, self.nfe + 1)[0]
        for i in range(self.nfe):
            row = keep[i] * row
            for j in range(min(self.history, i + 1)):
                row[1 + i - j] += mix[i, j]
            rows[i] = row
        return rows

    def to_json(self) -> str:
        """The plan as text, to be kept beside a checkpoint; no digit is lost.

        Raises:
            ValueError: If several plans are stacked, or a number is not finite.
        """
        from skipjax.plans import as_json

        return as_json.dumps(self)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: If the text is something else, of a later version, or not whole.
        """
        from skipjax.plans import as_json

        return as_json.loads(text)

    def plot(self) -> Any:
        """Draws the matrix and the levels that the plan visits; needs the extra `plot`.

        Returns:
            A matplotlib `Figure`: shown by a notebook, saved by its `savefig`.
        """
        from skipjax.plans import figure

        return figure.draw(self)


jax.tree_util.register_dataclass(
    Plan,
    data_fields=[f.name for f in fields(Plan) if f.name not in ("space", "origin")],
    meta_fields=["space"],
    drop_fields=["origin"],
)


def stack(plans: Sequence[Plan]) -> Plan:
    """Plans of as many calls as one, for `vmap`: every column has a first axis more.

    Those that look back at fewer predictions than others get weights of 0 for the rest, so that
    methods of all kinds run in one program.

    Raises:
        ValueError: If there is none, or they differ in NFE, in space, or in whether they ask for a
            learned variance, say their prior_std, or undo clipping.
    """
    kinds = {
        (plan.nfe, plan.space, *(getattr(plan, name) is None for name in OPTIONAL))
        for plan in plans
    }
    if len(kinds) != 1:
        got = ", ".join(map(repr, plans)) or "none"
        raise ValueError(f"plans to stack must be alike in NFE, space and variance, got {got}")
    history = max(plan.history for plan in plans)
    wide = (plan.widened(history) for plan in plans)
    return jax.tree.map(lambda *columns: np.stack(columns), *wide)
