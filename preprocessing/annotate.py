"""An annotated copy of a video or image: the face, its landmarks, and what was said over time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_jax.records import Clip
from preprocessing.video import Frame, VideoError, probe

#: The source is scaled to fit, pixels.
PICTURE_PX = (640, 540)
SIDEBAR_PX, CURVES_PX, ROW_PX = 240, 180, 26
#: A pause between two frames is shown for so long at most.
PAUSE_MS = 10_000.0
#: One colour a class, RGB, told apart by colour-blind eyes too (Okabe and Ito, 2008).
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (60, 130, 220),
    (213, 94, 0), (204, 121, 167), (160, 160, 160), (240, 240, 240),
)  # fmt: skip
_GROUND, _TRACK, _GRID = (22, 24, 29), (44, 48, 56), (58, 62, 70)
_INK, _SOFT = (240, 240, 240), (150, 155, 165)
_PLOT_LEFT, _PLOT_RIGHT, _PLOT_TOP, _PLOT_BOTTOM = 50, 20, 18, 30
_TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


def write_annotated(
    path: Path,
    frames: Iterable[Frame],
    clip: Clip,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> Path:
    """Write an mp4 (a PNG for a single frame) that shows what was found and what was said.

    Frames are read once and never kept, so the length of the video does not matter. The copy has a
    constant frame rate; where the source has not, frames are repeated so that time is kept.

    Args:
      path: where to write, without a suffix.
      frames: the source's frames, in the clip's order.
      clip: what extraction found in them.
      probabilities: f32[T, K]; NaN where there was no face.
      classes: K names.

    Returns:
      the path written; a file that was there is replaced when the new one is complete.

    Raises:
      VideoError: the frames are not those that the clip was made of.
      OSError: the file cannot be written.
    """
    still = clip.frames == 1
    path = path.with_name(f"{path.name}.{'png' if still else 'mp4'}")
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    board = _Board(clip, probabilities, classes)
    try:
        temporary.touch()  # Says why where nothing can be written; OpenCV does not.
        (_write_image if still else _write_video)(temporary, frames, clip, board)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _write_image(path: Path, frames: Iterable[Frame], clip: Clip, board: _Board) -> None:
    for t, frame in _same_frames(clip, frames):
        if not cv2.imwrite(str(path), board.draw(frame.image, t)):
            raise OSError(f"cannot write {path}")


def _write_video(path: Path, frames: Iterable[Frame], clip: Clip, board: _Board) -> None:
    fps, repeats = _cadence(clip.time_ms)
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, board.size)
    try:
        if not writer.isOpened():
            raise OSError(f"cannot write {path}: this OpenCV has no MPEG-4 encoder")
        for t, frame in _same_frames(clip, frames):
            if repeats[t]:
                picture = board.draw(frame.image, t)
                for _ in range(repeats[t]):
                    writer.write(picture)
    finally:
        writer.release()
    # The writer does not say when a disk is full.
    try:
        written = probe(path).frames
    except VideoError:
        written = 0
    if written != repeats.sum():
        raise OSError(f"only {written} of {repeats.sum()} frames could be written: disk full?")


def _same_frames(clip: Clip, frames: Iterable[Frame]) -> Iterable[tuple[int, Frame]]:
    """The clip's frames as they are decoded again, each with its place in the clip."""
    t = -1
    for t, frame in zip(range(clip.frames), frames, strict=False):
        if frame.index != clip.frame_index[t] or frame.image.shape[:2] != (clip.height, clip.width):
            raise VideoError("the file changed while it was read")
        yield t, frame
    if t + 1 < clip.frames:
        raise VideoError("the file changed while it was read")


def _cadence(time_ms: np.ndarray) -> tuple[float, np.ndarray]:
    """A constant rate, frames a second, and how often each frame is shown: i64[T].

    The mean rate where frames are evenly spaced: each is shown once. Else that of the densest
    stretch, so that hardly a frame is lost.
    """
    times = np.asarray(time_ms, float)
    steps = np.diff(times)
    mean, dense = float(steps.mean()), float(np.quantile(steps, 0.1))
    interval = max(mean if abs(mean - dense) < 0.1 * mean else dense, 1.0)
    starts = np.append(times, times[-1] + interval) - times[0]
    repeats = np.diff(np.rint(starts / interval).astype(np.int64))
    return 1000.0 / interval, np.clip(repeats, 0, round(PAUSE_MS / interval) + 1)


