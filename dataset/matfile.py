"""MATLAB 5 files, as far as tables of numbers and texts need it.

Why not ``scipy.io.loadmat``: its compiled reader ends the process with a segmentation fault on some damaged files
(SciPy 1.15.3; a few changed bytes in the header of a matrix suffice), and a download may be damaged. Here every
length is checked before it is used. Format: *MAT-File Level 5 File Format*, MathWorks, 2019.
"""
from __future__ import annotations

import zlib
from struct import Struct, calcsize, unpack_from
from struct import error as StructError
from typing import Any, Dict, Tuple

#: Numeric element types, and the texts' encodings; from table 1-1 of the format.
_NUMBERS = {1: 'b', 2: 'B', 3: 'h', 4: 'H', 5: 'i', 6: 'I', 7: 'f', 9: 'd', 12: 'q', 13: 'Q'}
_MATRIX, _COMPRESSED = 14, 15
_TEXTS = {1: 'latin-1', 2: 'latin-1', 4: 'utf-16', 16: 'utf-8', 17: 'utf-16', 18: 'utf-32'}
#: Array classes, table 1-3: 6 to 15 are numeric.
_CELL, _STRUCT, _CHAR = 1, 2, 4
_DEEPEST = 8
_LARGEST = 1 << 28  # bytes a compressed variable may unpack to


def read_mat(file: str) -> Dict[str, Any]:
    """Read all variables of a MATLAB 5 file (what MATLAB writes with ``-v6`` and ``-v7``, and SciPy by default).

    Parameters
    ----------
    file : str

    Returns
    -------
    variables : dict from name to value. Numeric arrays are tuples of numbers, in MATLAB's order (columns first);
        character arrays are strings; cell arrays are lists; arrays of structures are dicts from field name to the
        list of that field's values.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or holds something else (sparse matrices, objects, functions).
    """
    with open(file, 'rb') as stream:
        content = stream.read()
    order = {b'IM': '<', b'MI': '>'}.get(content[126:128])
    if not order:
        raise ValueError('no MATLAB 5 file')
    variables = {}
    try:
        at = 128
        while at < len(content):
            parser = _Parser(content, order)
            kind, start, stop, at = parser.element(at, len(content))
            if kind == _COMPRESSED:
                at = stop  # the only element that is not padded
                unpacked = zlib.decompressobj().decompress(content[start:stop], _LARGEST)
                parser = _Parser(unpacked, order)
                kind, start, stop, _ = parser.element(0, len(unpacked))
            if kind != _MATRIX:
                raise ValueError(f'element of type {kind} in place of a variable')
            name, value = parser.matrix(start, stop, 0)
            variables[name] = value
    except (StructError, zlib.error, OverflowError) as error:
        raise ValueError(f'damaged MATLAB 5 file: {error}') from None
    return variables


class _Parser:
    """Elements of one stretch of bytes; positions are checked against the end of what contains them."""

    def __init__(self, content: bytes, order: str) -> None:
        self._content = content
        self._order = order
        self._word = Struct(f"{order}I").unpack_from

    def element(self, at: int, end: int) -> Tuple[int, int, int, int]:
        """The tag at `at`: type, where the data starts and stops, where the next element begins."""
        if at + 8 > end:
            raise ValueError('damaged MATLAB 5 file: ends within an element')
        kind = self._word(self._content, at)[0]
        size = kind >> 16
        if size:  # up to four bytes of data are packed into the tag
            kind, start, following = kind & 0xffff, at + 4, at + 8
            if size > 4:
                raise ValueError(f'damaged MATLAB 5 file: packed element of {size} bytes')
        else:
            size, start = self._word(self._content, at + 4)[0], at + 8
            following = start + (size + 7 & ~7)
        if start + size > end:
            raise ValueError('damaged MATLAB 5 file: element reaches beyond its container')
        return kind, start, start + size, following

    def numbers(self, kind: int, start: int, stop: int) -> tuple:
        """Data of a numeric element."""
        code = _NUMBERS.get(kind)
        if code is None:
            raise ValueError(f'damaged MATLAB 5 file: element of type {kind} in place of numbers')
        return unpack_from(f'{self._order}{(stop - start) // calcsize(self._order + code)}{code}',
                           self._content, start)

    def _first(self, kind: int, start: int, stop: int) -> int:
        """The first number of an integer element."""
        numbers = self.numbers(kind, start, stop)
        if not numbers or not isinstance(numbers[0], int):
            raise ValueError('damaged MATLAB 5 file: no integer where one belongs')
        return numbers[0]

    def text(self, kind: int, start: int, stop: int) -> str:
        """Data of a character element."""
        encoding = _TEXTS.get(kind)
        if encoding is None:
            raise ValueError(f'damaged MATLAB 5 file: element of type {kind} in place of text')
        if encoding in ('utf-16', 'utf-32'):
            encoding += '-le' if self._order == '<' else '-be'
        return self._content[start:stop].decode(encoding)

    def matrix(self, at: int, end: int, depth: int) -> Tuple[str, Any]:
        """The name and the value of the matrix whose data lies from `at` to `end`."""
        if at == end:
            return '', ()  # an empty array may have no content at all
        if depth > _DEEPEST:
            raise ValueError(f'arrays nested more than {_DEEPEST} deep')
        flags_kind, start, stop, at = self.element(at, end)
        array_class = self._first(flags_kind, start, stop) & 0xff
        dimensions_kind, start, stop, at = self.element(at, end)
        count = 1
        for dimension in self.numbers(dimensions_kind, start, stop):
            if not isinstance(dimension, int) or dimension < 0:
                raise ValueError('damaged MATLAB 5 file: array without a proper size')
            count *= dimension
        _, start, stop, at = self.element(at, end)
        name = self._content[start:stop].decode('latin-1')
        if 6 <= array_class <= 15:
            kind, start, stop, _ = self.element(at, end)
            value = self.numbers(kind, start, stop)
        elif array_class == _CHAR:
            kind, start, stop, _ = self.element(at, end)
            value = self.text(kind, start, stop)
        elif array_class == _CELL:
            value = []
            for _ in range(count):
                item, at = self._inner(at, end, depth)
                value.append(item)
        elif array_class == _STRUCT:
            value = self._structures(at, end, count, depth)
        else:
            raise ValueError(f'array of class {array_class}, which is neither numbers, text, cells nor structures')
        return name, value

    def _inner(self, at: int, end: int, depth: int) -> Tuple[Any, int]:
        """The value of the matrix element at `at`, and where the next element begins."""
        kind, start, stop, at = self.element(at, end)
        if kind != _MATRIX:
            raise ValueError(f'damaged MATLAB 5 file: element of type {kind} in place of an array')
        return self.matrix(start, stop, depth + 1)[1], at

    def _structures(self, at: int, end: int, count: int, depth: int) -> Dict[str, list]:
        kind, start, stop, at = self.element(at, end)
        width = self._first(kind, start, stop)
        _, start, stop, at = self.element(at, end)
        if width < 1:
            raise ValueError(f'damaged MATLAB 5 file: field names of {width} characters')
        names = [self._content[i:i + width].split(b'\0', 1)[0].decode('latin-1') for i in range(start, stop, width)]
        columns: Dict[str, list] = {name: [] for name in names}
        for _ in range(count if names else 0):
            for name in names:
                item, at = self._inner(at, end, depth)
                columns[name].append(item)
        return columns
