"""The face as it would look from the front (Hassner, Harel, Paz and Enbar, CVPR 2015).

One three-dimensional face, the same for everybody, is seen from the front once: `reference_view`
holds the point of it that each pixel of a frontal picture shows. For a face in a frame the camera
is estimated that sees the three-dimensional face where the landmarks are; each pixel of the
frontal picture then takes the colour of the frame where that camera sees the pixel's point. The
steps are those of docs/reproduction.md 3.4, with these choices:

* The face is MediaPipe's canonical mesh, the camera its own: pinhole, looking at the face from
  `DISTANCE_CM`, with the focal length, turn and place that fit the landmarks best. A calibrated
  camera would need a focal length, which a video does not tell and a crop does not have. The same
  camera makes the reference view, so a face that looks straight ahead stays as it is.
* Only landmarks that expressions hardly move decide on the camera.
* Eyes come to lie as in `preprocessing.crops`, so that both pictures can be laid over each other.
* Sizes that the method gives for a side of 320 pixels are in proportion to the side; accesses are
  counted in pixels of the frontal picture, so that they do not depend on the size of the frame.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from preprocessing.crops import crop_matrix, eye_centres
from preprocessing.face_model import FaceModel, read_face_model
from preprocessing.model_files import landmarker_path

SYMMETRIES = ("none", "soft")
#: From the camera to the middle of the head. On MediaPipe's landmarks of three videos and of
#: FER2013 the residual is 13 to 21 % smaller than from infinity; from 40 or 100 cm it is not
#: smaller on all of them.
DISTANCE_CM = 60.0
#: The side of the frontal picture for which the method states its sizes.
_SIDE = 320

#: The vertices at dlib's 68 points: within 0.15 eye distances of them, most within 0.08.
VERTICES_68 = (
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
#: What a point says of the pose: outline, brows, nose and eyes, mouth. The outline shows the pitch,
#: but slides over the skin; brows and mouth are expression.
_RIGIDITY_68 = np.repeat([0.3, 0.0, 1.0, 0.0], [17, 10, 21, 20])
#: The lids of both eyes.
_LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)

#: From a head's axes (see `FaceModel`) to a camera's: x to the right, y down, z away from it.
_TO_CAMERA = np.array([[1.0], [-1.0], [-1.0]])
_EYE = np.eye(6)


@dataclass(frozen=True, eq=False)
class Camera:
    """Where points of the head are seen.

    Attributes:
      matrix: f64[3, 4], centimetres in the axes of `FaceModel` to homogeneous pixels.
      scale: pixels a centimetre at the middle of the head.
    """

    matrix: np.ndarray
    scale: float

    @classmethod
    def of_pose(cls, rotation: np.ndarray, scale: float, offset: np.ndarray) -> Camera:
        """The camera that sees the head turned by f64[3, 3], its middle at the pixel f64[2]."""
        # Camera's axes: x to the right, y down, z away from it.
        matrix = np.empty((3, 4))
        matrix[:, :3] = rotation * np.array([[scale], [-scale], [-1 / DISTANCE_CM]])
        matrix[:, 3] = 0, 0, 1
        matrix[:2] += offset[:, None] * matrix[2]
        return cls(matrix, scale)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels f64[N, 2] of points f64[N, 3]."""
        seen = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        return seen[:, :2] / seen[:, 2:]


@dataclass(frozen=True, eq=False)
class _Anchors:
    """The N landmarks that decide on the camera.

    Attributes:
      indices: i64[N], of the landmarks.
      points: f64[3, N], the face there, in `DISTANCE_CM`.
      root: f64[N], of their weights, whose sum is 1.
      affine: f64[4, N], takes places f64[N, 2] to the affine camera that fits them best.
    """

    indices: np.ndarray
    points: np.ndarray
    root: np.ndarray
    affine: np.ndarray


