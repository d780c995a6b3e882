set -uo pipefail
cd {{ job.workdir | sh }} || exit
# Where fer-jax is installed; every node must see it.
export PATH={{ job.prefix | sh }}/bin:"$PATH"
