#!/usr/bin/env bash
# On each machine of the TPU: trains, and goes on when the connection is cut. Started again while it
# trains, it does nothing. fer-jax.log is what it says, fer-jax.exit its exit status.
set -euo pipefail
# shellcheck source=settings.sh
source "$HOME/settings.sh"
cd "$HOME/fer-jax"
if [ -f "$HOME/fer-jax.pid" ] && kill -0 "$(cat "$HOME/fer-jax.pid")" 2>/dev/null; then
  exit 0
fi
rm -f "$HOME/fer-jax.exit"
export PATH="$HOME/fer-jax-venv/bin:$PATH"
# shellcheck disable=SC2016
nohup setsid bash -c 'code=0; "$@" || code=$?; echo "$code" > "$HOME/fer-jax.exit"' train \
  fer-jax "${TRAIN[@]}" > "$HOME/fer-jax.log" 2>&1 < /dev/null &
echo $! > "$HOME/fer-jax.pid"
