"""Xception and C3D in PyTorch, as its users write them: the peers of `benchmarks.image_step`.

Layer for layer fer_jax's networks (docs/reproduction.md 2.2 and 3.3); only where a strided pool's
padding lies differs, as PyTorch has no TensorFlow padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fer_jax import config


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def _separable(features: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(features, features, 3, padding=1, groups=features, bias=False),
        nn.Conv2d(features, width, 1, bias=False),
        _norm(width),
    ]


class _Block(nn.Module):
    def __init__(self, features: int, widths: Sequence[int], halves: bool) -> None:
        super().__init__()
        layers, width = [], features
        for next_width in widths:
            layers += [nn.ReLU(), *_separable(width, next_width)]
            width = next_width
        if halves:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if halves:
            conv = nn.Conv2d(features, width, 1, stride=2, bias=False)
            self.shortcut = nn.Sequential(conv, _norm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.layers(x)


class Xception(nn.Module):
    """On [N, C, H, W]."""

    def __init__(self, settings: config.Xception, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        features, layers, stride = image[-1], [], settings.stem_stride
        for width in settings.stem:
            conv = nn.Conv2d(features, width, 3, stride=stride, bias=False)
            layers += [conv, _norm(width), nn.ReLU()]
            features, stride = width, 1
        for width in settings.entry:
            layers.append(_Block(features, (width, width), True))
            features = width
        layers += [_Block(features, (features,) * 3, False) for _ in range(settings.middle)]
        if settings.exit:
            layers.append(_Block(features, (features, settings.exit[0]), True))
            features = settings.exit[0]
        for width in settings.exit[1:]:
            layers += [*_separable(features, width), nn.ReLU()]
            features = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if settings.dense:
            layers += [nn.Linear(features, settings.dense), nn.ReLU()]
            features = settings.dense
        layers += [nn.Dropout(settings.dropout), nn.Linear(features, classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class _EverySecond(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2, ::2]


class C3D(nn.Module):
    """With the thesis's pools, on [N, C, T, H, W]."""

    def __init__(self, settings: config.C3D, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        assert settings.pools == "thesis"
        layers: list[nn.Module] = []
        features = image[-1]
        one, two, three, four, five = settings.widths
        for width, pools in (
            (one, [nn.MaxPool3d((1, 2, 2))]),
            (two, [nn.MaxPool3d(2)]),
            (three, []),
            (three, [_EverySecond()]),
            (four, []),
            (four, [_EverySecond()]),
            (five, []),
            (five, [nn.ConstantPad3d((1, 1, 1, 1, 0, 0), 0.0), _EverySecond()]),
        ):
            layers += [nn.Conv3d(features, width, 3, padding=1), nn.ReLU(), *pools]
            features = width
        layers.append(nn.Flatten())
        for units in settings.dense:
            layers += [nn.LazyLinear(units), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.layers = nn.Sequential(*layers, nn.LazyLinear(classes))
        with torch.no_grad():  # the linear layers take their sizes
            self.layers(torch.zeros(1, image[-1], *image[:-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def make(settings: Any, image: tuple[int, ...], classes: int) -> nn.Module:
    """The twin of fer_jax's network of these settings.

    Args:
      image: H, W, C of a picture or T, H, W, C of a clip.
    """
    networks = {"xception": Xception, "c3d": C3D}
    return networks[settings.name](settings, image, classes)
