"""Exceptions, one class for each error code of the engine; `exit_status` is that of the command line."""


class Error(RuntimeError):
    """Base of everything that Foveal raises. The message says what, where, found, expected, what to do."""

    code = "error"
    exit_status = 1


class FormatError(Error, ValueError):
    """The bytes of a file are wrong."""

    code = "file_format"
    exit_status = 3


class UnsupportedError(Error, NotImplementedError):
    """A legal file that this engine can't run."""

    code = "unsupported"
    exit_status = 3


class FileError(Error, OSError):
    """The operating system refused."""

    code = "io"
    exit_status = 4


class ImageError(Error, ValueError):
    """A picture that can't be decoded or is out of limits."""

    code = "image"
    exit_status = 5


class ArgumentError(Error, ValueError):
    """An argument out of range or of the wrong kind."""

    code = "invalid_argument"
    exit_status = 2


class MismatchError(Error, ValueError):
    """Two files, or a session and a model, that don't belong together."""

    code = "mismatch"
    exit_status = 3


class ContextFull(Error):
    """The prompt needs more than the context has left."""

    code = "context_full"
    exit_status = 6


class MemoryLimit(Error, MemoryError):
    """Not enough memory."""

    code = "out_of_memory"
    exit_status = 7


class DeviceError(Error):
    """A device failed or isn't there."""

    code = "device"
    exit_status = 8


class StateError(Error):
    """Busy, closed, or used after a fork."""

    code = "state"
