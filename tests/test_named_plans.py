"""Samplers by name: in the catalogue, in `sample`, and on the command line."""

from itertools import product

import jax
import numpy as np
import pytest
import tiny
from command import refused

import skipjax
from skipjax import SampleConfig, cli, grids, plans, schedules
from skipjax.config import resolve
from skipjax.plans import METHODS, Plan

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
KEY = jax.random.key(3)
ONE = jax.local_devices()[:1]


def written(params, **asked):
    return resolve(params, SampleConfig(**asked)).plan


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


def same(one, other):
    for column in ("t", "keep", "mix", "noise"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    assert one.space == other.space


def test_the_catalogue_counts_calls_as_the_plan_makes_them():
    for (name, method), num in product(METHODS.items(), (5, 10)):
        plan = plans.write(name, LINEAR, grids.trailing(1000, num))
        assert plan.nfe == method.calls * num + method.more, name
        assert plans.times_for(name, plan.nfe) == num, name
        assert plan.nfe == eval(method.nfe.replace(" N", " * N"), {"N": num}), name
        assert plan.origin.method == name and method.about, name
        assert (method.order >= 1) == (name != "consistency"), name


def test_the_catalogue_knows_the_fewest_times_of_a_method(subtests):
    for name, method in METHODS.items():
        fewest = method.fewest
        with subtests.test(name):
            assert plans.write(name, LINEAR, grids.trailing(1000, fewest)).nfe >= fewest
            if fewest > 1:
                with pytest.raises(ValueError, match=f"need {fewest} or more"):
                    plans.write(name, LINEAR, grids.trailing(1000, fewest - 1))


def test_a_plan_that_is_not_known_is_refused_with_all_that_are():
    with pytest.raises(ValueError, match="plan is 'ddmi': it must be one of skipped, .*plms"):
        plans.write("ddmi", LINEAR, [999, 500])


def test_grids_by_name():
    for name in grids.GRIDS:
        times = grids.named(name, LINEAR, 10)
        assert len(times) == 10 and (np.diff(times) < 0).all(), name
        assert times[0] <= 999 and times[-1] >= 0, name
        of = LINEAR if name in ("uniform_log_snr", "karras") else 1000
        np.testing.assert_array_equal(times, getattr(grids, name)(of, 10), name)
    with pytest.raises(ValueError, match="grid is 'even': it must be one of uniform, .*linspace"):
        grids.named("even", LINEAR, 10)


def test_a_name_and_steps_stand_for_a_plan_on_the_trailing_grid(params):
    expected = plans.dpmpp_2m(params.schedule, grids.trailing(1000, 10))
    same(written(params, steps=10, plan="dpmpp_2m"), expected)
    same(written(params, steps="10", plan="dpmpp_2m"), expected)
    same(written(params, skip=100, plan="dpmpp_2m"), expected)


def test_a_name_may_go_with_a_grid_or_one_of_adms_strings(params):
    schedule = params.schedule
    same(
        written(params, steps=7, plan="unipc_3", grid="karras"),
        plans.unipc(schedule, grids.karras(schedule, 7), 3),
    )
    same(
        written(params, steps="ddim25", plan="heun"),
        plans.heun(schedule, grids.respaced(1000, "ddim25")),
    )
    assert written(params, plan="ddim").nfe == 50
    assert written(params, steps=3, plan="dpm_2s").nfe == 5


def test_whole_steps_without_a_plan_are_adms(params):
    same(written(params, steps=25), written(params, steps="25"))


def test_a_name_that_cannot_be_served_is_refused(params, subtests):
    for options, message in [
        ({"plan": "dmp"}, "plan is 'dmp': it must be one of"),
        ({"plan": "ddim", "cutoff": 5}, "plan is 'ddim', and cutoff too"),
        ({"plan": "ddim", "variance": "small"}, "plan is 'ddim', and variance too"),
        ({"plan": "ddim", "steps": 5, "skip": 7}, "steps is given, and skip too"),
        ({"plan": "ddim", "grid": "karras"}, "grid is 'karras': say in steps how many"),
        ({"plan": "ddim", "steps": 5, "grid": "even"}, "grid is 'even': it must be one of"),
        ({"plan": "ddim", "steps": "ddim5", "grid": "karras"}, "with a grid it must be a whole"),
        ({"grid": "karras", "steps": 5}, "grid is 'karras': it goes with the name of a plan"),
        ({"plan": "ddim", "steps": 0}, "steps is 0: it must be a whole number from 1 on"),
        ({"plan": "ddim", "steps": 1001}, "num is 1001: it must be a whole number in 1 .. 1000"),
        ({"plan": "dpmpp_3m", "steps": 2}, "2 times are too few: this method and order need 3"),
    ]:
        with subtests.test(message), pytest.raises(ValueError, match=message):
            skipjax.sample(params, KEY, **options)


def test_sample_draws_by_a_named_plan(params):
    plan = plans.dpmpp_2m(params.schedule, grids.trailing(1000, 4))
    options = {"num": 2, "label": 1, "devices": ONE}
    ours = skipjax.sample(params, KEY, plan="dpmpp_2m", steps=4, **options)
    np.testing.assert_array_equal(ours, skipjax.sample(params, KEY, plan=plan, **options))


@pytest.fixture
def command(work, params, capsys):
    tiny.save(work / "tiny")
    start = ["sample", "--checkpoint", "tiny", "--num", "2", "--out", "a.npz"]

    def run(*arguments):
        cli.main([*start, *map(str, arguments)])
        with np.load("a.npz") as file:
            return file["arr_0"], capsys.readouterr().out

    run.start = start
    return run


def test_the_command_takes_a_name_or_a_file(command, work):
    by_name, said = command("--plan", "dpmpp_2m", "--steps", 5, "--grid", "karras")
    assert "2 pictures, 5 NFE each" in said
    plan = plans.dpmpp_2m(LINEAR, grids.karras(LINEAR, 5))
    (work / "mine.json").write_text(plan.to_json())
    by_file, _ = command("--plan", "mine.json")
    np.testing.assert_array_equal(by_file, by_name)


def test_the_command_refuses_in_one_line(command, work, capsys, subtests):
    for schedule in ("cosine", "linear"):
        plan = plans.ddim(getattr(schedules, schedule)(), [999, 500])
        (work / f"{schedule}.json").write_text(plan.to_json())
    (work / "torn.json").write_text(plan.to_json()[:100])
    for arguments, message in [
        (["--plan", "ddmi"], "plan is 'ddmi': it must be one of"),
        (["--plan", "missing.json"], "plan: missing.json holds none"),
        (["--plan", "torn.json"], "plan: torn.json holds none (this is no JSON"),
        (["--plan", "cosine.json"], "the plan was written for another schedule than tiny's"),
        (["--plan", "linear.json", "--steps", 5], "plan is given, and steps too"),
        (["--plan", "dpmpp_3m", "--steps", 2], "2 times are too few"),
        (["--plan", "ddim", "--steps", 5, "--grid", "even"], "grid is 'even'"),
        (["--grid", "karras"], "grid is 'karras': it goes with the name of a plan"),
    ]:
        with subtests.test(message):
            assert message in refused([*command.start, *arguments], capsys)


def test_the_command_lists_every_plan_with_order_calls_and_history(capsys):
    cli.main(["plans"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["plan", "order", "NFE", "per", "step", "K", "noise"]
    listed = {row.split()[0]: row for row in rows[: len(METHODS)]}
    assert list(listed) == list(METHODS)
    assert listed["dpmpp_3m"].split()[:6] == ["dpmpp_3m", "3", "N", "1", "3", "no"]
    assert listed["heun"].split()[:8] == ["heun", "2", "2", "N", "-", "1", "2", "2"]
    assert listed["f_pndm"].split()[:7] == ["f_pndm", "2", "N", "+", "9", "1", "13"]


def test_a_plan_of_a_file_is_the_one_that_was_written(work):
    plan = plans.unipc(LINEAR, grids.uniform(1000, 6), 3)
    (work / "plan.json").write_text(plan.to_json())
    same(Plan.from_json((work / "plan.json").read_text()), plan)
