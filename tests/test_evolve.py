"""Evolution of times and solvers: whatever comes of it is a plan, and it finds better ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import in_eps

from skipjax import grids, plans, schedules
from skipjax.evaluation.exact import Mixture
from skipjax.plans import Choice
from skipjax.sampling import integrate
from skipjax.tuning.evolve import evolve
from skipjax.tuning.genome import Genome, Pool

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


class Mixed:
    """Errors of plans on starting noise of the mixture; half of it is held out.

    It counts how often a plan was traced, and how many pictures were drawn.
    """

    def __init__(self):
        self.keys = jax.random.split(jax.random.key(9), BATCH)
        self.x = jax.random.normal(jax.random.key(0), (2 * NUM, 2), jnp.float64)
        self.run = jax.jit(lambda stacked, x: jax.lax.map(lambda p: self.draw(p, x), stacked))
        self.traces = 0
        teacher = plans.dpmpp_3m(LINEAR, grids.uniform_log_snr(LINEAR, 200))
        (self.target,) = self.ends([teacher], 0, 2 * NUM)
        self.traces = self.pictures = 0

    def draw(self, plan, x):
        self.traces += 1
        return integrate(plan, MIXTURE.denoise, x, self.keys)

    def ends(self, some, first, last):
        stacked = plans.stack(some)
        batches = [self.x[at : at + BATCH] for at in range(first, last, BATCH)]
        return np.concatenate([self.run(stacked, x) for x in batches], axis=1)

    def errors(self, some, first, last):
        self.pictures += len(some) * (last - first)
        off = self.ends(some, first, last) - self.target[first:last]
        return np.sqrt(np.square(off).mean(axis=(1, 2)))

    def __call__(self, some, num):
        return self.errors(some, 0, num)

    def held(self, plan):
        """The error on noise that the search knows nothing of."""
        return self.errors([plan.widened(plan.nfe)] * 4, NUM, 2 * NUM)[0]


def by_times(some, num):
    """A score without a network: how far the times are from some."""
    wanted = np.linspace(900, 10, some[0].nfe)
    return np.array([np.abs(plan.t - wanted).mean() + plan.keep[1] / num for plan in some])


def assert_is_one(genome, schedule, nfe, whole):
    times = np.array(genome.times)
    assert len(times) == len(genome.steps) == nfe
    assert 0 <= times[-1] and times[0] <= schedule.T - 1 and (np.diff(times) < 0).all()
    if whole:
        assert times.dtype.kind == "i"
    plan = genome.plan(schedule)
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
    rng, pool = np.random.default_rng(0), Pool(schedule, 6, whole)
    ours = [*pool.named().values(), *(pool.drawn(rng) for _ in range(20))]
    for _ in range(150):
        one, other = (ours[i] for i in rng.integers(len(ours), size=2))
        changed, crossed = pool.mutated(rng, one), pool.crossed(rng, one, other)
        assert changed != one
        ours += [changed, crossed]
    for genome in ours:
        assert_is_one(genome, schedule, 6, whole)
        assert pool.taken(genome) == genome


def test_where_all_times_are_visited_there_is_nothing_to_choose_but_steps():
    schedule = schedules.cosine(5)
    rng, pool = np.random.default_rng(0), Pool(schedule, 5, whole=True)
    genome = pool.drawn(rng)
    for _ in range(30):
        genome = pool.mutated(rng, genome)
        assert genome.times == (4, 3, 2, 1, 0)


def test_times_and_choices_are_those_of_either_parent():
    rng, pool = np.random.default_rng(0), Pool(LINEAR, 8, whole=True)
    one = pool.taken(Genome(tuple(range(900, 100, -100)), (Choice("x_0", 3),) * 8))
    other = pool.taken(Genome(tuple(range(850, 50, -100)), (Choice("eps", 2),) * 8))
    for _ in range(20):
        child = pool.crossed(rng, one, other)
        assert set(child.times) <= {*one.times, *other.times}
        pairs = zip(one.steps, other.steps, strict=True)
        assert all(made in pair for made, pair in zip(child.steps, pairs, strict=True))


def test_genomes_with_names_are_the_plans_of_those_names():
    known = Pool(LINEAR, 6).named()
    assert {"ddim on karras", "dpmpp_3m on uniform_log_snr", "ipndm_4 on uniform"} <= set(known)
    for name, genome in known.items():
        method, grid = name.split(" on ")
        theirs = plans.write(method, LINEAR, grids.named(grid, LINEAR, 6))
        ours = genome.plan(LINEAR)
        np.testing.assert_array_equal(ours.t, theirs.t)
        largest = np.abs(in_eps(theirs)).max(axis=1, keepdims=True)
        off = (in_eps(ours) - in_eps(theirs)) / largest
        np.testing.assert_allclose(off, 0, atol=1e-9)


@pytest.mark.parametrize("kinds", [(False,), pytest.param((False, True), marks=slow)], ids=str)
def test_it_finds_better_plans_on_noise_it_never_saw_in_one_program(float64, kinds):
    score = Mixed()
    for whole in kinds:
        start = evolve(score, LINEAR, 5, NUM, whole=whole, generations=0)
        assert len(start.plans) == len(Pool(LINEAR, 5, whole).named())
        before, starts = score.pictures, start.genomes[:8]
        found = evolve(score, LINEAR, 5, NUM, whole=whole, starts=starts, generations=8)
        assert found.calls == 5 * (score.pictures - before)
        assert (np.diff(found.errors) >= 0).all() and found.plans[0].nfe == 5
        assert (np.diff(found.rounds) <= 0).all() and len(found.rounds) == 9
        assert found.rounds[0] == start.errors[0]
        assert found.errors[0] == found.rounds[-1] < 0.9 * start.errors[0]
        assert score.held(found.plans[0]) < 0.9 * score.held(start.plans[0])
        assert_is_one(found.genomes[0], LINEAR, 5, whole)
    assert score.traces == 1


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=slow)], ids=["real", "whole"])
def test_the_same_seed_gives_the_same_plans(whole):
    one, same, other = (
        evolve(by_times, LINEAR, 4, 100, whole=whole, generations=3, least=10, seed=seed)
        for seed in (3, 3, 4)
    )
    assert one.genomes == same.genomes and one.calls == same.calls
    np.testing.assert_array_equal(one.errors, same.errors)
    assert one.genomes != other.genomes


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=slow) for i in range(1, 5))])
def test_it_is_never_worse_than_its_best_start(seed):
    """Where scores on few examples say nothing of those on all."""
    rng = np.random.default_rng(seed)
    told: dict[bytes, float] = {}

    def score(some, num):
        values = [told.setdefault(p.matrix().tobytes() + bytes(num), rng.random()) for p in some]
        return np.array(values)

    starts = list(Pool(LINEAR, 4).named().values())[:7]
    found = evolve(score, LINEAR, 4, 40, starts=starts, generations=4, least=10, seed=seed)
    errors = score([genome.plan(LINEAR).widened(4) for genome in starts], 40)
    assert found.rounds[0] == errors.min() and found.errors[0] <= errors.min()
    assert (np.diff(found.rounds) <= 0).all()


def test_nothing_is_judged_twice_and_groups_are_full():
    asked: dict[tuple[bytes, int], int] = {}

    def score(some, num):
        assert len(some) == 4 and {(p.nfe, p.history, p.space) for p in some} == {(5, 5, "x_0")}
        for plan in {id(plan): plan for plan in some}.values():
            key = plan.t.tobytes() + plan.matrix().tobytes(), num
            asked[key] = asked.get(key, 0) + 1
        return by_times(some, num)

    told = []
    evolve(score, LINEAR, 5, 64, least=4, generations=4, on_generation=lambda *at: told.append(at))
    # Two genomes may come to one table where a step happens to agree with another.
    assert sum(asked.values()) < 1.03 * len(asked) and {num for _, num in asked} == {4, 16, 64}
    assert [i for i, _ in told] == [1, 2, 3, 4]


@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=slow)])
def test_what_is_not_finite_loses(bad):
    def score(some, num):
        return np.array([bad if plan.t[0] > 990 else error for plan, error in pairs(some, num)])

    def pairs(some, num):
        return zip(some, by_times(some, num), strict=True)

    found = evolve(score, LINEAR, 4, 20, generations=3, least=5)
    assert np.isfinite(found.errors).all() and all(plan.t[0] <= 990 for plan in found.plans)
    with pytest.raises(FloatingPointError, match="no start of 4 calls draws finite pictures"):
        evolve(lambda some, num: np.full(len(some), bad), LINEAR, 4, 20)


def test_few_whole_times_come_to_an_end():
    """Two calls of two times: all genomes there are have soon been seen."""
    schedule = schedules.cosine(2)
    found = evolve(by_times, schedule, 2, 4, whole=True, generations=4, population=16)
    assert {genome.times for genome in found.genomes} == {(1, 0)}


START = Genome((900.0, 500.0, 100.0), (Choice(),) * 3)


REFUSED = [
    ({"nfe": 1}, "nfe is 1: it must be a whole number in 2 .. 1000"),
    ({"nfe": 1001}, "nfe is 1001"),
    ({"nfe": 2.5}, "nfe is 2.5"),
    ({"num": 0}, "num is 0"),
    ({"population": 0}, "population is 0"),
    ({"parents": 0}, "parents is 0"),
    ({"least": 0}, "least is 0"),
    ({"group": 0}, "group is 0"),
    ({"generations": -1}, "generations is -1"),
    ({"seed": -1}, "seed is -1"),
    ({"starts": []}, "there is no start to evolve from"),
    ({"starts": [START._replace(times=(900.0, 500.0))]}, "they must be 3, decreasing"),
    ({"starts": [START._replace(times=(900.0, 500.0, 500.0))]}, "they must be 3, decreasing"),
    ({"starts": [START._replace(times=(1000.0, 500.0, 1.0))]}, "times in 999 .. 0"),
    ({"starts": [START._replace(times=(9.5, 5.0, 1.0))], "whole": True}, "be whole times in"),
    ({"starts": [START._replace(steps=(Choice(),) * 2)]}, "there are 2 steps for 3 times"),
    ({"starts": [START._replace(steps=(Choice("v"),) * 3)]}, "the space of steps[0] is 'v'"),
    ({"starts": [START._replace(steps=(Choice(order=5),) * 3)]}, "order of steps[0] is 5"),
    ({"score": lambda some, num: np.zeros(1)}, "errors of shape (1,) for 4 plans"),
]


def test_bad_input_is_refused(subtests):
    for changes, message in REFUSED:
        settings = {"score": by_times, "schedule": LINEAR, "nfe": 3, "num": 20} | changes
        with subtests.test(message), pytest.raises(ValueError, match=re.escape(message)):
            evolve(**settings)
