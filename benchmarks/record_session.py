#!/usr/bin/env python
"""Record a command on a terminal of its own: as an asciinema file (version 2) and as an animated GIF.

Example:  record_session.py --out docs/live_table -- ./run_experiments.sh --per_gpu 2
writes docs/live_table.cast and docs/live_table.gif. Needs pyte (pip install pyte), which nothing else here does.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time
from pathlib import Path

import matplotlib
import pyte
from PIL import Image, ImageColor, ImageDraw, ImageFont

_COLORS = {"default": "#d8d8d8", "green": "#7ec699", "red": "#f08d8d", "brown": "#e6c07b", "cyan": "#6cc7d9"}
_CODES = {"green": 32, "red": 31, "brown": 33, "cyan": 36}  # of the terminal
_BACKGROUND, _DIM = "#1e1e1e", "#8a8a8a"
_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")


def main() -> int:
    """Record; the exit status is that of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="NAME", help="NAME.cast and NAME.gif are written")
    parser.add_argument("--size", type=int, nargs=2, default=(100, 24), metavar=("W", "H"), help="characters")
    parser.add_argument("--frames", type=int, default=16, metavar="N", help="pictures of the GIF (default: 16)")
    parser.add_argument("command", nargs="+", help="what to run")
    given = parser.parse_args()
    began, status, events = time.time(), *record(given.command, *given.size)
    events = thin_out(events, *given.size)
    header = {"version": 2, "width": given.size[0], "height": given.size[1], "timestamp": int(began)}
    lines = [header, *([round(moment, 3), "o", text] for moment, text in events)]
    given.out.with_suffix(".cast").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    first, *rest = pictures(events, given.size, given.frames)
    times = [500] * len(rest) + [4000]  # ms; the end stays longer
    first.save(given.out.with_suffix(".gif"), save_all=True, append_images=rest, duration=times, loop=0, optimize=True)
    return status


def record(command: list[str], width: int, height: int) -> tuple[int, list[tuple[float, str]]]:
    """Run a command on a terminal; its exit status, and what it wrote with the seconds since the start."""
    began = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(width), LINES=str(height))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    decoder, events = codecs.getincrementaldecoder("utf-8")("replace"), []
    while True:
        select.select([terminal], [], [])
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        events.append((time.monotonic() - began, decoder.decode(data)))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), events


def thin_out(events: list[tuple[float, str]], width: int, height: int) -> list[tuple[float, str]]:
    """Keep what the terminal showed once a second, as the lines that changed: a table drawn anew takes megabytes."""
    screen = pyte.Screen(width, height)
    stream, shown, kept = pyte.Stream(screen), [""] * height, []
    for (moment, text), following in zip(events, [*events[1:], (events[-1][0] + 1, "")], strict=True):
        stream.feed(text)
        if int(following[0]) > int(moment):
            lines = [colored(screen, row) for row in range(height)]
            changed = [f"\x1b[{row + 1};1H\x1b[2K{lines[row]}" for row in range(height) if lines[row] != shown[row]]
            kept.append((moment, "".join(changed)))
            shown = lines
    return kept


def colored(screen: pyte.Screen, row: int) -> str:
    """A line of the terminal with its colours."""
    words, before = "", "default"
    for column in range(screen.columns):
        cell = screen.buffer[row][column]
        if cell.fg != before:
            words += f"\x1b[{_CODES.get(cell.fg, 39)}m"
            before = cell.fg
        words += cell.data
    return words.rstrip() + "\x1b[0m"


def pictures(events: list[tuple[float, str]], size: tuple[int, int], frames: int) -> list[Image.Image]:
    """Draw the terminal at evenly spaced moments, the end among them."""
    screen = pyte.Screen(*size)
    stream = pyte.Stream(screen)
    start, end = events[0][0], events[-1][0]
    drawn: list[Image.Image] = []
    for moment, text in events:
        while len(drawn) + 1 < frames and moment > start + (len(drawn) + 1) * (end - start) / frames:
            drawn.append(draw(screen))
        stream.feed(text)
    return [*drawn, draw(screen)]


def draw(screen: pyte.Screen) -> Image.Image:
    """Draw what the terminal shows."""
    font = ImageFont.truetype(str(_FONT), 12)
    across, down = round(font.getlength("M")), 15
    picture = Image.new("RGB", (screen.columns * across + 12, screen.lines * down + 12), _BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for row in range(screen.lines):
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            if cell.data != " ":
                color = _COLORS.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else _DIM)
                pen.text((6 + column * across, 6 + row * down), cell.data, font=font, fill=color)
    return picture.quantize(palette=palette(), dither=Image.Dither.NONE)


def palette() -> Image.Image:
    """Few colours, so that the file stays small: from the background to each colour of the text in four steps."""
    steps = []
    for color in (*_COLORS.values(), _DIM):
        ends = [ImageColor.getrgb(each)[:3] for each in (_BACKGROUND, color)]
        steps += [round(low + (high - low) * step / 4) for step in range(5) for low, high in zip(*ends, strict=True)]
    picture = Image.new("P", (1, 1))
    picture.putpalette(steps)
    return picture


if __name__ == "__main__":
    sys.exit(main())
