"""Tokens against transformers' CLIPTokenizer, of all that its folders have looked like."""

import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_vocabulary
from odd_prompts import prompts

from skipjax.conditioners import Tokenizer
from skipjax.conditioners.clip.prompts import chunks_of

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e .[oracle]"
)
PROMPTS = prompts()


def theirs_and_ours(folder: Path) -> None:
    """Compares tokens of all prompts, whole and as an encoder is given them."""
    theirs, ours = transformers.CLIPTokenizer.from_pretrained(str(folder)), Tokenizer.read(folder)
    whole = theirs(PROMPTS, add_special_tokens=False, verbose=False)["input_ids"]
    for prompt, ids in zip(PROMPTS, whole, strict=True):
        assert ours.split(prompt)[0] == ids, prompt
    options = {"padding": "max_length", "truncation": True, "max_length": 77}
    padded = theirs(PROMPTS, **options)["input_ids"]
    for prompt, ids in zip(PROMPTS, padded, strict=True):
        (chunk,) = chunks_of(ours, prompt, 77)
        assert chunk.ids == tuple(ids), prompt
    assert len(theirs) == len(ours)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tokenizers of a small vocabulary: as in Stable Diffusion 1, 2, and with words added."""
    root = tmp_path_factory.mktemp("tokenizers")
    tiny_vocabulary.write(root / "sd1", None)
    tiny_vocabulary.write(root / "sd1_with_map", tiny_vocabulary.END)
    tiny_vocabulary.write(root / "sd2", "!")
    tiny_vocabulary.write(root / "xl_2", None, pad_token="!")
    tiny_vocabulary.write(root / "without_limit", None, model_max_length=10**30)
    size = tiny_vocabulary.SIZE
    (tiny_vocabulary.write(root / "added", "!") / "added_tokens.json").write_text(
        json.dumps({"<Cat-Toy>": size, "<Bird>": size + 1, "fox2": size + 2})
    )
    decoder = {"0": {"content": "!", "special": True}, str(size): {"content": "<Dog>"}}
    decoder[str(size + 1)] = {"content": "<Fox>", "special": True}
    tiny_vocabulary.write(root / "decoder", "?", pad_token="!", added_tokens_decoder=decoder)
    for name in ("sd1", "sd2", "added"):
        known = transformers.CLIPTokenizer.from_pretrained(str(root / name))
        known.save_pretrained(str(root / f"{name}_saved"))
        known.add_tokens(["<more>", "<More>_1"])
        known.save_pretrained(str(root / f"{name}_saved_with_more"))
    return root


KINDS = ["sd1", "sd1_with_map", "sd2", "xl_2", "without_limit", "added", "decoder"]
KINDS += [
    f"{name}_{how}" for name in ("sd1", "sd2", "added") for how in ("saved", "saved_with_more")
]


@pytest.mark.filterwarnings("ignore:the prompt")
@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_transformers(folders, name):
    theirs_and_ours(folders / name)


@pytest.mark.filterwarnings("ignore:the prompt")
@pytest.mark.parametrize("name", ["sd2", "added", "sd1_saved_with_more"])
def test_transformers_reads_what_is_written(folders, tmp_path, name):
    ours = Tokenizer.read(folders / name)
    ours.write(tmp_path)
    assert Tokenizer.read(tmp_path) == ours
    theirs_and_ours(tmp_path)


@pytest.mark.filterwarnings("ignore:the prompt")
@pytest.mark.parametrize("pad", [None, "!"])
def test_tokens_of_the_real_vocabulary(tmp_path, pad):
    write_real(tmp_path, pad)
    ours = Tokenizer.read(tmp_path)
    assert ours.split("a photo of a cat")[0] == [320, 1125, 539, 320, 2368]
    assert ours.split("Wow!")[0] == ([2781, 256] if pad is None else [2781, 0])
    theirs_and_ours(tmp_path)


def write_real(folder: Path, pad: str | None) -> None:
    """OpenAI's vocabulary, of the file that their code, and OpenCLIP's package, come with."""
    spec = importlib.util.find_spec("open_clip")
    places = [Path(place) for place in (spec.submodule_search_locations or () if spec else ())]
    places.append(Path(os.environ.get("SKIPJAX_SHARED", "")))
    files = [place / "bpe_simple_vocab_16e6.txt.gz" for place in places]
    path = next(filter(Path.is_file, files), None)
    if path is None:
        pytest.skip("bpe_simple_vocab_16e6.txt.gz is not at hand: pip install open_clip_torch")
    merges = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1:48895]
    singles = tiny_vocabulary.alphabet()
    tokens = [*singles, *(s + "</w>" for s in singles), *(m.replace(" ", "") for m in merges)]
    tokens += [tiny_vocabulary.START, tiny_vocabulary.END]
    assert len(np.unique(tokens)) == len(tokens) == 49408
    tiny_vocabulary.write(folder, pad)
    numbers = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    lines = ["#version: 0.2", *merges, ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
