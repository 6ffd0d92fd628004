"""Plans that come with a checkpoint: `plans/8.json` in its folder is the one of 8 calls."""

from pathlib import Path

from skipjax.weights import cards


def shipped(checkpoint: str | Path) -> dict[int, Path]:
    """The plans of a checkpoint, by number of calls; none where it is a file."""
    if Path(checkpoint).is_file():
        return {}
    found = (cards.find(checkpoint) / "plans").glob("*.json")
    return {int(path.stem): path for path in sorted(found) if path.stem.isdecimal()}
