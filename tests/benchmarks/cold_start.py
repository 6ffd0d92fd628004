"""How long the command line takes to a first picture, and once it has compiled before.

`skipjax sample --checkpoint emoji32 --skip 20` as a fresh process whose XDG_CACHE_HOME is an
empty folder, then once more: seconds from the start of the process to its end. Medians over
rounds, each with a new empty folder. Aim: the second run takes at most half as long.

The same without the seconds spent sampling, which depend on `--num` alone. (No aim of its own.)

Where the time goes, from inside the same processes: imports, `skipjax.load`, tracing, lowering
and compiling of the main program (or its way from the cache), sampling. The rest is labels,
small programs, the picture's file, start and end of Python.

Seconds that `import skipjax` takes after `import jax`, in fresh processes. Aim: at most 2.

    python tests/benchmarks/cold_start.py [--num 4] [--skip 20] [--repeats 5]
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

from measuring import fresh, line, ratio

STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}


def imports() -> Counter:
    """Imports jax, then skipjax; the seconds of each."""
    spent = Counter()
    with _clock(spent, "import jax"):
        import jax  # noqa: F401
    with _clock(spent, "import skipjax"):
        import skipjax  # noqa: F401
    return spent


def command(arguments: list[str]) -> Counter:
    """Runs the command line in this process; the seconds of its parts."""
    spent = imports()
    with _clock(spent, "import skipjax.cli"):
        from skipjax import api, cli
    import jax

    def note(event: str, duration: float, fun_name: str = "", **_) -> None:
        if event in STAGES and "program" in fun_name:
            spent[STAGES[event]] += duration

    jax.monitoring.register_event_duration_secs_listener(note)
    load, said = api.load, StringIO()

    def timed_load(checkpoint):
        with _clock(spent, "load"):
            return load(checkpoint)

    api.load = timed_load
    with redirect_stdout(said):
        cli.main(arguments)
    spent["sample"] = float(re.search(r"NFE each, in ([\d.]+) s", said.getvalue())[1])
    return spent


@contextmanager
def _clock(spent: Counter, what: str):
    began = time.perf_counter()
    yield
    spent[what] += time.perf_counter() - began


def pair(num: int, skip: int) -> list[dict[str, float]]:
    """Seconds of the parts of a first and a second run, and of each as a whole."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        cache, out = Path(folder, "cache"), Path(folder, "samples.png")
        for _ in range(2):
            asked = f"--command sample --checkpoint emoji32 --skip {skip} --num {num} --out {out}"
            began = time.perf_counter()
            spent = fresh(__file__, *asked.split(), env={"XDG_CACHE_HOME": str(cache)})
            total = time.perf_counter() - began
            runs.append(spent | {"rest": total - sum(spent.values()), "total": total})
    return runs


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="How long a first and a second run take.")
    parser.add_argument("--num", type=int, default=4, help="pictures")
    parser.add_argument("--skip", type=int, default=20, help="of 1000 times, 20 leaves 50 calls")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--imports", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.imports or options.command:
        spent = command(options.command) if options.command else imports()
        print(json.dumps(spent))
        return

    took = [fresh(__file__, "--imports")["import skipjax"] for _ in range(options.repeats)]
    detail = f"median of {len(took)}; {min(took):.2f} .. {max(took):.2f} s"
    line("import skipjax after import jax", median(took), 2, detail, unit=" s")

    runs = [pair(options.num, options.skip) for _ in range(options.repeats)]
    first, second = ([run[i]["total"] for run in runs] for i in range(2))
    ratio(f"skipjax sample, {options.num} pictures: second run / first", second, first, 0.5)
    first, second = ([run[i]["total"] - run[i]["sample"] for run in runs] for i in range(2))
    ratio("the same, without the seconds spent sampling", second, first, None)
    print(f"\n{'seconds, medians':20} {'first':>7} {'second':>7}")
    for part in runs[0][0]:
        print(f"{part:20}", *(f"{median(run[i][part] for run in runs):7.2f}" for i in range(2)))


if __name__ == "__main__":
    main()
