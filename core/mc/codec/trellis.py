"""Signed integers of a trellis quantizer, coded in the contexts of row, column and state.

In a trellis every row is a walk through states: the state says on which of two interleaved lattices a weight lies, and
so what its integer means and how often which one occurs; the integer's lowest bit leads to the next state. Each class
of rows and columns has two tables here, one for each lattice (FORMAT.md, 7.7). Everything else is as in `grids`.
"""

import struct

import numpy as np

from mc.codec import entropy
from mc.codec.chunks import CODED
from mc.codec.compiled import inlined, released
from mc.codec.grids import ESCAPE, GridCode, context_of, segment_sizes, symbol_of
from mc.codec.typing import Bytes, Counts, Ints
from mc.codec.ways import opened_chunk, raw_chunk
from mc.errors import DamagedError

U16, U64 = np.uint16, np.uint64
# By the number of states, the parity-check polynomials h0 and h1 of Ungerboeck's codes for one dimension (Channel
# coding with multilevel/phase signals, 1982, table I; octal there), each shifted right by one.
MACHINES = {
    4: (0o5 >> 1, 0o2 >> 1), 8: (0o13 >> 1, 0o4 >> 1), 64: (0o103 >> 1, 0o24 >> 1), 256: (0o515 >> 1, 0o362 >> 1),
}  # fmt: skip


@inlined
def following(state, word, back, ahead):
    """The state behind a word; `back` and `ahead` are a machine."""
    return (state >> 1) ^ (-(state & 1) & back) ^ (-(np.int64(word) & 1) & ahead)


@released
def halves(words, rows, columns, shift, machine, odd):
    """Fill `odd` i64 [classes] with the words of each class that lie on the odd lattice."""
    back, ahead = machine
    cols = len(columns)
    for t in range(len(odd)):
        odd[t] = 0
    for r in range(len(rows)):
        state = np.int64(0)
        for c in range(cols):
            odd[context_of(rows[r], columns[c], shift, len(odd))] += state & 1
            state = following(state, words[r * cols + c], back, ahead)


@inlined
def _places(sizes):
    places = np.empty(len(sizes), np.int64)
    at = np.int64(0)
    for t in range(len(sizes)):
        places[t] = at
        at += sizes[t]
    return places


@released
def gather(words, rows, columns, shift, machine, sizes, symbols, escapes):
    """Put the symbols of signed words [rows x columns] into `symbols` u8, sorted by class and lattice, as many each as
    `sizes` i64 [2 x classes] says, and the words that escape into `escapes`; return how many do."""
    back, ahead = machine
    cols, classes = len(columns), len(sizes) // 2
    places = _places(sizes)
    count = 0
    for r in range(len(rows)):
        state = np.int64(0)
        for c in range(cols):
            word = words[r * cols + c]
            symbol = symbol_of(np.int64(word))
            t = 2 * context_of(rows[r], columns[c], shift, classes) + (state & 1)
            symbols[places[t]] = symbol
            places[t] += 1
            if symbol == ESCAPE:
                escapes[count] = word
                count += 1
            state = following(state, word, back, ahead)
    return count


@inlined
def _turns(symbols, words, ahead):
    """Symbols u16, each with how its word changes the state above it, and zeros for as many more as there are words: a
    walk that isn't the one that symbols were sorted by reads these, and nothing beyond."""
    turns = np.zeros(len(symbols) + words, U16)
    for i in range(len(symbols)):
        symbol = U16(symbols[i])
        turns[i] = symbol | U16(U16((symbol ^ U16(symbol >> U16(1))) & U16(1)) * U16(ahead)) << U16(8)
    return turns


@released
def scatter(symbols, rows, columns, shift, machine, sizes, escapes, words):
    """Undo `gather`; False unless every escape and segment is used up.

    Each state waits for the symbol before it, so that is what the time goes into. Both symbols that may come next in a
    class are looked up before it is known which lattice the word lies on."""
    back, ahead = U64(machine[0]), U64(machine[1])
    cols, classes = len(columns), len(sizes) // 2
    turns = _turns(symbols, len(words), machine[1])
    even, odd = np.empty(classes, np.uint64), np.empty(classes, np.uint64)
    at = U64(0)
    for t in range(classes):
        even[t] = at
        odd[t] = at + U64(sizes[2 * t])
        at = odd[t] + U64(sizes[2 * t + 1])
    of_columns = np.empty(cols, np.uint64)
    count = 0
    for r in range(len(rows)):
        for c in range(cols):
            of_columns[c] = U64(context_of(rows[r], columns[c], shift, classes))
        line = words[r * cols : (r + 1) * cols]
        state = U64(0)
        for c in range(cols):
            t, lattice = of_columns[c], state & U64(1)
            first, second = even[t], odd[t]
            even[t], odd[t] = first + (U64(1) - lattice), second + lattice
            one, other = U64(turns[first]), U64(turns[second])
            turn = one ^ ((one ^ other) & (U64(0) - lattice))  # without a branch, as half of them would be mistaken
            symbol, change = np.int64(turn & U64(255)), turn >> U64(8)
            word = (symbol >> 1) ^ -(symbol & 1)
            if symbol == ESCAPE:
                if count == len(escapes):
                    return False
                word = np.int64(escapes[count])
                count += 1
                change = U64(word & 1) * ahead
            line[c] = word
            state = (state >> U64(1)) ^ (lattice * back) ^ change
    end = U64(0)
    for t in range(classes):
        end += U64(sizes[2 * t])
        used = even[t] == end
        end += U64(sizes[2 * t + 1])
        if not used or odd[t] != end:
            return False
    return count == len(escapes)


