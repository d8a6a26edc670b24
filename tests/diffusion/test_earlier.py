"""A model that starts from an earlier LoRA: it and its reference are the earlier model, and what it saves is both."""

import pytest
import torch
from pipelines import latents, perturbed

from mmalign import UserError

from .conftest import build


@pytest.fixture
def saved(folder, tmp_path):
    def of(family):
        model = perturbed(build(folder(family)))
        model.save(tmp_path / "first")
        return model, tmp_path / "first"

    return of


def predicted(model, family):
    x = latents(model)
    condition = model.condition(["a cat", "a dog"])
    t = torch.tensor([10, 500]) if family == "sd" else torch.tensor([0.1, 0.7])
    with torch.no_grad():
        return model.predict(x, t, condition)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_policy_and_reference_are_the_earlier_model(family, saved, folder):
    first, path = saved(family)
    second = build(folder(family), lora=str(path))
    with second.reference():
        torch.testing.assert_close(predicted(second, family), predicted(first, family), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(predicted(second, family), predicted(first, family), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(predicted(second, family), predicted(build(folder(family)), family), atol=1e-2)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_what_is_saved_holds_both(family, saved, folder, tmp_path):
    _, path = saved(family)
    second = perturbed(build(folder(family), lora=str(path)))
    second.save(tmp_path / "second")
    third = build(folder(family), lora=str(tmp_path / "second"))
    torch.testing.assert_close(predicted(third, family), predicted(second, family), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_lora_there_is_an_error(name, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        build(folder("sd"), lora=str(tmp_path / name))
