"""What a network outputs, read as x_0 and eps."""

from itertools import product

import jax
import numpy as np
import pytest

from skipjax import schedules
from skipjax.denoisers import (
    Point,
    Prediction,
    clip,
    from_eps,
    from_score,
    from_v,
    from_velocity,
    from_x_0,
    threshold,
)

SHAPE = (3, 4, 5, 2)
READINGS = [from_eps, from_x_0, from_score, from_v, from_velocity]


@pytest.fixture(scope="module")
def triple():
    """x_0, eps, and the x they make at a point."""
    point = Point(*np.float32([400, *schedules.linear().at(400)]))
    x_0, eps = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    return x_0, eps, point.alpha * x_0 + point.sigma * eps, point


def says(output):
    return lambda x, t: output


def assert_close(prediction, x_0, eps):
    np.testing.assert_allclose(prediction.x_0, x_0, atol=2e-6)
    np.testing.assert_allclose(prediction.eps, eps, atol=2e-6)


def test_all_readings_of_one_triple_are_the_same_prediction(triple):
    x_0, eps, x, point = triple
    v = point.alpha * eps - point.sigma * x_0
    outputs = [eps, x_0, -eps / point.sigma, v, eps - x_0]
    for read, output in zip(READINGS, outputs, strict=True):
        assert_close(read(says(output))(x, point), x_0, eps)


MEAN, STD = np.array([[0.3, -0.8, 2.0, 0.0]]), np.array([[0.5, 1.0, 0.01, 2.0]])


def gaussian(read, schedule):
    """The denoiser of N(MEAN, STD^2), by what a perfect network of its kind says."""

    def network(x, t):
        alpha, sigma = (level[:, None] for level in schedule.at(np.asarray(t)))
        variance = (alpha * STD) ** 2 + sigma**2
        score = -(x - alpha * MEAN) / variance
        x_0 = MEAN + alpha * STD**2 / variance * (x - alpha * MEAN)
        eps = -sigma * score
        return {
            from_eps: eps,
            from_x_0: x_0,
            from_score: score,
            from_v: alpha * eps - sigma * x_0,
            from_velocity: eps - x_0,
        }[read]

    return read(network)


SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "exploding": schedules.variance_exploding(),
    "flow": schedules.rectified_flow(),
    "zero_snr": schedules.zero_terminal_snr(schedules.linear()),
}


def test_all_readings_of_a_gaussian_agree():
    times = np.unique(np.geomspace(1, 999, 60).astype(int)) - 1
    noise = np.random.default_rng(0).normal(size=(len(times), 4))
    for name, schedule in SCHEDULES.items():
        readings = [r for r in READINGS if r is not from_v or schedule.preserves_variance]
        alpha, sigma = (c[:, None] for c in schedule.at(times))
        x = alpha * MEAN + np.hypot(alpha * STD, sigma) * noise
        point = Point(times, alpha, sigma)
        exact = gaussian(from_x_0, schedule)(x, point)
        again = alpha * exact.x_0 + sigma * exact.eps
        np.testing.assert_allclose(again, x, rtol=1e-12, atol=1e-12, err_msg=name)
        for read in readings:
            said, case = gaussian(read, schedule)(x, point), f"{name}, {read.__name__}"
            np.testing.assert_allclose(said.eps, exact.eps, rtol=0, atol=1e-10, err_msg=case)
            np.testing.assert_allclose(said.x_0, exact.x_0, rtol=0, atol=1e-10, err_msg=case)


def test_readings_of_x_0_v_and_velocity_hold_where_alpha_is_0(float64):
    x = np.random.default_rng(0).normal(size=(1, 4))
    for name in ("flow", "zero_snr"):
        schedule = SCHEDULES[name]
        point = Point(999, *schedule.at(999))
        assert point.alpha == 0 and point.sigma == 1
        for read in (from_x_0, from_v, from_velocity):
            denoise = gaussian(read, schedule)
            for said in (denoise(x, point), clip(denoise, -9.0, 9.0)(x, point)):
                np.testing.assert_allclose(said.x_0, MEAN, rtol=0, atol=1e-15, err_msg=name)
                np.testing.assert_allclose(said.eps, x, rtol=0, atol=1e-15, err_msg=name)
        for read in (from_eps, from_score):
            with np.errstate(divide="ignore", invalid="ignore"):
                assert not np.isfinite(gaussian(read, schedule)(x, point).x_0).any(), name


def test_any_output_is_read_consistently_with_x(triple):
    x_0, _, x, point = triple
    for read in READINGS:
        prediction = read(says(x_0 + 0.7))(x, point)
        again = point.alpha * prediction.x_0 + point.sigma * prediction.eps
        np.testing.assert_allclose(again, x, atol=2e-6, err_msg=read.__name__)


def test_the_network_gets_x_and_the_time_once_per_picture(triple):
    *_, x, point = triple
    for read in READINGS:
        seen = []

        def network(x, t, seen=seen):
            seen.append((x, t))
            return x

        read(network)(x, point)
        ((got, t),) = seen
        assert got is x and t.shape == (3,) and (t == 400).all(), read.__name__


