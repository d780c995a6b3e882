"""Times, colours and orientation against what the tests wrote; damaged files by their reason."""

import struct
import wave
import weakref

import numpy as np
import pytest

from preprocessing.video import VideoError, is_image, probe, read_frames

WIDTH, HEIGHT, FPS = 64, 48, 25


def picture(i: int) -> np.ndarray:
    """RGB with a white corner at the top left; red tells the frame's number."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (20 * i % 256, 100, 50)
    image[:8, :8] = 255
    return image


def write_video(path, frames=12, codec="mp4v"):
    import cv2

    fourcc = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, FPS, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(picture(i)[:, :, ::-1])
    writer.release()
    return path


def boxes(data, start, end):
    """(kind, start, length) of the MP4 boxes in a range."""
    while start < end:
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        yield kind, start, length
        start += length


def box_path(data, *kinds):
    """(start, length) of each box on the way down."""
    start, end, path = 0, len(data), []
    for kind in kinds:
        _, at, length = next(box for box in boxes(data, start, end) if box[0] == kind)
        path.append((at, length))
        start, end = at + 8, at + length
    return path


def write_durations(path, durations):
    """Rewrites an MP4's time table: frame i is shown for durations[i] ticks of 1/FPS second."""
    data = bytearray(path.read_bytes())
    at = data.index(b"mdhd") + 4
    scale = struct.unpack(">I", data[at + 12 : at + 16])[0]
    # The edit list would cut off what is longer than before (version 0: 4 + 4 + duration).
    at = data.index(b"elst") + 4
    movie_scale = struct.unpack(">I", data[data.index(b"mvhd") + 16 : data.index(b"mvhd") + 20])[0]
    data[at + 8 : at + 12] = struct.pack(">I", sum(durations) * movie_scale // FPS)
    way = box_path(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
    start, length = way[-1]
    rows = b"".join(struct.pack(">II", 1, d * scale // FPS) for d in durations)
    table = struct.pack(">I4sII", 16 + len(rows), b"stts", 0, len(durations)) + rows
    data[start : start + length] = table
    for at, outer in way[:-1]:
        data[at : at + 4] = struct.pack(">I", outer + len(table) - length)
    path.write_bytes(data)


def moov_first(data):
    """The same MP4 with its index before its data, as the web wants it."""
    (mdat, _), (moov, length) = box_path(data, b"mdat")[0], box_path(data, b"moov")[0]
    index = bytearray(data[moov : moov + length])
    at = index.index(b"stco") + 8
    for k in range(struct.unpack(">I", index[at : at + 4])[0]):
        entry = slice(at + 4 + 4 * k, at + 8 + 4 * k)
        index[entry] = struct.pack(">I", struct.unpack(">I", index[entry])[0] + length)
    return data[:mdat] + bytes(index) + data[mdat:moov]


def test_constant_rate(tmp_path):
    frames = list(read_frames(write_video(tmp_path / "a.mp4")))
    assert [f.index for f in frames] == list(range(12))
    np.testing.assert_allclose([f.time_ms for f in frames], 40.0 * np.arange(12), atol=1e-6)
    for f in frames:
        assert f.image.shape == (HEIGHT, WIDTH, 3) and f.image.dtype == np.uint8
        np.testing.assert_allclose(f.image[30, 40], (20 * f.index, 100, 50), atol=6)


def test_variable_rate_in_mp4(tmp_path):
    durations = [1, 1, 3, 1, 5, 1, 1, 2, 1, 1, 7, 1]
    path = write_video(tmp_path / "vfr.mp4")
    write_durations(path, durations)
    times = [f.time_ms for f in read_frames(path)]
    np.testing.assert_allclose(times, 40.0 * np.cumsum([0, *durations[:-1]]), atol=1e-6)
    assert probe(path).duration_ms == pytest.approx(40 * sum(durations))


def test_variable_rate_in_gif(tmp_path):
    from PIL import Image

    images = [Image.fromarray(picture(i)) for i in range(5)]
    path = tmp_path / "vfr.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 200, 50, 400, 90])
    np.testing.assert_allclose([f.time_ms for f in read_frames(path)], [0, 100, 300, 350, 750])


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mkv", "MJPG")])
def test_other_containers(tmp_path, name, codec):
    times = [f.time_ms for f in read_frames(write_video(tmp_path / name, codec=codec))]
    np.testing.assert_allclose(times, 40.0 * np.arange(12), atol=1e-6)


def test_probe_says_what_was_written(tmp_path):
    info = probe(write_video(tmp_path / "a.mp4"))
    assert (info.fps, info.width, info.height, info.frames) == (FPS, WIDTH, HEIGHT, 12)
    assert info.duration_ms == pytest.approx(480)


def test_frames_are_not_kept(tmp_path):
    frames = read_frames(write_video(tmp_path / "a.mp4"))
    held = next(frames)
    kept, gone = held.image.copy(), weakref.ref(next(frames).image)
    next(frames)
    assert gone() is None
    np.testing.assert_array_equal(held.image, kept)


def test_rotation_is_applied(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[at : at + 36])[0] == 1 << 16
    # A quarter turn clockwise (ISO/IEC 14496-12, 8.3.2: the matrix of the track header).
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    image = next(read_frames(path)).image
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert image[3, -3].min() > 230 and image[3, 3].min() < 100
    info = probe(path)
    assert (info.width, info.height) == (HEIGHT, WIDTH)


def test_exif_orientation_is_applied(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # stored a quarter turn counter-clockwise
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(0)).save(path, exif=exif, quality=95)
    image = next(read_frames(path)).image
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert image[3, -3].min() > 230 and image[3, 3].min() < 100
    assert (probe(path).width, probe(path).frames) == (HEIGHT, 1)


@pytest.mark.parametrize(
    ("pixels", "want"),
    [
        (np.full((5, 4), 77, np.uint8), (77, 77, 77)),
        (np.full((5, 4), 99 * 257, np.uint16), (99, 99, 99)),
        (np.full((5, 4, 3), (2560, 5120, 7680), np.uint16), (30, 20, 10)),
        (np.full((5, 4, 4), (10, 20, 30, 0), np.uint8), (30, 20, 10)),
    ],
    ids=["grey", "grey16", "colour16", "alpha"],
)
def test_kinds_of_images(tmp_path, pixels, want):
    import cv2

    path = tmp_path / "ünï côde 日本.png"
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (frame,) = read_frames(path)
    assert frame.image.shape == (5, 4, 3) and frame.image.dtype == np.uint8
    np.testing.assert_array_equal(frame.image[2, 2], want)
    assert (frame.index, frame.time_ms) == (0, 0.0)


def test_video_with_a_unicode_name(tmp_path):
    assert len(list(read_frames(write_video(tmp_path / "ünï côde 日本%03d.mp4")))) == 12


def test_is_image():
    assert is_image("a/B.PNG") and is_image("x.jpeg") and not is_image("x.mp4")


def reason(path):
    with pytest.raises(VideoError) as caught:
        list(read_frames(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_not_a_file(tmp_path):
    assert reason(tmp_path / "absent.mp4") == "no such file"
    assert reason(tmp_path) == "not a file"
    with pytest.raises(VideoError, match="no such file"):
        probe(tmp_path / "absent.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.avi"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert "empty" in reason(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.jpg", "a.png"])
@pytest.mark.parametrize("kind", ["text", "noise"])
def test_something_else(tmp_path, name, kind, capfd):
    noise = np.random.default_rng(0).bytes(20_000)
    (tmp_path / name).write_bytes(b"this is not a film\n" * 99 if kind == "text" else noise)
    assert reason(tmp_path / name).startswith("not a")
    assert capfd.readouterr() == ("", "")


def test_sound_without_picture(tmp_path):
    path = tmp_path / "sound.mp4"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\1" * 8000)
    assert "without a video stream" in reason(path)


def test_mp4_without_its_end(tmp_path):
    data = write_video(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: box_path(data, b"moov")[0][0]])
    assert reason(path).startswith("not a video")
    path.write_bytes(data[:-100])
    assert "100 bytes are missing" in reason(path)


def test_mp4_whose_stream_is_cut(tmp_path):
    data = moov_first(write_video(tmp_path / "whole.mp4", frames=40).read_bytes())
    path = tmp_path / "fast.mp4"
    path.write_bytes(data)
    assert len(list(read_frames(path))) == 40
    path.write_bytes(data[:-500])
    assert "500 bytes are missing" in reason(path)
    with pytest.raises(VideoError, match="500 bytes"):
        probe(path)


def test_stream_that_breaks_halfway(tmp_path):
    data = write_video(tmp_path / "whole.mkv", frames=60, codec="MJPG").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: 2 * len(data) // 5])
    frames = read_frames(path)
    with pytest.raises(VideoError, match=r"breaks after \d+ of about 60 frames"):
        for n, frame in enumerate(frames):  # what is there comes first
            assert frame.index == n
    assert n > 10


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "bmp", "tif"])
def test_image_that_is_cut(tmp_path, form):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8)
    path = tmp_path / f"a.{form}"
    exif = Image.Exif()
    exif[0x10E] = "a description"
    Image.fromarray(noise).save(path, exif=exif)
    assert len(list(read_frames(path))) == 1
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path)


def test_real_videos(shared):
    times = [f.time_ms for f in read_frames(shared / "data/videos/WolfgangLanger_Pexels.mp4")]
    np.testing.assert_allclose(times, np.arange(472) * 1001 / 24, rtol=1e-6)
    # A telephone's film, 13 to 42 ms a frame; the times are PyAV 18.1's.
    times = [f.time_ms for f in read_frames(shared / "data/videos/face_noface.mov")]
    assert len(times) == 169
    np.testing.assert_allclose(
        [*times[:4], *times[-2:]], [0, 33.333, 66.667, 100, 6318.685, 6360.352], atol=1e-3
    )
