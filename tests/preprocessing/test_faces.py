"""The two detectors against each other, against MediaPipe called directly, and under scaling."""

import os
import subprocess
import sys

import numpy as np
import pytest

from preprocessing.crops import eye_centres
from preprocessing.track import iou


@pytest.fixture(scope="module")
def portrait():
    """A frontal portrait, u8[512, 512, 3], out of scikit-image."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="module")
def dlib_faces():
    from preprocessing.faces_dlib import DlibFaces

    return DlibFaces()


@pytest.fixture(scope="module")
def mediapipe_faces(landmarker_model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
        from preprocessing.faces_mediapipe import MediaPipeFaces

        with MediaPipeFaces() as faces:
            yield faces


def resized(image, side):
    import cv2

    how = cv2.INTER_AREA if side < len(image) else cv2.INTER_CUBIC
    return cv2.resize(image, (side, side), interpolation=how)


def on_canvas(*placed, size=(720, 1280)):
    """(image, x, y) each put on grey."""
    canvas = np.full((*size, 3), 90, np.uint8)
    for image, x, y in placed:
        canvas[y : y + len(image), x : x + image.shape[1]] = image
    return canvas


def eye_distance(face, kind="landmarks68"):
    return float(np.hypot(*np.subtract(*eye_centres(getattr(face, kind)))))


def test_dlib_against_mediapipe(portrait, dlib_faces, mediapipe_faces):
    (ours,), (other,) = dlib_faces.detect(portrait), mediapipe_faces.detect(portrait)
    assert ours.landmarks68.shape == (68, 2) and ours.landmarks68.dtype == np.float32
    distance = eye_distance(ours)
    points = {30: 4, 48: 61, 54: 291, 51: 0, 8: 152}  # nose tip, mouth corners, lip, chin
    gap = ours.landmarks68[list(points)] - other.landmarks478[list(points.values()), :2]
    eyes = eye_centres(ours.landmarks68) - eye_centres(other.landmarks478)
    assert np.hypot(*eyes.T).max() < 0.06 * distance
    assert np.hypot(*gap.T).max() < 0.25 * distance
    assert iou(ours.box, other.box) > 0.4


@pytest.mark.parametrize("side", [200, 400, 512, 700])
def test_dlib_finds_small_and_large_faces_in_a_wide_picture(portrait, dlib_faces, side):
    """In 1280x720 the face of this portrait is 0.17 of its side: from 34 to 120 pixels."""
    faces = dlib_faces.detect(on_canvas((resized(portrait, side), 300, 10)))
    if side == 200:  # below the detector's window of 80 pixels
        assert faces == []
        return
    (whole,) = dlib_faces.detect(portrait)
    # The suit can look like a face too, larger but doubtful.
    error = (faces[0].landmarks68 - (300, 10)) * 512 / side - whole.landmarks68
    assert np.hypot(*error.T).max() < 0.15 * eye_distance(whole)


def test_dlib_enlarges_small_pictures(portrait, dlib_faces):
    """The face in a 48 pixel picture, as in FER2013."""
    face = resized(portrait[60:200, 150:290], 48)
    (found,) = dlib_faces.detect(face)
    assert found.landmarks68.min() > -10 and found.landmarks68.max() < 58


def test_dlib_follows_as_it_finds(portrait, dlib_faces):
    (found,) = dlib_faces.detect(portrait)
    distance = eye_distance(found)
    for shift in (0, 6, -9):
        moved = np.roll(portrait, shift, (0, 1))
        (followed,) = dlib_faces.detect(moved, [found.box])
        error = np.hypot(*(followed.landmarks68 - shift - found.landmarks68).T)
        assert np.median(error) < 0.05 * distance and error.max() < 0.2 * distance


def test_dlib_searches_everywhere_when_the_hint_is_lost(portrait, dlib_faces):
    canvas = on_canvas((resized(portrait, 700), 500, 10))
    found, *_ = dlib_faces.detect(canvas)
    wrong = np.array([50, 50, 200, 200], np.float32)
    outside = np.array([-500, -500, -300, -300], np.float32)
    for hints in ([wrong], [outside], [found.box, wrong]):
        again, *_ = dlib_faces.detect(canvas, hints)
        np.testing.assert_array_equal(again.landmarks68, found.landmarks68)


@pytest.fixture(scope="module")
def pair(portrait):
    """Two heads, the right one larger, u8[400, 600, 3]."""
    head = portrait[20:260, 110:350]
    return on_canvas((resized(head, 240), 10, 20), (resized(head, 330), 260, 20), size=(400, 600))


def test_dlib_returns_the_largest_first(pair, dlib_faces):
    first, second = dlib_faces.detect(pair)
    assert first.box[0] > 260 > second.box[2]
    # Hints for both, and a doubled one, find both once.
    assert len(dlib_faces.detect(pair, [first.box, second.box, first.box])) == 2


def test_dlib_finds_nothing_where_nothing_is(dlib_faces):
    assert dlib_faces.detect(np.zeros((48, 48, 3), np.uint8)) == []
    assert dlib_faces.detect(np.zeros((1, 700, 3), np.uint8)) == []


def test_mediapipe_against_mediapipe(portrait, mediapipe_faces, landmarker_model):
    from preprocessing.faces_mediapipe import import_mediapipe

    mediapipe, vision, base = import_mediapipe()
    options = vision.FaceLandmarkerOptions(
        base_options=base.BaseOptions(model_asset_path=str(landmarker_model)),
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )
    picture = np.ascontiguousarray(portrait[:400])
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
        result = landmarker.detect(image)
    (face,) = mediapipe_faces.detect(picture)
    (points,), (shapes,) = result.face_landmarks, result.face_blendshapes
    want = np.array([(512 * p.x, 400 * p.y, 512 * p.z) for p in points])
    np.testing.assert_allclose(face.landmarks478, want, atol=1e-3)
    assert [s.index for s in shapes] == list(range(52))
    assert (shapes[0].category_name, shapes[51].category_name) == ("_neutral", "noseSneerRight")
    np.testing.assert_allclose(face.blendshapes, [s.score for s in shapes], atol=1e-6)
    np.testing.assert_allclose(face.pose, result.facial_transformation_matrixes[0], atol=1e-4)
    np.testing.assert_allclose(face.box[:2], want[:, :2].min(0), atol=1e-3)
    np.testing.assert_allclose(face.box[2:], want[:, :2].max(0), atol=1e-3)
    # She smiles; her head is upright and in front of the camera.
    assert face.blendshapes[[44, 45]].min() > 0.7 and face.blendshapes[[9, 10]].max() < 0.3
    np.testing.assert_allclose(face.pose[3], [0, 0, 0, 1], atol=1e-6)
    assert face.pose[2, 3] < 0 and np.trace(face.pose[:3, :3]) > 2.5


def test_mediapipe_repeats_itself_to_the_bit(portrait, mediapipe_faces):
    (first,) = mediapipe_faces.detect(portrait)
    mediapipe_faces.detect(np.roll(portrait, 50, 1))
    (again,) = mediapipe_faces.detect(portrait)
    for name in ("landmarks478", "blendshapes", "pose"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_mediapipe_sees_two_faces_the_largest_first(pair, mediapipe_faces):
    first, second = mediapipe_faces.detect(pair)
    assert first.box[0] > 260 > second.box[2]


def test_mediapipe_finds_nothing_where_nothing_is(mediapipe_faces):
    assert mediapipe_faces.detect(np.zeros((48, 48, 3), np.uint8)) == []


def test_mediapipe_is_silent_alone_and_closed_twice(landmarker_model):
    code = (
        "import sys, numpy as np\n"
        "from preprocessing.extract import Extractor, Recipe\n"
        "from preprocessing.faces_mediapipe import MediaPipeFaces\n"
        "with MediaPipeFaces() as faces:\n"
        "    faces.detect(np.zeros((99, 99, 3), np.uint8))\n"
        "    faces.close()\n"
        "print(*sorted({'jax', 'tensorflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FER_JAX_MODELS": str(landmarker_model.parent), "PYTHONPATH": os.curdir},
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_what_was_held_back_is_shown_on_failure(capfd):
    from preprocessing.faces_mediapipe import _quiet_stderr

    with _quiet_stderr():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError), _quiet_stderr():
        os.write(2, b"the reason\n")
        raise RuntimeError
    assert capfd.readouterr().err == "the reason\n"
