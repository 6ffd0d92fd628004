"""The command `skipjax`: sample, info, and how it ends."""

import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
from command import contents, refused
from PIL import Image
from tqdm import tqdm

import skipjax
from skipjax import cli, files
from skipjax.weights import folders

pytestmark = pytest.mark.usefixtures("work", "compiled_in_a_hurry")
SKIP = ("--skip", "250")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the cache lies elsewhere")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("checkpoints") / "tiny"))


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("checkpoints") / "tiny", num_classes=None))


@pytest.fixture
def sample(capsys):
    """Runs `skipjax sample` for six pictures and gives what it printed on stdout and stderr."""

    def run(checkpoint, *arguments):
        options = ("--checkpoint", checkpoint, *SKIP, "--num", 6)
        cli.main(["sample", *map(str, options), *map(str, arguments)])
        return capsys.readouterr()

    return run


load = functools.cache(skipjax.load)


def expected(checkpoint, seed=0, **arguments):
    """The same pictures, drawn in Python."""
    params, key = load(checkpoint), jax.random.key(seed)
    return skipjax.to_uint8(skipjax.sample(params, key, skip=250, num=6, **arguments))


def same(pictures, others):
    assert pictures.dtype == others.dtype == np.uint8 and pictures.shape == others.shape
    return np.abs(pictures.astype(int) - others).max() <= 1


def arrays(path="samples.npz"):
    with np.load(path) as file:
        return dict(file)


def test_sample_writes_a_grid(work, sample, checkpoint):
    said = sample(checkpoint, "--out", "grid.png")
    with Image.open("grid.png") as picture:
        assert same(np.asarray(picture), np.asarray(skipjax.grid(expected(checkpoint))))
    assert os.listdir(work) == ["grid.png"]
    assert re.fullmatch(
        r"6 pictures, 4 NFE each, in \d+\.\d s: \d+\.\d\d pictures/s, "
        r"after \d+\.\d s to compile\. Saved: grid\.png\n",
        said.out,
    )
    assert said.err.lstrip("\r").startswith("sampling:   0%") and "6/6" in said.err


def test_sample_writes_arrays_as_adms_evaluator_reads_them(work, sample, checkpoint):
    sample(checkpoint, "--seed", 3, "--cutoff", 600, "--out", "samples.npz")
    assert os.listdir(work) == ["samples.npz"]
    named = arrays()
    assert list(named) == ["arr_0", "arr_1"]
    pictures, labels = named.values()
    assert pictures.shape == (6, 8, 8, 3)
    assert labels.shape == (6,) and labels.dtype.kind == "i"
    assert same(pictures, expected(checkpoint, seed=3, cutoff=600, label=labels))
    assert not same(pictures, expected(checkpoint, seed=3, label=labels))
    assert not same(pictures, expected(checkpoint, cutoff=600, label=labels))


@pytest.mark.slow
def test_threshold_takes_the_place_of_clipping(sample, checkpoint):
    sample(checkpoint, "--threshold", 0.8, "--out", "samples.npz")
    assert same(arrays()["arr_0"], expected(checkpoint, threshold=0.8))
    assert not same(arrays()["arr_0"], expected(checkpoint))


def test_labels_go_in_turn_by_number_and_name(sample, checkpoint):
    sample(checkpoint, "--labels", "dog", 0, "cow", 1, "--out", "samples.npz")
    pictures, labels = arrays().values()
    np.testing.assert_array_equal(labels, [2, 0, 1, 1, 2, 0])
    assert same(pictures, expected(checkpoint, label=labels))


def test_an_unconditional_network_gives_no_labels(sample, unconditional):
    sample(unconditional, "--out", "samples.npz")
    assert list(arrays()) == ["arr_0"]


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_pictures_do_not_depend_on_the_batch(sample, checkpoint, batch):
    said = sample(checkpoint, "--batch", batch, "--out", "samples.npz")
    assert "6 pictures, 4 NFE each" in said.out
    assert same(arrays()["arr_0"], expected(checkpoint))
    assert " 0/6 " in said.err and " 6/6 " in said.err


def test_an_unknown_checkpoint_is_answered_with_the_known_ones(capsys):
    for command in (["sample", "--checkpoint", "emoji64"], ["info", "emoji64"]):
        said = refused(command, capsys)
        assert "'emoji64' is not a bundled name, a folder or a file; bundled are: " in said
        assert "emoji32" in said


def test_an_unconditional_network_takes_no_label(capsys, unconditional):
    arguments = ["sample", "--checkpoint", unconditional, "--labels", "0"]
    assert "is unconditional: it takes no label" in refused(arguments, capsys)


