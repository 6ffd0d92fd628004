"""The reader of PyTorch's files against torch, on files that torch wrote."""

import argparse
import copy
from collections import OrderedDict
from datetime import datetime
from functools import partial

import ml_dtypes
import numpy as np
import pytest

from skipjax.weights.readers import state_dict

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")

DTYPES = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128", "int64", "int32"]
DTYPES += ["int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64"]
DTYPES += ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request):
    """torch.save in either of its formats."""
    return partial(torch.save, _use_new_zipfile_serialization=request.param)


def same(tensor, expected):
    """Asserts that a lazy tensor is torch's, bit by bit."""
    array = np.asarray(tensor)
    name = str(expected.dtype).removeprefix("torch.")
    assert array.dtype == np.dtype(getattr(ml_dtypes, name, name)) == tensor.dtype
    assert array.shape == tuple(expected.shape) == tensor.shape and array.flags.c_contiguous
    flat = torch.empty(expected.numel(), dtype=expected.dtype)
    flat.view(expected.shape).copy_(expected.detach())
    raw = flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)
    assert array.tobytes() == raw.numpy().tobytes()


def module():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(5, 6), torch.nn.PReLU()
    )
    layers[2].half()
    layers[3].to(torch.bfloat16)
    return layers


def test_state_dicts_of_modules_are_read_as_torch_reads_them(tmp_path, save, subtests):
    path = tmp_path / "model.pt"
    for protocol in (2, 3, 4, 5):
        save(module().state_dict(), path, pickle_protocol=protocol)
        expected = torch.load(path, weights_only=protocol == 2)
        with subtests.test(protocol):
            tensors = state_dict.read(path)
            assert list(tensors) == list(expected)
            for name, tensor in tensors.items():
                same(tensor, expected[name])


def test_every_dtype_of_torch_is_read(tmp_path, save, subtests):
    path = tmp_path / "model.pt"
    for name in DTYPES:
        values = (torch.arange(24).reshape(2, 3, 4) / 3 + 1).to(getattr(torch, name))
        save({"weight": values, "part": values[1, :, 1:3]}, path)
        with subtests.test(name):
            tensors = state_dict.read(path)
            same(tensors["weight"], values)
            same(tensors["part"], values[1, :, 1:3])


def test_views_and_what_shares_memory_are_read_as_they_look(tmp_path, save):
    base = torch.randn(6, 8)
    views = {
        "base": base,
        "rows": base[2:4],
        "columns": base[:, 3:5],
        "transposed": base.T,
        "permuted": base.reshape(2, 3, 8).permute(2, 0, 1),
        "strided": base[::2, ::3],
        "diagonal": base.diagonal(),
        "overlapping": base.as_strided((5, 4), (4, 2), 3),
        "expanded": base[0, 0].expand(1, 1),
        "flipped": base.flip(0),
        "scalar": base[3, 3],
        "empty": base[6:],
        "unsqueezed": base[None, :, None],
        "parameter": torch.nn.Parameter(base[1]),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "conjugate": torch.view_as_complex(base.reshape(-1, 2)).conj().resolve_conj(),
    }
    save(views, tmp_path / "model.pt")
    read = state_dict.read(tmp_path / "model.pt")
    assert read.keys() == views.keys()
    for name, tensor in read.items():
        same(tensor, views[name])


def test_nested_checkpoints_of_training_are_read(tmp_path, save):
    model = module()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = {
        "model": model.state_dict(),
        "ema": copy.deepcopy(model).state_dict(keep_vars=True),
        "optimizer": optimizer.state_dict(),
        **{"epoch": 3, "lr": 1e-4, "name": "é", "size": torch.Size([2, 3]), "seed": 2**70},
        **{"dtype": torch.bfloat16, "device": torch.device("cpu"), "loss": np.float64(3)},
        **{"args": argparse.Namespace(lr=1), "when": datetime(2020, 1, 1), "seen": {1, 2}},
        **{"rng": np.random.default_rng(0), "log": np.zeros(3), "raw": [b"x", bytearray(b"y")]},
        "more": OrderedDict(a=frozenset([3]), b=complex(1, 2), c=range(3), d=print),
    }
    path = tmp_path / "model.pt"
    for protocol in (2, 4, 5):
        save(saved, path, pickle_protocol=protocol)
        for key in ("model", "ema"):
            read = state_dict.read(path, key)
            assert read.keys() == saved[key].keys()
            for name, tensor in read.items():
                same(tensor, saved[key][name])
        with pytest.warns(UserWarning, match="took the weights under 'ema'; .* takes 'model'$"):
            assert len(state_dict.read(path)) == len(read)
    save(optimizer.state_dict(), path)
    with pytest.raises(ValueError, match="holds the state of an optimiser"):
        state_dict.read(path)


def test_what_would_be_other_values_than_the_stored_is_refused(tmp_path):
    for view in (torch._neg_view(torch.ones(3)), torch.ones(3, dtype=torch.complex64).conj()):
        torch.save({"weight": view}, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"a negated or conjugated tensor: save a .clone\(\)"):
            state_dict.read(tmp_path / "model.pt")
        torch.save({"weight": view.clone()}, tmp_path / "model.pt")
        same(
            state_dict.read(tmp_path / "model.pt")["weight"],
            view.resolve_neg().resolve_conj(),
        )


def test_expanded_tensors_that_are_larger_than_their_storage_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(2**40)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"repeats them to 1099511627776: save it without expand"):
        state_dict.read(tmp_path / "model.pt")


def test_a_whole_module_is_told_apart(tmp_path, save):
    save(module(), tmp_path / "model.pt")
    whole = "holds a whole 'torch.nn.modules.container.Sequential'"
    with pytest.raises(ValueError, match=whole):
        state_dict.read(tmp_path / "model.pt")


def test_tensors_that_are_not_plain_are_told_apart(tmp_path, save):
    sparse = torch.eye(3).to_sparse()
    save({"weight": torch.ones(2), "sparse": sparse}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="'sparse' is made by 'torch._utils._rebuild_sparse_t"):
        state_dict.read(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # which this is not about
def test_torchscript_is_told_apart(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    with pytest.raises(
        ValueError, match="is compressed, which .*but TorchScript does: load it with"
    ):
        state_dict.read(tmp_path / "model.pt")


def test_files_without_checksums_are_refused_and_told_so(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(ValueError, match="or save it again with checksums if torch was told"):
        state_dict.read(tmp_path / "model.pt")
