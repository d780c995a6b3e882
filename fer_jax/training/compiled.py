"""What a compiled program does, read off its optimized HLO.

XLA prints a program as computations of one instruction a line; what an instruction calls, a
fusion's inside or a loop's body, is a computation of its own. On TPUs matmuls are convolutions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_SOURCE = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_PRODUCTS = ("convolution", "dot")
#: What moves values and computes nothing. A reshape that is left is one that must move them.
_MOVES = ("copy", "transpose", "reshape")
#: What sends to other devices, as the beginning of its opcode; "-start" is its asynchronous form.
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = ("parameter", "bitcast", "tuple", "get-tuple-element")


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    result: str
    """Type and layout, as printed."""
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def calls(self) -> list[str]:
        """The computations that it names."""
        found = _CALLED.findall(self.attributes)
        for names in _BRANCHES.findall(self.attributes):
            found += re.findall(r"[\w.\-]+", names)
        return found

    @property
    def source(self) -> str:
        """Where it comes from, as JAX named it."""
        found = _SOURCE.search(self.attributes)
        return found.group(1) if found else ""

    @property
    def dtype(self) -> str:
        """Of its (first) array."""
        found = _ARRAY.search(self.result)
        return found.group(1) if found else ""

    @property
    def bytes(self) -> int:
        """Of all arrays that it makes, without the padding of their layouts."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """The bytes of each."""
        return [
            math.ceil(math.prod(map(int, filter(None, sides.split(",")))) * _bits(kind) / 8)
            for kind, sides, _ in _ARRAY.findall(self.result)
        ]


@dataclass(frozen=True)
class Product:
    """A matmul or a convolution.

    Attributes:
      operands: what it reads, as XLA names types ("bf16", "f32").
      source: the operation in JAX.
    """

    name: str
    operands: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Move:
    """A copy, or a transpose that is one, between operations of a step.

    Attributes:
      bytes: of what is moved.
      result: its type and layout.
      source: the operation in JAX that wanted it.
    """

    name: str
    bytes: int
    result: str
    source: str

    @property
    def fast(self) -> bool:
        """Whether a TPU keeps the result in its fast memory (VMEM), and does not write HBM."""
        return "S(1)" in self.result


@dataclass(frozen=True)
class Loop:
    """A loop inside a step.

    Attributes:
      products: in its body, but for loops inside it.
      innermost: whether there is none.
      source: the operation in JAX.
    """

    name: str
    products: tuple[Product, ...]
    innermost: bool
    source: str


@dataclass(frozen=True)
class Step:
    """What a program does in a step.

    Attributes:
      products: all matmuls and convolutions, those of fusions and loops too; a loop's count once.
      moves: copies between operations, the largest first. Not those within a fusion, which pass
        through registers, and not the copies that bring operands into a chip's fast memory as they
        are (copy-start).
      loops: the loops inside it.
      around: copies that the program makes once, before and after the steps of a call.
    """

    products: tuple[Product, ...]
    moves: tuple[Move, ...]
    loops: tuple[Loop, ...]
    around: tuple[Move, ...]

    @property
    def moved(self) -> int:
        """Bytes of all copies."""
        return sum(move.bytes for move in self.moves)

    def products_of(self, kind: str) -> tuple[Product, ...]:
        """Those that read an operand of a type, say "f32"."""
        return tuple(product for product in self.products if kind in product.operands)

    @property
    def recurrences(self) -> tuple[Loop, ...]:
        """The innermost loops that multiply: a recurrent layer's, forward or backward."""
        return tuple(loop for loop in self.loops if loop.innermost and loop.products)


