"""Jobs of 40 pictures of a tiny network, in three shards: run in this process, and told of."""

import json
from pathlib import Path

import jax
import released_files
import tiny

from skipjax import jobs
from skipjax.jobs import Job

ONE = jax.local_devices()[:1]
NUM, SIZE = 40, 16
SHARDS = ["000000.npz", "000001.npz", "000002.npz"]


class Told:
    """A report that keeps what it is told."""

    def __init__(self):
        self.events, self.lines, self.pictures = [], [], 0

    def say(self, event, text, **facts):
        self.events.append((event, facts))
        self.lines.append(text)

    def begin(self, total, done):
        self.total, self.done = total, done

    def drawn(self, num):
        self.pictures += num

    def end(self):
        pass

    def __contains__(self, text):
        return any(text in line for line in self.lines)


def small(folder: Path) -> Job:
    """The job; its checkpoint, which loads in no time, lies in a folder, and its card."""
    net = tiny.pretrained()
    weights = released_files.write(folder / "tiny.safetensors", net)
    released_files.shelve(folder, released_files.card(net))
    card = str(folder / "tiny.json")
    return Job(str(weights), card, num=NUM, seed=3, skip=250, shard_size=SIZE)


def run(job, out, **options):
    """What a run has done, by batches of eight on one device unless told, and what it said."""
    told = Told()
    options = {"devices": ONE, "batch": 8} | options
    return jobs.run(job, out, report=told, **options), told


def files(out):
    """The shards, by name."""
    if not (out / "shards").is_dir():
        return {}
    paths = (out / "shards").glob("*.[!j]*")  # and not their sidecars
    return {path.name: path.read_bytes() for path in paths}


def sidecars(out):
    """What is said of each shard."""
    return [json.loads(path.read_text()) for path in sorted((out / "shards").glob("*.json"))]
