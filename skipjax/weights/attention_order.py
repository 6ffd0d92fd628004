"""Which of ADM's two layouts of attention a trained network's weights are in.

The 3C outputs of `qkv` are ordered by head, then q, k, v; or by q, k, v, then head. Shapes are the
same, and a network read in the wrong order samples noise. But training leaves its mark: weights of
q and k grow otherwise than those of v. Read in the right order, the three kinds account for a good
part of the variance between the columns' sizes; in the wrong one, for next to nothing. In emoji32,
after minutes of training, that is 9 to 67 % against 0 to 2 %, layer by layer.

How much is no accident depends on the width. Of n = 3C columns whose sizes have nothing to do with
their kind, three groups account for more than a share s with probability (1 - s)^((n - 3) / 2): of
15 % this is 6e-4 for C = 32, and 1e-20 for C = 192. So the shares must be improbable too, over all
blocks together (Fisher's method).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from skipjax.models.config import EncoderConfig

CLEAR = 0.05  # share of the variance that the other order must account for,
BETTER = 4.0  # how many times more than the one that is said,
CHANCE = 1e-6  # and with what probability at most weights without marks would

Marks = tuple[float, float, int]


def accounted(kernel: np.ndarray, heads: int, new_order: bool) -> float:
    """Share of the variance of log column norms that q, k and v account for, in 0 .. 1.

    Args:
        kernel: Weights of `qkv`, float [C, 3C].
        heads: Number of heads, which divides C.
        new_order: Whether q, k, v come before heads.
    """
    size = np.log(np.linalg.norm(kernel.astype(np.float32), axis=0) + 1e-30)
    axes = (3, heads, -1) if new_order else (heads, 3, -1)
    kinds = np.moveaxis(size.reshape(axes), 0 if new_order else 1, 0).reshape(3, -1)
    return float(kinds.mean(axis=1).var() / (size.var() + 1e-30))


def marks(path: tuple[str, ...], leaf: np.ndarray, config: Any) -> dict[str, Marks]:
    """What `accounted` says of one of a network's params, in the old order and in the new.

    Returns:
        The two shares and the number of columns, by the name of the block; nothing for what is not
        the kernel of a `qkv` of ADM's, or has one head alone and so one order.
    """
    if not isinstance(config, EncoderConfig) or path[-2:] != ("qkv", "kernel"):
        return {}
    heads = config.heads(len(leaf), decoder=path[0].startswith("output_blocks"))
    if heads == 1:
        return {}
    shares = accounted(leaf, heads, False), accounted(leaf, heads, True)
    return {path[0]: (*shares, leaf.shape[1])}


def chance(shares: Mapping[str, tuple[float, int]]) -> float:
    """Probability that weights without marks account for as much.

    Args:
        shares: Of each block the share of the variance and the number of columns.

    Returns:
        P(G >= g) for a gamma variable G of as many degrees as there are blocks, where g is the sum
        of -(n - 3) / 2 log(1 - share).
    """
    g = -sum((n - 3) / 2 * math.log1p(-min(share, 1 - 1e-9)) for share, n in shares.values())
    return math.exp(-g) * sum(g**k / math.factorial(k) for k in range(len(shares)))


def check(marks: Mapping[str, Marks], config: Any) -> None:
    """Refuses weights that are clearly in the other order than the config says.

    Raises:
        ValueError: If the other order accounts for much more, over all blocks, and for more than
            chance would.
    """
    if not marks:
        return
    new = config.use_new_attention_order
    shares = np.mean([shares for *shares, _ in marks.values()], axis=0)
    said, other = shares[int(new)], shares[int(not new)]
    others = {block: (mark[int(not new)], mark[2]) for block, mark in marks.items()}
    if other > max(CLEAR, BETTER * said) and chance(others) < CHANCE:
        raise ValueError(
            "q, k and v of attention seem to be in the other order: with use_new_attention_order "
            f"= {new} their kind accounts for {said:.0%} of the differences in size between "
            f"weights, and with {not new} for {other:.0%}. Set it so in config: the wrong order "
            "samples noise"
        )
