"""`faces-reader`: a small network that reads a face's attributes and drawing parameters from its image."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from .faces import ATTRIBUTES, COLOURS, GEOMETRY, HIDES, visible_mask

LOGITS = {name: len(values) for name, values in ATTRIBUTES.items()}


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(self.norm(x)))))


class FacesReader(ModelMixin, ConfigMixin):
    """Image float32 [n, 3, 64, 64] in [-1, 1] -> logits of every attribute, geometry, colours and features [n, features]."""

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (24, 48, 80, 96), features: int = 160):
        super().__init__()
        stages, width = [], 3
        for c in channels:
            stages += [nn.Conv2d(width, c, 4, stride=2, padding=1), Residual(c)]
            width = c
        self.stages = nn.Sequential(*stages)
        side = 64 // 2 ** len(channels)
        self.squeeze = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Flatten(), nn.Linear(width * side**2, features), nn.SiLU()
        )
        self.logits = nn.Linear(features, sum(LOGITS.values()))
        self.numbers = nn.Linear(features, len(GEOMETRY) + 3 * len(COLOURS))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.squeeze(self.stages(images))
        out = dict(zip(LOGITS, self.logits(features).split(list(LOGITS.values()), dim=1), strict=True))
        numbers = self.numbers(features).sigmoid()
        for j, (name, (low, high)) in enumerate(GEOMETRY.items()):
            margin = 0.1 * (high - low)  # so that the ends of the range are not at infinity
            out[name] = low - margin + (high - low + 2 * margin) * numbers[:, j]
        for j, name in enumerate(COLOURS):
            out[name] = numbers[:, len(GEOMETRY) + 3 * j :][:, :3]
        return out | {"features": features}


def reading_loss(read: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of visible attributes plus squared errors of visible numbers, geometry in units of its range."""
    loss = torch.zeros((), device=read["x"].device)
    for name in ATTRIBUTES:
        seen = visible_mask(truth, name).to(loss.device)
        entropy = nn.functional.cross_entropy(read[name].float(), truth[name], reduction="none", label_smoothing=0.01)
        loss = loss + (entropy * seen).sum() / seen.sum().clamp(min=1)
    for name, (low, high) in GEOMETRY.items():
        seen = visible_mask(truth, "eyes").to(loss.device) & (truth["eyes"] != 2) if name == "gaze" else True
        loss = loss + 6 * (((read[name].float() - truth[name]) / (high - low)).abs() * seen).mean()
    for name, (attribute, *_) in COLOURS.items():
        seen = (
            visible_mask(truth, attribute).to(loss.device)
            if attribute in HIDES
            else torch.ones(len(truth["x"]), device=loss.device)
        )
        loss = loss + 6 * ((read[name].float() - truth[name]).abs().mean(1) * seen).mean()
    return loss
