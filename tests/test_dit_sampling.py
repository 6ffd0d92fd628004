"""DiT and SiT at work: drawn from, guided on 3 of 4 channels, trained."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dit_reference import CONFIGS, close, forward, inputs, pretrained, state_dict

import skipjax
from skipjax import guidance, plans, sharding
from skipjax.conditioners import Labels
from skipjax.generation import denoiser
from skipjax.process import Flow, Point
from skipjax.sampling import starting_noise
from skipjax.training import fit
from skipjax.training.pictures import Pictures
from skipjax.training.run import Run
from skipjax.weights import dit

KEY = jax.random.key(3)
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def named(kind):
    """A tiny network that knows its classes by name."""
    names = ("cat", "cow", "dog", "hen", "owl")
    return pretrained(kind).replace(conditioner=Labels(6, names, 5))


def test_samples_are_drawn_by_label_and_depend_on_it():
    model = named("facebook")
    drawn = skipjax.sample(model, KEY, skip=20, label=["cat", 0, "owl"])
    assert drawn.shape == (3, 8, 8, 4) and np.isfinite(drawn).all()
    alone = skipjax.sample(model, KEY, skip=20, ids=[1], label="cat")
    np.testing.assert_allclose(alone[0], drawn[1], atol=1e-4 * np.abs(drawn).max())
    other = skipjax.sample(model, KEY, skip=20, ids=[1], label="owl")
    assert np.abs(other - alone).max() > 1e-3
    with pytest.raises(ValueError, match="label 'fox' is not a class"):
        skipjax.sample(model, KEY, label="fox")
    with pytest.raises(ValueError, match="clip is given, and what tiny_facebook diffuses has no"):
        skipjax.sample(model, KEY, clip=True)


def test_height_and_width_differ_where_places_allow():
    options = {"num": 1, "label": 1, "plan": "ddim", "steps": 4}
    assert skipjax.sample(pretrained("oblong"), KEY, **options).shape == (1, 8, 12, 4)
    wide = skipjax.sample(pretrained("diffusers"), KEY, size=(32, 128), **options)
    assert wide.shape == (1, 4, 16, 4)
    with pytest.raises(ValueError, match="x is 4 x 16: the places of 8 x 8 are saved"):
        skipjax.sample(pretrained("facebook"), KEY, size=(32, 128), **options)


def outputs(model, x, t, y):
    """What the network says, in float64 and apart from the code of the package."""
    config = model.network
    out = forward(state_dict(model.params), x, t, y, config.num_heads, config.patch_size)
    return out[..., : config.out_channels]


def with_cfg(model, x, t, y, scale):
    """Facebook's forward_with_cfg, of the conditional half."""
    wanted, null = outputs(model, x, t, y), outputs(model, x, t, np.full_like(y, 5))
    mixed = null[..., :3] + scale * (wanted[..., :3] - null[..., :3])
    return np.concatenate([mixed, wanted[..., 3:]], axis=-1)


@pytest.mark.parametrize("kind", ["facebook", "sit"])
def test_guidance_mixes_3_of_4_channels(kind):
    model = pretrained(kind)
    x, _, y = inputs(model.network)
    schedule, t = model.schedule, 600
    point = Point(jnp.float32(t), *map(jnp.float32, schedule.at(t)))
    told = 1 - (t + 1) / 1000 if kind == "sit" else float(t)
    said = with_cfg(model, x, np.full(3, told), y, 4.0)
    condition = {"label": jnp.asarray(y)}

    def ours(**options):
        ways = guidance.ClassifierFree(4.0, **options)
        return denoiser(model, condition, guidance=ways)(jnp.asarray(x), point)

    found = ours()
    if kind == "sit":  # velocity x_0 - eps of x = (1 - u) x_0 + u eps
        close(found.x_0 - found.eps, said)
        close(found.x_0, x + 0.601 * said)
    else:
        close(found.eps, said[..., :4])
        close(found.log_variance, said[..., 4:])
    every = ours(channels=4)
    assert np.abs(every.eps[..., 3] - found.eps[..., 3]).max() > 1e-3
    np.testing.assert_allclose(every.eps[..., :3], found.eps[..., :3], rtol=1e-5, atol=1e-5)
    whole = dataclasses.replace(model.network, guided_channels=None)
    same = denoiser(
        model.replace(network=whole), condition, guidance=guidance.ClassifierFree(4.0)
    )(jnp.asarray(x), point)
    np.testing.assert_allclose(same.eps, every.eps, atol=1e-5)
    assert CONFIGS["diffusers"].guided_channels is None


