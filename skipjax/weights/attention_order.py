"""Which of ADM's two layouts of attention a trained network's weights are in.

The 3C outputs of `qkv` are ordered by head, then q, k, v; or by q, k, v, then head. Shapes are the
same, and a network read in the wrong order samples noise. But training leaves its mark: weights of
q and k grow otherwise than those of v. Read in the right order, the three kinds account for a good
part of the variance between the columns' sizes; in the wrong one, for next to nothing. In emoji32,
after minutes of training, that is 9 to 67 % against 0 to 2 %, layer by layer.
"""

from collections.abc import Mapping

import numpy as np

from skipjax.models import ClassifierConfig, UNetConfig

CLEAR = 0.05  # share of the variance, above which the marks are no accident
BETTER = 4.0  # how many times more the other order must account for


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


def marks(
    path: tuple[str, ...], leaf: np.ndarray, config: UNetConfig | ClassifierConfig
) -> dict[str, tuple[float, float]]:
    """What `accounted` says of one of a network's params, in the old order and in the new.

    Returns:
        The two shares by the name of the block; nothing for what is not the kernel of a `qkv`, or
        has one head alone and so one order.
    """
    if path[-2:] != ("qkv", "kernel"):
        return {}
    heads = config.heads(len(leaf), decoder=path[0].startswith("output_blocks"))
    if heads == 1:
        return {}
    return {path[0]: (accounted(leaf, heads, False), accounted(leaf, heads, True))}


def check(marks: Mapping[str, tuple[float, float]], config: UNetConfig | ClassifierConfig) -> None:
    """Refuses weights that are clearly in the other order than the config says.

    Raises:
        ValueError: If the other order accounts for much more, over all blocks.
    """
    if not marks:
        return
    new = config.use_new_attention_order
    shares = np.mean(list(marks.values()), axis=0)
    said, other = shares[int(new)], shares[int(not new)]
    if other > max(CLEAR, BETTER * said):
        raise ValueError(
            "q, k and v of attention seem to be in the other order: with use_new_attention_order "
            f"= {new} their kind accounts for {said:.0%} of the differences in size between "
            f"weights, and with {not new} for {other:.0%}. Set it so in config: the wrong order "
            "samples noise"
        )
