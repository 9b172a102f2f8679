#!/usr/bin/env bash
# Trains every experiment of a folder, all folds, one job per GPU (on the CPU: one after the other). Started again it goes on
# where it stopped. By environment, or by the flags of scripts/experiments_runner.py, which win (--help names them all):
#
#   DATA_ROOT    where the data are
#   WORKDIR      where all runs go (default: workdir)
#   EXPERIMENTS  a folder of experiment files, or one file; several are separated by ":"
#                (default: hc_experiments_todo where it exists, else hc_experiments)
#   GPUS         which, as CUDA_VISIBLE_DEVICES names them, or cpu (default: all)
#   PER_GPU      jobs at once on each GPU, or on the CPU, whose threads they share (default: 1)
#   FOLDS        only these folds (default: all)
#   SEEDS        each of these seeds, in runs called NAME_seed_S (default: the seed of the file)
#   RETRIES      how often what fails is tried again (default: 1)
#   RAY          address of a Ray cluster to run the jobs on: local, auto or HOST:PORT (docs/cluster.md)
#   VISDOM_SERVER, PORT  visdom server for live curves and pictures (default: localhost, 8097). Where none answers, one is
#                started on this machine, for it alone but without a password; it ends with this command. none: no curves.
#
# Example:  DATA_ROOT=/data/oai WORKDIR=/data/runs EXPERIMENTS=lc_experiments:hc_experiments FOLDS="0 1" ./run_experiments.sh
#
# With no flags and none of DATA_ROOT and EXPERIMENTS given it makes a cohort of phantom films below demo/ and trains the
# small experiments of demo_experiments/ on it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3

if [ $# = 0 ] && [ -z "${DATA_ROOT:-}" ] && [ -z "${EXPERIMENTS:-}" ]; then
    demo=${DEMO:-demo} # where it goes
    export DATA_ROOT=$demo/data WORKDIR=${WORKDIR:-$demo/runs} EXPERIMENTS=$here/demo_experiments
    jobs=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
    cohort() {
        [ -e "$DATA_ROOT/$1/films.csv" ] || "$python" "$here/scripts/data_stuff/make_phantom_cohort.py" \
            --out "$DATA_ROOT/$1" --n "$2" --seed "$3" --spacing 0.2 --implants 0 --jobs "$jobs"
    }
    cohort train 200 1
    cohort val 40 2
    cohort test 40 3
fi

if [ -z "${VISDOM:-}" ] && [ "${VISDOM_SERVER:-}" != none ] && [ "${1:-}" != --help ] && [ "${1:-}" != -h ]; then
    # exec keeps the process number: the server ends with the runner, however that ends
    VISDOM=$("$python" "$here/scripts/visdom_server.py" --beside $$ --host "${VISDOM_SERVER:-localhost}" \
        --port "${PORT:-8097}" ${WORKDIR:+--log "$WORKDIR/visdom.log"}) || VISDOM=
    export VISDOM
fi

exec "$python" "$here/scripts/experiments_runner.py" "$@"
