"""What a network outputs, read as x_0 and eps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipjax import schedules
from skipjax.denoisers import Point, Prediction, clip, from_eps, from_v, from_x_0

SHAPE = (3, 4, 5, 2)


@pytest.fixture
def triple():
    """x_0, eps, and the x they make at a point."""
    alpha, sigma = schedules.linear().at(400)
    point = Point(*(jnp.asarray(value, jnp.float32) for value in (400, alpha, sigma)))
    x_0 = jax.random.normal(jax.random.key(0), SHAPE)
    eps = jax.random.normal(jax.random.key(1), SHAPE)
    return x_0, eps, point.alpha * x_0 + point.sigma * eps, point


def says(output):
    return lambda x, t: output


def assert_close(prediction, x_0, eps):
    np.testing.assert_allclose(prediction.x_0, x_0, atol=2e-6)
    np.testing.assert_allclose(prediction.eps, eps, atol=2e-6)


def test_eps_x_0_and_v_of_one_triple_are_the_same_prediction(triple):
    x_0, eps, x, point = triple
    v = point.alpha * eps - point.sigma * x_0
    for denoise in (from_eps(says(eps)), from_x_0(says(x_0)), from_v(says(v))):
        assert_close(denoise(x, point), x_0, eps)


@pytest.mark.parametrize("read", [from_eps, from_x_0, from_v])
def test_any_output_is_read_consistently_with_x(triple, read):
    x_0, _, x, point = triple
    prediction = read(says(x_0 + 0.7))(x, point)
    np.testing.assert_allclose(
        point.alpha * prediction.x_0 + point.sigma * prediction.eps, x, atol=2e-6
    )


@pytest.mark.parametrize("read", [from_eps, from_x_0, from_v])
def test_the_network_gets_x_and_the_time_once_per_picture(triple, read):
    *_, x, point = triple
    seen = []

    def network(x, t):
        seen.append((x, t))
        return x

    read(network)(x, point)
    ((got, t),) = seen
    assert got is x and t.shape == (3,) and (t == 400).all()


def test_clip_keeps_x_0_in_range_and_derives_eps_from_it(triple):
    x_0, eps, x, point = triple
    clipped = clip(from_eps(says(eps)))(x, point)
    assert jnp.abs(clipped.x_0).max() == 1 and jnp.abs(x_0).max() > 1
    np.testing.assert_allclose(clipped.x_0, jnp.clip(x_0, -1, 1), atol=2e-6)
    again = point.alpha * clipped.x_0 + point.sigma * clipped.eps
    np.testing.assert_allclose(again, x, atol=2e-6)
    assert jnp.abs(clipped.eps - eps).max() > 0.1


def test_clip_changes_nothing_inside_its_range(triple):
    _, eps, x, point = triple
    plain = from_eps(says(eps))
    assert_close(clip(plain, -9.0, 9.0)(x, point), *plain(x, point)[:2])


def test_clip_takes_other_bounds(triple):
    *_, x, point = triple
    clipped = clip(from_x_0(says(jnp.full_like(x, 3.0))), -0.25, 0.5)(x, point)
    assert (clipped.x_0 == 0.5).all()
    clipped = clip(from_x_0(says(jnp.full_like(x, -3.0))), -0.25, 0.5)(x, point)
    assert (clipped.x_0 == -0.25).all()


def test_clipped_eps_agrees_with_guided_diffusions_step(goldens):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    tag, schedule = "linear1000_full_range", schedules.linear()
    eps = golden["model_output6"][:, :3]
    for i, t in enumerate(golden[f"{tag}/t"]):
        point = Point(jnp.float32(t), *(jnp.float32(level) for level in schedule.at(t)))
        x = jnp.asarray(golden["x"][i : i + 1])
        for wrap, name in [(clip, "clip1"), (lambda denoise: denoise, "clip0")]:
            x_0 = wrap(from_eps(says(eps[i : i + 1])))(x, point).x_0
            theirs = golden[f"{tag}/p_mean_variance/{name}/pred_xstart"][i : i + 1]
            np.testing.assert_allclose(x_0, theirs, rtol=2e-6, atol=1e-6 / float(point.alpha))


def test_a_denoiser_is_a_prediction_of_two_readings(triple):
    x_0, eps, x, point = triple
    assert isinstance(clip(from_eps(says(eps)))(x, point), Prediction)
