"""ONNX: clip.onnx and stream.onnx, which onnxruntime runs without JAX.

The metadata of each file hold recogniser.json under "recogniser": a program needs the file alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

import fer_jax

if TYPE_CHECKING:
    import onnx

    from fer_jax.deploy.formats import Run
    from fer_jax.deploy.recogniser import Recogniser, Signature

#: As old as the operations allow, for old runtimes.
_IR_VERSION = 8
_BATCH = "batch"


def save(recogniser: Recogniser, directory: Path) -> None:
    """Writes a file a signature."""
    import onnx

    for name, signature in recogniser.signatures.items():
        model = _model(recogniser, name, signature)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, directory / f"{name}.onnx")


def load(directory: Path) -> Run:
    """Runs the files with onnxruntime."""
    sessions = {
        path.stem: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in sorted(directory.glob("*.onnx"))
    }

    def run(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = sessions[name]
        outputs = [output.name for output in session.get_outputs()]
        found = map(np.asarray, session.run(outputs, dict(inputs)))
        return dict(zip(outputs, found, strict=True))

    return run


def _model(recogniser: Recogniser, name: str, signature: Signature) -> onnx.ModelProto:
    from onnx import helper

    from fer_jax.deploy.artifact import describe
    from fer_jax.deploy.lowering import lower
    from fer_jax.deploy.lowering.onnx_graph import OPSET, Graph

    def described(name: str, like: Any) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(like.dtype))
        return helper.make_tensor_value_info(name, kind, [_BATCH, *like.shape])

    graph = Graph(next(iter(signature.inputs)))
    names = {key: key for key in signature.inputs}
    found = lower(signature.function, recogniser.variables, signature.inputs, names, graph)
    nodes = [
        *graph.nodes,
        *(helper.make_node("Identity", [tensor], [key]) for key, (tensor, _) in found.items()),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            name,
            [described(key, like) for key, like in signature.inputs.items()],
            [described(key, like) for key, (_, like) in found.items()],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="fer-jax",
        producer_version=fer_jax.__version__,
    )
    said = json.dumps(describe(recogniser, "onnx"))
    helper.set_model_props(model, {"recogniser": said, "signature": name})
    return model
