"""Fine-grained DPO of M-HalDetect, for samples whose segments are labelled. Gunjal et al. 2023, arXiv:2308.06394.

    L_s = -log σ(β k_s),    k_s = r_s for a good segment s, -r_s for a bad one,    r_s = Σ_(u in s) log p_u - log r_u

given the prompt and all segments before s. No pairs are needed. A segment of any other class has no loss.

Where it differs: those classes are left out, where the paper writes k = -∞. With bad segments alone the minimum drives all
probabilities to 0: watch `good_logratio`.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(logratios: Tensor, signs: Tensor, *, beta: PositiveFloat = 0.5) -> Loss:
    """logratios: r, signs: 1 for a good segment, -1 for a bad one, 0 for any other; both `[N]`."""
    inside = beta * signs * logratios
    values = torch.where(signs != 0, -logsigmoid(inside), 0.0)
    good, bad = (logratios[signs == sign].detach().mean() for sign in (1, -1))
    right = (inside[signs != 0] > 0).float().mean()
    return Loss(values, {"accuracy": right, "good_logratio": good, "bad_logratio": bad})


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    good: Sequence[str] = ("accurate", "faithful"),
    bad: Sequence[str] = ("inaccurate", "hallucinated"),
) -> dict[str, Tensor]:
    """good, bad: classes. A segment that is bad in one kind of fact is bad, whatever it is in the others."""
    policy = parts.policy
    rows = policy.encode(batch["prompt"], batch["sample"], rng)
    log_probs, reference = sides.both(policy, rows, policy.draw(rows, rng))
    spans = [[(segment.start, segment.end) for segment in segments] for segments in batch["segments"]]
    said = policy.within(rows, batch["sample"], spans)
    found = torch.einsum("bu,bus->bs", log_probs.minus(reference).values, said.to(log_probs.values))
    logratios = torch.cat([row[: len(own)] for row, own in zip(found, spans, strict=True)])
    labels = [segment.labels for segments in batch["segments"] for segment in segments]
    return {"logratios": logratios, "signs": logratios.new_tensor([sign(one, good, bad) for one in labels])}


def sign(labels: Mapping[str, str], good: Sequence[str], bad: Sequence[str]) -> int:
    """Of a segment with these classes by kind."""
    if set(labels.values()) & set(bad):
        return -1
    return int(bool(set(labels.values()) & set(good)))


objective = Objective(loss, terms)