@cache
def _font(size: int) -> Any:
    """DejaVu Sans, which Matplotlib brings: class names need not be English."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _write(picture: np.ndarray, texts: Iterable[tuple[float, float, str, str, int, Any]]) -> None:
    """Texts into u8[H, W, 3], each (x, y, text, anchor, size, colour); anchors are Pillow's."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for x, y, text, anchor, size, colour in texts:
        draw.text((x, y), text, font=_font(size), fill=colour, anchor=anchor)
    picture[:] = np.asarray(image)


def _shorten(text: str, width: float, size: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


class _Board:
    """Everything around the picture, drawn once; `draw` adds a frame.

    Attributes:
      size: width and height of what `draw` returns, both even, as the encoder wants.
    """

    def __init__(self, clip: Clip, probabilities: np.ndarray, classes: Sequence[str]):
        self._clip, self._probabilities, self._classes = clip, probabilities, classes
        self._scale = min(PICTURE_PX[0] / clip.width, PICTURE_PX[1] / clip.height)
        width, height = (max(1, round(n * self._scale)) for n in (clip.width, clip.height))
        self._picture = width, height
        # Room for every class, however flat or narrow the source is.
        top = max(height, 60 + ROW_PX * len(classes))
        top += top % 2
        left = max(width, 320)
        left += left % 2
        self._corner = (left - width) // 2, (top - height) // 2
        self._left, self._top = left, top
        curves = CURVES_PX if clip.frames > 1 else 0
        self.size = left + SIDEBAR_PX, top + curves
        self._ground = np.full((self.size[1], self.size[0], 3), _GROUND, np.uint8)
        self._label_rows()
        if curves:
            self._x = self._plot_x(clip.time_ms)
            self._label_axes()
            self._past, self._future = self._curves(1.0), self._curves(0.35)

    def draw(self, image: np.ndarray, t: int) -> np.ndarray:
        """u8[H, W, 3] in BGR, as OpenCV writes it, of frame t, u8[h, w, 3] in RGB."""
        board = self._ground.copy()
        how = cv2.INTER_AREA if self._scale < 1 else cv2.INTER_CUBIC
        picture = cv2.resize(image, self._picture, interpolation=how)
        (x, y), (width, height) = self._corner, self._picture
        texts = self._mark(picture, t)
        board[y : y + height, x : x + width] = picture
        texts = [(x + tx, y + ty, *rest) for tx, ty, *rest in texts]
        _write(board, [*texts, *self._bars(board, t)])
        if self._clip.frames > 1:
            cursor = round(float(self._x[t]))
            board[self._top :, :cursor] = self._past[:, :cursor]
            board[self._top :, cursor:] = self._future[:, cursor:]
            foot = self.size[1] - _PLOT_BOTTOM
            cv2.line(board, (cursor, self._top + 8), (cursor, foot), _INK, 1)
        return cv2.cvtColor(board, cv2.COLOR_RGB2BGR)

    def _mark(self, picture: np.ndarray, t: int) -> list[tuple]:
        """Box and landmarks into the picture; the verdict's text above the box."""
        clip, row, texts = self._clip, self._probabilities[t], []
        for stream in (clip.landmarks68, clip.landmarks478):
            if stream is not None and np.isfinite(stream[t]).all():
                dots = picture.copy()
                # Many dots on a small face would hide it.
                large = clip.box[t, 2] - clip.box[t, 0] > 160 / self._scale
                radius = (2 if len(stream[t]) == 68 else 1) - (not large)
                for px, py in np.rint(stream[t, :, :2] * self._scale).astype(int):
                    cv2.circle(dots, (int(px), int(py)), radius, (120, 255, 220), -1, cv2.LINE_AA)
                picture[:] = cv2.addWeighted(picture, 0.35, dots, 0.65, 0)
                break
        if clip.face_found[t] and np.isfinite(clip.box[t]).all():
            left, top, right, bottom = (
                int(v) for v in np.clip(np.rint(clip.box[t] * self._scale), -9999, 9999)
            )
            colour, best = _INK, ""
            if np.isfinite(row).all():
                k = int(row.argmax())
                colour = PALETTE[k % len(PALETTE)]
                best = f"{_shorten(self._classes[k], 160, 15)} {row[k]:.0%}"
            cv2.rectangle(picture, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
            if best:
                width = round(_font(15).getlength(best)) + 12
                x = min(max(left - 1, 0), max(self._picture[0] - width, 0))
                y = max(top - 22, 0)
                cv2.rectangle(picture, (x, y), (x + width, y + 22), colour, -1)
                texts.append((x + 6, y + 11, best, "lm", 15, (0, 0, 0)))
        return texts

    def _row(self, k: int) -> tuple[int, int, int, int]:
        """Name's x, bar's left, bar's right and middle of class k's row in the sidebar."""
        x = self._left + 14
        return x, x + 92, self.size[0] - 62, 58 + ROW_PX * k

    def _label_rows(self) -> None:
        texts = []
        for k, name in enumerate(self._classes):
            x, left, right, y = self._row(k)
            texts.append((x, y, _shorten(name, left - x - 8, 14), "lm", 14, _INK))
            cv2.rectangle(self._ground, (left, y - 8), (right, y + 8), _TRACK, -1)
        _write(self._ground, texts)

    def _bars(self, board: np.ndarray, t: int) -> list[tuple]:
        """Bars into the board; their numbers and the heading as texts."""
        row, clip, x = self._probabilities[t], self._clip, self._left + 14
        seen = bool(np.isfinite(row).all())
        heading = f"{clip.time_ms[t] / 1000:.2f} s" if clip.frames > 1 else ""
        heading += ("" if seen else "  no face") if heading else ("" if seen else "no face")
        texts = [(x, 24, heading, "lm", 15, _SOFT if seen else _INK)]
        for k, p in enumerate(row if seen else ()):
            _, left, right, y = self._row(k)
            end = left + round((right - left) * float(p))
            cv2.rectangle(board, (left, y - 8), (end, y + 8), PALETTE[k % len(PALETTE)], -1)
            ink = _INK if k == int(row.argmax()) else _SOFT
            texts.append((self.size[0] - 12, y, f"{p:.0%}", "rm", 14, ink))
        return texts

    def _plot_x(self, time_ms: np.ndarray) -> np.ndarray:
        first, last = float(self._clip.time_ms[0]), float(self._clip.time_ms[-1])
        width = self.size[0] - _PLOT_LEFT - _PLOT_RIGHT
        return _PLOT_LEFT + width * (np.asarray(time_ms, float) - first) / max(last - first, 1.0)

    def _plot_y(self, share: np.ndarray | float) -> Any:
        """Within the panel of curves."""
        return _PLOT_TOP + (CURVES_PX - _PLOT_TOP - _PLOT_BOTTOM) * (1.0 - np.asarray(share))

    def _label_axes(self) -> None:
        panel = self._ground[self._top :]
        texts = []
        for share in (0.0, 0.5, 1.0):
            y = round(float(self._plot_y(share)))
            cv2.line(panel, (_PLOT_LEFT, y), (self.size[0] - _PLOT_RIGHT, y), _GRID, 1)
            texts.append((_PLOT_LEFT - 8, y, f"{share:.0%}", "rm", 12, _SOFT))
        first, last = (float(self._clip.time_ms[t]) / 1000 for t in (0, -1))
        room = (self.size[0] - _PLOT_LEFT - _PLOT_RIGHT) / 70
        step = next((s for s in _TICK_STEPS_S if (last - first) / s <= room), last - first)
        for tick in np.arange(np.ceil(first / step), np.floor(last / step + 1e-6) + 1) * step:
            x = float(self._plot_x(np.array(1000 * tick)))
            texts.append((x, CURVES_PX - 14, f"{tick:g} s", "mm", 12, _SOFT))
        _write(panel, texts)

    def _curves(self, strength: float) -> np.ndarray:
        """The panel of curves, mixed with its background."""
        plain = self._ground[self._top :]
        panel = plain.copy()
        for k in range(self._probabilities.shape[1]):
            colour, y = PALETTE[k % len(PALETTE)], self._plot_y(self._probabilities[:, k])
            good = np.isfinite(y)
            edges = np.flatnonzero(np.diff(np.concatenate(([0], good.astype(int), [0]))))
            for start, stop in edges.reshape(-1, 2):
                points = np.stack([self._x[start:stop], y[start:stop]], -1)
                points = np.rint(points).astype(np.int32)
                cv2.polylines(panel, [points], False, colour, 2, cv2.LINE_AA)
                if stop - start == 1:
                    cv2.circle(panel, points[0].tolist(), 2, colour, -1, cv2.LINE_AA)
        return cv2.addWeighted(panel, strength, plain, 1 - strength, 0)
