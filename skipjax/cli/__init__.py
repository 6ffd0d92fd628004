"""The command `skipjax`."""

from skipjax.cli.main import main as main
