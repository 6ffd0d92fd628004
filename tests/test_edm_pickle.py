"""Pickles of EDM's kind: read whole, and nothing of theirs runs."""

import os
import pickle
import sys
import tracemalloc
from pathlib import Path
from unittest import mock

import edm_networks
import edm_writer
import jax
import numpy as np
import pytest
import torch_writer
from edm_writer import EasyDict, Persistent
from hostile_pickles import CANARY, CODE, RUNS

import skipjax
from skipjax import cli
from skipjax.weights.readers import edm_pickle, state_dict

KWARGS = {"img_resolution": 8, "img_channels": 3}
TENSORS = {
    "model.enc.8x8_conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "model.enc.8x8_conv.bias": np.ones(2, np.float16),
    "model.dec.8x8_block0.gain": np.float32(0.25),
    "model.map_noise.freqs": np.linspace(0, 1, 5),
}
BUFFERS = {"model.map_noise.freqs"}
FORBIDDEN = ("exec", "compile", "import", "os.", "subprocess.", "ctypes.", "socket.", "pickle.")


class Hostile:
    """What makes a folder when it is unpickled."""

    def __init__(self, function=os.mkdir, *arguments):
        self.made = function, arguments or (CANARY,)

    def __reduce__(self):
        return self.made


class Audit:
    """What the interpreter does while it is looked at."""

    def __init__(self):
        self.events, self.active = [], False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.active and event.startswith(FORBIDDEN):
            self.events.append((event, str(arguments[:1])))

    def __enter__(self):
        self.events, self.active = [], True
        return self.events

    def __exit__(self, *_):
        self.active = False


AUDIT = Audit()


def saved(path, **options):
    return edm_writer.save(path, "EDMPrecond", TENSORS, KWARGS, BUFFERS, **options)


def written(path, content):
    path.write_bytes(edm_writer.pickled(content))
    return path


def assert_whole(path):
    found = state_dict.read(path)
    assert {f"model.{name}" for name in found} == TENSORS.keys()
    for name, tensor in found.items():
        expected = TENSORS[f"model.{name}"]
        array = np.asarray(tensor)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_snapshot_is_read_whole(tmp_path, protocol):
    path = saved(tmp_path / "any.name", protocol=protocol)
    assert_whole(path)
    found = edm_pickle.snapshot(path)
    assert (found.class_name, found.arguments, found.keywords) == ("EDMPrecond", (), KWARGS)
    assert found.tensors.keys() == TENSORS.keys()


def test_numbers_of_numpy_are_numbers(tmp_path):
    numbers = {"img_resolution": np.int64(8), "dropout": np.float32(0.5), "wide": np.float64(3)}
    numbers |= {"use_fp16": np.bool_(True), "small": np.int8(-3)}
    path = edm_writer.save(tmp_path / "a.pkl", "EDMPrecond", TENSORS, numbers)
    found = edm_pickle.snapshot(path).keywords
    assert found == {k: v.item() for k, v in numbers.items()}
    assert [type(v) for v in found.values()] == [int, float, float, bool, int]


def everywhere():
    """Contents with code wherever code could be, and whether the weights are still to be had."""
    hostile = Hostile
    network = edm_writer.network("EDMPrecond", TENSORS, KWARGS, BUFFERS, source=CODE)
    yield "source", {"ema": network}
    for name in ("loss_fn", "augment_pipe", "dataset_kwargs"):
        yield name, {"ema": network, name: hostile()}
    yield "before", {"first": hostile(), "ema": network}
    yield "exec", {"ema": network, "x": hostile(exec, CODE)}
    yield "eval", {"ema": network, "x": hostile(eval, f"__import__('os').mkdir({CANARY!r})")}
    yield "EasyDict", {"ema": network, "dataset_kwargs": EasyDict(path=hostile())}
    yield "a second network", {"ema": network, "net": Persistent("x", {"a": hostile()}, CODE)}
    for where in ("state", "hooks", "setstate", "modules", "meta", "arguments in a list"):
        network = edm_writer.network("EDMPrecond", TENSORS, KWARGS, BUFFERS, source=CODE)
        state = network.meta["state"]
        if where == "state":
            state["anything"] = hostile()
        elif where == "hooks":
            state["_forward_hooks"][0] = hostile()
        elif where == "setstate":
            state["__setstate__"] = hostile()
        elif where == "modules":
            state["_modules"]["evil"] = hostile()
        elif where == "meta":
            network.meta["more"] = hostile()
        else:
            state["_init_args"] = ()
            state["list"] = [(hostile(),)]
        yield where, {"ema": network}
    layers = edm_writer.network("EDMPrecond", TENSORS, KWARGS, BUFFERS)
    layers.meta["state"]["_modules"]["model"].meta["state"]["_modules"]["enc"].evil = hostile()
    yield "the state of a layer of torch's", {"ema": layers}


