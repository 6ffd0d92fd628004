"""Jobs of Stable Diffusion, tiny: on a mesh, from kept programs, and with what changes weights."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pipelines
import pytest
from jax import monitoring
from safetensors.numpy import save_file
from small_jobs import ONE, Told

import skipjax
from skipjax import conditioners, jobs
from skipjax.jobs import Job
from skipjax.jobs.compiled import Batch, Compiled
from skipjax.jobs.job import resolve

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry", "work")
WORDS = ("a fox", "the cat in snow", "a fox", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return {name: str(pipelines.write(folder / name, name)) for name in ("sd1", "xl")}


def prompts(lines):
    Path("prompts.jsonl").write_text("\n".join(f'"{line or " a hen"}"' for line in lines))
    return "prompts.jsonl"


def drawn(out):
    found = [np.load(path) for path in sorted(Path(out, "shards").glob("*.npz"))]
    return np.concatenate([shard["images"] for shard in found]).astype(int)


@pytest.mark.slow
def test_weights_of_all_parts_lie_on_a_mesh_and_draw_the_same(folders):
    job = Job(folders["xl"], prompts=prompts(WORDS), skip=250, shard_size=4)
    alone = jobs.run(job, "alone", devices=ONE, batch=4, report=Told())
    told = Told()
    spread = jobs.run(job, "spread", split=2, report=told)
    assert alone.pictures == spread.pictures == 4 and "to decode" in "".join(told.lines)
    assert np.abs(drawn("alone") - drawn("spread")).max() <= 1
    model = resolve(job, skipjax.sharding.mesh(model=2)).params
    for leaf in jax.tree.leaves((model.params, model.codec, model.conditioner)):
        assert len(leaf.sharding.device_set) == 8
        split = leaf.sharding.shard_shape(leaf.shape) != leaf.shape
        assert split == any(size % 2 == 0 and size for size in leaf.shape)


@pytest.mark.slow
def test_words_seeds_scales_and_weights_run_one_program(folders):
    """The program of a batch is traced once for all that `Compiled` and `sample` are told."""
    model, key = skipjax.load(folders["sd1"]), jax.random.key(0)
    options = {"num": 2, "skip": 250, "devices": ONE}
    rng = np.random.default_rng(0)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    for i in range(2):
        down, up = rng.normal(size=(2, 4, 32)).astype(np.float32)
        save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up.T}, f"{i}.st")
    os.rename("0.st", "a.safetensors")
    os.rename("1.st", "b.safetensors")
    first = skipjax.sample(model, key, prompt="a fox", negative="b", guidance=7.5, **options)
    programs = skipjax.generation.program._cache_size()
    others = [
        skipjax.load(folders["sd1"], loras=loras)
        for loras in ({"a.safetensors": 0.5}, ["b.safetensors"])
    ]
    seen = [first]
    for i, other in enumerate((*others, model)):
        words = {"prompt": WORDS[1], "negative": None, "guidance": 2.0 + i, "cutoff": 500}
        seen.append(skipjax.sample(other, jax.random.key(i), **words, **options))
    assert skipjax.generation.program._cache_size() == programs
    apart = np.array(seen)
    assert np.abs(apart[:, None] - apart).max((2, 3, 4, 5))[~np.eye(4, dtype=bool)].min() > 1e-3


@pytest.mark.slow
def test_a_prompt_that_comes_again_is_encoded_once(folders, monkeypatch):
    job = Job(folders["sd1"], prompts=prompts(WORDS), skip=250, num=12)
    resolved, said = resolve(job), []
    encode = conditioners.ClipText.of_prompts

    def listen(self, some, *arguments, **options):
        said.extend(some)
        return encode(self, some, *arguments, **options)

    monkeypatch.setattr(conditioners.ClipText, "of_prompts", listen)
    batches = [resolved.batch(np.arange(i, i + 4)) for i in (0, 4, 8)]
    assert sorted(said) == sorted({"", " a hen", "a fox", "the cat in snow"})
    for batch in batches[1:]:
        np.testing.assert_array_equal(batch.condition["text"], batches[0].condition["text"])
    mixed = resolved.batch(np.array([6, 1]))  # whatever it is asked with
    np.testing.assert_array_equal(mixed.condition["text"][1], batches[0].condition["text"][1])


@pytest.mark.slow
def test_a_row_at_a_time_draws_what_the_whole_program_does(folders):
    resolved = resolve(Job(folders["sd1"], prompt="a fox", skip=250, guidance_rescale=0.5))
    batch, told = resolved.batch(np.arange(2)), []
    assert isinstance(batch, Batch)
    whole = Compiled(resolved.sampler, resolved.key, batch, ONE)
    steps = Compiled(resolved.sampler, resolved.key, batch, ONE, by_steps=True)
    z = steps.diffuse(batch, lambda: told.append(1))
    assert len(told) == 4
    np.testing.assert_allclose(z, whole.diffuse(batch), rtol=0, atol=1e-4)
    assert whole.decoding > 0 and whole.memory > 0


@pytest.mark.slow
def test_a_second_worker_takes_the_programs_of_the_first(folders):
    """Two processes, one after the other: the second compiles next to nothing."""
    code = "import sys; from skipjax.cli import main; main(sys.argv[1:])"
    line = ["generate", "--checkpoint", folders["sd1"], "--skip", "250", "--prompts"]
    line += [prompts(WORDS), "--shard-size", "2", "--num-workers", "2", "--out", "job", "--batch"]
    line += ["2", "--compiled-at", "kept"]
    kept = []
    for worker in "01":
        subprocess.run(
            [sys.executable, "-c", code, *line, "--worker", worker],
            check=True,
            capture_output=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        kept.append({path.name for path in Path("kept").glob("*-cache")})
    assert kept[0] and kept[1] == kept[0]
    assert not jobs.verify("job").faults


def test_compiled_programs_are_kept_where_is_said(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before, events = [getattr(jax.config, name) for name in names], []
    listen = events.append

    def heard(event, **_):
        listen(event)

    monitoring.register_event_listener(heard)
    try:
        jobs.keep_compiled(tmp_path / "kept")
        jax.config.update(names[1], 0.0)
        for _ in range(2):
            jax.jit(lambda x: x * 3 + 1)(np.ones(7, np.float32))
    finally:
        monitoring.unregister_event_listener(heard)
        jobs.keep_compiled(before[0])
        jax.config.update(names[1], before[1])
    counted = [event.rsplit("/", 1)[1] for event in events if "compilation_cache/cache_" in event]
    assert counted == ["cache_misses", "cache_hits"] and any((tmp_path / "kept").iterdir())
