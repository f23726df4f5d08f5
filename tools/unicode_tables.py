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
# Characters with a combining class or a decomposition that came after Unicode 9.0. The normaliser of `tokenizers`, with
# which the models were trained, doesn't know them and leaves them as they are; so do we.
UNKNOWN_TO_THE_REFERENCE = {
    code_point
    for first, last in (
        (0x7FD, 0x7FD),
        (0x897, 0x89F),
        (0x8CA, 0x8D3),
        (0x9FE, 0x9FE),
        (0xC3C, 0xC3C),
        (0xD3B, 0xD3C),
        (0xEBA, 0xEBA),
        (0x1715, 0x1715),
        (0x1ABF, 0x1ACE),
        (0x1DF6, 0x1DFA),
        (0xA82C, 0xA82C),
        (0x105C9, 0x105C9),
        (0x105E4, 0x105E4),
        (0x10D24, 0x10D27),
        (0x10D69, 0x10D6D),
        (0x10EAB, 0x10EAC),
        (0x10EFD, 0x10EFF),
        (0x10F46, 0x10F50),
        (0x10F82, 0x10F85),
        (0x11070, 0x11070),
        (0x1133B, 0x1133B),
        (0x11383, 0x11383),
        (0x11385, 0x11385),
        (0x1138E, 0x1138E),
        (0x11391, 0x11391),
        (0x113C5, 0x113C5),
        (0x113C7, 0x113C8),
        (0x113CE, 0x113D0),
        (0x1145E, 0x1145E),
        (0x11839, 0x1183A),
        (0x11938, 0x11938),
        (0x1193D, 0x1193E),
        (0x11943, 0x11943),
        (0x119E0, 0x119E0),
        (0x11A34, 0x11A34),
        (0x11A47, 0x11A47),
        (0x11A99, 0x11A99),
        (0x11D42, 0x11D42),
        (0x11D44, 0x11D45),
        (0x11D97, 0x11D97),
        (0x11F41, 0x11F42),
        (0x16121, 0x16128),
        (0x1612F, 0x1612F),
        (0x16D68, 0x16D6A),
        (0x16FF0, 0x16FF1),
        (0x1E08F, 0x1E08F),
        (0x1E130, 0x1E136),
        (0x1E2AE, 0x1E2AE),
        (0x1E2EC, 0x1E2EF),
        (0x1E4EC, 0x1E4EF),
        (0x1E5EE, 0x1E5EF),
    )
    for code_point in range(first, last + 1)
}


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


def combining_class(code_point: int) -> int:
    return 0 if code_point in UNKNOWN_TO_THE_REFERENCE else ucd.combining(chr(code_point))


def decompositions() -> list[tuple[int, int, int]]:
    """Canonical one-step decompositions: code point, first, second (0: a single one); bit 31 of the second is set
    where the pair doesn't compose again."""
    rows = []
    for code_point in CODE_POINTS:
        mapping = ucd.decomposition(chr(code_point))
        if not mapping or mapping[0] == "<" or code_point in HANGUL or code_point in UNKNOWN_TO_THE_REFERENCE:
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
    class_runs, combining_runs, pairs = runs(class_of), runs(combining_class), decompositions()
    sys.stdout.write(
        "// Written by tools/unicode_tables.py: character classes (Unicode "
        f"{ucd.unidata_version}) and canonical normalisation data (9.0).\n"
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
