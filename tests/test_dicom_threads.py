"""Films may be read from several threads; the process's warning filters come out as they went in."""

import threading
import warnings

from kneel.imaging.dicom import _QUIET


def test_the_last_thread_out_puts_the_warnings_back():
    before = list(warnings.filters)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with _QUIET:
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second():
        first_is_in.wait(10)
        with _QUIET:
            second_is_in.set()
            first_is_out.wait(10)
            warnings.warn("unheard", UserWarning, stacklevel=1)  # would be an error: this suite makes it so

    errors = []
    threads = [threading.Thread(target=_catch, args=(work, errors)) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert errors == []
    assert warnings.filters == before


def _catch(work, errors):
    try:
        work()
    except Warning as warning:
        errors.append(warning)
