"""Parts that a config or the command line names, found in the catalogue; nothing is built yet."""

from dataclasses import dataclass
from typing import Any

import torch

from mmalign import options
from mmalign.config import Part
from mmalign.errors import UserError
from mmalign.faults import Fault
from mmalign.plugins import OFFERS, Catalogue, Offer, Plugins, searching


@dataclass(frozen=True)
class Choice:
    """One part of the config, found in the catalogue. options: complete, with defaults."""

    key: str
    offer: Offer
    options: dict[str, Any]
    catalogue: Catalogue

    def build(self, device: torch.device | str | None = None) -> Any:
        """Make it, and move it to a `device` if it can be moved. A user's mistake gets the part's place put before it."""
        try:
            with searching(self.catalogue):
                made = self.offer.spec.load()(**options.parsed(self.offer.spec, self.options))
        except UserError as error:
            raise UserError(f"{self.key} ({self.offer.spec.name}): {error}") from None
        return made.to(device) if device is not None and hasattr(made, "to") else made


class Picker:
    """Finds parts and checks their options; what is wrong goes to `faults` and None comes back."""

    def __init__(self, plugins: Plugins, faults: list[Fault]):
        self.plugins = plugins
        self.faults = faults

    def __call__(self, key: str, kind: str, part: Part) -> Any:
        assert kind in OFFERS
        try:
            offer = self.plugins.catalogue.find(kind, part.type)
            wrong = options.check(offer.spec, part.options)
        except UserError as error:
            self.faults.append((key, str(error)))
            return None
        self.faults += [(f"{key}.{path}", message) for path, message in wrong]
        if wrong:
            return None
        return Choice(key, offer, options.complete(offer.spec, part.options), self.plugins.catalogue)
