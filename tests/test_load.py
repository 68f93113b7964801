"""The model of a finished run, read back from what the run wrote."""

import pytest
import torch

from ptd_core.errors import OutputError, RecipeError
from ptd_core.load import load_model
from ptd_core.run import execute


def test_the_loaded_model_answers_as_the_runs_own(tiny, tiny_shapes, tmp_path):
    done = execute(tiny(), dataset=tiny_shapes)
    model = load_model("tiny", str(tmp_path))
    images = torch.randn(4, 3, 16, 16)
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(images), done.model(images), rtol=1e-5, atol=1e-5)


def test_what_is_not_there_or_damaged_is_named(tiny, tiny_shapes, tmp_path):
    with pytest.raises(OutputError, match=r"runs/nothing: holds no run"):
        load_model("nothing", str(tmp_path))
    with pytest.raises(RecipeError, match="load_model: run should match"):
        load_model("../elsewhere", str(tmp_path))
    done = execute(tiny(), dataset=tiny_shapes)
    done.record.model_copy(update={"finished": False}).write(done.folder)
    with pytest.raises(OutputError, match=r"holds no run with a run\.json that says it is finished"):
        load_model("tiny", str(tmp_path))
    done.record.write(done.folder)
    file = tmp_path / "runs" / "tiny" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OutputError, match=r"weights.safetensors: cannot be read as the weights of tiny"):
        load_model("tiny", str(tmp_path))
    file.unlink()
    with pytest.raises(OutputError, match=r"weights.safetensors: cannot be read"):
        load_model("tiny", str(tmp_path))
