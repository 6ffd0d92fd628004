"""What the options of `skipjax.sample` draw: samplers, guidance, enlarging."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import denoisers, generation, grids, labels, plans, pretrained, request

KEY = jax.random.key(3)
ONE = jax.local_devices()[:1]
NULL = 1
BETAS = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.fixture(scope="module")
def free():
    """A network with three classes and, between them, a label for none."""
    return tiny.pretrained(num_classes=4, null_label=NULL)


@pytest.fixture(scope="module")
def classifier():
    return tiny.classifier()


@pytest.fixture(scope="module")
def upsampler():
    return tiny.upsampler()


@pytest.fixture(scope="module")
def small():
    return np.asarray(sample(tiny.pretrained()))


@pytest.fixture(scope="module")
def mild(params):
    """A plan of four calls too, from where x_0 = (x - sigma eps) / alpha does not blow up the last
    bit, in which two programs of the same formulas may differ.
    """
    return plans.ddpm(params.schedule, [400, 300, 200, 100])


def sample(params, **options):
    """Three pictures by four calls on one device."""
    if not {"steps", "plan"} & set(options):
        options = {"skip": 250} | options
    if not {"ids", "low_res"} & set(options):
        options = {"num": 3} | options
    return skipjax.sample(params, KEY, devices=ONE, **options)


class Told:
    """In place of the networks: keeps what they are told."""

    def __init__(self, monkeypatch):
        self.said = {}  # by kind of network, and number of pictures
        monkeypatch.setattr(generation.models, "network", lambda config, *_: Network(self, config))


@dataclasses.dataclass
class Network:
    told: Told
    config: object

    def apply(self, variables, x, t, y=None, low_res=None):
        kind = type(self.config).__name__
        self.told.said[kind, len(x)] = {"t": t, "y": y, "low_res": low_res}
        if kind == "ClassifierConfig":
            return x.sum((1, 2))
        return jnp.concatenate([x, x], axis=-1)


@pytest.mark.parametrize("variance", ["small", "large", "learned_range", "learned"])
def test_steps_and_variance_stand_for_a_plan(params, variance):
    plan = plans.respaced(params.schedule, "4", variance)
    ours = sample(params, steps="4", variance=variance)
    np.testing.assert_array_equal(ours, sample(params, plan=plan))
    assert variance == "small" or (ours != sample(params, steps="4")).any()
    skipped = plans.skipped(params.schedule, 250, 400, variance)
    ours = sample(params, skip=250, cutoff=400, variance=variance)
    np.testing.assert_array_equal(ours, sample(params, plan=skipped))


def test_steps_may_name_ddim(params):
    ddim = plans.ddim(params.schedule, grids.respaced(1000, "ddim4"))
    np.testing.assert_array_equal(sample(params, steps="ddim4"), sample(params, plan=ddim))


@pytest.mark.parametrize("variance", ["small", "large", "learned_range", "learned"])
def test_a_network_draws_with_the_variance_that_it_was_made_for(variance):
    params = tiny.pretrained(variance=variance)
    for asked, drawn in ((None, variance), ("small", "small")):
        for steps, plan in (
            (None, plans.skipped(params.schedule, 20, 0, drawn)),
            ("25", plans.respaced(params.schedule, "25", drawn)),
        ):
            chex.assert_trees_all_equal(request.plan(params, 20, 0, steps, asked, None), plan)


@pytest.mark.slow
def test_a_sweep_over_guidance_runs_one_program(params, classifier, mild):
    plain, mildly = sample(params, label=1), sample(params, label=1, plan=mild)
    guided = partial(sample, params, classifier=classifier, label=1)
    drawn = {1.0: guided()}
    programs = skipjax.generate._cache_size()
    drawn |= {scale: guided(guidance=scale) for scale in (1.0, 300.0)}
    np.testing.assert_allclose(guided(guidance=0, plan=mild), mildly, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(guided(guidance_interval=(0, 999)), drawn[1.0])
    never = guided(guidance=300.0, guidance_interval=(1, 99), plan=mild)
    np.testing.assert_allclose(never, mildly, rtol=0, atol=1e-5)
    part = guided(guidance=300.0, guidance_interval=(499, 749))
    other = guided(guidance=300.0, label=[0, 2, 2])
    different = np.array([plain, drawn[300.0], part, other])
    apart = np.abs(different[:, None] - different).max((2, 3, 4, 5))
    assert (apart > 1e-3).sum() == 12
    assert np.isfinite(guided(guidance=np.float32(2), cutoff=500)).all()
    assert skipjax.generate._cache_size() == programs


@pytest.mark.slow
def test_a_sweep_over_thresholds_runs_one_program(params, mild):
    clipped, free = sample(params), sample(params, clip=False)
    assert jnp.abs(free).max() > 1.5
    drawn = {1.0: sample(params, threshold=1)}
    programs = skipjax.generate._cache_size()
    drawn |= {quantile: sample(params, threshold=quantile) for quantile in (0.7, 0.95)}
    # Where no picture is stretched, it is clipping.
    least = sample(params, threshold=1e-6, plan=mild)
    np.testing.assert_allclose(least, sample(params, plan=mild), rtol=0, atol=1e-5)
    assert skipjax.generate._cache_size() == programs
    assert max(jnp.abs(pictures).max() for pictures in drawn.values()) <= 1
    np.testing.assert_array_equal(sample(params, threshold=0.7, clip=False), drawn[0.7])
    apart = np.array([clipped, free, drawn[0.7], drawn[0.95], drawn[1.0]])
    assert (np.abs(apart[:, None] - apart).max((2, 3, 4, 5)) > 1e-3).sum() == 20


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [
        (schedule, prediction)
        for schedule in ("linear", "sigmoid", "rectified_flow", BETAS)
        for prediction in pretrained.PREDICTIONS
        if (schedule, prediction) != ("rectified_flow", "v")
    ],
    ids=str,
)
def test_every_prediction_is_read_as_such(monkeypatch, schedule, prediction):
    Told(monkeypatch)
    T = len(schedule) if isinstance(schedule, tuple) else 1000
    spec = skipjax.Spec("other", tiny.config(), schedule, T, prediction)
    params = skipjax.Pretrained({}, spec)
    alpha, sigma = params.schedule.at(2)
    x, point = jnp.full((1, 8, 8, 3), 0.3), denoisers.Point(2.0, alpha, sigma)
    with jax.disable_jit():
        said = generation.denoiser(params, jnp.zeros(1, int), clip=False)(x, point)
    output = {
        "eps": said.eps,
        "x_0": said.x_0,
        "v": alpha * said.eps - sigma * said.x_0,
        "score": -said.eps / sigma,
        "velocity": said.eps - said.x_0,
    }[prediction]
    np.testing.assert_allclose(output, x, rtol=0, atol=2e-5)
    np.testing.assert_allclose(alpha * said.x_0 + sigma * said.eps, x, rtol=0, atol=1e-6)


def test_betas_of_a_user_s_own_are_the_schedule(params):
    betas = np.linspace(1e-4, 0.02, 1000)
    spec = dataclasses.replace(params.spec, schedule=betas)
    assert spec == dataclasses.replace(params.spec, schedule=betas.tolist())
    assert hash(spec) == hash(dataclasses.replace(params.spec, schedule=tuple(betas)))
    own = skipjax.Pretrained(params.params, spec)
    np.testing.assert_array_equal(own.schedule.alpha, params.schedule.alpha)
    np.testing.assert_array_equal(sample(own), sample(params))


def test_remat_draws_the_same_pictures(params, classifier, mild):
    guided = partial(sample, params, classifier=classifier, guidance=300.0, plan=mild)
    np.testing.assert_allclose(guided(remat=True), guided(), rtol=0, atol=1e-5)


def test_a_classifier_gives_an_unconditional_network_its_labels(classifier):
    params = tiny.pretrained(num_classes=None)
    guided = partial(sample, params, classifier=classifier, guidance=300.0)
    drawn = labels.resolve(classifier.spec, KEY, np.arange(3), None)
    np.testing.assert_array_equal(guided(), guided(label=drawn))
    assert (guided(label=(drawn + 1) % 3) != guided()).any((1, 2, 3)).all()


@pytest.mark.slow
def test_without_a_classifier_the_null_label_guides(free, mild):
    ids = [4, 5, 6]
    guided = partial(sample, free, ids=ids, label=2, plan=mild)
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    close(guided(guidance=1.0), guided())
    close(guided(guidance=0), guided(label=NULL))
    close(guided(guidance=5.0, guidance_interval=(1, 99)), guided())
    close(guided(guidance=5.0, label=NULL), guided(label=NULL))
    assert np.abs(guided(guidance=5.0) - guided()).max() > 1e-3


def test_a_classifier_may_guide_a_network_with_a_null_label(free, classifier, monkeypatch):
    told = Told(monkeypatch)
    given, means = jnp.array([0, 2, 3]), jnp.array([0, 1, 2])
    guide = generation.Guide(1.0, classifier=classifier)
    x = jnp.arange(3 * 8 * 8 * 3.0).reshape(3, 8, 8, 3) / 100
    point = denoisers.Point(5.0, 0.8, 0.6)
    with jax.disable_jit():
        gradient = generation.denoiser(free, given, guide=guide)(x, point).gradient
    np.testing.assert_array_equal(told.said["UNetConfig", 3]["y"], given)
    logits = x.sum((1, 2))
    expected = jax.nn.one_hot(means, 3) - jax.nn.softmax(logits)
    np.testing.assert_allclose(gradient[:, 0, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("null", [0, 1, 3])
def test_the_null_label_is_neither_drawn_nor_named(null):
    spec = tiny.pretrained(num_classes=4, null_label=null).spec
    others = np.delete(np.arange(4), null)
    drawn = labels.resolve(spec, KEY, np.arange(300), None)
    assert np.bincount(drawn, minlength=4)[others].min() > 60 and null not in drawn
    assert [labels.number(spec, name) for name in tiny.NAMES] == others.tolist()
    assert labels.number(spec, null) == labels.number(spec, str(null)) == null
    with pytest.raises(ValueError, match=r"label 4 is out of range: it must be 0 \.\. 3, or one"):
        labels.number(spec, 4)


def test_pictures_are_drawn_alike_from_bytes_and_numbers(upsampler, small):
    as_bytes = np.asarray(skipjax.to_uint8(small))
    ours = sample(upsampler, low_res=as_bytes)
    assert ours.shape == (3, 16, 16, 3)
    as_numbers = as_bytes.astype(np.float32) / 127.5 - 1
    for same in (as_numbers, jnp.asarray(as_numbers), as_numbers.astype(np.float64)):
        np.testing.assert_allclose(sample(upsampler, low_res=same), ours, rtol=0, atol=1e-5)
    as_list = sample(upsampler, low_res=as_numbers.tolist())
    np.testing.assert_allclose(as_list, ours, rtol=0, atol=1e-5)
    assert np.abs(sample(upsampler, low_res=-as_numbers) - ours).max((1, 2, 3)).min() > 1e-3


def test_pictures_to_enlarge_say_how_many_and_ids_say_which(upsampler, small):
    for ids, num in ((None, {}), ([7, 8, 9], {"ids": [7, 8, 9]}), (None, {"num": 3})):
        images = sample(upsampler, low_res=small, label=0, **num)
        turned = sample(upsampler, low_res=small[::-1], label=0, ids=(ids or [0, 1, 2])[::-1])
        np.testing.assert_allclose(turned[::-1], images, rtol=0, atol=1e-5)


def test_stages_of_a_cascade_share_labels_and_not_noise(params, upsampler, small):
    drawn = labels.resolve(params.spec, KEY, np.arange(3), None)
    np.testing.assert_array_equal(drawn, labels.resolve(upsampler.spec, KEY, np.arange(3), None))
    np.testing.assert_array_equal(
        sample(upsampler, low_res=sample(params)), sample(upsampler, low_res=small, label=drawn)
    )


@pytest.mark.slow
def test_the_noise_of_a_cascade_s_stages_is_independent(params):
    square = dataclasses.replace(params.spec.unet, low_res_channels=3)
    enlarging = skipjax.Spec("same_size", square)
    ones, zeros = np.ones(2), np.zeros(2)
    ids = jnp.arange(64, dtype=jnp.uint32)
    for keep in (ones, zeros):  # ends in the starting noise, or in that of the second step
        plan = plans.Plan(ones, ones, ones, keep, zeros[:, None], 1 - keep)
        flat = [
            np.ravel(noise_alone(spec, plan, ids, low_res))
            for spec, low_res in ((params.spec, None), (enlarging, np.zeros((64, 4, 4, 3))))
        ]
        correlation = np.corrcoef(flat)[0, 1]
        assert abs(correlation) < 4 / np.sqrt(flat[0].size)
        assert abs(np.std(flat[1]) - 1) < 0.03


def noise_alone(spec, plan, ids, low_res):
    """What a plan without predictions makes of the noise: no network need be there."""
    with pytest.MonkeyPatch.context() as patch:
        Told(patch)
        draw = jax.jit(partial(generation.generate.__wrapped__, skipjax.Pretrained({}, spec)))
        return draw(plan, KEY, ids, None, low_res)


def test_guided_without_a_classifier_each_picture_is_enlarged_twice(monkeypatch):
    told = Told(monkeypatch)
    spec = dataclasses.replace(tiny.upsampler().spec, null_label=2, class_names=())
    params = skipjax.Pretrained({}, spec)
    low_res = jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((1, 8, 8, 3))
    denoise = generation.denoiser(
        params, jnp.array([0, 1, 0]), low_res=low_res, guide=generation.Guide(2.0)
    )
    with jax.disable_jit():
        denoise(jnp.ones((3, 16, 16, 3)), denoisers.Point(5.0, 0.8, 0.6))
    said = told.said["UNetConfig", 6]
    assert said["low_res"][:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert said["y"].tolist() == [0, 2, 1, 2, 0, 2]


@pytest.mark.parametrize(("rescale", "told_t"), [(True, 125.0), (False, 500.0)])
def test_networks_are_told_rescaled_times(classifier, monkeypatch, rescale, told_t):
    told = Told(monkeypatch)
    params = tiny.pretrained(T=4000, rescale_timesteps=rescale)
    guide = generation.Guide(1.0, (400.0, 600.0), classifier)
    denoise = generation.denoiser(params, jnp.zeros(1, int), guide=guide)
    with jax.disable_jit():
        denoise(jnp.ones((1, 8, 8, 3)), denoisers.Point(500.0, 0.8, 0.6))
    assert told.said["UNetConfig", 1]["t"] == told_t
    assert told.said["ClassifierConfig", 1]["t"] == told_t


@pytest.mark.parametrize("null", [-1, 3, 7])
def test_a_null_label_is_one_of_the_network_s(null):
    with pytest.raises(ValueError, match=f"null_label is {null}: it must be one of the 3 labels"):
        skipjax.Spec("tiny", tiny.config(), null_label=null)
    with pytest.raises(ValueError, match="it must be one of the 0 labels"):
        skipjax.Spec("tiny", tiny.config(None), null_label=null)


def test_names_are_those_of_the_classes_without_the_null_label():
    with pytest.raises(ValueError, match="3 class names"):
        skipjax.Spec("tiny", tiny.config(3), null_label=0, class_names=tiny.NAMES)
    spec = skipjax.Spec("tiny", tiny.config(4), null_label=0, class_names=tiny.NAMES)
    assert spec.classes == 3


def test_a_variance_is_learned_by_twice_the_channels():
    unet = tiny.config(out_channels=3)
    with pytest.raises(ValueError, match="'learned', and the network has 3 output channels"):
        skipjax.Spec("tiny", unet, variance="learned")
