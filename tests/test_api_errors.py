"""Bad input to `skipjax.sample`: each kind has a line that says what was got and what is taken."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import skipjax
from skipjax import api, plans

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
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
        ({"label": [0, 1]}, "label has 2 entries for 4 pictures: give one for all, or as many"),
        ({"label": []}, "label has 0 entries for 4 pictures"),
        ({"dtype": "float16"}, "dtype is float16: it must be float32 or bfloat16"),
        ({"dtype": int}, "it must be float32 or bfloat16"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_an_argument_out_of_range_is_named_with_what_is_taken(params, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        skipjax.sample(params, KEY, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("other", [{"skip": 50}, {"cutoff": 10}])
def test_a_plan_and_what_it_replaces_exclude_each_other(params, other):
    plan = plans.skipped(params.schedule, 250)
    with pytest.raises(
        ValueError, match="plan is given, and skip, cutoff, steps or variance too.*drop one"
    ):
        skipjax.sample(params, KEY, plan=plan, **other)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("label", [0, "cat", [0, 0, 0, 0]])
def test_an_unconditional_network_takes_no_label(label):
    params = tiny.pretrained(num_classes=None)
    with pytest.raises(ValueError, match="tiny is unconditional: it takes no label, got "):
        skipjax.sample(params, KEY, label=label)


@pytest.mark.usefixtures("nothing_runs")
def test_classes_without_names_go_by_number():
    params = tiny.pretrained(num_classes=5)
    with pytest.raises(ValueError, match=r"label 'cat' is not a class: it must be 0 \.\. 4$"):
        skipjax.sample(params, KEY, label="cat")


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("kind", ["a bare dict", "a folder", "nothing"])
def test_params_must_be_what_load_returned(params, kind):
    bad = {"a bare dict": params.params, "a folder": "emoji32", "nothing": None}[kind]
    message = rf"params is a {type(bad).__name__}: pass what skipjax\.load.*skipjax\.Pretrained\("
    with pytest.raises(TypeError, match=message):
        skipjax.sample(bad, KEY)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jax.random.PRNGKey(0), "a legacy key: pass a typed key, such as jax.random.key"),
        (lambda: np.asarray(jax.random.PRNGKey(0)), "a legacy key: pass a typed key"),
        (lambda: 0, "key is 0: pass a typed key, such as jax.random.key(0)"),
        (lambda: None, "key is None: pass a typed key"),
        (lambda: jnp.zeros(()), "pass a typed key"),
        (lambda: jax.random.split(KEY, 4), "key holds keys of shape (4,): pass one"),
    ],
    ids=["legacy", "legacy_numpy", "int", "none", "array", "batch"],
)
def test_a_key_must_be_one_typed_key(params, make, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        skipjax.sample(params, make())


def test_pictures_that_are_not_finite_are_named_by_id(params):
    table = np.array(params.params["label_emb"]["embedding"])
    table[1] = np.nan
    broken = skipjax.Pretrained(params.params | {"label_emb": {"embedding": table}}, params.spec)
    draw = partial(skipjax.sample, broken, KEY, skip=500, devices=jax.local_devices()[:1])
    with pytest.raises(FloatingPointError, match=r"pictures 30, 50 are NaN or infinite: check"):
        draw(ids=[20, 30, 40, 50], label=["cat", "cow", "dog", "cow"])
    assert np.isfinite(draw(ids=[20, 30, 40, 50], label=["cat", "dog", "dog", "cat"])).all()


def test_a_long_list_of_bad_pictures_is_cut_short(params):
    images = jnp.full((20, 8, 8, 3), jnp.inf)
    with pytest.raises(FloatingPointError, match=r"pictures 0, 1, 2, 3, 4, 5, 6, 7 \.\.\. are"):
        api.finite(images, np.arange(20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "square"}, "schedule is 'square': it must be one of linear, scaled_linear"),
        ({"prediction": "noise"}, "prediction is 'noise': it must be one of eps, x_0, v, score"),
        ({"class_names": ("cat",)}, "1 class names for num_classes = 3"),
    ],
)
def test_a_spec_says_what_it_does_not_know(change, message):
    with pytest.raises(ValueError, match=message):
        skipjax.Spec("tiny", tiny.config(), **change)
