"""Laws as what is compared: their distance, its gradient, noise that is learned, and hybrids."""

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from skipjax import evaluation, grids, plans, schedules
from skipjax.evaluation.exact import Mixture, perturbed
from skipjax.tuning import Objective, TuneConfig, search
from skipjax.tuning.baselines import baselines, hybrid, hybrids
from skipjax.tuning.examples import Examples, draw_all
from skipjax.tuning.loss import energy, path
from skipjax.tuning.parametrization import parametrize

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
LINEAR = schedules.linear()
PAIR = Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, -0.5]], 0.3)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 5)), 0.5 + rng.normal(size=(60, 5))


def test_the_error_by_law_is_the_energy_distance(sets):
    a, b = sets
    assert energy.error(a, b) == pytest.approx(evaluation.energy_distance(a, b), rel=1e-12)
    assert energy.error(np.full((3, 2), np.nan), np.zeros((3, 2))) == np.inf
    assert path.error(np.full((3, 2), np.nan), np.zeros((3, 2))) == np.inf


@pytest.mark.parametrize("loss", [energy, path], ids=["energy", "path"])
def test_the_gradient_is_that_of_the_error(sets, loss):
    a, b = sets[0], sets[1][:40]
    gradient, weight = loss.gradient(a, b)
    assert weight > 0
    towards = np.random.default_rng(1).normal(size=a.shape)
    value = loss.error if loss is energy else lambda a, b: loss.error(a, b) ** 2 / 2
    by_hand = (value(a + 1e-5 * towards, b) - value(a - 1e-5 * towards, b)) / 2e-5
    assert (gradient * towards).sum() == pytest.approx(by_hand, rel=1e-6)


def test_a_picture_and_its_copy_have_no_direction():
    a = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    gradient, _ = energy.gradient(a, a[:2])
    assert np.isfinite(gradient).all()


def test_the_standard_error_is_that_over_other_pictures():
    """Of a difference that is known by repeating it."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        z, b = rng.normal(size=(50, 3)), rng.normal(size=(70, 3))
        found.append(energy.compare(0.8 * z, z + 0.3, b))
    means, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.2)
    assert energy.compare(z, z, b) == (0.0, 0.0)


def test_hybrids_are_of_all_cutoffs_strengths_and_divisions():
    found = hybrids(LINEAR, 4)
    assert all(plan.nfe == 4 and plan.noise[-1] == 0 for plan in found)
    tables = {plan.noise.round(9).tobytes() + plan.t.tobytes() for plan in found}
    assert len(tables) == len(found)
    one = hybrid(LINEAR, 10, 0.4, 1.0)
    same = plans.hybrid(LINEAR, grids.trailing(1000, 10), cutoff=400)
    np.testing.assert_allclose(one.matrix(), same.matrix(), atol=1e-12)
    np.testing.assert_allclose(one.noise, same.noise, atol=1e-12)
    divided = hybrid(LINEAR, 5, 0.4, 0.5, above=2)
    np.testing.assert_array_equal(divided.t, [999, 699, 399, 266, 132])
    np.testing.assert_array_equal(divided.noise > 0, [True, True, False, False, False])
    assert hybrid(LINEAR, 5, 0.0, 1.0, above=2) is None
    names = [plan.origin.method for plan in baselines(LINEAR, 4, noisy=True)]
    assert any("hybrid" in name for name in names) and "dpmpp_2m_sde on karras" in names
    assert len(names) == len({*names})


def test_more_noise_than_the_posterior_has_is_not_of_this_form():
    large = plans.ddpm(LINEAR, grids.trailing(1000, 5), "large")
    with pytest.raises(ValueError, match="more noise than the posterior"):
        parametrize(large, LINEAR, 2)


def test_noise_is_not_learned_by_path():
    nothing = 3 * [Examples(None, None)]
    with pytest.raises(ValueError, match="by path each sample has its own"):
        search(PAIR.denoise, LINEAR, *nothing, Objective(), TuneConfig(5, noise=True))


@pytest.mark.slow
def test_by_law_a_denoiser_that_errs_is_bettered_and_noise_is_learned(float64):
    """Where the flow itself goes wrong, nothing that follows it can be as good."""
    denoiser = Partial(
        lambda some, denoise: denoise, denoise=Partial(perturbed(PAIR.denoise, 0.2))
    )

    def examples(num, seed):
        rng = np.random.default_rng(seed)
        which = rng.choice(2, num, p=PAIR.weights)
        law = PAIR.means[which] + PAIR.stds[which][:, None] * rng.normal(size=(num, 2))
        keys = jax.random.split(jax.random.key(seed), num)
        return Examples(rng.normal(size=(num, 2)), keys, target=law)

    train, decide, held = examples(600, 0), examples(400, 1), examples(2400, 2)
    config = TuneConfig(5, max_iters=8, starts=1, batch=200)
    by_law = Objective("energy")
    found = search(denoiser, LINEAR, train, decide, held, by_law, config, least=200)
    assert found.won and found.errors[0] < 0.5 * found.errors[1]
    assert found.plan.noise[:-1].max() > 0.01 and found.plan.noise[-1] == 0
    flow = plans.dpmpp_3m(LINEAR, grids.uniform_log_snr(LINEAR, 60))
    (followed,) = draw_all(denoiser, [flow], held, batch=200)
    assert found.errors[0] < energy.error(followed, held.target)
