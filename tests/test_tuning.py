"""Plans that are learned: any numbers are a plan, and learning finds a better one."""

from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from skipjax import grids, plans, schedules
from skipjax.denoisers import from_eps
from skipjax.evaluation.exact import Mixture
from skipjax.tuning import Objective, TuneConfig, search
from skipjax.tuning.baselines import Score, baselines, halve
from skipjax.tuning.examples import Examples, draw, draw_all, identity
from skipjax.tuning.gauss_newton import normal_equations
from skipjax.tuning.learn import learn
from skipjax.tuning.loss import squares
from skipjax.tuning.parametrization import parametrize

LINEAR = schedules.linear()
SCHEDULES = {
    "linear": LINEAR,
    "cosine": schedules.cosine(),
    "variance_exploding": schedules.variance_exploding(100),
    "rectified_flow": schedules.rectified_flow(),
}
PAIR = Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, -0.5]], 0.3)
pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
KEY = jax.random.key(0)
# One shape, so that few programs serve: 5 calls that look at 4 predictions, of 64 pictures.
NFE, HISTORY = 5, 4
CONFIG = TuneConfig(NFE, HISTORY, max_iters=8, batch=64)
PATH = Objective()


@Partial
def of_pair(examples):
    return PAIR.denoise


def score(some, examples):
    return Score(of_pair, examples, PATH, batch=64)(some)


def examples(num, seed=0, denoiser=of_pair, dim=2):
    """Some of `num` pictures, a multiple of 64, and where a teacher leads them."""
    x = np.random.default_rng(seed).normal(size=(num, dim))
    some = Examples(x, jax.random.split(jax.random.key(seed + 1), 512)[:num])
    teacher = plans.dpmpp_3m(LINEAR, grids.uniform_log_snr(LINEAR, 200))
    target = [np.asarray(draw(denoiser, teacher, part)) for part in some.batches(64)]
    return some._replace(target=np.concatenate(target)[:num])


METHODS = ["ddim", "dpmpp_2m", "unipc_3", "ipndm_4", "dpm_2s", "ddpm", "dpmpp_2m_sde"]


