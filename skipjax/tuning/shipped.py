"""Plans that come with a checkpoint: `plans/8.json` in its folder is the one of 8 calls."""

from pathlib import Path

from skipjax.plans import Plan
from skipjax.weights import cards


def shipped(checkpoint: str | Path) -> dict[int, Path]:
    """The plans of a checkpoint, by number of calls; none where it is a file."""
    if Path(checkpoint).is_file():
        return {}
    found = (cards.find(checkpoint) / "plans").glob("*.json")
    return {int(path.stem): path for path in sorted(found) if path.stem.isdecimal()}


def read(path: Path) -> Plan:
    """The plan of a file.

    Raises:
        ValueError: If it holds none.
    """
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no plan ({error})") from None
