"""The queue of trainings: many jobs, few GPUs, any number of runners on one work folder; no task, no torch."""
