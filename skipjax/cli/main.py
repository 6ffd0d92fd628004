"""The command line: which command, and how it ends."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import tyro

import skipjax
from skipjax import jobs
from skipjax.cli.convert import Convert
from skipjax.cli.describe import Info, Plans
from skipjax.cli.generate import Export, Generate, Verify
from skipjax.cli.options import RULES
from skipjax.cli.sample import Sample
from skipjax.cli.train import Train
from skipjax.cli.tune import Tune
from skipjax.study.command import Command as Study

BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # exit codes

ABOUT = "Sampling from pretrained diffusion models in JAX. Also: skipjax --version"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line and exit code 2."""
    try:
        try:
            _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as head, has enough: silence, as by SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # of the flush at exit
        sys.exit(PIPE_CLOSED)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print(f"skipjax {skipjax.__version__}")
        return
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jobs.keep_compiled(Path(platformdirs.user_cache_dir("skipjax")) / "compiled")
    try:
        command = tyro.cli(
            Annotated[Sample, tyro.conf.subcommand("sample")]
            | Annotated[Generate, tyro.conf.subcommand("generate")]
            | Annotated[Verify, tyro.conf.subcommand("verify")]
            | Annotated[Export, tyro.conf.subcommand("export")]
            | Annotated[Plans, tyro.conf.subcommand("plans")]
            | Annotated[Info, tyro.conf.subcommand("info")]
            | Annotated[Convert, tyro.conf.subcommand("convert")]
            | Annotated[Tune, tyro.conf.subcommand("tune")]
            | Annotated[Train, tyro.conf.subcommand("train")]
            | Annotated[Study, tyro.conf.subcommand("study")],
            prog="skipjax",
            args=arguments,
            description=ABOUT,
            registry=RULES,
        )
        with warnings.catch_warnings():
            warnings.showwarning = _say
            code = command()
        if code:
            sys.exit(code)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"skipjax: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("skipjax: interrupted, nothing was saved", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _say(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"skipjax: {message}", file=sys.stderr)
