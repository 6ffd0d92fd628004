"""Pictures as they are seen while training: shifted on white, and mirrored."""

from functools import partial

import jax
import numpy as np
import pytest

from skipjax.training.augment import look

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


@pytest.fixture(scope="module")
def pictures():
    """Two pictures of which no two pixels are the same."""
    return np.linspace(-1, 0.9, 2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)


def moves(picture, pixels):
    """Every picture that a shift on white, with or without a flip, makes of one."""
    sides = range(2 * pixels + 1)
    for seen in picture, picture[:, ::-1]:
        rim = np.pad(seen, [(pixels, pixels), (pixels, pixels), (0, 0)], constant_values=1)
        yield from (rim[top : top + 4, left : left + 4] for top in sides for left in sides)


def seen(key, batch, pixels):
    return np.asarray(jax.jit(partial(look, shift=pixels, flip=True))(key, batch))


@pytest.mark.parametrize(
    "pixels", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2]
)
def test_pictures_are_shifted_on_white_and_flipped_and_nothing_else(pictures, pixels):
    moved = seen(jax.random.key(0), np.repeat(pictures, 1500, axis=0), pixels)
    for of_one, picture in zip(np.split(moved, 2), pictures, strict=True):
        known = np.stack(list(moves(picture, pixels)))
        found, count = np.unique(of_one, axis=0, return_counts=True)
        assert {x.tobytes() for x in found} == {x.tobytes() for x in known}
        # Each as often as any other, within 5 standard deviations.
        expected = 1500 / len(known)
        assert np.abs(count - expected).max() < 5 * np.sqrt(expected)


def test_flips_and_shifts_are_drawn_apart(pictures):
    batch = np.repeat(pictures, 1500, axis=0)
    first, second = (seen(jax.random.key(i), batch, 2)[::1500] for i in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(seen(jax.random.key(0), batch, 2)[::1500], first)


def test_pictures_that_are_not_mirrored_are_left_alone_and_the_rest_as_it_was(pictures):
    batch, sided = np.tile(pictures, (50, 1, 1, 1)), np.arange(100) % 3 == 0
    free, held = (
        np.asarray(look(jax.random.key(0), batch, 0, True, which)) for which in (None, sided)
    )
    np.testing.assert_array_equal(held[sided], batch[sided])
    np.testing.assert_array_equal(held[~sided], free[~sided])
    assert (free != batch).any((1, 2, 3)).mean() > 0.3
