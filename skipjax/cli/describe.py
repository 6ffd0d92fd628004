"""What there is: samplers, and what is known of a checkpoint."""

import json
from dataclasses import dataclass
from typing import Annotated

import jax
import tyro

from skipjax import grids, plans, schedules
from skipjax.models import param_shapes
from skipjax.weights import cards, folders


@dataclass
class Plans:
    """List the samplers that --plan knows."""

    def __call__(self) -> None:
        """Prints a table, with K from a plan that is written."""
        schedule = schedules.linear()
        rows = [("plan", "order", "NFE", "per step", "K", "noise", "")]
        for name, method in plans.METHODS.items():
            plan = plans.write(name, schedule, grids.trailing(schedule.T, 10))
            noise = "yes" if plan.noise.any() else "no"
            numbers = (str(method.order), method.nfe, str(method.calls), str(plan.history))
            rows.append((name, *numbers, noise, method.about))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
        print(
            "\nOrder of convergence, weak where there is noise. NFE: network calls for N times in "
            "the grid.\nK: predictions that a step looks back at. Skipped-step sampling joined "
            "with DDIM: --skip and --cutoff."
        )


@dataclass
class Info:
    """Say what is known of a checkpoint, and what its network is made of."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "emoji32"
    """A bundled or released name, a checkpoint's folder, or a released file."""

    def __call__(self) -> None:
        """Prints the card, then the parameters block by block."""
        card = cards.describe(self.checkpoint)
        print(json.dumps(card, indent=2, ensure_ascii=False))
        shapes = param_shapes(folders.architecture(cards.spec(card)))
        blocks = {
            block: sum(leaf.size for leaf in jax.tree.leaves(params))
            for block, params in shapes.items()
        }
        width = max(map(len, blocks))
        for block, count in blocks.items():
            print(f"{block:{width}}  {count:>12,}")
        print(f"{'parameters':{width}}  {sum(blocks.values()):>12,}")
