#!/usr/bin/env bash
# On each machine of the TPU: unpacks the project and installs it.
set -euo pipefail
mkdir -p "$HOME/fer-jax"
tar --extract --gzip --file="$HOME/fer-jax.tar.gz" --directory="$HOME/fer-jax"
cd "$HOME/fer-jax"
{% with packages = "tpu", extras = "cloud,tpu,track" %}{% include "install.sh" %}{% endwith %}