def test_a_plan_as_free_numbers_is_that_plan(subtests):
    for (schedule, of), name in product(SCHEDULES.items(), METHODS):
        with subtests.test(f"{name} on {schedule}"):
            start = min(of.T - 2, 950)
            plan = plans.METHODS[name].write(of, np.linspace(start, 0.02 * start, 6))
            numbers, frame = parametrize(plan, of, 4)
            again = frame.write(numbers, of, plan.origin)
            assert again.belongs(of) and again.history == max(4, plan.history)
            np.testing.assert_allclose(again.t, plan.t, rtol=1e-9)
            np.testing.assert_allclose(again.matrix(), plan.matrix(), rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(again.noise, plan.noise, rtol=1e-12)
            np.testing.assert_allclose(again.guide_mean, plan.guide_mean, rtol=1e-9, atol=1e-15)


def test_any_numbers_are_a_plan_with_levels_in_order():
    plan = plans.dpmpp_2m(LINEAR, grids.trailing(1000, 8))
    numbers, frame = parametrize(plan, LINEAR, 4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        wild = jax.tree.map(lambda a: a + rng.normal(size=a.shape) * 3, numbers)
        made = frame.write(wild, LINEAR, plan.origin)
        assert made.t[0] == plan.t[0] and (np.diff(made.t) < 0).all() and made.t[-1] >= 0
        assert all(np.isfinite(column).all() for column in jax.tree.leaves(made))


def test_plans_that_stand_still_are_not_of_this_form():
    twice = plans.plms(LINEAR, grids.trailing(1000, 6))
    with pytest.raises(ValueError, match="do not follow one another"):
        parametrize(twice, LINEAR, 4)
    with pytest.raises(ValueError, match="of fixed variance"):
        parametrize(replace(plans.ddim(LINEAR, [900, 100]), origin=None), LINEAR, 2)


def test_every_plan_without_noise_is_a_candidate_once():
    found = baselines(LINEAR, 6)
    names = {plan.origin.method.split()[0] for plan in found}
    assert {"ddim", "dpmpp_3m", "unipc_3", "ipndm_4", "plms"} <= names
    assert "dpm_2s" not in names  # which makes odd numbers of calls
    assert all(plan.nfe == 6 and not plan.noise.any() for plan in found)
    assert len({plan.matrix().round(6).tobytes() + plan.t.tobytes() for plan in found}) == len(
        found
    )
    assert not any(plan.alpha[0] == 0 for plan in baselines(schedules.rectified_flow(), 6))


@pytest.mark.slow
def test_the_search_among_fixed_plans_finds_the_best(float64):
    some, candidates = examples(256), baselines(LINEAR, NFE)
    judge = Score(of_pair, some, PATH, batch=64)
    best, errors = halve(judge, candidates, 256, least=64)
    calls, every = judge.calls, score(candidates, some)
    assert errors[0] == pytest.approx(every.min()) and (np.diff(errors) >= 0).all()
    assert calls < 0.5 * len(candidates) * NFE * 256
    # The last of its batches is not full.
    some = some.take(np.arange(250))
    values, *_ = draw_all(of_pair, best[:1] * 4, some, batch=64)
    (error, *_) = score(best[:1] * 4, some)
    assert values.shape == (250, 2)
    assert squares(values, some.target).mean() == pytest.approx(error**2)


def derivatives(denoiser, some, write, nfe, history, draws=1):
    """What `normal_equations` says of a plan, and what it should be."""
    plan = write(LINEAR, grids.trailing(1000, nfe))
    numbers, frame = jax.tree.map(jnp.asarray, parametrize(plan, LINEAR, history))
    flat = jnp.asarray(numbers._replace(turn=jnp.full(nfe, 0.3)).flat())
    index = jnp.arange(len(flat))
    gradient = (draw(denoiser, frame.plan(flat), some) - some.target) / some.target.size
    at = frame.derivatives(flat, index)
    found = [
        normal_equations(denoiser, *at, some, gradient, key, 0.0, identity)
        for key in jax.random.split(KEY, draws)
    ]
    matrices = np.array([matrix for matrix, _ in found]) / some.target.size
    off, by_numbers = by_hand(denoiser, frame, some, flat)
    return matrices, found[0][1], by_numbers.T @ off, by_numbers.T @ by_numbers


@jax.jit
def by_hand(denoiser, frame, some, flat):
    """What a plan is off by, and its derivatives by the numbers of the plan."""

    def off(flat):
        values = draw(denoiser, frame.plan(flat), some) - some.target
        off = values.reshape(-1) / values.size**0.5
        return off, off

    by_numbers, off = jax.jacfwd(off, has_aux=True)(flat)
    return off, by_numbers


@pytest.mark.slow
def test_derivatives_are_those_of_the_error(float64):
    asked = of_pair, examples(64), plans.dpm_2m, NFE, HISTORY
    matrices, slope, gradient, exact = derivatives(*asked)
    np.testing.assert_allclose(slope, gradient, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(matrices[0], exact, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 6])
def test_derivatives_of_many_values_are_those_of_the_error_in_expectation(float64, dim):
    """Of few values exactly."""
    means = np.random.default_rng(0).normal(size=(3, dim))
    denoiser = Partial(lambda examples, denoise: denoise, denoise=Partial(_of(means)))
    some = examples(100, denoiser=denoiser, dim=dim)
    asked = denoiser, some, plans.dpmpp_2m, 4, 3, 1 if dim == 2 else 100
    matrices, slope, gradient, exact = derivatives(*asked)
    np.testing.assert_allclose(slope, gradient, rtol=1e-7, atol=1e-12)
    if dim == 2:
        np.testing.assert_allclose(matrices[0], exact, rtol=1e-7, atol=1e-9)
        return
    error = matrices.std(axis=0, ddof=1) / 10
    assert (np.abs(matrices.mean(axis=0) - exact) < 5 * error + 1e-9).all()


def _of(means):
    return Mixture(np.full(len(means), 1 / len(means)), means, 0.3).denoise


from_starts = pytest.mark.parametrize("starts", [1, pytest.param(2, marks=pytest.mark.slow)])


@from_starts
def test_learning_betters_every_fixed_plan_on_noise_it_never_saw(float64, starts):
    train, decide, held = (examples(256 * starts, seed) for seed in (0, 2, 4))
    config = replace(CONFIG, starts=starts)
    found = search(of_pair, LINEAR, train, decide, held, PATH, config, least=64)
    ours, theirs = found.errors
    assert found.won and ours < 0.35 * theirs
    assert found.plan.nfe == NFE and found.plan.history <= HISTORY
    assert found.rounds[-1] < found.rounds[0]
    (again,) = score([found.plan], held)
    assert again == pytest.approx(ours)


@from_starts
def test_where_the_fixed_plan_is_as_good_it_is_kept(float64, starts):
    """What decides is what the best fixed plan itself draws: nothing can be nearer."""
    train, decide, held = examples(64), examples(64, 2), examples(64, 4)
    (best, *_), _ = halve(Score(of_pair, decide, PATH, 64), baselines(LINEAR, NFE), 64, least=64)
    held = held._replace(target=np.asarray(draw(of_pair, best, held)))
    config = replace(CONFIG, starts=starts, max_iters=1)
    found = search(of_pair, LINEAR, train, decide, held, PATH, config, least=64)
    assert not found.won and found.plan is found.fixed[0]
    assert found.learned is not found.plan and found.errors[0] > found.errors[1]


@pytest.mark.slow
def test_the_numbers_of_the_best_round_are_given_and_not_those_of_the_last(float64):
    """What decides is what the plan drew before it learned: every round is further off."""
    train, plan = examples(64), plans.dpmpp_2m(LINEAR, grids.trailing(1000, NFE))
    numbers, frame = parametrize(plan, LINEAR, HISTORY)
    (before,) = draw_all(of_pair, [frame.plan(numbers.flat())], train)
    decide = train._replace(target=before)
    found = learn(of_pair, numbers, frame, train, decide, PATH, replace(CONFIG, max_iters=2))
    assert found.learned[-1] < found.learned[0] and found.decided[-1] > found.decided[0]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), found.numbers, numbers)


