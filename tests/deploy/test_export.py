"""Exports: what they compute, what lies in them, and what is said where there can be none."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import fer_jax
from fer_jax.cli import main
from fer_jax.data import corpus
from fer_jax.deploy import artifact, trained
from fer_jax.errors import UserError
from fer_jax.records import Clip
from fer_jax.training import loop

OURS = ("safetensors", "stablehlo", "hf")


@pytest.fixture(scope="module")
def exported(tiny_run, made, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The LSTM on landmarks in every format, the one on what a CNN extracted as StableHLO."""
    root = tmp_path_factory.mktemp("exports")
    words = [tiny_run.dir, "--to", ",".join(OURS), "--out", root / "faces"]
    code, faces = made.fer("export", *words)
    assert code == 0
    code, pictures = made.fer("export", made.lstm, "--to", "stablehlo", "--out", root / "pictures")
    assert code == 0
    return SimpleNamespace(
        root=root, reports=(faces, pictures), faces=root / "faces", pictures=root / "pictures"
    )


def tree(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_the_report_names_what_lies_there(exported: SimpleNamespace) -> None:
    faces, pictures = exported.reports
    assert [one["format"] for one in faces["exports"]] == list(OURS)
    for one in (*faces["exports"], *pictures["exports"]):
        assert one["max_abs_difference"] <= 1e-5
        assert Path(one["path"], "recogniser.json").is_file()
    assert not faces["failed"] and not pictures["failed"]
    arrays = ["model.safetensors", "recogniser.json"]
    assert tree(exported.faces / "safetensors") == arrays
    assert tree(exported.faces / "hf") == ["README.md", "config.json", *arrays]
    programs = ["clip.stablehlo", *arrays, "stream.stablehlo"]
    assert tree(exported.faces / "stablehlo") == tree(exported.pictures / "stablehlo") == programs


def part_of(clip: Clip, frames: np.ndarray) -> Clip:
    names = ("frame_index", "time_ms", "face_found", "box", "landmarks68")
    return clip.replace(**{name: getattr(clip, name)[frames] for name in names})


@pytest.mark.parametrize("name", OURS)
def test_an_export_gives_evaluations_numbers(
    exported: SimpleNamespace, tiny_run, name: str
) -> None:
    run, predictor = fer_jax.load(tiny_run.dir), fer_jax.load(exported.faces / name)
    assert (predictor.classes, predictor.streams) == (run.classes, run.streams)
    clips = {clip.clip_id: clip for clip in corpus.load(tiny_run.records)}
    with open(tiny_run.dir / "predictions.csv", newline="") as file:
        for row in csv.DictReader(file):
            listed = [float(row[f"p_{name}"]) for name in predictor.classes]
            found = predictor.clip(clips[row["clip_id"]])
            np.testing.assert_allclose(found, listed, atol=2e-6)
    clip = clips["tiny/004"]
    np.testing.assert_allclose(predictor.frames(clip), run.frames(clip), atol=2e-6)
    # A stream of five frames is the clip of these five.
    five = np.flatnonzero(clip.face_found)[:5]
    stream = predictor.stream()
    for _ in range(2):
        said = [stream.push({"landmarks68": clip.landmarks68[t], "box": clip.box[t]}) for t in five]
        np.testing.assert_allclose(said[-1], run.clip(part_of(clip, five)), atol=2e-6)
        assert np.abs(np.diff(said, axis=0)).max() > 1e-3
        stream.reset()
    with pytest.raises(UserError, match="the frame has no box"):
        stream.push({"landmarks68": clip.landmarks68[0]})
    with pytest.raises(UserError, match=r"landmarks68 has shape \(5, 2\), not \(68, 2\)"):
        stream.push({"landmarks68": clip.landmarks68[0, :5], "box": clip.box[0]})


def test_pictures_through_two_networks(exported: SimpleNamespace, made: SimpleNamespace) -> None:
    run, predictor = fer_jax.load(made.lstm), fer_jax.load(exported.pictures / "stablehlo")
    assert predictor.streams == ("crops",)
    assert predictor.extraction() == run.extraction()
    for clip in corpus.load(made.records):
        np.testing.assert_allclose(predictor.clip(clip), run.clip(clip), atol=2e-6)
        np.testing.assert_allclose(predictor.frames(clip), run.frames(clip), atol=2e-6)
    with pytest.raises(UserError, match="its crops are 12x12x3 pixels and the export reads 24x24"):
        from PIL import Image

        file = made.root / "small.png"
        Image.new("RGB", (12, 12)).save(file)
        predictor.clip(clip.replace(crops=(file.read_bytes(),) * clip.frames))


@pytest.mark.parametrize("name", ["cnn", "c3d"])
def test_a_stream_of_pictures_says_what_frames_says(made: SimpleNamespace, name: str) -> None:
    from fer_jax.data import images

    predictor = fer_jax.load(getattr(made, name))
    clip = corpus.load(made.records)[0]
    crops = images.decode([crop for crop in clip.crops or () if crop], (24, 24, 3))
    stream = predictor.stream()
    found = [stream.push({"crops": crop}) for crop in crops]
    np.testing.assert_allclose(found, predictor.frames(clip)[clip.face_found], atol=2e-6)


def test_safetensors_read_elsewhere(exported: SimpleNamespace, tiny_run) -> None:
    from safetensors import safe_open

    loaded = loop.load_run(tiny_run.dir)
    path = exported.faces / "safetensors" / "model.safetensors"
    with safe_open(path, framework="np") as file:
        names, facts = set(file.keys()), json.loads(file.metadata()["recogniser"])
        lstm = loaded.variables["params"]["lstm_0"]
        for name in ("kernel", "recurrent_kernel", "bias"):
            found = file.get_tensor(f"params/lstm_0/{name}")
            np.testing.assert_array_equal(found, lstm[name])
        for name in ("mean", "std"):
            found = file.get_tensor(f"statistics/{name}")
            np.testing.assert_array_equal(found, loaded.statistics[name])
    assert names == {
        "params/classifier/kernel", "params/classifier/bias", "params/lstm_0/kernel",
        "params/lstm_0/recurrent_kernel", "params/lstm_0/bias", "statistics/mean",
        "statistics/std",
    }  # fmt: skip
    assert facts["classes"] == ["neutral", "happy", "sad"]
    assert facts["network"]["experiment"]["model"]["units"] == [8]
    assert str(tiny_run.records) not in json.dumps(facts)


def test_stablehlo_without_this_package(exported: SimpleNamespace, tiny_run) -> None:
    """As docs/export.md has it."""
    from jax import export
    from safetensors import safe_open

    folder = exported.faces / "stablehlo"
    variables: dict[str, Any] = {"params": {}, "stats": {}, "statistics": {}}
    with safe_open(folder / "model.safetensors", framework="np") as file:
        for path in file.keys():  # noqa: SIM118
            *above, name = path.split("/")
            node = variables
            for part in above:
                node = node.setdefault(part, {})
            node[name] = file.get_tensor(path)
    program = export.deserialize(bytearray((folder / "clip.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    recogniser = trained.load_recogniser(tiny_run.dir)
    rng = np.random.default_rng(0)
    for batch in (1, 7):
        points = rng.uniform(0, 90, (batch, 5, 68, 2)).astype(np.float32)
        box = np.tile(np.float32([10, 10, 90, 90]), (batch, 5, 1))
        inputs = {"landmarks68": points, "box": box, "frame_mask": np.ones((batch, 5), bool)}
        found = program.call(variables, inputs)
        wanted = recogniser.clip.function(recogniser.variables, inputs)
        assert found["probabilities"].shape == (batch, 3)
        for name in ("logits", "probabilities"):
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-6)


def test_stablehlo_of_another_time(exported: SimpleNamespace, tmp_path: Path) -> None:
    from jax import export

    old = shutil.copytree(exported.faces / "stablehlo", tmp_path / "old")
    path = old / "clip.stablehlo"
    program = export.deserialize(bytearray(path.read_bytes()))
    low = export.minimum_supported_calling_convention_version
    older = dataclasses.replace(program, calling_convention_version=low - 1)
    for blob in (older.serialize(), b"not a program"):
        path.write_bytes(blob)
        with pytest.raises(UserError) as error:
            fer_jax.load(old)
        said = str(error.value)
        assert "\n" not in said
        assert f"was written by JAX {jax.__version__}" in said
        assert "`fer-jax export RUN --to stablehlo`" in said
        assert f"or use {old / 'model.safetensors'} in its place" in said
    # What it says helps.
    assert fer_jax.load(old / "model.safetensors").classes == ("neutral", "happy", "sad")


def test_a_hugging_face_folder(exported: SimpleNamespace, tiny_run) -> None:
    from huggingface_hub import ModelCard, metadata_load
    from huggingface_hub.repocard import metadata_eval_result  # noqa: F401

    folder = exported.faces / "hf"
    metrics = json.loads((tiny_run.dir / "metrics.json").read_text())
    card = ModelCard.load(folder / "README.md", repo_type="model")
    assert metadata_load(folder / "README.md") == card.data.to_dict()
    found = {one.metric_name: one.metric_value for one in card.data.eval_results}
    for name, key in (
        ("accuracy", "accuracy"), ("unweighted average recall", "uar"), ("macro F1", "macro_f1"),
    ):  # fmt: skip
        assert found[name] == pytest.approx(metrics[key], abs=1e-6)
    assert {one.task_type for one in card.data.eval_results} == {"video-classification"}
    for words in (
        metrics["split_sha256"], "Protocol subject", "dlib's shape predictor", "commercial use",
        "does not know what anybody feels", "people who also train: 0.0%", "- tiny: a collection",
    ):  # fmt: skip
        assert words in card.text
    settings = json.loads((folder / "config.json").read_text())
    assert settings["id2label"] == {"0": "neutral", "1": "happy", "2": "sad"}
    assert settings["fer_jax"]["split_sha256"] == metrics["split_sha256"]


def test_terms_of_the_corpora() -> None:
    from fer_jax.deploy.card import _terms

    assert _terms("fer2013") == "research use; do not redistribute."
    assert _terms("ck+-frames") == "research, not commercial; no redistribution."
    assert _terms("ravdess").startswith("Creative Commons BY-NC-SA 4.0; commercial licences")
    assert "unknown" in _terms("mine")


def test_an_export_that_differs_is_not_written(
    exported: SimpleNamespace, tiny_run, tmp_path: Path, monkeypatch, capsys
) -> None:
    from fer_jax.deploy import formats

    save, load = formats.functions("safetensors")

    def spoiled(recogniser: Any, directory: Path) -> None:
        bias = recogniser.variables["params"]["classifier"]["bias"]
        variables = {**recogniser.variables, "params": dict(recogniser.variables["params"])}
        variables["params"]["classifier"] = {
            **variables["params"]["classifier"], "bias": bias + np.float32(1e-3),
        }  # fmt: skip
        save(dataclasses.replace(recogniser, variables=variables), directory)

    monkeypatch.setattr(formats, "functions", lambda name: (spoiled, load))
    words = ["export", str(tiny_run.dir), "--to", "safetensors", "--json", "--out"]
    assert main([*words, str(tmp_path / "new" / "place")]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["exports"] == []
    (failed,) = report["failed"]
    assert failed["max_abs_difference"] == pytest.approx(1e-3, rel=0.05)
    assert not (tmp_path / "new").exists()
    # An earlier export stays.
    again = shutil.copytree(exported.faces, tmp_path / "again")
    before = tree(again)
    assert main([*words, str(again)]) == 1
    assert "not written: a logit differs" not in capsys.readouterr().err
    assert tree(again) == before
    assert fer_jax.load(again / "safetensors").classes == ("neutral", "happy", "sad")


def test_what_cannot_be_exported(tiny_run, tmp_path: Path, fails, monkeypatch) -> None:
    out = tmp_path / "out"
    words = ("export", tiny_run.dir, "--out", out, "--to")
    assert fails(*words, "torch") == (
        "unknown format 'torch': choose from safetensors, stablehlo, onnx, litert, savedmodel, hf"
    )
    assert fails(*words, ",").startswith("name a format: --to safetensors,")
    assert "is not a run directory" in fails("export", tmp_path, "--to", "hf")
    assert fails(*words, "hf", "--clips", tmp_path / "no.mp4") == (
        f"no such file: {tmp_path / 'no.mp4'}"
    )
    (out / "hf").mkdir(parents=True)
    (out / "hf" / "mine.txt").write_text("mine")
    assert fails(*words, "hf") == (
        f"{out / 'hf'} is no export of FER-JAX: move it away or give another --out"
    )
    assert tree(out) == ["hf/mine.txt"]
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "fer_jax.deploy.formats.safetensors", raising=False)
    assert fails(*words, "safetensors") == (
        "safetensors needs safetensors, which is not installed: pip install 'fer-jax[export]'"
    )


def test_runs_that_are_not_ready(tiny_run, tmp_path: Path, fails, monkeypatch) -> None:
    loaded = loop.load_run(tiny_run.dir)
    with pytest.raises(UserError, match="has no best epoch yet: let it finish one"):
        trained.recogniser_of(tiny_run.dir, dataclasses.replace(loaded, epoch=0))
    moved = shutil.copytree(tiny_run.dir, tmp_path / "run")
    document = json.loads((moved / "config.json").read_text())
    document["data"]["dir"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(document))
    line = fails("export", moved, "--to", "hf", "--out", tmp_path / "out")
    assert line.startswith("the export cannot be checked: ")
    assert line.endswith("give clips with --data DIR or --clips FILE")
    assert not (tmp_path / "out").exists()


def test_what_a_user_should_know(tiny_run) -> None:
    from fer_jax.deploy.card import card_text
    from fer_jax.deploy.export import notes

    recogniser = trained.load_recogniser(tiny_run.dir)
    assert list(notes(recogniser)) == []
    facts = {**recogniser.facts, "finished": "", "trained_in": "bfloat16", "metrics": None}
    said = list(notes(dataclasses.replace(recogniser, facts=facts)))
    assert [words.partition(":")[0] for words in said] == [
        "training has not finished", "the run trained in bfloat16",
        "this checkpoint is not evaluated",
    ]  # fmt: skip
    for words in (
        "Training had not finished.", "trained in bfloat16; exports compute in float32",
        "has not been evaluated on a test part",
    ):  # fmt: skip
        assert words in card_text(facts)
        assert words not in card_text(recogniser.facts)


def test_damaged_and_other_exports(exported: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"holds exports: name one of them, as in {exported.faces}"):
        fer_jax.load(exported.faces)
    other = shutil.copytree(exported.faces / "hf", tmp_path / "hf")
    (other / "model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(UserError, match=r"model\.safetensors is absent or damaged .*export it"):
        fer_jax.load(other)
    facts = artifact.read_facts(other)
    path = other / "recogniser.json"
    path.write_text(json.dumps({**facts, "recogniser_version": 9}))
    with pytest.raises(UserError, match="an export of version 9 and this FER-JAX reads version 1"):
        fer_jax.load(other)
    path.write_text("{")
    with pytest.raises(UserError, match=r"recogniser\.json is damaged: export it again"):
        fer_jax.load(other)


def test_predict_with_an_export(
    exported: SimpleNamespace, tiny_run, tmp_path: Path, made: SimpleNamespace
) -> None:
    from PIL import Image
    from skimage import data

    picture = tmp_path / "picture.png"
    Image.fromarray(data.astronaut()[20:260, 110:350]).save(picture)
    export = shutil.copytree(exported.faces / "stablehlo", tmp_path / "faces")
    said = {}
    for name, system in (("run", tiny_run.dir), ("export", export)):
        words = [system, picture, "--no-video"]
        words += ["--out", tmp_path / "run"] if name == "run" else []
        code, report = made.fer("predict", *words)
        assert code == 0
        said[name] = report
    for name, share in said["run"]["files"][0]["probabilities"].items():
        found = said["export"]["files"][0]["probabilities"][name]
        assert found == pytest.approx(share, abs=1e-5)
    # An export is whole: nothing is written into it.
    assert said["export"]["clips_csv"] == str(tmp_path / "faces-predictions" / "clips.csv")
    assert tree(export) == tree(exported.faces / "stablehlo")
