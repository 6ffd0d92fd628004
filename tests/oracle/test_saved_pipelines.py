"""Pipelines that are written as diffusers has them, read by diffusers and transformers."""

import json

import numpy as np
import pipelines
import pytest
from safetensors.numpy import load_file

import skipjax
from skipjax.weights import diffusers as ours

diffusers = pytest.importorskip("diffusers")
# Its Euler, of tensors and NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", list(pipelines.PIPELINES))
def test_diffusers_reads_what_is_written(name, tmp_path):
    folder = pipelines.write(tmp_path / name, name)
    model = skipjax.load(folder)
    ours.save(model, tmp_path / "back")
    index = folder / "model_index.json"
    pipelines.put(index, json.loads(index.read_text()) | {"_diffusers_version": "0.36.0"})
    kind = getattr(diffusers, pipelines.PIPELINES[name].cls)
    theirs, back = (kind.from_pretrained(place) for place in (folder, tmp_path / "back"))
    assert theirs.components.keys() == back.components.keys()
    for component, wanted in theirs.components.items():
        found = back.components[component]
        assert type(found) is type(wanted)
        if hasattr(wanted, "state_dict"):
            a, b = wanted.state_dict(), found.state_dict()
            assert a.keys() == b.keys()
            for key in a:
                np.testing.assert_array_equal(a[key].numpy(), b[key].numpy())
            path = next((tmp_path / "back" / component).glob("*.safetensors"))
            written = {k.removeprefix("text_model."): v.shape for k, v in load_file(path).items()}
            listed = {k.removeprefix("text_model."): tuple(v.shape) for k, v in a.items()}
            assert written == listed
    text = "a fox in the snow"
    for one, other in (
        (getattr(theirs, attribute, None), getattr(back, attribute, None))
        for attribute in ("tokenizer", "tokenizer_2")
    ):
        if one is not None:
            options = {"padding": "max_length", "max_length": 77}
            assert one(text, **options).input_ids == other(text, **options).input_ids
    for scheduler in (theirs.scheduler, back.scheduler):
        scheduler.set_timesteps(4)
    np.testing.assert_array_equal(theirs.scheduler.timesteps, back.scheduler.timesteps)
    same = theirs.scheduler.alphas_cumprod - back.scheduler.alphas_cumprod
    assert abs(same).max() == 0
