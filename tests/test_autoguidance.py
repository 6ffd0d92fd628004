"""Guidance by a second network: what it computes, and wherever it can be asked for."""

import json

import edm_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import SampleConfig, cli, guidance, jobs
from skipjax.config import resolve
from skipjax.denoisers import Point
from skipjax.guidance import Autoguidance, ByClassifier, ClassifierFree
from skipjax.process import Times, as_schedule
from skipjax.weights import edm, folders, parts

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY = jax.random.key(0)
STEPS = {"num": 2, "plan": "ddim", "steps": 3}


@pytest.fixture(scope="module")
def model():
    """Class-conditional, with a label for no class."""
    return tiny.pretrained(null_label=2, class_names=("cat", "cow"))


def other(like, seed):
    """The same architecture with other weights."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), like.params)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    return like.replace(params=params, name=f"other_{seed}")


@pytest.fixture(scope="module")
def guide(model):
    return other(model, 1)


@pytest.fixture(scope="module")
def unconditional():
    return tiny.pretrained(None).replace(name="unconditional")


def point():
    alpha, sigma = as_schedule("linear").at(500)
    return Point(jnp.float32(500), jnp.float32(alpha), jnp.float32(sigma))


@jax.jit
def predicted(model, x, at, condition, ways):
    unchanged = skipjax.denoisers.unchanged
    return skipjax.denoiser(model, condition, guidance=ways, transform=unchanged)(x, at)


def x_0_of(model, x, label, guidance=()):
    condition = None if label is None else {"label": label}
    return np.asarray(predicted(model, x, point(), condition, guidance).x_0)


@pytest.mark.slow
def test_it_moves_away_from_the_guide(model, guide, unconditional):
    x = jax.random.normal(KEY, (2, *model.shape))
    label = np.array([0, 1])
    own = x_0_of(model, x, label)
    for second, said in ((guide, label), (unconditional, None)):
        theirs = x_0_of(second, x, said)
        for scale in (0.0, 1.0, 2.5, jnp.asarray([0.5, 3.0])):
            guided = x_0_of(model, x, label, guidance=Autoguidance(second, scale))
            w = np.reshape(scale, (-1, 1, 1, 1))
            np.testing.assert_allclose(guided, theirs + w * (own - theirs), atol=2e-4)
    at = point()
    prediction = predicted(model, x, at, {"label": label}, Autoguidance(guide, 2.0))
    again = at.alpha * prediction.x_0 + at.sigma * prediction.eps
    np.testing.assert_allclose(again, x, atol=1e-4)


@pytest.mark.slow
def test_outside_its_interval_it_does_nothing(model, guide):
    x, label = jax.random.normal(KEY, (2, *model.shape)), np.array([0, 1])
    own = x_0_of(model, x, label)
    guided = x_0_of(model, x, label, guidance=Autoguidance(guide, 2.0))
    for interval, expected in (((0, 499), own), ((400, 600), guided), ((501, 999), own)):
        way = Autoguidance(guide, 2.0, interval)
        np.testing.assert_allclose(x_0_of(model, x, label, guidance=way), expected, atol=1e-4)


@pytest.mark.slow
def test_several_ways_compose(model, guide, unconditional):
    x, label = jax.random.normal(KEY, (2, *model.shape)), np.array([0, 1])
    free = x_0_of(model, x, label, guidance=ClassifierFree(3.0))
    first, second = x_0_of(guide, x, label), x_0_of(unconditional, x, None)
    ways = [Autoguidance(guide, 2.0), ClassifierFree(3.0), Autoguidance(unconditional, 0.5)]
    mixed = first + 2.0 * (free - first)
    mixed = second + 0.5 * (mixed - second)
    np.testing.assert_allclose(x_0_of(model, x, label, guidance=ways), mixed, atol=1e-3)
    by = ByClassifier(tiny.classifier(), 2.0)
    condition = {"label": label, guidance.CLASS: label}
    both = predicted(model, x, point(), condition, [by, Autoguidance(guide, 2.0)])
    alone = predicted(model, x, point(), condition, by)
    np.testing.assert_allclose(both.gradient, alone.gradient, rtol=1e-5)


@pytest.mark.slow
def test_it_is_asked_for_in_python(model, guide, unconditional):
    plain = skipjax.sample(model, KEY, label=1, **STEPS)
    same = skipjax.sample(model, KEY, label=1, guidance=Autoguidance(guide, 1.0), **STEPS)
    np.testing.assert_allclose(same, plain, atol=1e-4)
    strong = skipjax.sample(model, KEY, label=1, guidance=Autoguidance(guide, 2.0), **STEPS)
    assert np.abs(strong - plain).max() > 1e-3
    named = skipjax.sample(model, KEY, label=1, guide=guide, guidance=2.0, **STEPS)
    np.testing.assert_allclose(named, strong, atol=1e-4)
    listed = [1.0, Autoguidance(guide, 2.0)]
    listed = skipjax.sample(model, KEY, label=1, guidance=listed, **STEPS)
    np.testing.assert_allclose(listed, strong, atol=1e-4)
    nothing = skipjax.sample(
        model, KEY, label=1, guidance=Autoguidance(unconditional, 0.0), **STEPS
    )
    alone = skipjax.sample(unconditional, KEY, **STEPS)
    np.testing.assert_allclose(nothing, alone, atol=1e-4)
    plan = skipjax.plans.ddim(model.schedule, skipjax.grids.trailing(1000, 3))
    condition = model.conditioner.encode({"label": 1}, KEY, np.arange(2))
    drawn = skipjax.generate(
        model, plan, KEY, jnp.arange(2), condition, guidance=Autoguidance(guide, 2.0)
    )
    np.testing.assert_allclose(drawn, strong, atol=1e-4)


def test_another_scale_runs_the_same_program(model, guide):
    condition = model.conditioner.encode({"label": 1}, KEY, np.arange(2))
    plan = skipjax.plans.ddim(model.schedule, skipjax.grids.trailing(1000, 3))

    def run(second, scale):
        way = Autoguidance(second, jnp.float32(scale))
        return skipjax.generate(model, plan, KEY, jnp.arange(2), condition, guidance=way)

    first = run(guide, 2.0)
    before = skipjax.generation.program._cache_size()
    assert np.abs(run(guide, 3.0) - first).max() > 1e-4
    assert np.abs(run(other(model, 2), 2.0) - first).max() > 1e-4
    assert skipjax.generation.program._cache_size() == before


@pytest.mark.slow
def test_weights_may_be_split_over_devices(model, guide):
    mesh = skipjax.sharding.mesh(2, 4)
    split = jax.tree.map(lambda leaf: skipjax.sharding.split(mesh, leaf.shape), model.params)
    placed = [m.replace(params=jax.device_put(m.params, split)) for m in (model, guide)]
    strong = skipjax.sample(model, KEY, label=1, guidance=Autoguidance(guide, 2.0), **STEPS)
    for second in (placed[1], guide):  # what lies elsewhere is copied to the mesh
        way = Autoguidance(second, 2.0)
        drawn = skipjax.sample(placed[0], KEY, label=1, guidance=way, **STEPS)
        np.testing.assert_allclose(drawn, strong, atol=1e-4)


def test_a_guide_that_does_not_fit_is_refused(model, guide, unconditional, subtests):
    small = tiny.model(tiny.config(image_size=16), "wide")
    later = guide.replace(process=guide.process.replace(schedule=as_schedule("cosine")))
    for network, options, message in [
        (model, {"guidance": Autoguidance(small, 2.0)}, "guide wide does not fit tiny: it is of"),
        (model, {"guidance": Autoguidance(later, 2.0)}, "it was trained on another schedule"),
        (unconditional, {"guidance": Autoguidance(guide, 2.0)}, "the guide other_1 is told label"),
        (model, {"guide": guide}, "guide is given without guidance: say its scale too"),
        (model, {"guide": guide, "guidance": np.nan}, "it must be one finite number"),
        (model, {"guidance": [1.0, 2.0, Autoguidance(guide, 2.0)]}, "guidance holds 2 scales"),
        (
            model,
            {"guide": guide, "guidance": 2.0, "guidance_rescale": 0.5},
            "guidance_rescale is given, and a second network guides",
        ),
        (
            model,
            {"guide": guide, "guidance": 2.0, "classifier": tiny.classifier()},
            "classifier and guide are given, and one scale",
        ),
    ]:
        with subtests.test(message=message), pytest.raises(ValueError, match=message):
            resolve(network, SampleConfig(**options))
    for wrong in (tiny.classifier(), 3):
        with pytest.raises(TypeError, match="the guide is a|a classifier: give it as"):
            resolve(model, SampleConfig(guide=wrong, guidance=2.0))
    assert isinstance(guide.process.precondition, Times)  # others know the level on any schedule


@pytest.mark.slow
def test_networks_of_edm_guide_each_other():
    class_name, kwargs = edm_networks.CASES["edm2"]
    narrow = kwargs | {"model_channels": 16, "label_dim": 0}
    made = []
    for seed, arguments in enumerate((kwargs, narrow)):
        tensors, _ = edm_networks.tensors_of(class_name, arguments, seed)
        described = edm_networks.edm.models.model_of(class_name, arguments, f"net_{seed}")
        made.append(described.replace(params=edm.to_params(tensors, described.network)))
    net, gnet = made
    x = 3 * jax.random.normal(KEY, (2, *net.shape))
    at = Point(jnp.float32(0), jnp.float32(1), jnp.float32(3))
    label = {"label": np.array([2, 5])}
    D = predicted(net, x, at, label, ()).x_0
    D_g = predicted(gnet, x, at, None, ()).x_0
    guided = predicted(net, x, at, label, Autoguidance(gnet, 1.4)).x_0
    np.testing.assert_allclose(guided, D_g + 1.4 * (D - D_g), atol=1e-4)


@pytest.fixture(scope="module")
def saved(model, guide, tmp_path_factory):
    """Folders of both."""
    folder = tmp_path_factory.mktemp("both")
    for one in (model, guide):
        folders.save(folder / one.name, one.params, parts.describe(one), np.float32)
    return folder


@pytest.mark.slow
def test_a_job_is_told_by_its_guide(model, guide, saved, tmp_path, capsys):
    line = f"generate --checkpoint {saved / 'tiny'} --num 2 --plan ddim --steps 3 --labels cow"
    line = [*line.split(), "--guide", str(saved / "other_1"), "--guidance", "2"]
    cli.main([*line, "--out", str(tmp_path / "job")])
    (shard,) = (tmp_path / "job" / "shards").glob("*.npz")
    drawn = skipjax.sample(model, KEY, label=1, guidance=Autoguidance(guide, 2.0), **STEPS)
    images = np.load(shard)["images"].astype(int)
    assert np.abs(images - skipjax.to_uint8(drawn).astype(int)).max() <= 1
    identity = json.loads((tmp_path / "job" / "job.json").read_text())["identity"]
    assert identity["guide"]["name"] == "other_1" and len(identity["guide"]["sha256"]) == 64
    (way,) = identity["guidance"]
    assert way["kind"] == "Autoguidance" and way["scale"] == 2.0 and "model" not in way
    third = other(model, 3)
    folders.save(saved / "other_3", third.params, parts.describe(third), np.float32)
    line[line.index("--guide") + 1] = str(saved / "other_3")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([*line, "--out", str(tmp_path / "job")])
    message = capsys.readouterr().err
    assert "holds another job" in message and "guide.sha256 is" in message
    plain = jobs.job.resolve(jobs.Job(checkpoint=str(saved / "tiny"), labels="cow"))
    assert "guide" not in plain.identity
    for asked in ({"guidance": Autoguidance(guide, 2.0)}, {"guide": guide, "guidance": 2.0}):
        with pytest.raises(ValueError, match="a job takes the"):
            jobs.Job(checkpoint=str(saved / "tiny"), **asked)


def test_the_command_samples_with_a_guide(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"sample --checkpoint {saved / 'tiny'} --num 2 --plan ddim --steps 3 --label cow"
    cli.main([*line.split(), "--out", "plain.npz"])
    line += f" --guide {saved / 'other_1'} --guidance 2"
    cli.main([*line.split(), "--out", "guided.npz"])
    plain, guided = (np.load(f"{name}.npz")["arr_0"].astype(int) for name in ("plain", "guided"))
    assert np.abs(plain - guided).max() > 1