def test_an_output_folder_that_cannot_be_written_is_named(capsys, checkpoint, monkeypatch):
    def mkstemp(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", mkstemp)
    said = refused(["sample", "--checkpoint", checkpoint], capsys)
    assert "samples.png: cannot write to . (Permission denied)" in said


def test_a_flipped_bit_is_found(tmp_path, capsys, checkpoint):
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    path = tiny.flip_a_bit(damaged)
    said = refused(["sample", "--checkpoint", damaged], capsys)
    assert f"sha256 of {path} is " in said


def test_nan_weights_are_refused_before_sampling(tmp_path, capsys):
    params = tiny.pretrained()
    params.params["out_2"]["bias"][:] = np.nan
    folders.save(tmp_path / "tiny", params.params, tiny.card(params), np.float16)
    said = refused(["sample", "--checkpoint", tmp_path / "tiny"], capsys)
    assert "weights are NaN or infinite in out_2.bias" in said


def test_pictures_that_are_not_finite_are_not_saved(work, tmp_path, capsys):
    params = tiny.pretrained()
    broken = jax.tree.map(lambda leaf: leaf * np.float32(1e30), params.params)
    folders.save(tmp_path / "tiny", broken, tiny.card(params), np.float32)
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", "--checkpoint", str(tmp_path / "tiny"), *SKIP, "--num", "6"])
    assert end.value.code == 2 and not contents(work)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("skipjax: samples 0, 1, 2, 3, 4, 5 are NaN or infinite: check the we")


class Interrupting(io.StringIO):
    """A terminal at which somebody presses Ctrl-C when it says something."""

    def __init__(self, when):
        super().__init__()
        self._when = when

    def write(self, text):
        super().write(text)
        if self._when in text:
            self._when = "\0"
            signal.raise_signal(signal.SIGINT)
        return len(text)


@pytest.fixture
def interruptible():
    """As in a terminal: what runs in the background may be told to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    # A bar that is interrupted while it draws keeps the lock of all bars, for which other threads
    # would wait for ever.
    for lock in tqdm.get_lock().locks:
        while True:
            try:
                lock.release()
            except (AssertionError, RuntimeError):  # it is free
                break


def test_an_interrupted_run_saves_nothing(work, checkpoint, monkeypatch, interruptible):
    monkeypatch.setattr(sys, "stderr", Interrupting("sampling"))
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", "--checkpoint", checkpoint, *SKIP, "--num", "6"])
    assert end.value.code == 130 and not contents(work)
    assert sys.stderr.getvalue().endswith("skipjax: interrupted, nothing was saved\n")


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"skipjax {skipjax.__version__}\n"


def test_info_is_a_page_for_people_or_json(capsys, checkpoint):
    cli.main(["info", checkpoint])
    said = capsys.readouterr().out
    num = sum(leaf.size for leaf in jax.tree.leaves(tiny.pretrained()))
    assert f"unet of 8 x 8 x 3, {num:,} parameters" in said and "3: cat, cow, dog" in said
    assert len(said.splitlines()) < 12 and "sha256" not in said
    cli.main(["info", checkpoint, "--json"])
    card = json.loads(capsys.readouterr().out)
    assert card["conditioner"]["class_names"] == ["cat", "cow", "dog"]
    assert card["blocks"]["out_2"] == 1_734 and sum(card["blocks"].values()) == num


def test_info_says_how_good_a_network_is_and_what_it_lacks(capsys):
    cli.main(["info", "emoji32"])
    page = capsys.readouterr().out.splitlines()
    assert "predicts v" in "".join(page) and any(line.startswith("lacks") for line in page)
    (line,) = (line for line in page if "eps_mse_held_out" in line)
    mean, error = line.split(": ")[1].split(" +- ")
    assert 0 < float(error) < float(mean) < 0.1
    assert len(page) < 20 and not any("{" in line for line in page)


@pytest.mark.parametrize("buffering", [1, -1])
@pytest.mark.parametrize("line", [["info", "emoji32"], ["plans"], ["--version"], ["--help"]])
def test_a_reader_that_has_enough_ends_a_command_in_silence(monkeypatch, capfd, line, buffering):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering) as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as end:
            cli.main(line)
    assert end.value.code == 128 + signal.SIGPIPE and not capfd.readouterr().err


def test_the_bar_begins_when_the_program_is_compiled(checkpoint, monkeypatch, sample):
    began, bar, compiled = [], cli.sample.tqdm, cli.sample.Compiled

    def compile(*arguments):
        program = compiled(*arguments)
        time.sleep(1)
        began.append("compiled")
        return program

    def show(**options):
        began.append(options["total"])
        return bar(**options)

    monkeypatch.setattr(cli.sample, "Compiled", compile)
    monkeypatch.setattr(cli.sample, "tqdm", show)
    said = sample(checkpoint, "--batch", 4).out
    assert began == ["compiled", 6]
    seconds, compiling = re.search(r"in ([\d.]+) s: .* after ([\d.]+) s", said).groups()
    assert float(seconds) < 1 <= float(compiling)


@only_linux
def test_compiled_programs_are_kept_among_the_user_s_caches(tmp_path, checkpoint, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    try:
        cli.main(["info", checkpoint])
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "skipjax" / "compiled")
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)


def run(arguments, cache):
    """The command in a process of its own, on one device, with its cache in a given folder."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "JAX_NUM_CPU_DEVICES": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    command = [sys.executable, "-c", "from skipjax.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
@only_linux
def test_the_bundled_checkpoint_samples_and_compiled_programs_are_kept(work, tmp_path):
    options = ["--checkpoint", "emoji32", "--skip", "333", "--num", "2", "--labels", "flags"]
    done = run(["sample", *options], tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 pictures, 4 NFE each, in ")
    with Image.open("samples.png") as picture:
        assert picture.width > picture.height > 32 and np.ptp(picture) > 0
    assert any((tmp_path / "cache" / "skipjax" / "compiled").iterdir())
