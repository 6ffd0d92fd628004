"""A job whose files are damaged says so in a line each, and makes them again."""

import json
import os
import shutil

import pytest
from small_jobs import NUM, SHARDS, files, run

from skipjax import jobs
from skipjax.jobs import Job

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")

# A kind of damage, what it does, pictures that are made again, what is said.
KINDS = {
    "truncated": (16, "shards/000001.npz has 100 bytes instead of 4,"),
    "a flipped bit": (16, "shards/000001.npz is not what was written"),
    "deleted": (16, "shards/000001.npz is missing: made again"),
    "another shard in its place": (16, "is not what was written: its sha256 is another: made"),
    "a sidecar that is cut": (16, "shards/000001.npz has no sidecar that can be read: made again"),
    "a sidecar of another job": (16, "shards/000001.npz has no sidecar that can be read"),
    "no sidecar": (16, "shards/000001.npz has no sidecar that can be read: made again"),
    "half-written files": (0, "3 half-written files removed"),
    "a claim of one that died": (16, "shards/000001.npz is missing: made again"),
    "a foreign file": (0, "shards/notes.txt is no file of this job: left alone"),
}


def damage(out, kind, number=1):
    """Damages a shard, or what stands beside it."""
    name = f"{number:06d}"
    shard, sidecar = (out / "shards" / f"{name}.{end}" for end in ("npz", "json"))
    content = bytearray(shard.read_bytes())
    match kind:
        case "truncated":
            shard.write_bytes(content[:100])
        case "a flipped bit":
            content[len(content) // 2] ^= 4
            shard.write_bytes(content)
        case "deleted":
            shard.unlink()
        case "another shard in its place":
            shard.write_bytes((out / "shards" / SHARDS[0]).read_bytes())
        case "a sidecar that is cut":
            sidecar.write_bytes(sidecar.read_bytes()[:-30])
        case "a sidecar of another job":
            sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"job": "another"}))
        case "no sidecar":
            sidecar.unlink()
        case "half-written files":
            for folder in ("shards", "claims", "."):
                (out / folder / f".{name}.npz.token.tmp").write_bytes(b"half")
                os.utime(out / folder / f".{name}.npz.token.tmp", (0, 0))
        case "a claim of one that died":
            (out / "claims" / f"{name}.json").write_text(
                json.dumps({"worker": 7, "token": "dead", "lifetime": 60, "renewed": 0})
            )
            shard.unlink()
        case "a foreign file":
            (out / "shards" / "notes.txt").write_text("mine")


def check(job, out, whole, foreign):
    """Whether all is mended, and stays so."""
    assert files(out) == whole | foreign
    assert not list(out.rglob("*.tmp")) and not jobs.verify(out).faults
    assert not list(out.glob("claims/*"))
    outcome, told = run(job, out)
    assert outcome.pictures == 0 and len(told.lines) == 1 + bool(foreign)


def test_all_kinds_of_damage_at_once_are_told_in_a_line_and_mended(job, tmp_path):
    out, job = tmp_path / "run", Job(**vars(job) | {"shard_size": 4})
    run(job, out)
    whole = files(out)
    for number, kind in (
        (1, "truncated"),
        (2, "a flipped bit"),
        (3, "deleted"),
        (4, "another shard in its place"),
        (5, "a claim of one that died"),
        (6, "half-written files"),
        (7, "a foreign file"),
        (8, "a sidecar that is cut"),
        (9, "no sidecar"),
    ):
        damage(out, kind, number)
    outcome, told = run(job, out)
    assert outcome.pictures == 7 * 4 and outcome.missing == 0
    for said in (
        "shards/000001.npz has 100 bytes instead of 1,",
        "shards/000002.npz is not what was written: its sha256 is another: made again",
        "shards/000003.npz is missing: made again",
        "shards/000004.npz is not what was written: its sha256 is another: made again",
        "shards/000005.npz is missing: made again",
        "shards/000008.npz has no sidecar that can be read: made again",
        "shards/000009.npz has no sidecar that can be read: made again",
        "3 half-written files removed",
        "12 of 40 pictures are there already",
        "shards/notes.txt is no file of this job: left alone",
    ):
        assert sum(said in line for line in told.lines) == 1, (said, told.lines)
    check(job, out, whole, {"notes.txt": b"mine"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told_in_a_line_and_mended(job, finished, tmp_path, kind):
    out, (made, said) = shutil.copytree(finished, tmp_path / "run"), KINDS[kind]
    damage(out, kind)
    outcome, told = run(job, out)
    assert outcome.pictures == made and outcome.missing == 0
    assert sum(said in line for line in told.lines) == 1, told.lines
    check(job, out, files(finished), {"notes.txt": b"mine"} if kind == "a foreign file" else {})


def test_many_faults_are_counted_and_not_all_listed(job, tmp_path):
    single = Job(**vars(job) | {"shard_size": 1})
    run(single, tmp_path / "run")
    for path in (tmp_path / "run/shards").glob("*.json"):
        path.unlink()
    outcome, told = run(single, tmp_path / "run")
    assert outcome.pictures == NUM and "and 30 more are made again" in told
    assert sum("has no sidecar" in line for line in told.lines) == 10
