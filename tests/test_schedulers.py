"""A checkpoint's own sampler: what its config says, the table it writes, and when it is taken."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy_diffusers as toy

import skipjax
from skipjax import SampleConfig, denoisers, grids, plans, schedules
from skipjax.config import resolve
from skipjax.plans import Plan
from skipjax.plans.schedulers import DDIM, DDPM, DPM, LCM, PNDM, Euler, Heun, Scheduler, UniPC
from skipjax.sampling import integrate
from skipjax.schedules import DATA
from skipjax.weights import parts

SD = schedules.scaled_linear()
LINEAR = schedules.linear()
KEY = jax.random.key(0)


def times(method, num=10, schedule=SD):
    return method.plan(schedule, num).t.tolist()


def test_where_the_network_is_called():
    # Measured on diffusers 0.42.1, with the betas of Stable Diffusion.
    assert times(DDIM(offset=1)) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert times(DDIM("trailing")) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert times(DDIM("linspace")) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert times(Euler()) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert times(DPM()) == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]
    assert times(UniPC(spacing="leading", offset=1))[:3] == [901, 811, 721]
    called = times(PNDM(offset=1, skip_runge_kutta=True))
    assert called == [901, 801, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert times(LCM(), 4) == [999, 759, 499, 259]
    assert Heun().plan(SD, 10).nfe == 19 and PNDM().plan(SD, 10).nfe == 19


def test_what_sampling_starts_from():
    plan = Euler("trailing").plan(SD, 10)
    assert plan.sigma[0] / plan.alpha[0] == pytest.approx(14.6146, abs=1e-4)
    assert plan.prior_std == pytest.approx(14.6146 / np.hypot(1, 14.6146), abs=1e-6)
    plan = Euler("leading", 1).plan(SD, 10)
    assert 1 / plan.alpha[0] == pytest.approx(8.4501, abs=1e-4) and plan.prior_std is None
    assert all(m.plan(SD, 8).prior_std is None for m in (DDIM(), DDPM(), PNDM(), DPM(), UniPC()))


def same(a, b):
    for name in ("t", "alpha", "sigma", "keep", "mix", "noise"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=1e-11)
    assert a.space == b.space and a.origin.end == b.origin.end


@pytest.mark.parametrize("num", [5, 20])
def test_on_their_grids_they_are_the_plans_of_these_methods(num):
    leading = grids.leading(1000, num, 1)
    same(DDIM(offset=1).plan(SD, num), plans.ddim(SD, leading))
    same(DDIM(offset=1, to_data=False).plan(SD, num), plans.ddim(SD, leading, end=0))
    same(DDPM(variance="large").plan(SD, num), plans.ddpm(SD, grids.leading(1000, num), "large"))
    same(PNDM(offset=1).plan(SD, num), plans.f_pndm(SD, leading, end=0, whole_times=True))
    skips = PNDM(offset=1, skip_runge_kutta=True, to_data=True)
    same(skips.plan(SD, num), plans.plms(SD, leading))
    same(Euler("leading", 1).plan(SD, num), plans.euler(SD, leading))
    ancestral = Euler("leading", 1, ancestral=True)
    same(ancestral.plan(SD, num), plans.euler_ancestral(SD, leading))
    same(Heun("leading", 1).plan(SD, num), plans.heun(SD, leading))
    multistep = grids.leading(1000, num, 1, multistep=True)
    few = num < 15
    dpm = plans.dpmpp_2m(SD, multistep, lower_order_final=few)
    same(DPM("leading", 1).plan(SD, num), dpm)
    same(UniPC("leading", 1).plan(SD, num), plans.unipc(SD, multistep, lower_order_final=True))


def test_levels_are_spread_as_asked_between_the_ends():
    rho = SD.sigma / SD.alpha
    for spread, even in (("karras", lambda r: r ** (1 / 7)), ("exponential", np.log)):
        plan = Heun(spread=spread).plan(SD, 9)
        steps = plan.sigma[[0, *range(1, 17, 2)]] / plan.alpha[[0, *range(1, 17, 2)]]
        assert steps[[0, -1]] == pytest.approx(rho[[-1, 0]])
        np.testing.assert_allclose(np.diff(even(steps), 2), 0, atol=1e-9)
    plan = Euler(spread="karras", sigma_min=0.1, sigma_max=10.0).plan(SD, 6)
    assert (plan.sigma / plan.alpha)[[0, -1]] == pytest.approx([10, 0.1])
    assert set(times(DPM(spread="karras", told="rounded"))) <= set(range(1000))


def test_a_last_level_that_is_there_already_changes_nothing():
    scale = 1 / SD.alpha[0]  # Euler's picture is x / alpha
    for method, kept in (
        (DPM(spread="karras", to_data=False), 1.0),
        (UniPC(spread="karras", to_data=False, uncorrected=tuple(range(8))), 1.0),
        (Euler("leading", to_data=False), scale),
        (Heun(spread="exponential", to_data=False), scale),
    ):
        plan = method.plan(SD, 8)
        row = plan.nfe - (2 if isinstance(method, Heun) else 1)
        assert plan.keep[row:].prod() == pytest.approx(kept, abs=1e-9)
        np.testing.assert_allclose(plan.mix[row:], 0, atol=1e-9)


def network(x, t):
    return 2 * jnp.tanh(x[..., ::-1] + t[:, None, None, None] / 1000)


@pytest.mark.parametrize("clipped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_eps_follows_a_clipped_x_0_or_does_not(clipped, float64):
    leading, num = grids.leading(1000, 6), 6
    start = np.random.default_rng(0).normal(size=(2, 3, 3, 2))
    denoise = denoisers.clip(denoisers.from_eps(network), -0.8, 0.8)
    keys = jax.random.split(KEY, 2)
    x, (alpha, sigma), touched = start, LINEAR.at(np.append(leading, DATA)), 0
    for i, t in enumerate(leading):
        eps = np.asarray(network(jnp.asarray(x), jnp.full(2, t)))
        x_0 = np.clip((x - sigma[i] * eps) / alpha[i], -0.8, 0.8)
        touched += np.sum(np.abs(x_0) == 0.8)
        if clipped:
            eps = (x - alpha[i] * x_0) / sigma[i]
        x = alpha[i + 1] * x_0 + sigma[i + 1] * eps
    assert touched > 10
    for plan in (
        plans.ddim(LINEAR, leading, clipped_eps=clipped),
        DDIM(clipped_eps=clipped).plan(LINEAR, num),
    ):
        out = integrate(plan, denoise, jnp.asarray(start), keys)
        np.testing.assert_allclose(out, x, rtol=0, atol=1e-12)
        points = integrate(plan.replace(excess=None), denoise, jnp.asarray(start), keys)
        assert (np.abs(points - x).max() < 1e-12) == clipped


def test_a_plan_that_undoes_clipping_is_data_as_others_are():
    plan = DDIM().plan(LINEAR, 5)
    assert plan.excess.shape == (5,) and plan.excess[-1] == 0
    back = Plan.from_json(plan.to_json())
    np.testing.assert_array_equal(back.excess, plan.excess)
    assert plans.plan.stack([plan, back]).excess.shape == (2, 5)
    with pytest.raises(ValueError, match="must be alike"):
        plans.plan.stack([plan, DDIM(clipped_eps=True).plan(LINEAR, 5)])


@pytest.fixture(scope="module")
def model():
    return tiny.pretrained().replace(scheduler=Scheduler(DDIM(), 4, 0.5))


def test_a_model_is_sampled_as_its_scheduler_does(model):
    plan = model.scheduler.plan(model.schedule)
    condition = model.conditioner.encode({"label": 1}, KEY, np.arange(2))
    z = skipjax.generate(
        model, plan, KEY, jnp.arange(2), condition, transform=denoisers.Clip(-0.5, 0.5)
    )
    drawn = skipjax.sample(model, KEY, num=2, label=1)
    np.testing.assert_allclose(drawn, z, atol=1e-5)
    assert np.abs(np.asarray(drawn)).max() == 0.5


def chosen(model, **asked):
    return resolve(model, SampleConfig(**asked))


def test_what_is_asked_for_comes_before_the_scheduler(model):
    bare, own = model.replace(scheduler=None), model.scheduler
    for asked in ({}, {"steps": 7}, {"steps": "7"}):
        sampler = chosen(model, **asked)
        assert sampler.plan.nfe == (7 if asked else 4) and sampler.plan.excess is not None
        assert sampler.transform == denoisers.Clip(-0.5, 0.5)
    for asked in (
        {"skip": 100},
        {"skip": 100, "cutoff": 500},
        {"cutoff": 500},
        {"eta": 0.5},
        {"variance": "large"},
        {"steps": "10,10"},
        {"steps": "ddim25"},
        {"nfe": 6},
        {"plan": "ddim", "steps": 5},
        {"plan": "heun", "steps": 5, "grid": "karras"},
    ):
        ours, theirs = chosen(model, **asked), chosen(bare, **asked)
        assert ours.plan.to_json() == theirs.plan.to_json(), asked
        assert ours.transform == theirs.transform == denoisers.Clip(-1.0, 1.0), asked
    assert chosen(model, clip=False).plan.nfe == own.steps
    assert not isinstance(chosen(model, clip=False).transform, denoisers.Clip)
    assert chosen(model, clip=True).transform == denoisers.Clip(-1.0, 1.0)
    assert chosen(model, threshold=0.9).transform.quantile == np.float32(0.9)
    thresholded = model.replace(scheduler=Scheduler(DDIM(), 4, threshold=(0.9, 2.0)))
    found = chosen(thresholded).transform
    assert (found.quantile, found.largest) == (np.float32(0.9), np.float32(2.0))
    unlimited = model.replace(scheduler=Scheduler(Heun(), 3))
    assert not isinstance(chosen(unlimited).transform, denoisers.Clip)
    with pytest.raises(ValueError, match="grid is 'karras': say in steps|it goes with the name"):
        chosen(model, grid="karras")


def test_numbers_of_steps_that_cannot_be_are_refused(model):
    for steps, words in (
        (0, "steps is 0: it must be a whole number in 1 .. 1000"),
        (2.5, "steps is 2.5"),
        (True, "steps is True"),
        ("2000", "steps is 2000: it must be a whole number in 1 .. 1000"),
    ):
        with pytest.raises(ValueError, match=words):
            chosen(model, steps=steps)
    lcm = model.replace(scheduler=Scheduler(LCM(), 4))
    with pytest.raises(ValueError, match="steps is 60, which the checkpoint's own LCM cannot"):
        chosen(lcm, steps=60)
    late = model.replace(scheduler=Scheduler(DDIM(offset=1), 10))
    with pytest.raises(ValueError, match="own DDIM cannot take: offset is 1"):
        chosen(late, steps=1000)


METHODS = [
    DDPM("trailing", variance="large"),
    DDIM(offset=1, to_data=False),
    PNDM(skip_runge_kutta=True, mean_of="v"),
    LCM(25, 8.0),
    Euler("leading", 1, "karras", 0.1, 10.0, ancestral=True),
    Heun(spread="exponential"),
    DPM(order=3, space="eps", solver_type="heun", euler_at_final=True, log_snr_min=-5.1),
    UniPC(variant="bh1", uncorrected=(0, 1)),
]


def test_cards_have_the_scheduler(model, subtests):
    for method in METHODS:
        with subtests.test(type(method).__name__):
            own = Scheduler(method, 7, None, (0.9, 2.0))
            card = parts.describe(model.replace(scheduler=own))
            assert parts.build(json.loads(json.dumps(card))).scheduler == own
    assert "scheduler" not in parts.describe(model.replace(scheduler=None))
    card = parts.describe(model)
    for said, words in (
        (3, "scheduler is 3: it must be an object"),
        ({}, "scheduler: method: kind is None"),
        ({"method": {"kind": "ddimm"}}, "did you mean ddim"),
        ({"method": {"kind": "ddim"}, "step": 3}, "step is no field, did you mean steps"),
        ({"method": {"kind": "ddim"}, "clip": "1"}, "clip is '1', a str"),
    ):
        with pytest.raises(ValueError, match=words):
            parts.build(card | {"scheduler": said})


def test_models_that_differ_in_it_share_one_program(model):
    assert jax.tree.structure(model.core) == jax.tree.structure(model.replace(scheduler=None).core)
    again = jax.tree.map(lambda leaf: leaf, model)
    assert again.scheduler == model.scheduler


def test_the_toy_has_the_sampler_of_its_folder(tmp_path):
    said = toy.SCHEDULER | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    loaded = skipjax.load(toy.pipeline(tmp_path / "toy", scheduler=said))
    assert loaded.scheduler == Scheduler(PNDM(to_data=True, skip_runge_kutta=True), 50)
    assert skipjax.sample(loaded, KEY, num=1, steps=6).shape == (1, 4, 4, 3)
