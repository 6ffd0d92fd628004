"""From prompts to chunks of tokens: brackets, BREAK, and what is too long."""

import numpy as np
import pytest
import small_vocabulary
from odd_prompts import prompts

from skipjax.conditioners import Tokenizer
from skipjax.conditioners.clip.prompts import NEAR, chunks_of, parse

LENGTH = 77


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.read(small_vocabulary.write(tmp_path_factory.mktemp("tokenizer"), "!"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a fox", [("a fox", 1)]),
        ("a (red) fox", [("a ", 1), ("red", 1.1), (" fox", 1)]),
        ("a ((red)) [fox]", [("a ", 1), ("red", 1.21), (" ", 1), ("fox", 1 / 1.1)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: 0.5 ) fox", [("red", 0.5), (" fox", 1)]),
        ("(a (red:2) fox:1.5)", [("a ", 1.5), ("red", 3), (" fox", 1.5)]),
        ("(red:-.5)(fox:+2)", [("red", -0.5), ("fox", 2)]),
        (r"\(red\) \[fox\] \\ \x", [("(red) [fox] \\ x", 1)]),
        ("a (red [fox", [("a ", 1), ("red ", 1.1), ("fox", 1.0)]),
        ("red) fox] :1.3) a:2", [("red) fox] :1.3) a:2", 1)]),
        ("[red:1.3]", [("red:1.3", 1 / 1.1)]),
        ("[red:1.3)]", [("red:1.3)", 1 / 1.1)]),
        ("(a) (b)", [("a", 1.1), (" ", 1), ("b", 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("()", []),
    ],
)
def test_brackets_weight(prompt, expected):
    pieces = parse(prompt)
    assert [piece.text for piece in pieces] == [text for text, _ in expected]
    np.testing.assert_allclose([p.weight for p in pieces], [weight for _, weight in expected])


def test_break_divides_within_brackets_too():
    found = [(piece.text, piece.section) for piece in parse("a BREAK (red BREAK  fox) BREAKING")]
    assert found == [("a", 0), ("", 1), ("red", 1), ("fox", 2), (" BREAKING", 2)]
    assert parse("(red BREAK fox:2)")[-1].weight == 2


def test_a_weight_must_be_a_number():
    with pytest.raises(ValueError, match="the prompt '.a:1.2.3.' holds the weight '1.2.3'"):
        parse("(a:1.2.3)")


def body(chunk, tokenizer):
    """The tokens of a chunk between its beginning and end, and what follows."""
    start, end, pad = tokenizer.frame
    assert len(chunk.ids) == len(chunk.weights) == LENGTH and chunk.ids[0] == start
    at = chunk.ids.index(end)
    assert set(chunk.ids[at + 1 :]) <= {pad}
    return chunk.ids[1:at]


def test_a_prompt_is_framed_and_padded(tokenizer):
    (chunk,) = chunks_of(tokenizer, "a red fox", LENGTH)
    numbers = tokenizer.numbers
    assert body(chunk, tokenizer) == tuple(numbers[f"{w}</w>"] for w in ("a", "red", "fox"))
    assert set(chunk.weights) == {1.0}
    assert body(*chunks_of(tokenizer, "", LENGTH), tokenizer) == ()
    assert chunks_of(tokenizer, "a (red:2) fox", LENGTH, True)[0].ids == chunk.ids
    assert chunks_of(tokenizer, "a (red:2) fox", LENGTH, True)[0].weights[:4] == (1, 1, 2, 1)
    assert len(body(*chunks_of(tokenizer, "a (red:2) fox", LENGTH), tokenizer)) > 3


def test_what_is_too_long_is_cut_off_and_said(tokenizer):
    with pytest.warns(UserWarning, match="has 80 tokens, of which 75 are read: 'fox fox snow fox"):
        (chunk,) = chunks_of(tokenizer, "fox " * 77 + "snow fox fox", LENGTH)
    assert len(body(chunk, tokenizer)) == 75
    with pytest.warns(UserWarning, match="'red very fox' is cut off. long_prompts reads them all"):
        chunks_of(tokenizer, "(cat) " * 75 + "(red:2) (very) fox", LENGTH, True)


def lengths(tokenizer, prompt, weighted=False):
    found = chunks_of(tokenizer, prompt, LENGTH, weighted, long=True)
    return [len(body(chunk, tokenizer)) for chunk in found]


def test_long_prompts_are_several_chunks(tokenizer):
    assert lengths(tokenizer, "") == [0]
    assert lengths(tokenizer, "fox " * 75) == [75]
    assert lengths(tokenizer, "fox " * 160) == [75, 75, 10]
    whole = chunks_of(tokenizer, "fox " * 76 + "snow", LENGTH, long=True)
    assert whole[1].ids[1:3] == tuple(tokenizer.numbers[f"{w}</w>"] for w in ("fox", "snow"))


def test_no_token_is_lost(tokenizer):
    for prompt in prompts(120):
        found = chunks_of(tokenizer, prompt, LENGTH, long=True)
        end = tokenizer.frame[1]
        if end not in tokenizer.split(prompt)[0]:
            ids = [number for chunk in found for number in body(chunk, tokenizer)]
            assert ids == tokenizer.split(prompt)[0], prompt


def test_a_chunk_rather_ends_behind_a_comma(tokenizer):
    for after, expected in ((1, 75), (NEAR, 75 - NEAR + 1), (NEAR + 1, 75)):
        before = "fox " * (75 - after) + ", "
        assert lengths(tokenizer, before + "cat " * 30)[0] == expected, after
    assert lengths(tokenizer, "fox " * 60 + ", " + "cat " * 14 + ", cat") == [75, 2]


def test_break_begins_a_chunk(tokenizer):
    for weighted in (False, True):
        assert lengths(tokenizer, "a fox BREAK snow", weighted) == [2, 1]
        assert lengths(tokenizer, "BREAK a BREAK BREAK", weighted) == [0, 1, 0]
    assert len(lengths(tokenizer, "breakfast BREAKFAST")) == 1
    with pytest.raises(ValueError, match="holds BREAK, .* ask for long_prompts too"):
        chunks_of(tokenizer, "a BREAK b", LENGTH, weighted=True)
    assert len(chunks_of(tokenizer, "a BREAK b", LENGTH)) == 1  # a word where none is asked for
