"""The cards of the released ADM checkpoints, as they are written."""

import json
from pathlib import Path

from skipjax.models import ClassifierConfig, UNetConfig

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
CARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((CHECKPOINTS / "adm").glob("*.json"))
}
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
