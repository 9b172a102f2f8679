"""Which film of a MOST download is taken where files are missing; folders that are no download."""

from pathlib import Path

import pytest

from deepknee.downloads import open_most, open_oai
from kneel.imaging.oai import ContentsError


def film(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_film_whose_folder_is_empty_in_one_root_is_taken_from_another(tmp_path: Path) -> None:
    name = "M1_AB/V0/14608/PA10/1461"
    (tmp_path / "a" / name).mkdir(parents=True)
    there = film(tmp_path / "b", f"{name}/00001.dcm")
    for roots in ("ab", "ba"):
        download = open_most([tmp_path / root for root in roots])
        assert (download.films[name].path, download.films[name].fault) == (there, "")
        assert [choice.film for choice in download.choices] == [download.films[name]]


def test_a_film_that_is_there_goes_before_the_better_angle(tmp_path: Path) -> None:
    (tmp_path / "M1_AB/V0/14608/PA10/1461").mkdir(parents=True)
    there = film(tmp_path, "M1_AB/V0/14608/PA05/1462")
    (tmp_path / "M2_AB/V0/14609/PA05/1471").mkdir(parents=True)
    first, second = open_most([tmp_path]).choices
    assert first.film is not None
    assert first.film.path == there
    assert "took M1_AB/V0/14608/PA05/1462, left M1_AB/V0/14608/PA10/1461" in first.remark
    assert second.film is not None
    assert "a folder of 0 files" in second.film.fault  # which preparing lists: no other is there


def test_a_folder_that_is_no_release_says_what_would_be_one(tmp_path: Path) -> None:
    """Two commands ask for one, each by a flag of its own: the words name neither."""
    with pytest.raises(ContentsError) as raised:
        open_oai([tmp_path])
    said = str(raised.value)
    assert said == f"{tmp_path / 'contents.csv'}: missing; needed is the folder of a release, which holds contents.csv"
