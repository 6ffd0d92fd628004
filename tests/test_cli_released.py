"""`skipjax sample` and `skipjax info` of released files: guided, enlarged, and wrong ones."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import released_files
import tiny
from command import refused

import skipjax
from skipjax import cli
from skipjax.weights import cards

pytestmark = pytest.mark.usefixtures("work")
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
    """A folder of released files: a network, a classifier, an upsampler, and another classifier
    that fits none of them."""
    folder = tmp_path_factory.mktemp("weights")
    misfit = dataclasses.replace(guide.spec, name="misfit", T=500)
    for made in (net, guide, upsampler, dataclasses.replace(guide, spec=misfit)):
        released_files.write(folder / f"{made.spec.name}.pt", made)
        released_files.shelve(folder / "cards", released_files.card(made))
    released_files.write(folder / "mine.pt", net)
    return folder


@pytest.fixture(autouse=True)
def shelf(monkeypatch, files):
    monkeypatch.setattr(cards, "RELEASED", files / "cards")


@pytest.fixture
def nothing_runs(monkeypatch):
    def draw(*_):
        pytest.fail("something was computed")

    monkeypatch.setattr(cli.sample, "_draw", draw)


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


@pytest.mark.slow
def test_guided_pictures_are_those_of_python(files, net, guide, capsys):
    by = ("--classifier", files / "tiny_classifier.pt", "--guidance", 2.5)
    pictures, labels = sample(files, "tiny", *by, "--steps", "3", "--num", 2, "--batch", 1)
    options = {"steps": "3", "num": 2, "label": labels, "classifier": guide}
    options["devices"] = jax.local_devices()[:1]
    assert same(pictures, skipjax.sample(net, KEY, **options, guidance=2.5))
    assert not same(pictures, skipjax.sample(net, KEY, **options, guidance=0.0))
    assert "2 pictures, 3 NFE each" in capsys.readouterr().out


def test_enlarged_pictures_are_those_of_python(work, files, upsampler):
    np.savez("small.npz", small(2), np.array([2, 0]))
    options = ("--low-res", "small.npz", "--steps", "ddim2", "--dtype", "bfloat16", "--batch", 1)
    pictures, labels = sample(files, "tiny_upsampler", *options, "--labels", "dog", "cat")
    assert pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(labels, [2, 0])
    options = {"label": labels, "steps": "ddim2", "dtype": "bfloat16"}
    options["devices"] = jax.local_devices()[:1]
    assert same(pictures, skipjax.sample(upsampler, KEY, low_res=small(2), **options))
    assert sorted(path.name for path in work.iterdir()) == ["out.npz", "small.npz"]


CLASSIFIER = ["--classifier", "{}/tiny_classifier.pt"]


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classifier", "missing.pt"], "'missing.pt' is not a bundled name, a folder or a file"),
        (["--classifier", "tiny_classifier.pt"], "package: fetch https://example.org/tiny_class"),
        (["--classifier", "{}/mine.pt"], "mine.pt: no card knows a file of this name"),
        (["--classifier", "{}/tiny.pt"], "tiny is no classifier: it draws pictures"),
        (["--classifier", "{}/misfit.pt"], "misfit does not fit tiny: T 500, and 1000 is needed"),
        (["--guidance", 2], "guidance is 2.0, and tiny has no null label by which it could be"),
        ([*CLASSIFIER, "--guidance", "nan"], "guidance is nan: it must be one finite number"),
        ([*CLASSIFIER, "--guidance", "-inf"], "guidance is -inf: it must be one finite number"),
        ([*CLASSIFIER, "--labels", "horse"], "label 'horse' is not a class"),
        (["--steps", "four"], "steps 'four' is not a respacing"),
        (["--steps", "ddim300"], "no whole stride over 1000 times gives 300 of them"),
        (["--steps", "1001"], "steps '1001' asks for 1001 of the 1000 times"),
        (["--steps", "3", "--skip", 50], "steps is given, and skip or cutoff too"),
        (["--steps", "3", "--cutoff", 50], "steps is given, and skip or cutoff too"),
        (["--low-res", "small.npz"], "low_res is given, and tiny does not enlarge pictures"),
        (["--checkpoint", "{}/mine.pt"], "mine.pt: no card knows a file of this name"),
        (["--checkpoint", "{}/missing.pt"], "is not a bundled name, a folder or a file"),
        (["--checkpoint", "tiny"], "'tiny' does not come with the package: fetch https://example"),
        (["--checkpoint", *CLASSIFIER[1:]], "is a classifier: give it as --classifier"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_options_end_with_one_line(files, capsys, options, message):
    np.savez("small.npz", small())
    options = [str(option).format(files) for option in options]
    assert message in refused(["sample", "--checkpoint", files / "tiny.pt", *options], capsys)


@pytest.mark.parametrize(
    "options",
    [["--guidance", "two"], ["--dtype", "float16"], ["--low-res"], ["--steps"], ["--clasifier"]],
)
def test_options_that_do_not_parse_end_with_exit_code_2(files, capsys, options):
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", "--checkpoint", str(files / "tiny.pt"), *options])
    said = capsys.readouterr()
    assert end.value.code == 2 and options[0] in said.err + said.out
    assert "Traceback" not in said.err


WRONG = {
    "missing": (None, "No such file"),
    "empty": (b"", "not a zip file"),
    "text": (b"hello", "not a zip file"),
    "folder": ("folder", "directory"),
    "npy": (small(), "not a zip file"),
    "object": ({"arr_0": np.array([{}])}, "Object arrays cannot be loaded"),
    "other": ({"images": small()}, "arr_0 is not a file in the archive"),
    "large": ({"arr_0": small(side=16)}, "low_res is (3, 16, 16, 3): tiny_upsampler takes [num"),
    "one": ({"arr_0": small()[0]}, "low_res is (8, 8, 3): tiny_upsampler takes [num, 8, 8, 3]"),
    "none": ({"arr_0": small()[:0]}, "low_res is (0, 8, 8, 3): tiny_upsampler takes [num"),
    "text array": ({"arr_0": np.array("x")}, "low_res is (): tiny_upsampler takes"),
    "integers": ({"arr_0": small().astype(int)}, "low_res is int64: it must be float in [-1, 1]"),
    "levels": ({"arr_0": small() / 1}, "low_res must be in [-1, 1]: divide 0 .. 255 by 127.5"),
    "nan": ({"arr_0": small() * np.nan}, "low_res must be in [-1, 1]"),
}


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_pictures_to_enlarge_end_with_one_line(work, files, capsys, kind):
    content, message = WRONG[kind]
    path = work / "small.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        with path.open("wb") as file:
            np.save(file, content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content:
        path.mkdir()
    arguments = ["--checkpoint", files / "tiny_upsampler.pt", "--low-res", "small.npz"]
    assert message in refused(["sample", *arguments], capsys)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", [64, 100, 300])
def test_damaged_pictures_to_enlarge_end_with_one_line(work, files, capsys, save, place):
    save("small.npz", small())
    content = bytearray((work / "small.npz").read_bytes())
    content[place] ^= 255
    (work / "small.npz").write_bytes(content)
    arguments = ["--checkpoint", files / "tiny_upsampler.pt", "--low-res", "small.npz"]
    assert "small.npz is no .npz with pictures in arr_0" in refused(["sample", *arguments], capsys)


@pytest.mark.usefixtures("nothing_runs")
def test_pictures_to_enlarge_are_needed_and_counted(files, capsys):
    checkpoint = ["--checkpoint", files / "tiny_upsampler.pt"]
    said = refused(["sample", *checkpoint], capsys)
    assert "tiny_upsampler enlarges pictures: give them as low_res, [num, 8, 8, 3]" in said
    np.savez("small.npz", small())
    said = refused(["sample", *checkpoint, "--low-res", "small.npz", "--num", 2], capsys)
    assert "low_res has 3 pictures, and 2 are to be drawn" in said


@pytest.mark.usefixtures("nothing_runs")
def test_a_damaged_file_ends_with_one_line(work, files, net, capsys):
    released_files.damaged(released_files.write(work / "tiny.pt", net))
    for option in ("--checkpoint", "--classifier"):
        said = refused(["sample", option, "tiny.pt"], capsys)
        assert said.startswith("skipjax: tiny.pt: ") and "the file is damaged" in said


def info(capsys, checkpoint):
    """The card that is printed, and the numbers of parameters below it."""
    cli.main(["info", str(checkpoint)])
    text, end, table = capsys.readouterr().out.partition("\n}\n")
    rows = [re.fullmatch(r"(\w+) +([\d,]+)", line) for line in table.splitlines()]
    return json.loads(text + end), {row[1]: int(row[2].replace(",", "")) for row in rows if row}


def counted(made):
    counts = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in made.params.items()}
    return counts | {"parameters": sum(counts.values())}


@pytest.mark.parametrize("form", ["{}", "{}.pt", "nowhere/{}.safetensors", "{files}/{}.pt"])
def test_info_is_of_a_name_or_a_file_there_or_not(files, net, guide, upsampler, capsys, form):
    for made in (net, guide, upsampler):
        card, counts = info(capsys, form.format(made.spec.name, files=files))
        assert card == cards.named(made.spec.name) and counts == counted(made)
        assert counts["parameters"] == card["parameters"]


def test_info_is_of_a_converted_folder(work, files, net, guide, capsys):
    for made in (net, guide):
        name = made.spec.name
        cli.main(["convert", str(files / f"{name}.pt"), name])
        capsys.readouterr()
        card, counts = info(capsys, name)
        assert card == json.loads((work / name / "card.json").read_text())
        assert card["converted_from"]["file"] == f"{name}.pt" and counts == counted(made)


def test_info_of_a_published_file(monkeypatch, capsys):
    monkeypatch.setattr(cards, "RELEASED", cards.BUNDLED / "adm")
    card, counts = info(capsys, "64x64_classifier.pt")
    assert card["name"] == "64x64_classifier" and card["class_names"] == "imagenet1k"
    assert counts["parameters"] == card["parameters"] == 65_438_568


@pytest.mark.parametrize("checkpoint", ["{}/mine.pt", "missing.pt", "{}", "{}/cards"])
def test_info_of_what_nothing_is_known_of_ends_with_one_line(files, capsys, checkpoint):
    said = refused(["info", checkpoint.format(files)], capsys)
    assert checkpoint.format(files) in said
