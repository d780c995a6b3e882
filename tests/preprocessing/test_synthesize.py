"""The demo corpus: real files, equal for an equal seed, with faces that act what they are named."""

import json

import numpy as np
import pytest

from fer_jax.errors import UserError

SEED, FRAMES, FPS, SIZE = 3, 10, 10.0, 256
PARAMETERS = {"seed": SEED, "frames": FRAMES, "fps": FPS, "size": SIZE}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two subjects, one take of each emotion: the directory and what `synthesize` returned."""
    from preprocessing.synthesize import synthesize

    out = tmp_path_factory.mktemp("films") / "raw"
    steps = []
    paths = synthesize(
        out, subjects=2, takes=1, workers=1, on_progress=lambda *n: steps.append(n), **PARAMETERS
    )
    assert steps == [(k, 12) for k in range(1, 13)]
    return out, paths


@pytest.fixture(scope="module")
def portrait():
    from preprocessing.synthesize_portrait import make_portrait

    return make_portrait()


@pytest.fixture(scope="module")
def people(portrait):
    from preprocessing.synthesize_face import make_subject

    return [make_subject(portrait, np.random.default_rng(i)) for i in range(3)]


@pytest.fixture(scope="module")
def dlib_faces():
    from preprocessing.faces_dlib import DlibFaces

    return DlibFaces()


def film(subject, emotion, intensity=1.0, pose=None, **units):
    """One frame, u8, of an emotion's apex and of units given by name."""
    from preprocessing.synthesize import PROTOTYPES
    from preprocessing.synthesize_face import Pose, render

    action = {u: (intensity * v, intensity * v) for u, v in PROTOTYPES[emotion].items()}
    action |= {unit: (value, value) for unit, value in units.items()}
    return render(subject, action, pose or Pose(), 1.0, SIZE).astype(np.uint8)


def pixels(path):
    from preprocessing.video import read_frames

    return np.stack([frame.image for frame in read_frames(path)])


def upright(landmarks):
    """Landmarks f64[68, 2] with the eyes' middle at 0, level, one eye distance apart."""
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    axis = (right - left) / np.square(right - left).sum()
    x, y = (landmarks - (left + right) / 2).T
    return np.stack((x * axis[0] + y * axis[1], y * axis[0] - x * axis[1]), -1)


def test_crema_d_adapter_reads_the_names(films):
    from preprocessing.corpora import scan
    from preprocessing.corpora.tree import Findings

    out, paths = films
    findings = Findings()
    clips = list(scan("crema-d", out, findings))
    assert [out / clip.source for clip in clips] == paths
    assert {clip.subject for clip in clips} == {"1001", "1002"}
    assert {clip.emotion for clip in clips} == {"ANG", "DIS", "FEA", "HAP", "NEU", "SAD"}
    assert not findings.rejected and not findings.ignored


def test_names_of_all_takes_are_distinct_and_as_in_crema_d():
    from preprocessing.corpora.crema_d import SENTENCES
    from preprocessing.synthesize import Take

    names = [Take(s, e, k).name(0) for s in range(91) for e in range(6) for k in range(12)]
    assert len(set(names)) == 91 * 6 * 12
    parts = [name.removesuffix(".mp4").split("_") for name in names]
    assert {p[0] for p in parts} == {str(n) for n in range(1001, 1092)}
    assert {p[1] for p in parts} == set(SENTENCES)
    assert {p[3] for p in parts if p[1] == "IEO" and p[2] != "NEU"} == {"LO", "MD", "HI"}
    assert {p[3] for p in parts if p[1] != "IEO" or p[2] == "NEU"} == {"XX"}


def test_files_are_videos_of_the_asked_shape(films):
    from preprocessing.video import probe

    for path in films[1]:
        info = probe(path)
        assert (info.width, info.height, info.frames) == (SIZE, SIZE, FRAMES)
        assert info.fps == pytest.approx(FPS)
        assert pixels(path).shape == (FRAMES, SIZE, SIZE, 3)


