"""The cards of the released ADM checkpoints, as they are written."""

import json
from pathlib import Path

from skipjax.models import ClassifierConfig, UNetConfig

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
RAW = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((CHECKPOINTS / "adm").glob("*.json"))
}


def flat(card):
    """A card with what its parts say beside all else."""
    fields = dict(card["network"])
    process = card["process"]
    scale = process.get("precondition", {}).get("scale", 1.0)
    found = card | {fields.pop("kind"): fields, "rescale_timesteps": scale != 1.0}
    found |= {name: process[name] for name in ("schedule", "T")}
    assert scale == (1000 / process["T"] if scale != 1.0 else 1.0)
    if "parameterization" in process:
        found |= {"prediction": process["parameterization"], "variance": process["variance"]}
    told = card.get("conditioner", [])
    for part in told if isinstance(told, list) else [told]:
        if part["kind"] == "labels":
            assert part["num_classes"] == fields.get("num_classes", fields["out_channels"])
            found["class_names"] = part["class_names"]
        else:
            found["low_res"] = part["shape"][0]
            assert part["shape"] == [found["low_res"]] * 2 + [fields["low_res_channels"]]
    return found


CARDS = {name: flat(card) for name, card in RAW.items()}
NETWORKS = [name for name, card in CARDS.items() if "unet" in card]
CLASSIFIERS = [name for name, card in CARDS.items() if "classifier" in card]


def config_of(card):
    """The architecture that a card describes."""
    if "unet" in card:
        return UNetConfig(**card["unet"])
    return ClassifierConfig(**card["classifier"])


def rows(*kinds):
    """Settings of the cards, with what card they are on and where."""
    for name, card in CARDS.items():
        for kind in kinds:
            for i, row in enumerate(card.get(kind, [])):
                yield f"{name}: {kind} {i}", card, row
