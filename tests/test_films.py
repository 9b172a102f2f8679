import os
import re

import pytest

from deepknee.films import PathsError, find_films, make_film


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(paths, out, root):
    films, others = find_films([str(path) for path in paths], out)
    return [os.path.relpath(film.path, root) for film in films], {
        os.path.relpath(film.path, root): reason for film, reason in others
    }


def test_folders_are_walked_in_order(tmp_path):
    touch(tmp_path, "b/2", "b/1.dcm", "a/x/y/3.png", "c.jpg", ".hidden/4.dcm", "a/.5.dcm")
    touch(tmp_path, "a/notes.TXT", "DICOMDIR", "Thumbs.db")
    films, others = found([tmp_path], tmp_path / "out", tmp_path)
    assert films == ["c.jpg", "a/x/y/3.png", "b/1.dcm", "b/2"]
    assert sorted(others) == ["DICOMDIR", "Thumbs.db", "a/notes.TXT"]
    assert others["a/notes.TXT"] == "not a film: .txt files lie beside films"


def test_what_is_named_is_tried_whatever_it_is_called(tmp_path):
    touch(tmp_path, "notes.txt", ".film")
    assert found([tmp_path / "notes.txt", tmp_path / ".film"], tmp_path / "out", tmp_path) == (
        ["notes.txt", ".film"],
        {},
    )


def test_a_file_named_twice_is_taken_once(tmp_path):
    touch(tmp_path, "a/1.dcm", "a/2.dcm", "a/notes.txt")
    films, others = found([tmp_path / "a" / "2.dcm", tmp_path / "a", tmp_path / "a" / "notes.txt"], tmp_path, tmp_path)
    assert films == ["a/2.dcm", "a/1.dcm", "a/notes.txt"]
    assert others == {}


def test_output_folders_are_left_out(tmp_path):
    touch(tmp_path, "1.dcm", "old/deepknee.json", "old/knees/k.png", "old/results.csv")
    assert found([tmp_path], tmp_path / "old", tmp_path) == (["1.dcm"], {})
    touch(tmp_path, "deepknee.json", "knees/k.png", "records/k.json", "report.html")
    assert found([tmp_path], tmp_path, tmp_path) == (["1.dcm"], {})


@pytest.mark.parametrize("inside", ["out/knees", "out/knees/k.png", "out/records"])
def test_outputs_cannot_be_read(tmp_path, inside):
    touch(tmp_path, "out/knees/k.png", "out/records/k.json")
    with pytest.raises(PathsError, match="lies where outputs go"):
        find_films([str(tmp_path / inside)], tmp_path / "out")


def test_paths_that_hold_nothing(tmp_path):
    touch(tmp_path, "a/notes.txt")
    with pytest.raises(PathsError, match="no such file or folder"):
        find_films([str(tmp_path / "typo.dcm")], tmp_path / "out")
    with pytest.raises(PathsError, match="no films at"):
        find_films([str(tmp_path / "a")], tmp_path / "out")


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "store/1.dcm", "films/2.dcm")
    (tmp_path / "films" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "films")
    (tmp_path / "films" / "gone.dcm").symlink_to(tmp_path / "nowhere")
    films, _ = found([tmp_path / "films"], tmp_path / "out", tmp_path)
    assert films == ["films/2.dcm", "films/gone.dcm", "films/more/1.dcm"]


def test_pipes_are_not_opened(tmp_path):
    touch(tmp_path, "1.dcm")
    os.mkfifo(tmp_path / "pipe")
    films, others = found([tmp_path], tmp_path / "out", tmp_path)
    assert films == ["1.dcm"]
    assert others == {"pipe": "not a film: a device, pipe or socket"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_folder_that_cannot_be_opened_is_not_forgotten(tmp_path):
    touch(tmp_path, "1.dcm", "locked/2.dcm")
    (tmp_path / "locked").chmod(0)
    films, _ = found([tmp_path], tmp_path / "out", tmp_path)
    (tmp_path / "locked").chmod(0o700)
    assert films == ["1.dcm", "locked"]


def test_keys_are_safe_and_do_not_collide(tmp_path):
    names = [
        "a/1.dcm",
        "b/1.dcm",
        "a/1.png",
        "a/ü☃.dcm",
        "a/☃.dcm",
        "a/" + "x" * 200,
        "a/..",
        "a/ ",
        "a/CON",
        "a/\udcff",
    ]
    names += ["a/1.DCM", "a/1_dcm", "a/x\ny", "a/<b>.dcm"]
    keys = [make_film(str(tmp_path / name), tmp_path / "out").key for name in names]
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_]{1,48}-[0-9a-f]{10}", key) for key in keys)


def test_keys_follow_films_and_outputs_that_move_together(tmp_path):
    one, other = (make_film(f"{tmp_path}/{disk}/films/1.dcm", tmp_path / disk / "out") for disk in ("a", "b"))
    assert one.key == other.key
    assert make_film(f"{tmp_path}/a/films/1.dcm", tmp_path / "out").key != one.key


def test_two_films_of_one_key_are_refused(tmp_path):
    touch(tmp_path, *(f"{number}/1.dcm" for number in range(17)))
    with pytest.raises(PathsError, match=r"have the same code 1-[0-9a-f] by chance"):
        find_films([str(tmp_path)], tmp_path / "out", digits=1)
    assert len({film.key for film in find_films([str(tmp_path)], tmp_path / "out")[0]}) == 17