def test_clip_keeps_x_0_in_range_and_derives_eps_from_it(triple):
    x_0, eps, x, point = triple
    clipped = clip(from_eps(says(eps)))(x, point)
    assert np.abs(clipped.x_0).max() == 1 and np.abs(x_0).max() > 1
    np.testing.assert_allclose(clipped.x_0, np.clip(x_0, -1, 1), atol=2e-6)
    again = point.alpha * clipped.x_0 + point.sigma * clipped.eps
    np.testing.assert_allclose(again, x, atol=2e-6)
    assert np.abs(clipped.eps - eps).max() > 0.1


def test_clip_changes_nothing_inside_its_range(triple):
    _, eps, x, point = triple
    plain = from_eps(says(eps))
    assert_close(clip(plain, -9.0, 9.0)(x, point), *plain(x, point)[:2])


def test_clip_takes_other_bounds(triple):
    *_, x, point = triple
    for value, bound in ((3.0, 0.5), (-3.0, -0.25)):
        clipped = clip(from_x_0(says(np.full_like(x, value))), -0.25, 0.5)(x, point)
        assert (clipped.x_0 == bound).all()


def test_clipped_eps_agrees_with_guided_diffusions_step(goldens):
    golden = np.load(goldens / "diffusion" / "steps.npz")
    tag, schedule = "linear1000_full_range", schedules.linear()
    eps = golden["model_output6"][:, :3]
    for i, t in enumerate(golden[f"{tag}/t"]):
        point = Point(np.float32(t), *map(np.float32, schedule.at(t)))
        x = golden["x"][i : i + 1]
        for wrap, name in [(clip, "clip1"), (lambda denoise: denoise, "clip0")]:
            x_0 = wrap(from_eps(says(eps[i : i + 1])))(x, point).x_0
            theirs = golden[f"{tag}/p_mean_variance/{name}/pred_xstart"][i : i + 1]
            np.testing.assert_allclose(x_0, theirs, rtol=2e-6, atol=1e-6 / float(point.alpha))


def test_a_denoiser_is_a_prediction_of_two_readings(triple):
    x_0, eps, x, point = triple
    assert isinstance(clip(from_eps(says(eps)))(x, point), Prediction)


def stretched(x_0, scale):
    """Pictures one of which is within -1 .. 1, one a little and one far beyond."""
    largest = np.abs(x_0).max(axis=(1, 2, 3), keepdims=True)
    return x_0 / largest * np.float32(scale).reshape(3, 1, 1, 1)


@jax.jit
def thresholded(x_0, x, point, quantile=0.995, largest=np.inf):
    return threshold(from_x_0(says(x_0)), quantile, largest)(x, point)


def test_threshold_follows_its_definition_picture_by_picture(triple):
    x_0, _, x, point = triple
    x_0 = stretched(x_0, [0.9, 1.2, 7.0])
    for quantile, largest in product((0.3, 0.9, 0.995, 1.0), (np.inf, 1.5, 1.0)):
        said, case = thresholded(x_0, x, point, quantile, largest), f"{quantile}, {largest}"
        for picture, got in zip(x_0, said.x_0, strict=True):
            s = min(max(1.0, np.quantile(np.abs(picture), quantile)), largest)
            np.testing.assert_allclose(got, np.clip(picture, -s, s) / s, atol=1e-6, err_msg=case)
        assert np.abs(said.x_0).max() <= 1, case
        again = point.alpha * said.x_0 + point.sigma * said.eps
        np.testing.assert_allclose(again, x, atol=2e-6, err_msg=case)


def test_threshold_leaves_alone_what_is_in_range_and_clips_where_s_is_1(triple):
    x_0, _, x, point = triple
    inside, outside = stretched(x_0, [0.9, 0.5, 1.0]), stretched(x_0, [0.9, 1.2, 7.0])
    assert_close(thresholded(inside, x, point), *from_x_0(says(inside))(x, point)[:2])
    clipped = clip(from_x_0(says(outside)))(x, point)
    assert_close(thresholded(outside, x, point, 1.0, 1.0), *clipped[:2])
    assert np.abs(thresholded(outside, x, point, 1.0).x_0 - clipped.x_0).max() > 0.5


def test_threshold_is_traced_and_keeps_what_it_does_not_change(triple):
    x_0, _, x, point = triple
    both = np.concatenate([stretched(x_0, [0.9, 1.2, 7.0]), x], axis=-1)
    traced = []

    @jax.jit
    def run(quantile):
        traced.append(quantile)
        return threshold(from_x_0(says(both)), quantile)(x, point)

    low, high = run(0.5), run(1.0)
    assert len(traced) == 1
    assert np.abs(low.x_0 - high.x_0).max() > 0.1
    np.testing.assert_array_equal(low.log_variance, x)
