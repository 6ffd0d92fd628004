"""`python -m skipjax.training --out FOLDER`: trains the network of the checkpoint emoji32."""

from dataclasses import replace
from pathlib import Path

import tyro

from skipjax.models import UNetConfig
from skipjax.training import emoji
from skipjax.training.run import Run, fit

# Light where pictures are large, wide where they are small: a step costs a CPU a third of what
# the same parameters cost with the usual (1, 2, 2, 2).
EMOJI32 = UNetConfig(
    image_size=32,
    in_channels=3,
    model_channels=32,
    out_channels=6,
    num_res_blocks=1,
    attention_resolutions=(4, 8),
    channel_mult=(1, 2, 4, 6),
    conv_resample=False,
    num_classes=9,
    num_head_channels=32,
    use_scale_shift_norm=True,
)


def main(out: Path, run: Run = Run(EMOJI32)) -> None:  # noqa: B008
    """Trains on the pictures of Noto Color Emoji; started again, it goes on from where it was."""
    train, _ = emoji.held_out(emoji.render(run.unet.image_size))
    fit(run, train.images, train.labels, out)


if __name__ == "__main__":
    tyro.cli(main)
