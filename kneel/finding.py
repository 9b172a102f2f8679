"""Which of our source files decide where knees are found.

Who keeps what was found keeps their digest beside it (`kneel.imaging.finished.code_digest`), and looks again after a
change. No torch: a digest is asked for where nothing may have to be looked for.
"""

from pathlib import Path

FINDS = [
    Path(__file__).with_name(f"{name}.py")
    for name in (
        *("localize", "find", "nominal_scale", "looks", "stage", "windows", "shape", "located"),
        *("network", "hourglass", "blocks", "codec"),
    )
]
