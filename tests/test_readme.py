"""The command lines and recipes of README.md are ones that the command takes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tyro
import yaml

from skipjax import cli, jobs
from skipjax.cli import generate as commands
from skipjax.weights import cards, registry

pytestmark = pytest.mark.usefixtures("work")
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(bash|yaml)\n(.*?)```", README, re.DOTALL))
LINES = re.findall(r"^(?:    |exec )(skipjax generate .*)$", README, re.MULTILINE)


POD = yaml.safe_load(BLOCKS["yaml"])["spec"]
CONTAINER = POD["template"]["spec"]["containers"][0]


def test_the_page_of_what_can_be_loaded_names_what_there_is():
    page = ROOT / "colabs" / "what_can_i_load.md"
    text = page.read_text(encoding="utf-8")
    files = set(re.findall(r'"([\w.-]+\.(?:pt|pkl))"', text)) - {"mine.pt"}
    assert len(files) > 4 and all(cards.of_file(Path(file)) for file in files)
    ours = {n for n, of in registry.CLASSES.items() if of.__module__.startswith("skipjax.")}
    assert ours and all(f"`{name}`" in text for name in ours)
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_lines_are_taken(monkeypatch, subtests):
    taken = []
    monkeypatch.setattr(commands.Generate, "__call__", lambda command: taken.append(command))
    for line in (*LINES, shlex.join(CONTAINER["command"])):
        with subtests.test(line):
            cli.main(shlex.split(line.replace("...", "--out run"))[1:])
            assert taken[-1].job.num == 50000 and taken[-1].out
    assert len(taken) == len(LINES) + 1


def test_every_option_in_the_text_is_one(capsys):
    known = set()
    for command in (commands.Generate, commands.Verify, commands.Export):
        with pytest.raises(SystemExit):
            tyro.cli(command, args=["--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    text = README.split("## Many pictures")[1].split("\n## ")[0]
    text = text.replace(BLOCKS["bash"], "").replace(BLOCKS["yaml"], "")
    slurms, gclouds = {"--requeue"}, {"--worker", "--command"}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= known | slurms | gclouds


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def small(tmp_path):
    """A recipe for fewer pictures of a tiny network."""
    checkpoint = tiny.save(tmp_path / "tiny")

    def shrink(recipe: str) -> str:
        for said, less in (
            ("--num 50000", "--num 40 --shard-size 8 --batch 8"),
            ("--skip 20", "--skip 500"),
            (r"--checkpoint \S+", f"--checkpoint {checkpoint}"),
            (r"--out \S+", f"--out {tmp_path / 'run'}"),
            ("--batch 64 ", ""),
            ("--num-workers 32", "--num-workers 2"),
        ):
            recipe = re.sub(said, less, recipe)
        return recipe

    return shrink


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "kubernetes"])
def test_the_workers_of_a_cluster_draw_a_whole_job(small, cache, tmp_path, cluster):
    """Each as Slurm or Kubernetes would start it."""
    index, script = "SLURM_ARRAY_TASK_ID", BLOCKS["bash"]
    if cluster == "kubernetes":
        index, script = "JOB_COMPLETION_INDEX", shlex.join(CONTAINER["command"])
        assert POD["completionMode"] == "Indexed" and POD["completions"] == 32
        script = script.replace("--steal ", "")  # one after the other
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "SLURM_ARRAY_TASK_COUNT": "2"}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for i in range(2):
        line = ["bash", "-c", small(script)]
        done = subprocess.run(line, env=env | {index: str(i)}, capture_output=True, text=True)
        assert done.returncode == 0 and f"worker {i} of 2" in done.stderr, done.stderr
    assert not jobs.verify(tmp_path / "run").faults
