"""Whether a plan that was learned in one setting is of use in another, on a small network.

Trains a network on digits of 8 x 8 pixels, with labels dropped for guidance, and keeps it half-way
too. For settings that differ in class, guidance, precision or training, `skipjax.tune` learns a
plan. Then every plan is used in every setting: root mean square of the distance to where that
setting's teacher goes, on noise that nothing was chosen by, over that of the best fixed plan.

Then, without guidance, the same ratio by number of calls, over tunings from other noise, with what
a tuning costs, and how many learned calls reach the error of 20 calls of DPM-Solver++ 2M and of 50
of DDIM, each on its best grid.

    python tests/benchmarks/transfer.py --out FOLDER [--parts train matrix ratios] [--steps 600]
        [--nfe 5 8] [--settings "no guidance" "class 3"] [--calls 4 5 6 8 10 15 20] [--seeds 3]
        [--num 256]

Started again, it goes on: networks and plans that lie in the folder are taken as they are.
"""

import argparse
import json
import math
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import skipjax
from skipjax import grids, plans, tuning
from skipjax.files import pending, pending_folder
from skipjax.plans import Plan
from skipjax.pretrained import Pretrained
from skipjax.study import design
from skipjax.training.fit import averaged, fit
from skipjax.tuning import Objective, Problem, TuneConfig, teacher
from skipjax.tuning.baselines import Score, baselines
from skipjax.tuning.examples import Denoiser, Examples, draw_all
from skipjax.tuning.loss import path, squares
from skipjax.weights import folders

BATCH = 64
TEACHER_NFE, JUDGED, JUDGES = 60, 256, 1000  # the latter: pictures to compare on, and their key
OBJECTIVE = Objective(teacher_nfe=TEACHER_NFE)


class Setting(NamedTuple):
    """Where a plan is learned, or used."""

    name: str
    network: str = "trained"
    label: int | None = None
    guidance: float | tuple[float, float] | None = None
    dtype: str = "float32"

    def problem(self, networks: dict[str, Pretrained], seed: int, num: int, held: int) -> Problem:
        """What is to be drawn there."""
        how = {"label": self.label, "guidance": self.guidance, "dtype": self.dtype}
        key = jax.random.key(seed)
        return Problem(networks[self.network], key, num=num, held_out=held, **how)


SETTINGS = (
    Setting("no guidance"),
    Setting("class 3", label=3),
    Setting("guidance 3", guidance=3.0),
    Setting("guidance 6", guidance=6.0),
    Setting("guidance 1..6", guidance=(1.0, 6.0)),
    Setting("bfloat16", dtype="bfloat16"),
    Setting("half-trained", network="half-trained"),
)
Networks = dict[str, Pretrained]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Learned plans in settings of others.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["train", "matrix", "ratios"])
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--nfe", nargs="+", type=int, default=[5, 8], help="of the matrix")
    parser.add_argument("--calls", nargs="+", type=int, default=[4, 5, 6, 8, 10, 15, 20])
    names = [one.name for one in SETTINGS]
    parser.add_argument(
        "--settings", nargs="+", choices=names, default=names, help="of the matrix"
    )
    parser.add_argument("--seeds", type=int, default=3, help="tunings of each ratio")
    parser.add_argument("--num", type=int, default=256, help="pictures of a tuning")
    options = parser.parse_args()
    out, num, plain = options.out, options.num, SETTINGS[0]
    (out / "plans").mkdir(parents=True, exist_ok=True)
    if "train" in options.parts:
        train(out, options.steps)
    networks = {name: skipjax.load(out / name) for name in ("trained", "half-trained")}
    if "matrix" in options.parts:
        for nfe in options.nfe:
            some = [one for one in SETTINGS if one.name in options.settings]
            learned = {one.name: tuned(out, networks, one, nfe, num) for one in some}
            add(out, f"matrix of {nfe} calls", matrix(networks, some, learned))
    if "ratios" in options.parts:
        many = range(options.seeds)
        found = {n: [tuned(out, networks, plain, n, num, s) for s in many] for n in options.calls}
        add(out, "ratios", ratios(networks, found))


