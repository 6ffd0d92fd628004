"""What `skipjax sample` and `info` refuse, with a line and exit code 2, before anything runs."""

import dataclasses

import numpy as np
import pytest
import released_files
import tiny
from command import refused

from skipjax import cli, plans, schedules
from skipjax.weights import cards

pytestmark = pytest.mark.usefixtures("work", "nothing_runs")


@pytest.fixture(scope="module")
def net():
    return tiny.pretrained(variance="learned_range")


@pytest.fixture(scope="module")
def files(tmp_path_factory, net):
    """A folder of released files: a network, a classifier, an upsampler, another classifier that
    fits none of them, and one that no card knows."""
    folder, guide = tmp_path_factory.mktemp("weights"), tiny.classifier()
    process = guide.process.replace(schedule=schedules.linear(500))
    misfit = dataclasses.replace(guide, name="misfit", process=process)
    released_files.write(folder / "mine.pt", net)
    return released_files.with_cards(folder, net, guide, tiny.upsampler(), misfit)


@pytest.fixture(autouse=True)
def shelf(monkeypatch, files):
    monkeypatch.setattr(cards, "RELEASED", (files / "cards",))


@pytest.fixture
def nothing_runs(monkeypatch):
    def compile(*_, **__):
        pytest.fail("something was computed")

    monkeypatch.setattr(cli.sample, "Compiled", compile)


def small(num=3, side=8):
    return np.random.default_rng(0).integers(0, 256, (num, side, side, 3), np.uint8)


def test_bad_input_ends_with_one_line_and_writes_nothing(work, files, capsys, subtests):
    (work / "samples.png").write_bytes(b"old")
    (work / "folder.png").mkdir()
    for options, message in (
        (["--skip", 0], "skip is 0: it must be a whole number in 1 .. 1000"),
        (["--skip", -1], "skip is -1: it must be a whole number in 1 .. 1000"),
        (["--skip", 2.5], "skip is '2.5': it must be a whole number in 1 .. 1000"),
        (["--skip", 1001], "skip is 1001: it must be a whole number in 1 .. 1000"),
        (["--cutoff", -1], "cutoff is -1: it must be a whole number in 0 .. 1000"),
        (["--cutoff", 1001], "cutoff is 1001: it must be a whole number in 0 .. 1000"),
        (["--num", 0], "num is 0: it must be a whole number in 1 .. 4294967296"),
        (["--num", "many"], "num is 'many': it must be a whole number in 1 .. 4294967296"),
        (["--batch", 0], "batch is 0: it must be a whole number of at least 1"),
        (["--seed", -1], "seed is -1: it must be a whole number in 0 .. 4294967295"),
        (["--threshold", 0], "threshold is 0.0: it must be a quantile, in (0, 1]"),
        (["--threshold", 1.5], "threshold is 1.5: it must be a quantile, in (0, 1]"),
        (["--labels", "horse"], "label 'horse' is not a class: it must be 0 .. 2, or one of: cat"),
        (["--labels", "dog", "c"], "label 'c' fits several classes (cat, cow): it must be 0 .. 2"),
        (["--labels", 3], "label 3 is out of range: it must be 0 .. 2"),
        (["--out", "nowhere/grid.png"], "nowhere/grid.png: the folder nowhere is not there"),
        (["--out", "grid.jpg"], "out is 'grid.jpg': its name must end in .png or .npz"),
        (["--out", "grid"], "out is 'grid': its name must end in .png or .npz"),
        (["--out", "folder.png"], "folder.png is a folder: name a file in it"),
    ):
        with subtests.test(options=options):
            line = ["sample", "--checkpoint", files / "tiny.pt", *options]
            assert message in refused(line, capsys)


def test_wrong_options_end_with_one_line(files, capsys, subtests):
    np.savez("small.npz", small())
    classifier = ["--classifier", "{}/tiny_classifier.pt"]
    for options, message in (
        (["--classifier", "missing.pt"], "'missing.pt' is not a bundled name, a folder or a file"),
        (["--classifier", "tiny_classifier.pt"], "package: fetch https://example.org/tiny_class"),
        (["--classifier", "{}/mine.pt"], "mine.pt: no card knows a file of this name"),
        (["--classifier", "{}/tiny.pt"], "tiny is no classifier: it draws samples"),
        (
            ["--classifier", "{}/misfit.pt"],
            "misfit does not fit tiny: the schedule linear",
        ),
        (["--guidance", 2], "guidance is 2.0, and tiny has no null label by which it could be"),
        ([*classifier, "--guidance", "nan"], "guidance is nan: it must be one finite number"),
        ([*classifier, "--guidance", "-inf"], "guidance is -inf: it must be one finite number"),
        ([*classifier, "--labels", "horse"], "label 'horse' is not a class"),
        (["--steps", "four"], "steps 'four' is not a respacing"),
        (["--steps", "ddim300"], "no whole stride over 1000 times gives 300 of them"),
        (["--steps", "1001"], "steps '1001' asks for 1001 of the 1000 times"),
        (["--steps", "3", "--skip", 50], "steps is given, and skip too"),
        (["--steps", "3", "--cutoff", 50], "steps is given, and cutoff too"),
        (["--low-res", "small.npz"], "low_res is given, and tiny does not enlarge pictures"),
        (["--checkpoint", "{}/mine.pt"], "mine.pt: no card knows a file of this name"),
        (["--checkpoint", "{}/missing.pt"], "is not a bundled name, a folder or a file"),
        (["--checkpoint", "tiny"], "'tiny' does not come with the package: fetch https://example"),
        (["--checkpoint", *classifier[1:]], "is a classifier: give it as --classifier"),
    ):
        options = [str(option).format(files) for option in options]
        with subtests.test(options=options):
            line = ["sample", "--checkpoint", files / "tiny.pt", *options]
            assert message in refused(line, capsys)


