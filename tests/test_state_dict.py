"""Which tensors of a file are taken, whatever its name: those that can alone be meant, or said."""

import argparse
import collections
import datetime

import numpy as np
import pytest
import torch_writer as writer
from safetensors.numpy import save_file

from skipjax.weights.readers import state_dict


def weights(*names, seed=0):
    random = np.random.default_rng(seed)
    return {name: writer.tensor(random.normal(size=3).astype(np.float32)) for name in names}


MODEL, EMA = weights("a", "b", seed=1), weights("a", "b", seed=2)
LARGER = weights(*"abcdef", seed=3)
OPTIMIZER = {"state": {0: weights("exp_avg", "exp_avg_sq")}, "param_groups": [{"lr": 1.0}]}


def values(tensors):
    return {name: np.asarray(tensor).tolist() for name, tensor in tensors.items()}


def saved(tensors):
    return {name: tensor.storage.elements.tolist() for name, tensor in tensors.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


@pytest.fixture(params=["zip", "legacy"])
def save(request, path):
    """What writes an object to a file of either format."""

    def written(content):
        if request.param == "zip":
            return writer.save(path, content)
        path.write_bytes(b"".join(writer.legacy(content)))
        return path

    return written


def test_a_key_takes_the_state_dict_under_it(save):
    same = save({"ema": MODEL, "model": MODEL})
    assert values(state_dict.read(same, "model")) == saved(MODEL)
    deep = {"state": {"net": MODEL, "epoch": 1}, "ema": EMA, "opt": OPTIMIZER, 3: LARGER}
    path = save(deep)
    for key, tensors in {"state.net": MODEL, "ema": EMA, "3": LARGER}.items():
        assert values(state_dict.read(path, key)) == saved(tensors)
    for key in ("state", "opt", "opt.state.0", "net", "epoch", ""):
        with pytest.raises(ValueError, match=f"no tensors under the key '{key}'; there are some"):
            state_dict.read(path, key)
    with pytest.raises(ValueError, match="no tensors under the key 'ema'; leave it out"):
        state_dict.read(save(MODEL), "ema")


# What is in the file, what is taken, and what is said.
TAKEN = {
    "average": ({"ema": EMA, "model": MODEL, "step": 3}, EMA, r"under 'ema'; .* takes 'model'"),
    "average last": ({"state_dict": MODEL, "model_ema": EMA}, EMA, "under 'model_ema'; "),
    "average within": ({"ema": {"shadow": EMA, "decay": 0.9}, "net": MODEL}, EMA, "'ema.shadow'"),
    "average of some": ({"ema": EMA, "model": LARGER}, EMA, "under 'ema'; "),
    "wrapped model": (
        {"ema": EMA, "model": {f"module.{name}": t for name, t in MODEL.items()}},
        EMA,
        "under 'ema'; ",
    ),
    "one": ({"state_dict": MODEL, "epoch": 1}, MODEL, "took the weights under 'state_dict'$"),
    "one of any name": ({"epoch": 1, "generator": MODEL}, MODEL, "under 'generator'$"),
    "one and optimiser's": ({"ema": EMA, "opt": OPTIMIZER}, EMA, "under 'ema'$"),
    "one and a scalar": (
        {"model": MODEL, "rng_state": writer.tensor(np.zeros(9, np.int32))},
        MODEL,
        "under 'model'$",
    ),
}


@pytest.mark.parametrize("content", TAKEN.values(), ids=TAKEN)
def test_what_can_alone_be_meant_is_taken_and_said(save, content):
    content, expected, said = content
    path = save(content)
    with pytest.warns(UserWarning, match=said) as caught:
        assert values(state_dict.read(path)) == saved(expected)
    message = str(caught[0].message)
    assert len(caught) == 1 and message.startswith(f"{path}: took") and message.isprintable()


def test_where_several_can_be_meant_they_are_listed(save, subtests):
    several = r"which, with load\(..., key=...\) or --key: '"
    for content, listed in [
        ({"model": MODEL, "generator": EMA}, "model', 'generator'$"),
        ({"ema": EMA, "model_ema": EMA | {}, "model": MODEL}, "ema', 'model_ema', 'model'$"),
        ({"ema": LARGER, "discriminator": MODEL}, "ema', 'discriminator'$"),
        ({f"net{i}": {**MODEL} for i in range(20)}, "net0', .*'net7' and 12 more$"),
    ]:
        with subtests.test(listed):
            writer.refused(save(content), f"{several}{listed}")


def test_a_file_of_tensors_is_taken_without_a_word(save):
    for beside in (
        {"epoch": 1, "name": "x", "none": None, 3: weights("w")["w"], "more": [weights("v")]},
        {"args": argparse.Namespace(lr=1), "when": datetime.datetime(2020, 1, 1)},
        {"loss": np.float64(3), "log": np.zeros(3), "count": collections.Counter("abc")},
        {"size": writer.Size((1, 2)), "dtype": writer.torch_dtype("float16"), "f": len},
        {"extra": collections.OrderedDict(x=weights("w")["w"])},
    ):
        assert values(state_dict.read(save(MODEL | beside))) == saved(MODEL)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_bookkeeping_is_dropped(path, protocol):
    beside = {"args": argparse.Namespace(lr=1), "when": datetime.datetime(2020, 1, 1)}
    beside |= {"loss": np.float64(3), "log": [np.zeros(3)], "left": collections.Counter("abc")}
    beside |= {"set": {1}, "frozen": frozenset([2]), "range": range(3), "complex": 1j}
    writer.save(path, beside | {"model": MODEL}, protocol)
    with pytest.warns(UserWarning, match="took the weights under 'model'$"):
        assert values(state_dict.read(path)) == saved(MODEL)


PREFIXES = ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_every_name_is_taken_off(tmp_path, save, prefix):
    path = save({prefix + name: tensor for name, tensor in MODEL.items()})
    assert values(state_dict.read(path)) == saved(MODEL)
    arrays = {prefix + name: np.float32(value) for name, value in saved(MODEL).items()}
    save_file(arrays, tmp_path / "model.safetensors")
    assert values(state_dict.read(tmp_path / "model.safetensors")) == saved(MODEL)


def test_a_prefix_of_some_names_stays(save):
    for names, read in [
        (("module.a", "b"), ("module.a", "b")),
        (("module.module.a", "module.b"), ("module.a", "b")),
        (("module.model.a", "module.module.b"), ("model.a", "module.b")),
        (("models.a", "models.b"), ("models.a", "models.b")),
    ]:
        assert tuple(state_dict.read(save(weights(*names)))) == read


def test_the_content_says_what_kind_of_file_it_is(tmp_path, save):
    arrays = {name: np.float32(value) for name, value in saved(MODEL).items()}
    path = save(MODEL)
    for name in ("x.safetensors", "x", "x.ckpt", "x.bin"):
        assert values(state_dict.read(path.rename(tmp_path / name))) == saved(MODEL)
        path = tmp_path / name
    for name in ("y.safetensors", "y", "y.pt"):
        save_file(arrays, tmp_path / name)
        assert values(state_dict.read(tmp_path / name)) == saved(MODEL)
    with pytest.raises(ValueError, match="y.pt: a .safetensors holds one state dict: leave out"):
        state_dict.read(tmp_path / "y.pt", "ema")


def test_what_is_no_dict_of_tensors_is_refused(save, subtests):
    for content, match in [
        (OPTIMIZER, r"the state of an optimiser .*: take the file of the network .* ema\*.pt"),
        (
            {"opt": OPTIMIZER, "epoch": 1},
            "holds no tensors, nor dicts of them but an optimiser's; keys are 'opt'",
        ),
        ([1, 2], "holds a list; wanted is a dict of tensors"),
        (3, "holds a int; wanted is a dict"),
        (argparse.Namespace(a=1), "holds a whole 'argparse.Namespace': save its state dict"),
        ({}, "holds no tensors, nor dicts of them but an optimiser's; keys are none"),
        (
            {"loss": [1.0], "models": [MODEL]},
            "holds no tensors, nor dicts of them but an optimiser's; k",
        ),
    ]:
        with subtests.test(match):
            writer.refused(save(content), match)


def test_other_files_are_told_apart(path, subtests):
    old = "before 0.2, or a bare pickle: save it again"
    for head, match in [
        (b"", "is empty: download or copy it again"),
        (b"\r\n <!DOCTYPE html><html>", "is a web page, so the download failed"),
        (b"<?xml version='1.0'?><Error>", "is a web page, so the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "run git lfs pull"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"weight":{"dtype":"F32"', "not a whole .safetensors file"),
        (b"\x80\x04\x95\0\0", old),
        (b"\x80\2", old),
        (b"storages".ljust(257, b"\0") + b"ustar", old),
        (b"\x1f\x8b\x08\0", "begins with b'.x1f.*': it is no .safetensors, nor did torch.save"),
        (b"PK\3\4", "is no whole zip archive .*: the file is damaged or cut short"),
        (b"PK\3\4" + bytes(500), "is no whole zip archive"),
    ]:
        with subtests.test(head[:20]):
            path.write_bytes(head)
            writer.refused(path, match)


def test_files_that_cannot_be_opened_are_told_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        state_dict.read(tmp_path / "missing.pt")
    with pytest.raises(IsADirectoryError):
        state_dict.read(tmp_path)
