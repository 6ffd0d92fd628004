"""Bad input to `skipjax.sample`: each kind has a line that says what was got and what is taken."""

import re

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import api, generation, guidance, schedules
from skipjax.codecs import images
from skipjax.conditioners import Labels

KEY = jax.random.key(0)
STRIDE = "it must be a whole number in 1 .. 1000"
CUTOFF = "it must be a whole number in 0 .. 1000"
COUNT = "it must be a whole number in 1 .. 4294967296"
CLASSES = "it must be 0 .. 2, or one of: cat, cow, dog"


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.fixture
def nothing_runs(monkeypatch):
    def generate(*_, **__):
        pytest.fail("something was computed")

    monkeypatch.setattr(api, "generate", generate)


@pytest.mark.usefixtures("nothing_runs")
def test_an_argument_out_of_range_is_named_with_what_is_taken(params, subtests):
    for arguments, message in (
        ({"skip": 0}, f"skip is 0: {STRIDE}"),
        ({"skip": -1}, f"skip is -1: {STRIDE}"),
        ({"skip": 1001}, f"skip is 1001: {STRIDE}"),
        ({"skip": 2.5}, f"skip is 2.5: {STRIDE}"),
        ({"skip": 20.0}, f"skip is 20.0: {STRIDE}"),
        ({"skip": True}, f"skip is True: {STRIDE}"),
        ({"skip": "20"}, f"skip is '20': {STRIDE}"),
        ({"cutoff": -1}, f"cutoff is -1: {CUTOFF}"),
        ({"cutoff": 1001}, f"cutoff is 1001: {CUTOFF}"),
        ({"cutoff": 0.5}, f"cutoff is 0.5: {CUTOFF}"),
        ({"num": 0}, f"num is 0: {COUNT}"),
        ({"num": -4}, f"num is -4: {COUNT}"),
        ({"num": 1.0}, f"num is 1.0: {COUNT}"),
        ({"ids": []}, "ids is []: it must be a non-empty list of whole numbers"),
        ({"ids": 7}, "ids is 7: it must be a non-empty list of whole numbers"),
        ({"ids": [0.5]}, "ids is [0.5]: it must be a non-empty list of whole numbers"),
        ({"ids": [True]}, "ids is [True]: it must be a non-empty list of whole numbers"),
        ({"ids": [[1, 2]]}, "ids is [[1, 2]]: it must be a non-empty list of whole numbers"),
        ({"ids": [3, -1]}, "ids span -1 .. 3: they must be in 0 .. 2^32 - 1"),
        ({"ids": [3, 2**32]}, "ids span 3 .. 4294967296: they must be in 0 .. 2^32 - 1"),
        ({"label": "horse"}, f"label 'horse' is not a class: {CLASSES}"),
        ({"label": ""}, f"label '' is not a class: {CLASSES}"),
        ({"label": "-1"}, f"label '-1' is not a class: {CLASSES}"),
        ({"label": "c"}, f"label 'c' fits several classes (cat, cow): {CLASSES}"),
        ({"label": 3}, f"label 3 is out of range: {CLASSES}"),
        ({"label": "3"}, f"label 3 is out of range: {CLASSES}"),
        ({"label": -1}, f"label -1 is out of range: {CLASSES}"),
        ({"label": 1.0}, f"label 1.0 is neither a number nor a name: {CLASSES}"),
        ({"label": True}, f"label True is neither a number nor a name: {CLASSES}"),
        (
            {"label": [0, 1], "num": 4},
            "label has 2 entries for 4 samples: give one for all, or as many",
        ),
        ({"label": [], "num": 4}, "label has 0 entries for 4 samples"),
        ({"ids": [1, 2], "num": 4}, "num is 4, and ids holds 2: drop one"),
        ({"size": (8,)}, "size is (8,): it must be (height, width), in pixels"),
        ({"eta": 2.0}, "eta is 2.0: it must be in 0 .. 1"),
        ({"eta": 0.5, "plan": "heun"}, "eta is 0.5, and plan is 'heun': eta is DDIM's"),
        ({"dtype": "float16"}, "dtype is float16: it must be float32 or bfloat16"),
        ({"dtype": int}, "it must be float32 or bfloat16"),
    ):
        with subtests.test(**arguments):
            with pytest.raises(ValueError, match=re.escape(message)) as caught:
                skipjax.sample(params, KEY, **arguments)
            assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("nothing_runs")
