"""Cards of EDM's and EDM2's files: they build, and say of the networks what the key lists say."""

import json
import math

import chex
import numpy as np
import pytest
from flax import traverse_util

from skipjax import grids, plans
from skipjax.config import SampleConfig, resolve
from skipjax.models import MagnitudeUNetConfig, param_shapes
from skipjax.plans.schedulers import EDM, Scheduler
from skipjax.process import Iddpm, Ve, Vp
from skipjax.weights import cards, edm, parts

CARDS = {
    path.stem: json.loads(path.read_text())
    for family in ("edm", "edm2")
    for path in sorted((cards.BUNDLED / family).glob("*.json"))
}
FIELDS = "name file_names source sha256 licence paper parameters tensors network process sampling "
FIELDS += "training"
MORE = {"conditioner", "codec", "latents", "published", "caution"}


def test_every_released_network_has_one():
    cifar = [f"edm-cifar10-32x32-{c}-{a}" for c in ("cond", "uncond") for a in ("vp", "ve")]
    faces = [f"edm-{d}-64x64-uncond-{a}" for d in ("ffhq", "afhqv2") for a in ("vp", "ve")]
    baselines = [f"baseline-cifar10-32x32-uncond-{a}" for a in ("vp", "ve")]
    imagenet = [f"{kind}-imagenet-64x64-cond-adm" for kind in ("edm", "baseline")]
    sizes = [f"edm2-img512-{size}" for size in ("xs", "s", "m", "l", "xl", "xxl")]
    sizes += [f"edm2-img64-{size}" for size in ("xs", "s", "m", "l", "xl")]
    sizes += [f"edm2-img512-{size}-uncond" for size in ("xs", "s")]
    assert CARDS.keys() == {*cifar, *faces, *baselines, *imagenet, *sizes}


def test_a_card_has_the_fields_of_its_kind():
    for name, card in CARDS.items():
        assert {*FIELDS.split()} <= card.keys() <= {*FIELDS.split()} | MORE, name
        assert card["name"] == name and "CC BY-NC-SA 4.0" in card["licence"]
        assert all(source.startswith("https://") for source in card["source"])
        assert [s.rpartition("/")[2] for s in card["source"]] == card["file_names"]
        for row in card.get("published", ()):
            assert row["source"] and ("fid" in row) != ("fd_dinov2" in row)
            assert row["nfe"] == 2 * row["steps"] - 1 if "steps" in row else "nfe" not in row
        for file in card["file_names"]:
            assert cards.of_file(cards.Path(file))["name"] == name


def test_a_network_is_sampled_as_its_figures_were_where_nothing_is_asked_for():
    for name, steps in (
        ("edm-cifar10-32x32-cond-vp", 18),
        ("baseline-cifar10-32x32-uncond-ve", 18),
        ("edm-ffhq-64x64-uncond-ve", 40),
        ("edm2-img512-s", 32),
    ):
        model = cards.model(CARDS[name])
        for config, num in ((SampleConfig(), steps), (SampleConfig(steps=5), 5)):
            written = plans.edm(model.schedule, grids.karras(model.schedule, num))
            plan = resolve(model, config).plan
            chex.assert_trees_all_equal(plan, written)
            assert plan.nfe == 2 * num - 1
        assert resolve(model, SampleConfig(skip=20)).plan.nfe == 50
        card = parts.describe(model)
        assert "scheduler" not in card and parts.build(card) == model
        other = model.replace(scheduler=None)
        assert parts.build(parts.describe(other)) == other
        noisy = model.replace(scheduler=Scheduler(EDM(40, 0.05, 50, 1.003), 256))
        assert parts.build(parts.describe(noisy)) == noisy
        assert np.any(noisy.scheduler.plan(model.schedule).noise)


SOME = ["edm-cifar10-32x32-uncond-ve", "baseline-imagenet-64x64-cond-adm", "edm2-img512-xs"]


@pytest.mark.parametrize("names", [SOME, pytest.param([*CARDS], marks=pytest.mark.slow)])
def test_a_card_builds_the_network_that_it_counts(names):
    for name in names:
        card = CARDS[name]
        model = cards.model(card)
        flat = traverse_util.flatten_dict(param_shapes(model.network))
        number = sum(
            math.prod(leaf.shape)
            for path, leaf in flat.items()
            if path[-1] not in ("freqs", "phases")
        )
        if isinstance(model.network, MagnitudeUNetConfig):
            number += sum(path[-2] == "emb_linear" for path in flat) + 1 + 128
        assert number == card["parameters"], name
        labels = model.labels
        assert (labels is None) == ("uncond" in name)
        if labels is not None:
            assert labels.classes == len(labels.class_names) == model.network.label_dim
        assert model.process.bounds is None
        if "img512" in name:
            assert card["latents"]["scale"] == 0.5 and len(card["latents"]["mean"]) == 4


def test_cards_agree_with_the_key_lists(shared):
    for path in sorted((shared / "keys" / "diffusers").glob("edm*.json")):
        found = json.loads(path.read_text())
        kwargs = {k: v for k, v in found["config"].items() if k != "precond"}
        ours = cards.model(CARDS[path.stem])
        theirs = edm.models.model_of(found["cls"], kwargs, path.stem)
        assert ours.network == theirs.network and ours.process == theirs.process
        assert (CARDS[path.stem]["parameters"], CARDS[path.stem]["tensors"]) == (
            found["params"],
            found["tensors"],
        )


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [
        ("baseline-cifar10-32x32-uncond-vp", Vp, 0.002),
        ("baseline-cifar10-32x32-uncond-ve", Ve, 0.02),
        ("baseline-imagenet-64x64-cond-adm", Iddpm, Iddpm().levels()[-2]),
    ],
)
def test_baselines_stand_where_they_were_trained(name, kind, least):
    process = cards.model(CARDS[name]).process
    assert isinstance(process.precondition, kind)
    sigma = process.schedule.sigma
    np.testing.assert_allclose((sigma[0], sigma[-1]), (least, 80), rtol=1e-12)


def test_known_sizes():
    """As the papers and the key lists count them."""
    million = {name: round(card["parameters"] / 1e6, 1) for name, card in CARDS.items()}
    assert million["edm-ffhq-64x64-uncond-vp"] == 61.8
    assert million["edm-ffhq-64x64-uncond-ve"] == 62.8
    assert million["edm2-img512-s"] == 280.2 and million["edm2-img512-xxl"] == 1523.2
