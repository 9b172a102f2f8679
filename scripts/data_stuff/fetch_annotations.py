"""Get KNEEL's annotation table from its authors' repository, or from a file, and refuse any other file.

The table is not part of this project. Who uses it cites A. Tiulpin, I. Melekhov, S. Saarakkala: KNEEL: Knee Anatomical
Landmark Localization Using Hourglass Networks. ICCV Workshops 2019. arXiv:1907.12237

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

NAME = "bf_landmarks_1_0.3.csv"
URL = f"https://raw.githubusercontent.com/imedslab/KNEEL/master/annotations/{NAME}"
SHA256 = "cb9d6fd275652071732f7dd1b9452f44b7753b97cc4210ee3aec4d17e569c99d"
LARGEST = 2**24  # bytes; the table has 129,041
TIMEOUT_S = 60
CHUNK = 2**14


class FetchError(RuntimeError):
    """The table cannot be had, or is another."""


def main() -> int:
    """Read the command line, get the file; 1 when it cannot be had or is not the one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(NAME), metavar="CSV", help="file to write (default: %(default)s)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from-file", type=Path, metavar="CSV", help="take this copy; nothing is downloaded")
    source.add_argument("--url", default=URL, help="where to download it from (default: %(default)s)")
    given = parser.parse_args()
    try:
        fetch(given.url, given.out) if given.from_file is None else fetch(given.from_file.resolve().as_uri(), given.out)
    except (FetchError, OSError) as error:
        print(f"fetch_annotations: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: sha256 {SHA256}")
    return 0


def fetch(url: str, out: Path, *, sha256: str = SHA256) -> None:
    """Download a file, beside its place first; it is renamed there when its checksum is right.

    Parameters
    ----------
    url : str
        ``https:``, ``http:`` or ``file:``.
    out : Path
        File to write; what was there stays when the download is refused.
    sha256 : str
        What the file must have, in hexadecimal.

    Raises
    ------
    FetchError
        There is nothing at the address, the transfer broke off, or the file is another; names both checksums.
    OSError
        The file cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".part")
    try:
        got = _download(url, beside)
        if got != sha256:
            raise FetchError(f"{url}: sha256 is {got}, must be {sha256}; {out} was not written")
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)


def _download(url: str, path: Path) -> str:
    """Write what is at an address to a file; return its sha256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as stream, path.open("wb") as file:
            total = int(stream.headers.get("Content-Length") or 0)
            with tqdm(total=total or None, desc=path.stem, unit="B", unit_scale=True) as bar:
                while chunk := stream.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                    if bar.n > LARGEST:
                        raise FetchError(f"{url}: more than {LARGEST} bytes, the table has 129,041")
                if total and bar.n != total:
                    raise FetchError(f"{url}: broke off after {bar.n} of {total} bytes")
    except (urllib.error.URLError, http.client.HTTPException) as error:
        raise FetchError(f"{url}: {error}; a copy you have can be given with --from-file") from error
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
