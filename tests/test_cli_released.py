"""`skipjax sample` and `skipjax info` of released files: guided, enlarged, described."""

import json

import jax
import numpy as np
import pytest
import released_files
import tiny

import skipjax
from skipjax import cli
from skipjax.weights import cards

pytestmark = pytest.mark.usefixtures("work", "compiled_in_a_hurry")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def net():
    return tiny.pretrained(variance="learned_range")


@pytest.fixture(scope="module")
def guide():
    return tiny.classifier()


@pytest.fixture(scope="module")
def upsampler():
    return tiny.upsampler()


@pytest.fixture(scope="module")
def files(tmp_path_factory, net, guide, upsampler):
    """A folder of released files, and one that no card knows."""
    folder = tmp_path_factory.mktemp("weights")
    released_files.write(folder / "mine.pt", net)
    return released_files.with_cards(folder, net, guide, upsampler)


@pytest.fixture(autouse=True)
def shelf(monkeypatch, files):
    monkeypatch.setattr(cards, "RELEASED", (files / "cards",))


def small(num=3, side=8):
    return np.random.default_rng(0).integers(0, 256, (num, side, side, 3), np.uint8)


def sample(files, name, *arguments):
    checkpoint = ("--checkpoint", files / f"{name}.pt", "--out", "out.npz")
    cli.main(["sample", *map(str, (*checkpoint, *arguments))])
    with np.load("out.npz") as file:
        return file["arr_0"], file["arr_1"]


def same(pictures, others):
    others = skipjax.to_uint8(others)
    assert pictures.dtype == np.uint8 and pictures.shape == others.shape
    return np.abs(pictures.astype(int) - others).max() <= 1


def drawn(net, labels, low_res=None, **options):
    """Pictures of Python's, one at a time and on one device: one program, and the command's."""
    options["devices"] = jax.local_devices()[:1]
    return np.concatenate(
        [
            skipjax.sample(net, KEY, ids=[i], label=int(label), low_res=small, **options)
            for i, label in enumerate(labels)
            for small in [None if low_res is None else low_res[i : i + 1]]
        ]
    )


@pytest.mark.slow
def test_guided_pictures_are_those_of_python(files, net, guide, capsys):
    by = ("--classifier", files / "tiny_classifier.pt", "--guidance", 2.5)
    pictures, labels = sample(files, "tiny", *by, "--steps", "3", "--num", 2, "--batch", 1)
    options = {"steps": "3", "classifier": guide}
    assert same(pictures, drawn(net, labels, **options, guidance=2.5))
    assert not same(pictures, drawn(net, labels, **options, guidance=0.0))
    assert "2 pictures, 3 NFE each" in capsys.readouterr().out


def test_enlarged_pictures_are_those_of_python(work, files, upsampler):
    np.savez("small.npz", small(2), np.array([2, 0]))
    options = ("--low-res", "small.npz", "--steps", "ddim2", "--dtype", "bfloat16", "--batch", 1)
    pictures, labels = sample(files, "tiny_upsampler", *options, "--labels", "dog", "cat")
    assert pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(labels, [2, 0])
    assert same(pictures, drawn(upsampler, labels, small(2), steps="ddim2", dtype="bfloat16"))
    assert sorted(path.name for path in work.iterdir()) == ["out.npz", "small.npz"]


def test_options_reach_the_program(files, net, guide, monkeypatch):
    told = {}

    class Told(Exception):
        pass

    def compile(sampler, key, like):
        told.update(sampler=sampler, key=key, like=like)
        raise Told

    monkeypatch.setattr(cli.sample, "Compiled", compile)
    line = ["sample", "--checkpoint", files / "tiny.pt", "--steps", "3", "--num", 5, "--batch", 2]
    line += ["--classifier", files / "tiny_classifier.pt", "--guidance", 2.5, "--seed", 4]
    line += ["--threshold", 0.9, "--dtype", "bfloat16", "--labels", "dog", "cat"]
    with pytest.raises(Told):
        cli.main(list(map(str, line)))
    sampler = told["sampler"]
    (by,) = sampler.guidance
    assert tiny.card(sampler.model) == tiny.card(net)
    assert tiny.card(by.classifier) == tiny.card(guide) and by.scale == 2.5
    assert sampler.transform.quantile == np.float32(0.9) and sampler.dtype == "bfloat16"


def info(capsys, checkpoint):
    """The card that is printed, and the numbers of parameters in it."""
    cli.main(["info", str(checkpoint), "--json"])
    card = json.loads(capsys.readouterr().out)
    blocks = card.pop("blocks")
    return card, blocks | {"parameters": sum(blocks.values())}


def counted(made):
    counts = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in made.params.items()}
    return counts | {"parameters": sum(counts.values())}


def test_info_is_of_a_name_or_a_file_there_or_not(files, net, guide, upsampler, capsys):
    for form in ("{}", "{}.pt", "nowhere/{}.safetensors", "{files}/{}.pt"):
        for made in (net, guide, upsampler):
            card, counts = info(capsys, form.format(made.name, files=files))
            assert card == cards.named(made.name) and counts == counted(made), form
            assert counts["parameters"] == card["parameters"], form


def test_info_is_of_a_converted_folder(work, files, net, guide, capsys):
    for made in (net, guide):
        name = made.name
        cli.main(["convert", str(files / f"{name}.pt"), name])
        capsys.readouterr()
        card, counts = info(capsys, name)
        assert card == json.loads((work / name / "card.json").read_text())
        assert card["converted_from"]["file"] == f"{name}.pt" and counts == counted(made)


def test_info_of_a_published_file(monkeypatch, capsys):
    monkeypatch.setattr(cards, "RELEASED", (cards.BUNDLED / "adm",))
    card, counts = info(capsys, "64x64_classifier.pt")
    assert (
        card["name"] == "64x64_classifier" and card["conditioner"]["class_names"] == "imagenet1k"
    )
    assert counts["parameters"] == card["parameters"] == 65_438_568


@pytest.mark.slow
def test_info_is_a_page_for_people(monkeypatch, capsys):
    monkeypatch.undo()
    for name, words in (
        ("google/ddpm-cifar10-32", "sampled as  steps of all times"),
        ("edm2-img512-s", "latents     autoencoder"),
        ("SiT-XL-2-256x256", "predicts data_velocity"),
        ("cd_imagenet64_lpips", "nfe 1, fid 6.2"),
    ):
        cli.main(["info", name])
        assert words in capsys.readouterr().out, name
