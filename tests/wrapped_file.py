"""Files that misbehave."""


class Wrapped:
    """A file that does as it is told, but for what an heir overrides."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)
