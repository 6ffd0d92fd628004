"""A plan as a picture: what each point is made of, and the levels that it passes."""

from io import BytesIO
from typing import Any

import numpy as np

from skipjax.plans.plan import Plan


def draw(plan: Plan) -> Any:
    """Draws `plan.matrix()`, and log(alpha / sigma) of every call with the noise that follows it.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If several plans are stacked.
    """
    try:
        from matplotlib.colors import SymLogNorm
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "plots need matplotlib: pip install matplotlib, or 'skipjax[plot]'"
        ) from None

    class Drawing(Figure):
        """A figure that a notebook shows once, whether or not pyplot is in use."""

        def _repr_png_(self) -> bytes:
            content = BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    matrix, calls = plan.matrix(), np.arange(plan.nfe)
    figure = Drawing(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(repr(plan))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))

    largest = float(np.abs(matrix).max())
    norm = SymLogNorm(0.1, vmin=-largest, vmax=largest)
    table = left.imshow(matrix, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
    figure.colorbar(table, ax=left, label="weight")
    ticks = np.unique(np.linspace(0, plan.nfe - 1, min(plan.nfe, 11)).round().astype(int))
    left.set_xticks([0, *(ticks + 1)], ["start", *ticks])
    left.set_yticks(ticks, ticks + 1)
    left.set_xlabel(f"weight of the start, and of the {plan.space} of call")
    left.set_ylabel("point after so many calls")

    with np.errstate(divide="ignore"):
        log_snr = np.log(plan.alpha) - np.log(plan.sigma)
    shown = np.isfinite(log_snr)
    right.plot(calls[shown], log_snr[shown], "o-", color="black", label="level")
    if not shown.all():
        right.plot([], [], " ", label="zero SNR at call " + ", ".join(map(str, calls[~shown])))
    right.set_xlabel("call")
    right.set_ylabel("log(alpha / sigma)")
    right.set_xticks(ticks)
    right.legend(loc="upper left")
    if np.any(plan.noise):
        noise = right.twinx()
        noise.bar(calls, np.asarray(plan.noise), color="tab:orange", alpha=0.4, width=0.5)
        noise.set_ylabel("noise added after the call", color="tab:orange")
    return figure
