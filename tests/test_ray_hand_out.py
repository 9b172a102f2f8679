"""What is sent out to a cluster, and what becomes of pieces that something dies over: without Ray."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepknee.films import make_film
from deepknee.hand_out import MOST_FILMS, Piece, cut, hand_out
from deepknee.output import FolderError
from deepknee.shards import by_name
from kneel.engine.ray_cluster import ClusterError


class FakeError(Exception):
    """A process died."""


class FakeNodeError(FakeError):
    """A node died."""


class FakeTaskError(FakeError):
    """A task raised something."""

    cause = OSError(28, "No space left on device")


class FakeRay:
    """A cluster that reads films one after another in this process, and dies over those named ``crash``."""

    exceptions = SimpleNamespace(RayError=FakeError, RayTaskError=FakeTaskError, NodeDiedError=FakeNodeError)

    def __init__(self, folder, nodes=0):
        self.folder, self.sent, self.most, self.nodes = folder, {}, 0, nodes

    def send(self, films):
        number = len(self.sent)
        self.sent[number] = films
        return number

    def wait(self, references, *, num_returns):
        self.most = max(self.most, len(references))
        return [references[-1]], references[:-1]

    def get(self, reference):
        names = [film.path.name for film in self.sent[reference]]
        if "node" in names and self.nodes:
            self.nodes -= 1
            raise FakeNodeError("the node died")
        if "crash" in names:
            raise FakeError("the worker died")
        if "full" in names:
            raise FakeTaskError
        path = self.folder / str(reference)
        if "lost" not in names:
            path.write_text(" ".join(names))
        return path


def named(*names):
    return [make_film(f"/films/{name}", Path("/out")) for name in names]


def numbers(count, **more):
    return named(*(more.get(f"f{number}", f"{number:04d}") for number in range(count)))


def go(cluster, pieces, most=4):
    given_up = []
    over = sum(hand_out(cluster, iter(pieces), cluster.send, given_up.append, most))
    return over, [film.path.name for film in given_up]


def test_every_film_is_sent_once_and_few_at_a_time(tmp_path):
    cluster = FakeRay(tmp_path)
    assert go(cluster, cut(numbers(1000), 2), most=4) == (1000, [])
    sent = [film for films in cluster.sent.values() for film in films]
    assert sorted(sent, key=by_name) == numbers(1000)
    assert cluster.most == 4


@pytest.mark.parametrize("crash", [0, 57, 99])
def test_the_film_that_kills_is_found_among_many(tmp_path, crash):
    cluster = FakeRay(tmp_path)
    assert go(cluster, cut(numbers(500, **{f"f{crash}": "crash"}), 1)) == (500, ["crash"])
    read = Counter(name for path in tmp_path.iterdir() for name in path.read_text().split())
    assert set(read.values()) == {1}
    assert len(read) == 499
    with_it = [films for films in cluster.sent.values() if "crash" in (film.path.name for film in films)]
    assert [len(films) for films in with_it[:4]] == [100, 100, 50, 50], "each twice, then halved"


def test_a_cluster_on_which_everything_dies_is_an_error_and_no_list_of_films(tmp_path):
    cluster = FakeRay(tmp_path)
    with pytest.raises(ClusterError, match="41 processes or nodes died one after another: the worker died"):
        go(cluster, [Piece(tuple(named(*["crash"] * 100))) for _ in range(9)])


def test_nodes_that_die_are_no_films_doing_but_not_for_ever(tmp_path):
    cluster = FakeRay(tmp_path, nodes=10)
    assert go(cluster, [Piece(tuple(named("1", "node")))]) == (2, [])
    assert {len(films) for films in cluster.sent.values()} == {2}, "never halved"
    assert go(FakeRay(tmp_path, nodes=1000), [Piece(tuple(named("1", "node")))], most=40) == (2, ["node"])


def test_what_stops_a_task_stops_the_run(tmp_path, monkeypatch):
    cluster = FakeRay(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        go(cluster, [Piece((film,)) for film in named("a", "b", "c", "full")])
    monkeypatch.setattr("deepknee.hand_out._LAG_SECONDS", 0.0)
    with pytest.raises(FolderError, match="do both see the same --out"):
        go(FakeRay(tmp_path), [Piece(tuple(named("lost")))])


@pytest.mark.parametrize(("count", "places", "sizes"), [(9, 2, [2, 2, 2, 2, 1]), (3, 8, [1] * 3), (999, 2, [100] * 10)])
def test_films_are_cut_so_that_all_places_have_work(count, places, sizes):
    films = numbers(count)
    pieces = list(cut(films, places))
    assert [len(piece.films) for piece in pieces][:-1] == sizes[:-1]
    assert [film for piece in pieces for film in piece.films] == films
    assert max(sizes) <= MOST_FILMS
