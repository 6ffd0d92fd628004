"""Samplers that begin where x is noise alone: of networks trained for it, and one step before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy_video

import skipjax
from skipjax import Process, denoisers, grids, plans, schedules
from skipjax.process import Times

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY, ONE = jax.random.key(0), jax.local_devices()[:1]


@pytest.mark.slow
def test_guidance_is_rescaled_where_x_is_noise_alone():
    schedule = schedules.zero_terminal_snr(schedules.scaled_linear())
    model = tiny.pretrained(num_classes=4, null_label=3, prediction="v")
    model = model.replace(process=Process(schedule, "v", bounds=None))
    plan = plans.ddim(schedule, grids.trailing(1000, 4))
    assert plan.t[0] == 999 and plan.alpha[0] == 0
    point = denoisers.Point(jnp.float32(999), jnp.float32(0), jnp.float32(1))
    x = jax.random.normal(KEY, (2, *model.shape))
    condition = {"label": jnp.array([0, 1])}

    def v(**asked):
        of = skipjax.denoiser(model, asked.pop("condition", condition), **asked)(x, point)
        return -np.asarray(of.x_0)  # alpha eps - sigma x_0

    def std(a):
        return a.std(axis=(1, 2, 3), keepdims=True)

    wanted, without = v(), v(condition={"label": jnp.full(2, 3)})
    mixed = without + 5 * (wanted - without)
    way = skipjax.guidance.ClassifierFree(5.0, rescale=0.7)
    expected = (0.7 * std(wanted) / std(mixed) + 0.3) * mixed
    np.testing.assert_allclose(v(guidance=way), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_more_step_goes_from_noise_alone_to_where_a_network_begins():
    """The first network draws x_0 = -v of noise alone, and the second goes on from there."""
    model = toy_video.pretrained()
    model = model.replace(
        process=Process(schedules.scaled_linear(), "eps", Times(1e-3), bounds=None)
    )
    more = schedules.one_more_step(model.schedule)
    assert more.T == 1001 and more.alpha[-1] == 0
    first = model.replace(process=Process(more, "v", Times(1e-3), bounds=None), name="first")
    plan = plans.ddim(model.schedule, grids.trailing(1000, 2))
    legs = [(first, plans.ddim(more, [1000], end=999)), (model, plan)]
    asked = {"num": 2, "prompt": "fox", "guidance": 2.0, "devices": ONE}
    drawn = skipjax.relay(legs, KEY, **asked)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))
    eps = skipjax.sampling.starting_noise(keys, model.shape)
    told = model.conditioner.encode({"prompt": "fox"}, KEY, np.arange(2))
    nothing = model.conditioner.null(told)
    a, b = (
        model.network.apply(model.params, eps, jnp.full(2, 1.0), one) for one in (told, nothing)
    )
    x_0 = -(b + 2 * (a - b))
    z = more.alpha[999] * x_0 + more.sigma[999] * eps
    ways = skipjax.guidance.ClassifierFree(2.0)
    z = skipjax.generate(
        model, plan, KEY, jnp.arange(2), told, guidance=ways, start=(z.astype(jnp.float32), 0)
    )
    np.testing.assert_allclose(drawn, skipjax.decode(model, z), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="one more step goes before a variance-preserving"):
        schedules.one_more_step(more)