def test_nothing_runs_and_the_weights_load(tmp_path, monkeypatch, subtests):
    monkeypatch.chdir(tmp_path)
    canary, path = Path(CANARY), tmp_path / "hostile.pkl"
    for where, content in everywhere():
        with subtests.test(where):
            written(path, content)
            if where not in ("source", "EasyDict"):  # lest this test nothing
                with mock.patch.dict(sys.modules, edm_writer._stand_ins()):
                    pickle.loads(path.read_bytes())
                assert canary.is_dir()
                canary.rmdir()
            with AUDIT as events:
                assert_whole(path)
                edm_pickle.snapshot(path)
            assert not events and not canary.exists()


def test_no_opcode_runs_anything(tmp_path, monkeypatch, subtests):
    """Opcodes in place of a text in the state of the network."""
    monkeypatch.chdir(tmp_path)
    network = edm_writer.network("EDMPrecond", TENSORS, KWARGS, BUFFERS)
    network.meta["state"]["mark"] = "here it is"
    whole = edm_writer.pickled({"ema": network})
    mark = b"\x8c\nhere it is"
    assert whole.count(mark) == 1
    for kind, code in RUNS.items():
        with subtests.test(kind):
            path = tmp_path / "hostile.pkl"
            path.write_bytes(whole.replace(mark, code))
            with AUDIT as events:
                assert_whole(path)
            assert not events and not Path(CANARY).exists()


def test_code_within_the_bytes_of_a_tensor_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in range(5):
        storage = torch_writer.Storage(np.zeros(3, np.float32))
        parts = torch_writer.wrap_legacy(*torch_writer.pickled(storage, legacy=True))
        parts[place] = pickle.dumps(Hostile(), 2)
        content = edm_writer._Bytes(b"".join(parts), storage.elements)
        tensor = torch_writer.Tensor(content, (3,), (1,))
        network = Persistent("EDMPrecond", edm_writer.layer_state({"w": tensor}))
        path = written(tmp_path / "hostile.pkl", {"ema": network})
        with AUDIT as events:
            if place == 2:  # of the machine that wrote it, nothing is asked
                np.testing.assert_array_equal(state_dict.read(path)["w"], np.zeros(3))
            else:
                with pytest.raises(ValueError, match="its pickle|damaged"):
                    state_dict.read(path)
        assert not events and not Path(CANARY).exists()


def test_another_pickle_is_refused_as_before(tmp_path):
    bare = "is of torch before 0.2, or a bare pickle: save it again"
    for content in ({"w": 1}, [1, 2], {"ema": EasyDict(a=1)}):
        path = written(tmp_path / "other.pkl", content)
        with pytest.raises(ValueError, match=bare):
            state_dict.read(path)
    # One that says the words, and holds no network.
    for content in ({"torch_utils.persistence": 1}, {1: Persistent("x", {})}):
        path = written(tmp_path / "other.pkl", content)
        with pytest.raises(ValueError, match=bare):
            state_dict.read(path)
    path = written(tmp_path / "other.pkl", {"loss_fn": Persistent("EDMLoss", {})})
    with pytest.raises(ValueError, match="its objects hold no tensors: 'loss_fn'"):
        state_dict.read(path)


