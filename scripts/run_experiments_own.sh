#!/usr/bin/env bash
# Trains the Siamese network of Tiulpin et al. 2018 with its three seeds, to be read as one ensemble.
#
#   DATA_ROOT    holds train/ and val/, as scripts/data_stuff/create_grading_dataset.py cuts them from MOST and OAI
#   WORKDIR      where all runs go (default: workdir)
#
# Started again it goes on where it stopped; see run_experiments.sh for the other settings.
# Example:  DATA_ROOT=/data/kl WORKDIR=/data/runs scripts/run_experiments_own.sh
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
EXPERIMENTS="$here/kl_experiments/siamese_seed_21.yaml:$here/kl_experiments/siamese_seed_42.yaml:$here/kl_experiments/siamese_seed_84.yaml" exec "$here/run_experiments.sh"
