"""A plan as a thing: what it says of itself, its matrix, its text, its picture, its origin."""

import json
import sys
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tables import COLUMNS, loop

import skipjax
from skipjax import grids, plans, schedules
from skipjax.denoisers import Prediction
from skipjax.plans import Plan
from skipjax.sampling import integrate

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
TIMES = grids.trailing(1000, 10)


def test_repr_says_method_nfe_history_and_noise():
    for plan, text in [
        (plans.dpmpp_2m(LINEAR, TIMES), "Plan(dpmpp_2m, 10 NFE, K = 2, x_0, no noise)"),
        (plans.heun(LINEAR, TIMES), "Plan(heun, 19 NFE, K = 2, eps, no noise)"),
        (plans.skipped(LINEAR, 100, 500), "Plan(skipped, 10 NFE, K = 1, x_0, noise in 5 rows)"),
        (plans.unipc(LINEAR, TIMES, 3), "Plan(unipc_3, 10 NFE, K = 4, x_0, no noise)"),
        (
            replace(plans.ddim(LINEAR, TIMES), origin=None),
            "Plan(of your own, 10 NFE, K = 1, x_0, no noise)",
        ),
    ]:
        assert repr(plan) == text
        of_none = repr(replace(plan, origin=None))
        assert repr(jax.tree.map(jnp.asarray, plan)) == of_none


def test_repr_of_stacked_and_of_traced_plans():
    stacked = jax.tree.map(lambda c: np.stack([c, c, c]), plans.ddim(LINEAR, TIMES, 1.0))
    assert repr(stacked) == "Plan(3 x of your own, 10 NFE, K = 1, x_0, noise in 9 rows)"
    said = []
    jax.jit(lambda plan: said.append(repr(plan)))(plans.ddim(LINEAR, TIMES))
    assert said == ["Plan(of your own, 10 NFE, K = 1, x_0, traced)"]


def test_matrix_gives_every_point_from_the_start_and_the_predictions():
    for name in ("ddim", "dpmpp_3m", "unipc_2", "heun", "f_pndm", "dpm_2s"):
        plan = plans.write(name, LINEAR, TIMES)
        matrix = plan.matrix()
        assert matrix.shape == (plan.nfe, plan.nfe + 1) and matrix.dtype == np.float64, name
        assert not np.triu(matrix, 2).any(), name
        random = np.random.default_rng(0)
        start, m = random.normal(size=3), random.normal(size=(plan.nfe, 3))
        x = start
        for i in range(plan.nfe):
            x = plan.keep[i] * x + sum(
                plan.mix[i, j] * m[i - j] for j in range(min(plan.history, i + 1))
            )
            found = matrix[i] @ np.vstack([start, m])
            np.testing.assert_allclose(found, x, rtol=1e-11, atol=1e-11, err_msg=f"{name}, {i}")


def test_matrix_of_stacked_plans_is_refused():
    stacked = jax.tree.map(lambda c: np.stack([c, c]), plans.ddim(LINEAR, TIMES))
    with pytest.raises(ValueError, match="matrix is of one plan"):
        stacked.matrix()
    with pytest.raises(ValueError, match="JSON holds one plan"):
        stacked.to_json()


def test_json_gives_the_same_plan_bit_by_bit():
    times, cosine = grids.karras(LINEAR, 7), schedules.cosine()
    for name in plans.METHODS:
        plan = plans.write(name, LINEAR, times)
        again = Plan.from_json(plan.to_json())
        assert repr(again) == repr(plan)
        assert (again.origin.method, again.origin.end) == (name, schedules.DATA)
        assert again.belongs(LINEAR) and not again.belongs(cosine), name
        for column in (*COLUMNS, "guide_eps", "guide_mean"):
            assert (getattr(plan, column) == getattr(again, column)).all(), f"{name}, {column}"
        assert again.log_variance is None, name


def test_json_carries_a_learned_variance_and_guidance_of_the_mean():
    plan = plans.ddpm(LINEAR, TIMES, "learned_range")
    again = Plan.from_json(plan.to_json())
    assert (again.log_variance == plan.log_variance).all() and again.guide_mean.any()