def test_options_that_do_not_parse_end_with_exit_code_2(files, capsys, subtests):
    for options in (
        ["--guidance", "two"], ["--dtype", "float16"], ["--low-res"], ["--steps"], ["--clasifier"]
    ):  # fmt: skip
        with subtests.test(options=options):
            with pytest.raises(SystemExit) as end:
                cli.main(["sample", "--checkpoint", str(files / "tiny.pt"), *options])
            said = capsys.readouterr()
            assert end.value.code == 2 and options[0] in said.err + said.out
            assert "Traceback" not in said.err


def put(path, content):
    """A file of these bytes, an .npy of an array, an .npz of a dict, a folder, or nothing."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        with path.open("wb") as file:
            np.save(file, content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content:
        path.mkdir()


@pytest.mark.slow
def test_wrong_pictures_to_enlarge_end_with_one_line(work, files, capsys, subtests):
    line = ["sample", "--checkpoint", files / "tiny_upsampler.pt", "--low-res", "small.npz"]
    for kind, content, message in (
        ("missing", None, "No such file"),
        ("empty", b"", "not a zip file"),
        ("text", b"hello", "not a zip file"),
        ("folder", "folder", "directory"),
        ("npy", small(), "not a zip file"),
        ("object", {"arr_0": np.array([{}])}, "Object arrays cannot be loaded"),
        ("other", {"images": small()}, "arr_0 is not a file in the archive"),
        ("large", {"arr_0": small(side=16)}, "low_res is (3, 16, 16, 3): the network takes ["),
        ("one", {"arr_0": small()[0]}, "low_res is (8, 8, 3): the network takes [num, 8, 8, 3"),
        ("none", {"arr_0": small()[:0]}, "low_res is (0, 8, 8, 3): the network takes [num"),
        ("text array", {"arr_0": np.array("x")}, "low_res is (): the network takes"),
        ("integers", {"arr_0": small().astype(int)}, "low_res is int64: it must be float in [-1,"),
        ("levels", {"arr_0": small() / 1}, "low_res must be in [-1, 1]: divide 0 .. 255 by 127.5"),
        ("nan", {"arr_0": small() * np.nan}, "low_res must be in [-1, 1]"),
    ):
        with subtests.test(kind):
            put(work / "small.npz", content)
            assert message in refused(line, capsys)
    for save in (np.savez, np.savez_compressed):
        for place in (64, 100, 300):
            with subtests.test("damaged", save=save.__name__, place=place):
                save("small.npz", small())
                content = bytearray((work / "small.npz").read_bytes())
                content[place] ^= 255
                (work / "small.npz").write_bytes(content)
                said = refused(line, capsys)
                assert "small.npz is no .npz with pictures in arr_0" in said


def test_pictures_to_enlarge_are_needed_and_counted(files, capsys):
    checkpoint = ["--checkpoint", files / "tiny_upsampler.pt"]
    said = refused(["sample", *checkpoint], capsys)
    assert "the network enlarges pictures: give them as low_res, [num, 8, 8, 3]" in said
    np.savez("small.npz", small())
    for num in (2, 4):  # 4 as well, which is drawn where nothing is said
        said = refused(["sample", *checkpoint, "--low-res", "small.npz", "--num", num], capsys)
        assert f"low_res has 3 pictures, and {num} are to be drawn" in said


def test_a_default_that_is_given_beside_what_replaces_it_is_refused(work, files, capsys, subtests):
    text = plans.skipped(schedules.linear(), 250).to_json()
    for option in (["--skip", 20], ["--skip", 21], ["--cutoff", 0], ["--cutoff", 1]):
        with subtests.test(option=option):
            line = ["sample", "--checkpoint", files / "tiny.pt", "--plan", text, *option]
            assert f"plan is given, and {option[0][2:]} too" in refused(line, capsys)
            line = ["generate", *line[1:], "--out", "run"]
            assert f"plan is given, and {option[0][2:]} too" in refused(line, capsys)


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_no_png_holds_are_refused_before_drawing(tmp_path, capsys, channels):
    net = tiny.save(tmp_path / "net", in_channels=channels, out_channels=2 * channels)
    line = ["sample", "--checkpoint", net, "--skip", 500, "--out", "x.png"]
    said = refused(line, capsys)
    assert f"samples are (8, 8, {channels})" in said and "--out samples.npz" in said


def test_a_damaged_file_ends_with_one_line(work, files, net, capsys):
    released_files.damaged(released_files.write(work / "tiny.pt", net))
    for option in ("--checkpoint", "--classifier"):
        line = ["sample", "--checkpoint", files / "tiny.pt", option, "tiny.pt"]
        said = refused(line, capsys)
        assert said.startswith("skipjax: tiny.pt: ") and "the file is damaged" in said


def test_info_of_what_nothing_is_known_of_ends_with_one_line(files, capsys):
    for checkpoint in ("{}/mine.pt", "missing.pt", "{}", "{}/cards"):
        said = refused(["info", checkpoint.format(files)], capsys)
        assert checkpoint.format(files) in said
