#!/usr/bin/env bash
# The whole job: create, install, train, delete; and again from the last checkpoint when the TPU is
# taken away. Interrupted, it leaves the TPU there, and paid for: `bash delete.sh` gives it back.
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=settings.sh
source ./settings.sh

lost=0
while true; do
  code=0
  { bash create.sh && bash install.sh && bash train.sh; } || code=$?
  case "$code:$(state)" in
    # 0: done. 2: a mistake that no retry mends. 3, 4: see `fer-jax --help`.
    [0234]:*) break ;;
    # The TPU is gone (75), training was asked to stop and has saved (130, 143), or something failed
    # because the TPU was being taken away.
    75:* | 130:* | 143:* | *:SUSPEND*) ;;
    # A machine of the TPU was lost: three times that is bad luck.
    5:*)
      lost=$((lost + 1))
      if [ "$lost" -gt 3 ]; then break; fi
      ;;
    *) break ;;
  esac
  echo "taken away: asking for another; the run goes on from its last checkpoint" >&2
  bash delete.sh || true
  sleep 60
done
bash delete.sh || true
exit "$code"
