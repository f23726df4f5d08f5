"""Writes engine/text/unicode_tables.cpp: character classes and normalisation data for the tokenizers.

Usage: pip install unicodedata2==16.0.0 && python tools/unicode_tables.py > engine/text/unicode_tables.cpp
The Unicode version is the one that the reference implementation (`tokenizers` 0.2x) uses.
"""

import sys

import unicodedata2 as ucd

CODE_POINTS = range(0x110000)
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic
WHITE_SPACE = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
CLASS_OF_FIRST_LETTER = {"L": 1, "N": 2, "M": 4, "P": 8, "S": 16}
SPACE, UPPER, LOWER = 32, 64, 128


def class_of(code_point: int) -> int:
    """The class bits of engine/text/unicode.h."""
    category = ucd.category(chr(code_point))
    bits = CLASS_OF_FIRST_LETTER.get(category[0], 0)
    if code_point in WHITE_SPACE:
        bits |= SPACE
    if category in ("Lu", "Lt"):
        bits |= UPPER
    if category == "Ll":
        bits |= LOWER
    return bits


def runs(value_of) -> list[int]:
    """Starts of runs of equal values, each packed as start << 8 | value."""
    packed, last = [], None
    for code_point in CODE_POINTS:
        value = value_of(code_point)
        if value != last:
            packed.append(code_point << 8 | value)
            last = value
    return packed


def decompositions() -> list[tuple[int, int, int]]:
    """Canonical one-step decompositions: code point, first, second (0: a single one); bit 31 of the second is set
    where the pair doesn't compose again."""
    rows = []
    for code_point in CODE_POINTS:
        mapping = ucd.decomposition(chr(code_point))
        if not mapping or mapping[0] == "<" or code_point in HANGUL:
            continue
        parts = [int(x, 16) for x in mapping.split()]
        second = parts[1] if len(parts) == 2 else 0
        if second and ucd.normalize("NFC", chr(parts[0]) + chr(second)) != chr(code_point):
            second |= 1 << 31
        rows.append((code_point, parts[0], second))
    return rows


def numbers(values) -> str:
    """Hexadecimal numbers, wrapped at 118 columns."""
    lines, line = [], "   "
    for value in values:
        text = f" 0x{value:x},"
        if len(line) + len(text) > 118:
            lines.append(line)
            line = "   "
        line += text
    return "\n".join([*lines, line])


def table(element: str, name: str, values, count: int) -> str:
    return (
        f"extern const {element} {name}[] = {{\n{numbers(values)}\n}};\nextern const unsigned {name}_size = {count};\n"
    )


def main() -> None:
    class_runs, combining_runs, pairs = runs(class_of), runs(lambda c: ucd.combining(chr(c))), decompositions()
    sys.stdout.write(
        "// Written by tools/unicode_tables.py: character classes (Unicode "
        f"{ucd.unidata_version}) and canonical normalisation data.\n"
        "// clang-format off\n#include <cstdint>\n\nnamespace foveal {\n\n"
        "// start << 8 | class bits, one entry a run of equal classes\n"
        + table("uint32_t", "unicode_class_runs", class_runs, len(class_runs))
        + "\n// start << 8 | canonical combining class\n"
        + table("uint32_t", "unicode_combining_runs", combining_runs, len(combining_runs))
        + "\n// code point, first, second (0: none; bit 31: the pair doesn't compose), sorted by code point\n"
        + table("uint32_t", "unicode_decompositions", (x for row in pairs for x in row), 3 * len(pairs))
        + "\n}  // namespace foveal\n"
    )


if __name__ == "__main__":
    main()
