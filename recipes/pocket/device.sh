#!/usr/bin/env bash
# The recipe on a machine without network, from what `python -m recipes.pocket.pack` wrote (see there).
#   device.sh pack | prepare [WORKERS] | train MINUTES | export DIR
# SIZE (large), DEVICE (cuda), PYTHON (python3) and WORK (a folder that outlasts a command) may be set.
set -euo pipefail
cd "$(dirname "$0")/../.."
SIZE=${SIZE:-large} DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} WORK=${WORK:-recipes/pocket/device}
mkdir -p "$WORK/data" "$WORK/site"
export PATH="$PWD/$WORK/data/flite:$PATH" PYTHONPATH="$PWD/src:$PWD/$WORK/site" HF_HUB_OFFLINE=1
cores=$(nproc)

case ${1:-} in
  pack) # folders come one or several at a time; what came before stays
    cp -r recipes/pocket/pack/*/. "$WORK/data/"
    if [ -d "$WORK/data/wheels" ]; then
      "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$WORK/site" "$WORK"/data/wheels/*.whl
    fi
    du -sh "$WORK/data" ;;
  prepare)
    "$PYTHON" -m recipes.pocket.prepare --size "$SIZE" --data "$WORK/data" --workers "${2:-$cores}" ;;
  train) # minutes add up over calls, and the rate falls to 0 at their end: TOTAL says how many there will be
    bf16=$([ "$DEVICE" = cpu ] || echo --bf16)
    timeout $(($2 * 60 + 60)) "$PYTHON" -m recipes.pocket.train --size "$SIZE" --device "$DEVICE" $bf16 --shift 0.25 \
      --workers $((cores > 3 ? cores - 3 : 0)) --batch-seconds "${SECONDS_A_STEP:-2400}" --minutes "${TOTAL:-$2}" \
      --dropout 0.05 --watch-every 1000 || [ $? = 124 ] ;;
  export)
    "$PYTHON" -m recipes.pocket.evaluate --run "$SIZE" --split dev --out "$2/dev.json" \
      --sets far far-new-voices passages strings speechocean762 german answer voice  # CIDEr-D wants a package of 100 MB
    "$PYTHON" -m recipes.pocket.export --run "$SIZE" --out "$2/pocket" ;;
  *) sed -n 2,5p "$0"; exit 2 ;;
esac
