"""Plans whose noise has a variance that the network learns, and what a tape takes and refuses."""

from dataclasses import replace
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import grids, guidance, plans, sampling, schedules
from skipjax.evaluation.exact import Gaussian
from skipjax.plans import Plan, Tape
from skipjax.sampling import integrate

SCHEDULES = {"linear": schedules.linear(), "cosine": schedules.cosine()}
LINEAR = SCHEDULES["linear"]
TIMES = grids.respaced(1000, "6")
TARGET = Gaussian([0.3, -0.5, 0.1], [[0.25, 0.1, 0.0], [0.1, 0.5, -0.2], [0.0, -0.2, 0.3]])
KEYS = jax.random.split(jax.random.key(0), 4)
LEARNED = ("learned_range", "learned")
COLUMNS = ("t", "alpha", "sigma", "keep", "mix", "noise")


def saying(place):
    """The exact denoiser, with a variance beside it."""

    def denoise(x, point):
        said = None if place is None else jnp.broadcast_to(jnp.asarray(place, x.dtype), x.shape)
        return TARGET.denoise(x, point)._replace(place=said)

    return denoise


@jax.jit
def run(plan, place=None, scale=None):
    denoise = saying(place)
    if scale is not None:
        denoise = guidance.classifier(denoise, lambda x, t: jnp.cos(x).sum(1), scale)
    return integrate(plan, denoise, jax.random.normal(jax.random.key(1), (4, 3)), KEYS)


def variances(schedule, times):
    """Ho et al.'s small and large ones on the chain of times, noisiest first."""
    abar = schedule.alpha[times] ** 2
    before = np.append(abar[1:], 1.0)
    betas = 1 - abar / before
    return betas * (1 - before) / (1 - abar), betas


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", ["6", "250", ""])
def test_a_learned_range_spans_the_small_and_the_large_variance(name, steps):
    schedule, times = SCHEDULES[name], grids.respaced(1000, steps)
    plan, (small, large) = plans.ddpm(schedule, times, "learned_range"), variances(schedule, times)
    np.testing.assert_allclose(np.exp(plan.log_variance[:-1, 0]), small[:-1], rtol=2e-8)
    np.testing.assert_allclose(np.exp(plan.log_variance[:, 1]), large, rtol=2e-8)
    assert (plan.log_variance[:-1, 0] < plan.log_variance[:-1, 1]).all()


@pytest.mark.parametrize("variance", LEARNED)
def test_the_network_scales_noise_and_guidance_of_every_row(variance):
    plan = plans.ddpm(LINEAR, TIMES, variance)
    assert plan.noise.tolist() == [1, 1, 1, 1, 1, 0]
    assert plan.shift.tolist() == [1] * 6 and plan.steer.tolist() == [0] * 6


def test_the_last_row_has_the_smallest_variance_of_the_one_before_and_no_noise():
    plan = plans.ddpm(LINEAR, TIMES, "learned_range")
    assert plan.log_variance[-1, 0] == plan.log_variance[-2, 0]
    assert np.isfinite(plan.log_variance).all()


@pytest.mark.parametrize("variance", schedules.VARIANCES)
@pytest.mark.parametrize("t", [0, 999])
def test_a_grid_of_one_time_draws_no_noise(variance, t):
    plan = plans.ddpm(LINEAR, [t], variance)
    chex.assert_tree_all_finite(plan)
    assert plan.noise.tolist() == [0]
    guided, plain = (run(plan, 0.3, scale) for scale in (1.0, 0.0))
    assert np.isfinite(guided).all()
    np.testing.assert_allclose(plain, run(plans.ddim(LINEAR, [t])), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("place", "fixed"), [(-1.0, "small"), (1.0, "large")])
def test_at_either_end_of_its_range_the_network_chooses_a_fixed_variance(float64, place, fixed):
    for times in (TIMES, np.array([990, 700, 350, 90, 8, 3])):
        learned, plan = (plans.ddpm(LINEAR, times, v) for v in ("learned_range", fixed))
        np.testing.assert_allclose(run(learned, place), run(plan), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("place", "fixed"), [(-1.0, "small"), (1.0, "large")])
