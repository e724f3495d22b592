"""The reference RSL library, asked through ctypes in a child process: it leaks and it can crash.

Run as a program this is the child: it reads inputs from stdin and writes answers to stdout, each
text as a big-endian length and that many bytes (length -1: no text).
"""

import ctypes
import select
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO

LIBRARY = "libglobus_rsl.so.2"
NOT_INSTALLED = 3
LONGEST_ANSWER = 30.0


@dataclass(frozen=True)
class Answer:
    """What became of an input: None where the library gave no text.

    `printed` is None for a syntax error too, which `parsed` tells apart.
    """

    parsed: bool
    printed: bytes | None
    evaluated: bytes | None
    canonical: bytes | None
    canonical_evaluated: bytes | None


class ReferenceCrashedError(Exception):
    """The child died or hung on this input."""


class Reference:
    """The child, started at the first question and again after a crash or many questions."""

    def __init__(self, symbols: dict[bytes, bytes], *, questions_a_child: int = 20_000) -> None:
        self._symbols = symbols
        self._questions_a_child = questions_a_child
        self._left = 0
        self._child: subprocess.Popen[bytes] | None = None

    def installed(self) -> bool:
        try:
            self.ask(b"x=1")
        except ReferenceCrashedError:
            if self._child is not None and self._child.returncode == NOT_INSTALLED:
                return False
            raise
        return True

    def ask(self, data: bytes) -> Answer:
        if self._left == 0 or self._child is None:
            self._start()
        self._left -= 1
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            write_text(self._child.stdin, data)
            self._child.stdin.flush()
            if not select.select([self._child.stdout], [], [], LONGEST_ANSWER)[0]:
                raise EOFError
            parsed = read_text(self._child.stdout) is not None
            return Answer(parsed, *(read_text(self._child.stdout) for _ in range(4)))
        except (EOFError, BrokenPipeError):
            self.close()
            raise ReferenceCrashedError(data) from None

    def _start(self) -> None:
        self.close()
        self._left = self._questions_a_child
        self._child = subprocess.Popen(
            [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdin is not None
        self._child.stdin.write(struct.pack(">i", len(self._symbols)))
        for name, value in self._symbols.items():
            write_text(self._child.stdin, name)
            write_text(self._child.stdin, value)

    def close(self) -> None:
        if self._child is None:
            return
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.close()
            self._child.wait(timeout=5)
        except BrokenPipeError:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._left = 0


def write_text(stream: BinaryIO, text: bytes | None) -> None:
    stream.write(struct.pack(">i", -1 if text is None else len(text)) + (text or b""))


def read_text(stream: BinaryIO) -> bytes | None:
    length = struct.unpack(">i", read_exactly(stream, 4))[0]
    return None if length < 0 else read_exactly(stream, length)


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


class Library:
    """The child's side: the few public functions that are needed."""

    def __init__(self, symbols: dict[bytes, bytes]) -> None:
        self._common = ctypes.CDLL("libglobus_common.so.0", mode=ctypes.RTLD_GLOBAL)
        self._rsl = ctypes.CDLL(LIBRARY)
        pointer = ctypes.c_void_p
        for library, name, result, arguments in (
            (self._rsl, "globus_rsl_parse", pointer, [ctypes.c_char_p]),
            (self._rsl, "globus_rsl_unparse", pointer, [pointer]),
            (self._rsl, "globus_rsl_eval", ctypes.c_int, [pointer, pointer]),
            (self._rsl, "globus_rsl_assist_attributes_canonicalize", ctypes.c_int, [pointer]),
            (self._common, "globus_symboltable_init", ctypes.c_int, [pointer] * 3),
            (self._common, "globus_symboltable_create_scope", ctypes.c_int, [pointer]),
            (self._common, "globus_symboltable_insert", ctypes.c_int, [pointer] * 3),
            (self._common, "globus_symboltable_destroy", ctypes.c_int, [pointer]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        # The table keeps pointers to these.
        self._symbols = [
            (ctypes.create_string_buffer(name), ctypes.create_string_buffer(value))
            for name, value in symbols.items()
        ]

    def answer(self, data: bytes) -> Answer:
        tree = self._rsl.globus_rsl_parse(data)
        if not tree:
            return Answer(False, None, None, None, None)
        printed, evaluated = self._printed(tree), self._evaluated(tree)
        tree = self._rsl.globus_rsl_parse(data)
        self._rsl.globus_rsl_assist_attributes_canonicalize(tree)
        return Answer(True, printed, evaluated, self._printed(tree), self._evaluated(tree))

    def _printed(self, tree: int) -> bytes | None:
        text = self._rsl.globus_rsl_unparse(tree)
        return ctypes.string_at(text) if text else None

    def _evaluated(self, tree: int) -> bytes | None:
        table = ctypes.create_string_buffer(4096)
        self._common.globus_symboltable_init(
            table,
            ctypes.cast(self._common.globus_hashtable_string_hash, ctypes.c_void_p),
            ctypes.cast(self._common.globus_hashtable_string_keyeq, ctypes.c_void_p),
        )
        self._common.globus_symboltable_create_scope(table)
        for name, value in self._symbols:
            self._common.globus_symboltable_insert(table, name, value)
        failed = self._rsl.globus_rsl_eval(tree, table)
        if failed:
            return None
        self._common.globus_symboltable_destroy(table)
        return self._printed(tree)


def main() -> int:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    count = struct.unpack(">i", read_exactly(source, 4))[0]
    pairs = [(read_text(source) or b"", read_text(source) or b"") for _ in range(count)]
    try:
        library = Library(dict(pairs))
    except OSError:
        return NOT_INSTALLED
    while True:
        try:
            data = read_text(source)
        except EOFError:
            return 0
        answer = library.answer(data or b"")
        write_text(sink, b"" if answer.parsed else None)
        for text in (
            answer.printed,
            answer.evaluated,
            answer.canonical,
            answer.canonical_evaluated,
        ):
            write_text(sink, text)
        sink.flush()


if __name__ == "__main__":
    sys.exit(main())
