"""What the command `skipjax` does in the folder it is run in."""

from pathlib import Path

import pytest

from skipjax import cli


def contents(folder):
    """Everything in a folder, files with what is in them."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def refused(arguments, capsys, lines=1):
    """What bad input is answered with: a line or few on stderr, exit code 2, and no file."""
    before = contents(Path.cwd())
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, arguments)))
    assert end.value.code == 2
    assert contents(Path.cwd()) == before
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("skipjax: ") and said.err.endswith("\n")
    assert said.err.count("\n") <= lines and "\r" not in said.err
    return said.err
