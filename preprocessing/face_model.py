"""MediaPipe's canonical face in three dimensions, read out of the face landmarker's bundle.

Vertices are centimetres in the head's own axes: x to the right of a picture of the face (the
subject's left), y up, z out of the face. Vertex i is landmark i of the 478.
"""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MEMBER = "geometry_pipeline_metadata_landmarks.binarypb"


@dataclass(frozen=True, eq=False)
class FaceModel:
    """A face at rest.

    Attributes:
      vertices: f64[468, 3], centimetres.
      triangles: i64[898, 3], indices of vertices; they cover the face, eyes and mouth closed.
      rigidity: f64[468], MediaPipe's weights of the vertices for a pose, which are 0 but for those
        that expressions hardly move.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    rigidity: np.ndarray


@functools.cache
def read_face_model(path: Path) -> FaceModel:
    """The face in a `face_landmarker.task`.

    Args:
      path: of `preprocessing.model_files.landmarker_path`, which has checked it.
    """
    with zipfile.ZipFile(path) as bundle:
        metadata = _metadata_class().FromString(bundle.read(_MEMBER))
    mesh = metadata.canonical_mesh
    # Five numbers a vertex: x, y, z and two of a texture.
    vertices = np.array(mesh.vertex_buffer, np.float64).reshape(-1, 5)[:, :3]
    rigidity = np.zeros(len(vertices))
    for landmark in metadata.procrustes_landmark_basis:
        rigidity[landmark.landmark_id] = landmark.weight
    return FaceModel(vertices, np.array(mesh.index_buffer, np.int64).reshape(-1, 3), rigidity)


def _metadata_class() -> Any:
    """The message class of `mediapipe.tasks.vision.face_geometry.proto.GeometryPipelineMetadata`.

    The fields that are read here, as mediapipe/tasks/cc/vision/face_geometry/proto declares them;
    MediaPipe's wheel does not carry the class.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="fer_jax/face_geometry.proto", package="face_geometry", syntax="proto2"
    )

    def add(message: Any, name: str, number: int, type_: int | str, *, many: bool = False) -> None:
        field = message.field.add(name=name, number=number)
        field.label = kind.LABEL_REPEATED if many else kind.LABEL_OPTIONAL
        if isinstance(type_, str):
            field.type, field.type_name = kind.TYPE_MESSAGE, f".face_geometry.{type_}"
        else:
            field.type = type_

    mesh = file.message_type.add(name="Mesh3d")
    add(mesh, "vertex_buffer", 3, kind.TYPE_FLOAT, many=True)
    add(mesh, "index_buffer", 4, kind.TYPE_UINT32, many=True)
    landmark = file.message_type.add(name="WeightedLandmarkRef")
    add(landmark, "landmark_id", 1, kind.TYPE_UINT32)
    add(landmark, "weight", 2, kind.TYPE_FLOAT)
    metadata = file.message_type.add(name="GeometryPipelineMetadata")
    add(metadata, "canonical_mesh", 1, "Mesh3d")
    add(metadata, "procrustes_landmark_basis", 2, "WeightedLandmarkRef", many=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("face_geometry.GeometryPipelineMetadata")
    return message_factory.GetMessageClass(found)
