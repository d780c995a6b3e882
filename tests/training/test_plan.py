"""What a config takes on devices that are not there: the search, exchanges, GPUs, mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from fer_jax import cli, config
from fer_jax.config import override
from fer_jax.errors import UserError
from fer_jax.training import parallel, plan_table
from fer_jax.training.ahead import make_gpu_mesh, trace_train_step
from fer_jax.training.capacity import bytes_of
from fer_jax.training.chips import GPUS, TPUS, parse_topology
from fer_jax.training.compiled import Collective, read_collectives
from fer_jax.training.exchanges import count_collectives
from fer_jax.training.job import load_dataset
from fer_jax.training.largest import largest_share
from fer_jax.training.plan import plan

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
DENSE = str(CONFIGS / "attrah2024_dense.py")
KEYS = {"fits", "chips", "bytes_per_chip", "flops_per_step", "largest_batch"}


# Topologies.


@pytest.mark.parametrize(
    ("name", "chips"),
    [
        ("v5e:1x1", 1), ("v5e:4x4", 16), ("v6e:16x8", 128), ("v4:2x2x1", 4), ("v4:2x2x4", 16),
        ("v5p:4x8x8", 256), ("v5p:16x16x24", 6144), ("h100x8", 8), ("A100-40GBx1", 1), ("l4x2", 2),
    ],
)  # fmt: skip
def test_topologies_that_exist(name: str, chips: int) -> None:
    assert parse_topology(name).chips == chips


@pytest.mark.parametrize(
    "name",
    ["v5e:3x5", "v5e:4x4x4", "v5e:32x32", "v5p:4x4", "v5p:2x4x8", "v4:16x16x24", "v5p:0x4x4",
     "v7:2x2", "h900x2", "h100x3", "h100", "h100x16", "v5e", "", "x8"],
)  # fmt: skip
def test_topologies_that_do_not(name: str) -> None:
    with pytest.raises(UserError) as failed:
        parse_topology(name)
    said = str(failed.value)
    assert said.startswith(f"no topology {name!r}: there are v5e and v6e in 1x1, 2x2,")
    assert "\n" not in said
    assert all(known in said for known in (*TPUS, *GPUS))


# The search.


class Memory:
    """A program's memory by its share, which counts how often it is asked."""

    def __init__(self, fixed: int, each: float, pad: int = 1, silent: bool = False, limit: int = 0):
        self.fixed, self.each, self.pad = fixed, each, pad
        self.limit = limit if silent else 0
        self.asked: list[int] = []

    def __call__(self, share: int) -> int:
        self.asked.append(share)
        size = self.fixed + int(self.each * self.pad * math.ceil(share / self.pad))
        return 0 if self.limit and size > self.limit else size


