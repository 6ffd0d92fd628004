"""What networks are told, without any."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from skipjax import generation
from skipjax.models import ClassifierConfig, UNetConfig


class Told:
    """In place of the networks: keeps what they are told while programs run.

    Attributes:
        said: By kind of network, and number of pictures.
    """

    def __init__(self, monkeypatch):
        self.said = {}
        for kind in (UNetConfig, ClassifierConfig):
            monkeypatch.setattr(kind, "module", lambda config, *_: Network(self, config))
        monkeypatch.setattr(generation, "program", generation.program.__wrapped__)

    def of(self, function, *arguments) -> dict:
        """What a function that is compiled has told networks."""
        self.said.clear()
        jax.block_until_ready(jax.jit(function)(*arguments))
        jax.effects_barrier()
        return self.said

    def keep(self, kind: str, **told) -> None:
        self.said[kind, len(told["x"])] = told


@dataclasses.dataclass
class Network:
    """One that answers with the pictures themselves."""

    told: Told
    config: object

    def apply(self, variables, x, t, y=None, low_res=None, concat=None, **_):
        kind = type(self.config).__name__
        jax.debug.callback(partial(self.told.keep, kind), x=x, t=t, y=y, low_res=low_res)
        if kind == "ClassifierConfig":
            return x.sum((1, 2))
        return jnp.concatenate([x, x], axis=-1)
