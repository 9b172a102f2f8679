#!/usr/bin/env bash
# Trains every experiment of a folder, one per GPU (on the CPU: one after the other).
#
#   DATA_ROOT    where the data are
#   WORKDIR      where all runs go (default: workdir)
#   EXPERIMENTS  experiment files or folders of them, separated by spaces (default: hc_experiments)
#   FOLDS        only these folds, separated by spaces (default: all)
#   VISDOM       HOST:PORT of a visdom server for live curves (default: none)
#
# Example:  DATA_ROOT=/data/oai WORKDIR=/data/runs EXPERIMENTS="lc_experiments hc_experiments" ./run_experiments.sh
#
# With none of DATA_ROOT and EXPERIMENTS given it makes a cohort of phantom films below demo/ and trains the small
# experiments of demo_experiments/ on it. Started again it goes on where it stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3

if [ -z "${DATA_ROOT:-}" ] && [ -z "${EXPERIMENTS:-}" ]; then
    demo=${DEMO:-demo} # where it goes
    DATA_ROOT=$demo/data
    WORKDIR=${WORKDIR:-$demo/runs}
    EXPERIMENTS=$here/demo_experiments
    jobs=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
    cohort() {
        [ -e "$DATA_ROOT/$1/films.csv" ] || "$python" "$here/scripts/data_stuff/make_phantom_cohort.py" \
            --out "$DATA_ROOT/$1" --n "$2" --seed "$3" --spacing 0.2 --implants 0 --jobs "$jobs"
    }
    cohort train 200 1
    cohort val 40 2
    cohort test 40 3
fi

if [ -z "${DATA_ROOT:-}" ]; then
    echo "run_experiments.sh: DATA_ROOT is not set: where are the data for $EXPERIMENTS?" >&2
    exit 2
fi
WORKDIR=${WORKDIR:-workdir}
EXPERIMENTS=${EXPERIMENTS:-$here/hc_experiments}

# both are lists of words; ${FOLDS:+...} leaves the option out when it is not set
# shellcheck disable=SC2086
exec "$python" "$here/scripts/experiments_runner.py" --experiments $EXPERIMENTS \
    --data_root "$DATA_ROOT" --workdir "$WORKDIR" ${FOLDS:+--folds $FOLDS}
