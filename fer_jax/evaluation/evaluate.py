"""Evaluate a run: metrics.json and predictions.csv, with what makes the numbers believable."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.config import Data, Protocol
from fer_jax.data import audit, corpus, protocols
from fer_jax.data.samples import Samples, apply_caps, make_samples, streams_of
from fer_jax.errors import UserError
from fer_jax.evaluation.confidence import clustered_intervals
from fer_jax.evaluation.inference import data_of, infer_all
from fer_jax.evaluation.provenance import code_version, hardware
from fer_jax.labels import LabelSpace, make_label_space
from fer_jax.records import Clip
from fer_jax.training import distributed, loop, metrics
from fer_jax.training.run_directory import write_text

BATCH = 256
#: Below this, intervals that draw clusters are too narrow (Cameron, Gelbach and Miller, 2008).
FEW_CLUSTERS = 10


Opened = tuple[corpus.Corpus, Sequence[Clip], protocols.Index]
"""Records, their clips, which are in memory where they are small, and what splitting reads."""


def open_records(where: Path, data: Data) -> Opened:
    """What a run of this config is evaluated on.

    Raises:
      UserError: no such records.
    """
    records = corpus.load(where, streams=streams_of(data))
    clips = records if data.images else list(records)
    return records, clips, protocols.Index(clips)


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str = "test",
    labels: str = "",
    opened: Opened | None = None,
) -> dict[str, Any]:
    """Evaluate the best checkpoint of a run and write what it found into the run directory.

    On the run's own records the clips of `split` are evaluated, and metrics.json and
    predictions.csv are written; where `split` is not "test", into `<run>/evaluations/<split>/`.
    On other records every clip is that the run neither trained nor validated on (told by clip id,
    since the same corpus may have been extracted again), and the files lie in
    `<run>/evaluations/<name of the records>/`. Several processes (`distributed.start`) share the
    work, and the first writes. Clips whose emotion the run's label space leaves out
    are not evaluated; `left_out` counts them.

    Args:
      run: a run directory.
      data: a record directory; None is the one that the run was trained on.
      split: "train", "validation" or "test" of the run's own protocol; its own records only.
      labels: a coarser label space, whose classes' probabilities are the sums of the run's own
        (paper 4's three classes of seven); its files lie in `<...>/evaluations/<labels>/`.
      opened: the records, where they are open already (`open_records` of the same data settings).

    Returns:
      the content of metrics.json: accuracy, uar, macro_f1, per_class, n and confusion (see
      `training.metrics.compute`), ci95 with ci95_clusters (what was drawn) and ci95_drawn (of how
      many), by_clip and by_vote where a clip gives several samples, landmark_error where the model
      localises landmarks, cross_entropy, classes, protocol, split, split_sha256, subject_overlap,
      twin_overlap, audit (its verdict), audit_parts, data_sha256, code_version, hardware,
      experiment, epoch, notes (of the run's data and first parameters), and reported: what the
      config says that the paper reports.

    Raises:
      UserError: no such run or records, or nothing in them to evaluate.
    """
    run = Path(run)
    loaded = loop.load_run(run)
    experiment = loaded.experiment
    where = Path(experiment.data.dir if data is None else data)
    records, clips, index = opened or open_records(where, experiment.data)
    distributed.agree(
        {"the records' data_sha256": records.data_sha256, "the checkpoint of epoch": loaded.epoch},
        "give every process the same records and the same run",
    )
    facts = loaded.facts
    own = records.data_sha256 == facts["data_sha256"]
    if own:
        parts = _divided(run, index, experiment.protocol)
        if parts.sha256 != facts["split_sha256"]:
            raise UserError(
                f"this version of FER-JAX does not divide {where} as the one that trained {run}: "
                "evaluate with that version, or train again"
            )
        indices, audited = getattr(parts, split), facts["audit"]
        if split != "test":
            alone = dataclasses.replace(parts, test=indices, validation=parts.validation[:0])
            audited = audit.audit(clips, alone)
        if split == "train":
            indices = apply_caps(clips, indices, experiment.data)
        out = run if split == "test" else run / "evaluations" / split
    elif data is None:
        raise UserError(
            f"{where} does not hold the records that {run} was trained on any more: preprocess "
            f"them again as they were, or name other records: `fer-jax evaluate {run} DATA`"
        )
    else:
        parts = _unseen(run, records.name, clips)
        indices = parts.test
        # Without a clip in common nothing is known of subjects that two corpora may share.
        audited = audit.audit(clips, parts) if len(parts.train) else {}
        names = [path.resolve().name for path in corpus.directories(where)]
        out = run / "evaluations" / "+".join(names)
        if _holds_other(out, records.data_sha256):
            out = out.with_name(f"{out.name}-{records.data_sha256[:8]}")
    if not len(indices):
        what = f"no {split} part" if own else f"no clip that {run} did not see in training"
        raise UserError(f"{where}: there is {what} to evaluate")
    _same_features(records, loaded, where)
    label_space, merge = _merged(loaded.label_space, labels)
    if labels:
        out = out / "evaluations" / labels
    samples = make_samples(clips, indices, label_space, data_of(loaded))

    prediction = infer_all(loaded, samples, BATCH)
    if prediction is None:
        return distributed.from_first(None)
    probabilities = np.asarray(prediction.probabilities) @ merge
    found = _metrics(label_space.classes, probabilities, samples, clips)
    if experiment.data.landmarks:
        found["landmark_error"] = float(np.mean(prediction.landmark_error))
    found |= {
        "protocol": facts["protocol"] if own else parts.name,
        "split": split if own else "all",
        "split_sha256": parts.sha256,
        "left_out": {
            "no_class": samples.left_out("unlabelled"),
            "no_face": samples.left_out("faceless"),
            "too_short": samples.left_out("short"),
        },
        "subject_overlap": audited.get("subject_overlap"),
        "twin_overlap": audited.get("twin_overlap"),
        "audit": audited.get("verdict"),
        "audit_parts": audited.get("parts", {}),
        "data_sha256": records.data_sha256,
        "code_version": code_version(),
        "hardware": hardware(),
        "experiment": experiment.name,
        "epoch": loaded.epoch,
        "notes": facts.get("notes", []),
    }
    if experiment.reported and own and split == "test" and not labels:
        found["reported"] = dict(experiment.reported)
    out.mkdir(parents=True, exist_ok=True)
    table = _predictions(label_space.classes, probabilities, samples, clips)
    write_text(out / "predictions.csv", table)
    write_text(out / "metrics.json", json.dumps(found, indent=1) + "\n")
    return distributed.from_first(found | {"written": str(out)})


def _holds_other(out: Path, data_sha256: str) -> bool:
    """Results on records of the same name, and another content, lie there."""
    path = out / "metrics.json"
    return path.is_file() and json.loads(path.read_text())["data_sha256"] != data_sha256


def _same_features(records: corpus.Corpus, loaded: loop.LoadedRun, where: Path) -> None:
    """Raises:
    UserError: extracted features are those of another network than the run trained on.
    """
    made, features = loaded.facts["extracted"], records.extracted
    if made and features and made["weights_sha256"] != features.facts["weights_sha256"]:
        raise UserError(
            f"{features.features} in {where} are another network's than those that the run was "
            f"trained on: make them with `fer-jax extract {made['run']} {where} --name NAME`"
        )


def _merged(own: LabelSpace, labels: str) -> tuple[LabelSpace, np.ndarray]:
    """The label space of that name, and f32[K, K'] that sums a run's probabilities to its classes.

    Raises:
      UserError: no such label space, or it has no class for one of the run's.
    """
    if not labels:
        return own, np.eye(len(own.classes), dtype=np.float32)
    space = make_label_space(labels, own.classes)
    place = [space.index(word) for word in own.classes]
    found = [index for index in place if index is not None]
    if len(found) < len(place):
        lost = own.classes[place.index(None)]
        raise UserError(
            f"--labels {labels} has no class for {lost}: the run's classes are "
            f"{', '.join(own.classes)}, those of {labels} {', '.join(space.classes)}"
        )
    return space, np.eye(len(space.classes), dtype=np.float32)[found]


def _metrics(
    classes: Sequence[str],
    probabilities: np.ndarray,
    samples: Samples,
    clips: Sequence[Clip],
) -> dict[str, Any]:
    predicted = probabilities.argmax(-1)
    confusion = metrics.confusion_matrix(samples.label, predicted, len(classes))
    found = metrics.compute(confusion, classes)
    kind, name_of = _clusters(samples.clip, clips)
    cluster = [name_of[i] for i in samples.clip]
    found["ci95"] = clustered_intervals(samples.label, predicted, cluster, len(classes))
    found["ci95_clusters"] = kind
    found["ci95_drawn"] = len(set(cluster))
    eps = np.finfo(np.float32).tiny
    picked = probabilities[np.arange(len(predicted)), samples.label]
    found["cross_entropy"] = float(-np.log(np.maximum(picked, eps)).mean())
    found["classes"] = list(classes)
    if len(np.unique(samples.clip)) < len(samples.clip):
        # Several samples a clip (sections, frames): the clip's verdict is their mean (paper 1).
        clip, averaged, label = metrics.by_clip(probabilities, samples.clip, samples.label)
        verdict = averaged.argmax(-1)
        matrix = metrics.confusion_matrix(label, verdict, len(classes))
        found["by_clip"] = metrics.compute(matrix, classes)
        found["by_clip"]["ci95"] = clustered_intervals(
            label, verdict, [name_of[i] for i in clip], len(classes)
        )
        votes = metrics.votes(probabilities, samples.clip)
        counted = metrics.confusion_matrix(label, votes, len(classes))
        found["by_vote"] = metrics.compute(counted, classes)
    return found


def _clusters(indices: np.ndarray, clips: Sequence[Clip]) -> tuple[str, dict[int, str]]:
    """What the clips at `indices` are drawn by for intervals, and the cluster of each.

    Subjects, unless one is unknown or there is only one: then recordings or single clips.
    """
    used = sorted(set(indices.tolist()))
    subjects = {i: protocols.subject_of(clips[i]) for i in used}
    if all(subjects.values()) and len(set(subjects.values())) > 1:
        return "subject", subjects
    return "clip", {i: protocols.recording_of(clips[i]) or clips[i].clip_id for i in used}


def _divided(run: Path, index: protocols.Index, protocol: Protocol) -> protocols.Split:
    """The run's split, made again; of protocol `file` from the run's copy of what the file said."""
    if protocol.name != "file":
        return protocols.make_split(index, protocol)
    return protocols.make_split(index, dataclasses.replace(protocol, file=str(run / "split.csv")))


def _unseen(run: Path, name: str, clips: Sequence[Clip]) -> protocols.Split:
    """Other records, divided by what the run did with a clip of that id; the rest tests."""
    seen: dict[str, str] = {}
    for one, clip_id in protocols.read_split(run / "split.csv"):
        seen.setdefault(clip_id, one)  # What validates may test too, and was seen.
    whole = protocols.everything(clips, f"all of {name}")
    part = np.array([seen.get(clips[i].clip_id, "test") for i in whole.test], dtype=object)
    if (part == "test").all():
        return whole
    return dataclasses.replace(
        whole,
        name=f"all of {name} that training did not see",
        **{one: whole.test[part == one] for one in protocols.PARTS},
    )


def _predictions(
    classes: Sequence[str],
    probabilities: np.ndarray,
    samples: Samples,
    clips: Sequence[Clip],
) -> str:
    clip, averaged, label = metrics.by_clip(probabilities, samples.clip, samples.label)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["clip_id", "subject", "emotion", "truth", "predicted", "correct",
                    *(f"p_{name}" for name in classes)])  # fmt: skip
    for index, row, truth in zip(clip, averaged, label, strict=True):
        one, verdict = clips[index], int(row.argmax())
        table.writerow(
            [one.clip_id, one.subject, one.emotion, classes[truth], classes[verdict],
             int(verdict == truth), *(f"{p:.6f}" for p in row)]
        )  # fmt: skip
    return text.getvalue()


def load_metrics(run: Path) -> dict[str, Any]:
    """metrics.json of an evaluated run.

    Raises:
      UserError: the run has not been evaluated.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise UserError(f"{run} has no metrics.json: run `fer-jax evaluate {run}` first")
    return json.loads(path.read_text())


def render(found: dict[str, Any]) -> str:
    """Metrics as a small table, beside the paper's where the config names them."""
    reported = found.get("reported", {})
    lines = [f"{found['experiment']}: {found['n']} {found['split']} samples, {found['protocol']}"]
    lines.append(f"{'':10}{'here':>8}  {'95 % interval':>16}" + ("   paper" if reported else ""))
    for name in ("accuracy", "uar", "macro_f1"):
        low, high = found["ci95"][name]
        row = f"{name:10}{found[name]:8.4f}  {f'{low:.4f} - {high:.4f}':>16}"
        lines.append(row + (f"  {reported[name]:.4f}" if name in reported else ""))
    lines.append(f"chance    {1 / len(found['classes']):8.4f}")
    if "by_clip" in found:
        clip = found["by_clip"]
        values = ", ".join(f"{name} {clip[name]:.4f}" for name in ("accuracy", "uar", "macro_f1"))
        lines.append(f"by clip ({clip['n']} clips, mean of their samples): {values}")
        lines.append(
            f"by clip, majority of their samples: accuracy {found['by_vote']['accuracy']:.4f}"
        )
    if "landmark_error" in found:
        lines.append(f"landmark error: {found['landmark_error']:.4f} inter-pupil distances")
    lines.append(f"intervals: {interval_note(found)}")
    if found["audit"]:
        lines.append(f"audit: {found['audit']}")
    left = {name.replace("_", " "): count for name, count in found["left_out"].items() if count}
    if left:
        lines.append("left out: " + ", ".join(f"{n} clips ({why})" for why, n in left.items()))
    return "\n".join(lines)


def interval_note(found: dict[str, Any]) -> str:
    """What the intervals were drawn from, and what to think of it where there is little."""
    text = f"bootstrap over {found['ci95_drawn']} {found['ci95_clusters']}s"
    few = found["ci95_drawn"] < FEW_CLUSTERS
    return f"{text}: so few make them too narrow" if few else text
