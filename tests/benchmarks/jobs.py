"""What a job costs beyond its compiled program, and whether it stays small however many pictures.

Time: the whole of `jobs.run` with emoji32, from the first batch to the last file on the disk, over
as many bare calls of the same compiled program, each waited for at once; in turn, medians. Aim: at
most 1.031, that is 0.97 of the bare pictures per second.

Memory: how much more a process holds after 50,000 pictures of a tiny network than after 5,000.
Aim: at most 1.05.

Resuming: seconds until a worker knows what is left to do, where 5,000 shards are finished (every
byte of which is read), and until the command has ended where nothing is. Aim: at most 5.

    python tests/benchmarks/jobs.py [--batches 6] [--repeats 5] [--pictures 50000] [--shards 5000]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from measuring import fresh, interleaved, line, ratio, seconds

from skipjax import jobs
from skipjax.jobs import Report, record, storage
from skipjax.jobs.formats import Pictures
from skipjax.jobs.job import resolve
from skipjax.jobs.program import Program

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

BATCH = 16
ONE = jax.local_devices()[:1]
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def throughput(folder: Path, batches: int, repeats: int) -> None:
    """Whole jobs and bare calls in turn."""
    jax.config.update(CACHE[0], str(folder / "cache"))
    jax.config.update(CACHE[1], 0.0)
    job = jobs.Job(num=BATCH * batches, shard_size=BATCH, skip=20)
    resolved = resolve(job)
    program = Program(resolved, Report(), BATCH, ONE)
    many = [np.arange(BATCH) + BATCH * i for i in range(batches)]
    made = iter(range(10**6))

    def whole() -> float:
        out = folder / f"run{next(made)}"
        return jobs.run(job, out, batch=BATCH, devices=ONE, report=Report()).seconds

    def bare() -> float:
        return seconds(lambda: [program(ids).block_until_ready() for ids in many])

    for case in (whole, bare):
        case()
    over, under = interleaved(repeats, whole, bare)
    ratio(f"job of {batches} batches of {BATCH} / bare calls, emoji32", over, under, 1 / 0.97)


def memory(folder: Path, pictures: int) -> None:
    """What a process holds while it draws many pictures."""
    tiny.save(folder / "tiny")
    said = fresh(__file__, "--grow", str(folder), str(pictures))
    line(
        f"memory after {pictures:,} pictures / after {pictures // 10:,}",
        said["last"] / said["first"],
        1.05,
        f"once; {said['last'] / 1e6:.0f} MB / {said['first'] / 1e6:.0f} MB",
    )


def grow(folder: Path, pictures: int) -> None:
    """Prints what this process holds after a tenth of the pictures, and after all."""
    held: list[int] = []

    class Growing(Report):
        drawn_so_far = 0

        def drawn(self, num: int) -> None:
            self.drawn_so_far += num
            if not held and self.drawn_so_far >= pictures // 10:
                held.append(resident())

    job = jobs.Job(str(folder / "tiny"), num=pictures, skip=500)
    jobs.run(job, folder / "many", batch=64, devices=ONE, report=Growing())
    print(json.dumps({"first": held[0], "last": resident()}))


def resident() -> int:
    """Bytes that this process holds in memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def resuming(folder: Path, count: int) -> None:
    """A job of which all but one shard are finished."""
    job = jobs.Job(num=10 * (count + 1), shard_size=10)
    out, resolved = folder / "resumed", resolve(job)
    _, shards = record.agree(storage.store(out), resolved)
    rng, layout = np.random.default_rng(0), shards.layout
    for shard in range(count):
        ids = layout.ids(shard)
        images = rng.integers(0, 256, (len(ids), *resolved.params.shape), np.uint8)
        shards.put(shard, Pictures(ids, images, np.zeros(len(ids), np.int32)), [], {})

    def survey() -> None:
        assert list(shards.faults(range(layout.count))) == [count]

    line(
        f"until what is left of {count:,} finished shards is known",
        seconds(survey),
        5,
        "once; each read and compared",
        " s",
    )
    began = time.perf_counter()
    fresh("-c", START, str(out), str(job.num))
    passed = time.perf_counter() - began
    line("and in a fresh process, with imports and the weights", passed, 5, "once", " s")


START = """
import json, sys
from skipjax import jobs

class Started(jobs.Report):
    def say(self, event, text, **facts):
        if event == "start":
            print(json.dumps({"left": facts["pictures"] - facts["done"]}), flush=True)
            import os; os._exit(0)

jobs.run(jobs.Job(num=int(sys.argv[2]), shard_size=10), sys.argv[1], report=Started())
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What a job costs beyond its compiled program.")
    parser.add_argument("--batches", type=int, default=6, help="of 16 pictures, in each job")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--pictures", type=int, default=50_000, help="to see memory grow over")
    parser.add_argument("--shards", type=int, default=5_000, help="finished, to resume from")
    parser.add_argument("--grow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        return grow(Path(options.grow[0]), int(options.grow[1]))
    with tempfile.TemporaryDirectory() as folder:
        resuming(Path(folder), options.shards)
        memory(Path(folder), options.pictures)
        throughput(Path(folder), options.batches, options.repeats)


if __name__ == "__main__":
    main()
