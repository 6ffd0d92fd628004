"""A second family of networks, from outside: drawn, guided, saved, generated, trained, tuned.

What is diffused has five axes, what conditions it are words, and pixels come of an autoencoder.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_video

import skipjax
from skipjax import cli, guidance, jobs, tuning
from skipjax.training import fit
from skipjax.training.pictures import Pictures
from skipjax.training.run import Run
from skipjax.weights import folders, parts

STEPS = {"plan": "ddim", "steps": 4}


@pytest.fixture(scope="module")
def model():
    return toy_video.pretrained()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("toys") / "toy"
    folders.save(path, model.params, parts.describe(model), np.float32, model)
    return path


@pytest.mark.slow
def test_videos_are_drawn_of_words(model):
    key = jax.random.key(0)
    many = skipjax.sample(model, key, num=3, prompt="fox", **STEPS)
    assert many.shape == (3, 3, 4, 8, 1)
    alone = skipjax.sample(model, key, ids=[2], prompt="fox", **STEPS)
    np.testing.assert_allclose(many[2], alone[0], atol=1e-5)
    other = skipjax.sample(model, key, prompt=["fox", "hen"], **STEPS)  # as many as there are
    assert other.shape[0] == 2
    np.testing.assert_allclose(other[0], many[0], atol=1e-5)
    assert np.abs(np.asarray(other[1]) - np.asarray(many[1])).max() > 1e-3
    with pytest.raises(ValueError, match="give a prompt"):
        skipjax.sample(model, key, **STEPS)
    with pytest.raises(ValueError, match="label is given|unconditional"):
        skipjax.sample(model, key, prompt="fox", label=1, **STEPS)
    with pytest.raises(TypeError, match="did you mean prompt"):
        skipjax.sample(model, key, prompts="fox", **STEPS)


@pytest.mark.slow
def test_guidance_goes_from_the_null_prompt_to_the_words(model):
    key, options = jax.random.key(1), {"num": 2, "prompt": "fox"} | STEPS
    plain = skipjax.sample(model, key, **options)
    same = skipjax.sample(model, key, guidance=1.0, **options)
    np.testing.assert_allclose(plain, same, atol=1e-5)
    nothing = skipjax.sample(model, key, guidance=0.0, negative="hen", **options)
    hen = skipjax.sample(model, key, num=2, prompt="hen", **STEPS)
    np.testing.assert_allclose(nothing, hen, atol=1e-5)
    strong = skipjax.sample(model, key, guidance=3.0, guidance_rescale=0.7, **options)
    assert np.abs(strong - plain).max() > 1e-3
    condition = model.conditioner.encode({"prompt": "fox"}, key, np.arange(2))
    plan = skipjax.plans.ddim(model.schedule, skipjax.grids.trailing(1000, 4))
    ways = guidance.ClassifierFree(1.0, channels=3)
    z = skipjax.generate(model, plan, key, jnp.arange(2), condition, guidance=ways)
    np.testing.assert_allclose(skipjax.decode(model, z), plain, atol=1e-5)


@pytest.mark.slow
def test_size_trajectory_and_callback(model):
    key, seen = jax.random.key(2), []
    wide = skipjax.sample(model, key, num=1, prompt="fox", size=(4, 8), **STEPS)
    path = skipjax.sample(model, key, num=1, prompt="fox", trajectory=True, **STEPS)
    assert path.shape == (4, 1, 3, 2, 4, 4)
    np.testing.assert_allclose(model.codec.decode(path[-1]), wide, atol=1e-4)
    skipjax.sample(
        model,
        key,
        num=1,
        prompt="fox",
        callback=lambda i, x, prediction: seen.append((int(i), x.shape, prediction.x_0)),
        **STEPS,
    )
    jax.effects_barrier()
    assert sorted(i for i, _, _ in seen) == [0, 1, 2, 3]
    np.testing.assert_allclose(sorted(seen, key=lambda s: s[0])[-1][2], path[-1], atol=1e-5)


@pytest.mark.slow
def test_the_codec_and_the_folder_give_back_what_went_in(model, folder):
    x = jax.random.uniform(jax.random.key(3), (2, 3, 4, 8, 1), minval=-1)
    np.testing.assert_allclose(model.codec.decode(model.codec.encode(x)), x, atol=1e-5)
    loaded = skipjax.load(folder)
    assert jax.tree.structure(loaded) == jax.tree.structure(model)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_command_line_generates_videos(model, folder, tmp_path, capsys):
    line = f"generate --checkpoint {folder} --num 6 --shard-size 4 --plan ddim --steps 4"
    line = [*line.split(), "--prompt", "fox", "--guidance", "2", "--out", str(tmp_path / "job")]
    cli.main(line)
    found = [np.load(path) for path in sorted((tmp_path / "job" / "shards").glob("*.npz"))]
    images = np.concatenate([shard["images"] for shard in found])
    assert images.shape == (6, 3, 4, 8, 1) and images.dtype == np.uint8
    drawn = skipjax.sample(model, jax.random.key(0), num=6, prompt="fox", guidance=2.0, **STEPS)
    near = np.abs(images.astype(int) - skipjax.to_uint8(drawn).astype(int))
    assert near.max() <= 1
    identity = json.loads((tmp_path / "job" / "job.json").read_text())["identity"]
    assert identity["model"]["network"]["kind"] == "toy_video" and identity["prompts"] == ["fox"]
    assert not jobs.verify(tmp_path / "job").faults
    with pytest.raises(SystemExit):
        cli.main([*line[:-1], str(tmp_path / "tar"), "--format", "tar"])
    assert "npz" in capsys.readouterr().err


@pytest.mark.slow
def test_it_trains_for_ten_steps_on_all_devices(model, tmp_path):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(16, *model.shape)).astype(np.float32)
    told = model.conditioner.encode({"prompt": ["fox", "hen"] * 8}, None, np.arange(16))
    pictures = Pictures(latents, None, others=told)
    process = model.process
    run = Run(
        network=model.network,
        schedule="rectified_flow",
        prediction="velocity",
        precondition=process.precondition,
        bounds=None,
        steps=10,
        batch=8,
        rate=1e-2,
        warmup=0,
    )
    state = fit.fit(run, pictures, tmp_path / "run", start=model, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert int(state.step) == 10 and np.isfinite(rows[-1]["total"])
    trained = fit.averaged(run, state, start=model)
    drawn = skipjax.sample(trained, jax.random.key(0), num=1, prompt="fox", **STEPS)
    assert drawn.shape == (1, 3, 4, 8, 1)
    assert trained.process == process


@pytest.mark.slow
def test_a_plan_is_tuned_for_it(model, tmp_path):
    problem = tuning.Problem(
        model, jax.random.key(0), words={"prompt": "fox"}, guidance=2.0, num=8, held_out=8
    )
    times = skipjax.grids.trailing(model.schedule.T, 20)
    objective = tuning.Objective(teacher=skipjax.plans.dpmpp_2m(model.schedule, times))
    config = tuning.TuneConfig(nfe=3, starts=1, max_iters=2, batch=8)
    plan = tuning.tune(problem, objective, config)
    drawn = skipjax.sample(model, jax.random.key(0), num=1, prompt="fox", guidance=2.0, plan=plan)
    assert plan.nfe == 3 and np.isfinite(drawn).all()
