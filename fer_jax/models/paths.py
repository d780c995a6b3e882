"""Parameters by path: "cnn/block1_conv1/kernel"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by path, in order."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}/")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *above, last = path.split("/")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern names the path or something above it: "cnn", "cnn/*", "*/bias"."""
    return any(fnmatchcase(path, p) or fnmatchcase(path, f"{p}/*") for p in patterns)
