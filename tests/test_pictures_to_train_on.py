"""Pictures to train on: where they come from, what is refused, in which order they are seen."""

import numpy as np
import pytest
from PIL import Image

from skipjax.training import sources
from skipjax.training.batches import Batches, iterate
from skipjax.training.pictures import Pictures, held_out

RED, CLEAR = (255, 0, 0), (0, 0, 0, 0)


def save(path, size=(8, 8), mode="RGB", colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if colour is not None else 0).save(path)


def numbered(num):
    """Pictures that say which they are."""
    images = (
        np.zeros((num, 2, 2, 1), np.uint8) + np.arange(num, dtype=np.uint8)[:, None, None, None]
    )
    return Pictures(images, np.arange(num, dtype=np.int32) % 3)


def test_folders_in_a_folder_are_classes(tmp_path):
    save(tmp_path / "dogs" / "b.png", colour=RED)
    save(tmp_path / "cats" / "deep" / "a.PNG")
    (tmp_path / "cats" / "notes.txt").write_text("no picture")
    found = sources.read(str(tmp_path))
    assert found.class_names == ("cats", "dogs")
    np.testing.assert_array_equal(found.labels, [0, 1])
    assert found.images.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(found.images[np.array([1, 0])][:, 0, 0], [RED, (0, 0, 0)])


def test_a_flat_folder_has_no_classes_and_grey_stays_grey(tmp_path):
    save(tmp_path / "a.png", mode="L", colour=7)
    found = sources.read(str(tmp_path))
    assert found.labels is None and found.class_names == ()
    np.testing.assert_array_equal(found.images[np.array([0])], np.full((1, 8, 8, 1), 7))


def test_pictures_are_cut_scaled_and_put_on_white_where_that_is_asked(tmp_path):
    save(tmp_path / "wide.png", (20, 10), colour=RED)
    save(tmp_path / "clear.png", mode="RGBA", colour=CLEAR)
    found = sources.read(str(tmp_path), size=4, mode="RGB")
    assert found.images.shape == (2, 4, 4, 3)
    clear, wide = found.images[np.arange(2)]
    assert (clear == 255).all() and (wide == RED).all()


REFUSED = [
    ({}, "holds no picture"),
    ({"a.png": {}, "b.png": {"size": (9, 9)}}, "not of one size .*1 of 8 x 8"),
    ({"a.png": {}, "b.png": {"mode": "L"}}, "mode 1 RGB, 1 L: say RGB or L"),
    ({"a.png": {"mode": "RGBA"}}, "mode 1 RGBA"),
    ({"a.png": {}, "dogs/b.png": {}}, "1 pictures beside the folders dogs"),
]


def test_folders_that_cannot_be_learnt_from(tmp_path, subtests):
    for i, (files, match) in enumerate(REFUSED):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, about in files.items():
            save(folder / name, **about)
        with subtests.test(match), pytest.raises(ValueError, match=match):
            sources.read(str(folder))


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a, or not")
    with pytest.raises(ValueError, match="a.png cannot be read as a picture"):
        sources.read(str(tmp_path))
    save(tmp_path / "b.png", (64, 64))
    cut = (tmp_path / "b.png").read_bytes()[:-60]
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").write_bytes(cut)
    with pytest.raises(ValueError, match="b.png cannot be read as a picture"):
        _ = sources.read(str(tmp_path)).images[np.array([0])]


def test_npz(tmp_path):
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 2, 1, 0])
    np.savez(tmp_path / "a.npz", images, labels)
    found = sources.read(str(tmp_path / "a.npz"))
    assert found.class_names == ("0", "1", "2") and found.labels.dtype == np.int32
    np.savez(tmp_path / "b.npz", images, labels / 2)
    with pytest.raises(ValueError, match="labels are whole numbers"):
        sources.read(str(tmp_path / "b.npz"))
    (tmp_path / "c.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no .npz with pictures in arr_0"):
        sources.read(str(tmp_path / "c.npz"))
    with pytest.raises(ValueError, match="only those of a folder are scaled"):
        sources.read(str(tmp_path / "a.npz"), size=16)
    with pytest.raises(ValueError, match="data is 'cifar'"):
        sources.read("cifar")


def test_digits():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    found = sources.read("digits")
    assert found.images.shape == (1797, 8, 8, 1) and found.images.dtype == np.uint8
    assert found.images.max() == 255 and found.class_names == tuple("0123456789")
    seen, held = held_out(found)
    assert len(seen.labels) + len(held.labels) == 1797
    assert found.fingerprint != seen.fingerprint != held.fingerprint


def test_each_picture_is_seen_once_before_any_is_seen_again_and_in_another_order():
    num, batch = 10, 4
    batches = Batches(numbered(num), batch, seed=1, steps=15)
    seen = np.concatenate([batches[i][0][:, 0, 0, 0] for i in range(15)]).reshape(6, num)
    assert all(sorted(epoch) == list(range(num)) for epoch in seen.tolist())
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 6
    images, condition = batches[3]
    np.testing.assert_array_equal(images[:, 0, 0, 0] % 3, condition["label"])
    other = Batches(numbered(num), batch, seed=2, steps=15)
    assert any((batches[i][0] != other[i][0]).any() for i in range(3))


def test_a_batch_follows_from_its_step_wherever_reading_begins():
    batches = Batches(numbered(10), 4, seed=1, steps=9)
    for i, (images, _) in enumerate(iterate(batches, 5), 5):
        np.testing.assert_array_equal(images, batches[i][0])
    assert i == 8


def test_processes_share_a_batch():
    whole = Batches(numbered(10), 4, seed=1, steps=3)
    parts = [Batches(numbered(10), 4, 1, 3, (i, 2)) for i in range(2)]
    joined = np.concatenate([part[2][0] for part in parts])
    np.testing.assert_array_equal(joined, whole[2][0])
