"""What a run came to: each step with its seconds and tests, and the tests that took longest.

python report.py FOLDER SECONDS
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 20


def main(folder: Path, ended: int) -> None:
    """Prints two tables of a folder with steps.tsv, when each step began and its name, and a JUnit
    file for each step of tests, named for when it began.
    """
    rows = [line.split("\t") for line in (folder / "steps.tsv").read_text().splitlines()]
    ends = [int(began) for began, _ in rows[1:]] + [ended]
    tests = []
    print("\nseconds    tests  step")
    for (began, name), end in zip(rows, ends, strict=True):
        found = cases(folder / f"{began}.xml")
        tests += found
        print(f"{end - int(began):7d}  {len(found) or '':>7}  {name}")
    print(f"{ended:7d}  {len(tests):7d}  in all\n\nseconds  the slowest tests")
    for seconds, name in sorted(tests, reverse=True)[:SLOWEST]:
        print(f"{seconds:7.1f}  {name}")


def cases(path: Path) -> list[tuple[float, str]]:
    """Seconds and name of each test of a JUnit file; none where there is no file."""
    if not path.exists():
        return []
    return [
        (float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}")
        for case in ElementTree.parse(path).iter("testcase")
        if case.find("skipped") is None
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
