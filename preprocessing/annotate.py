"""An annotated copy of a video: face box, landmarks, and the probabilities over time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_jax.records import Clip
from preprocessing.video import Frame

#: Width of the annotated picture, pixels; the source is scaled to it.
WIDTH_PX = 640
PANEL_PX = 150
#: One colour a class, RGB; distinct also for colour-blind eyes (Okabe and Ito, 2008).
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (160, 160, 160), (240, 240, 240),
)  # fmt: skip
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_annotated(
    path: Path,
    frames: Iterable[Frame],
    clip: Clip,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> Path:
    """Write an mp4 (or a PNG for an image) that shows what was found and what was said.

    Frames are read once and never kept, so the length of the video does not matter.

    Args:
      path: where to write; its suffix becomes .mp4, or .png for an image.
      frames: the source's frames, in the clip's order.
      clip: what extraction found in them.
      probabilities: f32[T, K]; NaN where there was no face.
      classes: K names.

    Returns:
      the path written.

    Raises:
      OSError: the file cannot be written.
    """
    size = _size(clip)
    curves = _curve_panel(probabilities, clip.time_ms, size[0])
    image_only = clip.frames == 1 and clip.fps == 0
    path = path.with_suffix(".png" if image_only else ".mp4")
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    try:
        for t, frame in enumerate(frames):
            if t >= clip.frames:
                break
            picture = _draw(frame.image, clip, t, probabilities[t], classes, size, curves)
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            if image_only:
                if not cv2.imwrite(str(temporary), picture):
                    raise OSError(f"cannot write {path}")
                continue
            if writer is None:
                fourcc = cv2.VideoWriter.fourcc(*"mp4v")
                shape = (picture.shape[1], picture.shape[0])
                writer = cv2.VideoWriter(str(temporary), fourcc, _mean_fps(clip), shape)
                if not writer.isOpened():
                    raise OSError(f"cannot write {path}: OpenCV has no mp4v encoder here")
            writer.write(picture)
        if writer is not None:
            writer.release()
        os.replace(temporary, path)
    finally:
        if writer is not None:
            writer.release()
        temporary.unlink(missing_ok=True)
    return path


def _size(clip: Clip) -> tuple[int, int]:
    height = round(clip.height * WIDTH_PX / clip.width)
    return WIDTH_PX, height + height % 2


def _mean_fps(clip: Clip) -> float:
    """Constant rate that keeps the video's length, also where its frames are unevenly spaced."""
    span_ms = float(clip.time_ms[-1] - clip.time_ms[0]) if clip.frames > 1 else 0.0
    if span_ms > 0:
        return 1000.0 * (clip.frames - 1) / span_ms
    return clip.fps or 25.0


def _plot_x(time_ms: np.ndarray, width: int) -> np.ndarray:
    span = max(float(time_ms[-1] - time_ms[0]), 1.0)
    return 10 + (width - 20) * (np.asarray(time_ms, float) - float(time_ms[0])) / span


def _curve_panel(probabilities: np.ndarray, time_ms: np.ndarray, width: int) -> np.ndarray:
    panel = np.full((PANEL_PX, width, 3), 24, np.uint8)
    top, bottom = 12, PANEL_PX - 12
    for share in (0.0, 0.5, 1.0):
        y = round(bottom + (top - bottom) * share)
        cv2.line(panel, (10, y), (width - 10, y), (60, 60, 60), 1)
    x = _plot_x(time_ms, width)
    for k in range(probabilities.shape[1]):
        y = bottom + (top - bottom) * probabilities[:, k]
        good = np.isfinite(y)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], good.astype(int), [0]))))
        for start, stop in edges.reshape(-1, 2):
            points = np.stack([x[start:stop], y[start:stop]], -1).round().astype(np.int32)
            cv2.polylines(panel, [points], False, PALETTE[k % len(PALETTE)], 2, cv2.LINE_AA)
    return panel


def _draw(
    image: np.ndarray,
    clip: Clip,
    t: int,
    probability: np.ndarray,
    classes: Sequence[str],
    size: tuple[int, int],
    curves: np.ndarray,
) -> Any:
    scale = np.array([size[0] / clip.width, size[1] / clip.height])
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if clip.face_found[t]:
        left_top = tuple(int(v) for v in np.round(clip.box[t, :2] * scale))
        right_bottom = tuple(int(v) for v in np.round(clip.box[t, 2:] * scale))
        cv2.rectangle(picture, left_top, right_bottom, (255, 255, 255), 1, cv2.LINE_AA)
    for stream in (clip.landmarks68, clip.landmarks478):
        if stream is not None and np.isfinite(stream[t]).all():
            for x, y in np.round(stream[t, :, :2] * scale).astype(int):
                cv2.circle(picture, (int(x), int(y)), 1, (0, 255, 160), -1, cv2.LINE_AA)
            break
    _bars(picture, probability, classes)
    panel = curves.copy()
    x = int(_plot_x(clip.time_ms, size[0])[t])
    cv2.line(panel, (x, 4), (x, PANEL_PX - 4), (255, 255, 255), 1)
    return np.concatenate([picture, panel])


def _bars(picture: np.ndarray, probability: np.ndarray, classes: Sequence[str]) -> None:
    if not np.isfinite(probability).all():
        _text(picture, "no face", (10, 22), (255, 255, 255))
        return
    best = int(probability.argmax())
    for k, (name, p) in enumerate(zip(classes, probability, strict=True)):
        y = 12 + 20 * k
        colour = PALETTE[k % len(PALETTE)]
        cv2.rectangle(picture, (10, y), (10 + round(80 * float(p)), y + 12), colour, -1)
        weight = 2 if k == best else 1
        _text(picture, f"{name} {p:.2f}", (96, y + 11), (255, 255, 255), weight)


def _text(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    colour: tuple[int, int, int],
    weight: int = 1,
) -> None:
    cv2.putText(picture, text, at, _FONT, 0.45, (0, 0, 0), weight + 2, cv2.LINE_AA)
    cv2.putText(picture, text, at, _FONT, 0.45, colour, weight, cv2.LINE_AA)