def test_an_unconditional_network_takes_no_label():
    params = tiny.pretrained(num_classes=None)
    for label in (0, "cat", [0, 0, 0, 0]):
        with pytest.raises(ValueError, match="tiny is unconditional: it takes no label, got "):
            skipjax.sample(params, KEY, label=label)


@pytest.mark.usefixtures("nothing_runs")
def test_classes_without_names_go_by_number():
    params = tiny.pretrained(num_classes=5)
    with pytest.raises(ValueError, match=r"label 'cat' is not a class: it must be 0 \.\. 4$"):
        skipjax.sample(params, KEY, label="cat")


@pytest.mark.usefixtures("nothing_runs")
def test_params_must_be_what_load_returned(params):
    for bad in (params.params, "emoji32", None):
        kind = type(bad).__name__
        message = rf"params is a {kind}: pass what skipjax\.load.*skipjax\.Pretrained\("
        with pytest.raises(TypeError, match=message):
            skipjax.sample(bad, KEY)


@pytest.mark.usefixtures("nothing_runs")
def test_a_key_must_be_one_typed_key(params):
    legacy = jax.random.PRNGKey(0)
    for key, message in (
        (legacy, "a legacy key: pass a typed key, such as jax.random.key"),
        (np.asarray(legacy), "a legacy key: pass a typed key"),
        (0, "key is 0: pass a typed key, such as jax.random.key(0)"),
        (None, "key is None: pass a typed key"),
        (jnp.zeros(()), "pass a typed key"),
        (jax.random.split(KEY, 4), "key holds keys of shape (4,): pass one"),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            skipjax.sample(params, key)


def test_pictures_that_are_not_finite_are_named_by_id(params):
    table = np.array(params.params["label_emb"]["embedding"])
    table[1] = np.nan
    broken = params.replace(params=params.params | {"label_emb": {"embedding": table}})
    ids = [30, 40, 50]

    def draw(*labels):
        devices = jax.local_devices()[:1]
        return skipjax.sample(broken, KEY, skip=250, devices=devices, ids=ids, label=labels)

    with compiling.in_a_hurry():
        with pytest.raises(FloatingPointError, match=r"samples 30, 50 are NaN or infinite: chec"):
            draw("cow", "dog", "cow")
        assert np.isfinite(draw("dog", "dog", "cat")).all()


def test_a_long_list_of_bad_pictures_is_cut_short():
    pictures = np.full((20, 8, 8, 3), np.inf)
    with pytest.raises(FloatingPointError, match=r"samples 0, 1, 2, 3, 4, 5, 6, 7 \.\.\. are"):
        images.finite(pictures, np.arange(20))


def test_a_guide_needs_something_to_guide_by(params):
    with pytest.raises(ValueError, match="tiny has no null label, nor another condition"):
        label = {"label": np.zeros(1, int)}
        generation.denoiser(params, label, guidance=guidance.ClassifierFree(1.0))
    by = guidance.ByClassifier(tiny.classifier())
    with pytest.raises(ValueError, match="a classifier guides towards labels: give one for each"):
        generation.denoiser(params, None, guidance=by)


def test_a_process_says_what_it_does_not_know(subtests):
    for change, message in (
        ({"variance": "medium"}, f"it must be one of {', '.join(schedules.VARIANCES)}"),
        ({"schedule": "square"}, "schedule is 'square': it must be one of linear, scaled_linear"),
        ({"parameterization": "noise"}, "is 'noise': it must be one of eps, x_0, v, score"),
        ({"parameterization": "v", "schedule": "rectified_flow"}, "is 'v', which the schedule"),
        ({"schedule": 3}, "schedule is 3: it must be a Schedule, one of linear.* vector of betas"),
        ({"schedule": [0.1, None]}, "it must be a Schedule, one of linear.* vector of betas"),
        ({"schedule": (0.1, 1.2)}, "betas must be a vector of numbers in"),
        ({"bounds": (1, -1)}, "the least must be below the largest"),
    ):
        with subtests.test(**change), pytest.raises(ValueError, match=message):
            skipjax.Process(**{"schedule": "linear"} | change)


def test_a_null_label_is_one_of_the_network_s():
    for null in (-1, 3, 7):
        with pytest.raises(ValueError, match=f"null_label is {null}: it must be one of the 3 lab"):
            tiny.model(tiny.config(), null_label=null)
        with pytest.raises(ValueError, match="and the network takes no labels"):
            tiny.model(tiny.config(None), null_label=null)


def test_names_are_those_of_the_classes_without_the_null_label():
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        Labels(3, tiny.NAMES, 0)
    assert Labels(4, tiny.NAMES, 0).classes == 3