def test_ddpm_with_a_learned_variance_and_guidance_is_facebooks():
    """Their p_sample_loop on a respaced chain, in float64, with the same noise."""
    model, steps, scale = pretrained("facebook"), 5, 1.5
    schedule, y = model.schedule, np.array([0, 3])
    plan = plans.respaced(schedule, str(steps), "learned_range")
    drawn = skipjax.sample(model, KEY, label=y.tolist(), steps=str(steps), guidance=scale)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))

    def noise(step):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return np.stack([np.asarray(jax.random.normal(k, model.shape), np.float64) for k in own])

    x = np.asarray(starting_noise(keys, model.shape), np.float64)
    times = np.asarray(plan.t, int)
    abar = schedule.alpha[times] ** 2
    for i, t in enumerate(times):
        last = i == steps - 1
        before = 1.0 if last else abar[i + 1]
        beta = 1 - abar[i] / before
        small = beta * (1 - before) / (1 - abar[i])
        said = with_cfg(model, x, np.full(2, float(t)), y, scale)
        eps, part = said[..., :4], (said[..., 4:] + 1) / 2
        x_0 = (x - np.sqrt(1 - abar[i]) * eps) / np.sqrt(abar[i])
        mean = np.sqrt(before) * beta / (1 - abar[i]) * x_0
        mean = mean + np.sqrt(1 - beta) * (1 - before) / (1 - abar[i]) * x
        if last:
            x = mean
        else:
            log_variance = part * np.log(beta) + (1 - part) * np.log(small)
            x = mean + np.exp(log_variance / 2) * noise(i)
    close(drawn, x, 2e-4)


def test_sits_ode_is_eulers_in_its_own_time():
    model, y, steps = pretrained("sit"), np.array([1, 4]), 5
    drawn = skipjax.sample(model, KEY, label=y.tolist(), plan="ddim", steps=steps, guidance=2.0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))
    x = np.asarray(starting_noise(keys, model.shape), np.float64)
    for i in range(steps):
        x = x + with_cfg(model, x, np.full(2, i / steps), y, 2.0) / steps
    close(drawn, x, 2e-4)


@pytest.mark.slow
def test_sit_takes_solvers_of_flows(subtests):
    model = pretrained("sit")
    options = {"num": 2, "label": 2, "steps": 6}
    for settings in (
        {"plan": "ddim", "eta": 1.0},
        {"plan": "dpmpp_2m_sde"},
        {"plan": "unipc_2"},
    ):
        with subtests.test(**settings):
            drawn = skipjax.sample(model, KEY, **options, **settings)
            assert drawn.shape == (2, 8, 8, 4) and np.isfinite(drawn).all()
    assert skipjax.sample(model, KEY, num=1, skip=200).shape == (1, 8, 8, 4)


def test_time_that_runs_to_the_data():
    point = Point(jnp.float32(3), jnp.float32(0.6), jnp.float32(0.2))
    assert Flow(to_data=True).c_noise(point) == pytest.approx(0.75)
    assert Flow(1000.0, to_data=True).c_noise(point) == pytest.approx(750)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["facebook", "sit"])
def test_it_trains_for_ten_steps(kind, tmp_path):
    model = pretrained(kind, depth=1)
    rng, process = np.random.default_rng(0), model.process
    latents = rng.normal(size=(16, *model.shape)).astype(np.float32)
    run = Run(
        network=model.network,
        schedule="rectified_flow" if kind == "sit" else "linear",
        prediction=process.parameterization,
        precondition=process.precondition,
        loss="mse" if kind == "sit" else "hybrid",
        bounds=None,
        drop_labels=0.1,
        steps=10,
        batch=8,
        rate=1e-2,
        warmup=0,
        weight_decay=0.1,
    )
    data = Pictures(latents, np.arange(16, dtype=np.int32) % 5)
    mesh = sharding.mesh(1)
    state = fit.fit(run, data, tmp_path / "run", start=model, mesh=mesh, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert int(state.step) == 10 and np.isfinite(rows[-1]["total"])
    trained = fit.averaged(run, state, start=model)
    assert trained.process == process and trained.labels.null_label == 5
    before, after = model.params, jax.device_get(state.params)
    np.testing.assert_array_equal(after["pos_embed"], before["pos_embed"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, before, after)
    assert all(jax.tree.leaves(moved | {"pos_embed": True}))
    drawn = skipjax.sample(trained, KEY, num=1, label=0, guidance=2.0, plan="ddim", steps=3)
    assert np.isfinite(drawn).all()
    assert dit.to_params(state_dict(trained.params), model.network).keys() == model.params.keys()


def test_other_classes_leave_all_but_their_table_as_it_was():
    model = pretrained("facebook", depth=1)
    network = dataclasses.replace(model.network, num_classes=4)
    run = Run(network=network, loss="hybrid", bounds=None, steps=1, batch=8)
    with pytest.warns(UserWarning, match="knows 6 labels, and there are 4 here"):
        params = fit.fitting(model, run)
    table = params["embedder"].pop("y_embedder_embedding_table")
    assert table["embedding"].shape == (4, 24)
    before = dict(model.params)
    embedder = dict(before.pop("embedder"))
    del embedder["y_embedder_embedding_table"]
    jax.tree.map(np.testing.assert_array_equal, params, before | {"embedder": embedder})