@functools.cache
def _anchors(model: FaceModel, landmarks: int) -> _Anchors:
    if landmarks == 68:
        points, weights = model.vertices[list(VERTICES_68)], _RIGIDITY_68
    else:
        points, weights = model.vertices, model.rigidity
    indices = np.flatnonzero(weights)
    points, weights = points[indices] / DISTANCE_CM, weights[indices] / weights.sum()
    root = np.sqrt(weights)
    affine = np.linalg.pinv(root[:, None] * np.c_[points, np.ones(len(points))]) * root
    return _Anchors(indices, np.ascontiguousarray(points.T), root, affine)


def fit_camera(landmarks: np.ndarray, model: FaceModel) -> Camera:
    """The camera that sees the face where the landmarks are, by weighted least squares.

    Gauss-Newton from the best affine camera on.

    Args:
      landmarks: f32[68, 2] or f32[478, 2 or 3], source pixels.

    Raises:
      ValueError: the landmarks lie on one spot or line.
    """
    import cv2

    anchors = _anchors(model, len(landmarks))
    targets = landmarks.take(anchors.indices, 0)[:, :2].T.astype(np.float64)
    affine = targets @ anchors.affine.T
    rotation, scale, offset = *_nearest_rotation(affine[:, :3]), affine[:, 3]
    # Over the scale: derivatives by a turn about y, -x and z, by the logarithm of the scale and by
    # the offset (two), then what is left to explain.
    rows = np.zeros((7, *targets.shape))
    rows[4, 0] = rows[5, 1] = 1
    for _ in range(20):
        turned = rotation @ anchors.points
        near = 1 / (1 + turned[2])
        seen = turned[:2] * near
        np.multiply(seen[:, None], seen, out=rows[:2])
        depth = 1 - near
        rows[0, 0] += depth
        rows[1, 1] += depth
        np.negative(seen[1], out=rows[2, 0])
        rows[2, 1] = seen[0]
        rows[3] = seen
        np.subtract((targets - offset[:, None]) / scale, seen, out=rows[6])
        weighted = (rows * anchors.root).reshape(7, -1)
        products = weighted @ weighted.T
        normal, gradient = products[:6, :6], products[:6, 6:]
        # A trace of damping, for landmarks that leave a direction open.
        normal = normal + 1e-9 * normal.trace() * _EYE
        step = cv2.solve(normal, gradient, flags=cv2.DECOMP_CHOLESKY)[1][:, 0]
        y, x, z, growth = step[:4].tolist()
        rotation = cv2.Rodrigues(np.array([-x, y, z]))[0] @ rotation
        offset = offset + scale * step[4:]
        scale *= math.exp(growth)
        # How far this moved the points: a micrometre on the head.
        if step @ gradient[:, 0] < (1e-4 / DISTANCE_CM) ** 2:
            break
    return Camera.of_pose(rotation * _TO_CAMERA, scale / DISTANCE_CM, offset)


