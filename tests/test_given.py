"""Conditions that are given as they are, and sizes that Stable Diffusion XL is told."""

import jax
import numpy as np
import pytest

from skipjax.conditioners import Given, MicroConditioning

IDS = np.arange(2)


def told(conditioner, **words):
    (value,) = conditioner.encode(words, jax.random.key(0), IDS).values()
    assert value.dtype == np.float32
    return value


def test_arrays_for_all_or_for_each():
    text = Given("text", (None, 4))
    assert text.takes == text.gives == ("text",)
    one, each = np.ones((3, 4)), np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(told(text, text=one), np.ones((2, 3, 4)))
    np.testing.assert_array_equal(told(text, text=each), each)
    assert text.null({"text": each}) is None
    np.testing.assert_array_equal(told(Given("guidance", ()), guidance=7.5), [7.5, 7.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"is told text: give it as an array, \[any, 4\] for all, or \[num, any, 4\]"),
        (np.ones((3, 5)), r"text is \[3, 5\]: it must be \[any, 4\]"),
        (np.ones(4), r"text is \[4\]"),
        (np.ones((3, 3, 4)), "text has 3 entries for 2 samples"),
        (["a"], "it must be of real numbers"),
        (np.ones((3, 4), complex), "text is complex128: it must be of real numbers"),
    ],
)
def test_arrays_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        told(Given("text", (None, 4)), text=text)


def test_a_size_must_be_one():
    with pytest.raises(ValueError, match=r"shape is \(0,\): sizes must be at least 1"):
        Given("text", (0,))
    with pytest.raises(ValueError, match=r"size is \(8,\): it must be \(height, width\)"):
        MicroConditioning((8,))


def test_sizes_are_the_pictures_where_nothing_is_said():
    sizes = MicroConditioning((512, 768))
    assert sizes.takes == ("original_size", "crop", "target_size")
    assert sizes.gives == ("time_ids",)
    np.testing.assert_array_equal(told(sizes), [[512, 768, 0, 0, 512, 768]] * 2)
    found = told(sizes, original_size=(100, 200), crop=[[1, 2], [3, 4]], target_size=(5, 6))
    np.testing.assert_array_equal(found, [[100, 200, 1, 2, 5, 6], [100, 200, 3, 4, 5, 6]])
    assert sizes.null({"time_ids": found}) is None


def test_the_refiner_is_told_a_score():
    sizes = MicroConditioning((512, 768), aesthetic=True)
    assert sizes.takes == ("original_size", "crop", "aesthetic_score")
    found = told(sizes, aesthetic_score=[5, 6.5])
    np.testing.assert_array_equal(found, [[512, 768, 0, 0, 5], [512, 768, 0, 0, 6.5]])
    np.testing.assert_array_equal(told(sizes)[:, -1], [6, 6])
    null = sizes.null({"time_ids": found}, "blurry")
    np.testing.assert_array_equal(null["time_ids"], [[512, 768, 0, 0, 2.5]] * 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"crop": 3}, "crop is 3: it must be two numbers, or 2 of them"),
        ({"crop": [(1, 2)] * 3}, "it must be two numbers, or 2 of them, one for each sample"),
        ({"original_size": "big"}, "original_size is 'big': it must be two numbers"),
        ({"original_size": (1, float("nan"))}, "it must be two numbers"),
        ({"aesthetic_score": (1, 2, 3)}, "aesthetic_score is .*: it must be a number, or 2"),
    ],
)
def test_sizes_that_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        told(MicroConditioning((8, 8), "aesthetic_score" in words), **words)
