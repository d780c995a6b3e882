"""Parameters to start from: another run's, or a weight file's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
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
_TRANSPOSE = (
    "transpose its kernels from [out, in], OIHW, OIDHW to [in, out], HWIO, DHWIO, as "
    "docs/models.md says under 'Starting from weights'"
)
_RENAME = "rename PyTorch's weight to kernel (scale in batch normalisation)"


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
      UserError: nothing to read there, nothing in it that belongs here, another shape, a layer
        whose arrays have other names, or a name in `init` that stands for nothing.
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

    found = _found(init, source, ours, theirs, keras)
    if not found:
        raise UserError(_nothing(init, source, ours, theirs, keras))
    _check_arrays(init, source, ours, {path: theirs[found[path]] for path in ours if path in found})

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
        text += f"; random: {by_layer(random)}"
    if report["unused"]:
        text += f"; not used there: {by_layer(report['unused'])}"
    return text


def by_layer(paths: Iterable[str]) -> str:
    """ "classifier (2), fc6 (2) and 3 more layers"."""
    counts: dict[str, int] = {}
    for path in paths:
        counts[_layer(path)] = counts.get(_layer(path), 0) + 1
    shown = [f"{layer} ({count})" for layer, count in list(counts.items())[:_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more layers" if more else "")


def _layer(path: str) -> str:
    return path.rpartition("/")[0] or path


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


def _found(
    init: config.Init, source: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], keras: Any
) -> dict[str, str]:
    """Paths here -> the names there that belong in them."""
    places = _places(init.rename, theirs, keras)
    found: dict[str, str] = {}
    for name, place in places.items():
        for path in _fitting(place, ours):
            if matches(path, init.skip):
                continue
            if path in found:
                raise UserError(
                    f"{found[path]} and {name} of {source} both belong in {path}: choose with "
                    "train.init.rename"
                )
            found[path] = name
    _check_layers(init, source, ours, places, found)
    return found


def _check_layers(
    init: config.Init,
    source: str,
    ours: Mapping[str, Any],
    places: Mapping[str, str],
    found: Mapping[str, str],
) -> None:
    """Raises:
    UserError: a layer's arrays have other names there. PyTorch's bias is called as ours, and would
      be loaded without its kernel.
    """
    empty: dict[str, str] = {}
    for path in ours:
        if path not in found and not matches(path, init.skip):
            empty.setdefault(_layer(path), path)
    other = {
        name: empty[layer]
        for name, place in places.items()
        if not _fitting(place, ours)
        for layer in _fitting(_layer(place), empty)
    }
    if other:
        order = list(ours)
        name, path = min(other.items(), key=lambda p: (not _is_weight(p[0]), order.index(p[1])))
        more = f" (and {len(other) - 1} more like it)" if len(other) > 1 else ""
        remedy = (
            "call its arrays as ours, or start the layer from random numbers with "
            f"{_skip(init, [_layer(path)])}"
        )
        if _is_weight(name):
            remedy = f"{_RENAME} and {_TRANSPOSE}"
        raise UserError(f"{source} has {name} where {path} belongs{more}: {remedy}")


def _is_weight(name: str) -> bool:
    return name.rpartition("/")[2] == "weight"


def _check_arrays(
    init: config.Init, source: str, ours: Mapping[str, Any], loaded: Mapping[str, Any]
) -> None:
    shapes = {
        path: (tuple(ours[path].shape), tuple(array.shape))
        for path, array in loaded.items()
        if array.shape != ours[path].shape
    }
    if shapes:
        path, remedy = _remedy(init, shapes)
        here, there = map(list, shapes[path])
        more = f" (and {len(shapes) - 1} more differ)" if len(shapes) > 1 else ""
        raise UserError(f"{path} is {here} here and {there} in {source}{more}: {remedy}")
    for path, array in loaded.items():
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise UserError(f"{source} has numbers for {path} that are not finite: take another")


def _remedy(
    init: config.Init, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> tuple[str, str]:
    """Of shapes that differ, here and there: the path that tells why, and what to do."""
    layers = list(dict.fromkeys(map(_layer, shapes)))
    # A layer of another size has another bias too.
    straight = {_layer(path) for path, pair in shapes.items() if not _is_transposed(*pair)}
    for path in shapes:
        if _layer(path) not in straight:
            return path, f"that is PyTorch's layout, so {_TRANSPOSE}"
    for path, (here, there) in shapes.items():
        if len(here) > 2 and (*here[:-2], here[-1]) == (*there[:-2], there[-1]):
            # Of one image stream, and of two as channels.
            if (here[-2], there[-2]) in ((1, 3), (2, 6)):
                return path, "give it colours too, with --data.image_color rgb"
            if (here[-2], there[-2]) in ((3, 1), (6, 2)):
                return path, "give it gray images too, with --data.image_color gray"
    if len(layers) > 2 * _SHOWN:
        return next(iter(shapes)), "give the network the settings of the one there"
    return next(iter(shapes)), f"start it from random numbers with {_skip(init, layers)}"


def _skip(init: config.Init, layers: Iterable[str]) -> str:
    patterns = ",".join((*init.skip, *(f"{layer}/*" for layer in layers)))
    return f"--train.init.skip '{patterns}'"


def _is_transposed(here: tuple[int, ...], there: tuple[int, ...]) -> bool:
    """[*window, in, out] here, [out, in, *window] there; a depthwise kernel is [in, 1, *window]."""
    return there in ((*here[:-3:-1], *here[:-2]), (*here[-2:], *here[:-2]))


def _nothing(
    init: config.Init,
    source: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    keras: Any,
) -> str:
    """The message for a source that has nothing for this network."""
    text = f"nothing in {source} belongs here: it has {_some(theirs)}; here are {_some(ours)}"
    wanted = [path for path in ours if not matches(path, init.skip)]
    for rename in _guesses(init.rename, wanted, theirs, keras):
        guess = dataclasses.replace(init, rename=rename)
        with suppress(UserError):
            if found := _found(guess, source, ours, theirs, keras):
                loaded = {path: theirs[name] for path, name in found.items()}
                _check_arrays(guess, source, ours, loaded)
                return f"{text}; try --train.init.rename '{json.dumps(rename)}'"
    if keras is None and any(map(_is_weight, theirs)):
        text += f"; {_RENAME} and {_TRANSPOSE}"
    return f"{text}; say which is which with train.init.rename"


def _guesses(
    rename: Mapping[str, str], ours: Iterable[str], theirs: Iterable[str], keras: Any
) -> Iterator[dict[str, str]]:
    """What may have been meant by `train.init.rename`, the likeliest first."""
    yield {}
    if keras is None:
        parts = _parts(theirs)
        for here, inner in _parts(ours).items():
            for there in parts:
                if parts[there] == inner:  # stack_crops there, stack_frontal here
                    yield {**rename, there: here}
    for part in dict.fromkeys(path.split("/")[0] for path in ours):
        yield {**rename, "": part}
    if keras is None:
        for part in dict.fromkeys(name.split("/")[0] for name in theirs):
            yield {**rename, part: ""}


def _parts(paths: Iterable[str]) -> dict[str, set[str]]:
    """What holds layers -> the paths inside, the outermost first."""
    parts: dict[str, set[str]] = {}
    for path in paths:
        names = path.split("/")
        for depth in range(1, len(names) - 1):
            parts.setdefault("/".join(names[:depth]), set()).add("/".join(names[depth:]))
    return parts


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _under(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}/")


def _fitting(place: str, paths: Mapping[str, Any]) -> list[str]:
    """The paths that a place stands for: itself, or several if it has a *."""
    if "*" in place:
        return [path for path in paths if fnmatchcase(path, place)]
    return [place] if place in paths else []


def _places(rename: Mapping[str, str], theirs: Iterable[str], keras: Any) -> dict[str, str]:
    """Names there -> the path here that each would have, maybe with a *.

    Args:
      keras: the network's settings, if the names are Keras's.
    """
    groups: dict[str, list[str]] = {}
    for name in theirs:
        fitting = [prefix for prefix in rename if _under(name, prefix)]
        groups.setdefault(max(fitting, key=len, default=""), []).append(name)
    places: dict[str, str] = {}
    for prefix, names in groups.items():
        here = rename.get(prefix, "")
        rests = {name: name[len(prefix) :].lstrip("/") for name in names}
        if keras is None:
            inside = {rest: rest for rest in rests.values()}
        else:
            inside = weights.name_map(_part(keras, here), rests.values())
        for name in names:
            places[name] = "/".join(filter(None, (here, inside[rests[name]])))
    return places


def _part(settings: Any, path: str) -> Any:
    """The settings of a network's part, e.g. "cnn"."""
    for name in filter(None, path.split("/")):
        settings = getattr(settings, name, None) if name in ("cnn", "rnn") else None
    return settings
