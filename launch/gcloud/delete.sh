#!/usr/bin/env bash
# Gives the TPU back. What was trained is in the bucket.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=settings.sh
source ./settings.sh
gcloud compute tpus queued-resources delete "$NAME" \
  --force --quiet --zone="$ZONE" --project="$PROJECT"
