"""Whether the suite has teeth: small faults put into skipjax/ one at a time, and which it finds.

    pytest -n 2 -m "slow or not slow" --cov=skipjax --cov-context=test
    python tests/benchmarks/mutations.py found.jsonl                # of the quick suite
    python tests/benchmarks/mutations.py found.jsonl --marker ""    # of all of it

The faults stand in faults.json: a file of skipjax/, what it says, what it then says. For each, the
test files that reach the changed lines run until the first failure, those of most tests that do
first. Started again with the same file of results, it goes on where it was.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from coverage import CoverageData

ROOT = Path(__file__).parents[2]
FAULTS = json.loads(Path(__file__).with_name("faults.json").read_text(encoding="utf-8"))
HANGS = 2400  # seconds, after which a fault is found by never ending


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--coverage", default=".coverage", help="with a context for each test")
    parser.add_argument("--marker", default="not slow", help="which tests count")
    parser.add_argument("--ref", default="HEAD", help="commit whose suite is tried")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "mutations"))
    options = parser.parse_args()

    rows = [] if not options.results.exists() else options.results.read_text().splitlines()
    done = {json.loads(row)["fault"] for row in rows}
    reached = Reached(options.coverage)
    # Of what pytest keeps between runs, compiled programs among it: one for each trial at a time.
    caches: Queue[Path] = Queue()
    for i in range(options.jobs):
        caches.put(options.cache / str(i))

    def trial(number: int) -> None:
        cache = caches.get()
        files = reached.by(*FAULTS[number][:2])
        found = run(number, files, options.marker, options.ref, cache)
        caches.put(cache)
        with options.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(trial, [i for i in range(len(FAULTS)) if i not in done]))
    rows = [json.loads(row) for row in options.results.read_text().splitlines()]
    missed = [FAULTS[row["fault"]] for row in rows if not row["found"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} found")
    for fault in missed:
        print("missed:", *fault, sep="\n    ")


class Reached:
    """Which test files reach which lines."""

    def __init__(self, path: str):
        self._data = CoverageData(path)
        self._data.read()

    def by(self, file: str, text: str) -> list[str]:
        """Test files that reach a piece of a file; or the file, where all reach the piece."""
        content = (ROOT / "skipjax" / file).read_text(encoding="utf-8")
        start = content[: content.index(text)].count("\n") + 1
        piece = range(start, start + text.strip("\n").count("\n") + 1)
        measured = next(
            name for name in self._data.measured_files() if name.endswith(f"/skipjax/{file}")
        )
        contexts = self._data.contexts_by_lineno(measured)
        told = [contexts.get(line, [""]) for line in piece]
        counted = _files(told)
        # What runs on import has no test for its context: any that reach the file may import it.
        if not counted or any("" in some for some in told):
            counted += [name for name in _files(contexts.values()) if name not in counted]
        if counted:
            return counted
        raise ValueError(f"no test reaches {file}: {text}")


def _files(contexts: Iterable[list[str]]) -> list[str]:
    """Files of the tests of some contexts, those of most tests first."""
    tests = {test for some in contexts for test in some if test}
    return [name for name, _ in Counter(t.partition("::")[0] for t in tests).most_common()]


def run(number: int, files: list[str], marker: str, ref: str, cache: Path) -> dict:
    """Whether the tests of some files fail in a copy of a commit with one fault in it."""
    file, before, after = FAULTS[number]
    with tempfile.TemporaryDirectory() as copy:
        archive = subprocess.run(
            ["git", "archive", ref], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", copy], input=archive.stdout, check=True)
        source = Path(copy, "skipjax", file)
        content = source.read_text(encoding="utf-8")
        if content.count(before) != 1:
            raise ValueError(f"{file} does not say once: {before}")
        source.write_text(content.replace(before, after), encoding="utf-8")
        files = [name for name in files if Path(copy, name).exists()]
        began = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-m", marker]
        try:
            tests = subprocess.run(
                [*command, "-o", f"cache_dir={cache}", *files],
                cwd=copy,
                env=os.environ | {"PYTHONPATH": copy},
                capture_output=True,
                text=True,
                timeout=HANGS,
            )
            code, said = tests.returncode, tests.stdout
        except subprocess.TimeoutExpired:
            code, said = 1, "FAILED hangs"
    first = re.search(r"^(?:SUBFAILED\S*|FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return {
        "fault": number,
        "file": file,
        "found": code in (1, 2),
        "by": first and first[1],
        "seconds": round(time.perf_counter() - began),
        "files": len(files),
        "code": code,
    }


if __name__ == "__main__":
    main()
