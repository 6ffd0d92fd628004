"""Pictures on their way to people and files."""

import jax.numpy as jnp
import numpy as np
import pytest

import skipjax
from skipjax.codecs import images


def test_numbers_become_bytes_as_in_adm():
    x = np.linspace(-1.5, 1.5, 20_001, dtype=np.float32)
    expected = ((x + 1) * np.float32(127.5)).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(skipjax.to_uint8(x), expected)


def test_fractions_of_a_level_are_cut_off():
    x = np.array([-3.0, -1.0, -1 + 0.99 / 127.5, 0.0, 1 - 0.01 / 127.5, 1.0, 3.0], np.float32)
    np.testing.assert_array_equal(skipjax.to_uint8(x), [0, 0, 0, 127, 254, 255, 255])


def test_every_float_type_is_taken():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, np.float64):
        got = skipjax.to_uint8(np.array([[-1.0, 0.5, 1.0]]).astype(dtype))
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, [[0, 191, 255]], err_msg=str(dtype))


@pytest.mark.parametrize("convert", [skipjax.to_uint8, skipjax.grid])
def test_no_picture_is_made_of_what_is_not_finite(convert):
    for bad in (np.nan, np.inf, -np.inf):
        x = np.zeros((1, 4, 4, 3), np.float32)
        x[0, 2, 1, 0] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            convert(x)


def test_to_uint8_refuses_what_is_not_float():
    for dtype in (np.uint8, np.int32, bool):
        with pytest.raises(ValueError, match=f"{np.dtype(dtype)}.*floats in"):
            skipjax.to_uint8(np.zeros((1, 2, 2, 3), dtype))


def coloured(num, channels=3, side=4):
    """Pictures of one colour each, 10, 20, 30, ..."""
    levels = 10 * np.arange(1, num + 1, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num, side, side, channels))


SHEETS = [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (2, 3)), (7, 2, (4, 2)), (3, 5, (1, 5))]


def test_a_grid_shows_every_picture_in_reading_order_on_white(subtests):
    gap = images.GAP
    for num, columns, (rows, cols) in SHEETS:
        with subtests.test(f"{num} in {columns} columns"):
            sheet = np.asarray(skipjax.grid(coloured(num), columns, scale=1))
            assert sheet.shape == (rows * (4 + gap) + gap, cols * (4 + gap) + gap, 3)
            seen = np.zeros(sheet.shape[:2], bool)
            for i in range(num):
                top, left = gap + i // cols * (4 + gap), gap + i % cols * (4 + gap)
                part = slice(top, top + 4), slice(left, left + 4)
                assert (sheet[part] == 10 * (i + 1)).all()
                seen[part] = True
            assert (sheet[~seen] == 255).all()


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 3)])
def test_a_grid_of_pictures_that_are_not_square(height, width):
    rng, gap = np.random.default_rng(0), images.GAP
    pictures = rng.integers(0, 255, (5, height, width, 3), np.uint8)
    sheet = np.asarray(skipjax.grid(pictures, scale=1))
    assert sheet.shape == (2 * (height + gap) + gap, 3 * (width + gap) + gap, 3)
    for i, picture in enumerate(pictures):
        top, left = gap + i // 3 * (height + gap), gap + i % 3 * (width + gap)
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], picture)


def test_scale_repeats_pixels():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (1, 4, 4, 3), np.uint8)
    sheet = np.asarray(skipjax.grid(picture, scale=3))
    gap = images.GAP
    inner = sheet[gap:-gap, gap:-gap]
    assert inner.shape == (12, 12, 3)
    np.testing.assert_array_equal(inner, picture[0].repeat(3, axis=0).repeat(3, axis=1))


def test_small_pictures_are_enlarged_unless_told():
    for side, shown in [(8, 96), (32, 96), (40, 80), (128, 128)]:
        assert skipjax.grid(coloured(1, side=side)).size == (shown + 2 * images.GAP,) * 2


def test_gray_pictures_make_a_gray_grid():
    sheet = skipjax.grid(coloured(2, channels=1), scale=1)
    assert sheet.mode == "L"
    assert set(np.unique(np.asarray(sheet))) == {10, 20, 255}
    assert skipjax.grid(coloured(2)).mode == "RGB"


def test_a_grid_of_floats_is_that_of_their_bytes():
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 3)).astype(np.float32)
    theirs = np.asarray(skipjax.grid(skipjax.to_uint8(x)))
    np.testing.assert_array_equal(np.asarray(skipjax.grid(jnp.asarray(x))), theirs)


def test_grid_says_which_shapes_it_takes():
    for shape in [(4, 4, 3), (0, 4, 4, 3), (1, 4, 4, 2), (1, 4, 4, 6)]:
        with pytest.raises(ValueError, match=r"images are \(.*\[N, H, W, C\], C 1 or 3"):
            skipjax.grid(np.zeros(shape, np.float32))
