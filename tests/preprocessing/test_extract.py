"""Streams of clips whose frames are known: where faces are, where gaps, what is cropped."""

import json
import weakref

import numpy as np
import pytest

from fer_jax import records
from fer_jax.errors import UserError
from preprocessing.crops import EYE_DISTANCE, EYE_ROW, encode_crop, eye_centres
from preprocessing.extract import FULL_SEARCH_EVERY, Extractor, NoFaceError, Recipe
from preprocessing.frontalize import Frontalizer
from preprocessing.video import Frame, VideoError, read_frames

BLACK = np.zeros((300, 400, 3), np.uint8)


@pytest.fixture(scope="module")
def head():
    """A head, u8[240, 240, 3], out of scikit-image's portrait."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[20:260, 110:350])


@pytest.fixture(scope="module")
def face(head):
    """The head in a picture u8[300, 400, 3]."""
    image = np.full_like(BLACK, 90)
    image[30:270, 80:320] = head
    return image


@pytest.fixture
def models(landmarker_model, monkeypatch):
    monkeypatch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))


def clip():
    return records.Clip(clip_id="c/1", corpus="c", subject="s", emotion="happy")


def frames_of(images, step_ms=40.0):
    return [Frame(t, t * step_ms, image) for t, image in enumerate(images)]


def extract(images, **options):
    with Extractor(Recipe(**options)) as extractor:
        return extractor.extract(clip(), frames_of(images))


def decoded(crop):
    import cv2

    return cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_UNCHANGED)


def same_bytes(a, b):
    return records.encode(a) == records.encode(b)


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": ("landmark",)},
        {"outputs": ()},
        {"crop_size": 8},
        {"crop_color": "bgr"},
        {"crop_format": "gif"},
        {"crop_quality": 0},
        {"align": "eyes"},
        {"frontal_size": 2000},
        {"frontal_symmetry": "hard"},
        {"max_faces": 0},
    ],
)
def test_a_recipe_refuses_what_does_not_exist(options):
    with pytest.raises(UserError, match="choose from") as caught:
        Recipe(**options)
    assert "\n" not in str(caught.value)


def test_a_recipe_in_json():
    one, two = Recipe(outputs=("crops", "landmarks")), Recipe(outputs=("landmarks", "crops"))
    assert one == two and json.dumps(one.to_json()) == json.dumps(two.to_json())
    assert one.to_json() != Recipe(outputs=("crops", "landmarks"), crop_size=48).to_json()
    assert (one.image_shapes, Recipe().image_shapes) == ({"crops": (112, 112, 3)}, {})
    gray = Recipe(outputs=("crops",), crop_size=48, crop_color="gray")
    assert gray.image_shapes == {"crops": (48, 48, 1)}
    pair = {"outputs": ("frontal", "crops"), "crop_size": 64}
    assert Recipe(**pair).image_shapes == {"crops": (64, 64, 3), "frontal": (64, 64, 3)}
    assert Recipe(**pair) == Recipe(**pair, frontal_size=64)
    assert Recipe(**pair, frontal_size=32).image_shapes["frontal"] == (32, 32, 3)


@pytest.mark.parametrize(
    ("outputs", "align", "dlib", "mediapipe"),
    [
        (("landmarks",), "face", True, False),
        (("blendshapes",), "face", False, True),
        (("crops",), "face", True, False),
        (("crops",), "none", False, False),
        (("blendshapes", "crops"), "face", False, True),
        (("landmarks", "blendshapes", "crops"), "none", True, True),
        (("frontal",), "face", True, False),
        (("crops", "frontal"), "none", True, False),
        (("blendshapes", "frontal"), "face", False, True),
    ],
)
def test_only_the_detectors_that_are_needed(outputs, align, dlib, mediapipe):
    recipe = Recipe(outputs=outputs, align=align)
    assert (recipe.uses_dlib, recipe.uses_mediapipe) == (dlib, mediapipe)


def test_landmarks_with_gaps(face):
    images = [BLACK, face, face, BLACK, face]
    got = extract(images, outputs=("landmarks",))
    seen = [False, True, True, False, True]
    assert got.streams == ("landmarks68",) and got.emotion == "happy"
    assert (got.width, got.height, got.frames) == (400, 300, 5)
    np.testing.assert_array_equal(got.frame_index, range(5))
    np.testing.assert_array_equal(got.face_found, seen)
    np.testing.assert_array_equal(np.isfinite(got.landmarks68).all((1, 2)), seen)
    np.testing.assert_array_equal(np.isnan(got.landmarks68).all((1, 2)), np.logical_not(seen))
    np.testing.assert_array_equal(np.isnan(got.box).all(1), np.logical_not(seen))
    assert got.landmarks68[1, :, 0].min() > 80 and got.landmarks68[1, :, 0].max() < 320
    records.encode(got)


def test_times(face):
    shown = [0.0, 40.0, 100.0, 240.0]
    frames = [Frame(t, ms, face) for t, ms in enumerate(shown)]
    with Extractor(Recipe()) as extractor:
        got = extractor.extract(clip(), iter(frames))
        image = extractor.extract(clip(), frames[:1])
    np.testing.assert_array_equal(got.time_ms, shown)
    assert got.fps == pytest.approx(12.5) and got.duration_ms == pytest.approx(320)
    assert (image.fps, image.duration_ms, image.frames) == (0, 0, 1)


def test_no_face_no_frames_and_changing_size(face):
    with Extractor(Recipe(outputs=("crops",))) as extractor:
        with pytest.raises(NoFaceError, match="3 frame"):
            extractor.extract(clip(), frames_of([BLACK] * 3))
        with pytest.raises(VideoError, match="no frames"):
            extractor.extract(clip(), [])
        with pytest.raises(VideoError, match="frame 1 is"):
            extractor.extract(clip(), frames_of([face, face[:200]]))


def test_an_extractor_keeps_no_frame_and_forgets_the_last_clip(face):
    held = []

    def stream(count):
        for t in range(count):
            assert all(ref() is None for ref in held)
            image = face.copy()
            held.append(weakref.ref(image))
            yield Frame(t, 40.0 * t, image)
            del image

    with Extractor(Recipe(outputs=("landmarks", "crops"))) as extractor:
        first = extractor.extract(clip(), stream(12))
        extractor.extract(clip(), frames_of([face[:, ::-1]] * 2))
        again = extractor.extract(clip(), stream(12))
    assert same_bytes(first, again)


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_aligned_crops(head, face, form, color):
    images = [face, BLACK, face]
    size = 96
    got = extract(
        images, outputs=("landmarks", "crops"), crop_size=size, crop_color=color, crop_format=form
    )
    assert [crop is not None for crop in got.crops] == [True, False, True]
    crop = decoded(got.crops[0])
    assert crop.shape == ((size, size, 3) if color == "rgb" else (size, size))
    # Detected in the crop, the eyes lie where they were put.
    rgb = np.repeat(crop[..., None], 3, -1) if color == "gray" else crop[..., ::-1]
    padded = np.full((2 * size, 2 * size, 3), 90, np.uint8)
    padded[size // 2 : -size // 2, size // 2 : -size // 2] = rgb
    eyes = eye_centres(extract([padded]).landmarks68[0]) - size // 2
    middle, half = (size - 1) / 2, EYE_DISTANCE * size / 2
    want = [[middle - half, EYE_ROW * size], [middle + half, EYE_ROW * size]]
    np.testing.assert_allclose(eyes, want, atol=0.03 * size)
    # The matrix takes the landmarks there exactly.
    matrix = got.crop_matrix[0]
    mapped = eye_centres(got.landmarks68[0]) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(mapped, want, atol=1e-3)
    assert np.isnan(got.crop_matrix[1]).all() and np.isfinite(got.crop_matrix[2]).all()


def test_crops_alone_store_crops_alone(face):
    both, alone = (extract([face], outputs=o) for o in (("landmarks", "crops"), ("crops",)))
    assert alone.streams == ("crop_matrix", "crops") and list(alone.crops) == list(both.crops)


def test_whole_pictures_need_no_face():
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    got = extract([image], outputs=("crops",), align="none", crop_size=48, crop_format="png")
    assert got.face_found.all()
    np.testing.assert_array_equal(decoded(got.crops[0])[..., ::-1], image)
    np.testing.assert_array_equal(got.box, [[0, 0, 48, 48]])
    np.testing.assert_array_equal(got.crop_matrix, [[[1, 0, 0], [0, 1, 0]]])


def test_blendshapes(models, face):
    got = extract([face, BLACK, face], outputs=("blendshapes", "crops"), crop_size=64)
    assert got.streams == ("landmarks478", "blendshapes", "pose", "crop_matrix", "crops")
    for name in ("landmarks478", "blendshapes", "pose"):
        stream = getattr(got, name).reshape(3, -1)
        np.testing.assert_array_equal(np.isfinite(stream).all(1), [True, False, True])
        np.testing.assert_array_equal(stream[0], stream[2])
    assert got.blendshapes[0, [44, 45]].min() > 0.6  # she smiles
    records.encode(got)


def test_whole_pictures_with_blendshapes_need_a_face(models, face):
    options = {"outputs": ("blendshapes", "crops"), "align": "none", "crop_size": 48}
    got = extract([face, BLACK], **options)
    assert [crop is not None for crop in got.crops] == [True, False]
    np.testing.assert_array_equal(np.isfinite(got.crop_matrix).all((1, 2)), [True, False])
    with pytest.raises(NoFaceError):
        extract([BLACK], **options)


@pytest.mark.parametrize("with_blendshapes", [False, True])
def test_frontal_pictures(models, face, with_blendshapes):
    others = ("blendshapes",) if with_blendshapes else ("landmarks",)
    options = {"crop_size": 64, "frontal_size": 96, "crop_color": "gray", "crop_format": "png"}
    got = extract([face, BLACK, face], outputs=(*others, "crops", "frontal"), **options)
    assert got.streams[-3:] == ("crop_matrix", "crops", "frontal")
    assert [picture is not None for picture in got.frontal] == [True, False, True]
    assert got.frontal[0] == got.frontal[2] and decoded(got.crops[0]).shape == (64, 64)
    points = got.landmarks478 if with_blendshapes else got.landmarks68
    rgb = Frontalizer(96).frontalize(face, points[0])
    assert got.frontal[0] == encode_crop(rgb, "gray", "png", 95)
    assert rgb.any(-1).mean() > 0.5 and not rgb[:5].any()
    soft = extract([face], outputs=(*others, "frontal"), frontal_symmetry="soft", **options)
    rgb = Frontalizer(96, "soft").frontalize(face, points[0])
    assert soft.frontal[0] == encode_crop(rgb, "gray", "png", 95) and soft.crops is None
    records.encode(got)


def test_frontal_pictures_where_one_detector_sees_nothing(models, face, monkeypatch):
    """dlib's points serve where MediaPipe finds no face."""
    outputs = ("landmarks", "blendshapes", "frontal")
    with Extractor(Recipe(outputs=outputs)) as extractor:
        monkeypatch.setattr(extractor._mediapipe, "detect", lambda image: [])
        got = extractor.extract(clip(), frames_of([face]))
    assert np.isnan(got.landmarks478).all()
    assert list(got.frontal) == list(extract([face], outputs=("frontal",)).frontal)


