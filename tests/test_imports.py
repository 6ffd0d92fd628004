"""Who may import whom."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "skipjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import of it, besides itself.
WORLD = {"schedules", "process"}
PARTS = {"models", "conditioners", "codecs", "pretrained"}
SAMPLERS = {"schedules", "grids", "plans", "denoisers", "sampling", "process"}
TOOLS = {"files", "identity", "sharding", "progress"}
BELOW_API = WORLD | PARTS | SAMPLERS | TOOLS | {"guidance", "generation", "weights", "config"}
MAY_IMPORT = {
    "checks": set(),
    "files": set(),
    "identity": {"files"},
    "progress": set(),
    "sharding": set(),
    "schedules": set(),
    "models": set(),
    "conditioners": {"models"},
    "codecs": {"models", "sharding"},
    "process": {"schedules"},
    "grids": {"schedules"},
    "plans": {"schedules", "grids"},
    "denoisers": {"process"},
    "sampling": {"plans", "denoisers"},
    "adaptive": {"schedules", "plans", "denoisers", "sampling"},
    "pretrained": {"schedules", "process", "plans", "models", "conditioners", "codecs"},
    "guidance": {"process", "denoisers", "conditioners", "pretrained"},
    "generation": SAMPLERS | {"conditioners", "guidance", "pretrained"},
    "weights": WORLD | PARTS | {"plans", "files", "sharding"},
    "config": WORLD | PARTS | SAMPLERS | {"guidance", "generation", "sharding", "weights"},
    "api": BELOW_API,
    "relay": BELOW_API,
    "jobs": BELOW_API | {"api"},
    "evaluation": SAMPLERS,
    "training": WORLD | PARTS | {"files", "identity", "sharding", "weights"},
    "tuning": BELOW_API | {"evaluation"},
    "study": BELOW_API | {"training", "evaluation"},
    "cli": BELOW_API | {"api", "jobs", "evaluation", "training", "study", "tuning"},
    "__init__": BELOW_API | {"api", "relay", "adaptive", "jobs", "tuning"},
}
# Packages that one part of the package keeps from the others.
ONLY = {"flax.linen": "models", "orbax": "weights", "optax": "training"}


@cache
def imported(path):
    """Full names of the modules, and of the names taken out of them, that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative path"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_package_is_found_and_every_part_has_its_place():
    assert {part(path) for path in FILES} >= {"schedules", "plans", "models", "weights"}
    unknown = {part(path) for path in FILES} - set(MAY_IMPORT)
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"


def test_the_order_has_no_circles():
    order = []
    while len(order) < len(MAY_IMPORT):
        free = [name for name, needs in MAY_IMPORT.items() if needs <= {*order}]
        free = [name for name in free if name not in order]
        assert free, f"a circle among {sorted(set(MAY_IMPORT) - set(order))}"
        order += free


def test_imports_go_one_way():
    for path in FILES:
        tops = {name.split(".")[1] for name in imported(path) if name.startswith("skipjax.")}
        parts = {top if top in MAY_IMPORT else "__init__" for top in tops}
        ours = part(path)
        forbidden = parts - MAY_IMPORT.get(ours, set()) - {ours, "checks"}
        assert not forbidden, f"{path}: {ours} must not import {sorted(forbidden)}"


def test_other_packages_stay_in_their_part():
    for path in FILES:
        for package, home in ONLY.items():
            uses = [n for n in imported(path) if n == package or n.startswith(package + ".")]
            assert not uses or part(path) == home, f"{path}: only {home} imports {package}"


def test_models_and_samplers_do_not_know_each_other():
    samplers = {"grids", "plans", "denoisers", "guidance", "sampling"}
    assert not MAY_IMPORT["models"] & samplers
    apart = SAMPLERS - {"schedules", "parameterizations"}
    assert not any(MAY_IMPORT[name] & PARTS for name in apart)


def test_only_the_command_line_imports_the_study():
    assert [name for name, needs in MAY_IMPORT.items() if "study" in needs] == ["cli"]


def test_files_are_short_and_named_for_what_they_hold():
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
        assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, path
