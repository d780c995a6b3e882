"""Frontal pictures of a woman in a video, who turns and tilts her head."""

import numpy as np
import pytest

from preprocessing.crops import eye_centres
from preprocessing.frontalize import VERTICES_68, Frontalizer


@pytest.fixture(scope="module")
def people(shared, landmarker_model):
    """(image, face) of both detectors on frames of a video."""
    from preprocessing.extract import Extractor, Recipe
    from preprocessing.video import read_frames

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
        with Extractor(Recipe(outputs=("landmarks", "blendshapes"))) as extractor:
            found = []
            for frame in read_frames(shared / "data/videos/WolfgangLanger_Pexels.mp4"):
                if frame.index in (0, 240, 320, 400):
                    (face,), _ = extractor._faces(frame.image, ())
                    found.append((frame.image, face))
                if frame.index == 400:
                    return found
    raise AssertionError("the video is shorter than it was")


def test_dlibs_points_lie_at_their_vertices(people):
    for _, face in people:
        eyes = eye_centres(face.landmarks478)
        gaps = face.landmarks68 - face.landmarks478[list(VERTICES_68), :2]
        gaps = np.hypot(*gaps.T) / np.hypot(*(eyes[1] - eyes[0]))
        assert np.median(gaps) < 0.08 and gaps[36:48].max() < 0.1 and gaps.max() < 0.4


@pytest.mark.parametrize("points", ["landmarks68", "landmarks478"])
def test_people_look_ahead_in_their_frontal_pictures(people, landmarker_model, points):
    """MediaPipe finds the face again, and sees it from the front."""
    from preprocessing.faces_mediapipe import MediaPipeFaces

    def pose(face):
        turn = face.pose[:3, :3] / np.cbrt(np.linalg.det(face.pose[:3, :3]))
        yaw = np.arctan2(turn[0, 2], turn[2, 2])
        return np.degrees([yaw, np.arctan2(turn[1, 0], turn[1, 1])])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
        frontalizer = Frontalizer(224)
        with MediaPipeFaces() as faces:
            before, after = [], []
            for image, face in people:
                frontal = frontalizer.frontalize(image, getattr(face, points))
                padded = np.pad(frontal, ((80, 80), (80, 80), (0, 0)))
                (found,) = faces.detect(padded)
                before.append(pose(face))
                after.append(pose(found))
    before, after = np.array(before), np.array(after)
    assert np.ptp(before, 0).min() > 15  # yaw and roll
    assert np.ptp(after, 0).max() < 7
