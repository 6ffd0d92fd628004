"""Plans that come with a checkpoint: `plans/8.json` in its folder is the one of 8 calls."""

from pathlib import Path

from skipjax.pretrained import Pretrained
from skipjax.weights import cards


def plans(model: Pretrained) -> dict[int, Path]:
    """The plans in the folder that a model was read from, or in that of its bundled name, by
    number of calls; none where there is no such folder.
    """
    folder = model.source
    if folder is None and model.name in cards.bundled():
        folder = cards.BUNDLED / model.name
    found = () if folder is None else (Path(folder) / "plans").glob("*.json")
    return {int(path.stem): path for path in sorted(found) if path.stem.isdecimal()}
