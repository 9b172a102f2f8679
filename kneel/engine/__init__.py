"""Training engine: experiments, seeds, folds, snapshots, curves and the loop itself; it knows no task.

Import the modules (``from kneel.engine.config import load_config``); the package itself loads nothing heavy.
"""
