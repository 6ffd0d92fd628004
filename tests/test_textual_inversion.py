"""Words that were learned: every kind of file, and what is refused."""

import numpy as np
import pipelines
import pytest
import torch_writer
from safetensors.numpy import save_file

import skipjax
from skipjax.weights import textual_inversion

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("words") / "sd1")


def vectors(n, width):
    return RNG.normal(size=(n, width)).astype(np.float32)


def test_every_kind_of_file(folder, tmp_path, subtests):
    one, two, other = vectors(1, 32), vectors(2, 32), vectors(2, 48)
    torch = torch_writer.tensor
    saved = {
        "diffusers": ({"<fox>": one[0]}, [one]),
        "a1111, safetensors": ({"emb_params": two}, [two]),
        "of two encoders": ({"clip_g": other, "clip_l": two}, [two, other]),
        "of two encoders, by name": ({"text_encoder": two, "text_encoder_2": other}, [two, other]),
    }
    for case, (content, wanted) in saved.items():
        with subtests.test(case):
            save_file(content, tmp_path / "fox.safetensors")
            found = textual_inversion.read(tmp_path / "fox.safetensors")
            for ours, theirs in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    with subtests.test("learned_embeds.bin in its folder"):
        torch_writer.save(tmp_path / "learned_embeds.bin", {"<fox>": torch(one[0])})
        np.testing.assert_array_equal(textual_inversion.read(tmp_path)[0], one)
    with subtests.test("a1111, .pt"):
        more = {"string_to_token": {"*": 265}, "name": "fox", "step": 4000}
        content = {"string_to_param": {"*": torch(two)}} | more
        torch_writer.save(tmp_path / "fox.pt", content)
        with pytest.warns(UserWarning, match="took the weights under 'string_to_param'"):
            found = textual_inversion.read(tmp_path / "fox.pt")
        np.testing.assert_array_equal(found[0], two)
    with subtests.test("what prompts are then"):
        save_file({"emb_params": two}, tmp_path / "two.safetensors")
        model = skipjax.load(folder, embeddings={"<fox>": tmp_path / "two.safetensors"})
        text = model.conditioner
        assert text.embeddings == ("<fox>", "<fox>_1")
        table = text.params[0]["embeddings"]["token_embedding"]["embedding"]
        np.testing.assert_array_equal(table[-2:], two)
        said = text.encode({"prompt": "a <fox> in snow"}, None, np.arange(1))["text"]
        assert np.isfinite(said).all()


def test_what_is_refused(folder, tmp_path, subtests):
    file = tmp_path / "fox.safetensors"
    for case, content, words in (
        ("another width", {"<fox>": vectors(1, 48)}, "fox.safetensors: .*for another"),
        ("two words", {"<a>": vectors(1, 32), "<b>": vectors(1, 32)}, "the vectors of one word"),
        ("not finite", {"<a>": np.full((1, 32), np.nan, np.float32)}, "and finite"),
    ):
        with subtests.test(case):
            save_file(content, file)
            with pytest.raises(ValueError, match=words) as caught:
                skipjax.load(folder, embeddings={"<fox>": file})
            assert "\n" not in str(caught.value)
    with subtests.test("no prompts, no file"):
        with pytest.raises(ValueError, match="the checkpoint takes no prompts"):
            skipjax.load("emoji32", embeddings={"<fox>": file})
        with pytest.raises(ValueError, match="nowhere is no file of textual inversion"):
            skipjax.load(folder, embeddings={"<fox>": "nowhere"})
        with pytest.raises(ValueError, match=r"it must be \{word: file\}"):
            skipjax.load(folder, embeddings=["fox.pt"])
