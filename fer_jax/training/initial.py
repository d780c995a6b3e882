"""Parameters to start from: another run's, or a weight file's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np

from fer_jax import config
from fer_jax.errors import UserError
from fer_jax.models import weights
from fer_jax.models.paths import flatten, matches, unflatten
from fer_jax.training.run_directory import load_run

#: How many names a message shows.
_SHOWN = 3


def initial_variables(
    init: config.Init, variables: Mapping[str, Any], settings: config.Model
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network's first variables, with what `init` names in the place of random numbers.

    `init.rename` maps prefixes of the paths there, or of the names in a weight file, to prefixes
    here; the longest that fits counts, and a * here stands for every such part ("stack_*").

    Args:
      variables: {"params", "stats"}, random.
      settings: the network's, which say how Keras calls its layers.

    Returns:
      the variables, and a report in JSON: "from", "loaded" (arrays), "loaded_parameters" (numbers
      in them), "random" (paths here that were not loaded), "unused" (names there that were not);
      {} where `init` names nothing.

    Raises:
      UserError: nothing to read there, nothing in it that belongs here, another shape, or a name
        in `init` that stands for nothing.
    """
    if not (init.run or init.weights):
        return dict(variables), {}
    if init.run and init.weights:
        raise UserError("train.init has a run and weights: give one of them")
    params, stats = flatten(variables["params"]), flatten(variables["stats"])
    ours = {**params, **stats}
    if init.run:
        source, keras, theirs = ", ".join(init.run), None, {}
        for run in init.run:
            there = load_run(run).variables
            theirs = {**flatten(there["params"]), **flatten(there["stats"]), **theirs}
    else:
        source, theirs = init.weights, weights.read_weights(init.weights)
        keras = None if source.lower().endswith(".safetensors") else settings
    _check_names(init, source, ours, theirs)

    places = _places(init.rename, ours, theirs, keras)
    found: dict[str, str] = {}
    for name, paths in places.items():
        for path in paths:
            if matches(path, init.skip):
                continue
            if path in found:
                raise UserError(
                    f"{found[path]} and {name} of {source} both belong in {path}: choose with "
                    "train.init.rename"
                )
            found[path] = name
    if not found:
        raise UserError(_nothing(init, source, ours, theirs, keras))
    _check_arrays(source, ours, {path: theirs[found[path]] for path in ours if path in found})

    def value(path: str) -> Any:
        leaf = ours[path]
        return jnp.asarray(theirs[found[path]], leaf.dtype) if path in found else leaf

    used = set(found.values())
    report = {
        "from": source,
        "loaded": len(found),
        "loaded_parameters": sum(int(ours[path].size) for path in found),
        "random": [path for path in ours if path not in found],
        "unused": [name for name in theirs if name not in used],
    }
    started = {
        "params": unflatten({path: value(path) for path in params}),
        "stats": unflatten({path: value(path) for path in stats}),
    }
    return started, report


def render(report: Mapping[str, Any]) -> str:
    """`initial_variables`' report in a line or two."""
    loaded, random = report["loaded"], report["random"]
    numbers = report["loaded_parameters"]
    size = f"{numbers / 1e6:.1f} M" if numbers >= 1e6 else f"{numbers:,}"
    tensors = f"{loaded} of {loaded + len(random)} tensors ({size} numbers)"
    text = f"weights: {tensors} from {report['from']}"
    if random:
        text += f"; random: {_by_layer(random)}"
    if report["unused"]:
        text += f"; not used there: {_by_layer(report['unused'])}"
    return text


def _by_layer(paths: Iterable[str]) -> str:
    """ "classifier (2), fc6 (2) and 3 more layers"."""
    counts: dict[str, int] = {}
    for path in paths:
        layer = str(PurePosixPath(path).parent) if "/" in path else path
        counts[layer] = counts.get(layer, 0) + 1
    shown = [f"{layer} ({count})" for layer, count in list(counts.items())[:_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more layers" if more else "")


def _check_names(
    init: config.Init, source: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    for pattern in init.skip:
        if not any(matches(path, (pattern,)) for path in ours):
            raise UserError(
                f"train.init.skip {pattern} names no parameter: there are {_some(ours)}"
            )
    for prefix in init.rename:
        if not any(_under(name, prefix) for name in theirs):
            raise UserError(
                f"train.init.rename {prefix!r} begins no name in {source}: there are "
                f"{_some(theirs)}"
            )


def _check_arrays(source: str, ours: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    wrong = [path for path, array in loaded.items() if array.shape != ours[path].shape]
    if wrong:
        path = wrong[0]
        layers = list(dict.fromkeys(f"{path.rpartition('/')[0] or path}/*" for path in wrong))
        remedy = f"start it from random numbers with --train.init.skip '{','.join(layers)}'"
        if len(layers) > 2 * _SHOWN:
            remedy = "give the network the settings of the one there"
        more = f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise UserError(
            f"{path} is {list(ours[path].shape)} here and {list(loaded[path].shape)} in {source}"
            f"{more}: {remedy}"
        )
    for path, array in loaded.items():
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise UserError(f"{source} has numbers for {path} that are not finite: take another")


def _nothing(
    init: config.Init,
    source: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    keras: Any,
) -> str:
    """The message for a source that has nothing for this network."""
    text = f"nothing in {source} belongs here: it has {_some(theirs)}; here are {_some(ours)}"
    guesses = [("", part) for part in dict.fromkeys(path.split("/")[0] for path in ours)]
    if keras is None:
        guesses += [(part, "") for part in dict.fromkeys(name.split("/")[0] for name in theirs)]
    for there, here in () if init.rename else guesses:
        with suppress(UserError):
            if any(_places({there: here}, ours, theirs, keras).values()):
                return f'{text}; try --train.init.rename \'{{"{there}": "{here}"}}\''
    return f"{text}; say which is which with train.init.rename"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _under(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}/")


def _places(
    rename: Mapping[str, str], ours: Mapping[str, Any], theirs: Iterable[str], keras: Any
) -> dict[str, list[str]]:
    """Names there -> the paths here that they belong in.

    Args:
      keras: the network's settings, if the names are Keras's.
    """
    groups: dict[str, list[str]] = {}
    for name in theirs:
        fitting = [prefix for prefix in rename if _under(name, prefix)]
        groups.setdefault(max(fitting, key=len, default=""), []).append(name)
    places: dict[str, list[str]] = {}
    for prefix, names in groups.items():
        here = rename.get(prefix, "")
        rests = {name: name[len(prefix) :].lstrip("/") for name in names}
        if keras is None:
            inside = {rest: rest for rest in rests.values()}
        else:
            inside = weights.name_map(_part(keras, here), rests.values())
        for name in names:
            path = "/".join(filter(None, (here, inside[rests[name]])))
            if "*" in path:
                places[name] = [own for own in ours if fnmatchcase(own, path)]
            else:
                places[name] = [path] if path in ours else []
    return places


def _part(settings: Any, path: str) -> Any:
    """The settings of a network's part, e.g. "cnn"."""
    for name in filter(None, path.split("/")):
        settings = getattr(settings, name, None) if name in ("cnn", "rnn") else None
    return settings