@released
def count_symbols(words, rows, columns, machine, counts):
    """Add to `counts` i64 [contexts, 2, 256] the symbols of signed words on either lattice, contexts unshifted."""
    back, ahead = machine
    cols = len(columns)
    for r in range(len(rows)):
        state = np.int64(0)
        for c in range(cols):
            word = words[r * cols + c]
            counts[np.int64(rows[r]) + np.int64(columns[c]), state & 1, symbol_of(np.int64(word))] += 1
            state = following(state, word, back, ahead)


@released
def energies(words, cols, machine, rows, columns, weights):
    """`grids.energies` of what the words stand for: twice the word, and one more on the odd lattice."""
    back, ahead = machine
    for r in range(len(rows)):
        state = np.int64(0)
        for c in range(cols):
            word = words[r * cols + c]
            v = min(abs(2 * np.int64(word) + (state & 1)), 255)
            if len(weights):
                columns[c] += v * v * weights[r]
            else:
                rows[r] += v * v
            state = following(state, word, back, ahead)


def _counted(size: int) -> int:
    """Bytes of a count up to `size`."""
    return (size.bit_length() + 7) // 8


def encode_chunk(code: GridCode, coder: tuple[Ints, ...], raw: Bytes, first_row: int) -> Bytes:
    """The chunk whose rows begin at `first_row`, coded."""
    words = code.words(raw)
    rows = code.rows[first_row : first_row + len(words) // code.cols]
    machine = MACHINES[code.states]
    whole, odd = np.empty(code.classes, np.int64), np.empty(code.classes, np.int64)
    segment_sizes(rows, code.columns, code.shift, whole)
    halves(words, rows, code.columns, code.shift, machine, odd)
    sizes = np.stack([whole - odd, odd], axis=1).reshape(-1)
    symbols, escapes = np.empty(len(words), np.uint8), np.empty_like(words)
    count = gather(words, rows, code.columns, code.shift, machine, sizes, symbols, escapes)
    if entropy.uncoded(symbols, sizes, code.tables):
        return raw_chunk(raw)
    stream = entropy.encode(symbols, sizes, coder)
    counts = b"".join(int(n).to_bytes(_counted(int(of)), "little") for n, of in zip(odd, whole, strict=True))
    front = np.frombuffer(struct.pack("<B", CODED) + counts + struct.pack("<I", len(stream)), np.uint8)
    coded = np.concatenate([front, stream, escapes[:count].view(np.uint8)])
    return coded if len(coded) <= len(raw) else raw_chunk(raw)


def decode_chunk(code: GridCode, coder: tuple[Ints, Counts], coded: memoryview, first_row: int, raw: Bytes) -> None:
    """Fill `raw` with the chunk whose rows begin at `first_row`; DamagedError if `coded` makes no sense."""
    reader = opened_chunk(coded, raw)
    if reader is None:
        return
    words = code.words(raw)
    rows = code.rows[first_row : first_row + len(words) // code.cols]
    whole = np.empty(code.classes, np.int64)
    segment_sizes(rows, code.columns, code.shift, whole)
    odd = np.array([int.from_bytes(reader.take(_counted(int(of))), "little") for of in whole], np.int64)
    if (odd > whole).any():
        raise DamagedError("a chunk has more words on the odd lattice than there are")
    sizes = np.stack([whole - odd, odd], axis=1).reshape(-1)
    stream = reader.bytes(reader.u32())
    if reader.left % code.width:
        raise DamagedError("a chunk ends within a word")
    escapes = reader.words(reader.left // code.width, code.width).view(f"<i{code.width}")
    symbols = entropy.decode(stream, sizes, coder)
    if not scatter(symbols, rows, code.columns, code.shift, MACHINES[code.states], sizes, escapes, words):
        raise DamagedError("a chunk's words don't walk through the states that its symbols are sorted by")
