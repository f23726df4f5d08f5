"""Pictures of every kind become the same pixels; bad ones are refused before anything is decoded."""

import base64
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal import ArgumentError, FileError, ImageError
from foveal.images import to_pixels

RGB = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


PNG = encoded(Image.fromarray(RGB), "PNG")
JPEG = encoded(Image.fromarray(RGB), "JPEG")
WEBP = encoded(Image.fromarray(RGB), "WEBP", lossless=True)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_every_kind_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"  # the name lies: content decides
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for image in (path, str(path), PNG, bytearray(PNG), io.BytesIO(PNG), uri, Image.fromarray(RGB), RGB, WEBP):
        assert np.array_equal(to_pixels(image), RGB)
    flipped = to_pixels(RGB[::-1, ::-1])  # negative strides
    assert np.array_equal(flipped, RGB[::-1, ::-1])
    frozen = RGB.copy()
    frozen.flags.writeable = False
    assert to_pixels(frozen) is not frozen
    assert not np.shares_memory(to_pixels(RGB), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = Image.fromarray(RGB)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that the tag asks viewers to take back
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(to_pixels(encoded(stored, "PNG", exif=exif)), RGB)


def test_broken_exif_is_ignored() -> None:
    assert to_pixels(encoded(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).shape == RGB.shape


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes(mode: str) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(to_pixels(picture), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_give_the_high_byte() -> None:
    gray = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85
    found = to_pixels(encoded(Image.fromarray(gray), "PNG"))
    assert np.array_equal(found, np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_alpha_is_dropped() -> None:
    picture = Image.fromarray(np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)]), "RGBA")
    assert np.array_equal(to_pixels(encoded(picture, "PNG")), RGB)


def test_a_pil_picture_is_read_where_it_stands() -> None:
    frames = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (10, 20, 30)]
    for kind in ("TIFF", "GIF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        picture = Image.open(io.BytesIO(data))
        picture.seek(1)
        assert (to_pixels(picture) == 20).all() and picture.tell() == 1
        picture.seek(2)
        assert (to_pixels(picture) == 30).all()


def test_integers_of_unknown_range_are_refused() -> None:
    with pytest.raises(ImageError, match="mode I"):
        to_pixels(Image.fromarray(np.full((4, 4), 200, np.int32)))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(to_pixels(data), RGB)


BAD = {
    "empty": (b"", "an empty file"),
    "random": (bytes(range(200)), "unknown bytes"),
    "text": (b"hello, I am no picture\n", "text"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (b"%PDF-1.7\n%\xff", "PDF"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    "tiff": (b"II*\0" + bytes(100), "TIFF"),
    "gguf": (b"GGUF" + bytes(100), "GGUF"),
    "html": (b"<!DOCTYPE html><html></html>", "HTML"),
    "bomb": (png_header(65535, 65535), "million pixels"),
    "too wide": (png_header(20000, 1), "20000 x 1"),
    "too many": (png_header(9000, 9000), "9000 x 9000"),
    "no width": (png_header(0, 5), "picture|0 x 5"),
    "no pixels": (png_header(4000, 4000), "decoded"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], "decoded"),
    "cut header": (PNG[:20], "broken header"),
    "large WebP": (WEBP[:21] + (9000 - 1 | (9000 - 1) << 14).to_bytes(4, "little") + WEBP[25:], "9000 x 9000"),
    "scans": (JPEG[:-2] + JPEG[JPEG.rindex(b"\xff\xda") : -2] * 101 + JPEG[-2:], "scans"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes(name: str) -> None:
    data, said = BAD[name]
    start = time.monotonic()
    with pytest.raises(ImageError, match=said):
        to_pixels(data)
    assert time.monotonic() - start < 10  # a bomb that went off would take far longer
    assert np.array_equal(to_pixels(PNG), RGB)


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP], ids=["PNG", "JPEG", "WebP"])
def test_truncation_never_gives_a_picture(data: bytes) -> None:
    for percent in range(100):
        cut = data[: len(data) * percent // 100]
        if data is PNG and len(cut) > len(data) - 16:
            continue  # all pixels are there, only the end mark is missing
        with pytest.raises(ImageError):
            to_pixels(cut)


@pytest.mark.parametrize(
    "array",
    [
        RGB.astype(np.float32) / 255,
        RGB[:, :, 0],
        RGB[None],
        RGB.transpose(2, 0, 1),
        np.zeros((4, 4, 4), np.uint8),
        RGB.astype(np.int64),
        np.full((4, 4, 3), np.nan),
    ],
    ids=["float", "2-D", "4-D", "CHW", "RGBA", "int64", "NaN"],
)
def test_bad_arrays(array: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match=r"uint8 array \[height, width, 3\]"):
        to_pixels(array)


def test_bad_objects(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="0 x 5"):
        to_pixels(np.zeros((5, 0, 3), np.uint8))
    with pytest.raises(ImageError, match="mode F"):
        to_pixels(Image.new("F", (4, 4)))
    closed = Image.open(io.BytesIO(PNG))
    closed.close()
    with pytest.raises(ImageError):
        to_pixels(closed)
    for value in (None, 7, 1.5, object(), [RGB]):
        with pytest.raises(ArgumentError, match="expected a path"):
            to_pixels(value)
    for url in ("data:image/png;base64,@@@", "data:image/png,abc", "data:x"):
        with pytest.raises(ArgumentError):
            to_pixels(url)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "missing.png", tmp_path, tmp_path / "fifo"):
        with pytest.raises(FileError, match=path.name):
            to_pixels(path)
    assert np.array_equal(to_pixels(PNG), RGB)
