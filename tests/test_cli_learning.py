"""`skipjax train`, `study` and `tune`: what they ask for, write and refuse."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
from command import refused

import skipjax
from skipjax import cli, plans
from skipjax.cli import train, tune
from skipjax.study import command as study_command
from skipjax.weights import folders

pytestmark = pytest.mark.usefixtures("work", "compiled_in_a_hurry")
UNET = {"model_channels": 32, "num_res_blocks": 0, "attention_resolutions": []}
UNET |= {"channel_mult": [1], "use_scale_shift_norm": True, "num_head_channels": 32}
TRAIN = ["train", "noise.npz", "--out", "run"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("learning") / "tiny"))


@pytest.fixture(autouse=True)
def noise(work):
    """Pictures of two classes, and a network for them."""
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    np.savez(work / "noise.npz", images, np.arange(50) % 2)
    (work / "unet.json").write_text(json.dumps(UNET))


class Asked(Exception):
    """Instead of hours of work."""

    @classmethod
    def by(cls, line, monkeypatch, module, name):
        """What a command asks a function for: positional and named arguments."""

        def ask(*arguments, **named):
            raise cls(arguments, named)

        with monkeypatch.context() as patch, pytest.raises(cls) as asked:
            patch.setattr(module, name, ask)
            cli.main(list(map(str, line)))
        return asked.value.args


def test_train_saves_the_average_of_what_was_trained(work, capsys, monkeypatch):
    net = tiny.pretrained(num_classes=2)
    state = SimpleNamespace(step=np.int32(7), ema=(net.params,), params=None)

    def plot(_):
        raise ImportError

    monkeypatch.setattr(train, "fit", lambda *_, **__: state)
    monkeypatch.setattr(train.folder, "plot", plot)
    (work / "unet.json").write_text(json.dumps(dataclasses.asdict(net.network)))
    (work / "run").mkdir()
    cli.main([*TRAIN, "--unet", "unet.json", "--loss", "hybrid", "--prediction", "v"])
    assert capsys.readouterr().out.splitlines() == [
        "No picture of the losses: pip install 'skipjax[plot]'",
        "7 steps of 32 pictures. Saved: run/checkpoint",
    ]
    saved = skipjax.load("run/checkpoint")
    jax.tree.map(np.testing.assert_array_equal, saved.params, net.params)
    assert saved.network == net.network and saved.process.parameterization == "v"
    card = json.loads((work / "run/checkpoint/card.json").read_text())
    assert card["data"].startswith("noise.npz: 50 pictures, ")
    assert card["training"]["loss"] == "hybrid" and card["training"]["rate"] == 5e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("default:tiny knows 3 labels")
def test_a_network_of_other_classes_and_times_is_gone_on_from(work, capsys):
    net = tiny.model(tiny.config(), schedule="linear", T=2000, rescale_timesteps=True)
    (work / "net").mkdir()
    folders.save(work / "net", net.params, tiny.card(net), np.float32)
    rng = np.random.default_rng(1)
    np.savez(work / "rgb.npz", rng.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 2)
    line = ["train", "rgb.npz", "--out", "on", "--start", "net", "--steps", "2", "--batch", "8"]
    cli.main([*line, "--sample-every", "2", "--sample-nfe", "2"])
    said = capsys.readouterr().err
    assert "tiny knows 3 labels, and there are 2 here" in said
    assert "compiling:   0%" in said and "training: 100%" in said
    on = skipjax.load("on/checkpoint")
    assert on.process == net.process.replace(variance="learned_range")
    assert on.network.num_classes == 2
    drawn = skipjax.sample(on, jax.random.key(0), skip=1000, num=2, label=[0, 1])
    assert np.isfinite(drawn).all() and (work / "on/samples/00000002.png").is_file()


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_no_sheet_shows_are_refused_before_training(work, capsys, channels):
    np.savez(work / "odd.npz", np.zeros((40, 4, 4, channels), np.uint8))
    said = refused(["train", "odd.npz", "--out", "odd", "--sample-every", 5], capsys)
    assert f"samples are (4, 4, {channels})" in said and "leave out --sample-every" in said
    assert not (work / "odd").exists()


@pytest.mark.slow
def test_train_writes_a_checkpoint_that_samples(work, capsys):
    line = [*TRAIN, "--unet", "unet.json", "--steps", "2", "--batch", "8", "--sample-every", "2"]
    cli.main([*line, "--sample-nfe", "4"])
    out, err = capsys.readouterr()
    assert out == "2 steps of 8 pictures. Saved: run/checkpoint\n"
    assert "50 pictures of 4 x 4 x 1, 2 classes: 0, 1\n" in err
    params = skipjax.load("run/checkpoint")
    assert params.network.num_classes == 2 and params.shape == (4, 4, 1)
    log = [json.loads(row) for row in (work / "run/log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 2 and np.isfinite(log[-1]["total"])
    assert (work / "run/samples/00000002.png").is_file() and (work / "run/loss.png").is_file()
    cli.main([*line, "--sample-nfe", "4"])  # it is done
    assert capsys.readouterr().out == "2 steps of 8 pictures. Saved: run/checkpoint\n"
    said = refused([*line, "--rate", "1"], capsys)
    assert "rate is 0.0005 there" in said


def test_options_of_train_reach_the_run(monkeypatch, checkpoint):
    line = [*TRAIN, "--unet", "unet.json", "--loss", "min_snr", "--gamma", 4, "--prediction", "v"]
    line += ["--steps", 7, "--batch", 16, "--ema", 0.9, 0.99, "--dtype", "bfloat16", "--split", 2]
    line += ["--drop-labels", 0.25, "--accumulate", 2, "--hold-out", 0.2, "--seed", 3]
    (run, pictures, out), named = Asked.by(line, monkeypatch, train, "fit")
    assert (run.loss, run.gamma, run.prediction, run.steps) == ("min_snr", 4.0, "v", 7)
    assert (run.batch, run.ema, run.dtype, run.seed) == (16, (0.9, 0.99), "bfloat16", 3)
    assert (run.drop_labels, run.accumulate, run.network.num_classes) == (0.25, 2, 3)
    assert run.network == skipjax.models.UNetConfig(
        image_size=4, in_channels=1, out_channels=1, num_classes=3, **UNET
    )
    assert len(pictures.images) == 40 and str(out) == "run" and named["start"] is None
    assert dict(named["mesh"].shape) == {"data": 4, "model": 2}

    line = ["train", "noise.npz", "--out", "run", "--unlabelled", "--channel-mult", 1, 2]
    line += ["--model-channels", 32, "--num-res-blocks", 2, "--loss", "hybrid"]
    (run, pictures, _), _ = Asked.by(line, monkeypatch, train, "fit")
    assert run.network.num_classes is None and pictures.labels is None
    assert (run.network.model_channels, run.network.channel_mult) == (32, (1, 2))
    assert (run.network.num_res_blocks, run.network.out_channels) == (2, 2)

    line = ["train", "noise.npz", "--out", "run", "--start", checkpoint]
    (run, _, _), named = Asked.by(line, monkeypatch, train, "fit")
    own = dataclasses.replace(tiny.config(), image_size=4, num_classes=2)  # as the pictures have
    assert run.network == own and run.loss == "hybrid"


def test_what_train_cannot_do_ends_with_one_line(work, capsys, subtests):
    (work / "broken.json").write_text("{")
    (work / "other.json").write_text('{"depth": 3}')
    for options, message in (
        (["nowhere"], "nowhere"),
        (["noise.npz", "--unet", "lost.json"], "lost.json holds no arguments of UNetConfig"),
        (["noise.npz", "--unet", "broken.json"], "broken.json holds no arguments of UNetConfig"),
        (["noise.npz", "--unet", "other.json"], "other.json holds no arguments of UNetConfig"),
        (
            ["noise.npz", "--channel-mult", 1, 2, 2, 2],
            "pictures of 4 x 4 pixels do not halve 3 times",
        ),
        (["noise.npz", "--start", "nowhere"], "'nowhere' is not a bundled name"),
        (["noise.npz", "--steps", 0], "steps is 0"),
        (["noise.npz", "--steps", "many"], "steps is 'many'"),
        (["noise.npz", "--rate", 0], "rate is 0.0: it must be above 0"),
        (["noise.npz", "--ema", 1], "ema holds 1.0"),
        (["noise.npz", "--drop-labels", 1], "drop_labels is 1.0"),
        (["noise.npz", "--hold-out", 2], "2.0"),
        (["noise.npz", "--split", 99], "model is 99"),
        (["noise.npz", "--batch", 7], "batch is 7"),
    ):
        with subtests.test(options=options):
            options = ["train", *options, "--unet", "unet.json", "--out", "run"]
            if "--unet" in options[:-4] or "--channel-mult" in options:
                options = [*options[:-4], "--out", "run"]
            assert message in refused(options, capsys)


def test_options_of_study_reach_it(monkeypatch):
    sizes = {"seeds": 2, "steps": 3, "batch": 16, "classifier_steps": 4, "pictures": 20}
    sizes |= {"many": 10, "nfe": (5, 10), "skips": (1, 9)}
    line = ["study", "digits", "--out", "run", "--worker", 1, "--num-workers", 3]
    for name, value in sizes.items():
        values = value if isinstance(value, tuple) else (value,)
        line += [f"--{name.replace('_', '-')}", *values]
    line += ["--dtype", "bfloat16"]
    (study, out, *worker), _ = Asked.by(line, monkeypatch, study_command, "run")
    assert study.data == "digits" and str(out) == "run" and worker == [1, 3]
    run = {"steps": 3, "batch": 16, "dtype": "bfloat16"}
    assert {name: getattr(study.run, name) for name in run} == run
    rest = {name: value for name, value in sizes.items() if name not in run}
    assert {name: getattr(study, name) for name in rest} == rest


def test_study_writes_its_results(work, monkeypatch, capsys):
    monkeypatch.setattr(study_command, "run", lambda *_: None)
    monkeypatch.setattr(study_command.results, "gather", lambda study, out: {"of": study.data})
    monkeypatch.setattr(
        study_command.results, "write", lambda path, found: path.write_text(str(found))
    )
    (work / "run").mkdir()
    cli.main(["study", "emoji", "--out", "run"])
    assert capsys.readouterr().out == "Saved: run/results.json\n"
    assert (work / "run/results.json").read_text() == "{'of': 'emoji'}"
    cli.main(["study", "digits", "--out", "run", "--results", "digits.json"])
    assert (work / "digits.json").read_text() == "{'of': 'digits'}"


def test_what_study_cannot_do_ends_with_one_line(capsys, subtests):
    for options, message in (
        (["--seeds", 0], "seeds is 0"),
        (["--many", 3], "many is 3"),
        (["--nfe", 5, 1], "nfe is 1"),
        (["--skips", 0], "skip is 0"),
        (["--num-workers", 0], "num_workers is 0"),
        (["--worker", 2, "--num-workers", 2], "worker is 2"),
        (["--steps", "many"], "steps is 'many'"),
    ):
        with subtests.test(options=options):
            assert message in refused(["study", "digits", "--out", "run", *options], capsys)


def test_options_of_tune_reach_it(monkeypatch, checkpoint):
    plan = plans.ddim(skipjax.schedules.linear(), [999, 500])
    with open("start.json", "w") as file:
        file.write(plan.to_json())
    line = ["tune", "--checkpoint", checkpoint, "--out", "made", "--nfe", 2, "--label", "1"]
    line += ["--teacher", "ddim", "--teacher-nfe", 9, "--whole-times", "--path-weight", 0.5]
    line += ["--max-iters", 3]
    line += ["--starts", 4, "--batch", 5, "--num", 6, "--held-out", 7, "--generations", 8]
    line += ["--history", 1, "--dtype", "bfloat16", "--seed", 11, "--start", "start.json"]
    asked, named = Asked.by(line, monkeypatch, tune.tuning, "tune")
    params, key = asked[0].model, asked[0].key
    assert tiny.card(params) == tiny.card(skipjax.load(checkpoint))
    assert jax.random.key_data(key).tolist() == [0, 11]
    named |= {
        field.name: getattr(one, field.name) for one in asked for field in dataclasses.fields(one)
    }
    numbers = {"nfe": 2, "history": 1, "label": 1, "teacher": "ddim", "teacher_nfe": 9}
    numbers |= {
        "whole_times": True,
        "path_weight": 0.5,
        "max_iters": 3,
        "starts": 4,
        "batch": 5,
        "num": 6,
    }
    numbers |= {"held_out": 7, "generations": 8, "dtype": "bfloat16", "loss": "path"}
    numbers |= {"guidance": None, "classifier": None, "pictures": None, "noise": None}
    assert {name: named[name] for name in numbers} == numbers
    assert str(named["out"]) == "made" and [start.nfe for start in named["start"]] == [2]
    for typed, scale in (([2], 2.0), ([1, 4], (1.0, 4.0))):
        asked = [*line, "--guidance", *typed]
        (problem, *_), _ = Asked.by(asked, monkeypatch, tune.tuning, "tune")
        assert problem.guidance == scale
    # Names of before.
    asked = ["tune", "--checkpoint", checkpoint, "--out", "made", "--way", 0.5, "--rounds", 3]
    (_, objective, config), _ = Asked.by(asked, monkeypatch, tune.tuning, "tune")
    assert (objective.path_weight, config.max_iters) == (0.5, 3)


def test_tune_says_what_came_of_it(monkeypatch, checkpoint, capsys):
    plan = plans.ddim(skipjax.schedules.linear(), [999, 500]).named("tuned from ddim")
    said = {"loss": "path", "error": {"tuned": 0.1234, "fixed": 0.2}, "best_fixed": "heun"}
    for won, verdict in (
        (True, "tuned from ddim, held-out path 0.123 instead of 0.2 with heun"),
        (False, "heun: what was learned did not beat it"),
    ):
        origin = dataclasses.replace(plan.origin, tuned=said | {"won": won})
        made = dataclasses.replace(plan, origin=origin)
        monkeypatch.setattr(tune.tuning, "tune", lambda *_, made=made, **__: made)
        cli.main(["tune", "--checkpoint", checkpoint, "--out", "made"])
        expected = f"2 NFE: {verdict}. Saved: made/plan.json\n"
        assert capsys.readouterr().out == expected


@pytest.mark.slow
def test_what_tune_cannot_do_ends_with_one_line(checkpoint, capsys, subtests):
    np.savez("few.npz", np.zeros((5, 8, 8, 3), np.uint8))
    for options, message in (
        (["--nfe", 0], "nfe is 0"),
        (["--nfe", "few"], "nfe is 'few'"),
        (["--seed", -1], "seed is -1"),
        (["--guidance", 1, 2, 3], "give one scale, or the least and the greatest"),
        (["--guidance", 2], "no null label"),
        (["--label", "horse"], "label 'horse' is not a class"),
        (["--teacher", "best"], "'best'"),
        (["--teacher", "lost.json"], "lost.json holds none"),
        (["--start", "lost.json"], "lost.json holds none"),
        (["--classifier", "nowhere"], "'nowhere' is not a bundled name"),
        (["--loss", "energy", "--pictures", "few.npz"], "pictures: few.npz holds 5, and num + 2"),
        (["--loss", "energy", "--pictures", "nowhere"], "nowhere"),
        (["--rounds", 0], "max_iters is 0"),
    ):
        with subtests.test(options=options):
            line = ["tune", "--checkpoint", checkpoint, "--out", "made", *options]
            assert message in refused(line, capsys)