def test_frontal_pictures_need_the_model(tmp_path, monkeypatch):
    (tmp_path / "face_landmarker.task").write_text("wrong")
    monkeypatch.setenv("FER_JAX_MODELS", str(tmp_path))
    with pytest.raises(UserError, match=r"face_landmarker\.task has sha256"):
        Extractor(Recipe(outputs=("frontal",)))


def test_both_detectors_speak_of_one_person(models, head):
    """Two heads side by side; the right one is larger."""
    import cv2

    image = np.full((400, 640, 3), 90, np.uint8)
    image[30:270, 10:250] = head
    image[20:370, 270:620] = cv2.resize(head, (350, 350), interpolation=cv2.INTER_CUBIC)
    got = extract([image] * 3, outputs=("landmarks", "blendshapes"))
    assert got.face_found.all()
    assert got.landmarks68[..., 0].min() > 260 and got.landmarks478[..., 0].min() > 260
    only = extract([image] * 3, outputs=("landmarks",))
    np.testing.assert_array_equal(only.landmarks68, got.landmarks68)


def test_a_larger_face_that_comes_later_is_seen(head):
    """While the first face is followed, the whole picture is searched now and then."""
    import cv2

    alone = np.full((400, 640, 3), 90, np.uint8)
    alone[30:270, 10:250] = head
    joined = alone.copy()
    joined[20:370, 270:620] = cv2.resize(head, (350, 350), interpolation=cv2.INTER_CUBIC)
    images = [alone] * 3 + [joined] * (5 * FULL_SEARCH_EVERY - 3)
    got = extract(images)
    np.testing.assert_array_equal(got.face_found, np.arange(len(images)) >= FULL_SEARCH_EVERY)
    assert np.nanmin(got.landmarks68[..., 0]) > 260


