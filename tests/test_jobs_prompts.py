"""Jobs of prompts: one picture or several of each, with captions beside them in every format."""

import json

import jax
import numpy as np
import pytest
import toy_video
from command import refused
from PIL import Image

import skipjax
from skipjax import cli, jobs
from skipjax.jobs import Job, formats
from skipjax.jobs.export import export
from skipjax.jobs.formats import Pictures
from skipjax.jobs.job import resolve
from skipjax.jobs.shards import Layout, Shards
from skipjax.jobs.storage import Folder
from skipjax.weights import folders, parts

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry", "work")
STEPS = {"plan": "ddim", "steps": 2, "guidance": 2.0}
TABLE = "prompt,negative\na fox,blurry\n犬 🐕,\n"


@pytest.fixture(scope="module")
def model():
    return toy_video.pretrained()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("toys") / "toy"
    folders.save(path, model.params, parts.describe(model), np.float32, model)
    return str(path)


@pytest.fixture
def table(work):
    (work / "prompts.csv").write_text(TABLE, encoding="utf-8")
    return "prompts.csv"


def images(out):
    found = [np.load(path) for path in sorted((out / "shards").glob("*.npz"))]
    return {name: np.concatenate([shard[name] for shard in found]) for name in found[0].files}


def test_each_prompt_is_drawn_so_many_times_and_stands_beside_its_pictures(
    model, checkpoint, table, work
):
    line = f"generate --checkpoint {checkpoint} --plan ddim --steps 2 --guidance 2 --prompts"
    line = f"{line} {table} --per-prompt 3 --shard-size 4 --batch 4 --out job".split()
    cli.main(line)
    found = images(work / "job")
    captions = ["a fox"] * 3 + ["犬 🐕"] * 3
    assert found["captions"].tolist() == captions and found["ids"].tolist() == [*range(6)]
    negative = ["blurry"] * 3 + [""] * 3
    drawn = skipjax.sample(model, jax.random.key(0), prompt=captions, negative=negative, **STEPS)
    assert np.abs(found["images"] - skipjax.to_uint8(drawn).astype(int)).max() <= 1
    first = (work / "job/shards/000000.npz").read_bytes()
    (work / "job/shards/000001.npz").unlink()
    cli.main(line)  # goes on where it was
    assert images(work / "job")["captions"].tolist() == captions
    assert (work / "job/shards/000000.npz").read_bytes() == first
    assert not jobs.verify(work / "job").faults
    with np.load(export(work / "job").path) as arrays:
        assert arrays["captions"].tolist() == captions and len(arrays["arr_0"]) == 6


def test_the_identity_is_what_the_file_holds_not_its_name(checkpoint, table, work):
    first = resolve(Job(checkpoint, prompts=table, **STEPS))
    assert first.num == 2 and len(first.identity["prompts"]) == 64
    (work / "other.csv").write_text(TABLE, encoding="utf-8")
    assert resolve(Job(checkpoint, prompts="other.csv", **STEPS)).identity == first.identity
    (work / "other.csv").write_text(TABLE.replace("blurry", "dark"), encoding="utf-8")
    changed = resolve(Job(checkpoint, prompts="other.csv", **STEPS))
    assert changed.identity["prompts"] != first.identity["prompts"]
    twice = resolve(Job(checkpoint, prompts=table, per_prompt=2, **STEPS))
    assert twice.num == 4 and twice.identity["per_prompt"] == 2
    part = resolve(Job(checkpoint, prompts=table, num=5, **STEPS))
    assert part.captions(np.arange(5)).tolist() == ["a fox", "犬 🐕"] * 2 + ["a fox"]
    assert resolve(Job(checkpoint, prompt="a hen", per_prompt=4, **STEPS)).num == 4


def test_prompts_that_cannot_be_used_end_with_one_line(checkpoint, table, work, capsys):
    (work / "gap.txt").write_text("a fox\n\na hen\n")
    line = ["generate", "--checkpoint", checkpoint, "--plan", "ddim", "--steps", "2"]
    for options, said in (
        (["--prompts", "gap.txt"], "prompts: line 2 of gap.txt is empty"),
        (["--prompt", "gap.txt"], "prompts: line 2 of gap.txt is empty"),
        (["--prompts", "none.txt"], "prompts: none.txt cannot be read"),
        (["--prompts", "a fox"], "prompts is 'a fox': it must be a file whose name ends in .txt"),
        (["--prompts", table, "--prompt", "a"], "prompt and prompts are given: drop one"),
        (["--prompts", table], "negative is given without guidance"),
        (["--prompts", table, "--per-prompt", "0"], "per_prompt is 0: it must be a whole"),
        (["--embedding", "cat", "--prompt", "a"], "embedding is 'cat': it must be TOKEN=PATH"),
    ):
        assert said in refused([*line, *options, "--out", "run"], capsys), options


def test_captions_go_through_both_formats_as_they_are():
    texts = np.array(["a fox", "犬 🐕\nin two lines", ' "{}", '])
    some = Pictures(np.arange(3), np.zeros((3, 2, 2, 3), np.uint8), None, texts)
    for form in ("npz", "tar"):
        found = formats.decode(formats.encode(some, form), form)
        assert found.captions.tolist() == texts.tolist() and found.labels is None
    one = formats.decode(formats.encode(some.take([1]), "tar"), "tar")
    assert one.captions.tolist() == texts[1:2].tolist()


def test_exported_pictures_say_what_they_are_of(tmp_path, checkpoint):
    identity = resolve(Job(checkpoint, num=2, prompt="犬 🐕", seed=7, **STEPS)).identity
    out = tmp_path / "job"
    shards = Shards(Folder(out), "hash", Layout(2, 2, "npz"))
    document = {"kind": "skipjax job", "version": 2, "job": "hash", "identity": identity}
    Folder(out).put("job.json", json.dumps(document | {"shard_size": 2}).encode())
    captions = np.array(["犬 🐕"] * 2)
    some = Pictures(np.arange(2), np.zeros((2, 4, 4, 3), np.uint8), np.array([5, 6]), captions)
    shards.put(0, some, [], {})
    export(out, "png", flat=True)
    with Image.open(out / "png" / "000001.png") as picture:
        said = json.loads(picture.info["skipjax"])
    assert {"id": 1, "label": 6, "prompt": "犬 🐕", "seed": 7}.items() <= said.items()
    assert said["checkpoint"] == "toy_video" and len(said["sha256"]) == 64
    assert said["guidance"][0]["scale"] == 2.0 and "ddim" in said["plan"]
