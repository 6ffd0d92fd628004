"""Plans and whole loops against the steps of diffusers' DDIM and DDPM schedulers.

The schedulers compute in the precision of `alphas_cumprod`, float32 as they build it. Where
coefficients are compared they are given our float64 table, so that what differs is the formulas.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_oracle import READINGS, SCHEDULES, diffusers, torch

from skipjax import denoisers, grids, plans, schedules
from skipjax.sampling import gaussian, integrate

NUMS = [5, 10, 20, 50]
DENOISERS = {
    "epsilon": denoisers.from_eps,
    "sample": denoisers.from_x_0,
    "v_prediction": denoisers.from_v,
}
GRIDS = {"leading": grids.leading, "trailing": grids.trailing, "linspace": grids.linspace}
ETAS = (0.0, 0.5, 1.0)
each_prediction = pytest.mark.parametrize("prediction", READINGS)


def make(cls, name, num, exact=True, **options):
    """A scheduler set to `num` steps; with our float64 table where `exact`."""
    schedule, betas = SCHEDULES[name]
    scheduler = cls(clip_sample=options.pop("clip_sample", False), **betas, **options)
    scheduler.set_timesteps(num)
    if exact:
        scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha**2)
        if not scheduler.config.get("set_alpha_to_one", True):
            scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def ddim(name, num, exact=True, **options):
    return make(diffusers.DDIMScheduler, name, num, exact, **options)


def ddpm(name, num, exact=True, **options):
    return make(diffusers.DDPMScheduler, name, num, exact, **options)


def step(scheduler, t, x, m, z, eta=None, clipped=False):
    """One step of a scheduler with given noise."""
    if isinstance(scheduler, diffusers.DDIMScheduler):
        options = {"eta": eta, "variance_noise": z, "use_clipped_model_output": clipped}
        return scheduler.step(m, t, x, **options).prev_sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: z)
        return scheduler.step(m, t, x).prev_sample


def theirs(scheduler, eta=None):
    """Weights of x, the network's output and the noise in each step, [N, 3]."""
    x, m, z = torch.eye(3, dtype=torch.float64)[:, None]
    out = [step(scheduler, t, x, m, z, eta) for t in scheduler.timesteps]
    assert out[0].dtype == torch.float64
    return torch.cat(out).numpy()


def ours(plan, prediction="epsilon"):
    """The same of a plan, in terms of what the network outputs."""
    assert plan.history == 1 and plan.space == "x_0"
    of_x, of_m = READINGS[prediction](plan.alpha, plan.sigma)
    mix = plan.mix[:, 0]
    return np.stack([plan.keep + mix * of_x, mix * of_m, plan.noise], axis=1)


def assert_same(one, other, err_msg=""):
    # 1 - abar is 4e-5 at cosine's first time: float64 holds it to 3e-12 of its size.
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12, err_msg=str(err_msg))


def settings(*others):
    """Every schedule with every value of the others."""
    return product(SCHEDULES, *others)


@each_prediction
def test_ddim_equals_their_coefficients(prediction):
    for name, eta, num, offset in settings(ETAS, NUMS, (0, 1)):
        times = grids.leading(1000, num, offset)
        scheduler = ddim(name, num, prediction_type=prediction, steps_offset=offset)
        plan = plans.ddim(SCHEDULES[name][0], times, eta)
        at = name, eta, num, offset
        assert_same(ours(plan, prediction), theirs(scheduler, eta), at)


@each_prediction
def test_ddim_on_the_trailing_grid_equals_theirs_where_num_divides_T(prediction):
    options = {"timestep_spacing": "trailing", "prediction_type": prediction}
    for name, eta, num in settings(ETAS, NUMS):
        plan = plans.ddim(SCHEDULES[name][0], grids.trailing(1000, num), eta)
        table = theirs(ddim(name, num, **options), eta)
        assert_same(ours(plan, prediction), table, (name, eta, num))


