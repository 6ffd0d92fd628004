"""Networks that know what they are: what `load` returns."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from skipjax.codecs import Codec, Identity
from skipjax.conditioners import Condition, Conditioner, Labels, part
from skipjax.models import ClassifierConfig
from skipjax.plans.schedulers import Scheduler
from skipjax.process import Process
from skipjax.schedules import Schedule

Params = Any  # nested dict of float arrays


class Network(Protocol):
    """A frozen, hashable config of a network, and what it computes.

    Attributes:
        shape: Of one sample of what is diffused: (H, W, C), a latent (h, w, 4), a video
            (F, h, w, 4).

    A network of which the code that it came with guides some channels alone (3 of DiT's 4) has
    their number in `guided_channels`: guidance without a classifier then does so by default.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def init(self, key: jax.Array) -> Params:
        """Params drawn at random."""
        ...

    def apply(
        self,
        params: Params,
        x: jax.Array,
        t: jax.Array,
        condition: Condition | None = None,
        *,
        dtype: Any = jnp.float32,
    ) -> jax.Array:
        """The output, [B, ..., C], or [B, ..., 2C] where a variance is learned.

        Args:
            params: As `init` makes them.
            x: What is to be denoised, [B, *shape].
            t: What the process tells of the time, float [B].
            condition: Arrays [B, ...] by name, or None.
            dtype: To compute in.
        """
        ...


@dataclass(frozen=True, repr=False)
class Pretrained:
    """The parts of a checkpoint: what `load` returns, and `sample` calls params.

    A pytree whose leaves are the weights, so it goes through `jax.jit`, `jax.device_put` and
    `jax.tree.map` as plain params do.

    Attributes:
        params: Weights of the network; None in a description of a file that is not read yet.
        network: The architecture; static.
        process: What training fixed; static.
        conditioner: From words to what conditions the network; None if nothing does.
        codec: Between samples and what is diffused; of pixels, nothing is between them.
        name: What it is called; static.
        scheduler: Its own sampler, with which it is sampled where nothing else is asked for;
            static; None for skipped-step sampling.
        guidance: Scale of the guidance without a classifier that it is sampled with where none is
            asked for: 7.5 of Stable Diffusion 1 and 2, 5 of XL; 1 or less of networks that were
            distilled not to need any; None for no guidance; static.
        source: The folder or file that it was read from, if it was; no part of the pytree, and so
            lost where that is mapped or compiled.
    """

    params: Params
    network: Network
    process: Process
    conditioner: Conditioner | None = None
    codec: Codec = Identity()
    name: str = "network"
    scheduler: Scheduler | None = None
    source: str | None = None
    guidance: float | None = None

    def __repr__(self) -> str:
        return (
            f"Pretrained({self.name!r}, {type(self.network).__name__} of "
            f"{' x '.join(map(str, self.shape))}, {_weights(self.params)}, {self.process}, "
            f"{self.conditioner or 'unconditional'})"
        )

    @property
    def schedule(self) -> Schedule:
        """The forward process that the network was trained on."""
        return self.process.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample of what is diffused."""
        return self.network.shape

    @property
    def labels(self) -> Labels | None:
        """The classes that the network knows, if it does."""
        return part(self.conditioner, Labels)

    @property
    def fingerprint(self) -> str:
        """What tells these weights from others, whatever precision they are kept in: a hash of
        some of each array, as bfloat16.
        """
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            # Taken out on the host: on a device, every shape would be a program to compile.
            some = jax.device_get(leaf)[(0,) * (leaf.ndim - 1)][:64]
            digest.update(repr(leaf.shape).encode() + some.astype(jnp.bfloat16).tobytes())
        return digest.hexdigest()[:16]

    @property
    def core(self) -> "Pretrained":
        """What a sampling program takes: without what encodes, decodes and names, so that models
        which differ in these share one program.
        """
        return self.replace(conditioner=None, codec=None, name="", scheduler=None, guidance=None)

    def replace(self, **changes: Any) -> "Pretrained":
        """The same but for some parts."""
        return replace(self, **changes)


jax.tree_util.register_dataclass(
    Pretrained,
    data_fields=["params", "conditioner", "codec"],
    meta_fields=["network", "process", "name", "scheduler", "guidance"],
    drop_fields=["source"],
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Classifier:
    """A classifier of noisy samples, to guide with: what `load` returns for one.

    Attributes:
        params: Its weights.
        network: The architecture; static.
        process: The forward process whose samples it was trained on; static.
        labels: The classes that it tells apart; static.
        name: What it is called; static.
    """

    params: Params
    network: ClassifierConfig = field(metadata={"static": True})
    process: Process = field(metadata={"static": True})
    labels: Labels = field(metadata={"static": True})
    name: str = field(default="classifier", metadata={"static": True})

    def __repr__(self) -> str:
        return (
            f"Classifier({self.name!r}, of {' x '.join(map(str, self.network.shape))}, "
            f"{_weights(self.params)}, {self.process}, {self.labels})"
        )


def _weights(params: Params) -> str:
    leaves = jax.tree.leaves(params)
    if not leaves:
        return "no weights"
    number = sum(leaf.size for leaf in leaves)
    kinds = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    where = {str(d) for leaf in leaves if isinstance(leaf, jax.Array) for d in leaf.devices()}
    where = sorted(where) or ["the host"]
    many = f" and {len(where) - 1} more" if len(where) > 1 else ""
    return f"{number:,} parameters in {kinds} on {where[0]}{many}"
