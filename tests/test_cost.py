"""What readings and training steps cost, in counts that are the same on every machine, against stored upper bounds.

Counted are the calls of each stage, the multiply-accumulates (MACs) of its networks and how many whole films in float32
a reading holds in arrays at once. When a change makes something cheaper, or dearer for a good reason,

    python tests/test_cost.py --update

prints old and new and stores the new ones in tests/cost_bounds.json, to be committed with the change.
"""

import argparse
import json
import math
import sys
import tempfile
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deepknee.experiment import GradingExperiment
from deepknee.pipeline import load_reader
from deepknee.train import GradingTask
from kneel.engine.config import load_config
from kneel.experiment import LandmarkExperiment
from kneel.imaging import normalize_percentiles, read_radiograph
from kneel.imaging.geometry import RoiFrame
from kneel.network import LandmarkNet
from kneel.phantom.render import FilmSpec, render_film
from kneel.train import LandmarkTask

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from film import write_film  # noqa: E402
from ledger import Ledger, reading_stages  # noqa: E402

BOUNDS = ROOT / "tests" / "cost_bounds.json"
ROWS = 1024  # what is counted depends on millimetres, not on pixels
PICTURE = 64  # side of the pictures of a training step, and its batch
BATCH = 2


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("films"))


def measure(folder):
    """Count everything that has a bound: {subject: {quantity: number}}."""
    return {name: reading_cost(film) for name, film in films(folder).items()} | {
        "KNEEL training step": step_macs(kneel_step),
        "KNEEL training step with mixup": step_macs(lambda: kneel_step(mixup=True)),
        "DeepKnee training step": step_macs(deepknee_step),
    }


def films(folder):
    """The four kinds of films that are read in different ways."""
    both, one, picture, crop = (folder / name for name in ("both.dcm", "one.dcm", "both.png", "9000000R.png"))
    write_film(both, rows=ROWS)
    write_film(one, rows=ROWS, knees=(("R", 2),))
    save(picture, read_radiograph(both).pixels)
    save(crop, phantom_crop())
    kinds = {"film of both knees": both, "film of one knee": one, "picture without spacing": picture}
    return kinds | {"crop of one knee, side by its name": crop}


def save(path, pixels):
    cv2.imwrite(str(path), np.rint(255 * normalize_percentiles(pixels)).astype(np.uint8))


def phantom_crop():
    """100 mm around a joint on 224 pixels, as in the public sets."""
    film = render_film(FilmSpec(800, 600, 0.3, (("R", 2),)), np.random.default_rng(900))
    return RoiFrame.around(film.knees[0].center, 100, (0.3, 0.3), side="R", roi_spacing_mm=100 / 224).crop(film.pixels)


def reading_cost(film):
    reader = load_reader(ROOT / "pretrained", "cpu")
    reader.read(film)  # what is made once is not counted
    book = Ledger(reading_stages(reader), count=True)
    with book.booking():
        reader.read(film)
    calls = {f"{name}, calls": cost.calls for name, cost in book.costs.items() if cost.calls}
    macs = {f"{name}, MACs": cost.macs for name, cost in book.costs.items() if cost.macs}
    return {**calls, **macs, "films in float32 at once": films_at_once(reader, film)}


def films_at_once(reader, film):
    """Peak of all arrays over one whole film in float32; tensors are not seen by tracemalloc."""
    tracemalloc.start()
    try:
        reading = reader.read(film)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak / (4 * reading.radiograph.pixels.size)


