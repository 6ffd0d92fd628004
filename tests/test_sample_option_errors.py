"""What `skipjax.sample` says of options that are wrong, before anything is computed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import SampleConfig, api, plans, schedules
from skipjax.config import resolve

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


def test_a_plan_replaces_all_that_writes_one(params):
    plan = plans.skipped(params.schedule, 250)
    for other in (
        {"skip": 50},
        {"skip": 20},
        {"cutoff": 0},
        {"steps": "4"},
        {"steps": ""},
        {"variance": "small"},
        {"eta": 0.0},
        {"skip": 20, "cutoff": 9},
    ):
        message = f"plan is given, and {' and '.join(other)} too, which it replaces: drop one"
        refused(message, params, plan=plan, **other)


def test_an_option_that_does_not_fit_the_network_is_named(params, subtests):
    for options, message in (
        ({"steps": "4", "skip": 50}, "steps is given, and skip too, which it replaces"),
        ({"steps": "4", "cutoff": 9}, "steps is given, and cutoff too, which it replaces"),
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
    ):
        with subtests.test(message):
            refused(message, params, **options)


def test_a_network_that_learns_no_variance_is_not_asked_for_it():
    params = tiny.model(tiny.config(out_channels=3), "plain")
    message = "asks for a learned variance, and plain predicts none: take variance 'small' or"
    for variance in ("learned_range", "learned"):
        refused(message, params, variance=variance)
        refused(message, params, variance=variance, steps="8")
        plan = plans.skipped(params.schedule, 250, 0, variance)
        refused(message, params, plan=plan)


def test_threshold_is_a_quantile(params, subtests):
    for threshold in (0, -0.1, 1.01, np.nan, "0.9", True, [0.9], object()):
        with subtests.test(threshold=threshold):
            message = f"threshold is {threshold!r}: it must be a quantile, in (0, 1]"
            refused(message, params, threshold=threshold)


def zero_snr_betas(T=1000):
    """Betas of a variance-preserving schedule that ends in noise alone."""
    abar = schedules.zero_terminal_snr(schedules.linear(T)).alpha ** 2
    return tuple((1 - abar / np.append(1.0, abar[:-1])).tolist())


def test_where_x_is_noise_alone_eps_and_score_say_nothing(subtests):
    for name, schedule in (("flow", "rectified_flow"), ("betas", zero_snr_betas())):
        for prediction in ("eps", "score"):
            with subtests.test(schedule=name, prediction=prediction):
                params = tiny.model(
                    tiny.config(), "blind", {}, schedule=schedule, prediction=prediction
                )
                message = (
                    "the plan calls the network where x is noise alone (zero SNR), and blind "
                    f"predicts {prediction}, which says nothing of x_0 there: give a plan that "
                    "starts at time 998"
                )
                refused(message, params)
                refused(message, params, steps="5")
                refused(message, params, plan=plans.ddim(params.schedule, [999, 500]))
                later = plans.ddim(params.schedule, [998, 500])
                assert resolve(params, SampleConfig(plan=later)).plan is later
                for other in ("x_0", "velocity"):
                    process = params.process.replace(parameterization=other)
                    seeing = params.replace(process=process)
                    assert resolve(seeing, SampleConfig()).plan.alpha[0] == 0


def test_guidance_is_one_finite_number(free, classifier, subtests):
    for scale in ("4", [1.0, 2.0], np.ones(1), np.nan, np.inf, True, object()):
        with subtests.test(scale=scale):
            message = f"guidance is {scale!r}: it must be one finite number"
            refused(message, free, guidance=scale)
            refused(message, free, guidance=scale, classifier=classifier)


def test_an_interval_is_two_times(free, subtests):
    for interval in ((9, 0), 5, (1,), (0, 1, 2), (0, np.nan), "ab", (0, None), [[1], [2, 3]]):
        with subtests.test(interval=interval):
            message = f"guidance_interval is {interval!r}: it must be two times, least first"
            refused(message, free, guidance=1.0, guidance_interval=interval)


def test_a_classifier_is_one(params, upsampler, classifier):
    for what, bad in (
        ("a dict", classifier.params),
        ("tiny_upsampler, a network that denoises", upsampler),
    ):
        message = f"classifier is {what}: pass what skipjax.load gives for a classifier"
        refused(message, params, TypeError, classifier=bad)
    message = (
        "params is tiny_classifier, a classifier, which draws nothing: pass it as classifier="
    )
    refused(message, classifier, TypeError)


def test_a_classifier_fits_the_network(params, free, subtests):
    betas = (0.01,) * 999 + (0.02,)
    needed = "and linear, T = 1000 is needed"
    for network, schedule, message in (
        ({"image_size": 16}, None, "samples of shape (16, 16, 3), and (8, 8, 3) is needed"),
        ({"in_channels": 1}, None, "samples of shape (8, 8, 1), and (8, 8, 3) is needed"),
        ({"out_channels": 5}, None, "classes 5, and 3 is needed"),
        ({}, schedules.cosine(), f"the schedule cosine, T = 1000, {needed}"),
        ({}, schedules.linear(4000), f"the schedule linear, T = 4000, {needed}"),
        ({}, betas, "the schedule alpha 0.995 .. 0.006537, sigma 0.1 .. 1, T = 1000, and linear"),
    ):
        misfit = tiny.classifier(**network)
        if schedule is not None:
            process = misfit.process.replace(schedule=schedule)
            misfit = dataclasses.replace(misfit, process=process)
        for guided in (params, free):
            with subtests.test(message, guided=guided.labels.classes):
                said = f"classifier tiny_classifier does not fit tiny: {message}"
                refused(said, guided, classifier=misfit)


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
    message = "the network enlarges pictures: give them as low_res, [num, 8, 8, 3]"
    refused(message, upsampler)
    any_side = tiny.upsampler(low_res=None)
    refused("enlarges pictures: give them as low_res, [num, h, w, 3]", any_side)


def test_pictures_to_enlarge_have_their_shape(upsampler):
    for shape in (
        (4, 8, 8), (8, 8, 3), (4, 16, 16, 3), (4, 8, 4, 3), (4, 8, 8, 1), (0, 8, 8, 3), ()
    ):  # fmt: skip
        message = f"low_res is {shape}: the network takes [num, 8, 8, 3]"
        refused(message, upsampler, low_res=np.zeros(shape, np.float32))


def test_pictures_to_enlarge_are_bytes_or_numbers(upsampler):
    for dtype in (np.int32, np.int8, bool, np.complex64, object):
        message = f"low_res is {np.dtype(dtype)}: it must be float in [-1, 1], or uint8"
        refused(message, upsampler, low_res=SMALL.astype(dtype))


def test_pictures_to_enlarge_are_in_range(upsampler, subtests):
    message = "low_res must be in [-1, 1]: divide 0 .. 255 by 127.5 and take 1 away"
    for worst in (255.0, -3.0, np.nan, np.inf):
        low_res = SMALL.copy()
        low_res[1, 2, 3, 0] = worst
        for kind in (np.asarray, jnp.asarray):
            with subtests.test(worst=worst, kind=kind):
                refused(message, upsampler, low_res=kind(low_res))


def test_as_many_are_drawn_as_are_enlarged(upsampler):
    for asked, num in (({"num": 3}, 3), ({"num": 5}, 5), ({"ids": [1, 2]}, 2), ({"num": 1}, 1)):
        message = f"low_res has 4 pictures, and {num} are to be drawn"
        refused(message, upsampler, low_res=SMALL, **asked)


def test_a_classifier_cannot_guide_where_x_is_noise_alone(classifier):
    betas = (0.1, 0.2, 1.0)
    params = tiny.pretrained(schedule=betas, T=3, prediction="v")
    of_them = dataclasses.replace(classifier, process=params.process)
    plan = plans.ddim(params.schedule, [2, 1, 0])
    message = "a classifier is given, and the plan calls the network where x is noise alone"
    refused(message, params, plan=plan, classifier=of_them)