def _nearest_rotation(linear: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation f64[3, 3] and the scale whose first two rows are nearest to f64[2, 3].

    A polar decomposition, by the square root of a 2x2 matrix in closed form.
    """
    (a, b), (_, d) = (linear @ linear.T).tolist()
    root = math.sqrt(max(a * d - b * b, 0))
    if not root > 1e-6 * max(a + d, 1.0):
        raise ValueError("the landmarks lie on one spot or line: no pose can be estimated")
    trace = math.sqrt(a + d + 2 * root)
    inverse = np.array([[d + root, -b], [-b, a + root]]) / (root * trace)
    (xx, xy, xz), (yx, yy, yz) = (inverse @ linear).tolist()
    across = xy * yz - xz * yy, xz * yx - xx * yz, xx * yy - xy * yx
    return np.array([(xx, xy, xz), (yx, yy, yz), across]), trace / 2


def reference_camera(model: FaceModel, size: int) -> Camera:
    """The camera before the face, with the eyes where `crop_matrix` puts them in a side of S."""
    ahead = Camera.of_pose(np.eye(3), 1.0, np.zeros(2))
    to_pixels = crop_matrix(eye_centres(ahead.project(model.vertices)), size)
    return Camera.of_pose(np.eye(3), to_pixels[0, 0], to_pixels[:, 2])


def reference_view(model: FaceModel, size: int) -> np.ndarray:
    """What a frontal picture shows: f32[S, S, 3], the point of the face, NaN beside the face."""
    camera = reference_camera(model, size)
    places = camera.project(model.vertices)
    # Not depth but its inverse is linear on the picture of a triangle; the greatest is in front.
    nearness = 1 / (1 - model.vertices[:, 2] / DISTANCE_CM)
    front = np.zeros((size, size))
    for triangle in model.triangles:
        corners = places[triangle]
        left, top = np.maximum(np.ceil(corners.min(0)), 0).astype(int)
        right, bottom = np.minimum(np.floor(corners.max(0)) + 1, size).astype(int)
        area = np.linalg.det(np.c_[corners, np.ones(3)])
        if left >= right or top >= bottom or area == 0:
            continue
        rows, columns = np.mgrid[top:bottom, left:right]
        ahead, behind = np.roll(corners, -1, 0), np.roll(corners, -2, 0)
        shares = [
            ((a[0] - columns) * (b[1] - rows) - (b[0] - columns) * (a[1] - rows)) / area
            for a, b in zip(ahead, behind, strict=True)
        ]
        inside = np.minimum.reduce(shares) >= -1e-9
        value = np.where(inside, np.tensordot(nearness[triangle], shares, 1), 0)
        window = front[top:bottom, left:right]
        np.maximum(window, value, out=window)
    rows, columns = np.mgrid[:size, :size]
    with np.errstate(divide="ignore"):
        near = np.where(front > 0, 1 / front, np.nan)
    x = (columns - camera.matrix[0, 3]) / camera.scale * near
    y = (camera.matrix[1, 3] - rows) / camera.scale * near
    return np.stack([x, y, DISTANCE_CM * (1 - near)], -1).astype(np.float32)


class Frontalizer:
    """Makes frontal pictures of one size.

    Args:
      size: S, the side, pixels.
      symmetry: "none" leaves what the head hides from the camera as it comes; "soft" mixes the
        side that is seen less with the mirrored other one, but for the eyes.

    Raises:
      UserError: the model file is missing or damaged.
    """

    def __init__(self, size: int, symmetry: str = "none") -> None:
        self._size = size
        self._soft = symmetry == "soft"
        self._model = read_face_model(landmarker_path())
        view = reference_view(self._model, size)
        face = np.isfinite(view[..., 0])
        rows, columns = (np.flatnonzero(face.any(axis)) for axis in (1, 0))
        #: What of the picture is worked on: the face's extent; to be mirrored, all.
        self._window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if self._soft:
            self._window = np.s_[:, :]
        # Beside the face any point of it, which will be black.
        points = np.where(face[..., None], view, view[face][0])
        self._face, self._points = (a[self._window].copy() for a in (face, points))
        self._scale = reference_camera(self._model, size).scale
        self._eyes = self._eye_mask() if self._soft else None

    def frontalize(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """The face from the front, u8[S, S, 3], black where the frame does not show it.

        Args:
          image: u8[H, W, 3].
          landmarks: f32[68, 2] or f32[478, 2 or 3] of the face, source pixels.

        Raises:
          ValueError: the landmarks lie on one spot or line.
        """
        import cv2

        camera = fit_camera(landmarks, self._model)
        x, y, depth = cv2.split(cv2.transform(self._points, camera.matrix))
        x, y = x / depth, y / depth
        height, width = image.shape[:2]
        good = self._face & (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        factor = camera.scale / self._scale
        frontal = np.zeros((self._size, self._size, 3), np.uint8)
        frontal[self._window] = _sample(image, x, y, good, int(factor))
        if self._soft:
            frontal = self._symmetric(frontal, good, _accesses(x / factor, y / factor, good))
        return frontal

    def _symmetric(self, frontal: np.ndarray, good: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Step 6 of the method; `count` is of `_accesses`."""
        import cv2

        half = self._size // 2
        count = cv2.GaussianBlur(count, *_blur(15, 30, self._size), borderType=cv2.BORDER_REPLICATE)
        surplus = float(count[:, :half].sum() - count[:, -half:].sum())
        if abs(surplus) <= 800 * (self._size / _SIDE) ** 2:
            return frontal
        # One on the half that is seen better. The other half is a mixture.
        weights = np.zeros_like(count)
        weights[:, half:] = 1
        if surplus < 0:
            weights = weights[:, ::-1].copy()
        how = _blur(33, 60.5, self._size)
        weights = cv2.GaussianBlur(weights, *how, borderType=cv2.BORDER_REPLICATE)
        other = weights[:, ::-1]
        own = np.exp(-0.5 - count / count.max())
        # What the frame does not show has no share, on neither side.
        straight = good * (weights + own * other)
        mirrored = good[:, ::-1] * (1 - own) * other
        whole = np.maximum(straight + mirrored, np.float32(1e-6))
        straight, mirrored = straight / whole, mirrored / whole
        mixed = frontal * straight[..., None] + frontal[:, ::-1] * mirrored[..., None]
        assert self._eyes is not None
        mixed += (frontal - mixed) * (self._eyes * good)[..., None]
        return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)

    def _eye_mask(self) -> np.ndarray:
        """f32[S, S], 1 on the eyes and soft at the edge."""
        import cv2

        size = self._size
        places = reference_camera(self._model, size).project(self._model.vertices)
        mask = np.zeros((size, size), np.float32)
        for lids in _LIDS:
            cv2.fillPoly(mask, [np.rint(places[list(lids)]).astype(np.int32)], 1)
        # Eyes differ in place and size from the canonical ones.
        reach = 2 * round(size / 28) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        return cv2.GaussianBlur(cv2.dilate(mask, disc), (0, 0), size / 60)


