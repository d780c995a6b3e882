#!/usr/bin/env bash
# Copies the project to every machine of the TPU and installs it there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
source "$here/settings.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pack=$folder/fer-jax.tar.gz
cd "$WORKDIR"
{% if job.checkout %}
# What git knows, or would: no environments, runs or records.
git ls-files --cached --others --exclude-standard -z \
  | tar --create --gzip --file="$pack" --null --files-from=-
{% else %}
tar --create --gzip --file="$pack" {{ job.config | sh }}
{% endif %}
gcloud compute tpus tpu-vm scp \
  "$pack" "$here/settings.sh" "$here/worker_install.sh" "$here/worker_train.sh" "$NAME:" \
  --worker=all --zone="$ZONE" --project="$PROJECT"
gcloud compute tpus tpu-vm ssh "$NAME" \
  --worker=all --zone="$ZONE" --project="$PROJECT" --command='bash worker_install.sh'