def test_a_network_is_chosen_by_its_key(tmp_path):
    other = edm_writer.network("EDMPrecond", {"model.w": np.ones(2, np.float32)}, {})
    content = edm_writer.snapshot("EDMPrecond", TENSORS, KWARGS, BUFFERS) | {"net": other}
    path = written(tmp_path / "two.pkl", content)
    assert_whole(path)  # "ema", without a warning
    assert list(state_dict.read(path, "net")) == ["w"]
    assert list(edm_pickle.snapshot(path, "net").tensors) == ["model.w"]
    for read in (state_dict.read, edm_pickle.snapshot):
        with pytest.raises(ValueError, match="under the key 'nets'.*'net'"):
            read(path, "nets")


def test_damage_is_said_in_one_line(tmp_path, subtests):
    whole = saved(tmp_path / "whole.pkl").read_bytes()
    for size in range(200, len(whole), 97):
        with subtests.test(size=size):
            path = tmp_path / "cut.pkl"
            path.write_bytes(whole[:size])
            torch_writer.refused(path, "cut short|damaged|bare pickle|is not whole")


def test_layers_within_each_other_end_soon(tmp_path):
    def holding(modules):
        return Persistent("Layer", edm_writer.layer_state(modules=modules))

    layer = Persistent("Layer", edm_writer.layer_state({"w": torch_writer.tensor(np.ones(2))}))
    for _ in range(14):
        layer = holding({"a": layer, "b": layer})
    path = written(tmp_path / "laughs.pkl", {"ema": layer})
    torch_writer.refused(path, "too many layers", most=2.0)
    ring = edm_writer.layer_state()
    ring["_modules"]["again"] = edm_writer.ModuleDict()
    ring["_modules"]["again"].__dict__.update(ring)
    path = written(tmp_path / "ring.pkl", {"ema": Persistent("Layer", ring)})
    torch_writer.refused(path, "hold no tensors|too many layers", most=2.0)


def test_memory_does_not_grow_with_the_file(tmp_path):
    large = {f"model.l{i}.weight": np.ones((2**20,), np.float32) for i in range(8)}
    path = edm_writer.save(tmp_path / "large.pkl", "EDMPrecond", large, KWARGS)
    tracemalloc.start()
    with torch_writer.soon(2.0):
        array = np.asarray(state_dict.read(path)["l3.weight"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 2**25 and peak < array.nbytes + 2**20
    assert array.shape == (2**20,) and (array == 1).all()


def test_a_model_is_loaded_by_what_the_file_says(tmp_path, capsys):
    for case, (class_name, kwargs) in edm_networks.CASES.items():
        if case not in ("ncsnpp", "edm2"):  # of each kind of file one
            continue
        tensors, buffers = edm_networks.tensors_of(class_name, kwargs)
        path = edm_writer.save(tmp_path / f"{case}.pkl", class_name, tensors, kwargs, buffers)
        params = skipjax.load(path)
        described = edm_networks.described(case)
        assert params.network == described.network and params.process == described.process
        assert params.conditioner == described.conditioner and params.name == case
        assert params.source == str(path)
        out = tmp_path / f"{case}_converted"
        cli.main(["convert", str(path), str(out)])
        again = skipjax.load(out)
        assert again.network == params.network and again.process == params.process
        for ours, theirs in zip(*map(jax.tree.leaves, (again, params)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        cli.main(["info", str(path)])
        assert "song_unet" in capsys.readouterr().out or case == "edm2"
    with pytest.raises(ValueError, match="its network is a 'Net': read are EDM's"):
        skipjax.load(edm_writer.save(tmp_path / "net.pkl", "Net", TENSORS, {}))
    strange = KWARGS | {"model_type": "DiT"}
    with pytest.raises(ValueError, match="model_type is 'DiT': read are SongUNet, Dhariwal"):
        skipjax.load(edm_writer.save(tmp_path / "dit.pkl", "EDMPrecond", TENSORS, strange))
    with pytest.raises(ValueError, match="does not fit the architecture"):
        skipjax.load(edm_writer.save(tmp_path / "few.pkl", "EDMPrecond", TENSORS, KWARGS))
