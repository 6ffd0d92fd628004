"""What sampling starts from, in what sizes, and what lies beside x."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import Pretrained, Process, plans, schedules, tuning
from skipjax.process import Edm

KEY = jax.random.key(0)
EXPLODING = schedules.variance_exploding()
STD = 0.5  # of the data


@dataclass(frozen=True)
class Exact:
    """The exact network of data N(0, STD^2) whose noise explodes; or the same as EDM's F."""

    shape: tuple[int, ...] = (2,)
    edm: bool = False

    def init(self, key):
        return {}

    def apply(self, params, x, t, condition=None, *, dtype=jnp.float32):
        if self.edm:  # F of a denoiser STD^2 / (STD^2 + sigma^2) x is 0 where sigma_data is STD
            return jnp.zeros_like(x)
        log_sigma = jnp.interp(t, jnp.arange(EXPLODING.T), jnp.log(EXPLODING.sigma))
        sigma = jnp.exp(log_sigma)[:, None]
        return sigma * x / (STD**2 + sigma**2)


@pytest.mark.parametrize("edm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_where_the_variance_explodes_samples_start_from_sigma_max(edm):
    told = {"parameterization": "edm", "precondition": Edm(STD)} if edm else {}
    process = Process(EXPLODING, bounds=None, **told)
    model = Pretrained({}, Exact(edm=edm), process)
    for plan, within in (("heun", 0.02), ("dpmpp_2m", 0.02), ("euler", 0.08), ("ddim", 0.08)):
        options = {"plan": plan, "steps": 40, "grid": "uniform_log_snr", "num": 4096}
        drawn = np.asarray(skipjax.sample(model, KEY, **options))
        assert drawn.std() == pytest.approx(STD, rel=within), plan


def test_a_plan_may_say_what_it_starts_from():
    model = Pretrained({}, Exact(), Process(EXPLODING, bounds=None))
    plan = plans.ddim(EXPLODING, [999, 500])
    of_the_process = skipjax.generate(model, plan, KEY, jnp.arange(4))
    own = plan.replace(prior_std=np.float64(EXPLODING.sigma[-1]))
    np.testing.assert_allclose(skipjax.generate(model, own, KEY, jnp.arange(4)), of_the_process)
    half = plan.replace(prior_std=np.float64(EXPLODING.sigma[-1] / 2))
    drawn = skipjax.generate(model, half, KEY, jnp.arange(4))
    np.testing.assert_allclose(drawn, of_the_process / 2, rtol=1e-5)  # linear in the start


@pytest.mark.slow
def test_pictures_need_not_be_square(compiled_in_a_hurry):
    model = tiny.model(tiny.config(image_size=(16, 8)))
    assert skipjax.sample(model, KEY, skip=500, num=2).shape == (2, 16, 8, 3)
    wide, size = tiny.pretrained(), (8, 24)
    assert skipjax.sample(wide, KEY, skip=500, num=2, size=size).shape == (2, *size, 3)
    assert tuning.Problem(model=wide, key=KEY, size=size).shape == (*size, 3)


def test_what_is_laid_beside_x_is_a_condition(compiled_in_a_hurry):
    config = tiny.config(None, in_channels=5, out_channels=2, concat_channels=4)
    model = tiny.model(config, variance="learned_range")
    assert model.shape == (8, 8, 1)
    beside = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 4)).astype(np.float32)
    drawn = skipjax.sample(model, KEY, skip=500, concat=beside)
    assert drawn.shape == (2, 8, 8, 1)
    other = skipjax.sample(model, KEY, skip=500, concat=-beside)
    assert np.abs(np.asarray(drawn) - np.asarray(other)).max() > 1e-3
    output = model.network.apply(model.params, beside[..., :1], jnp.ones(2), {"concat": beside})
    assert output.shape == (2, 8, 8, 2)
    for wrong, message in (
        ({}, "the network sees more beside x: give them as concat, .num, 8, 8, 4."),
        ({"concat": beside[:, :4]}, "concat is .2, 4, 8, 4.: the network takes"),
        ({"concat": beside, "num": 3}, "concat has 2 pictures, and 3 are to be drawn"),
    ):
        with pytest.raises(ValueError, match=message):
            skipjax.sample(model, KEY, skip=500, **wrong)


def test_models_are_printed_in_a_line():
    model = tiny.pretrained()
    for shown in (model, tiny.classifier(), model.process, model.schedule, model.labels):
        assert len(repr(shown)) < 320 and "\n" not in repr(shown)
    assert "185,222 parameters in float32" in repr(model)


@pytest.mark.slow
def test_bfloat16_goes_by_its_short_name(tmp_path, compiled_in_a_hurry):
    loaded = skipjax.load(tiny.save(tmp_path / "tiny"), dtype="bf16")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype("bfloat16")}
    drawn = skipjax.sample(loaded, KEY, skip=500, num=1, dtype="bf16")
    assert drawn.dtype == jnp.float32
    with pytest.raises(ValueError, match="dtype is 'float8'|dtype is float8"):
        skipjax.sample(loaded, KEY, dtype="float8")


def test_devices_are_devices():
    with pytest.raises(TypeError, match="devices is 'cpu': give some of jax.devices"):
        skipjax.sample(tiny.pretrained(), KEY, devices="cpu")
