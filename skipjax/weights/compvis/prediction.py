"""What the U-Net of a single file predicts, which no shape tells."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skipjax.process import one_of
from skipjax.weights.compvis import released
from skipjax.weights.compvis.networks import Part
from skipjax.weights.compvis.released import Family

PREDICTIONS = ("eps", "v")
STEP_OF_EPS = 875_000  # global_step of Stable Diffusion 2 base
# Biases of the last block's first norm spread further in networks that predict v: of
# Stable Diffusion 2 the one by more than this, the other by less (found by ComfyUI's authors).
TELLING = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
SPREAD = 0.09


def check(told: str | None) -> None:
    """Raises ValueError if what a caller says is neither "eps" nor "v"."""
    if told is not None:
        one_of("prediction", told, PREDICTIONS)


def find(
    path: Path,
    family: Family,
    unet: Part,
    tensors: Mapping[str, Any],
    about: Mapping[str, Any],
    told: str | None,
) -> tuple[str, bool]:
    """What the network predicts, "eps" or "v", and whether it was trained down to zero SNR.

    What was guessed is said in a warning.

    Args:
        path: The file, for the warning.
        family: Whose network it is.
        unet: The network.
        tensors: Of the whole file.
        about: What the file says beside them.
        told: What the caller says; None for nothing.
    """
    zero_snr = "ztsnr" in tensors
    if told is not None:
        return told, zero_snr
    said = _said(about)
    if "v_pred" in tensors:
        return "v", zero_snr
    if said is not None:
        return said, zero_snr
    inpaints = unet.described()[1]["in_channels"] != 4
    if family != released.SD2 or inpaints or about.get("global_step") == STEP_OF_EPS:
        return "eps", zero_snr
    found = unet.find(TELLING)
    spread = 0.0 if found is None else float(np.std(np.asarray(found[1], np.float32)))
    predicts = "v" if spread > SPREAD else "eps"
    other = "eps" if predicts == "v" else "v"
    warnings.warn(
        f"{path} does not say what its network predicts: took {predicts}, by the spread of a "
        f"bias; load(..., prediction={other!r}) takes the other",
        stacklevel=5,
    )
    return predicts, zero_snr


def _said(about: Mapping[str, Any]) -> str | None:
    """What metadata say."""
    said = str(about.get("modelspec.prediction_type", "")).lower()
    if said in ("v", "v_prediction", "v-prediction"):
        return "v"
    if said in ("epsilon", "eps"):
        return "eps"
    return "v" if str(about.get("ss_v_parameterization")) == "True" else None
