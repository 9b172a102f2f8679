"""Made-up predictions of grades, for several test files."""

import numpy as np
import pandas as pd

from deepknee.predictions import GradePredictions


def made_up(subjects: int = 30, seed: int = 0, model: str = "a", networks: int = 2) -> GradePredictions:
    """Two knees a subject, every grade among them, and networks that know something."""
    rng = np.random.default_rng(seed)
    grades = np.arange(2 * subjects) % 5
    members = rng.dirichlet(np.ones(5), (networks, 2 * subjects)) + 1.0 * np.eye(5)[grades]
    members /= members.sum(2, keepdims=True)
    knees = [(f"{number}{side}.png", f"s{number}", side) for number in range(subjects) for side in "LR"]
    table = pd.DataFrame(knees, columns=["knee", "subject_id", "side"]).assign(true_kl=grades)
    return GradePredictions(model, table, members.mean(0), members if networks > 1 else None)
