"""One step, written for one device, mapped over devices along the axis "data".

Inside a mapped function `jax.lax.psum(x, AXIS)` adds over the devices. The mesh is made here and
nowhere else. `shard_map` under `jit` is the default; `jax.pmap` does the same to the bit (tested).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax import config, machine
from fer_jax.data.batches import divide_batches
from fer_jax.errors import UserError

#: The name of the device axis.
AXIS = "data"
#: CPU devices that share a batch at most: beyond, the shares are too small to be worth it.
MOST_CORES = 8


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache, so that repeating a command starts sooner.

    For commands, not for imports: it is a setting of the whole process. $JAX_COMPILATION_CACHE_DIR
    and settings made before are respected.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "fer-jax" / "jax"))


def pass_over_libtpu() -> None:
    """Keeps JAX from starting libtpu, there to compile for TPUs, on a machine that has no TPU:
    it would warn of all that it misses. For commands, before JAX starts; $JAX_PLATFORMS stays."""
    plugins = (f"jax_{name}_plugin" for name in ("cuda12", "cuda13", "rocm7", "rocm60"))
    accelerated = machine.has_tpu() or any(map(importlib.util.find_spec, plugins))
    if jax.config.values["jax_platforms"] is None and not accelerated:
        jax.config.update("jax_platforms", "cpu")


def use_every_core(batch: int) -> None:
    """Gives a CPU one JAX device a core, so that a batch is shared among the cores.

    XLA spreads one device's small matrix products badly over cores: paper 1's step takes 1.6 times
    as long on one device as on two, on two cores. A device gets at least 16 examples. For commands,
    before JAX starts; what the user has set, by JAX_NUM_CPU_DEVICES or XLA_FLAGS, stays.

    Args:
      batch: examples that this process computes.
    """
    if jax.config.values["jax_num_cpu_devices"] != -1:
        return
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = machine.available_cores()
    # Refused where JAX runs already: its devices then stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(1, min(cores, batch // 16, MOST_CORES)))


def keep_memory() -> None:
    """Lets the process keep the memory that it frees, where the C library is glibc.

    XLA's CPU backend asks for a step's memory anew at every step, and glibc asks the kernel for
    pieces of that size each time: a quarter to a third of a convolutional network's step is then
    spent on clearing pages. For commands, before JAX starts its threads; the process may take up
    to twice as much. A threshold that the user set, by GLIBC_TUNABLES or MALLOC_*, stays.
    """
    told = os.environ.get("GLIBC_TUNABLES", "") + " ".join(os.environ)
    if "mmap_threshold" in told or "MALLOC_MMAP" in told:
        return
    # M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h: one heap, which alone can grow to
    # any size, never a mapping of its own for a large piece, and nothing given back.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((-8, 1), (-4, 0), (-1, -1)):
            mallopt(parameter, value)


def make_mesh(settings: config.Parallel) -> Mesh:
    """A mesh of the devices of all processes, one axis "data".

    The axis is Auto: a scan whose carry starts from a constant fails under Explicit axes.

    Raises:
      UserError: more devices are asked for than there are, or not as many of each process.
    """
    devices = jax.devices()
    count = settings.devices or len(devices)
    if count > len(devices):
        where = "this machine has" if jax.process_count() == 1 else "these processes have"
        raise UserError(
            f"--parallel.devices {count}: {where} {len(devices)} "
            f"{devices[0].platform} device(s); use at most that, or 0 for all"
        )
    if count < len(devices) and jax.process_count() > 1:
        each, rest = divmod(count, jax.process_count())
        owned = [[d for d in devices if d.process_index == p] for p in range(jax.process_count())]
        if rest or any(len(own) < each for own in owned):
            raise UserError(
                f"--parallel.devices {count}: {jax.process_count()} processes with "
                f"{', '.join(str(len(own)) for own in owned)} devices cannot give as many each; "
                "use 0 for all"
            )
        devices = [device for own in owned for device in own[:each]]
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree's arrays, whole on every device; every process gives the same."""
    return put(tree, NamedSharding(mesh, PartitionSpec()))


def spread(tree: Any, mesh: Mesh) -> Any:
    """Arrays [D, ...] with row d on device d; every process gives the same."""
    return put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def put(tree: Any, where: NamedSharding) -> Any:
    """Arrays that every process has whole, on the devices: each process fills its own."""
    if where.is_fully_addressable:
        return jax.device_put(tree, where)
    # device_put would compare what the processes give, each time.
    return jax.tree.map(lambda leaf: _put_own(leaf, where), tree)


