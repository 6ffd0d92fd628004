"""Pictures of a folder that are deep, not square, or say their class in their name."""

import numpy as np
import pytest
from PIL import Image

from skipjax.training import sources
from skipjax.training.pictures import describe


def every(found):
    return found.images[np.arange(found.images.shape[0])]


@pytest.mark.parametrize("mode", [None, "L", "RGB"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path, mode):
    deep = (np.arange(64, dtype=np.uint32).reshape(8, 8) * 65535 // 63).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    found = every(sources.read(str(tmp_path), mode=mode))
    expected = np.round(deep / 257).astype(np.uint8)
    assert found.shape == (1, 8, 8, 3 if mode == "RGB" else 1)
    np.testing.assert_array_equal(found[0], np.broadcast_to(expected[..., None], found.shape[1:]))


def test_pictures_need_not_be_square(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(tmp_path / name)
    assert sources.read(str(tmp_path)).images.shape == (2, 6, 10, 3)
    assert every(sources.read(str(tmp_path), size=(4, 8))).shape == (2, 4, 8, 3)
    with pytest.raises(ValueError, match="size is .*: it must be a side, or height and width"):
        sources.read(str(tmp_path), size=(4, 8, 3))


def test_classes_may_stand_in_the_names(tmp_path):
    for name in ("cat_0.png", "dog_1.png", "cat_2.png"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    plain = sources.read(str(tmp_path))
    assert plain.labels is None and describe(plain) == "3 pictures of 4 x 4 x 3, no classes"
    named = sources.read(str(tmp_path), classes="names")
    assert named.class_names == ("cat", "dog") and named.labels.tolist() == [0, 0, 1]
    assert describe(named) == "3 pictures of 4 x 4 x 3, 2 classes: cat, dog"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "bird.png")
    with pytest.raises(ValueError, match="bird.png names no class"):
        sources.read(str(tmp_path), classes="names")
