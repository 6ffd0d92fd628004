"""Training of a network of one's own."""

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

from skipjax import api, sharding
from skipjax.codecs import images
from skipjax.files import pending, pending_folder
from skipjax.models import UNetConfig
from skipjax.pretrained import Pretrained
from skipjax.process import name_of
from skipjax.training import folder
from skipjax.training.fit import averaged, fit
from skipjax.training.objective import LEARN_VARIANCE, out_channels
from skipjax.training.pictures import Pictures, held_out
from skipjax.training.run import Run, Settings
from skipjax.training.sources import read
from skipjax.weights import folders, parts


@dataclass
class Train:
    """Train a network, or go on training: started again with the same line, a run goes on."""

    data: Annotated[str, tyro.conf.Positional]
    """emoji, digits, a folder with pictures (folders in it are classes), or an .npz with arr_0
    (uint8, NHWC) and arr_1 (labels)."""
    out: Path
    """Folder of the run: run.json, steps/, log.jsonl, samples/, loss.png, and at the end
    checkpoint/, which `skipjax sample --checkpoint` takes."""
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = field(default_factory=Settings)
    start: str | None = None
    """Checkpoint to start from; network, schedule and prediction are then its own."""
    unet: Path | None = None
    """.json with arguments of UNetConfig, instead of the six options that follow."""
    model_channels: int = 64
    """Base width."""
    channel_mult: tuple[float, ...] = (1, 2, 2)
    """Width of each level, in units of model_channels."""
    num_res_blocks: int = 1
    """Residual blocks of a level."""
    attention_resolutions: tuple[int, ...] = (4,)
    """Downsampling factors at which attention is used."""
    num_head_channels: int = 32
    """Channels of an attention head."""
    dropout: float = 0.0
    """Rate inside residual blocks."""
    size: tuple[int, ...] = ()
    """Side, or height and width, in pixels that pictures of a folder are scaled to. Default: emoji
    are 32, others as they are."""
    classes: Literal["folders", "names"] = "folders"
    """Of pictures in a folder: its folders, or what stands before the first _ of their names."""
    mode: Literal["RGB", "L"] | None = None
    """What pictures of a folder are turned into."""
    unlabelled: bool = False
    """Leave classes out."""
    hold_out: float = 0.0
    """Part of each class that is left out; of pictures in memory alone."""
    split: int = 1
    """Devices that weights, averages and optimiser are split over; pictures go over the rest."""
    sample_plan: str = "ddim"
    """What samples are drawn with, every --sample-every steps."""
    sample_nfe: int = 50
    """Network calls of those samples."""

    def __call__(self) -> None:
        """Trains, and writes a checkpoint."""
        # Where a disk is full, Orbax logs a thousand lines of what is raised in one.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        pictures = read(self.data, self.size or None, self.mode, self.classes)
        if self.settings.sample_every:
            images.check_png(pictures.images.shape[1:], "leave out --sample-every")
        if self.unlabelled:
            pictures = pictures._replace(labels=None, class_names=())
        if self.hold_out:
            pictures, _ = held_out(pictures, self.hold_out)
        start = None if self.start is None else api.load(self.start)
        if start is not None and not isinstance(start, Pretrained):
            raise ValueError(f"{self.start} is a classifier: it draws no pictures")
        run = self._run(pictures, start)
        mesh = sharding.mesh(model=self.split)
        state = fit(run, pictures, self.out, start=start, mesh=mesh, on_sample=self._sample)
        trained = averaged(run, state, pictures.class_names, start)
        checkpoint = self._save(run, trained, pictures)
        print(f"{int(state.step)} steps of {run.batch} pictures. Saved: {checkpoint}")

    def _run(self, pictures: Pictures, start: Pretrained | None) -> Run:
        settings = dataclasses.asdict(self.settings)
        if start is not None:
            return Run(**settings | self._own(start, pictures))
        _, height, width, channels = pictures.images.shape
        own = {
            "image_size": (height, width),
            "in_channels": channels,
            "out_channels": out_channels(self.settings.loss, channels),
            "num_classes": self._num_labels(pictures),
        }
        if self.unet is not None:
            return Run(**settings, network=_unet(self.unet, own))
        names = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions")
        names += ("num_head_channels", "dropout")
        shape = {name: getattr(self, name) for name in names}
        unet = UNetConfig(**own, **shape, use_scale_shift_norm=True, resblock_updown=True)
        if height % unet.factor or width % unet.factor:
            raise ValueError(
                f"pictures of {height} x {width} pixels do not halve "
                f"{len(unet.channel_mult) - 1} times: give another --size, or fewer levels in "
                "--channel-mult"
            )
        return Run(**settings, network=unet)

    def _own(self, start: Pretrained, pictures: Pictures) -> dict[str, Any]:
        """What a network that is gone on from fixes of a run."""
        process = start.process
        schedule = name_of(process.schedule)
        if schedule is None:
            raise ValueError(f"{start.name} has a schedule of its own: only named ones train")
        network: Any = start.network
        own: dict[str, Any] = {"schedule": schedule, "T": process.schedule.T}
        own |= {"prediction": process.parameterization, "bounds": process.bounds}
        own |= {"precondition": process.precondition}
        if hasattr(network, "of_pictures"):
            height, width = pictures.images.shape[1:3]
            network = network.of_pictures((height, width), self._num_labels(pictures))
            learned = network.out_channels == 2 * network.shape[-1]
            if learned and self.settings.loss not in LEARN_VARIANCE:
                own["loss"] = "hybrid"
        return own | {"network": network}

    def _num_labels(self, pictures: Pictures) -> int | None:
        """Labels of a network for these pictures, one for none included where it is asked for."""
        if pictures.labels is None:
            return None
        return len(pictures.class_names) + bool(self.settings.drop_labels)

    def _sample(self, step: int, params: Pretrained) -> None:
        drawn = api.sample(
            params, jax.random.key(0), plan=self.sample_plan, steps=self.sample_nfe, num=16
        )
        (self.out / "samples").mkdir(exist_ok=True)
        with pending(self.out / "samples" / f"{step:08d}.png") as temporary:
            images.grid(drawn).save(temporary)

    def _save(self, run: Run, trained: Pretrained, pictures: Pictures) -> Path:
        """The checkpoint's folder, written anew; and a picture of the log, where it can be."""
        try:
            folder.plot(self.out).savefig(self.out / "loss.png")
        except ImportError:
            print("No picture of the losses: pip install 'skipjax[plot]'")
        path = self.out / "checkpoint"
        card = parts.describe(trained) | {
            "data": f"{self.data}: {pictures.images.shape[0]} pictures, {pictures.fingerprint}",
            "training": {k: v for k, v in run.describe().items() if k != "network"},
        }
        with pending_folder(path, anew=True) as temporary:
            folders.save(temporary, trained.params, card, jnp.float32, trained)
        return path


def _unet(path: Path, own: dict[str, Any]) -> UNetConfig:
    """The network of a .json; what the data say stands unless the file says otherwise."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return UNetConfig(**own | found)
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no arguments of UNetConfig ({error})") from None
