"""Synthetic knee radiographs whose landmarks, grade and spacing are known. Imports `kneel.imaging` only."""

from kneel.phantom.anatomy import Knee, draw_knee
from kneel.phantom.cohort import Cohort, write_cohort
from kneel.phantom.render import Film, FilmSpec, PhantomKnee, render_film

__all__ = ["Cohort", "Film", "FilmSpec", "Knee", "PhantomKnee", "draw_knee", "render_film", "write_cohort"]
