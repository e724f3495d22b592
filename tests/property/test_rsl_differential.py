"""Our verdicts and texts against the reference library's, on random and mutated inputs.

GRAM_RSL_CASES sets how many inputs are tried (default 2000), GRAM_RSL_SEED where they start.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

import rsl
from rsl.tree import decode, encode
from tests.rsl.boundaries import BOUNDARIES
from tests.rsl.generate import Writer
from tests.rsl.reference import Answer, Reference, ReferenceCrashedError

CASES = int(os.environ.get("GRAM_RSL_CASES", "2000"))
SEED = int(os.environ.get("GRAM_RSL_SEED", "1"))
SYMBOLS = {b"HOME": b"/home/alice", b"LOGNAME": b"alice", b"B": b"\xa9"}


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    library = Reference(SYMBOLS)
    if not library.installed():
        pytest.skip("libglobus_rsl.so.2 is not installed (Debian package libglobus-rsl2)")
    yield library
    library.close()


def attempt(action: Callable[[], rsl.Specification], failure: type[rsl.RSLError]) -> bytes | None:
    try:
        return encode(rsl.unparse(action()))
    except (failure, rsl.RSLUnparseError):
        return None


def ours(data: bytes) -> Answer:
    try:
        spec = rsl.parse(data)
    except (rsl.RSLSyntaxError, rsl.RSLLimitError):
        return Answer(False, None, None, None, None)
    symbols = {decode(name): decode(value) for name, value in SYMBOLS.items()}
    canonical = rsl.canonicalise(spec)
    return Answer(
        True,
        attempt(lambda: spec, rsl.RSLUnparseError),
        attempt(lambda: rsl.evaluate(spec, symbols), rsl.RSLEvaluationError),
        attempt(lambda: canonical, rsl.RSLUnparseError),
        attempt(lambda: rsl.evaluate(canonical, symbols), rsl.RSLEvaluationError),
    )


@pytest.mark.peers
@pytest.mark.timeout(0)
def test_same_verdicts_and_texts(reference: Reference) -> None:
    random = Random(SEED)
    writer = Writer(random)
    seen: Counter[str] = Counter()
    for number in range(CASES):
        data = writer.text()
        try:
            theirs = reference.ask(data)
        except ReferenceCrashedError:
            seen["reference crashed"] += 1
            continue
        assert ours(data) == theirs, f"case {number} of seed {SEED}: {data!r}"
        seen["accepted" if theirs.parsed else "refused"] += 1
        seen["evaluated"] += theirs.evaluated is not None
    print(f"{CASES} cases: {dict(seen)}")
    assert seen["accepted"] > CASES / 5
    assert seen["refused"] > CASES / 5
    assert seen["evaluated"] > CASES / 20
    assert seen["reference crashed"] <= CASES / 1000


@pytest.mark.peers
@pytest.mark.parametrize("shape", BOUNDARIES)
def test_same_limits(reference: Reference, shape: str) -> None:
    build, largest = BOUNDARIES[shape]
    for count, accepted in ((largest, True), (largest + 1, False)):
        data = build(count).encode()
        theirs = reference.ask(data)
        assert theirs.parsed is accepted
        assert ours(data) == theirs