@pytest.mark.parametrize("start", [1, 3, 64, 100_000])
@pytest.mark.parametrize("pad", [1, 8, 128])
@pytest.mark.parametrize("fixed", [0, 11, 5000])
def test_the_largest_share_of_near_linear_memory(start: int, pad: int, fixed: int) -> None:
    """At most four questions; what is found was seen to fit, and is near the largest that does."""
    fixed *= 1000
    limit, each = 10_000_000 + fixed, 900
    memory = Memory(fixed, each, pad)
    found, taken = largest_share(memory, start, limit, fixed // 2)
    assert len(memory.asked) == len(taken) <= 4
    assert found in taken and taken[found] <= limit
    best = int((limit - fixed) / each) // pad * pad
    assert 0.85 * best <= found <= best
    assert all(taken[share] > limit for share in taken if share > found)


def test_more_memory_never_gives_a_smaller_share() -> None:
    found = [largest_share(Memory(100, 3.0, 8), 5, limit, 50)[0] for limit in range(500, 9000, 250)]
    assert found == sorted(found) and found[0] < found[-1]


def test_a_compiler_that_does_not_say_how_much_it_lacks() -> None:
    memory = Memory(100, 1.0, silent=True, limit=1000)
    found, taken = largest_share(memory, 4096, 1000, 100)
    assert 1 <= found <= 900 and taken[found] <= 1000
    assert len(taken) <= 6


def test_the_padding_of_small_shares_misleads_nobody() -> None:
    """As measured of paper 3's nested network: a share of 1 takes what one of 8 takes."""
    limit, known = 15_750, {1: 11_020, 2: 11_020, 9728: 682_010}
    memory = Memory(10_470, 69.0, 8)
    assert all(abs(memory(share) - size) < 0.02 * size for share, size in known.items())
    found, taken = largest_share(memory, 1, limit, 8_200)
    assert 60 <= found <= 72 and len(taken) <= 4 and max(taken) < 200


def test_where_nothing_fits() -> None:
    memory = Memory(2000, 1.0)
    assert largest_share(memory, 64, 1000, 2000)[0] == 0
    assert memory.asked[0] == 64 and memory.asked[-1] == 1 and len(memory.asked) <= 6
    assert largest_share(Memory(2000, 1.0), 1, 1000, 2000) == (0, {1: 2001})


def test_what_takes_no_memory_ends_at_the_most() -> None:
    assert largest_share(Memory(100, 0.0), 4, 1000, 100, most=512)[0] == 512


# Exchanges.


N, D = 1000, 8
EXCHANGES: list[tuple[Any, str, int]] = [
    (lambda x: lax.psum(x, "data"), "all-reduce", 4 * N),
    (lambda x: lax.all_gather(x, "data", tiled=True), "all-gather", 4 * N * D),
    (lambda x: lax.psum_scatter(x, "data", tiled=True), "reduce-scatter", 4 * N),
    (lambda x: lax.ppermute(x, "data", [(i, (i + 1) % D) for i in range(D)]), "collective-permute",
     4 * N),
]  # fmt: skip


@pytest.mark.parametrize(("exchange", "kind", "size"), EXCHANGES)
def test_exchanges_by_hand(exchange: Any, kind: str, size: int) -> None:
    """Counted in the equations and read off what XLA made of them: N float32 are 4 N bytes."""
    mesh = parallel.make_mesh(config.Parallel(devices=D))
    out = PartitionSpec() if kind in ("all-reduce", "all-gather") else PartitionSpec("data")
    step = jax.jit(
        jax.shard_map(
            exchange, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=out, check_vma=False
        )
    )
    traced = step.trace(jax.ShapeDtypeStruct((D * N,), jnp.float32))
    assert count_collectives(traced.jaxpr.jaxpr) == (Collective(kind, size),)
    text = traced.lower().compile().as_text()
    assert read_collectives(text, D, loop=False) == (Collective(kind, size),)


def test_what_a_device_sends() -> None:
    """A ring of D passes on D - 1 pieces of N / D to reduce, and as many again to gather."""
    sent = {kind: Collective(kind, 800).sent(8) for _, kind, _ in EXCHANGES}
    assert sent == {
        "all-reduce": 1400, "all-gather": 700, "reduce-scatter": 700, "collective-permute": 800
    }  # fmt: skip
    assert Collective("all-reduce", 800).sent(1) == 0


#: As libtpu prints them.
ASYNC = """\
ENTRY %main (x: f32[8]) -> f32[] {
  %x = f32[8]{0} parameter(0)
  %s = (f32[8]{0:T(256)}, f32[32]{0:T(256)S(1)}) all-gather-start(%x), replica_groups=[1,4]<=[4]
  %d = f32[32]{0} all-gather-done(%s)
  %r = (f32[4,3]{1,0}, bf16[7]{0}) all-reduce-start(%d, %x), to_apply=%add
  %e = (f32[4,3]{1,0}, bf16[7]{0}) all-reduce-done(%r)
  %p = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  ROOT %q = f32[8]{0} collective-permute-done(%p)
}
"""


def test_exchanges_that_overlap_with_work() -> None:
    assert read_collectives(ASYNC, 4, loop=False) == (
        Collective("all-gather", 128), Collective("all-reduce", 62),
        Collective("collective-permute", 32),
    )  # fmt: skip


def test_scans_count_by_their_length() -> None:
    mesh = make_gpu_mesh("h100x8")

    def body(x: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (lax.psum(c, "data"), None), x, None, length=5)[0]

    step = jax.shard_map(
        body, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    jaxpr = jax.make_jaxpr(step)(jax.ShapeDtypeStruct((6,), jnp.float32))
    assert count_collectives(jaxpr.jaxpr) == (Collective("all-reduce", 24),) * 5


# Plans for GPUs.


def small(**train: Any) -> config.Experiment:
    return config.Experiment(
        name="small",
        data=config.Data(features="blendshapes-52", length="frames", labels="affectnet3"),
        model=config.Dense(units=(20,), dropout=(0.0,), kernel_l2=0.0),
        optim=config.Optim(name="adam"),
        train=config.Train(**{"batch": 64, "epochs": 10, **train}),
    )


def test_a_step_of_8_gpus_by_hand() -> None:
    """52 x 20 + 20 and 20 x 3 + 3 parameters, Adam's two moments, a sample of 52 numbers."""
    parameters = 52 * 20 + 20 + 20 * 3 + 3
    report = plan(small(), "h100x8", samples=1000, price=3.0)
    assert set(report) >= KEYS and json.loads(json.dumps(report)) == report
    assert (report["fits"], report["chips"], report["batch_per_chip"]) == (True, 8, 8)
    memory = report["memory"]
    # Adam and the schedule count their steps beside the state.
    assert 12 * parameters < memory["state"] <= 12 * parameters + 16
    # Of a sample: 52 float32, its row, mask, label and weight; 16 steps of 8 places; statistics.
    assert 1000 * (208 + 13) < memory["data"] < 1000 * (208 + 13) + 16 * 8 * 8 + 1000
    assert memory["beside"] == 4 * parameters
    total = sum(memory[part] for part in ("state", "data", "temporary", "beside"))
    assert report["bytes_per_chip"] == total
    # Forward and both gradients, but for the input's; and a few operations a number.
    products = 2 * 8 * (2 * 52 * 20 + 3 * 20 * 3)
    assert products < report["flops_per_chip"] < 1.5 * products + 30 * parameters
    assert report["flops_per_step"] == 8 * report["flops_per_chip"]
    # The gradient, the weight, the metrics.
    assert 4 * parameters < report["collective_bytes"] <= 4 * parameters + 4 * (1 + 9 + 4)
    assert report["steps_per_epoch"] == 16
    rate = report["steps_per_s_about"]
    assert rate <= report["steps_per_s_at_most"]
    assert report["samples_per_s_about"] == pytest.approx(64 * rate)
    assert report["hours_about"] == pytest.approx(160 / rate / 3600)
    assert report["cost_about"] == pytest.approx(24 * report["hours_about"])


def test_the_roofline_of_gpus_by_hand() -> None:
    report = plan(small(precision="bfloat16"), "a100x4", search=False)
    assert report["largest_batch"] is None
    seconds = report["seconds"]
    assert seconds["operations"] == pytest.approx(report["flops_per_chip"] / 312e12)
    assert seconds["exchanges"] == pytest.approx(1.5 * report["collective_bytes"] / 300e9)
    assert seconds["memory"] == pytest.approx(report["bytes_moved_per_chip"] / 2.0e12)
    assert report["steps_per_s_at_most"] == pytest.approx(
        1 / max(seconds["operations"], seconds["exchanges"])
    )


def test_the_largest_batch_of_gpus_fits_and_a_larger_one_does_not() -> None:
    wide = override(small(), [("model.units", "8000")])
    largest = plan(wide, "l4x2")["largest_batch"]
    assert largest % 2 == 0
    for batch, fits in ((largest, True), (int(1.15 * largest), False)):
        report = plan(override(wide, [("train.batch", str(batch))]), "l4x2", search=False)
        assert report["fits"] == fits == (report["bytes_per_chip"] <= report["memory"]["chip"])


@pytest.mark.parametrize("placement", ["resident", "sharded", "stream"])
def test_data_lies_where_a_run_would_put_it(placement: str) -> None:
    """Of 1,600 samples of 208 bytes a device has all, an eighth, or those of its share."""
    rows = {"resident": 1600, "sharded": 200, "stream": 8}[placement]
    mesh = make_gpu_mesh("h100x8")
    traced = trace_train_step(small(), mesh, samples=1600, placement=placement)
    others = 1600 * 13 + 25 * 8 * 8 + 2 * 4 * 52  # rows and so on; the order; mean and deviation
    assert traced.data == 208 * rows + others
    gathers = [one.kind for one in count_collectives(traced.step.jaxpr.jaxpr)]
    assert ("all-gather" in gathers) == (placement == "sharded")
    assert bytes_of(traced.state.params) == 4 * (52 * 20 + 20 + 20 * 3 + 3)


def test_more_data_than_a_device_is_dealt_and_then_streamed() -> None:
    found = [
        plan(small(), "l4x8", samples=samples, search=False)["data"]
        for samples in (1000, 60_000_000, 600_000_000)
    ]
    assert found == ["resident", "sharded", "stream"]


# The command.


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["plan", *words])
    return code, *capsys.readouterr()


def test_the_command_reads_the_records(
    face_corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many samples as a run would train on, and their classes."""
    records = str(face_corpus.write(tmp_path / "records", face_corpus.clips()))
    path = str(CONFIGS / "landmarks_lstm.py")
    code, out, _ = run(
        capsys, path, "--topology", "h100x2", "--data.dir", records, "--price", "2", "--json",
    )  # fmt: skip
    report = json.loads(out.splitlines()[-1])
    assert code == 0 and report["fits"] and set(report) >= KEYS
    dataset = load_dataset(config.load_config(path, [("data.dir", records)]))
    assert report["samples"] == len(dataset.train)
    assert report["classes"] == len(dataset.label_space.classes)
    # Samples share frames, and there is no more than there are.
    held = dataset.train.nbytes + sum(x.nbytes for x in dataset.train.arrays().values())
    assert held < report["memory"]["data"] < 1.2 * held
    text = plan_table.render(report)
    assert f"{report['samples']:,} samples, resident" in text
    assert "at $2 a chip-hour" in text


def test_a_batch_that_cannot_fit_is_refused_with_the_largest_that_can(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (DENSE, "--topology", "l4x1", "--train.batch", "9000000")
    code, out, err = run(capsys, *words, "--json")
    report = json.loads(out.splitlines()[-1])
    assert code == 2 and not report["fits"]
    largest = report["largest_batch"]
    assert 0 < largest < 9_000_000
    assert err == (
        "fer-jax: a batch of 9000000 does not fit on l4x1; the largest that fits is "
        f"{largest}: set --train.batch {largest}\n"
    )
    fits = run(capsys, DENSE, "--topology", "l4x1", "--train.batch", str(largest), "--no-search")
    assert fits[0] == 0 and "fits" in fits[1]


def test_a_batch_smaller_than_the_chips_says_what_it_wastes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, DENSE, "--topology", "h100x8", "--train.batch", "5", "--no-search")
    assert code == 0
    assert "A batch of 5 on 8 chips is computed as 8: 38 % of the work is padding." in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "v5e:3x5"], "no topology 'v5e:3x5': there are v5e and v6e in 1x1,"),
        (["--topology", "h900x2"], "no topology 'h900x2': there are"),
        (["--topology", "h100x2", "--parallel.devices", "4"], "h100x2 has 2 chips"),
        (["--topology", "h100x2", "--samples", "-1"], "--samples and --price"),
        (["--topology", "h100x2", "--train.bach", "4"], "train.batch"),
        (["--topology", "h100x2", "--data.dir", "absent"], "absent"),
        ([], "--topology"),
    ],
)
def test_mistakes(words: list[str], message: str, fails: Any) -> None:
    assert message in fails("plan", DENSE, *words)
