"""Pictures of every accepted kind to uint8 pixels [height, width, 3]; limits hold before anything is decoded."""

import base64
import binascii
import io
import os
import stat
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ArgumentError, FileError, ImageError

Pixels = NDArray[np.uint8]

MAX_SIDE = 16384
MAX_PIXELS = 64 * 1000 * 1000
MAX_ENCODED = 64 << 20
MAX_SCANS = 100
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
ACCEPTED = "a path, bytes, a file object, a PIL.Image, or a uint8 array [height, width, 3]"


def to_pixels(image: Any, name: str = "image") -> Pixels:
    """A copy of the picture's pixels: EXIF orientation applied, alpha dropped, 16 bits cut to the high byte."""
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, Image.Image):
        return _from_pil(image, name)
    if isinstance(image, bytes | bytearray | memoryview):
        return _decode(bytes(image), name)
    if isinstance(image, str) and image[:5].lower() == "data:":
        return _decode(data_uri(image, name), name)
    if isinstance(image, str | os.PathLike):
        return _decode(_read_file(image), os.fspath(image))
    if hasattr(image, "read"):
        data = image.read(MAX_ENCODED + 1)
        if not isinstance(data, bytes):
            raise ArgumentError(f"{name}: its read() gave {type(data).__name__}, expected bytes")
        return _decode(data, name)
    raise ArgumentError(f"{name}: found {type(image).__name__}, expected {ACCEPTED}")


def data_uri(url: str, name: str) -> bytes:
    """The bytes of a data: URI. Nothing else is opened: addresses on a network or a disk are refused."""
    head, comma, payload = url.partition(",")
    if head[:5].lower() != "data:" or not comma:
        raise ArgumentError(f"{name}: found {url!r:.60}, expected a data: URI; addresses are not fetched")
    if not head.lower().endswith(";base64"):
        raise ArgumentError(f"{name}: found a data: URI with {head!r:.60}, expected one in base64")
    if len(payload) > MAX_ENCODED // 3 * 4 + 4:
        raise ImageError(f"{name}: found {len(payload)} characters of base64, at most 64 MiB of picture are read")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ArgumentError(f"{name}: the data: URI is no valid base64") from None


def _from_array(array: NDArray[Any], name: str) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        found = f"{array.dtype} of shape {list(array.shape)}"
        raise ArgumentError(f"{name}: found an array of {found}, expected {ACCEPTED}")
    _check_size(array.shape[1], array.shape[0], name)
    return np.array(array, dtype=np.uint8, order="C", copy=True)


def _check_size(width: int, height: int, name: str) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ImageError(f"{name}: found {width} x {height} pixels, expected sides of 1 to {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: found {width} x {height} pixels, at most {MAX_PIXELS // 1000000} million are read")


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb", opener=_open_regular) as file:
            return file.read(MAX_ENCODED + 1)
    except ValueError as e:  # a NUL in the name
        raise ArgumentError(f"image {os.fspath(path)!r:.80}: {e}") from None
    except OSError as e:
        raise FileError(f"{os.fspath(path)}: {e.strerror or e}") from None


def _open_regular(path: str, flags: int) -> int:
    """Opens without waiting (a FIFO would block) and refuses what is no regular file."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(0, "is a directory" if stat.S_ISDIR(mode) else "is no regular file")
    return descriptor


def _decode(data: bytes, name: str) -> Pixels:
    if len(data) > MAX_ENCODED:
        raise ImageError(f"{name}: more than 64 MiB, too large for a picture")
    if data[:4] == b"RIFF":
        _check_webp(data, name)  # Pillow allocates its pixels when it opens it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_size(picture.width, picture.height, name)
                if picture.format in ("JPEG", "MPO") and _scans(data) > MAX_SCANS:
                    raise ImageError(f"{name}: JPEG with more than {MAX_SCANS} scans")
                return _from_pil(picture, name)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: found {_seen(data)}, expected PNG, JPEG, WebP, BMP or GIF") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {MAX_PIXELS // 1000000} million pixels") from None
    except Exception as e:  # what Pillow's readers raise on broken headers has no common class
        raise ImageError(f"{name}: found {_seen(data)}, which can't be decoded ({e})") from None


def _check_webp(data: bytes, name: str) -> None:
    """Width and height of a WebP from its first chunk, against the limits."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        sides = [1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27)]
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        sides = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
    elif kind == b"VP8 " and len(data) >= 30:
        sides = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    else:
        raise ImageError(f"{name}: found {_seen(data)}, expected PNG, JPEG, WebP, BMP or GIF")
    _check_size(sides[0], sides[1], name)


def _from_pil(picture: Image.Image, name: str) -> Pixels:
    _check_size(picture.width, picture.height, name)
    try:
        picture.load()  # the frame or page that it stands at
        try:
            turned = ImageOps.exif_transpose(picture)
        except Exception:  # broken EXIF is no reason to refuse the picture
            turned = picture
        return _to_rgb(turned, name, picture.format is not None)
    except (ImageError, MemoryError):
        raise
    except Exception as e:  # likewise its decoders
        raise ImageError(f"{name}: the {picture.format or 'PIL'} picture can't be decoded ({e})") from None


def _to_rgb(picture: Image.Image, name: str, from_file: bool) -> Pixels:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and from_file):  # 16 bits of gray
        gray = np.asarray(picture)
        high = (np.clip(gray, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if picture.mode in ("F", "I"):
        raise ImageError(
            f"{name}: found a PIL picture of mode {picture.mode}, whose range is unknown; convert it to RGB"
        )
    return np.array(picture.convert("RGB"), dtype=np.uint8, order="C", copy=True)


def _scans(data: bytes) -> int:
    """Start-of-scan markers of a JPEG, those inside its header segments (thumbnails) left out."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.count(b"\xff\xda", at)


def _seen(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if not data:
        return "an empty file"
    if data[:4] == b"GGUF":
        return "a GGUF file"
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file (open it with PIL and pass the picture)"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF file (open it with PIL and pass the picture)"
    if data[:5] == b"%PDF-":
        return "a PDF file (render the page and pass the picture)"
    if b"<svg" in head:
        return "an SVG file (render it and pass the picture)"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if (
        data[:8] == b"\x89PNG\r\n\x1a\n"
        or data[:3] == b"\xff\xd8\xff"
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    ):
        return "a picture file with a broken header"
    if b"\0" not in data[:512]:
        return "text"
    return f"unknown bytes ({data[:8].hex(' ')})"