def test_real_video_with_a_face_that_leaves(shared):
    def some(name, every):
        return (f for f in read_frames(shared / "data/videos" / name) if f.index % every == 0)

    with Extractor(Recipe(outputs=("landmarks", "crops"))) as extractor:
        got = extractor.extract(clip(), some("face_noface.mov", 4))
        with pytest.raises(NoFaceError):
            extractor.extract(clip(), some("no_face.mp4", 16))
    np.testing.assert_array_equal(got.frame_index, range(0, 169, 4))
    assert (got.width, got.height) == (960, 540)
    np.testing.assert_array_equal(got.face_found, got.frame_index < 72)
    # One person, sitting: the face moves little from frame to frame.
    points = got.landmarks68[got.face_found]
    eyes = np.hypot(*(points[:, 36:42].mean(1) - points[:, 42:48].mean(1)).T)
    steps = np.hypot(*np.moveaxis(np.diff(points, axis=0), -1, 0)).mean(1)
    assert steps.max() < 0.3 * eyes.mean() and eyes.std() < 0.1 * eyes.mean()


def test_real_video_both_detectors_agree(models, shared):
    frames = read_frames(shared / "data/videos/single_face.mp4")
    with Extractor(Recipe(outputs=("landmarks", "blendshapes"))) as extractor:
        got = extractor.extract(clip(), (f for f in frames if f.index < 30))
    assert got.face_found.all() and np.isfinite(got.blendshapes).all()
    for points, other in zip(got.landmarks68, got.landmarks478, strict=True):
        eyes, others = eye_centres(points), eye_centres(other)
        distance = np.hypot(*(eyes[1] - eyes[0]))
        assert np.hypot(*(eyes - others).T).max() < 0.1 * distance
