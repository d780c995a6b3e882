"""Video and image files as RGB frames with their presentation times, in constant memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# FFmpeg writes to stderr what a VideoError says already. OpenCV reads this at the first open.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

#: Files that are read as one image. Everything else is given to FFmpeg as a video.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
#: What `corpora` look for when they scan a folder for videos.
VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
)


class VideoError(ValueError):
    """A file that cannot be decoded. The message is the reason, without the path."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
      index: place in the source, from 0.
      time_ms: presentation time, milliseconds from the start of the file.
      image: u8[H, W, 3], RGB, upright (rotation metadata is applied).
    """

    index: int
    time_ms: float
    image: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of itself; `frames` and `duration_ms` may be estimates.

    Attributes:
      fps: mean frames a second, 0 for an image.
      width, height: pixels, after rotation.
      frames: frames announced, 1 for an image, 0 where the container does not say.
      duration_ms: milliseconds, 0 for an image.
    """

    fps: float
    width: int
    height: int
    frames: int
    duration_ms: float


def is_image(path: Path | str) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def probe(path: Path | str) -> VideoInfo:
    """What the container says, without decoding a video.

    Raises:
      VideoError: missing, empty, truncated, or not a video or image.
    """
    path = _checked(path)
    if is_image(path):
        height, width, _ = _read_image(path).shape
        return VideoInfo(0.0, width, height, 1, 0.0)
    capture = _open(path)
    try:
        return _info(capture)
    finally:
        capture.release()


def read_frames(path: Path | str) -> Iterator[Frame]:
    """Every frame of a video, or the one frame of an image; one frame is in memory at a time.

    Times are the container's presentation times, so a variable frame rate is kept. Where a
    container has none (or they stand still) a frame follows the last by one nominal interval.
    16-bit images are scaled to 8 bits, grey ones repeated to RGB, alpha is dropped, and EXIF
    orientation and a video's rotation are applied.

    Half a recording is not the recording: its apex may be in the lost half. So a file that is
    cut short, or whose stream breaks before half of what its container announces, raises;
    single damaged frames in between are left out, and the times show the gap.

    Raises:
      VideoError: missing, empty, cut short, not a video or image, or without a single frame.
        Also after frames were yielded, when the stream breaks.
    """
    path = _checked(path)
    if is_image(path):
        yield Frame(0, 0.0, _read_image(path))
        return
    import cv2

    capture = _open(path)
    try:
        info = _info(capture)
        interval = 1000 / info.fps if info.fps > 0 else 40.0
        index, first, last = 0, 0.0, 0.0
        while True:
            # A new array each time: who holds a frame must not see it overwritten.
            ok, image = capture.read()
            if not ok:
                break
            time_ms = float(capture.get(cv2.CAP_PROP_POS_MSEC))
            if index == 0:
                first = time_ms
            elif not time_ms > last:
                time_ms = last + interval
            last = time_ms
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield Frame(index, time_ms, image)
            # Its memory, still in the processor's caches, is the next frame's.
            del image
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise VideoError("no frame can be decoded")
    if 2 * index < info.frames and 2 * (last - first) < info.duration_ms:
        raise VideoError(f"the stream breaks after {index} of about {info.frames} frames")


def read_sequence(folder: Path | str, fps: float) -> Iterator[Frame]:
    """The images of a folder as the frames of one clip; one frame is in memory at a time.

    The number that a name ends with says which frame it is: frame n lies (n - first) / fps seconds
    after the first, so the times show a gap. Files without a number and of other kinds are passed
    over.

    Raises:
      VideoError: no folder, none of its images has a number, or an image cannot be decoded; then
        perhaps after frames were yielded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise VideoError("no such folder")
    frames = sorted(
        (int(number[0]), path)
        for path in folder.iterdir()
        if is_image(path) and path.name[0] != "." and (number := re.search(r"\d+$", path.stem))
    )
    if not frames:
        raise VideoError("the folder has no numbered image")
    for index, (number, path) in enumerate(frames):
        try:
            image = _read_image(_checked(path))
        except VideoError as error:
            raise VideoError(f"{path.name}: {error}") from error
        yield Frame(index, 1000 * (number - frames[0][0]) / fps, image)


def _checked(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise VideoError("no such file" if not path.exists() else "not a file")
    size = path.stat().st_size
    if size == 0:
        raise VideoError("the file is empty (0 bytes)")
    if not is_image(path):
        missing = _missing_bytes(path, size)
        if missing:
            raise VideoError(f"the file is cut short: {missing} bytes are missing at its end")
    return path


def _missing_bytes(path: Path, size: int) -> int:
    """How far an MP4 or QuickTime file's last box reaches past the end of the file.

    FFmpeg plays such a file up to the cut and reports a normal end (ISO/IEC 14496-12, 4.2).
    """
    with open(path, "rb") as file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return 0
        offset = 0
        while offset + 8 <= size:
            file.seek(offset)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:  # 0: to the end of the file; else not a box
                return 0
            if kind in (b"mdat", b"moov") and offset + length > size:
                return offset + length - size
            offset += length
    return 0


def _quiet_cv2():
    """OpenCV, which otherwise warns on stderr of what a VideoError says already."""
    import cv2

    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_FATAL)
    return cv2


def _open(path: Path):
    cv2 = _quiet_cv2()

    # FFmpeg alone: OpenCV's other backends read an image name as a numbered sequence.
    # An absolute path, because FFmpeg takes "name:" for a protocol.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        capture.release()
        raise VideoError("not a video that FFmpeg can read, or without a video stream")
    return capture


def _info(capture) -> VideoInfo:
    import cv2

    fps = float(capture.get(cv2.CAP_PROP_FPS))
    fps = fps if np.isfinite(fps) and fps > 0 else 0.0
    frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    return VideoInfo(
        fps=fps,
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        frames=frames,
        duration_ms=1000 * frames / fps if fps else 0.0,
    )


def _read_image(path: Path) -> np.ndarray:
    cv2 = _quiet_cv2()

    data = np.fromfile(path, np.uint8)
    raw = data.tobytes()
    # Decoders fill the missing rest of a picture with grey and report success.
    # In JPEG data FF DA and FF D9 occur only as markers: the last scan has to have an end.
    if raw[:2] == b"\xff\xd8" and raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda"):
        raise VideoError("the image is cut short")
    if raw[:4] == b"\x89PNG" and b"IEND" not in raw[-64:]:
        raise VideoError("the image is cut short")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise VideoError(f"not an image that OpenCV can read: {error.err}") from error
    if image is None:
        raise VideoError("not an image that OpenCV can read")
    return image
