"""What there is: samplers, and what is known of a checkpoint."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import tyro

from skipjax import grids, plans, schedules
from skipjax.conditioners import Labels
from skipjax.models import CLIPTextConfig, param_shapes
from skipjax.pretrained import Classifier, Pretrained
from skipjax.process import called
from skipjax.weights import cards, loading, registry
from skipjax.weights.components import CODEC, parameters
from skipjax.weights.components import networks as networks_of


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
            "\nOrder of convergence, weak where there is noise, 0 of what is no solver. NFE: "
            "network calls for N\ntimes in the grid. K: predictions that a step looks back at. "
            "Skipped-step sampling joined with DDIM:\n--skip and --cutoff."
        )


@dataclass
class Info:
    """Say what is known of a checkpoint: what it is, how good, what it lacks."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "emoji32"
    """A bundled or released name, a checkpoint's folder, a released file, a folder that diffusers
    wrote, a single file of Stable Diffusion, or a name of the Hugging Face hub, of which only the
    configs are fetched."""

    revision: str | None = None
    """Branch, tag or commit of a name of the hub. Default: main."""

    json: bool = False
    """Print all of the card, and the parameters block by block."""

    def __call__(self) -> None:
        """Prints a page for people, or the card."""
        card = loading.describe(self.checkpoint, self.revision)
        model = cards.model(card)
        networks = parameters(model)
        if self.json:
            shapes = param_shapes(model.network)
            blocks = {
                block: sum(leaf.size for leaf in jax.tree.leaves(params))
                for block, params in shapes.items()
            }
            several = {"networks": networks} if len(networks) > 1 else {}
            said = card | several | {"blocks": blocks}
            print(json.dumps(said, indent=2, ensure_ascii=False))
            return
        rows = {"name": card.get("name")} | _parts(model, card, networks)
        rows |= {
            "latents": _settings(card["latents"]) if "latents" in card else None,
            "licence": card.get("licence"),
            "source": card.get("source"),
            "paper": card.get("paper"),
            "data": card.get("data"),
            "sampled as": [_settings(one) for one in card.get("sampling", ())],
            "published": [_settings(one) for one in card.get("published", ())],
            "measured": _figures(card.get("measured")),
            "lacks": card.get("lacks"),
            "caution": card.get("caution"),
        }
        width = max(10, *map(len, networks))
        for name, said in rows.items():
            for line in said if isinstance(said, list) else [said]:
                if line:
                    print(f"{name:{width}}  {line}")
                    name = ""


def _parts(model: Any, card: cards.Card, networks: dict[str, int]) -> dict[str, Any]:
    """What is said of the parts of a checkpoint, or of a part alone."""
    if not isinstance(model, (Pretrained, Classifier)):
        ((_, number),) = networks.items()
        return {"part": f"{registry.kind_of(model)}, {number:,} parameters"}
    process, shape = model.process, " x ".join(map(str, model.network.shape))
    network, *others = networks.items()
    rows: dict[str, Any] = {
        "network": f"{card_kind(card)} of {shape}, {network[1]:,} parameters",
        "process": called(process.schedule),
    }
    if isinstance(model, Classifier):
        return rows | {"classes": _classes(model.labels)}
    rows["process"] += f"; predicts {process.parameterization}, variance {process.variance}"
    configs = networks_of(model)
    for name, number in others:
        what = _autoencoder(model.codec) if name == CODEC else _encoder(configs[name][0])
        rows[name] = f"{what}, {number:,} parameters"
    told = model.conditioner.takes if model.conditioner is not None else ()
    rows["told"] = ", ".join(told) or None
    rows["classes"] = "none" if model.labels is None else _classes(model.labels)
    if model.labels is None and told:
        del rows["classes"]
    return rows | {"sampler": _sampler(model)}


def _autoencoder(codec: Any) -> str:
    return f"{registry.kind_of(codec)}, {codec.factor} pixels along a side of a latent"


def _encoder(network: CLIPTextConfig) -> str:
    return f"CLIP's, {network.num_hidden_layers} layers of {network.hidden_size}"


def card_kind(card: cards.Card) -> str:
    """What kind of network a card is about."""
    if "network" in card:
        return card["network"]["kind"]
    return "classifier" if "classifier" in card else "unet"


def _sampler(model: Pretrained | Classifier) -> str | None:
    """The checkpoint's own sampler."""
    if isinstance(model, Classifier) or (own := model.scheduler) is None:
        return None
    clips = "" if own.clip is None else f", x_0 within {own.clip:g}"
    if own.threshold is not None:
        clips = f", x_0 thresholded at the quantile {own.threshold[0]:g}"
    guided = "" if model.guidance is None else f", guidance {model.guidance:g}"
    return f"{registry.kind_of(own.method)}, {own.steps} steps{clips}{guided}"


def _classes(labels: Labels) -> str:
    null = "" if labels.null_label is None else ", and a label for none"
    names = ", ".join(labels.class_names[:9])
    more = ", ..." if len(labels.class_names) > 9 else ""
    return f"{labels.classes}{null}{': ' if names else ''}{names}{more}"


def _figures(said: Any) -> list[str]:
    """What was measured, a line each."""
    if not isinstance(said, dict):
        return [str(said)] if said else []
    return [f"{name}: {_settings(figure)}" for name, figure in said.items()]


def _settings(said: Any) -> str:
    """Settings and figures on one line; those of tables within are left to --json."""
    if isinstance(said, list):
        return " / ".join(map(str, said))
    if not isinstance(said, dict):
        return str(said) or "of all times"  # ADM's string for no respacing is empty
    if set(said) == {"mean", "standard_error"}:
        return f"{said['mean']} +- {said['standard_error']}"
    plain = {name: value for name, value in said.items() if not isinstance(value, dict)}
    return ", ".join(f"{name} {_settings(value)}" for name, value in plain.items())