def test_json_is_versioned_text_with_a_column_a_line():
    text = plans.ddim(LINEAR, TIMES).to_json()
    content = json.loads(text)
    assert content["kind"] == "skipjax plan" and content["version"] == 1
    assert len(text.splitlines()) == len(content) + 2
    assert content["t"] == TIMES.tolist()


CONTENT = json.loads(plans.ddim(LINEAR, TIMES).to_json())


def test_json_that_is_no_plan_is_refused(subtests):
    for change, message in [
        ({"kind": "recipe"}, "this is no plan"),
        ({"version": 2}, "version 2, and version 1 is read here"),
        ({"space": "v"}, "space is 'v'"),
        ({"keep": None}, "keep must be finite numbers"),
        ({"keep": CONTENT["keep"][1:]}, "different lengths"),
        ({"keep": [*CONTENT["keep"][1:], float("nan")]}, "keep must be finite"),
        ({"mix": CONTENT["keep"]}, r"mix must be finite numbers, \[N, K\]"),
        ({"mix": [[1.0], [1.0, 2.0]]}, "mix must be finite"),
        ({"t": ["a"] * 10}, "t must be finite"),
        ({"noise": []}, "noise must be finite"),
        ({"log_variance": [[0.0, 1.0, 2.0]] * 10}, r"log_variance must be .*\[N, 2\]"),
        ({"method": None}, "origin is not whole"),
        ({"eta": 1.0}, "holds 'eta', which nothing reads"),
    ]:
        with subtests.test(**change), pytest.raises(ValueError, match=message):
            Plan.from_json(json.dumps(CONTENT | change))
    for text in ("", "{", "[1, 2]", "3", '{"t": [1]}'):
        with subtests.test(text=text), pytest.raises(ValueError, match="this is no"):
            Plan.from_json(text)


def test_numbers_that_are_not_finite_are_not_written():
    plan = plans.ddim(LINEAR, TIMES)
    with pytest.raises(ValueError, match="keep holds"):
        replace(plan, keep=plan.keep * np.nan).to_json()


def test_plot_draws_the_matrix_and_the_levels():
    pytest.importorskip("matplotlib")
    for plan in (plans.dpmpp_2m_sde(LINEAR, TIMES), plans.unipc(LINEAR, TIMES[:3], 1)):
        figure = plan.plot()
        matrix, levels = figure.axes[0], figure.axes[1]
        np.testing.assert_array_equal(matrix.images[0].get_array(), plan.matrix())
        log_snr = np.log(plan.alpha / plan.sigma)
        np.testing.assert_allclose(levels.lines[0].get_ydata(), log_snr)
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_plot_of_a_plan_from_zero_snr_names_the_call_that_has_no_level():
    pytest.importorskip("matplotlib")
    schedule = schedules.zero_terminal_snr(LINEAR)
    legend = plans.ddim(schedule, TIMES).plot().axes[1].get_legend()
    assert any("zero SNR at call 0" in text.get_text() for text in legend.get_texts())


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.colors", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib, or 'skipjax\[plot\]'"):
        plans.ddim(LINEAR, TIMES).plot()


def eps_of(x, t, sin):
    """A network like none."""
    return sin(x + 0.01 * t)


def denoise(x, point):
    eps = eps_of(x, point.t, jnp.sin)
    return Prediction((x - point.sigma * eps) / point.alpha, eps)


def test_plans_of_any_method_and_schedule_share_one_program():
    x, keys = jnp.ones((3, 2)), jax.random.split(jax.random.key(0), 3)

    @jax.jit
    @chex.assert_max_traces(1)
    def run(plan):
        return integrate(plan, denoise, x, keys)

    for schedule in (LINEAR, schedules.cosine()):
        for name in ("dpmpp_2m", "dpmpp_2m_sde", "unipc_1", "unip_2"):
            run(plans.write(name, schedule, grids.uniform_log_snr(schedule, 10)))