@pytest.mark.slow
def test_steps_to_where_nothing_is_finite_are_not_taken():
    broken = Partial(lambda examples: from_eps(lambda x, t: jnp.full_like(x, jnp.nan)))
    x = jnp.ones((4, 2))
    some = Examples(x, jax.random.split(KEY, 4), target=np.zeros((4, 2), np.float32))
    plan = plans.ddim(LINEAR, grids.trailing(1000, 3))
    numbers, frame = parametrize(plan, LINEAR, 2)
    config = TuneConfig(3, 2, max_iters=3)
    found = learn(broken, numbers, frame, some, some, PATH, config)
    jax.tree.map(np.testing.assert_array_equal, found.numbers, jax.tree.map(np.float32, numbers))
    with pytest.raises(FloatingPointError, match="no plan of 3 calls"):
        search(broken, LINEAR, some, some, some, PATH, config)


@pytest.mark.slow
def test_where_nothing_is_left_to_learn_it_ends(float64):
    some, plan = examples(64), plans.dpmpp_2m(LINEAR, grids.trailing(1000, NFE))
    numbers, frame = parametrize(plan, LINEAR, HISTORY)
    (same,) = draw_all(of_pair, [frame.plan(numbers.flat())], some)
    some = some._replace(target=same)
    found = learn(of_pair, numbers, frame, some, some, PATH, replace(CONFIG, max_iters=3))
    assert found.learned[-1] < 1e-12
