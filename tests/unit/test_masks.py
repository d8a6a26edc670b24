"""Under a mask only what it shows counts in a likelihood, for every objective and wherever rows come from."""

import json

import pytest
import torch
from torch.testing import assert_close

from mmalign import UserError
from mmalign.data.check import Checker, Readable
from mmalign.data.presets import preset
from mmalign.data.sources import Pairs, SampleRows
from mmalign.errors import BadRow
from mmalign.feeds import Rows
from mmalign.objectives import dpo, kto, paired, rwr, sft
from mmalign.records import Masked
from unit.toy import gradient, pairs, parts, prompts, rng

LEFT = torch.tensor([[1.0, 0.5, 0.0]]).expand(3, 3)


def masked(media, mask):
    return [Masked(one, mask) for one in media]


def likelihood(media, policy=None):
    policy = policy or parts().policy
    encoded = policy.encode(prompts(len(media)), media, rng())
    return policy.log_likelihood(encoded, policy.draw(encoded, rng(1))).values[:, 0]


def test_the_error_is_a_mean_weighted_by_the_mask():
    policy, media = parts().policy, pairs(3)["chosen"]
    encoded = policy.encode(prompts(3), media, rng())
    draw = policy.draw(encoded, rng(1))
    x_t = policy.model.path.add_noise(encoded.latents, draw.noise, draw.t)
    squares = (policy.model.predict(x_t, draw.t, encoded.condition) - draw.noise) ** 2
    by_hand = -(squares * LEFT).sum(dim=(1, 2, 3)) / (2 * LEFT.sum()) / 2
    assert_close(likelihood(masked(media, LEFT)), by_hand)


def test_what_is_hidden_does_not_count():
    """The toy sees each place by itself."""
    media = pairs(2)["chosen"]
    hidden, shown = [one.clone() for one in media], [one.clone() for one in media]
    for one, other in zip(hidden, shown, strict=True):
        one[..., 2], other[..., 0] = 0.3, 0.3
    expected = likelihood(masked(media, LEFT))
    assert_close(likelihood(masked(hidden, LEFT)), expected)
    assert not likelihood(masked(shown, LEFT)).allclose(expected)


def test_a_mask_of_ones_is_no_mask_and_only_masked_rows_are_masked():
    media = pairs(2)["chosen"]
    plain = likelihood(media)
    assert_close(likelihood(masked(media, torch.ones(3, 3))), plain)
    mixed = likelihood([media[0], *masked(media[1:], LEFT)])
    assert_close(mixed[0], plain[0])
    assert not mixed[1].allclose(plain[1])


def test_a_mask_is_averaged_over_what_a_place_of_the_latents_sees():
    fine = LEFT.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    fine[0] += torch.tensor([0.0, 0.0, 0.1, -0.1, 0.0, 0.0])
    weights = parts().policy.encodings.weights([Masked(pairs(1)["chosen"][0], fine)])
    assert_close(weights[0].double(), LEFT.double())


def test_the_weights_hold_for_frames_and_for_the_drift_too():
    policy, media = parts().policy, pairs(2)["chosen"]
    encoded = policy.encode(prompts(2), masked(media, LEFT), rng())
    frames = torch.rand(2, 4, 5, 3, 3, dtype=torch.float64)
    by_hand = (frames**2 * LEFT).sum(dim=(1, 2, 3, 4)) / (4 * 5 * LEFT.sum())
    assert_close(encoded.mean_square(frames), by_hand)
    draw = policy.draw(encoded, rng())
    assert_close(policy.compared(encoded, draw).divergence.values[:, 0], policy.drift(encoded, draw) / 2)
    whole = policy.encode(prompts(2), media, rng())
    assert not policy.drift(encoded, draw).allclose(policy.drift(whole, draw))


def rows(kind):
    """A batch and what an objective makes of it, by name."""
    batch = pairs(3)
    sample = {"prompt": batch["prompt"], "sample": batch["chosen"], "label": [1, 0, 1], "score": [1.0, 2.0, 0.5]}
    objective = {
        "dpo": (paired.terms, dpo.loss),
        "kto": (kto.terms, kto.loss),
        "sft": (sft.terms, sft.loss),
        "rwr": (rwr.terms, rwr.loss),
    }[kind]
    return (batch if kind == "dpo" else sample), *objective


@pytest.mark.parametrize("kind", ["dpo", "kto", "sft", "rwr"])
def test_every_objective_learns_from_what_is_shown_alone(kind):
    def learned(change, mask):
        made, (batch, terms, loss) = parts(), rows(kind)
        for name in {"chosen", "rejected", "sample"} & batch.keys():
            media = [one.clone() for one in batch[name]]
            for one in media:
                one[..., 2] = one[..., 2] * change
            batch[name] = media if mask is None else masked(media, mask)
        return gradient(made, loss(**terms(made, batch, rng())).values.mean())

    assert_close(learned(0.2, LEFT), learned(1.0, LEFT))
    assert not learned(0.2, None).allclose(learned(1.0, None))
    assert_close(learned(1.0, torch.ones(3, 3)), learned(1.0, None))


def test_a_mask_that_leaves_nothing_is_an_error_that_names_its_row():
    with pytest.raises(UserError, match=r"pairs\.jsonl: row 7: mask is 0 everywhere"):
        likelihood([Masked(pairs(1)["chosen"][0], torch.zeros(3, 3), "pairs.jsonl: row 7: mask")])


@pytest.fixture
def table(tmp_path):
    """Three pairs, of which the second has an empty mask and the third none."""
    for name, value in {"a": 0.1, "b": 0.2, "half": LEFT, "empty": 0.0}.items():
        torch.save(torch.zeros(3, 3, 3) + value, tmp_path / f"{name}.pt")
    sides = {"prompt": "x", "chosen": "a.pt", "rejected": "b.pt", "sample": "a.pt"}
    masks = [{"mask": "half.pt"}, {"chosen_mask": "empty.pt", "mask": "half.pt"}, {"mask": None}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**sides, **more}) + "\n" for more in masks))
    return path


def test_rows_name_their_masks_by_side_or_for_all(table):
    first, second, third = Pairs(str(table))
    folder = table.parent
    assert first["rejected"] == Masked(folder / "b.pt", folder / "half.pt", f"{table}: row 1: mask")
    assert second["chosen"] == Masked(folder / "a.pt", folder / "empty.pt", f"{table}: row 2: chosen_mask")
    assert second["rejected"].mask == folder / "half.pt"
    assert third["chosen"] == folder / "a.pt"
    assert SampleRows(str(table))[0]["sample"].mask == folder / "half.pt"


def test_rows_with_an_empty_mask_are_left_out_and_counted(table):
    readable = Readable(Pairs(str(table)), torch.load)
    with pytest.raises(BadRow, match=r"row 2: .*chosen_mask is 0 everywhere"):
        readable[1]
    feed = Rows(readable, 3, seed=0, skip_bad=True)
    assert len(next(feed)["prompt"]) == 3
    assert list(feed.skipped) == [1]


def test_checking_the_data_tells_of_an_empty_mask(table):
    checker = Checker(preset("mmalign"), table.parent, torch.load)
    assert [tuple(found) for found in checker.file(table)] == [(2, "chosen_mask", "the mask is 0 everywhere")]
