"""Plans made for a network: what is asked for, what comes with it, and where it is used."""

import json
from dataclasses import replace

import jax
import least
import numpy as np
import pytest
from command import refused
from small_tunings import KEY, TINY, parts, tuned

import skipjax
from skipjax import cli, grids, models, plans, sharding
from skipjax.plans import Plan
from skipjax.tuning import Problem
from skipjax.weights import shipped

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
slow = pytest.mark.slow


@pytest.fixture
def least_network(monkeypatch):
    """Every network is the least there is."""
    monkeypatch.setattr(models, "network", least.Least)


@pytest.fixture
def network(least_network):
    return least.pretrained()


@pytest.mark.slow
def test_a_network_gets_a_plan_that_says_where_it_is_from(network, tmp_path):
    teacher = plans.dpmpp_3m(network.schedule, grids.trailing(1000, 6))
    plan = tuned(network, label=1, teacher=teacher, out=tmp_path)
    assert plan.nfe == 3
    said = plan.origin.tuned
    assert said["checkpoint"] == network.fingerprint and said["teacher"] == "dpmpp_3m, 6 calls"
    assert set(said["error"]) == {"tuned", "fixed", "ratio"}
    again = Plan.from_json((tmp_path / "plan.json").read_text())
    assert again.origin.tuned == json.loads(json.dumps(said))
    np.testing.assert_array_equal(again.mix, plan.mix)
    assert {"plan.json", "report.md", "before.png", "after.png", "error.png", "teacher"} == {
        path.name for path in tmp_path.iterdir()
    }
    with pytest.raises(ValueError, match="teacher holds another teacher: "):
        tuned(network, label=2, teacher=teacher, out=tmp_path)


@pytest.mark.slow
def test_a_plan_is_learned_by_the_law_of_pictures_with_its_noise(network):
    real = np.tanh(np.random.default_rng(0).normal(size=(10, 8, 8, 3)).astype(np.float32))
    plan = tuned(network, loss="energy", pictures=real, label=1)
    said = plan.origin.tuned
    assert said["loss"] == "energy" and said["noise"] and said["teacher"] == "pictures"


@slow
def test_plans_with_noise_are_learned_from_many_pictures_and_from_a_teacher(network, tmp_path):
    real = np.tanh(np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype(np.float32))
    sizes = {"num": 16, "held_out": 16, "batch": 16, "max_iters": 3, "label": 1}
    plan = tuned(network, loss="energy", pictures=real, out=tmp_path, **sizes)
    said = plan.origin.tuned
    assert said["loss"] == "energy" and said["noise"] and said["teacher"] == "pictures"
    assert not (tmp_path / "teacher").exists()
    assert "| held-out energy | |" in (tmp_path / "report.md").read_text()
    # Of the teacher's law, which may be one with noise.
    plan = tuned(network, loss="energy", teacher="ddpm", **sizes)
    assert plan.origin.tuned["teacher"] == "ddpm, 60 calls"


@slow
def test_times_stay_whole_and_the_path_counts_where_they_are_asked_to(network):
    plan = tuned(network, whole_times=True, generations=1)
    np.testing.assert_array_equal(plan.t, np.round(plan.t))
    assert tuned(network, path_weight=0.5).origin.tuned["path_weight"] == 0.5


@slow
def test_learning_goes_on_from_a_plan_that_was_made_before(network):
    first = tuned(network)
    names = []
    tuned(network, start=first, on_round=lambda name, *_: names.append(name))
    assert {*names} <= {first.origin.method}
    with pytest.raises(ValueError, match="it must make 4 calls"):
        tuned(network, start=first, nfe=4)


def test_scales_of_guidance_are_drawn_from_their_range(least_network):
    network = least.pretrained(4, null_label=3)
    plan = plans.ddim(network.schedule, grids.trailing(1000, 3))
    sizes = {"num": 60, "held_out": 2, "label": 1}
    found = Problem(network, KEY, guidance=(1.0, 4.0), **sizes).prepare(plan)
    scale = np.asarray(found.examples.scale)
    assert 1 <= scale.min() < 1.3 and 3.7 < scale.max() <= 4 and len(np.unique(scale)) == 64
    assert found.about["guidance"] == (1.0, 4.0)
    assert Problem(network, KEY, guidance=2.5, **sizes).prepare(plan).examples.scale is None


@slow
def test_each_picture_has_a_scale_of_its_own_from_a_range(least_network):
    network = least.pretrained(4, null_label=3)
    plan = tuned(network, guidance=(1.0, 4.0), label=1)
    assert plan.origin.tuned["guidance"] == (1.0, 4.0)
    one = tuned(network, guidance=2.5, label=1)
    assert one.origin.tuned["guidance"] == 2.5
    errors = [some.origin.tuned["error"]["fixed"] for some in (plan, one)]
    assert errors[0] != pytest.approx(errors[1], rel=1e-3)


@slow
def test_pictures_are_spread_over_a_mesh(network):
    mesh = sharding.mesh(4)
    spread = jax.device_put(network, sharding.replicated(mesh))
    one, many = tuned(network, batch=4), tuned(spread, batch=3)
    np.testing.assert_allclose(many.t, one.t, rtol=1e-3)
    assert many.origin.method == one.origin.method
    assert many.origin.tuned["error"]["tuned"] == pytest.approx(
        one.origin.tuned["error"]["tuned"], rel=1e-2
    )


