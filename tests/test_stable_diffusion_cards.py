"""Cards of Stable Diffusion: what they say is what the networks are."""

import json

import pytest

from skipjax.conditioners import Given, parts
from skipjax.weights import cards, components

FOLDER = cards.BUNDLED / "stable_diffusion"
CARDS = {path.stem: cards.read(path) for path in sorted(FOLDER.glob("*.json"))}


def test_every_card_is_of_a_pipeline_and_is_found_by_its_names():
    assert len(CARDS) == 10
    for name, card in CARDS.items():
        model = cards.model(card)
        assert model.name == card["name"] == name
        assert cards.of_hub(card["hub"]) == card
        gives = {"text", "pooled", "time_ids"} if "xl" in name else {"text"}
        gives |= {"concat"} if "inpainting" in name else set()
        gives |= {"guidance"} if "LCM" in name else set()
        assert {*model.conditioner.gives} == gives
        assert model.process.bounds is None and model.codec.factor == 8
        assert card["parameters"] == sum(card["networks"].values())
        assert not any(isinstance(p, Given) and p.key == "text" for p in parts(model.conditioner))
        assert json.dumps(card)


@pytest.mark.slow
def test_parameters_are_as_many_as_the_cards_say():
    for card in CARDS.values():
        assert components.parameters(cards.model(card)) == card["networks"]