def _sample(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, good: np.ndarray, factor: int
) -> np.ndarray:
    """The image at places f32[H, W], bicubic; black where not good.

    Where the face is `factor` times as large as its frontal picture, it is first reduced so much,
    so that nothing aliases.
    """
    import cv2

    if not good.any():
        return np.zeros((*good.shape, 3), np.uint8)
    if factor > 1:
        # Bicubic looks two reduced pixels around.
        left, top = (max(math.floor(v.min()) - 3 * factor, 0) for v in (x, y))
        right, bottom = (math.ceil(v.max()) + 3 * factor for v in (x, y))
        part = image[top:bottom, left:right]
        height, width = part.shape[:2]
        size = max(1, width // factor), max(1, height // factor)
        image = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        x = (x - (left - 0.5)) * (size[0] / width) - 0.5
        y = (y - (top - 0.5)) * (size[1] / height) - 0.5
    frontal = cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    # Zero where the mask is.
    return cv2.copyTo(frontal, good.view(np.uint8))


def _accesses(x: np.ndarray, y: np.ndarray, good: np.ndarray) -> np.ndarray:
    """f32[S, S]: how many pixels of the frontal picture take their colour from the same place.

    Args:
      x, y: places f32[S, S] in pixels of the frontal picture's size.
    """
    counts = np.zeros(good.shape, np.float32)
    if good.any():
        columns, rows = (np.rint(places[good]).astype(np.int64) for places in (x, y))
        columns -= columns.min()
        index = (rows - rows.min()) * (columns.max() + 1) + columns
        counts[good] = np.bincount(index)[index]
    return counts


def _blur(window: int, sigma: float, size: int) -> tuple[tuple[int, int], float]:
    """Window and sigma of a Gaussian that the method gives for 320 pixels, for S."""
    side = 2 * round((window - 1) / 2 * size / _SIDE) + 1
    return (side, side), sigma * size / _SIDE
