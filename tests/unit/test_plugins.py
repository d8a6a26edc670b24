"""Plugins are found, checked and isolated; the catalogue knows who offered what."""

from pathlib import Path

import pytest

from mmalign import UserError, plugins
from mmalign.choices import Picker
from mmalign.config import Part
from mmalign.hookspecs import hookimpl
from mmalign.plugins import Catalogue, Offer, Source
from mmalign.specs import RewardSpec


def write(folder: Path, body: str, name: str = "extra.py") -> Path:
    (folder / name).write_text("from mmalign import *\n" + body)
    return folder


def test_the_core_offers_its_objectives_without_any_plugin():
    catalogue = plugins.load(installed=False).catalogue
    assert {"dpo", "diffusion-dpo", "sft", "alignprop", "draft", "refl", "drtune"} <= set(catalogue.offers("objective"))
    assert catalogue.offers("model") == {}


def test_an_unknown_name_of_mmaligns_own_plugins_says_what_to_install():
    catalogue = plugins.load().catalogue
    for distribution, names in plugins.HOMES.items():
        offered = [offer for kind in plugins.OFFERS for offer in catalogue.offers(kind).values()]
        assert set(names) == {one.spec.name for one in offered if one.source.distribution == distribution}


def test_a_file_is_a_plugin(tmp_path):
    write(tmp_path, "@hookimpl\ndef mmalign_rewards():\n    yield RewardSpec('redness', print)\n")
    found = plugins.load(["extra.py"], tmp_path, installed=False)
    assert found.catalogue.find("reward", "redness").spec.build is print


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("@hookimpl\ndef mmalign_reward():\n    yield 1\n", ["mmalign_reward", "did you mean 'mmalign_rewards'"]),
        ("raise RuntimeError('broken inside')\n", ["RuntimeError", "broken inside"]),
        ("MMALIGN_API = '>=7'\n", [">=7", "this is 1"]),
        ("@hookimpl\ndef mmalign_step_end(run, stepp):\n    pass\n", ["stepp"]),
    ],
    ids=["misspelt hook", "fails to import", "another API", "unknown argument"],
)
def test_a_broken_file_is_explained(tmp_path, body, words):
    write(tmp_path, body)
    with pytest.raises(UserError) as caught:
        plugins.load(["extra.py"], tmp_path, installed=False)
    assert all(word in str(caught.value) for word in ["extra.py", *words])


def test_an_offer_that_is_no_spec_is_left_out_and_remembered(tmp_path):
    write(tmp_path, "@hookimpl\ndef mmalign_rewards():\n    yield 'redness'\n")
    found = plugins.load(["extra.py"], tmp_path, installed=False)
    assert all(offer.source.distribution == "mmalign" for offer in found.catalogue.offers("reward").values())
    assert "redness" in found.failures[0].message


def offers(*distributions: str) -> Catalogue:
    sources = [Source("p", name, "1.0") for name in distributions]
    listed = [Offer(RewardSpec("clip", print), source) for source in sources]
    return Catalogue({"reward": listed, "model": [], "objective": [], "dataset": []})


def test_a_name_offered_twice_is_an_error_that_names_both():
    catalogue = offers("one", "two")
    with pytest.raises(UserError, match="'one:clip' or 'two:clip'"):
        catalogue.find("reward", "clip")
    assert catalogue.find("reward", "two:clip").source.distribution == "two"
    assert set(catalogue.offers("reward")) == {"one:clip", "two:clip"}


def test_an_unknown_name_gets_the_nearest_or_what_to_install():
    with pytest.raises(UserError, match="did you mean 'clip'"):
        offers("one").find("reward", "clipp")
    with pytest.raises(UserError, match="pip install mmalign-diffusion"):
        offers("one").find("model", "diffusers")


def test_third_parties_are_asked_before_mmalign(tmp_path):
    write(tmp_path, "@hookimpl\ndef mmalign_should_stop(run, step, metrics):\n    return 'mine'\n")
    found = plugins.load(["extra.py"], tmp_path, installed=False)

    class Builtin:
        @hookimpl(trylast=True)
        def mmalign_should_stop(self, step):
            return "builtin"

    found.manager.register(Builtin())
    callers = [i.plugin_name for i in found.hook.mmalign_should_stop.get_hookimpls()]
    assert callers.index(f"{tmp_path / 'extra.py'}:extra") > callers.index("mmalign:finite")


def test_what_a_hook_raises_keeps_its_type_and_names_the_plugin(tmp_path):
    write(tmp_path, "@hookimpl\ndef mmalign_configure(config):\n    raise KeyError('x')\n")
    found = plugins.load(["extra.py"], tmp_path, installed=False)
    with pytest.raises(KeyError) as caught:
        found.hook.mmalign_configure(config=None, catalogue=None)
    assert "extra" in caught.value.__notes__[0]
    assert "mmalign_configure" in caught.value.__notes__[0]


NESTED = """
import torch
from mmalign import RewardSpec, hookimpl
from mmalign.rewards.generated import rewards_of

class Inner:
    def __call__(self, samples):
        return torch.ones(len(samples))

class Outer:
    def __init__(self, rewards: list[dict]):
        self.inner = rewards_of(rewards)

@hookimpl
def mmalign_rewards():
    yield RewardSpec("inner", Inner)
    yield RewardSpec("outer", Outer)
"""


def test_parts_that_are_built_of_others_find_those_of_the_config_s_files(tmp_path):
    (tmp_path / "nested.py").write_text(NESTED, encoding="utf-8")
    found, faults = plugins.load(["nested.py"], tmp_path, installed=False), []
    chosen = Picker(found, faults)("rewards.0", "reward", Part(type="outer", rewards=[{"type": "inner"}]))
    assert faults == []
    assert [reward.name for reward in chosen.build().inner.rewards] == ["inner"]
    with pytest.raises(UserError, match="unknown reward 'inner'"):
        chosen.offer.spec.load()(rewards=[{"type": "inner"}])