def test_at_either_end_it_is_guided_alike_up_to_the_last_step(float64, place, fixed):
    learned, plan = (plans.ddpm(LINEAR, TIMES, v) for v in ("learned_range", fixed))
    ours, theirs = run(learned, place, 0.8), run(plan, None, 0.8)
    assert 1e-9 < np.abs(ours - theirs).max() < 1e-3
    # ADM's logarithm has no zero, and its large variance takes the posterior's in the last step.
    last = np.exp(learned.log_variance[-1, int(place > 0)])
    plan = replace(plan, shift=np.append(plan.shift[:-1], last))
    np.testing.assert_allclose(ours, run(plan, None, 0.8), rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", [-1.0, -0.2, 0.0, 0.7, 1.0, 1.4])
def test_between_the_ends_the_logarithm_is_linear_and_beyond_them_too(float64, place):
    small, large = variances(LINEAR, TIMES)
    part = (place + 1) / 2
    squared = small[:-1] ** (1 - part) * large[:-1] ** part
    plan = plans.ddpm(LINEAR, TIMES)
    plan = replace(plan, noise=np.append(np.sqrt(squared), 0.0))
    ours = run(plans.ddpm(LINEAR, TIMES, "learned_range"), place)
    np.testing.assert_allclose(ours, run(plan), rtol=0, atol=1e-10)


def test_a_learned_variance_is_that_of_each_pixel():
    plan = plans.ddpm(LINEAR, TIMES, "learned_range")
    place = np.linspace(-50, 50, 12, dtype=np.float32).reshape(4, 3)
    first = jax.tree.map(lambda column: column[:1], plan)  # later ones mix the pixels
    mixed = run(first, place)
    for i, j in ((0, 0), (1, 2), (3, 2)):
        alone = run(first, np.full((4, 3), place[i, j], np.float32))
        np.testing.assert_allclose(mixed[i, j], alone[i, j], rtol=0, atol=1e-6)
    assert np.abs(mixed - run(first, 0.0)).max() > 1e-3


@pytest.mark.parametrize("said", [-4.0, 0.0, 1.3])
def test_a_learned_variance_without_range_is_the_exponential_of_what_is_said(float64, said):
    plan = plans.ddpm(LINEAR, TIMES)
    std = np.exp(said / 2)
    by_hand = replace(plan, noise=std * (plan.noise > 0), shift=np.full(6, std**2))
    for scale in (None, 0.8):
        ours = run(plans.ddpm(LINEAR, TIMES, "learned"), said, scale)
        np.testing.assert_allclose(ours, run(by_hand, None, scale), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variance", schedules.VARIANCES)
def test_every_cutoff_has_one_structure(variance):
    def shape(plan):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), plan)

    cutoffs = (0, 1, 500, 999, 1000)
    shapes = [shape(plans.skipped(LINEAR, 100, cutoff, variance)) for cutoff in cutoffs]
    chex.assert_trees_all_equal(*shapes)
    assert (shapes[0].log_variance is not None) == variance.startswith("learned")


@pytest.mark.parametrize("variance", schedules.VARIANCES)
def test_below_the_cutoff_the_variance_is_of_no_account(variance):
    times = grids.skipped(1000, 250)
    hybrid = plans.hybrid(LINEAR, times, 1000, variance)
    ddim = plans.ddim(LINEAR, times)
    for scale in (None, 0.8):
        ours, theirs = run(hybrid, 5.0, scale), run(ddim, None, scale)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    mixed = plans.hybrid(LINEAR, times, 500, variance)
    assert mixed.steer.tolist() == [0, 0, 1, 1]
    assert not mixed.noise[2:].any() and not mixed.shift[2:].any()


def test_one_program_serves_every_cutoff_of_a_learned_range():
    run_once = jax.jit(chex.assert_max_traces(run.__wrapped__, 1))
    drawn = [
        np.asarray(run_once(plans.skipped(LINEAR, 250, cutoff, "learned_range"), 0.5, 1.0))
        for cutoff in (0, 300, 600, 1000)
    ]
    assert np.isfinite(drawn).all() and len(np.unique(drawn, axis=0)) == 4


@pytest.mark.parametrize("variance", LEARNED)
def test_a_network_that_learns_no_variance_is_told_so(variance):
    with pytest.raises(ValueError, match="learned variance, and the network predicts none"):
        run(plans.ddpm(LINEAR, TIMES, variance), None)


@pytest.mark.parametrize(
    "write",
    [
        lambda variance: plans.ddpm(LINEAR, TIMES, variance),
        lambda variance: plans.hybrid(LINEAR, TIMES, 500, variance),
        lambda variance: plans.skipped(LINEAR, 100, 0, variance),
        lambda variance: plans.respaced(LINEAR, "10", variance),
        lambda variance: plans.respaced(LINEAR, "ddim10", variance),
    ],
)
def test_another_variance_is_refused(write):
    with pytest.raises(ValueError, match="'medium': it must be one of small, large, learned"):
        write("medium")


