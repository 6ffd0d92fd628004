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

from skipjax import cli, jobs
from skipjax.cli import generate as commands

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(bash|yaml)\n(.*?)```", README, re.DOTALL))
LINES = re.findall(r"^(?:    |exec )(skipjax generate .*)$", README, re.MULTILINE)


def pod() -> str:
    """The command of the Kubernetes recipe."""
    listed = re.search(r"command: \[(.*?)\]", BLOCKS["yaml"], re.DOTALL)[1]
    return " ".join(part.strip().strip('"') for part in listed.split(","))


@pytest.mark.parametrize("line", [*LINES, pod()])
def test_lines_are_taken(line, monkeypatch):
    taken = []
    monkeypatch.setattr(commands.Generate, "__call__", lambda command: taken.append(command))
    arguments = shlex.split(line.replace("...", "--out run"))[1:]
    cli.main(arguments)
    assert taken[0].job.num == 50000 and taken[0].out


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


def test_the_array_of_slurm_draws_a_whole_job(tmp_path):
    """Each of its tasks as Slurm would start it, for fewer pictures."""
    script = BLOCKS["bash"]
    for said, small in (
        ("--num 50000", "--num 40 --shard-size 8"),
        ("/scratch/run", str(tmp_path / "run")),
        ("--checkpoint adm256", f"--checkpoint {tiny.save(tmp_path / 'adm256')}"),
        ("--skip 20 --batch 64", "--skip 500 --batch 8"),
    ):
        assert said in script
        script = script.replace(said, small)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "SLURM_ARRAY_TASK_COUNT": "2"}
    for task in range(2):
        task_env = env | {"SLURM_ARRAY_TASK_ID": str(task)}
        done = subprocess.run(["bash", "-c", script], env=task_env, capture_output=True, text=True)
        assert done.returncode == 0 and f"worker {task} of 2" in done.stderr, done.stderr
    assert not jobs.verify(tmp_path / "run").faults