@pytest.mark.parametrize(("spacing", "num"), [("trailing", 7), ("linspace", 10)])
def test_exception_their_ddim_jumps_by_a_whole_stride_and_misses_the_next_time(spacing, num):
    # DDIMScheduler goes from t to t - T // num. Where the times are rounded that is not the time
    # at which the network is called next; our plans go there.
    schedule, times = schedules.linear(), GRIDS[spacing](1000, num)
    for eta, prediction in product(ETAS, READINGS):
        options = {"timestep_spacing": spacing, "prediction_type": prediction}
        table = theirs(ddim("linear", num, **options), eta)
        rows = ours(plans.ddim(schedule, times, eta), prediction)
        assert np.abs(rows - table)[:-1].max() > 1e-4, (eta, prediction)
        for t, row in zip(times, table, strict=True):
            plan = plans.ddim(schedule, [t], eta, end=max(t - 1000 // num, schedules.DATA))
            assert_same(ours(plan, prediction)[0], row, (eta, prediction, t))


def test_ddim_that_ends_at_time_0_is_theirs_without_set_alpha_to_one():
    # As Stable Diffusion 1 and 2 are set.
    for name, eta, num in settings(ETAS, NUMS):
        scheduler = ddim(name, num, set_alpha_to_one=False, steps_offset=1)
        plan = plans.ddim(SCHEDULES[name][0], grids.leading(1000, num, 1), eta, end=0)
        assert_same(ours(plan), theirs(scheduler, eta), (name, eta, num))


def test_exception_without_set_alpha_to_one_they_step_from_time_0_to_time_0():
    # Their last step changes nothing; a plan has no such step.
    scheduler = ddim("scaled_linear", 20, set_alpha_to_one=False)
    table = theirs(scheduler, 0.5)
    assert_same(table[-1], [1, 0, 0])
    plan = plans.ddim(schedules.scaled_linear(), grids.leading(1000, 20)[:-1], 0.5, end=0)
    assert_same(ours(plan), table[:-1])


@each_prediction
def test_ddpm_equals_their_coefficients(prediction):
    for name, variance, num in settings(("small", "large"), NUMS):
        options = {"prediction_type": prediction, "variance_type": f"fixed_{variance}"}
        plan = plans.ddpm(SCHEDULES[name][0], grids.leading(1000, num), variance)
        table = theirs(ddpm(name, num, **options))
        assert_same(ours(plan, prediction), table, (name, variance, num))


@each_prediction
def test_ddpm_equals_theirs_on_every_grid_up_to_the_noise_of_the_last_step(prediction):
    for name, spacing, num, variance in settings(GRIDS, [7, *NUMS], ("small", "large")):
        options = {"timestep_spacing": spacing, "variance_type": f"fixed_{variance}"}
        plan = plans.ddpm(SCHEDULES[name][0], GRIDS[spacing](1000, num), variance)
        table = theirs(ddpm(name, num, prediction_type=prediction, **options))
        rows, at = ours(plan, prediction), (name, spacing, num, variance)
        assert_same(rows[:-1], table[:-1], at)
        assert_same(rows[-1, :2], table[-1, :2], at)


def test_exception_their_ddpm_adds_noise_to_the_picture_where_the_last_time_is_not_0():
    # Theirs is silent at t = 0, ours on the step to the data.
    options = {"timestep_spacing": "trailing"}
    assert 0 < theirs(ddpm("linear", 10, **options))[-1, 2] < 1.1e-10
    large = theirs(ddpm("linear", 10, variance_type="fixed_large", **options))[-1, 2]
    assert large == pytest.approx(schedules.linear().sigma[99])
    assert plans.ddpm(schedules.linear(), grids.trailing(1000, 10), "large").noise[-1] == 0


MATRIX = np.random.default_rng(0).normal(size=(3, 3)) / 2


def their_network(x, t):
    t = float(t) / 1000
    return 3 * torch.tanh(x @ torch.tensor(MATRIX, dtype=x.dtype) + t)


def our_network(x, t):
    t = t[:, None, None, None] / 1000
    return 3 * jnp.tanh(x @ jnp.asarray(MATRIX, x.dtype) + t)


BARE = {name: of(our_network) for name, of in DENOISERS.items()}
CLIPPED = {name: denoisers.clip(bare) for name, bare in BARE.items()}
LARGE = {"variance_type": "fixed_large"}
LOOPS = {
    "ddim_0": (plans.ddim, ddim, {}, 0.0),
    "ddim_0.5": (partial(plans.ddim, eta=0.5), ddim, {}, 0.5),
    "ddpm_small": (plans.ddpm, ddpm, {}, None),
    "ddpm_large": (partial(plans.ddpm, variance="large"), ddpm, LARGE, None),
}


@partial(jax.jit, static_argnames="denoise")
def run(plan, denoise, x, keys):
    return integrate(plan, denoise, x, keys)


@partial(jax.jit, static_argnames=("num", "dtype"))
def draw(keys, num, dtype):
    """The noises that integrate draws: [num, B, H, W, C]."""
    of_step = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, jnp.arange(num))
    return jax.vmap(lambda keys: gaussian(keys, (4, 5, 3), dtype))(of_step)


def both(loop, name, prediction, dtype, exact=True, clip=False):
    """The picture of a whole loop, ours and theirs, over 20 steps with the same noises."""
    plan, make, options, eta = LOOPS[loop]
    scheduler = make(name, 20, exact, prediction_type=prediction, clip_sample=clip, **options)
    keys = jax.random.split(jax.random.key(1), 4)
    *noises, x = (torch.tensor(np.asarray(z)) for z in draw(keys, 21, dtype))

    plan = plan(SCHEDULES[name][0], grids.leading(1000, 20))
    denoise = (CLIPPED if clip else BARE)[prediction]
    out = run(plan, denoise, jnp.asarray(x.numpy()), keys)
    for t, z in zip(scheduler.timesteps, noises, strict=True):
        x = step(scheduler, t, x, their_network(x, t), z, eta, clip)
    assert out.dtype == dtype and str(x.dtype) == f"torch.{jnp.dtype(dtype).name}"
    return np.asarray(out), x.numpy()


@each_prediction
def test_loop_equals_theirs_in_float64(prediction, float64):
    for name, loop in settings(LOOPS):
        out, expected = both(loop, name, prediction, jnp.float64)
        within = 1e-12 * np.abs(expected).max()
        np.testing.assert_allclose(out, expected, rtol=0, atol=within, err_msg=f"{name} {loop}")


@each_prediction
def test_loop_that_clips_equals_clip_sample_in_float64(prediction, float64):
    # DDIM's part in it is `use_clipped_model_output`: eps follows the clipped x_0.
    for name, loop in settings(LOOPS):
        out, expected = both(loop, name, prediction, jnp.float64, clip=True)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12, err_msg=f"{name} {loop}")
        assert (np.abs(expected) == 1).any(), (name, loop)


def test_loop_equals_that_of_an_untouched_scheduler_in_float32():
    for name, loop in settings(LOOPS):
        out, expected = both(loop, name, "epsilon", jnp.float32, exact=False)
        within = 2e-5 * np.abs(expected).max()
        np.testing.assert_allclose(out, expected, rtol=0, atol=within, err_msg=f"{name} {loop}")
