"""EDM's pickles as torch writes them, and layers of the NumPy transcription against torch's."""

import pickle
import sys
from unittest import mock

import edm_networks
import edm_reference
import edm_writer
import numpy as np
import pytest

import skipjax
from skipjax.weights.readers import edm_pickle, state_dict

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e .[oracle]")
F = torch.nn.functional
RNG = np.random.default_rng(0)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12)


def test_the_transcriptions_layers_are_torchs():
    x, w, b = (RNG.normal(size=size) for size in ((2, 3, 6, 8), (5, 3, 3, 3), (5,)))
    X, W, B = map(torch.tensor, (x, w, b))
    close(edm_reference.conv2d(x, w, b), F.conv2d(X, W, B, padding=1))
    close(edm_reference.conv2d(x, w, padding=2), F.conv2d(X, W, padding=2))
    for taps in ([1, 1], [1, 3, 3, 1], [1, 2, 4, 3, 2, 1]):
        pad = (len(taps) - 1) // 2
        f = torch.tensor(edm_reference.kernel(taps))[None, None].tile(3, 1, 1, 1)
        down = F.conv2d(X, f, stride=2, padding=pad, groups=3)
        close(edm_reference.filtered_down(x, taps), down)
        up = F.conv_transpose2d(X, 4 * f, stride=2, padding=pad, groups=3)
        close(edm_reference.filtered_up(x, taps), up)
    x = RNG.normal(size=(2, 24, 4, 4))
    scale, bias = RNG.normal(size=(2, 24))
    theirs = F.group_norm(torch.tensor(x), 6, torch.tensor(scale), torch.tensor(bias), 1e-6)
    close(edm_reference.group_norm(x, scale, bias, 1e-6), theirs)
    q, k, v = RNG.normal(size=(3, 2, 4, 8, 10))
    theirs = F.scaled_dot_product_attention(*(torch.tensor(a).mT for a in (q, k, v))).mT
    close(edm_reference.attend(q, k, v), theirs)
    close(edm_reference.silu(x), F.silu(torch.tensor(x)))
    w = RNG.normal(size=(5, 7))
    norm = torch.linalg.vector_norm(torch.tensor(w), dim=1, keepdim=True) / 7**0.5
    close(edm_reference.normalize(w, 1), torch.tensor(w) / (1e-4 + norm))


class Persistent(torch.nn.Module):
    """A module of torch's that is pickled as EDM's decorator does it."""

    name = "Layer"

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": edm_writer.SOURCE}
        meta |= {"class_name": self.name, "state": self.__dict__}
        return edm_writer.RECONSTRUCT, (meta,)


def module_of(tensors, buffers, class_name, kwargs, prefix="", place=""):
    """Modules of torch's that hold tensors under their dotted names."""
    inner = {}
    module = torch.nn.ModuleDict() if place in ("enc", "dec") else Persistent()
    for full, array in tensors.items():
        if not full.startswith(prefix):
            continue
        head, _, rest = full[len(prefix) :].partition(".")
        if rest:
            inner[head] = None
        elif full in buffers:
            module.register_buffer(head, torch.tensor(array))
        else:
            module.register_parameter(head, torch.nn.Parameter(torch.tensor(array)))
    for head in inner:
        below = module_of(tensors, buffers, class_name, kwargs, f"{prefix}{head}.", head)
        module.add_module(head, below)
    if not prefix:
        module.name = class_name
        module._init_args, module._init_kwargs = (), kwargs
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", ["ncsnpp", "edm2"])
def test_a_pickle_that_torch_wrote_is_read(tmp_path, case, half):
    class_name, kwargs = edm_networks.CASES[case]
    tensors, buffers = edm_networks.tensors_of(class_name, kwargs)
    network = module_of(
        tensors, buffers, class_name, kwargs | {"label_dim": np.int64(6 * (case == "edm2"))}
    )
    network = network.to(torch.float16) if half else network
    path = tmp_path / f"{case}.pkl"
    ours = {k: v for k, v in edm_writer._stand_ins().items() if not k.startswith("torch.")}
    ours.pop("torch")
    with mock.patch.dict(sys.modules, ours), path.open("wb") as file:
        pickle.dump({"loss_fn": None, "ema": network, "dataset_kwargs": {"path": "x"}}, file)
    found = edm_pickle.snapshot(path)
    theirs = network.state_dict()
    assert found.class_name == class_name and found.tensors.keys() == theirs.keys()
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(np.asarray(tensor), theirs[name].numpy())
    params = skipjax.load(path)
    assert params.network == edm_networks.described(case).network
    assert len(state_dict.read(path)) == len(theirs)
