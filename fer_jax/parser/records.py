"""Commands that make, divide and look at records."""

from __future__ import annotations

import argparse
from pathlib import Path

from fer_jax import commands
from fer_jax.parser.command import Add

#: The keys of `preprocessing.corpora.CORPORA`, which --help does not import.
CORPORA = (
    "folder", "csv", "crema-d", "ravdess", "savee", "sase-fe", "oulu-casia", "ck+", "ck+-frames",
    "ised", "ised-frames", "fer2013", "affectnet", "jaffe",
)  # fmt: skip


def add_commands(add: Add) -> None:
    p = add(
        "generate",
        commands.generate,
        "Records of generated people, in a corpus's structure, whose best accuracy is known.",
        "fer-jax generate ravdess records/ --scale 0.1",
    )
    p.add_argument(
        "kind",
        metavar="CORPUS",
        help="one that a paper uses: crema-d, ravdess, sase-fe, oulu-casia, fer2013, affectnet, "
        "ck+-frames, jaffe, ised-frames",
    )
    p.add_argument("out", type=Path, metavar="OUT", help="the record directory to write")
    p.add_argument(
        "--outputs", default="landmarks", help="of landmarks, blendshapes, crops, frontal"
    )
    p.add_argument("--scale", type=float, default=1.0, help="share of the corpus (default: 1)")
    p.add_argument("--subjects", type=int, default=0, help="default: the corpus's own number")
    p.add_argument("--frames", type=int, default=0, help="of a video (default: the corpus's own)")
    p.add_argument("--crop-size", type=int, default=48, help="side of a picture, pixels")
    p.add_argument("--crop-color", default="gray", choices=("gray", "rgb"))
    p.add_argument("--seed", type=int, default=0)

    p = add(
        "preprocess",
        commands.preprocess,
        "Turn videos and images into a record directory.",
        "fer-jax preprocess fer2013 fer2013/ records/ --outputs blendshapes,crops",
    )
    p.add_argument("corpus", metavar="CORPUS", help=f"{', '.join(CORPORA[:-1])} or {CORPORA[-1]}")
    p.add_argument("raw", type=Path, metavar="RAW", help="the corpus as it was downloaded")
    p.add_argument("out", type=Path, metavar="OUT", help="the record directory to write")
    p.add_argument(
        "--outputs",
        default="landmarks",
        help="comma-separated: landmarks (dlib), blendshapes (MediaPipe), crops, frontal",
    )
    p.add_argument(
        "--workers",
        type=int,
        help="processes (default: one for each core and 600 MB of free memory, as far as a "
        "container's limits go)",
    )
    p.add_argument("--engine", default="local", help="local or ray")
    p.add_argument("--crop-size", type=int, help="side of a crop, pixels")
    p.add_argument("--crop-color", help="rgb or gray")
    p.add_argument("--crop-format", help="jpeg or png")
    p.add_argument("--align", help="face: turn and scale by the landmarks; none: the whole image")
    p.add_argument("--frontal-size", type=int, help="side of a frontal view (default: crop's)")
    p.add_argument("--frontal-symmetry", help="none, or soft: fill the hidden half from the other")
    p.add_argument(
        "--augment",
        type=int,
        default=0,
        metavar="N",
        help="add N flipped and turned copies of each training image (paper 5)",
    )
    p.add_argument("--limit", type=int, metavar="N", help="only the first N clips, for a trial")
    p.add_argument("--exclude", nargs="+", default=[], metavar="CLIP", help="leave out these clips")

    p = add(
        "inspect", commands.inspect, "What a record directory holds.", "fer-jax inspect records/"
    )
    p.add_argument("dir", type=Path, metavar="DIR")
    p.add_argument("--check", action="store_true", help="read everything, verify every checksum")

    p = add(
        "audit",
        commands.audit,
        "What leaks from the training part of a split into its test part.",
        "fer-jax audit records/ --protocol random-kfold",
    )
    _add_protocol(p)
    p.add_argument("--config", metavar="CONFIG", help="audit its protocol and what it fits, too")
    p.add_argument("--all-folds", action="store_true", help="every fold of a protocol with folds")
    p.add_argument(
        "--clean",
        type=Path,
        metavar="FILE",
        help="write a split whose training part lacks copies of what is judged",
    )
    p.add_argument("--out", type=Path, metavar="OUT", help="write audit.html and audit.json there")
    p.add_argument("--strict", action="store_true", help="exit 4 if anything leaks")

    p = add(
        "split",
        commands.split,
        "Divide records by a protocol: how many clips of each class, and the clips as a CSV.",
        "fer-jax split records/ --protocol subject-kfold --folds 5 --fold 2 --out fold2.csv",
    )
    _add_protocol(p)
    p.add_argument(
        "--out", type=Path, metavar="FILE", help="the CSV to write; --protocol file reads it"
    )

    p = add(
        "importance",
        commands.importance,
        "Which landmark distances tell emotions apart (paper 1): lists and a picture.",
        "fer-jax importance records/ --protocol subject-kfold --out importances/",
    )
    _add_protocol(p)
    p.add_argument("--out", type=Path, required=True, metavar="OUT")
    p.add_argument("--everything", action="store_true", help="look at every clip, as the paper did")
    p.add_argument(
        "--frames",
        default="4000",
        metavar="N",
        help="drawn at random (default: 4000; paper: 120000)",
    )
    p.add_argument("--trees", default="500", metavar="N", help="of each ensemble (default: 500)")
    p.add_argument(
        "--threshold", default="0.0009,0.001,0.002", metavar="X,X", help="of the mean importance"
    )
    p.add_argument("--landmark-scale", default="face-box", help="face-box or full-frame")


def _add_protocol(p: argparse.ArgumentParser) -> None:
    """What `audit`, `split` and `importance` take beside the keys of a config's protocol."""
    p.epilog = (
        f"{p.epilog}\nMore settings as in a config: --protocol.KEY VALUE, --data.labels SPACE"
    )
    p.add_argument("dir", metavar="DIR", help="record directories, as in A or A,B")
    p.add_argument(
        "--protocol",
        metavar="NAME",
        help="official, random, random-kfold, subject (default), subject-kfold, loso, loco, "
        "cross-corpus, published, actors or file",
    )
    for name in ("--folds", "--fold", "--seed"):
        p.add_argument(name, metavar="N")
