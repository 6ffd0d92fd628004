"""Prompts from files, and what is said of files that hold none."""

import re

import numpy as np
import pytest

from skipjax.config import prompts
from skipjax.config.prompts import Prompts
from skipjax.config.words import in_turn


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_prompt_stands_on_each_line(tmp_path):
    for content in ("a fox\n犬 🐕, (red:1.2)\n", "a fox\r\n犬 🐕, (red:1.2)", b"\xef\xbb\xbf"):
        if isinstance(content, bytes):  # a mark that some programs begin UTF-8 with
            content += "a fox\n犬 🐕, (red:1.2)\n".encode()
        found = prompts.read(written(tmp_path, "p.txt", content))
        assert found == Prompts(("a fox", "犬 🐕, (red:1.2)"), None)


def test_tables_have_columns(tmp_path):
    table = 'id,prompt,negative\n1,"a ""red"", fox\nin snow",blurry\n2,hen,\n'
    with pytest.warns(UserWarning, match="of it, id is not used"):
        found = prompts.read(written(tmp_path, "p.csv", table))
    assert found == Prompts(('a "red", fox\nin snow', "hen"), ("blurry", ""))
    lines = '{"prompt": "a fox"}\n"hen"\n{"prompt": "cow", "negative": null}\n'
    assert prompts.read(written(tmp_path, "p.jsonl", lines)) == Prompts(("a fox", "hen", "cow"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "a\n\nb\n", "line 2 of PATH is empty: write a prompt on each line"),
        ("p.txt", "a\n  \n", "line 2 of PATH is empty"),
        ("p.txt", "", "PATH is empty: write a prompt on each line"),
        ("p.txt", "fox\nhén\n".encode("latin-1"), "line 2 of PATH is not UTF-8 (byte 0xe9)"),
        ("p.txt", "fox\n".encode("utf-16"), "line 1 of PATH begins as UTF-16 does"),
        ("p.txt", "fox\n".encode("utf-32"), "line 1 of PATH begins as UTF-16 does"),
        ("p.csv", "a fox\na hen\n", "line 1 of PATH names the columns a fox: one must be prompt"),
        ("p.csv", "", "line 1 of PATH names the columns (none): one must be prompt"),
        ("p.csv", "prompt\n", "PATH is empty"),
        ("p.csv", "prompt,id\nfox,1\na, b,2\n", "line 3 of PATH has 3 cells for 2 columns"),
        ("p.csv", "prompt,id\nfox,1\n,2\n", "line 3 of PATH has no prompt: fill it in"),
        ("p.csv", "prompt\nfox\n\nhen\n", "line 3 of PATH is empty: delete it"),
        ("p.csv", 'prompt\n"fox', "line 2 of PATH is no CSV (unexpected end of data)"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"}\n', "line 2 of PATH is no JSON ("),
        ("p.jsonl", '{"text": "a"}\n', 'line 1 of PATH is no object with a "prompt", nor a text'),
        ("p.jsonl", '{"prompt": 3}\n', "line 1 of PATH has 3 as prompt: it must be a text"),
        ("p.jsonl", '{"prompt": "a", "negative": 3}\n', "line 1 of PATH has 3 as negative"),
        ("p.jsonl", '{"prompt": "\\ud83d"}\n', "line 1 of PATH has half a character"),
        ("p.jsonl", '{"prompt": " "}\n', "line 1 of PATH has no prompt"),
    ],
)
def test_a_file_that_holds_none_is_refused_with_the_line(tmp_path, name, content, said):
    path = written(tmp_path, name, content)
    message = "prompts: " + said.replace("PATH", str(path))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        prompts.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="cannot be read .No such file"):
        prompts.read(tmp_path / "none.txt")


def test_what_is_typed_is_a_prompt_or_names_a_file(tmp_path):
    path = str(written(tmp_path, "p.csv", "prompt,negative\nfox,blurry\n"))
    assert prompts.of_command(["a hen", path]) == Prompts(("a hen", "fox"), ("", "blurry"))
    assert prompts.of_command([]) == Prompts((), None)


def test_samples_take_them_in_turn():
    assert in_turn("ab", np.arange(6)) == ["a", "b"] * 3
    assert in_turn("ab", np.arange(6), 2) == ["a", "a", "b", "b", "a", "a"]
