"""What a long call is doing, read from another thread: the engine never calls back into Python."""

from . import _foveal


class Progress:
    """Give one to ``Model(progress=...)``; while a call runs, another thread may ``read()`` it."""

    def __init__(self) -> None:
        self._native = _foveal.Progress()

    def read(self) -> tuple[str, float]:
        """(what runs now, its share done from 0 to 1); ("", 0.0) before the first step."""
        return self._native.read()
