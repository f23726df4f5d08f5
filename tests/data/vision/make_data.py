"""Makes resize.bin and pictures.bin beside this file with Pillow 11.3: what tests/vision compares with.

resize.bin: per picture w, h, pixels, number of cases; per case filter (0 bilinear, 1 bicubic, 2 lanczos), w, h, pixels.
pictures.bin: per picture name, file bytes, tolerance in levels, w, h, pixels. Numbers are int32, pixels RGB8.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

assert PIL.__version__.startswith("11.3"), "the goldens are Pillow 11.3's"
HERE = Path(__file__).parent
rng = np.random.default_rng(3)


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def scene(width: int, height: int) -> np.ndarray:
    """Noise, a gradient and hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x // 3 + y // 3) % 2 * 255], 2)
    noisy = np.where((x + y)[..., None] % 5 == 0, rng.integers(0, 256, (height, width, 3)), picture)
    return noisy.astype(np.uint8)


def make_resize() -> None:
    filters = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]
    sizes = {
        (23, 17): [(23, 17), (23, 9), (11, 17), (40, 31), (5, 3), (1, 1), (64, 2)],
        (1, 1): [(4, 3)],
        (1, 9): [(6, 6)],
        (300, 2): [(28, 28)],
        (37, 80): [(28, 56)],
    }
    out = ints(len(sizes))
    for (w, h), targets in sizes.items():
        a = scene(w, h)
        out += ints(w, h) + a.tobytes() + ints(3 * len(targets))
        for number, method in enumerate(filters):
            for tw, th in targets:
                out += ints(number, tw, th) + Image.fromarray(a).resize((tw, th), method).tobytes()
    (HERE / "resize.bin").write_bytes(out)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"", interlace: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def packed_gray(levels: np.ndarray, bits: int) -> bytes:
    rows = b""
    for row in levels:
        flat = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].reshape(-1)
        rows += b"\0" + np.packbits(flat).tobytes()
    return rows


def adam7(a: np.ndarray) -> bytes:
    rows = b""
    for x, y, dx, dy in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:
        for row in a[y::dy, x::dx]:
            rows += b"\0" + row.tobytes() if row.size else b""
    return rows


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def exif(orientation: int, order: str = "<", entries: int = 1) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    tag = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(order + "HIH", 42, 8, entries) + tag + b"\0\0\0\0"


def make_pictures() -> None:
    a = scene(19, 13)
    rgb = Image.fromarray(a)
    gray = np.arange(13 * 19).reshape(13, 19)
    pictures: list[tuple[str, bytes, int, np.ndarray]] = []

    def add(name: str, data: bytes, tolerance: int = 0, expected: np.ndarray | None = None) -> None:
        if expected is None:
            with Image.open(io.BytesIO(data)) as picture:
                expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        pictures.append((name, data, tolerance, expected))

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        picture = rgb.convert(mode)
        if mode == "RGBA":
            picture.putalpha(Image.fromarray((gray % 256).astype(np.uint8)))
        add(f"png {mode}", encoded(picture, "PNG"))
    add("png P with tRNS", encoded(rgb.convert("P"), "PNG", transparency=3))
    add("png RGB with tRNS", encoded(rgb, "PNG", transparency=(0, 0, 0)))
    for bits in (2, 4):
        levels = gray % (1 << bits)
        full = (levels * 255 // ((1 << bits) - 1)).astype(np.uint8)
        add(
            f"png gray {bits} bits",
            png(19, 13, bits, 0, packed_gray(levels, bits)),
            0,
            np.repeat(full[..., None], 3, 2),
        )
    wide = rng.integers(0, 65536, (13, 19, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    add("png 16 bits RGB", png(19, 13, 16, 2, rows), 0, (wide >> 8).astype(np.uint8))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide[..., 0])
    add("png 16 bits gray", png(19, 13, 16, 0, rows), 0, np.repeat((wide[..., :1] >> 8).astype(np.uint8), 3, 2))
    add("png interlaced", png(19, 13, 8, 2, adam7(a), interlace=1), 0, a)
    add(
        "png gamma",
        png(19, 13, 8, 2, b"".join(b"\0" + r.tobytes() for r in a), chunk(b"gAMA", struct.pack(">I", 45455))),
    )
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000))) + chunk(
        b"iCCP", b"a\0\0" + zlib.compress(bytes(20_000_000))
    )
    add("png text bomb", png(19, 13, 8, 2, b"".join(b"\0" + r.tobytes() for r in a), bomb), 0, a)
    add("apng", encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]))

    for name, options in {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "4:2:0": {"subsampling": 2},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_rows": 1},
    }.items():
        add(f"jpeg {name}", encoded(rgb, "JPEG", quality=90, **options), 1)
    add("jpeg gray", encoded(rgb.convert("L"), "JPEG"), 1)
    inks = encoded(rgb.convert("CMYK"), "JPEG", quality=95)
    adobe = inks.index(b"Adobe")
    add("jpeg CMYK", inks, 1)
    add("jpeg YCCK", inks[: adobe + 11] + b"\2" + inks[adobe + 12 :], 1)
    add("jpeg CMYK without Adobe's mark", inks[: adobe - 4] + inks[adobe + 12 :], 1)
    for n in range(1, 9):
        add(f"png exif {n}", encoded(rgb, "PNG", exif=exif(n)))
        add(f"jpeg exif {n}", encoded(rgb, "JPEG", exif=exif(n, ">")), 1)
        add(f"webp exif {n}", encoded(rgb, "WEBP", lossless=True, exif=exif(n)))
    upright = encoded(rgb, "JPEG")
    plain = np.asarray(Image.open(io.BytesIO(upright)).convert("RGB"))
    for name, block in {
        "garbage": b"Exif\0\0garbage",
        "empty": b"Exif\0\0",
        "offset": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "loop": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        "value 9": exif(9),
        "value 0": exif(0),
        "many entries": exif(1, "<", 65535),
    }.items():
        add(
            f"jpeg exif {name}",
            upright[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + upright[2:],
            1,
            plain,
        )

    add("webp lossy", encoded(rgb, "WEBP", quality=90), 1)
    add("webp lossless", encoded(rgb, "WEBP", lossless=True))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray((100 + gray % 156).astype(np.uint8)))
    add("webp alpha", encoded(alpha, "WEBP", lossless=True, exact=True))
    add(
        "webp animated",
        encoded(rgb, "WEBP", lossless=True, save_all=True, append_images=[rgb.rotate(180)], duration=50),
    )
    out = ints(len(pictures))
    for name, data, tolerance, expected in pictures:
        out += ints(len(name)) + name.encode() + ints(len(data)) + data
        out += ints(tolerance, expected.shape[1], expected.shape[0]) + np.ascontiguousarray(expected).tobytes()
    (HERE / "pictures.bin").write_bytes(out)


make_resize()
make_pictures()