@pytest.mark.parametrize("variance", schedules.VARIANCES)
@pytest.mark.parametrize("steps", ["", "250", "90,60,60,20,20", "ddim25"])
def test_a_string_of_adm_names_the_family_too(steps, variance):
    plan = plans.respaced(LINEAR, steps, variance)
    times = grids.respaced(1000, steps)
    is_ddim = steps.startswith("ddim")
    expected = plans.ddim(LINEAR, times) if is_ddim else plans.ddpm(LINEAR, times, variance)
    chex.assert_trees_all_equal(plan, expected)
    assert plan.nfe == {"": 1000, "ddim25": 25}.get(steps, 250)
    assert plan.noise.any() != is_ddim


def test_guidance_and_variance_belong_to_a_call():
    for misuse in (Tape.gradient, lambda tape: tape.learned(-1.0, 1.0)):
        tape = Tape(LINEAR)
        tape.start()
        with pytest.raises(ValueError, match="belong to a call: none is recorded"):
            misuse(tape)


def test_the_gradient_of_an_earlier_call_is_refused():
    tape = Tape(LINEAR)
    _, x_0, _ = tape.call(tape.start(), 900)
    gradient = tape.gradient()
    x, x_0, _ = tape.call(1.0 * x_0, 500)
    with pytest.raises(ValueError, match="only the newest guides"):
        tape.plan(x_0 + gradient)


def test_the_gradient_that_comes_back_through_an_older_point_is_refused():
    tape = Tape(LINEAR)
    first, x_0, _ = tape.call(tape.start(), 900)
    _, x_0, _ = tape.call(0.5 * first + x_0 + tape.gradient(), 500)
    with pytest.raises(ValueError, match="only the newest guides"):
        tape.plan(first + x_0)


def test_a_tape_writes_down_what_is_guided_how():
    tape = Tape(LINEAR)
    _, x_0, eps = tape.call(tape.start(), 900)
    x, x_0, _ = tape.call(x_0 + 0.3 * eps, 600)
    tape.learned(-3.0, -2.0)
    x, x_0, _ = tape.call(x_0 + 0.4 * x + 2.0 * tape.gradient(), 300)
    plan = tape.plan(x_0 + 0.0 * tape.gradient())
    assert plan.steer.tolist() == [1, 0, 0] and plan.shift.tolist() == [0, 2, 0]
    assert plan.log_variance.tolist() == [[0, 0], [-3, -2], [0, 0]]


@pytest.mark.parametrize("named", [{}, {"space": "x_0"}])
def test_a_plan_of_its_first_columns_integrates_and_is_guided_through_the_prediction(named):
    full = plans.ddim(LINEAR, TIMES, 0.5)
    bare = Plan(*(getattr(full, column) for column in COLUMNS), **named)
    assert len(jax.tree.leaves(bare)) == 6
    for scale in (None, 0.8):
        np.testing.assert_allclose(run(bare, None, scale), run(full, None, scale), atol=1e-6)
    assert np.abs(run(bare, None, 0.8) - run(bare)).max() > 1e-3


def test_a_plan_in_eps_is_guided_as_its_twin_in_x_0():
    def euler(space):
        tape = Tape(LINEAR, space)
        x = tape.start()
        for t, s in pairwise([*TIMES, schedules.DATA]):
            _, x_0, eps = tape.call(x, t)
            alpha, sigma = LINEAR.at(s)
            x = alpha * x_0 + sigma * eps
        return tape.plan(x)

    ours, theirs = (run(euler(space), None, 0.8) for space in ("x_0", "eps"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours, run(plans.ddim(LINEAR, TIMES), None, 0.8), atol=1e-5)


def test_a_row_by_hand():
    """x = 2 keep + 3 mix + S z noise + shift S^2 gradient, of numbers that can be told apart."""
    row = Plan(0.0, 1.0, 1.0, 2.0, np.array([3.0]), 5.0, "x_0", 0.0, 7.0, np.log([[4.0, 16.0]])[0])
    x, m, z, g = (jnp.full((1, 2), value) for value in (1.0, 10.0, 100.0, 1000.0))
    said = TARGET.denoise(jnp.zeros((1, 3)), sampling.Point(0.0, 1.0, 1.0))
    variance = sampling.variance(row, said._replace(place=jnp.array([[-1.0, 1.0]])))
    np.testing.assert_allclose(variance, [[4, 16]], rtol=1e-6)
    ours = sampling.update(row, x, (m,), z, variance, g)
    np.testing.assert_allclose(ours, [[32 + 1e3 + 28e3, 32 + 2e3 + 112e3]], rtol=1e-6)
