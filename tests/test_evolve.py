"""Evolution of times and solvers: whatever comes of it is a plan, and it finds better ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from tables import in_eps

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Mixture
from skipjax.plans import Choice
from skipjax.tuning import Objective
from skipjax.tuning.baselines import Score
from skipjax.tuning.evolve import evolve
from skipjax.tuning.examples import Examples, draw_all
from skipjax.tuning.search_space import Candidate, SearchSpace

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
SCHEDULES = {
    "linear": LINEAR,
    "rectified_flow": schedules.rectified_flow(),
    "variance_exploding": schedules.variance_exploding(100),
}
MIXTURE = Mixture([0.4, 0.3, 0.2, 0.1], [[1.0, 0.8], [-1.2, 0.6], [-0.5, -1.1], [0.9, -0.9]], 0.35)
slow = pytest.mark.slow
BATCH, NUM = 64, 512


TRACES = []


@Partial
def of_mixture(examples):
    TRACES.append(examples)
    return MIXTURE.denoise


def judge(num, seed):
    """Errors of plans on starting noise of the mixture."""
    x = jax.random.normal(jax.random.key(seed), (num, 2), jnp.float64)
    some = Examples(x, jax.random.split(jax.random.key(9), num))
    teacher = plans.dpmpp_3m(LINEAR, grids.uniform_log_snr(LINEAR, 200))
    (target,) = draw_all(of_mixture, [teacher], some, batch=BATCH)
    return Score(of_mixture, some._replace(target=target), Objective(), BATCH)


def by_times(some, num):
    """A score without a network: how far the times are from some."""
    wanted = np.linspace(900, 10, len(some[0].times))
    return np.array([np.abs(one.times - wanted).mean() + 1 / num for one in some])


def assert_is_one(candidate, schedule, nfe, whole):
    times = np.array(candidate.times)
    assert len(times) == len(candidate.steps) == nfe
    assert 0 <= times[-1] and times[0] <= schedule.T - 1 and (np.diff(times) < 0).all()
    if whole:
        assert times.dtype.kind == "i"
    plan = candidate.plan(schedule)
    assert plan.nfe == nfe and plan.history <= nfe and plan.space == "x_0"
    assert all(np.isfinite(column).all() for column in (plan.keep, plan.mix))
    np.testing.assert_array_equal(plan.t, times)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("linear", False),
        pytest.param("linear", True, marks=slow),
        pytest.param("rectified_flow", False, marks=slow),
        ("rectified_flow", True),
        pytest.param("variance_exploding", False, marks=slow),
        pytest.param("variance_exploding", True, marks=slow),
    ],
)
def test_whatever_is_drawn_changed_and_crossed_is_a_plan(name, whole):
    schedule = SCHEDULES[name]
    rng, space = np.random.default_rng(0), SearchSpace(schedule, 6, whole)
    ours = [*space.known_methods().values(), *(space.draw(rng) for _ in range(20))]
    for _ in range(150):
        one, other = (ours[i] for i in rng.integers(len(ours), size=2))
        changed, crossed = space.mutate(rng, one), space.cross(rng, one, other)
        assert changed != one
        ours += [changed, crossed]
    for candidate in ours:
        assert_is_one(candidate, schedule, 6, whole)


def test_where_all_times_are_visited_there_is_nothing_to_choose_but_steps():
    schedule = schedules.cosine(5)
    rng, space = np.random.default_rng(0), SearchSpace(schedule, 5, whole=True)
    candidate = space.draw(rng)
    for _ in range(30):
        candidate = space.mutate(rng, candidate)
        assert candidate.times == (4, 3, 2, 1, 0)


def test_times_and_choices_are_those_of_either_parent():
    rng, space = np.random.default_rng(0), SearchSpace(LINEAR, 8, whole=True)
    one, other = (
        space.cross(rng, parent, parent)  # in the form that equal plans have
        for parent in (
            Candidate(tuple(range(900, 100, -100)), (Choice("x_0", 3),) * 8),
            Candidate(tuple(range(850, 50, -100)), (Choice("eps", 2),) * 8),
        )
    )
    assert one.times == tuple(range(900, 100, -100))
    for _ in range(20):
        child = space.cross(rng, one, other)
        assert set(child.times) <= {*one.times, *other.times}
        pairs = zip(one.steps, other.steps, strict=True)
        assert all(made in pair for made, pair in zip(child.steps, pairs, strict=True))


def test_candidates_with_names_are_the_plans_of_those_names():
    known = SearchSpace(LINEAR, 6).known_methods()
    assert {"ddim on karras", "dpmpp_3m on uniform_log_snr", "ipndm_4 on uniform"} <= set(known)
    for name, candidate in known.items():
        method, grid = name.split(" on ")
        theirs = plans.write(method, LINEAR, grids.named(grid, LINEAR, 6))
        ours = candidate.plan(LINEAR)
        np.testing.assert_array_equal(ours.t, theirs.t)
        largest = np.abs(in_eps(theirs)).max(axis=1, keepdims=True)
        off = (in_eps(ours) - in_eps(theirs)) / largest
        np.testing.assert_allclose(off, 0, atol=1e-9)


@slow
@pytest.mark.parametrize("kinds", [(False,), (False, True)], ids=str)
def test_it_finds_better_plans_on_noise_it_never_saw_in_one_program(float64, kinds):
    seen, held = judge(NUM, 0), judge(NUM, 1)

    def score(some, num):
        return seen([candidate.plan(LINEAR) for candidate in some], num)

    for whole in kinds:
        space = SearchSpace(LINEAR, 5, whole)
        known = list(space.known_methods().values())
        start = evolve(score, space, known, NUM, generations=0, least=BATCH)
        assert len(start) == len(known)
        TRACES.clear()
        found = evolve(score, space, list(start)[:8], NUM, generations=8, least=BATCH)
        errors = list(found.values())
        assert (np.diff(errors) >= 0).all() and errors[0] < 0.9 * min(start.values())
        before, after = held([next(iter(each)).plan(LINEAR) for each in (start, found)] * 2)[:2]
        assert after < 0.9 * before
        assert_is_one(next(iter(found)), LINEAR, 5, whole)
        assert not TRACES


def evolved(score=by_times, nfe=4, num=100, whole=False, least=10, **how):
    """What comes of known methods."""
    space = SearchSpace(LINEAR, nfe, whole)
    starts = list(space.known_methods().values())
    return evolve(score, space, starts, num, least=least, **how)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=slow)], ids=["real", "whole"])
def test_the_same_seed_gives_the_same_plans(whole):
    one, same, other = (evolved(whole=whole, generations=3, seed=seed) for seed in (3, 3, 4))
    assert list(one.items()) == list(same.items())
    assert list(one) != list(other)


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=slow) for i in range(1, 5))])
def test_it_is_never_worse_than_its_best_start(seed):
    """Where scores on few examples say nothing of those on all."""
    rng = np.random.default_rng(seed)
    told: dict[tuple[Candidate, int], float] = {}

    def score(some, num):
        return np.array([told.setdefault((one, num), rng.random()) for one in some])

    space = SearchSpace(LINEAR, 4)
    starts = list(space.known_methods().values())[:7]
    found = evolve(score, space, starts, 40, generations=4, least=10, seed=seed)
    assert min(found.values()) <= score(starts, 40).min()


def test_nothing_is_judged_twice():
    asked: list[tuple[Candidate, int]] = []

    def score(some, num):
        asked.extend((one, num) for one in some)
        return by_times(some, num)

    evolved(score, nfe=5, num=64, least=4, generations=4)
    assert len(asked) == len({*asked}) and {num for _, num in asked} == {4, 16, 64}


@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=slow)])
def test_what_is_not_finite_loses(bad):
    def score(some, num):
        errors = zip(some, by_times(some, num), strict=True)
        return np.array([bad if one.times[0] > 990 else error for one, error in errors])

    found = evolved(score, num=20, generations=3, least=5)
    assert np.isfinite(list(found.values())).all()
    assert found and all(one.times[0] <= 990 for one in found)
    assert not evolved(lambda some, num: np.full(len(some), bad), generations=2)


def test_few_whole_times_come_to_an_end():
    """Two calls of two times: all candidates there are have soon been seen."""
    space = SearchSpace(schedules.cosine(2), 2, whole=True)
    starts = [space.draw(np.random.default_rng(0))]
    found = evolve(by_times, space, starts, 4, generations=8, least=4)
    assert {candidate.times for candidate in found} == {(1, 0)}


def test_numbers_of_calls_that_a_schedule_has_not_are_refused(subtests):
    for nfe in (1, 1001, 2.5):
        message = f"nfe is {nfe}: it must be a whole number in 2 .. 1000"
        with subtests.test(nfe), pytest.raises(ValueError, match=message):
            SearchSpace(LINEAR, nfe)
