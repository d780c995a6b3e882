"""What a compiled program does, read off its text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from fer_jax.training.compiled import read_step

#: As libtpu prints a program: layouts with tiles, /*index=*/ comments, products as convolutions.
PROGRAM = """\
HloModule jit_run, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0:T(8,128)})->f32[]}

%inner (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %p = (s32[]{:T(128)}, bf16[8,4]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/bf16[4,4]{1,0}) parameter(0)
  %g = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %k = bf16[4,4]{1,0} get-tuple-element(%p), index=2
  %h = bf16[8,4]{1,0} convolution(%g, %k), dim_labels=bf_io->bf, metadata={op_name="a/scan/dot"}
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) tuple(%i, %h, %k)
}

%fused (a: f32[512,512], b: bf16[512,512]) -> f32[512,512] {
  %a = f32[512,512]{1,0} parameter(0)
  %b = bf16[512,512]{1,0} parameter(1)
  %within = f32[512,512]{0,1} copy(%a)
  ROOT %c = f32[512,512]{1,0} convolution(%within, %b), metadata={op_name="a/x(y)"}
}

%moving (a: bf16[3,512,512]) -> bf16[512,1536] {
  %a = bf16[3,512,512]{2,1,0} parameter(0)
  %u = bf16[512,3,512]{2,1,0} transpose(%a), dimensions={1,0,2}
  ROOT %r = bf16[512,1536]{1,0} bitcast(%u)
}

%scaling (a: bf16[512,512]) -> bf16[512,512] {
  %a = bf16[512,512]{1,0} parameter(0)
  %u = bf16[512,512]{0,1} transpose(%a), dimensions={1,0}
  ROOT %r = bf16[512,512]{0,1} multiply(%u, %u)
}

%condition (p: (s32[], bf16[8,4])) -> pred[] {
  %p = (s32[], bf16[8,4]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%step (p: (s32[], f32[512,512])) -> (s32[], f32[512,512]) {
  %p = (s32[], f32[512,512]{1,0}, bf16[3,512,512]{2,1,0}) parameter(0)
  %x = f32[512,512]{1,0} get-tuple-element(%p), index=1
  %m = bf16[3,512,512]{2,1,0} get-tuple-element(%p), index=2
  %one = bf16[512,512]{1,0} convert(%x)
  %two = bf16[512,512]{0,1} fusion(%one), kind=kLoop, calls=%scaling
  %y = f32[512,512]{1,0} fusion(%x, %two), kind=kOutput, calls=%fused
  %z = f32[512,512]{0,1:T(8,128)S(1)} copy(%y), metadata={op_name="a/b \\"c\\"/transpose"}
  %moved = bf16[512,1536]{1,0} fusion(%m), kind=kLoop, calls=%moving, metadata={op_name="a/move"}
  %in = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) tuple(%x, %x, %x)
  %while.1 = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) while(%in), condition=%condition, body=%inner
  %fetch = (f32[9999,999]{1,0:S(1)}, f32[9999,999]{1,0}, u32[]) copy-start(%x)
  ROOT %t = (s32[], f32[512,512]{1,0}) tuple(%x, %z)
}

ENTRY %main (x: f32[512,512]) -> f32[] {
  %x = f32[512,512]{1,0} parameter(0)
  %before = f32[512,512]{0,1} copy(%x)
  %in = (s32[], f32[512,512]{1,0}) tuple(%x, %before)
  ROOT %while.2 = (s32[], f32[512,512]{1,0}) while(%in), condition=%condition, body=%step
}
"""


def test_products_are_found_inside_fusions_and_loops() -> None:
    step = read_step(PROGRAM)
    found = {product.name: (product.operands, product.source) for product in step.products}
    assert found == {"c": (("f32", "bf16"), "a/x(y)"), "h": (("bf16", "bf16"), "a/scan/dot")}
    assert [product.name for product in step.products_of("f32")] == ["c"]
    assert step.products_of("f64") == ()


def test_copies_are_those_between_operations_of_the_step() -> None:
    """Not those in a fusion that computes, not a fetch into fast memory, not the entry's."""
    step = read_step(PROGRAM)
    assert [(move.name, move.bytes) for move in step.moves] == [
        ("moved", 2 * 3 * 512 * 512), ("z", 4 * 512 * 512)
    ]  # fmt: skip
    assert [move.fast for move in step.moves] == [False, True]
    assert step.moves[1].source == 'a/b \\"c\\"/transpose'
    assert [move.name for move in step.around] == ["before"]
    assert step.moved == 2 * 3 * 512 * 512 + 4 * 512 * 512


def test_loops_know_their_products() -> None:
    (loop,) = read_step(PROGRAM).loops
    assert (loop.name, loop.innermost) == ("while.1", True)
    assert [product.name for product in loop.products] == ["h"]
    assert read_step(PROGRAM).recurrences == (loop,)


def test_a_program_without_a_loop_is_one_step() -> None:
    text = PROGRAM.replace("ENTRY %main", "%main").replace("\n%step", "\nENTRY %step")
    step = read_step(text, loop=False)
    assert {product.name for product in step.products} == {"c", "h"}
    assert [move.name for move in step.moves] == ["moved", "z"]
    assert [loop.name for loop in step.loops] == ["while.1"]
    assert step.around == ()
    with pytest.raises(ValueError, match="no loop"):
        read_step(
            text[: text.index("%inner")]
            + text[text.index("%fused") : text.index("%moving")]
            + "ENTRY %main (x: f32[]) -> f32[] {\n  ROOT %x = f32[] parameter(0)\n}\n"
        )


@pytest.mark.parametrize("text", ["", "a: 1", PROGRAM.replace("ENTRY ", "")])
def test_what_is_no_program_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        read_step(text)


def test_a_program_of_this_machine() -> None:
    """Two products a turn of the outer loop, one of them in a loop of its own."""

    def inner(x: jax.Array, k: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 5, lambda i, x: jnp.tanh(x @ k), x)

    @jax.jit
    def run(x: jax.Array, k: jax.Array, stop: jax.Array) -> jax.Array:
        return lax.fori_loop(0, stop, lambda i, x: inner(x @ k, k), x)

    side = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    stop = jax.ShapeDtypeStruct((), jnp.int32)
    step = read_step(run.lower(side, side, stop).compile().as_text())
    # A CPU's small product may be a call of a library: what is printed as one is counted.
    assert all(product.operands == ("f32", "f32") for product in step.products)
    assert [loop.innermost for loop in step.loops] == [True]