def step_macs(step):
    """MACs of a training step, forward and backward, for one picture or knee."""
    book = Ledger([], count=True)
    with book.booking():
        step()
    return {"MACs a picture": book.total.macs // BATCH}


def kneel_step(mixup=False):
    recipe = load_config(ROOT / "hc_experiments/multiscale_wing_mixup_no_wd_cutout10.yaml", LandmarkExperiment)
    experiment = recipe if mixup else recipe.model_copy(update={"mixup": None})
    task = LandmarkTask(experiment, ROOT, name="cost")
    net = LandmarkNet(landmarks=16, mean=0.5, std=0.2, settings=recipe.model)
    batch = {
        "picture": torch.zeros(BATCH, 1, PICTURE, PICTURE),
        "points": torch.zeros(BATCH, 16, 2),
        "visible": torch.ones(BATCH, 16, dtype=torch.bool),
    }
    loss = task.training_loss(net, batch)
    for term in [loss] if isinstance(loss, torch.Tensor) else loss:
        term.backward()


def deepknee_step():
    experiment = load_config(ROOT / "kl_experiments/base.yaml", GradingExperiment)
    task = GradingTask(experiment, ROOT, name="cost")
    task.settings = None  # those of the data; what follows needs none
    net = task.build_model()
    pictures = torch.zeros(2, BATCH, 1, PICTURE, PICTURE)
    experiment.model.loss(net(*pictures), torch.zeros(BATCH, dtype=torch.long), torch.eye(5)[:BATCH]).backward()


def over(bounds, costs):
    """Say what costs more than it may."""
    return [
        f"{name}: {quantity}: {value}, the bound is {bounds.get(name, {}).get(quantity, 'not stored')}"
        for name, quantities in costs.items()
        for quantity, value in quantities.items()
        if value > bounds.get(name, {}).get(quantity, -1)
    ]


def stored():
    return json.loads(BOUNDS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(stored()))
def test_no_reading_and_no_step_costs_more_than_its_bound(measured, name):
    dearer = over(stored(), {name: measured[name]})
    assert not dearer, "\n".join([*dearer, "if it must be so: python tests/test_cost.py --update"])


def test_everything_counted_has_a_bound_and_the_reverse(measured):
    assert set(stored()) == set(measured)


def test_a_film_is_decoded_and_normalised_once(measured):
    for name in films_read():
        assert measured[name]["decode, calls"] == 1
        assert measured[name]["normalise, calls"] == 1


def test_macs_are_those_of_the_published_networks():
    # 17.5 GMACs a picture of 450 x 450 and .886 a pair of patches: REFERENCE of the originals, measured there
    recipe = load_config(ROOT / "hc_experiments/base.yaml", LandmarkExperiment)
    net = LandmarkNet(landmarks=16, mean=0.5, std=0.2, settings=recipe.model.model_copy(update={"channels": 3}))
    book = Ledger([], count=True)
    with book.booking(), torch.no_grad():
        net.eval()(torch.zeros(1, 1, 256, 256))
    assert book.total.macs == pytest.approx(5.72e9, rel=0.005)


def test_a_convolution_and_its_gradients_are_counted_by_hand_value():
    book = Ledger([], count=True)
    picture = torch.zeros(1, 2, 5, 7, requires_grad=True)
    with book.booking():
        torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)(picture).sum().backward()
    forward = 3 * 2 * 9 * 5 * 7
    assert book.total.macs == 3 * forward  # itself, and the gradients of picture and weights


def test_a_convolution_by_another_algorithm_counts_as_much():
    if not torch.backends.nnpack.is_available():
        pytest.skip("this torch has no NNPACK")
    book = Ledger([], count=True)
    with book.booking():
        torch.nn.functional.conv2d(torch.zeros(1, 2, 20, 20), torch.zeros(3, 2, 3, 3), padding=1)
    other = Ledger([], count=True)
    with other.booking():
        torch._nnpack_spatial_convolution(torch.zeros(1, 2, 20, 20), torch.zeros(3, 2, 3, 3), torch.zeros(3), (1, 1))
    assert other.total.macs == book.total.macs == 3 * 2 * 9 * 400


def test_costs_are_booked_on_the_innermost_stage():
    class Work:
        def outer(self):
            return [self.inner(), torch.ones(4, 4) @ torch.ones(4, 4)]

        def inner(self):
            return torch.ones(2, 2) @ torch.ones(2, 2)

    work = Work()
    book = Ledger([("outer", work, "outer"), ("inner", work, "inner")], count=True)
    with book.booking():
        work.outer()
        work.inner()
    assert [book.costs[name].calls for name in ("outer", "inner")] == [1, 2]
    assert [book.costs[name].macs for name in ("outer", "inner")] == [4**3, 2 * 2**3]
    assert "inner" not in vars(work)  # the watch is taken off again


def test_a_dearer_reading_is_named():
    assert over({"film": {"calls": 2}}, {"film": {"calls": 3}}) == ["film: calls: 3, the bound is 2"]
    assert not over({"film": {"calls": 2}}, {"film": {"calls": 2}})
    assert over({"film": {}}, {"film": {"calls": 1}})


def films_read():
    return [name for name, costs in stored().items() if "decode, calls" in costs]


def bound(cost):
    """Counts are their own bounds; memory gets a little room, for Python's own objects."""
    quantity, value = cost
    return quantity, value if isinstance(value, int) else math.ceil(10 * value + 0.5) / 10


def update():
    """Print old and new; store the new ones."""
    torch.set_num_threads(1)  # as in the tests
    with tempfile.TemporaryDirectory() as folder:
        new = {name: dict(map(bound, costs.items())) for name, costs in measure(Path(folder)).items()}
    old = stored() if BOUNDS.exists() else {}
    for name in sorted({*old, *new}):
        for quantity in dict.fromkeys([*old.get(name, {}), *new.get(name, {})]):
            before, after = (costs.get(name, {}).get(quantity) for costs in (old, new))
            if before != after:
                change = f" ({after / before - 1:+.1%})" if before and after else ""
                print(f"{name}: {quantity}: {before} -> {after}{change}")
    BOUNDS.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="measure, print old and new, store the new bounds")
    if parser.parse_args().update:
        update()
    else:
        parser.print_help()