def _put_own(leaf: Any, where: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put_own(jax.random.key_data(leaf), where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
    return jax.make_array_from_callback(host.shape, where, lambda index: host[index])


def own_rows(mesh: Mesh) -> tuple[int, ...]:
    """The places in the mesh of this process's devices."""
    me = jax.process_index()
    return tuple(d for d, device in enumerate(mesh.devices.flat) if device.process_index == me)


def spread_own(tree: Any, mesh: Mesh) -> Any:
    """Arrays of `own_rows`, [d, ...], as the rows of arrays [D, ...] that lie on the devices."""
    rows, where = own_rows(mesh), NamedSharding(mesh, PartitionSpec(AXIS))
    if len(rows) == mesh.size:
        return jax.device_put(tree, where)

    place = {row: n for n, row in enumerate(rows)}

    def spread_one(leaf: np.ndarray) -> jax.Array:
        def row(index: Any) -> np.ndarray:
            return leaf[place[index[0].start or 0]][None]

        return jax.make_array_from_callback((mesh.size, *leaf.shape[1:]), where, row)

    return jax.tree.map(spread_one, tree)


def deal(
    index: np.ndarray, weight: np.ndarray, mesh: Mesh, parts: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Batches as each device's share of them.

    Args:
      index: i32[S, B] of S batches.
      weight: f32[S, B]; 0 is padding.
      parts: what must divide a share.

    Returns:
      i32[D, S, b] and f32[D, S, b], b of `batches.share_of`, on the devices. Where they do not
      divide B the last devices get padding of weight 0.
    """
    return spread(
        (
            divide_batches(index, mesh.size, parts),
            divide_batches(weight, mesh.size, parts),
        ),
        mesh,
    )


class Devices(NamedTuple):
    """The devices that share a batch: those of a mapped axis, or one alone."""

    axis: str | None = None
    count: int = 1

    @property
    def place(self) -> jax.Array | int:
        return 0 if self.axis is None else lax.axis_index(self.axis)

    def total(self, tree: Any) -> Any:
        return tree if self.axis is None else lax.psum(tree, self.axis)

    def collect(self, share: jax.Array, rows: jax.Array) -> jax.Array:
        """`whole[rows]` of an array whose rows are dealt to the devices: [N / D, ...] on each.

        Every device looks up what all of them want in its own share; a sum over the devices, of
        which one at most has anything, brings each its own.
        """
        if self.axis is None:
            return share[rows]
        wanted = lax.all_gather(rows, self.axis, tiled=True) - self.place * len(share)
        held = (wanted >= 0) & (wanted < len(share))
        found = share[jnp.clip(wanted, 0, len(share) - 1)]
        held = held.reshape(held.shape + (1,) * (found.ndim - held.ndim))
        found = jnp.where(held, found, jnp.zeros_like(found))
        return lax.psum_scatter(found, self.axis, scatter_dimension=0, tiled=True)


ALONE = Devices()


def map_devices(
    function: Callable[..., tuple[Any, ...]],
    mesh: Mesh,
    mapper: str,
    in_axes: Sequence[int | None],
    out_axes: Sequence[int | None],
    donate: Sequence[int] = (),
) -> Callable[..., Any]:
    """`function`, run on every device of the mesh at once and compiled.

    Args:
      function: sees one device's part of each argument; its collectives name `AXIS`.
      mapper: "shard_map" or "pmap".
      in_axes: of each argument, None (whole on every device) or 0 (row d goes to device d).
      out_axes: of each result, None (equal on every device) or 0 (stacked by device).
      donate: arguments whose memory the results may take.
    """
    if mapper == "pmap":
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(in_axes),
            out_axes=tuple(out_axes),
            devices=list(mesh.devices.flat),
            donate_argnums=tuple(donate),
        )

    def body(*arguments: Any) -> tuple[Any, ...]:
        # shard_map leaves the mapped axis in place with size 1, pmap takes it away.
        own = [
            argument if axis is None else jax.tree.map(lambda x: x[0], argument)
            for argument, axis in zip(arguments, in_axes, strict=True)
        ]
        return tuple(
            result if axis is None else jax.tree.map(lambda x: x[None], result)
            for result, axis in zip(function(*own), out_axes, strict=True)
        )

    def specs(axes: Sequence[int | None]) -> tuple[PartitionSpec, ...]:
        return tuple(PartitionSpec() if axis is None else PartitionSpec(AXIS) for axis in axes)

    # check_vma=False leaves the collectives to the function, as pmap does.
    mapped = jax.shard_map(
        body, mesh=mesh, in_specs=specs(in_axes), out_specs=specs(out_axes), check_vma=False
    )
    # XLA's CPU compiler takes barriers out before it orders a program; without them it would
    # compute what is rematerialised at once, and keep it.
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    platform = mesh.devices.flat[0].platform
    return jax.jit(
        mapped,
        donate_argnums=tuple(donate),
        compiler_options=options if platform == "cpu" else None,
    )
