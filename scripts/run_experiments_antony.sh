#!/usr/bin/env bash
# Trains the network of Antony et al. 2017 that Tiulpin et al. 2018 compare with.
#
#   DATA_ROOT    holds train/ and val/, as scripts/data_stuff/create_grading_dataset.py cuts them from MOST and OAI
#   WORKDIR      where all runs go (default: workdir)
#
# Started again it goes on where it stopped; see run_experiments.sh for the other settings.
# Example:  DATA_ROOT=/data/kl WORKDIR=/data/runs scripts/run_experiments_antony.sh
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
EXPERIMENTS="$here/kl_experiments/antony.yaml" exec "$here/run_experiments.sh"
