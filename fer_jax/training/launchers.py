"""What started this process together with others: Slurm, SkyPilot, Kubernetes, Cloud TPU, a person.

Each says in its own variables where process 0 is, how many processes there are, and which this is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fer_jax import machine
from fer_jax.errors import UserError

#: Where process 0 listens if nobody says.
PORT = 8476
#: Says that there is one process, whatever a launcher says.
ALONE = "FER_JAX_PROCESSES"


class Launch(NamedTuple):
    """A process of a job.

    Attributes:
      by: who says so.
      coordinator: "host:port" of process 0; "" where only JAX can find it out.
      processes, process: how many there are, and which this is; 0 with an empty coordinator.
      device: the one local device that is this process's, of several processes on a host; else
        None: all of them are.
    """

    by: str
    coordinator: str
    processes: int
    process: int
    device: int | None = None


def find_launch(environ: Mapping[str, str]) -> Launch | None:
    """The job that this process belongs to; None where it trains alone.

    Raises:
      UserError: a launcher's variables are not complete, or contradict each other.
    """
    if environ.get(ALONE) == "1":
        return None
    for find in (_plain, _jax, _slurm, _skypilot, _kubeflow, _gke_tpu, _tpu_vm):
        launch = find(environ)
        if launch is None:
            continue
        if launch.processes and not 0 <= launch.process < launch.processes:
            raise UserError(
                f"{launch.by}: process {launch.process} of {launch.processes}: they are counted "
                f"from 0 (to train in this process alone, set {ALONE}=1)"
            )
        return None if launch.processes == 1 else launch
    return None


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.strip().isdecimal():
        raise UserError(f"{name}={text}: give a whole number")
    return int(text)


def _with_port(address: str, port: int | str = PORT) -> str:
    """An address with a port; one of IPv6 in brackets, as JAX wants it."""
    if address.count(":") > 1 and not address.startswith("["):
        return f"[{address}]:{port}"
    return address if ":" in address.rpartition("]")[2] else f"{address}:{port}"


def _plain(environ: Mapping[str, str]) -> Launch | None:
    """FER_JAX_COORDINATOR, FER_JAX_PROCESSES, FER_JAX_PROCESS; the last may be a launcher's."""
    if not environ.get("FER_JAX_COORDINATOR") and not environ.get(ALONE):
        return None
    given = (name for name in ("FER_JAX_COORDINATOR", ALONE) if not environ.get(name))
    if missing := next(given, None):
        raise UserError(f"{missing} is not set, but other variables of FER-JAX's processes are")
    ranks = ("FER_JAX_PROCESS", "SLURM_PROCID", "SKYPILOT_NODE_RANK", "JOB_COMPLETION_INDEX")
    rank = next((name for name in ranks if environ.get(name)), None)
    if rank is None:
        raise UserError("FER_JAX_PROCESS is not set: give each process its number, from 0")
    coordinator = _with_port(environ["FER_JAX_COORDINATOR"])
    return Launch(ALONE, coordinator, _number(environ, ALONE), _number(environ, rank))


def _jax(environ: Mapping[str, str]) -> Launch | None:
    """JAX's own variables, as its users set them."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not all(environ.get(name) for name in names):
        return None
    address, processes, process = names
    coordinator = _with_port(environ[address])
    return Launch(processes, coordinator, _number(environ, processes), _number(environ, process))


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    """The tasks that `srun` starts; a batch script itself is no task.

    https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES. Several tasks on a
    node have a device each, unless Slurm shows each its own alone (--gpus-per-task).
    """
    names = ("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID")
    if not all(environ.get(name) for name in names):
        return None
    # Jobs that share a node listen at different ports.
    port = 61440 + _number(environ, "SLURM_JOB_ID") % 4096
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS")
    nodes = _number(environ, "SLURM_STEP_NUM_NODES") if "SLURM_STEP_NUM_NODES" in environ else tasks
    shown = environ.get("CUDA_VISIBLE_DEVICES", "")
    device = None
    if tasks > nodes and "SLURM_LOCALID" in environ and (not shown or "," in shown):
        device = _number(environ, "SLURM_LOCALID")
    first = _first_host(environ["SLURM_STEP_NODELIST"])
    return Launch("Slurm", f"{first}:{port}", tasks, _number(environ, "SLURM_PROCID"), device)


def _first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: "a[007-015,020]-x,b" is a007-x."""
    prefix, bracket, rest = nodes.partition("[")
    if "," in prefix or not bracket:
        return nodes.partition(",")[0]
    inside, _, after = rest.partition("]")
    number = inside.partition(",")[0].partition("-")[0]
    return f"{prefix}{number}{after.partition(',')[0]}"


def _skypilot(environ: Mapping[str, str]) -> Launch | None:
    """The nodes of a task; on each of them one process, with all of its devices.

    https://docs.skypilot.co/en/latest/running-jobs/environment-variables.html
    """
    if not environ.get("SKYPILOT_NODE_IPS") or not environ.get("SKYPILOT_NODE_RANK"):
        return None
    addresses = environ["SKYPILOT_NODE_IPS"].split()
    if environ.get("SKYPILOT_NUM_NODES") and (
        _number(environ, "SKYPILOT_NUM_NODES") != len(addresses)
    ):
        raise UserError(
            f"SKYPILOT_NUM_NODES is {environ['SKYPILOT_NUM_NODES']}, but SKYPILOT_NODE_IPS has "
            f"{len(addresses)} addresses"
        )
    rank = _number(environ, "SKYPILOT_NODE_RANK")
    return Launch("SkyPilot", _with_port(addresses[0]), len(addresses), rank)


def _kubeflow(environ: Mapping[str, str]) -> Launch | None:
    """The pods of Kubeflow's JAXJob. Those of a plain indexed Job have FER_JAX_COORDINATOR and
    FER_JAX_PROCESSES in their manifest, and their number from Kubernetes (`_plain`)."""
    names = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID", "KUBERNETES_SERVICE_HOST")
    if not all(environ.get(name) for name in names):
        return None
    port = environ.get("COORDINATOR_PORT", PORT)
    count, process = (_number(environ, name) for name in names[1:3])
    return Launch("Kubeflow", _with_port(environ["COORDINATOR_ADDRESS"], port), count, process)


def _gke_tpu(environ: Mapping[str, str]) -> Launch | None:
    """The pods of a TPU slice, or of several, in Google's Kubernetes.

    https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus
    """
    if not environ.get("TPU_WORKER_HOSTNAMES") or not environ.get("TPU_WORKER_ID"):
        return None
    hosts = environ["TPU_WORKER_HOSTNAMES"].split(",")
    slices, place = 1, 0
    first = hosts[0]
    if environ.get("MEGASCALE_NUM_SLICES"):
        slices = _number(environ, "MEGASCALE_NUM_SLICES")
        place = _number(environ, "MEGASCALE_SLICE_ID")
        first = environ["MEGASCALE_COORDINATOR_ADDRESS"].partition(":")[0]
    process = place * len(hosts) + _number(environ, "TPU_WORKER_ID")
    return Launch("Cloud TPU", _with_port(first), slices * len(hosts), process)


def _tpu_vm(environ: Mapping[str, str]) -> Launch | None:
    """A TPU VM, whose place in its slice Google's metadata server knows: JAX asks it. Where chips
    are shared out to processes, each of these trains alone."""
    shared = ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES", "TPU_SKIP_MDS_QUERY")
    if not machine.has_tpu() or any(environ.get(name) for name in shared):
        return None
    return Launch("Cloud TPU", "", 0, 0)