def test_a_plan_of_another_checkpoint_is_warned_of(network):
    plan = plans.ddim(network.schedule, grids.trailing(1000, 3))
    other = replace(plan, origin=replace(plan.origin, tuned={"checkpoint": "0", "name": "x"}))
    with pytest.warns(UserWarning, match="tuned for x"):
        skipjax.sample(network, KEY, plan=other, num=1, label=0)
    mine = {"checkpoint": network.fingerprint, "name": "x"}
    own = replace(plan, origin=replace(plan.origin, tuned=mine))
    skipjax.sample(network, KEY, plan=own, num=1, label=0)


REFUSED = [
    ({"nfe": 0}, "nfe is 0"),
    ({"nfe": 1}, "nfe is 1"),
    ({"history": 4}, "history is 4"),
    ({"teacher_nfe": 3}, "the teacher makes 3 calls"),
    ({"teacher": "ddqm"}, "teacher is 'ddqm'"),
    ({"teacher": "dpmpp_2m", "teacher_nfe": 4}, "the teacher cannot be trusted: at 2 calls"),
    ({"teacher": "ddpm"}, "adds noise"),
    ({"num": 1}, "num is 1"),
    ({"max_iters": 0}, "max_iters is 0"),
    ({"label": 9}, "9"),
    ({"loss": "fid"}, "loss is 'fid'"),
    ({"noise": True}, "takes the loss 'energy'"),
    ({"pictures": np.zeros((10, 8, 8, 3), np.float32)}, "takes the loss 'energy'"),
    ({"loss": "energy", "path_weight": 1.0}, "path_weight is 1.0"),
    ({"loss": "energy", "pictures": np.zeros((4, 8, 8, 3), np.float32)}, r"shape \(10, 8, 8"),
    ({"guidance": (3.0, 1.0)}, "the least and the greatest"),
    ({"guidance": 2.0}, "has no null label"),
    ({"generations": -1}, "generations is -1"),
]


def test_bad_input_is_refused_before_anything_is_learned(network, subtests):
    for changes, message in REFUSED:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            tuned(network, **changes)
    for what, message in ((network, "pass skipjax.tuning.Problem"), (None, "is a NoneType")):
        with subtests.test(message), pytest.raises(TypeError, match=message):
            skipjax.tune(what)
    problem, *rest = parts(network)
    with pytest.raises(TypeError, match="legacy key"):
        skipjax.tune(replace(problem, key=jax.random.PRNGKey(0)), *rest)


@pytest.fixture
def checkpoint(tmp_path, network):
    """A network's folder, with plans of three and four calls: its own, and another's."""
    folder = least.save(tmp_path / "least")
    weights = skipjax.load(folder).fingerprint
    (folder / "plans").mkdir()
    for nfe, whose in ((3, weights), (4, "0")):
        plan = plans.ddim(network.schedule, grids.trailing(1000, nfe)).named("tuned from ddim")
        said = {"checkpoint": whose, "name": "x"}
        plan = replace(plan, origin=replace(plan.origin, tuned=said))
        (folder / "plans" / f"{nfe}.json").write_text(plan.to_json())
    return folder


TAKEN = [
    (["--nfe", 3], "tuned from ddim", ""),
    (["--nfe", 4], "tuned from ddim", "tuned for x, and these are other weights"),
    (["--nfe", 4, "--foreign"], "tuned from ddim", ""),
    (["--nfe", 5], "Plan: dpmpp_2m, not tuned for", ""),
    (["--nfe", 3, "--plan", "ddim"], "Plan: ddim, not tuned for", ""),
]


def test_sample_takes_the_plan_that_comes_with_a_checkpoint(checkpoint, work, capsys, subtests):
    for options, said, warned in TAKEN:
        with subtests.test(" ".join(map(str, options))):
            cli.main(["sample", "--checkpoint", str(checkpoint), "--num", "1", *map(str, options)])
            out, err = capsys.readouterr()
            assert said in out and f"{options[1]} NFE" in out
            assert warned in err and ("skipjax:" in err) == bool(warned)
            (work / "samples.png").unlink()


def test_the_plans_that_come_with_emoji32_are_its_own():
    params = skipjax.load("emoji32")
    found = shipped.plans(params)
    assert {4, 5, 6, 8, 10, 15} <= found.keys()
    for nfe, path in found.items():
        plan = Plan.from_json(path.read_text())
        assert plan.nfe == nfe and plan.belongs(params.schedule)
        said = plan.origin.tuned
        assert said["checkpoint"] == params.fingerprint and said["won"]
        assert said["error"]["ratio"] < 1


MISFITS = [
    (["--nfe", 0], "nfe is 0"),
    (["--nfe", 3, "--steps", 4], "nfe is given, and steps too"),
    (["--nfe", 4, "--plan", "heun"], "nfe is 4: heun has 3 or 5 calls"),
    (["--nfe", 3, "--skip", 9], "drop one"),
    (["--nfe", 3, "--plan", "{checkpoint}/plans/4.json"], "the plan makes 4 calls"),
]


def test_numbers_of_calls_that_do_not_fit_are_refused(checkpoint, work, capsys, subtests):
    for options, message in MISFITS:
        with subtests.test(message):
            options = [str(option).format(checkpoint=checkpoint) for option in options]
            assert message in refused(["sample", "--checkpoint", checkpoint, *options], capsys)


@slow
def test_the_command_tunes(checkpoint, work, capsys):
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    cli.main(["tune", "--checkpoint", str(checkpoint), "--out", "made", *settings, "--label", "1"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("3 NFE: ") and said[-1].endswith("Saved: made/plan.json")
    cli.main(["sample", "--checkpoint", str(checkpoint), "--num=1", "--plan", "made/plan.json"])
    assert (work / "samples.png").is_file()
    capsys.readouterr()
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    other = ["tune", "--checkpoint", checkpoint, "--out", "made", *settings, "--seed", 9]
    assert "another teacher" in refused(other, capsys)
    assert before == {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
