"""What `skipjax.sample` says of options that are wrong, before anything is computed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import api, generation, plans, request, schedules

KEY = jax.random.key(0)
SMALL = np.zeros((4, 8, 8, 3), np.float32)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def generate(*_, **__):
        pytest.fail("something was computed")

    monkeypatch.setattr(api, "generate", generate)


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.fixture(scope="module")
def free():
    return tiny.pretrained(num_classes=4, null_label=3)


@pytest.fixture(scope="module")
def classifier():
    return tiny.classifier()


@pytest.fixture(scope="module")
def upsampler():
    return tiny.upsampler()


def refused(message, params, error=ValueError, **options):
    with pytest.raises(error, match=re.escape(message)) as caught:
        skipjax.sample(params, KEY, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"skip": 50}, {"cutoff": 1}, {"steps": "4"}, {"steps": ""}])
def test_a_plan_replaces_all_that_writes_one(params, other):
    plan = plans.skipped(params.schedule, 250)
    message = "plan is given, and skip, cutoff, steps or variance too, which it replaces: drop one"
    refused(message, params, plan=plan, **other)
    refused(message, params, plan=plan, variance="small")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "4", "skip": 50}, "steps is given, and skip or cutoff too, which it replaces"),
        ({"steps": "4", "cutoff": 9}, "steps is given, and skip or cutoff too, which it replaces"),
        ({"steps": 0}, "steps is 0: it must be a whole number from 1 on, or a string of ADM's"),
        ({"steps": [4, 5]}, "steps is [4, 5]: it must be a whole number from 1 on, or a string"),
        ({"steps": "four"}, "steps 'four' is not a respacing"),
        ({"steps": "ddim300"}, "no whole stride over 1000 times gives 300 of them"),
        ({"steps": "1001"}, "steps '1001' asks for 1001 of the 1000 times"),
        ({"variance": "medium"}, "variance is 'medium': it must be one of small, large, learned_"),
        ({"variance": "medium", "steps": "ddim25"}, "variance is 'medium': it must be one of"),
        ({"guidance_interval": (0, 9)}, "guidance_interval is given without guidance: say its"),
        ({"guidance": 2.0}, "guidance is 2.0, and tiny has no null label by which it could be"),
        ({"low_res": SMALL}, "low_res is given, and tiny does not enlarge pictures"),
    ],
    ids=str,
)
def test_an_option_that_does_not_fit_the_network_is_named(params, options, message):
    refused(message, params, **options)


@pytest.mark.parametrize("variance", ["learned_range", "learned"])
def test_a_network_that_learns_no_variance_is_not_asked_for_it(variance):
    params = skipjax.Pretrained({}, skipjax.Spec("plain", tiny.config(out_channels=3)))
    message = "asks for a learned variance, and plain predicts none: take variance 'small' or"
    refused(message, params, variance=variance)
    refused(message, params, variance=variance, steps="8")
    plan = plans.skipped(params.schedule, 250, 0, variance)
    refused(message, params, plan=plan)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, np.nan, "0.9", True, [0.9], object()])
def test_threshold_is_a_quantile(params, threshold):
    message = f"threshold is {threshold!r}: it must be a quantile, in (0, 1]"
    refused(message, params, threshold=threshold)


def zero_snr_betas(T=1000):
    """Betas of a variance-preserving schedule that ends in noise alone."""
    abar = schedules.zero_terminal_snr(schedules.linear(T)).alpha ** 2
    return tuple((1 - abar / np.append(1.0, abar[:-1])).tolist())


@pytest.mark.parametrize("prediction", ["eps", "score"])
@pytest.mark.parametrize("schedule", ["rectified_flow", zero_snr_betas()], ids=["flow", "betas"])
def test_where_x_is_noise_alone_eps_and_score_say_nothing(prediction, schedule):
    spec = skipjax.Spec("blind", tiny.config(), schedule=schedule, prediction=prediction)
    params = skipjax.Pretrained({}, spec)
    message = (
        "the plan calls the network where x is noise alone (zero SNR), and blind predicts "
        f"{prediction}, which says nothing of x_0 there: give a plan that starts at time 998"
    )
    refused(message, params)
    refused(message, params, steps="5")
    refused(message, params, plan=plans.ddim(params.schedule, [999, 500]))
    later = plans.ddim(params.schedule, [998, 500])
    assert request.plan(params, 20, 0, None, None, later) is later
    for other in ("x_0", "velocity"):
        seeing = skipjax.Pretrained({}, dataclasses.replace(spec, prediction=other))
        assert request.plan(seeing, 20, 0, None, None, None).alpha[0] == 0


@pytest.mark.parametrize("scale", ["4", [1.0, 2.0], np.ones(1), np.nan, np.inf, True, object()])
def test_guidance_is_one_finite_number(free, classifier, scale):
    message = f"guidance is {scale!r}: it must be one finite number"
    refused(message, free, guidance=scale)
    refused(message, free, guidance=scale, classifier=classifier)


@pytest.mark.parametrize(
    "interval", [(9, 0), 5, (1,), (0, 1, 2), (0, np.nan), "ab", (0, None), [[1], [2, 3]]], ids=str
)
def test_an_interval_is_two_times(free, interval):
    message = f"guidance_interval is {interval!r}: it must be two times, least first"
    refused(message, free, guidance=1.0, guidance_interval=interval)


def test_a_classifier_is_one(params, upsampler, classifier):
    for what, bad in (
        ("a dict", classifier.params),
        ("a str", "classifier.pt"),
        ("tiny_upsampler, a network that denoises", upsampler),
    ):
        message = f"classifier is {what}: pass what skipjax.load gives for a classifier"
        refused(message, params, TypeError, classifier=bad)
    message = (
        "params is tiny_classifier, a classifier, which draws nothing: pass it as classifier="
    )
    refused(message, classifier, TypeError)


@pytest.mark.parametrize(
    ("network", "spec", "message"),
    [
        ({"image_size": 16}, {}, "pictures of side 16, and 8 is needed"),
        ({"in_channels": 1}, {}, "channels 1, and 3 is needed"),
        ({"out_channels": 5}, {}, "classes 5, and 3 is needed"),
        ({}, {"schedule": "cosine"}, "the schedule cosine, and linear is needed"),
        ({}, {"T": 4000}, "T 4000, and 1000 is needed"),
        (
            {},
            {"schedule": (0.01,) * 999 + (0.02,)},
            "the schedule of betas 0.01 ... 0.02, and linear is needed",
        ),
    ],
    ids=str,
)
def test_a_classifier_fits_the_network(params, free, network, spec, message):
    classifier = tiny.classifier(**network)
    classifier = dataclasses.replace(classifier, spec=dataclasses.replace(classifier.spec, **spec))
    for guided in (params, free):
        message = f"classifier tiny_classifier does not fit tiny: {message.split(': ')[-1]}"
        refused(message, guided, classifier=classifier)


def test_any_number_of_classes_fits_an_unconditional_network():
    classifier = tiny.classifier(out_channels=7, pool="adaptive")
    spec = tiny.pretrained(num_classes=None)
    message = "label 7 is out of range: it must be 0 .. 6"
    refused(message, spec, classifier=classifier, label=7)
    refused("tiny is unconditional: it takes no label, got 0", spec, label=0)


def test_a_classifier_guides_towards_no_null_label(free, classifier):
    message = "label 3 stands for no class: a classifier has nothing to guide towards there"
    refused(message, free, classifier=classifier, label=3)
    refused(message, free, classifier=classifier, label=[0, 1, 2, 3], guidance=2.0)


def test_a_network_that_enlarges_needs_what_to_enlarge(upsampler):
    message = "tiny_upsampler enlarges pictures: give them as low_res, [num, 8, 8, 3]"
    refused(message, upsampler)
    any_side = skipjax.Pretrained({}, dataclasses.replace(upsampler.spec, low_res=None))
    refused("enlarges pictures: give them as low_res, [num, h, w, 3]", any_side)


@pytest.mark.parametrize(
    "shape",
    [(4, 8, 8), (8, 8, 3), (4, 16, 16, 3), (4, 8, 4, 3), (4, 8, 8, 1), (0, 8, 8, 3), ()],
    ids=str,
)
def test_pictures_to_enlarge_have_their_shape(upsampler, shape):
    message = f"low_res is {shape}: tiny_upsampler takes [num, 8, 8, 3]"
    refused(message, upsampler, low_res=np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.int8, bool, np.complex64, object])
def test_pictures_to_enlarge_are_bytes_or_numbers(upsampler, dtype):
    message = f"low_res is {np.dtype(dtype)}: it must be float in [-1, 1], or uint8"
    refused(message, upsampler, low_res=SMALL.astype(dtype))


@pytest.mark.parametrize("worst", [255.0, -3.0, np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_pictures_to_enlarge_are_in_range(upsampler, worst, kind):
    low_res = SMALL.copy()
    low_res[1, 2, 3, 0] = worst
    message = "low_res must be in [-1, 1]: divide 0 .. 255 by 127.5 and take 1 away"
    refused(message, upsampler, low_res=kind(low_res))


@pytest.mark.parametrize(
    ("asked", "num"), [({"num": 3}, 3), ({"num": 5}, 5), ({"ids": [1, 2]}, 2), ({"num": 1}, 1)]
)
def test_as_many_are_drawn_as_are_enlarged(upsampler, asked, num):
    message = f"low_res has 4 pictures, and {num} are to be drawn"
    refused(message, upsampler, low_res=SMALL, **asked)


def test_a_guide_needs_something_to_guide_by(params, classifier):
    with pytest.raises(ValueError, match="tiny has no null label, by which it could be guided"):
        generation.denoiser(params, jnp.zeros(1, int), guide=generation.Guide(1.0))
    guide = generation.Guide(1.0, classifier=classifier)
    with pytest.raises(ValueError, match="a classifier guides towards labels: give one for each"):
        generation.denoiser(params, None, guide=guide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": "medium"}, f"it must be one of {', '.join(schedules.VARIANCES)}"),
        ({"schedule": "square"}, "schedule is 'square': it must be one of linear"),
        ({"prediction": "noise"}, "prediction is 'noise': it must be one of eps"),
        ({"prediction": "v", "schedule": "rectified_flow"}, "'v', which the schedule 'rectified_"),
        ({"schedule": 3}, "schedule is 3: it must be one of linear.* or a vector of betas"),
        ({"schedule": [0.1, None]}, "it must be one of linear.* or a vector of betas"),
        ({"schedule": (0.1, 0.2)}, "schedule has 2 betas, and T is 1000: they must be as many"),
        ({"schedule": (0.1, 1.2), "T": 2}, "betas must be a vector of numbers in"),
        ({"class_names": ("cat",)}, "1 class names"),
    ],
    ids=str,
)
def test_a_spec_says_what_it_does_not_know(change, message, classifier):
    with pytest.raises(ValueError, match=message):
        skipjax.Spec("tiny", tiny.config(), **change)
    if set(change) <= {"schedule", "T", "class_names"}:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(classifier.spec, **change)


def test_a_classifier_cannot_guide_where_x_is_noise_alone(classifier):
    betas = (0.1, 0.2, 1.0)
    params = tiny.pretrained(schedule=betas, T=3, prediction="v")
    of_them = dataclasses.replace(
        classifier, spec=dataclasses.replace(classifier.spec, schedule=betas, T=3)
    )
    plan = plans.ddim(params.schedule, [2, 1, 0])
    message = "a classifier is given, and the plan calls the network where x is noise alone"
    refused(message, params, plan=plan, classifier=of_them)
