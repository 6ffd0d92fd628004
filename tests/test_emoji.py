"""skipjax.training.emoji: what the data set of emoji32 holds, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow")

from PIL import ImageFont, features  # noqa: E402

from skipjax.training import emoji  # noqa: E402
from skipjax.training.pictures import Pictures, held_out  # noqa: E402

MISSING = [path for path in (emoji.FONT, emoji.EMOJI_TEST) if not Path(path).is_file()]
needs_font = pytest.mark.skipif(
    bool(MISSING) or not features.check("raqm"),
    reason=f"needs {MISSING or 'raqm'}: apt-get install fonts-noto-color-emoji unicode-data "
    "libraqm0 libfribidi0",
)
CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
HEADER = "# group: Smileys & Emotion\n"
GRIN = "1F600 ; fully-qualified # \U0001f600 E1.0 grinning face\n"


@pytest.fixture(scope="module")
def pictures():
    return emoji.render()


@pytest.fixture
def emoji_list(tmp_path):
    def write(*lines):
        path = tmp_path / "emoji-test.txt"
        path.write_text(HEADER + "".join(lines), encoding="utf-8")
        return path

    return write


@needs_font
def test_counts_shapes_and_types(pictures):
    count = len(pictures.names)
    assert 1800 <= count <= 2100  # 1,870 with Unicode 15.0; each year adds a few dozen at most
    assert pictures.images.shape == (count, 32, 32, 3) and pictures.images.dtype == np.uint8
    assert pictures.labels.shape == (count,) and pictures.labels.dtype == np.int32
    assert pictures.class_names == CLASSES
    assert len(set(pictures.names)) == count
    per_class = np.bincount(pictures.labels, minlength=9)
    assert len(per_class) == 9 and per_class.min() >= 80
    assert (np.diff(pictures.labels) >= 0).all()  # the file's order


@needs_font
@pytest.mark.parametrize(
    "name, label",
    [("grinning face", 0), ("keycap: #", 7), ("flag: Japan", 8), ("flag: England", 8)],
)
def test_names_and_labels_belong_together(pictures, name, label):
    assert pictures.labels[pictures.names.index(name)] == label


@needs_font
def test_subgroups_are_finer_classes_of_the_same_pictures(pictures):
    fine = emoji.render(classes="subgroup")
    np.testing.assert_array_equal(fine.images, pictures.images)
    assert 95 <= len(fine.class_names) == len(np.unique(fine.labels)) <= 110  # 99 of Unicode 15.0
    assert (np.diff(fine.labels) >= 0).all()
    for name, label in (
        ("grinning face", "face-smiling"),
        ("frog", "animal-amphibian"),
        ("flag: Japan", "country-flag"),
    ):
        assert fine.class_names[fine.labels[fine.names.index(name)]] == label
    groups = emoji.subgroups()
    assert tuple(groups) == CLASSES and groups["Flags"][1] == "country-flag"
    assert sum(groups.values(), ()) == fine.class_names
    owner = {name: group for group, names in groups.items() for name in names}
    assert [owner[fine.class_names[label]] for label in fine.labels] == [
        CLASSES[label] for label in pictures.labels
    ]
    train, held = held_out(fine)  # a frog is alone in its class, and stays in train
    assert set(train.labels) == set(fine.labels) and 150 < len(held.names) < 200


@needs_font
def test_no_skin_tones(pictures):
    assert not [name for name in pictures.names if "skin tone" in name]


@needs_font
def test_pictures_fill_a_white_square(pictures):
    corners = pictures.images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 250).all(-1).mean() > 0.98
    ink = (pictures.images < 250).any(-1)
    assert ink.any((1, 2)).all()
    reach = np.maximum(ink.any(1).sum(1), ink.any(2).sum(1))
    assert np.median(reach) >= 29  # of 32


@needs_font
def test_colours_survive(pictures):
    red, _, blue = pictures.images[pictures.names.index("red heart"), 14, 16]
    assert red > 180 and blue < 120
    left, right = pictures.images[pictures.names.index("flag: France"), 16, [6, 25]]
    assert left[2] > left[0] and right[0] > right[2]  # blue, red


@needs_font
def test_sequences_are_one_glyph(pictures):
    # An engine that does not shape draws only the parts: all keycaps, or all flags of one
    # first letter, would then come out alike.
    for kind in ("keycap: ", "flag: J", "flag: England", "flag: Scotland", "flag: Wales"):
        chosen = [i for i, name in enumerate(pictures.names) if name.startswith(kind)]
        assert len(np.unique(pictures.images[chosen], axis=0)) == len(chosen) > 0
    # What is left alike is so in the font: territories with another country's flag, one family.
    assert len(np.unique(pictures.images, axis=0)) >= len(pictures.images) - 12


@needs_font
@pytest.mark.parametrize(
    "codes",
    [
        "1F600 1F600",  # two glyphs
        "1F600 200D 1F697",  # a sequence that is none
        "10FFFF",  # no glyph
        "1F1E6 1F1E6",  # a flag that the font does not know
    ],
)
def test_what_is_not_one_glyph_is_left_out(emoji_list, caplog, codes):
    path = emoji_list(f"{codes} ; fully-qualified # x E99.0 not there\n", GRIN)
    with caplog.at_level("INFO", logger=emoji.__name__):
        pictures = emoji.render(emoji_test=path)
    assert pictures.names == ("grinning face",)
    assert "1 not in the font: ['not there']" in caplog.text


@needs_font
def test_only_fully_qualified_without_skin_tone_are_listed(emoji_list):
    path = emoji_list(
        "263A ; unqualified # \u263a E0.6 smiling face\n",
        "1F44B 1F3FB ; fully-qualified # \U0001f44b\U0001f3fb E1.0 waving hand: light skin\n",
        "# group: Empty\n",
        "# group: Animals & Nature\n",
        "1F435 ; fully-qualified # \U0001f435 E0.6 monkey face\n",
    )
    pictures = emoji.render(emoji_test=path)
    assert pictures.names == ("monkey face",) and pictures.class_names == ("Animals & Nature",)


@needs_font
def test_same_pictures_each_time_and_at_other_sizes(emoji_list, pictures):
    path = emoji_list(GRIN)
    at = pictures.names.index("grinning face")
    np.testing.assert_array_equal(emoji.render(emoji_test=path).images[0], pictures.images[at])
    large = emoji.render(64, emoji_test=path).images
    assert large.shape == (1, 64, 64, 3)
    smaller = large.reshape(1, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(smaller - pictures.images[at]).mean() < 6


def test_missing_files_say_which_package_has_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        emoji.render(font=tmp_path / "no.ttf")
    (tmp_path / "some.ttf").touch()
    with pytest.raises(FileNotFoundError, match="unicode-data"):
        emoji.render(font=tmp_path / "some.ttf", emoji_test=tmp_path / "no.txt")
    with pytest.raises(FileNotFoundError, match="unicode-data"):
        emoji.subgroups(tmp_path / "no.txt")


def test_missing_raqm_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "some.ttf").touch()
    (tmp_path / "list.txt").touch()
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(RuntimeError, match="libfribidi0"):
        emoji.render(font=tmp_path / "some.ttf", emoji_test=tmp_path / "list.txt")


@needs_font
def test_a_font_of_another_kind_is_refused(emoji_list, monkeypatch):
    monkeypatch.setattr(ImageFont.FreeTypeFont, "getbbox", lambda self, text: (0, 0, 100, 100))
    with pytest.raises(ValueError, match="CBDT"):
        emoji.render(emoji_test=emoji_list(GRIN))


@pytest.mark.parametrize("size", [0, 129])
def test_sizes_the_bitmaps_cannot_serve(size):
    with pytest.raises(ValueError, match="size"):
        emoji.render(size)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="classes is 'name': it must be one of group, subgroup"):
        emoji.render(classes="name")


def some_pictures():
    images = np.random.default_rng(0).integers(0, 256, (90, 4, 4, 3), dtype=np.uint8)
    images[1] = images[0]  # a twin
    labels = np.repeat(np.arange(3, dtype=np.int32), [20, 30, 40])
    return Pictures(images, labels, tuple(f"{i}" for i in range(90)), ("a", "b", "c"))


def test_held_out_takes_a_tenth_of_every_class():
    pictures = some_pictures()
    train, held = held_out(pictures)
    assert np.bincount(held.labels).tolist() == [2, 3, 4]
    assert not set(train.names) & set(held.names)
    assert sorted(train.names + held.names) == sorted(pictures.names)
    for part in (train, held):
        chosen = [int(name) for name in part.names]
        assert chosen == sorted(chosen) and part.class_names == pictures.class_names
        np.testing.assert_array_equal(part.images, pictures.images[chosen])
        np.testing.assert_array_equal(part.labels, pictures.labels[chosen])


def test_held_out_depends_on_the_seed_alone():
    first, again, other = (held_out(some_pictures(), seed=seed)[1] for seed in (0, 0, 1))
    assert first.names == again.names != other.names


def test_held_out_keeps_twins_in_train():
    for seed in range(20):
        train, _ = held_out(some_pictures(), fraction=0.8, seed=seed)
        assert {"0", "1"} <= set(train.names)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_held_out_refuses_other_fractions(fraction):
    with pytest.raises(ValueError, match="fraction"):
        held_out(some_pictures(), fraction)


@needs_font
def test_held_out_of_the_real_set(pictures):
    train, held = held_out(pictures)
    share = np.bincount(held.labels) / np.bincount(pictures.labels)
    np.testing.assert_allclose(share, 0.1, atol=0.006)
    seen = {image.tobytes() for image in train.images}
    assert not [
        name for name, im in zip(held.names, held.images, strict=True) if im.tobytes() in seen
    ]
