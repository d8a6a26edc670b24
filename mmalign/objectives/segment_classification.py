"""Classification of segments, as in M-HalDetect (Gunjal et al. 2023, arXiv:2308.06394) and FGAIF (Jing & Du 2024,
arXiv:2404.05046).

    L = Σ_k -w(c_k) log softmax(z_k)[c_k]

for a segment that kind k of fact labels c_k, z_k being what head k says where the segment ends. A kind without a label is
left out. The metric is each class's recall and their mean by kind, because one class is most of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmalign.errors import UserError, nearest
from mmalign.maths.agreement import recalls
from mmalign.objectives.labels import check_read, class_indices
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    logits: Tensor,
    labels: Tensor,
    kinds: Sequence[str],
    classes: Sequence[str],
    *,
    class_weights: Mapping[str, PositiveFloat] = {},
) -> Loss:
    """logits: z, `[N, K, C]`, labels: c, `[N, K]`, -1 for none. class_weights: w by class; 1 where none is given."""
    if unknown := [f"'{name}'{nearest(name, classes)}" for name in class_weights if name not in classes]:
        raise UserError(f"objective.class_weights: no class {', '.join(unknown)}; there are {', '.join(classes)}")
    weights = logits.new_tensor([class_weights.get(name, 1.0) for name in classes])
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, ignore_index=-1, reduction="none")
    metrics = {}
    for k, kind in enumerate(kinds):
        found = recalls(logits[:, k].argmax(dim=1), labels[:, k], len(classes))
        metrics[f"balanced_accuracy/{kind}"] = found.nanmean()
        metrics |= {f"recall/{kind}/{name}": found[c] for c, name in enumerate(classes)}
    return Loss(each.view_as(labels).sum(dim=1), metrics)


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Any]:
    """What the heads say where each labelled segment of the samples ends."""
    policy, heads = parts.policy, parts.policy.heads
    ends = [[segment.end for segment in segments] for segments in batch["segments"]]
    encoded = policy.encode(batch["prompt"], batch["sample"], ends)
    check_read(encoded.places, ends, batch["sample"])
    logits = policy.logits(encoded)
    said = [segment.labels for segments in batch["segments"] for segment in segments]
    labels = class_indices(said, heads.names, heads.classes).to(logits.device)
    return {"logits": logits, "labels": labels, "kinds": heads.names, "classes": heads.classes}


objective = Objective(loss, terms)
