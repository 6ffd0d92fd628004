"""What the options of `skipjax.sample` draw: samplers, schedules, predictions, labels."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from told import Told

import skipjax
from skipjax import SampleConfig, denoisers, generation, grids, guidance, plans
from skipjax.conditioners import Labels
from skipjax.config import resolve
from skipjax.process import PARAMETERIZATIONS

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")

KEY = jax.random.key(3)
LABEL = {"label": jnp.zeros(1, int)}
BETAS = (0.1, 0.2, 0.3, 0.4)
VARIANCES = ("small", "large", "learned_range", "learned")


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


def sample(params, **options):
    """Three pictures by four calls on one device."""
    if not {"steps", "plan"} & set(options):
        options = {"skip": 250} | options
    return skipjax.sample(params, KEY, num=3, devices=jax.local_devices()[:1], **options)


def test_steps_and_variance_stand_for_a_plan(params):
    drawn = {}
    for variance in VARIANCES:
        plan = plans.respaced(params.schedule, "4", variance)
        drawn[variance] = ours = sample(params, steps="4", variance=variance)
        np.testing.assert_array_equal(ours, sample(params, plan=plan), variance)
        skipped = plans.skipped(params.schedule, 250, 400, variance)
        ours = sample(params, skip=250, cutoff=400, variance=variance)
        np.testing.assert_array_equal(ours, sample(params, plan=skipped), variance)
    np.testing.assert_array_equal(sample(params, steps="4"), drawn["small"])
    assert all((drawn[variance] != drawn["small"]).any() for variance in VARIANCES[1:])


def test_steps_may_name_ddim(params):
    ddim = plans.ddim(params.schedule, grids.respaced(1000, "ddim4"))
    np.testing.assert_array_equal(sample(params, steps="ddim4"), sample(params, plan=ddim))


def test_a_network_draws_with_the_variance_that_it_was_made_for():
    for variance in VARIANCES:
        params = tiny.pretrained(variance=variance)
        for asked, drawn in ((None, variance), ("small", "small")):
            for steps, plan in (
                (None, plans.skipped(params.schedule, 20, 0, drawn)),
                ("25", plans.respaced(params.schedule, "25", drawn)),
            ):
                config = SampleConfig(steps=steps, variance=asked)
                chex.assert_trees_all_equal(resolve(params, config).plan, plan)


def test_every_prediction_is_read_as_such(monkeypatch, subtests):
    Told(monkeypatch)
    x = jnp.full((1, 8, 8, 3), 0.3)
    for schedule in ("linear", "sigmoid", "rectified_flow", BETAS):
        for prediction in PARAMETERIZATIONS.keys() - {"edm", "consistency"}:
            if (schedule, prediction) == ("rectified_flow", "v"):
                continue
            T = len(schedule) if isinstance(schedule, tuple) else 1000
            params = tiny.pretrained(schedule=schedule, T=T, prediction=prediction)
            alpha, sigma = params.schedule.at(2)
            point = denoisers.Point(2.0, alpha, sigma)
            with subtests.test(schedule=schedule, prediction=prediction), jax.disable_jit():
                said = generation.denoiser(params, LABEL, transform=denoisers.unchanged)(x, point)
                x_0, eps = np.asarray(said.x_0), np.asarray(said.eps)
                output = {
                    "eps": eps,
                    "x_0": x_0,
                    "v": alpha * eps - sigma * x_0,
                    "score": -eps / sigma,
                    "neg_eps": -eps,
                    "velocity": eps - x_0,
                    "data_velocity": x_0 - eps,
                }[prediction]
                np.testing.assert_allclose(output, x, rtol=0, atol=2e-5)
                np.testing.assert_allclose(alpha * x_0 + sigma * eps, x, rtol=0, atol=1e-6)


def test_predictions_are_clipped_or_thresholded_or_neither(params, monkeypatch):
    Told(monkeypatch)
    x, point = 3 * np.ones((1, 8, 8, 3), np.float32), denoisers.Point(5.0, 0.8, 0.6)
    x[0, :2] = 0.4

    def predicted(**options):
        denoise = generation.denoiser(params, LABEL, **options)
        return jax.jit(lambda x: denoise(x, point).x_0)(x)

    free = predicted(transform=denoisers.unchanged)
    np.testing.assert_allclose(free, (x - 0.6 * x) / 0.8, atol=1e-5)
    np.testing.assert_allclose(predicted(), np.clip(free, -1, 1), atol=1e-6)
    least = predicted(transform=denoisers.Threshold(0.9))  # nine tenths are no more than 1.5
    np.testing.assert_allclose(least, free / 1.5, atol=1e-5)


def test_what_is_drawn_can_be_differentiated(params, monkeypatch):
    Told(monkeypatch)
    plan = jax.tree.map(jnp.asarray, plans.skipped(params.schedule, 250))
    ids, label = jnp.arange(2, dtype=jnp.uint32), jnp.zeros(2, int)

    @jax.jit
    def brightness(noise):
        changed = dataclasses.replace(plan, noise=noise)
        free = {"transform": denoisers.unchanged}
        return skipjax.generate(params, changed, KEY, ids, {"label": label}, **free).mean()

    mean, slope = jax.jit(jax.value_and_grad(brightness))(plan.noise)
    np.testing.assert_allclose(mean, brightness(plan.noise), rtol=1e-6)
    assert slope.all()
    step = 1e-2 * jnp.sign(slope)
    ahead, behind = brightness(plan.noise + step), brightness(plan.noise - step)
    np.testing.assert_allclose((ahead - behind) / 2e-2, jnp.abs(slope).sum(), rtol=1e-3)


def test_networks_are_told_rescaled_times(monkeypatch):
    classifier = tiny.classifier()
    models = [tiny.pretrained(T=4000, rescale_timesteps=rescale) for rescale in (True, False)]
    told = Told(monkeypatch)
    for params, told_t in zip(models, (125.0, 500.0), strict=True):
        by = dataclasses.replace(classifier, process=params.process)
        guide = guidance.ByClassifier(by, 1.0, (400.0, 600.0))
        denoise = generation.denoiser(params, LABEL, guidance=guide)
        said = told.of(denoise, np.ones((1, 8, 8, 3)), denoisers.Point(500.0, 0.8, 0.6))
        assert said.keys() == {("UNetConfig", 1), ("ClassifierConfig", 1)}
        assert all(network["t"] == told_t for network in said.values())


def test_betas_of_a_user_s_own_are_the_schedule(params):
    betas = np.linspace(1e-4, 0.02, 1000)
    process = params.process.replace(schedule=betas)
    assert process == params.process.replace(schedule=betas.tolist())
    assert hash(process) == hash(params.process.replace(schedule=tuple(betas)))
    own = params.replace(process=process)
    np.testing.assert_array_equal(own.schedule.alpha, params.schedule.alpha)
    np.testing.assert_array_equal(sample(own), sample(params))


def test_the_null_label_is_neither_drawn_nor_named():
    for null in (0, 1, 3):
        labels = Labels(4, tiny.NAMES, null)
        others = np.delete(np.arange(4), null)
        drawn = labels.encode({}, KEY, np.arange(300))["label"]
        assert np.bincount(drawn, minlength=4)[others].min() > 60 and null not in drawn
        assert [labels.number(name) for name in tiny.NAMES] == others.tolist()
        assert labels.number(null) == labels.number(str(null)) == null
        with pytest.raises(ValueError, match=r"label 4 is out of range: it must be 0 \.\. 3, or"):
            labels.number(4)


@pytest.mark.slow
def test_a_sweep_over_thresholds_runs_one_program(params):
    # From where x_0 = (x - sigma eps) / alpha does not blow up the last bit, in which two programs
    # of the same formulas may differ.
    mild = plans.ddpm(params.schedule, [400, 300, 200, 100])
    clipped, free = sample(params), sample(params, clip=False)
    assert jnp.abs(free).max() > 1.5
    drawn = {1.0: sample(params, threshold=1)}
    programs = generation.program._cache_size()
    drawn |= {quantile: sample(params, threshold=quantile) for quantile in (0.7, 0.95)}
    # Where no picture is stretched, it is clipping.
    least = sample(params, threshold=1e-6, plan=mild)
    np.testing.assert_allclose(least, sample(params, plan=mild), rtol=0, atol=1e-5)
    assert generation.program._cache_size() == programs
    assert max(jnp.abs(pictures).max() for pictures in drawn.values()) <= 1
    np.testing.assert_array_equal(sample(params, threshold=0.7, clip=False), drawn[0.7])
    apart = np.array([clipped, free, drawn[0.7], drawn[0.95], drawn[1.0]])
    assert (np.abs(apart[:, None] - apart).max((2, 3, 4, 5)) > 1e-3).sum() == 20
