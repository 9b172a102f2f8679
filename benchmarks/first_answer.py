"""The first answer of a new process: import, load, read; prints their seconds and the peak memory as JSON.

    python benchmarks/first_answer.py FILM wall|cpu [WEIGHTS]

`benchmarks/pipeline.py` starts it; it is a file of its own, so that nothing is imported but what reading needs.
"""

import sys
import time

clock = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[2]]
began = clock()

import json  # noqa: E402

from memory import peak_bytes  # noqa: E402

from deepknee import load_reader  # noqa: E402

imported = clock()
reader = load_reader(sys.argv[3] if len(sys.argv) > 3 else None)
loaded = clock()
reader.read(sys.argv[1])
answered = clock()
for _ in range(3):  # the peak is that of a process that reads on
    reader.read(sys.argv[1])
print(
    json.dumps({"import": imported - began, "load": loaded - imported, "read": answered - loaded, "peak": peak_bytes()})
)
