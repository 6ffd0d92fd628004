"""Which weights: what `skipjax.load` is asked by commands and jobs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skipjax.pretrained import Classifier, Pretrained
from skipjax.sharding import Placement
from skipjax.weights import checksums, loading, lora, vocabularies


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """What is said of a checkpoint beside its name, as options of commands."""

    key: str | None = None
    """Of the weights among other things in a file, such as ema. Default: found where one can be
    meant."""
    revision: str | None = None
    """Branch, tag or commit of a name of the hub. Default: main."""
    variant: str | None = None
    """Of weights that diffusers wrote, such as fp16."""
    lora: tuple[str, ...] = ()
    """A file of a LoRA to merge into the weights, PATH or PATH:SCALE; several by several
    --lora."""
    embedding: tuple[str, ...] = ()
    """A file of a textual inversion, TOKEN=PATH; several by several --embedding."""
    tokenizer: str | None = None
    """Folder of the vocabulary of a single file's prompts, of a tokenizer or of a pipeline."""
    prediction: Literal["eps", "v"] | None = None
    """What the network of a single file predicts. Default: what the file says, or seems to."""

    def load(
        self,
        checkpoint: str,
        card: str | None = None,
        sharding: Placement | None = None,
        *,
        other: str = "classifier",
    ) -> Pretrained:
        """The checkpoint.

        Args:
            checkpoint: Its name.
            card: That describes it.
            sharding: Where to put the weights.
            other: The option that a classifier belongs to, for errors.

        Raises:
            ValueError: As `skipjax.load` does; or if it is no network that draws.
        """
        given: dict[str, Any] = {"key": self.key, "revision": self.revision}
        given |= {"variant": self.variant, "tokenizer": self.tokenizer}
        given |= {"prediction": self.prediction}
        if self.lora:
            given["loras"] = dict(map(lora.parse, self.lora))
        if self.embedding:
            given["embeddings"] = dict(map(_embedding, self.embedding))
        model = loading.load(checkpoint, card=card, sharding=sharding, **given)
        if not isinstance(model, Pretrained):
            if isinstance(model, Classifier):
                raise ValueError(f"{model.name} is a classifier: give it as {other}")
            kind = type(model).__name__
            raise ValueError(f"{checkpoint} is a {kind} alone: give the folder around it")
        return model

    def identity(self, checkpoint: str) -> dict[str, Any]:
        """What fixes the weights, as JSON has it: checksums, not paths."""
        known: dict[str, Any] = {
            "sha256": loading.sha256(checkpoint, self.revision, self.variant),
            "key": self.key,
        }
        if self.lora:
            loras = map(lora.parse, self.lora)
            known["loras"] = [{"sha256": _sha256(p), "scale": scale} for p, scale in loras]
        if self.embedding:
            some = map(_embedding, self.embedding)
            known["embeddings"] = {token: _sha256(path) for token, path in some}
        if self.tokenizer is not None:
            known["tokenizer"] = vocabularies.read(self.tokenizer).digest
        return known


def _embedding(text: str) -> tuple[str, str]:
    """TOKEN=PATH."""
    token, equals, path = text.partition("=")
    if not (token and equals and path):
        raise ValueError(f"embedding is {text!r}: it must be TOKEN=PATH, such as <cat>=cat.bin")
    return token, path


def _sha256(path: str) -> str:
    """Of a file; of a folder, of those of all files in it."""
    at = Path(path)
    if at.is_dir():
        each = [f"{p.relative_to(at)} {_sha256(str(p))}" for p in at.rglob("*") if p.is_file()]
        return hashlib.sha256("\n".join(sorted(each)).encode()).hexdigest()
    return checksums.sha256(at)
