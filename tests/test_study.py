"""The study: what it draws is what the library draws, it can be stopped, and what it concludes."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import least
import numpy as np
import pytest
import runs
import tiny
from flax import linen as nn

import skipjax
from skipjax import plans
from skipjax.denoisers import clip, scale_eps, unchanged
from skipjax.generation import denoiser
from skipjax.models import ClassifierConfig, UNetConfig
from skipjax.sampling import integrate, starting_noise
from skipjax.study import control, design, results, run
from skipjax.study import run as study_run
from skipjax.study.design import Unit
from skipjax.study.draw import draw
from skipjax.study.results import Cell
from skipjax.training.pictures import Pictures

PLAIN = Unit(None, None, 0)


pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


class Classifier(nn.Module):
    """The least one that has features."""

    @nn.compact
    def __call__(self, x, t, train=False):
        seen = nn.LayerNorm(name="out_0")(nn.Dense(8)(x))
        return nn.Dense(3)(nn.silu(seen).mean(axis=(1, 2)))


@pytest.fixture
def light(monkeypatch):
    """All networks are the least there are."""
    monkeypatch.setattr(UNetConfig, "module", lambda config, *_: least.Least(config))
    monkeypatch.setattr(ClassifierConfig, "module", lambda config, *_: Classifier())
    yield from runs.light(monkeypatch)


@pytest.fixture
def study(monkeypatch):
    """The study of a few plain colours, with the least networks."""
    whole = design.study(
        "digits", steps=2, batch=8, seeds=1, pictures=6, many=5, nfe=(5,), skips=(9,)
    )
    unet = tiny.config(out_channels=3)
    shape = {"image_size": 8, "in_channels": 3, "model_channels": 32, "channel_mult": (1,)}
    shape |= {"num_res_blocks": 0, "attention_resolutions": (), "num_head_channels": 32}
    small = ClassifierConfig(**shape, out_channels=3)
    labels = (np.arange(60) % 3).astype(np.int32)
    colours = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 3), np.uint8)
    images = np.broadcast_to(colours, (60, 8, 8, 3)).copy()
    data = Pictures(images, labels, (), ("a", "b", "c"))
    monkeypatch.setattr(design, "read", lambda _: data)
    network = replace(whole.run, network=replace(unet, num_res_blocks=0))
    return replace(whole, run=network, classifier=small, classifier_steps=2)


def test_every_cell_that_the_claims_are_about_is_there():
    study = design.study("emoji")
    units = list(design.units(study))
    assert len(units) == 21 and len({unit.name for unit in units}) == 21
    assert {unit.seed for unit in units} == {0, 1, 2}
    for nfe in study.nfe:
        found = design.variants(study, PLAIN, nfe)
        assert {v.sampler for v in found} == {*design.SAMPLERS, "hybrid"}
        assert {v.cutoff for v in found} == {None, 0.1, 0.2, 0.4, 0.6, 0.8}
        for variant in found:
            assert design.plan(study.run.process.schedule, variant, nfe).nfe == nfe


def test_ddpm_is_trained_by_the_program_of_the_others():
    study = design.study("digits")
    assert design.training(study, PLAIN).tau == 1.0
    other = design.training(study, Unit("paper", 49, 1))
    assert (other.tau, other.form, other.skip, other.seed) == (0.99, "paper", 49, 1)


@pytest.mark.slow
def test_many_samplers_at_once_draw_what_each_draws_alone():
    params = tiny.pretrained()
    schedule, key, labels = params.schedule, jax.random.key(3), np.array([0, 2])
    times = np.array([999, 700, 400, 100])
    names = ("ddim", "skipped", "deis_tab3", "dpmpp_2m")
    chosen = [plans.write(name, schedule, times) for name in names] * 2
    scales = [np.ones(1000)] * 4 + [np.linspace(0.9, 1, 1000)] * 4
    drawn = draw(params, chosen, scales, key, labels)
    assert drawn.shape == (8, 2, 8, 8, 3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(2))
    noise = starting_noise(keys, (8, 8, 3))
    told = {"label": labels}
    for plan, scale, pictures in zip(chosen, scales, drawn, strict=True):
        denoise = clip(scale_eps(denoiser(params, told, transform=unchanged), scale))
        alone = jax.jit(integrate, static_argnums=1)(plan, denoise, noise, keys)
        np.testing.assert_allclose(pictures, alone, atol=2e-4)
    plain = skipjax.sample(params, key, plan=chosen[0], ids=[0, 1], label=labels)
    np.testing.assert_allclose(drawn[0], plain, atol=2e-4)


@pytest.mark.usefixtures("light")
def test_a_unit_of_a_study_is_trained_sampled_and_measured(study, tmp_path, capsys):
    run(study, tmp_path, 0, 3)
    assert "digits ddpm_0: " in capsys.readouterr().out
    found = results.gather(study, tmp_path)
    (unit,) = found["units"]
    assert unit["seed"] == 0 and unit["held_out"]["eps_mse"] > 0
    energy = results.means(found, "energy")
    # 5 samplers and 5 hybrids, with 6 ways to scale eps at 5 calls.
    assert len(energy) == 16 and all(np.isfinite(mean.mean) for mean in energy.values())
    with np.load(tmp_path / "ddpm_0" / "samples.npz") as shown:
        assert len(shown.files) == 10 and shown["DDIM_None_5"].shape == (6, 8, 8, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_a_study_is_run_once_and_goes_on_where_it_was(study, tmp_path, monkeypatch):
    done = []
    unit = study_run.__globals__["_unit"]

    def counted(study, which, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(which.name)
        unit(study, which, *rest)

    monkeypatch.setitem(study_run.__globals__, "_unit", counted)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path)
    before = (tmp_path / done[0] / "cells.json").read_bytes()
    monkeypatch.setitem(study_run.__globals__, "_unit", unit)
    run(study, tmp_path)
    assert (tmp_path / done[0] / "cells.json").read_bytes() == before
    found = results.gather(study, tmp_path)
    assert len(found["units"]) == 3 == len(list(design.units(study)))
    results.write(tmp_path / "results.json", found)
    energy = results.means(found, "energy")
    assert all(mean.seeds == 1 and np.isfinite(mean.mean) for mean in energy.values())
    # 5 samplers and 5 hybrids, with 6 ways to scale eps at 5 calls; 5 for each S^2-DM.
    assert len(energy) == 10 + 6 + 2 * 5
    cell = Cell("ddpm", "DDIM", None, "none", 5)
    assert results.difference(found, "energy", cell, cell).mean == 0


def test_differences_are_taken_seed_by_seed():
    def unit(form, seed, value):
        cells = [["DDIM", None, "none", 5, 9, value, 0.0, 0.0, 0.0]]
        return {"form": form, "skip": form and 9, "seed": seed, "cells": cells}

    columns = ["sampler", "cutoff", "scaling", "nfe", "pictures", *results.METRICS]
    units = [unit(None, s, v) for s, v in enumerate((1.0, 5.0, 9.0))]
    units += [unit("paper", s, v) for s, v in enumerate((2.0, 7.0, 12.0))]
    found = {"columns": columns, "units": units}
    a, b = Cell("paper_9", "DDIM", None, "none", 5), Cell("ddpm", "DDIM", None, "none", 5)
    mean, error, seeds = results.difference(found, "energy", a, b)
    assert (mean, seeds) == (2.0, 3)
    np.testing.assert_allclose(error, 1 / np.sqrt(3))
    np.testing.assert_allclose(results.means(found, "energy")[b], (5, 4 / np.sqrt(3), 3))


def test_a_folder_without_results_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match="no unit that is done"):
        results.gather(study, tmp_path)
    with pytest.raises(ValueError, match="worker is 2"):
        run(study, tmp_path, 2, 2)


REFUSED = [
    ({"seeds": 0}, "seeds is 0"),
    ({"many": 3}, "many is 3"),
    ({"nfe": (5, 1)}, "nfe is 1"),
    ({"nfe": (1001,)}, "nfe is 1001"),
    ({"skips": (0,)}, "skip is 0"),
]


def test_what_would_fail_after_hours_is_refused_at_once(study, tmp_path, subtests):
    for changes, message in REFUSED:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            run(replace(study, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_study_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setitem(study_run.__globals__, "_classifier", lambda *_: None)
    monkeypatch.setitem(study_run.__globals__, "_unit", lambda *_: None)
    run(study, tmp_path)
    run(replace(study, seeds=2), tmp_path)
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"another study: study.pictures is 6 there, 7 here\. Name"
    ):
        run(replace(study, pictures=7), tmp_path)
    assert (tmp_path / "study.json").read_bytes() == before


def test_without_errors_of_eps_ddim_is_the_best_cutoff(study):
    found = {row[:3]: row[3] for row in control.cells(replace(study, nfe=(5, 20)))}
    for nfe in (5, 20):
        hybrids = [found["hybrid", cutoff, nfe] for cutoff in (0.2, 0.4, 0.6, 0.8)]
        assert found["skipped", None, nfe] >= max(hybrids) >= found["DDIM", None, nfe]
        assert hybrids == sorted(hybrids, reverse=True)


def test_the_published_control_is_what_is_computed():
    found = Path(__file__).parents[1] / "colabs" / "claims" / "emoji.json"
    published = json.loads(found.read_text())["exact_eps"]["cells"]
    again = control.cells(design.study("emoji"))
    for (*way, value), (*where, other) in zip(published, again, strict=True):
        assert way == where
        np.testing.assert_allclose(value, other, rtol=1e-3)