def test_same_files_by_two_processes_and_among_fewer_others(films, tmp_path):
    from preprocessing.synthesize import synthesize

    out, _ = films
    again = synthesize(tmp_path / "raw", subjects=1, takes=1, workers=2, **PARAMETERS)
    assert len(again) == 6
    for path in again:
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_another_seed_gives_other_people(films, tmp_path):
    from preprocessing.synthesize import synthesize

    other = synthesize(tmp_path / "r", subjects=1, takes=1, workers=1, **PARAMETERS | {"seed": 4})
    path = films[0] / other[0].name
    difference = pixels(other[0])[0].astype(float) - pixels(path)[0]
    assert np.abs(difference).mean() > 5


def test_files_that_are_there_are_kept(tmp_path):
    from preprocessing.synthesize import synthesize

    arguments = PARAMETERS | {"frames": 2, "subjects": 1, "takes": 1, "workers": 1}
    paths = synthesize(tmp_path, **arguments)
    before = {path: path.read_bytes() for path in paths}
    stamps = {path: path.stat().st_mtime_ns for path in paths}
    paths[2].unlink()
    steps = []
    assert synthesize(tmp_path, **arguments, on_progress=lambda *n: steps.append(n)) == paths
    assert steps == [(6, 6)]
    assert {path: path.read_bytes() for path in paths} == before
    kept = [path for path in paths if path.stat().st_mtime_ns == stamps[path]]
    assert kept == paths[:2] + paths[3:]


def test_interrupted_clip_leaves_nothing(tmp_path, monkeypatch):
    from preprocessing import synthesize as module

    real = module.act

    def stops(*arguments):
        for n, frame in enumerate(real(*arguments)):
            if n == 1:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(module, "act", stops)
    with pytest.raises(KeyboardInterrupt):
        module.synthesize(tmp_path, subjects=1, takes=1, workers=1, **PARAMETERS)
    assert [path.name for path in tmp_path.iterdir()] == [".synthesis.json"]


def test_other_parameters_in_the_same_directory_are_refused(films):
    from preprocessing.synthesize import synthesize

    out, _ = films
    with pytest.raises(UserError, match=r"seed 3 not 9.*another directory"):
        synthesize(out, **PARAMETERS | {"seed": 9})
    assert json.loads((out / ".synthesis.json").read_text())["seed"] == SEED


