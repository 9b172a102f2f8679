#!/usr/bin/env bash
# From the unzipped public set of Chen 2018 to the table of grades: landmarks of all crops, the grading networks of
# kl_experiments/chen2018_*, calibration on the validation crops, evaluation (on the test crops where they are there).
#
#   DATA_ROOT    holds train/, val/ and, if you like, test/, each with the folders 0 to 4; landmarks.csv is written beside them
#   WORKDIR      where all runs go (default: workdir)
#   JOBS         processes that look for landmarks (default: 2)
#   MEMBERS      experiments of kl_experiments/ whose networks are averaged (default: those of the networks that ship)
#   STARTS       experiments that MEMBERS go on from, what their files call transfer (default: none where MEMBERS is given)
#
# Started again it goes on where it stopped; see run_experiments.sh for the other settings.
# Example:  DATA_ROOT=/data/chen2018 WORKDIR=/data/runs scripts/run_chen2018.sh
# PER_GPU=2 trains two networks at a time, one on each of two CPU cores: all in about an hour where they have bfloat16.
# Half of the ensemble, which two cores without it do in about two hours:
#   PER_GPU=2 MEMBERS="chen2018_joint_seed_42 chen2018_joint_seed_84" DATA_ROOT=... WORKDIR=... scripts/run_chen2018.sh
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
: "${DATA_ROOT:?the folder of the unzipped public set}" "${WORKDIR:=workdir}" "${JOBS:=2}"
export DATA_ROOT WORKDIR
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
if [ -z "${MEMBERS:-}" ]; then
    STARTS=${STARTS:-chen2018_small chen2018_aligned_seed_42 chen2018_aligned_seed_84}
    MEMBERS="chen2018_robust_seed_42 chen2018_robust_seed_84 chen2018_joint_seed_42 chen2018_joint_seed_84"
fi

locate() {
    "$python" "$here/scripts/data_stuff/locate_landmarks.py" --images "$DATA_ROOT/$1" --jobs "$JOBS" && return
    status=$?
    [ $status != 1 ] ||
        echo "run_chen2018.sh: $DATA_ROOT/$1/landmarks_problems.csv says which knees have no landmarks and what to do" >&2
    exit $status
}

experiments=""
for name in ${STARTS:-} $MEMBERS; do
    experiments+=:$here/kl_experiments/$name.yaml
    [ -f "$here/kl_experiments/$name.yaml" ] && continue
    echo "run_chen2018.sh: no kl_experiments/$name.yaml; MEMBERS and STARTS take the names of such files" >&2
    exit 2
done
locate train
locate val

EXPERIMENTS=${experiments#:} "$here/run_experiments.sh"

networks=()
for name in $MEMBERS; do networks+=("$WORKDIR/$name"); done
"$python" "$here/scripts/calibrate_kl.py" --data "$DATA_ROOT/val" --weights "${networks[@]}" --turns -6 6
for part in val test; do
    if [ ! -d "$DATA_ROOT/$part" ]; then continue; fi
    locate "$part"
    "$python" "$here/scripts/evaluate_kl.py" --data "$DATA_ROOT/$part" --weights "${networks[@]}" --out "$WORKDIR/evaluation_$part"
done
