"""Tunings of three calls, in seconds."""

import warnings
from dataclasses import fields

import jax

import skipjax
from skipjax.tuning import Objective, Problem, TuneConfig

KEY = jax.random.key(0)
TINY = {"nfe": 3, "num": 4, "held_out": 3, "teacher_nfe": 60, "max_iters": 2, "starts": 1}
TINY |= {"batch": 3}


def parts(network, **changes):
    """A problem, an objective and a config of these settings."""
    settings = TINY | changes
    kinds = {
        kind: {f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings}
        for kind in (TuneConfig, Objective, Problem)
    }
    assert not settings, settings
    problem = Problem(network, KEY, **kinds[Problem])
    return problem, Objective(**kinds[Objective]), TuneConfig(**kinds[TuneConfig])


def tuned(network, out=None, on_round=None, **changes):
    """The plan; without the warning where a baseline is as good."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no learned plan")
        return skipjax.tune(*parts(network, **changes), out=out, on_round=on_round)
