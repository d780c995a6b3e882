#!/usr/bin/env bash
# Copies the project to every machine of the TPU and installs it there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
source "$here/settings.sh"

pack=$(mktemp --suffix .tar.gz)
trap 'rm -f "$pack"' EXIT
cd "$WORKDIR"
{% if job.checkout %}
git ls-files --cached --others --exclude-standard -z | tar --create --gzip --null --files-from=- --file="$pack"
{% else %}
tar --create --gzip --file="$pack" {{ job.config | sh }}
{% endif %}
gcloud compute tpus tpu-vm scp "$pack" "$NAME:fer-jax.tar.gz" \
  --worker=all --zone="$ZONE" --project="$PROJECT"
gcloud compute tpus tpu-vm scp "$here/settings.sh" "$here/worker_install.sh" "$here/worker_train.sh" "$NAME:" \
  --worker=all --zone="$ZONE" --project="$PROJECT"
gcloud compute tpus tpu-vm ssh "$NAME" \
  --worker=all --zone="$ZONE" --project="$PROJECT" --command='bash worker_install.sh'
