"""Tunings of three calls, in seconds."""

import warnings

import jax

import skipjax

KEY = jax.random.key(0)
TINY = {"nfe": 3, "num": 4, "held_out": 3, "teacher_nfe": 60, "rounds": 2, "starts": 1, "batch": 3}


def tuned(network, **changes):
    """The plan; without the warning where a fixed one is as good."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no learned plan")
        return skipjax.tune(network, KEY, **TINY | changes)
