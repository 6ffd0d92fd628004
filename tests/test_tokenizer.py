"""CLIP's tokenizer, of a small vocabulary."""

import json
import sys
from dataclasses import replace

import pytest
import small_vocabulary
from small_vocabulary import END, START

from skipjax.conditioners import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_vocabulary.write(tmp_path_factory.mktemp("tokenizer") / "sd1")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.read(folder)


def looks(tokenizer, text):
    """What a text is split into."""
    names = {number: token for token, number in tokenizer.numbers.items()}
    return [names[number].removesuffix("</w>") for number in tokenizer.split(text)[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A  Photo\n\tof a FOX", ["a", "photo", "of", "a", "fox"]),
        ("wow!", ["wow", "!"]),
        ("it's 2025", ["i", "t", "'", "s", "2", "0", "2", "5"]),
        ("fox_2", ["fox", "_", "2"]),
        ("cafe\u0301", ["ca", "f", "Ã", "©"]),
        (f"a{END}cat", ["a", END, "cat"]),
    ],
)
def test_what_texts_are_split_into(tokenizer, text, expected):
    assert looks(tokenizer, text) == expected


def test_where_tokens_begin(tokenizer):
    assert tokenizer.split("a  Fox in")[1] == [0, 3, 7]


def test_the_padding_of_stable_diffusion_2_is_a_token_by_itself(tokenizer, tmp_path):
    other = Tokenizer.read(small_vocabulary.write(tmp_path, "!"))
    assert tokenizer.frame == (tokenizer.numbers[START], *2 * (tokenizer.numbers[END],))
    assert other.frame == (*tokenizer.frame[:2], 0)
    assert other.split("wow!!")[0] == [other.numbers["wow</w>"], 0, 0]
    assert tokenizer.split("wow!")[0][1] == tokenizer.numbers["!</w>"] != 0


def test_tokens_are_found_as_the_files_flag_them(tokenizer, tmp_path):
    flagged = Tokenizer.read(small_vocabulary.write(tmp_path, END))
    capitals = f"{START.upper()}{END.upper()}"
    assert looks(flagged, capitals)[0] == START  # in lower case
    assert END not in looks(flagged, capitals)  # as it is written, since it pads
    assert START not in looks(tokenizer, capitals)


def test_equal_by_content_and_written_as_read(tokenizer, folder, tmp_path):
    more = tokenizer.with_token("<cat-toy>", 2)
    for one in (tokenizer, more, replace(tokenizer, pad="!"), replace(tokenizer, length=None)):
        one.write(tmp_path)
        again = Tokenizer.read(tmp_path)
        assert again == one and hash(again) == hash(one) and again.words == one.words
    assert Tokenizer.read(folder) == tokenizer != more
    assert repr(tokenizer).startswith(f"Tokenizer({len(tokenizer)} tokens, pads with '{END}'")


def test_one_file_holds_what_two_do(tokenizer, tmp_path):
    merges = [list(merge) for merge in tokenizer.merges]
    model = {"type": "BPE", "vocab": dict(tokenizer.vocabulary), "merges": merges}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": model, "added_tokens": []}))
    assert Tokenizer.read(tmp_path) == replace(tokenizer, length=None)
    model["merges"] = list(map(" ".join, merges))
    path.write_text(json.dumps({"model": model}))
    assert Tokenizer.read(tmp_path) == replace(tokenizer, length=None)


def test_words_that_are_added(tokenizer):
    size = len(tokenizer)
    more = tokenizer.with_token("<Cat-Toy>", 3).with_token("Xyz")
    assert len(more) == size + 4
    assert more.words == ("<Cat-Toy>", "<Cat-Toy>_1", "<Cat-Toy>_2", "Xyz")
    ids, starts = more.split("a <cat-toy>, xyz")
    assert ids[1:4] == [size, size + 1, size + 2] and ids[-1] == size + 3
    assert starts[1:4] == [2, 2, 2]
    for token, message in (
        ("fox</w>", "'fox</w>' is a token already"),
        ("<Cat-Toy>_1", "is a token already"),
        (" ", "it must be a word such as '<cat-toy>'"),
    ):
        with pytest.raises(ValueError, match=message):
            more.with_token(token)


def test_files_that_are_missing_or_broken(folder, tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer: it needs tokenizer.json, or vocab"):
        Tokenizer.read(tmp_path)
    for name, content, message in (
        ("vocab.json", "[]", "vocab.json holds a list: it must be an object"),
        ("vocab.json", '{"a": "b"}', "a vocabulary whose tokens are not numbered"),
        ("vocab.json", "{", r"vocab.json cannot be read \(Expecting"),
        ("merges.txt", "a b c", "merges.txt holds the merge 'a b c': it must be of two tokens"),
        ("tokenizer_config.json", '{"pad_token": 3}', "3 is no token: it must be a text"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}}', "its model is Unigram"),
    ):
        small_vocabulary.write(tmp_path)
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            Tokenizer.read(tmp_path)


def test_the_package_may_be_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'skipjax\[text\]'"):
        Tokenizer.read(folder).split("a fox")