def test_stacked_plans_compile_once_and_equal_one_by_one():
    written = [plans.dpmpp_2m(LINEAR, grids.power_law(1000, 10, p)) for p in (0.7, 1, 2)]
    written += [plans.write(name, LINEAR, TIMES) for name in ("ddim", "dpmpp_3m", "unipc_3")]
    stacked = plans.stack(written)
    assert stacked.mix.shape == (6, 10, 4)
    keys, x = jax.random.split(jax.random.key(0), 5), np.linspace(-2, 2, 10).reshape(5, 2)

    @jax.jit
    @chex.assert_max_traces(1)
    def every(plans):
        return jax.vmap(lambda plan: integrate(plan, denoise, jnp.float32(x), keys))(plans)

    out = every(stacked)
    every(jax.tree.map(np.copy, stacked))

    def predict(x, t, alpha, sigma):
        return (x - sigma * eps_of(x, t, np.sin)) / alpha

    for plan, ours in zip(written, out, strict=True):
        alone = loop(plan, predict, x, np.zeros((10, 1, 1)))
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5, err_msg=repr(plan))


def test_plans_that_differ_in_kind_are_not_stacked(subtests):
    ddim = plans.ddim(LINEAR, TIMES)
    for differ, many in {
        "none": [],
        "nfe": [ddim, plans.heun(LINEAR, TIMES)],
        "space": [ddim, plans.dpm_2m(LINEAR, TIMES)],
        "variance": [ddim, plans.ddpm(LINEAR, TIMES, "learned")],
    }.items():
        message = "alike in NFE, space and variance, got"
        with subtests.test(differ), pytest.raises(ValueError, match=message):
            plans.stack(many)


def test_an_origin_is_dropped_by_jit_and_never_invented():
    run = jax.jit(chex.assert_max_traces(lambda plan: plan, 1))
    for schedule in (schedules.cosine(), LINEAR):
        plan = plans.ddim(schedule, TIMES)
        assert plan.belongs(schedule) and plan.named("mine").origin.method == "mine"
        for gone in (run(plan), jax.tree.map(jnp.asarray, plan)):
            assert gone.origin is None and gone.belongs(schedule)
            with pytest.raises(ValueError, match="no method to be named"):
                gone.named("mine")
    assert not plans.ddim(schedules.cosine(), TIMES).belongs(LINEAR)


def test_a_plan_may_say_the_noise_it_starts_from():
    plan = replace(plans.ddim(LINEAR, TIMES), prior_std=np.float64(14.6))
    assert Plan.from_json(plan.to_json()).prior_std == 14.6
    assert plans.ddim(LINEAR, TIMES).prior_std is None
    assert plans.stack([plan, plan]).prior_std.tolist() == [14.6, 14.6]
    x, keys = jnp.ones((3, 2)), jax.random.split(jax.random.key(0), 3)
    ours, plain = (integrate(p, denoise, x, keys) for p in (plan, replace(plan, prior_std=None)))
    assert (ours == plain).all()


def test_files_with_the_older_names_of_columns_are_read():
    plan = plans.ddpm(LINEAR, TIMES)
    text = plan.to_json().replace("guide_eps", "steer").replace("guide_mean", "shift")
    assert (Plan.from_json(text).guide_mean == plan.guide_mean).all()


def test_a_plan_of_another_schedule_is_refused_by_sample():
    params = tiny.pretrained()
    with pytest.raises(ValueError, match=r"written for another schedule than tiny's \(linear"):
        skipjax.sample(params, jax.random.key(0), plan=plans.ddim(schedules.cosine(), TIMES))
    with pytest.raises(ValueError, match="another schedule"):
        plan = plans.ddim(schedules.linear(4000), TIMES)
        skipjax.sample(params, jax.random.key(0), plan=Plan.from_json(plan.to_json()))
    with pytest.raises(TypeError, match="plan is a dict: give a Plan"):
        skipjax.sample(params, jax.random.key(0), plan={"t": [1]})