def train(out: Path, steps: int) -> None:
    """The study's network, with a null label: at the end, and half-way, before its rate falls."""
    if (out / "trained").exists():  # it is written last
        return
    study = design.study("digits", steps=steps)
    run = replace(study.run, drop_labels=0.1, sample_every=steps // 2)
    run = replace(run, network=replace(run.network, num_classes=11))
    data, _ = design.pictures(study)

    def keep(step: int, params: Pretrained) -> None:
        name = "half-trained" if step == steps // 2 else "trained"
        with pending_folder(out / name, anew=True) as temporary:
            folders.save(temporary, params.params, asdict(params.spec), jnp.float32)

    # Not in `out`: a run that went on behind its middle would not tell what it was there.
    with tempfile.TemporaryDirectory() as folder:
        state = fit(run, data, folder, on_sample=keep, progress=False)
        keep(steps, averaged(run, state, data.class_names))


def tuned(out: Path, networks: Networks, one: Setting, nfe: int, num: int, seed: int = 0) -> Plan:
    """A plan that was learned in a setting, from the folder if it is there."""
    file = out / "plans" / f"{one.name.replace(' ', '_')}_{nfe}_{num}_{seed}.json"
    if file.exists():
        return Plan.from_json(file.read_text(encoding="utf-8"))
    problem = one.problem(networks, seed, num, num // 2)
    config = TuneConfig(nfe, starts=1, batch=BATCH)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no learned plan")  # the plan says it
        plan = tuning.tune(problem, OBJECTIVE, config)
    said = about(plan)
    said["all_seconds"] = time.perf_counter() - began  # with the teacher's, as below
    said["all_calls"] = said["calls"] + TEACHER_NFE * 2 * num
    with pending(file) as temporary:
        temporary.write_text(plan.to_json(), encoding="utf-8")
    won = f"{said['error']['ratio']:.3f} of {said['best_fixed']}, won: {said['won']}"
    print(f"{one.name}, {nfe} calls, seed {seed}: {won}; {said['all_seconds']:.0f} s", flush=True)
    return plan


def judge(networks: Networks, one: Setting) -> tuple[Denoiser, Examples]:
    """The denoiser of a setting, and pictures of its teacher that no plan has seen."""
    problem = one.problem(networks, JUDGES, JUDGED // 2, JUDGED // 4)
    trusted = teacher.resolve(OBJECTIVE, problem.schedule, 1)
    denoiser, some, *_ = problem.prepare(trusted)
    return denoiser, teacher.teach(denoiser, trusted, some, OBJECTIVE, batch=BATCH)


def matrix(networks: Networks, some: list[Setting], learned: dict[str, Plan]) -> dict[str, Any]:
    """What the plan of each setting, by row, does in each setting, by column; as Markdown too.

    There * stands where a plan is no better than the best fixed one, and + and - where it is worse
    or better than the one that was learned there, all by two standard errors.
    """
    nfe = learned[some[0].name].nfe
    known = {plan.origin.method: plan for plan in baselines(networks["trained"].schedule, nfe)}
    rows: dict[str, list] = {name: [] for name in [*learned, "fixed, RMSE", "which"]}
    cells = []
    for used in some:
        denoiser, examples = judge(networks, used)
        method = about(learned[used.name])["best_fixed"]  # on the noise that the tuning chose by
        first, *values = draw_all(
            denoiser, [known[method], *learned.values()], examples, batch=BATCH
        )
        own = values[list(learned).index(used.name)]
        rows["fixed, RMSE"].append(f"{path.error(first, examples.target):.3g}")
        rows["which"].append(method)
        for name, ours in zip(learned, values, strict=True):
            value, doubt = ratio(ours, first, examples.target)
            gain, of_gain = path.compare(ours, first, examples.target)
            loss, of_loss = path.compare(ours, own, examples.target)
            marks = "*" * (gain >= -2 * of_gain) + "+" * (loss > 2 * of_loss)
            marks += "-" * (loss < -2 * of_loss)
            rows[name].append(f"{value:.2f} ± {doubt:.2f}{marks}")
            cells.append(
                {"learned": name, "used": used.name, "ratio": value, "standard_error": doubt}
                | {"more_than_fixed": [gain, of_gain], "more_than_own": [loss, of_loss]}
            )
    lines = [[f"{nfe} calls: learned for", *learned], ["---"] * (len(some) + 1)]
    lines += [[name, *row] for name, row in rows.items()]
    print("\n", *(f"| {' | '.join(line)} |" for line in lines), "", sep="\n", flush=True)
    return {"cells": cells, "best_fixed": {"rmse": rows["fixed, RMSE"], "method": rows["which"]}}


def ratio(ours: np.ndarray, theirs: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Of two errors on the same pictures, and its standard error, to first order."""
    a, b = squares(ours, target), squares(theirs, target)
    found = math.sqrt(a.mean() / b.mean())
    off = np.std(a - found**2 * b, ddof=1) / math.sqrt(len(a))
    return found, float(off / (2 * found * b.mean()))


def about(plan: Any) -> dict[str, Any]:
    """What is known of a plan that was learned."""
    return plan.origin.tuned


def ratios(networks: Networks, learned: dict[int, list[Plan]]) -> dict[str, Any]:
    """By number of calls, without guidance: how well plans do, and what they cost."""
    (denoiser, some), rows = judge(networks, SETTINGS[0]), {}
    print("\n| calls | learned / best fixed | won | best fixed | million calls | seconds |")
    print("|---|---|---|---|---|---|")
    for nfe, found in learned.items():
        said = [about(plan) for plan in found]
        values = [one["error"]["ratio"] for one in said]
        error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        rows[nfe] = row = {
            "ratio": float(np.mean(values)),
            "standard_error": float(error),
            "won": sum(one["won"] for one in said),
            "best_fixed": sorted({one["best_fixed"] for one in said}),
            "rmse": float(Score(denoiser, some, OBJECTIVE, BATCH)(found).mean()),
            "calls": float(np.mean([one["all_calls"] for one in said])),
            "seconds": [round(one["all_seconds"]) for one in said],  # the first one compiles
        }
        line = [nfe, f"{row['ratio']:.3f} ± {error:.3f}", f"{row['won']} of {len(found)}"]
        line += [", ".join(row["best_fixed"]), f"{row['calls'] / 1e6:.2f}", row["seconds"]]
        print(f"| {' | '.join(map(str, line))} |")
    params, rivals = networks["trained"], {}
    for method, nfe in (("dpmpp_2m", 20), ("ddim", 50)):
        known = []
        for grid in grids.GRIDS:
            with suppress(ValueError):  # the grid has no such number of times
                times = grids.named(grid, params.schedule, nfe)
                known.append(plans.write(method, params.schedule, times))
        least = float(Score(denoiser, some, OBJECTIVE, BATCH)(known).min())
        enough = (calls for calls, row in rows.items() if row["rmse"] <= least)
        rivals[f"{nfe} of {method}"] = {"rmse": least, "calls": min(enough, default="more")}
    ends = [time.perf_counter()]
    for _ in range(2):  # the first one compiles
        jax.block_until_ready(skipjax.sample(params, jax.random.key(0), plan="ddim", num=250))
        ends.append(time.perf_counter())
    seconds = (ends[2] - ends[1]) * 20
    print(f"\ncalls for the error of {rivals}; 5000 pictures at 50 calls: {seconds:.0f} s")
    return {"rows": rows, "rivals": rivals, "sampling_seconds": seconds}


def add(out: Path, name: str, found: dict[str, Any]) -> None:
    """Writes a part of transfer.json, and leaves the others as they are."""
    file = out / "transfer.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    with pending(file) as temporary:
        temporary.write_text(json.dumps(known | {name: found}, indent=1))


if __name__ == "__main__":
    main()