def test_directory_of_other_files_is_left_alone(tmp_path):
    from preprocessing.synthesize import synthesize

    (tmp_path / "1001_DFA_ANG_XX.flv").write_bytes(b"mine")
    with pytest.raises(UserError, match="new or empty directory"):
        synthesize(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"subjects": 0}, {"subjects": 92}, {"takes": 13}, {"frames": 1}, {"fps": 0}, {"size": 100},
     {"size": 255}, {"workers": 0}, {"seed": -1}],
)  # fmt: skip
def test_arguments_out_of_range_are_named(tmp_path, wrong):
    from preprocessing.synthesize import synthesize

    [(name, value)] = wrong.items()
    with pytest.raises(UserError, match=f"^{name} {value} "):
        synthesize(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_dlib_finds_the_faces(films, dlib_faces):
    images = [image for path in films[1] for image in pixels(path)]
    found = [len(dlib_faces.detect(image)) for image in images]
    assert set(found) <= {0, 1}
    assert np.mean(found) >= 0.97


def test_faces_show_what_they_are_named(people, dlib_faces):
    """dlib, which knows nothing of how the pictures were made, sees the muscles' pulls."""
    for subject in people:
        seen = {
            emotion: upright(dlib_faces.detect(film(subject, emotion))[0].landmarks68)
            for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
        }

        def moved(emotion, points, axis, seen=seen):
            """How far, in eye distances; down and right are positive."""
            return (seen[emotion][points] - seen["NEU"][points]).mean(0)[axis]

        corners, inner_brows, brows, upper_lip = [48, 54], [21, 22], [19, 20, 23, 24], [50, 51, 52]
        assert moved("HAP", corners, 1) < -0.05
        assert moved("HAP", [54], 0) - moved("HAP", [48], 0) > 0.08
        assert moved("SAD", corners, 1) > 0.05
        assert moved("SAD", inner_brows, 1) < -0.03
        assert moved("ANG", inner_brows, 1) > 0.04
        assert moved("ANG", [22], 0) - moved("ANG", [21], 0) < -0.03
        assert moved("DIS", upper_lip, 1) < -0.04
        assert moved("DIS", inner_brows, 1) > 0.02
        assert moved("FEA", brows, 1) < -0.03
        assert moved("FEA", [40, 41, 46, 47], 1) - moved("FEA", [37, 38, 43, 44], 1) > 0.02
        assert moved("FEA", [65, 66, 67], 1) - moved("FEA", [61, 62, 63], 1) > 0.05


def test_mediapipe_sees_the_smile(people, landmarker_model, monkeypatch):
    from preprocessing.faces_mediapipe import MediaPipeFaces

    monkeypatch.setenv("FER_JAX_MODELS", str(landmarker_model.parent))
    faces = MediaPipeFaces()
    try:
        for subject in people:
            scores = {e: faces.detect(film(subject, e))[0].blendshapes for e in ("HAP", "NEU")}
            # 44 and 45 are mouthSmileLeft and mouthSmileRight.
            assert scores["HAP"][44:46].min() > scores["NEU"][44:46].max() + 0.2
    finally:
        faces.close()


def test_only_the_person_moves(people):
    from preprocessing.synthesize_face import Pose

    for subject in people:
        still = film(subject, "NEU")
        acting = film(subject, "FEA", pose=Pose(x=0.1, y=-0.1, roll=0.05, yaw=0.05))
        wall = np.zeros((SIZE, SIZE), bool)
        wall[:90, :12] = wall[:90, -12:] = True
        np.testing.assert_array_equal(still[wall], acting[wall])
        assert np.abs(still[~wall].astype(float) - acting[~wall]).mean() > 2


def test_a_full_expression_folds_no_skin(people):
    """The backward map of the face keeps its orientation: no place is seen twice."""
    import cv2

    from preprocessing.synthesize import PROTOTYPES
    from preprocessing.synthesize_face import UNITS
    from preprocessing.synthesize_portrait import CANVAS, grid

    for subject in people:
        for prototype in PROTOTYPES.values():
            field = sum(
                (v * subject.fields[UNITS.index(u)].sum(0) for u, v in prototype.items()),
                np.zeros(subject.fields.shape[2:], np.float32),
            )
            source = grid() - cv2.resize(field, (CANVAS, CANVAS))
            dx, dy = np.gradient(source, axis=(1, 0))
            area = dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]
            assert area.min() > 0


def test_open_jaw_shows_teeth_and_dark(people):
    from preprocessing.synthesize_face import _mouth_line, _open_jaw
    from preprocessing.synthesize_portrait import grid

    portrait = people[0].portrait
    seam = _mouth_line(portrait.landmarks, np.zeros((128, 128, 2), np.float32))
    source, mouth = _open_jaw(grid().copy(), seam, 12.0, portrait)
    assert mouth is not None
    column = mouth[:, round(float(seam[2, 0]))]
    rows = np.flatnonzero(column[:, 3] > 0.99)
    assert len(rows) == pytest.approx(12, abs=1)
    assert column[rows[1], :3].mean() > 100 > 40 > column[rows[-1], :3].mean()
    # Skin just under the opening comes from just under the closed line; above it nothing moved.
    x, y = round(float(seam[2, 0])), float(seam[2, 1])
    assert source[round(y + 14), x, 1] == pytest.approx(round(y + 14) - 12, abs=0.5)
    np.testing.assert_array_equal(source[: int(y) - 2], grid()[: int(y) - 2])


def test_stronger_levels_act_stronger():
    from preprocessing.synthesize import Parameters, Take, perform

    def smile(level):
        takes = [Take(s, 3, 1) for s in range(40)]
        parameters = Parameters(0, SIZE, 24, 12.0)
        return np.mean(
            [perform(t, f"1_IEO_HAP_{level}", parameters)[0]["AU12"].max() for t in takes]
        )

    assert 0.2 < smile("LO") < 0.85 * smile("MD") < 0.75 * smile("HI") < 1
