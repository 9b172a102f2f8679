#!/usr/bin/env python
"""Serve visdom's page of live training curves, to this machine only (127.0.0.1) and without a password.

Without --beside it stays until Ctrl-C. The page needs scripts that visdom's package lacks; visdom's own server fetches
them whenever it starts, and fails without a network. This one starts without; `--fetch` gets them once.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import psutil

# npm package, file in it, where the page looks for it, SHA-256: what visdom 0.2.4 names, as far as boards need it
PAGE = (
    (
        "jquery@3.1.1",
        "dist/jquery.min.js",
        "js/jquery.min.js",
        "85556761a8800d14ced8fcd41a6b8b26bf012d44a318866c0d81a62092efd9bf",
    ),
    (
        "bootstrap@3.3.7",
        "dist/js/bootstrap.min.js",
        "js/bootstrap.min.js",
        "53964478a7c634e8dad34ecc303dd8048d00dce4993906de1bacf67f663486ef",
    ),
    (
        "bootstrap@3.3.7",
        "dist/css/bootstrap.min.css",
        "css/bootstrap.min.css",
        "f75e846cc83bd11432f4b1e21a45f31bc85283d11d372f7b19accd1bf6a2635c",
    ),
    (
        "bootstrap@3.3.7",
        "dist/fonts/glyphicons-halflings-regular.woff2",
        "fonts/glyphicons-halflings-regular.woff2",
        "fe185d11a49676890d47bb783312a0cda5a44c4039214094e7957b4c040ef11c",
    ),
    (
        "react@16.2.0",
        "umd/react.production.min.js",
        "js/react-react.min.js",
        "c28b91922bca297037cba02ec85c1c0dc179d1a942355f0b6e085f6021fa67df",
    ),
    (
        "react-dom@16.2.0",
        "umd/react-dom.production.min.js",
        "js/react-dom.min.js",
        "f61ac9c43e0842c58774da732e424a606898fd211914925252ac9e64f34a77c8",
    ),
    (
        "layout-bin-packer@1.4.0",
        "dist/layout-bin-packer.js",
        "js/layout_bin_packer.js",
        "312ed1834f78f497ac3c9e943ce4657679d26ad8cd62d7f722912d26c9d0ed29",
    ),
    (
        "plotly.js-dist-min@2.11.1",
        "plotly.min.js",
        "js/plotly-plotly.min.js",
        "dd146b2db18d4ced4743018fa65ada14b723bf1aae08b559a5576ba8116cd889",
    ),
    (
        "react-resizable@1.4.6",
        "css/styles.css",
        "css/react-resizable-styles.css",
        "7c9122a97c86b4be7839fd3d23c37d06aec1ece3ef830f8bae3a8c121056d528",
    ),
    (
        "react-grid-layout@0.16.3",
        "css/styles.css",
        "css/react-grid-layout-styles.css",
        "4ec035a50c31ec008bab5794e88ef056043e63aaa8dcbb24d36e5a73780b4dbc",
    ),
)
ANSWER, START = 2.0, 60.0  # seconds to wait for an answer, and for a server that starts
DOWNLOAD = 20.0


def main() -> int:
    """Do what is asked; 0 when it was done, 1 when not."""
    arguments = parse()
    if arguments.fetch:
        return fetch()
    if arguments.watch is not None:
        return serve(arguments.port, arguments.watch)
    if arguments.beside is not None:
        return start_beside(arguments)
    if taken(arguments.port):
        return fail(f"port {arguments.port} of this machine is taken; choose another with --port")
    print(f"curves: http://localhost:{arguments.port}{missing_page()}", flush=True)
    return serve(arguments.port, None)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8097, help="(default: 8097)")
    parser.add_argument(
        "--fetch", action="store_true", help="get the page's scripts (1.5 MB, from the npm registry), once"
    )
    parser.add_argument(
        "--beside",
        type=int,
        metavar="PID",
        help="for run_experiments.sh: print HOST:PORT of the server that answers at --host and --port; where none does,"
        " start one here that ends with process PID",
    )
    parser.add_argument(
        "--host", default="localhost", help="where --beside looks for a server first (default: localhost)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="where a server that --beside starts writes its log")
    parser.add_argument("--watch", type=int, metavar="PID", help=argparse.SUPPRESS)
    return parser.parse_args()


def start_beside(arguments: argparse.Namespace) -> int:
    """Find a server or start one; print where it is on stdout, and what a person should know on stderr."""
    host, port = arguments.host, arguments.port
    if answers(host, port):
        say(f"curves: http://{host}:{port}")
        print(f"{host}:{port}")
        return 0
    if host not in ("localhost", "127.0.0.1"):
        say(f"no visdom at {host}:{port}: starting one on this machine")
    if not answers("localhost", port):
        if taken(port):
            return fail(f"port {port} of this machine is taken by something else than visdom; set PORT for live curves")
        command = [sys.executable, __file__, "--port", str(port), "--watch", str(arguments.beside)]
        log = arguments.log or Path(os.devnull)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            # a session of its own: Ctrl-C ends the trainings first, and the server shows their last epoch
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        limit = time.monotonic() + START
        while not answers("localhost", port):
            if server.poll() is not None or time.monotonic() > limit:
                with contextlib.suppress(ProcessLookupError):
                    server.terminate()
                return fail(f"no live curves: visdom did not start ({log}); the trainings go on")
            time.sleep(0.2)
    say(f"curves: http://localhost:{port}, as long as this runs; later scripts/replay_board.py{missing_page()}")
    print(f"localhost:{port}")
    return 0


def answers(host: str, port: int) -> bool:
    """Say whether a visdom server answers there."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER)
    try:
        connection.request("GET", "/")
        return b"<title>visdom" in connection.getresponse().read(100_000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def taken(port: int) -> bool:
    """Say whether something listens on a port of this machine."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def serve(port: int, watched: int | None) -> int:
    """Run the server until it is stopped, or until a process has ended."""
    from tornado.web import StaticFileHandler
    from visdom.server import app
    from visdom.server.run_server import start_server

    class Static(StaticFileHandler):
        @classmethod
        def make_static_url(cls, settings: dict, path: str, include_version: bool = True) -> str:
            # visdom's page names ../user/style.css, which new versions of tornado refuse with the whole page
            return super().make_static_url(settings, path, include_version and not path.startswith(".."))

    if watched is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=end_with, args=(watched,), daemon=True).start()
    app.tornado_settings["static_handler_class"] = Static
    app.tornado_settings["autoreload"] = False  # visdom would start again whenever a file of Python changes
    with tempfile.TemporaryDirectory() as empty, contextlib.suppress(KeyboardInterrupt):
        # nothing is kept: boards are rebuilt from metrics.csv
        start_server(port, env_path=f"{empty}/", base_url="", bind_local=True)
    return 0


def end_with(pid: int) -> None:
    """End this process when another has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    os.kill(os.getpid(), signal.SIGTERM)


def static_folder() -> Path:
    """Return the folder that visdom's page is served from."""
    found = find_spec("visdom")
    if found is None or found.origin is None:
        raise SystemExit("visdom_server: visdom is not installed")
    return Path(found.origin).parent / "static"


def missing_page() -> str:
    """Say what to do where the page has no scripts; nothing where it has."""
    if all((static_folder() / place).exists() for _, _, place, _ in PAGE):
        return ""
    return (
        f"\nthe page stays blank until its scripts are there: {sys.executable} {__file__} --fetch, once, with a network"
    )


def fetch() -> int:
    """Get the page's scripts from unpkg.com, else by the npm client; checked before any is put in place."""
    static, files = static_folder(), {}
    for package, inside, place, digest in PAGE:
        data = from_unpkg(package, inside) or from_npm(package, inside)
        if data is None:
            return fail(f"{package}/{inside}: neither unpkg.com nor an npm client could get it")
        if hashlib.sha256(data).hexdigest() != digest:
            return fail(f"{package}/{inside}: is not the file that is expected (SHA-256)")
        files[static / place] = data
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(files)} files of the page are in {static}")
    return 0


def from_unpkg(package: str, inside: str) -> bytes | None:
    """Download one file of a package; None where that cannot be had."""
    try:
        with urllib.request.urlopen(f"https://unpkg.com/{package}/{inside}", timeout=DOWNLOAD) as answer:
            data: bytes = answer.read()
            return data
    except (urllib.error.URLError, TimeoutError):
        return None


def from_npm(package: str, inside: str) -> bytes | None:
    """Take one file out of a package that the npm client downloads; None where that cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", package]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * DOWNLOAD)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            return None
        with tarfile.open(Path(folder) / done.stdout.split()[-1]) as archive:
            member = archive.extractfile(f"package/{inside}")
            return member.read() if member else None


def say(words: str) -> None:
    """Tell the person; stdout is for the shell script."""
    print(words, file=sys.stderr, flush=True)


def fail(words: str) -> int:
    """Say why not."""
    say(f"visdom_server: {words}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