class Collective(NamedTuple):
    """An exchange between the devices.

    Attributes:
      kind: XLA's opcode, "all-reduce" and so on.
      bytes: of the whole arrays that it reduces, gathers or scatters, on one device.
    """

    kind: str
    bytes: int

    def sent(self, devices: int) -> float:
        """Bytes that a device sends at least, which a ring does: an all-reduce is a reduce-scatter
        and an all-gather, each of which passes on all but the device's own share."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (devices - 1) / devices


def read_collectives(text: str, devices: int, *, loop: bool = True) -> tuple[Collective, ...]:
    """The exchanges of a step; of a loop inside the step those of one turn.

    Args:
      text, loop: as of `read_step`.
      devices: that exchange.
    """
    found = []
    program, _, begin = _begin(text, loop)
    for line, _, _ in _walk(program, begin):
        kind = line.opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        size = line.bytes
        if line.opcode == "all-gather-start":  # Its result holds what it reads, too.
            size = sum(line.sizes[len(line.sizes) // 2 :])
        elif line.opcode == "collective-permute-start":  # And two contexts here.
            size = max(line.sizes)
        found.append(Collective(kind, size * (devices if kind == "reduce-scatter" else 1)))
    return tuple(found)


def read_step(text: str, *, loop: bool = True) -> Step:
    """What the step of a program does.

    Args:
      text: optimized HLO, `compiled.as_text()`.
      loop: the step is what the program's outermost loop repeats, not the whole program.

    Raises:
      ValueError: it has no entry computation, or no loop.
    """
    program, entry, begin = _begin(text, loop)
    products, inside = [], []
    for line, computation, _ in _walk(program, begin):
        if line.opcode in _PRODUCTS:
            products.append(_product(line, computation))
        if line.opcode == "while":
            inside.append(_loop(program, line))
    around = _moves_of(program, [entry], loops=False) if loop else ()
    return Step(tuple(products), _moves_of(program, begin), tuple(inside), around)


_Computation = dict[str, Instruction]
_Program = dict[str, list[Instruction]]


def _begin(text: str, loop: bool) -> tuple[_Program, str, list[str]]:
    """A program, its entry computation, and the computations that a step begins with."""
    program, entry = _parse(text)
    if not loop:
        return program, entry, [entry]
    begin = [name for line in program[entry] if line.opcode == "while" for name in line.calls]
    if not begin:
        raise ValueError("the program has no loop: loop=False reads all of it as one step")
    return program, entry, begin


def _walk(
    program: _Program, names: list[str], loops: bool = True, fused: bool = False
) -> Iterator[tuple[Instruction, _Computation, bool]]:
    """Every instruction that runs in these computations, with those around it and whether a fusion
    holds it; of each call once.

    Args:
      loops: go into loops too.
    """
    for name in names:
        known = {line.name: line for line in program.get(name, [])}
        for line in known.values():
            yield line, known, fused
            if line.calls and (loops or line.opcode != "while"):
                inner = fused or line.opcode == "fusion"
                yield from _walk(program, line.calls, loops, inner)


def _product(line: Instruction, computation: _Computation) -> Product:
    operands = (computation[name].dtype for name in line.operands if name in computation)
    return Product(line.name, tuple(operands), line.source)


def _loop(program: _Program, line: Instruction) -> Loop:
    found = list(_walk(program, line.calls, loops=False))
    products = [_product(one, around) for one, around, _ in found if one.opcode in _PRODUCTS]
    innermost = not any(one.opcode == "while" for one, _, _ in found)
    return Loop(line.name, tuple(products), innermost, line.source)


def _moves_of(program: _Program, names: list[str], loops: bool = True) -> tuple[Move, ...]:
    """The copies in these computations, the largest first."""
    found = [
        Move(line.name, line.bytes, line.result, line.source)
        for line, _, fused in _walk(program, names, loops)
        if not fused and _only_moves(line, program)
    ]
    return tuple(sorted(found, key=lambda move: -move.bytes))


def _only_moves(line: Instruction, program: _Program) -> bool:
    """Whether it does nothing but move values."""
    if line.opcode != "fusion":
        return line.opcode in _MOVES
    inside = {one.opcode for one, _, _ in _walk(program, line.calls)} - {*_FREE, "fusion"}
    return bool(inside) and inside <= set(_MOVES)


def _parse(text: str) -> tuple[_Program, str]:
    """The computations by name, and the entry's name."""
    program: _Program = {}
    entry, lines = "", []
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            lines = program.setdefault(found.group(2), [])
            entry = found.group(2) if found.group(1) else entry
        elif found := _INSTRUCTION.match(line):
            lines.append(_instruction(*found.groups()))
    if not entry:
        raise ValueError("no ENTRY computation: this is not the text of an HLO module")
    return program, entry


def _instruction(name: str, rest: str) -> Instruction:
    """Of `TYPE opcode(operands), attributes`; a TYPE in parentheses is a tuple's."""
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 1
    operands = re.findall(r"%([\w.\-]+)", rest[: end - 1])
    return Instruction(name, result, opcode, tuple(operands), rest[end:])


def _closing(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"a parenthesis stays open in {text[:80]!r}")


def _bits(kind: str) -> int:
    """Of a number of XLA's type: "pred", "s4", "bf16", "f8e4m3fn"."""
    if kind == "pred":
        return 8
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found.group(1)) if found else 0
