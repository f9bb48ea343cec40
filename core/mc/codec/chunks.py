"""A chunk of float words coded or decoded in one call: long stretches of work without the interpreter's lock.

Every return to Python waits for that lock, so two threads that return often keep each other from working. The payload
of a chunk is laid out in FORMAT.md, section 5.5.
"""

import numpy as np

from mc.codec import heads
from mc.codec.bitstream import load, read32, store32
from mc.codec.checksum import SHORT, long_checksum
from mc.codec.compiled import by_rows, inlined, released
from mc.codec.entropy import capacity, code_symbols, decode_symbols
from mc.codec.escapes import add_escapes, escaped
from mc.codec.planes import field_bytes, pack_fields, unpack_fields
from mc.codec.segments import segment_sizes, sort_plane, unsorted
from mc.codec.symbols import put_together, take_apart
from mc.codec.tails import pack_tails, unpack_tails

U64 = np.uint64
RAW, CODED, ESCAPES = 0, 1, 2  # first byte of a chunk: how it is stored; ESCAPES is added to CODED
NO_WAY = np.uint8(255)  # of a chunk without a byte
HEAD = 5  # bytes before the symbols: how the chunk is stored, and their size
ESCAPE_BYTES = 6  # of an escape beyond its symbol: where it is, and its magnitude

# What `decode` finds, besides 0.
FAULTS = (
    "",
    "it ends too early",
    "its symbols don't end where they should",
    "an escape lies outside it, or they are out of order",
    "it goes on behind its last byte",
    "it is raw, and has more or fewer bytes than belong",
    "it is stored in a way that is none of 0, 1 and 3",
    "its coded bytes don't match their checksum",
    "its decoded bytes don't match their checksum",
    "its frame doesn't agree with the directory",
    "it is too short to be decoded with others",
)
CUT, UNSOUND, STRAY, TOO_LONG, MISFIT, WAYLESS, CODED_SUM, RAW_SUM, MISPLACED, BRIEF = range(1, len(FAULTS))


@by_rows
def _all_whole(classes):
    """Whether all rows keep the whole of a tail."""
    kind = np.uint8(0)
    for row in range(len(classes)):
        kind |= classes[row]
    return kind == 0


@inlined
def _without(frequent, words, fields):
    """The words that aren't frequent ones, and how many; their fields move to the front of `fields`."""
    kept, many = np.empty_like(words), 0
    for i in range(len(words)):
        some = False
        for k in range(len(frequent)):
            some |= words[i] == frequent[k]
        if not some:
            kept[many] = words[i]
            fields[many] = fields[i]
            many += 1
    return kept, many


@by_rows
def _present_in(present, n, cols, rows, order, starts, sizes, cursor, places):
    """Fill `places` u8 with the words that are present, in the order of the symbols, and `sizes` with how many they are
    in each segment."""
    sort_plane(present, n, cols, rows, order, starts, sizes, cursor, places)
    at = 0
    for t in range(len(sizes)):
        stop, some = at + sizes[t], 0
        for i in range(at, stop):
            some += np.int64(places[i])
        sizes[t] = some
        at = stop


@released
def encode(words, frequent, shape, scales, window, classes, coder, present, out):
    """The coded chunk, u8, of `words`: at the front of `out`, or in an array of its own if it might not fit there.

    What escapes is told by `window`, what is frequent by `frequent`. Words that aren't `present` u8, unless that is
    None, are zero, which is a frequent word, and have no symbols.

    shape: (columns, low mantissa bits, padding, mantissa bits in the symbol, bits of a field); scales: (of rows, of
    columns, order, starts) as `take_apart` has them; classes: [tails, rows]; coder: arrays of an entropy coder."""
    cols, low, padding, mantissa, width = shape
    rows, columns, order, starts = scales
    n, tables = len(words), len(coder[-1])
    sizes, symbols, fields = np.empty(tables, np.int64), np.empty(n, np.uint8), np.empty(n, np.uint8)
    cursor, escaping = np.empty(tables, np.int64), np.empty(len(rows), np.int32)
    heads, line = np.empty(cols, np.uint16), np.empty(cols, np.uint8)
    escapes = take_apart(
        words, cols, low, padding, mantissa, frequent, window, rows, columns, order, starts, sizes, cursor, heads,
        line, symbols, fields, escaping,
    )  # fmt: skip
    room = HEAD + capacity(n, tables) + n + 2 * n * len(classes) + 4 + ESCAPE_BYTES * escapes
    if len(out) < room:
        out = np.empty(room, np.uint8)
    if present is not None:
        places, some = np.empty(n, np.uint8), 0
        _present_in(present, n, cols, rows, order, starts, sizes, cursor, places)
        for i in range(n):
            symbols[some] = symbols[i]
            some += np.int64(places[i])
    at = np.int64(code_symbols(symbols, sizes, coder, out, np.int64(HEAD)))
    out[0] = CODED | (ESCAPES if escapes else 0)
    store32(out, U64(1), U64(at - HEAD))
    kept, many, kept_cols, kept_classes = words, n, cols, classes[:, :]
    if frequent is not None:
        kept, many = _without(frequent, words, fields)
        kept_cols, kept_classes = max(many, 1), classes[:, : min(many, 1)]  # all rows are of one class: one row
    at = pack_fields(fields[:many], width, out, at)
    at = pack_tails(kept[:many], kept_cols, kept_classes, out, at)
    if escapes:
        store32(out, U64(at), U64(escapes))
        at += 4
        at = escaped(words, cols, low + padding, mantissa, frequent, window, rows, columns, escaping, escapes, out, at)
    return out[:at]


@released
def decode(data, directory, jobs, told, frequent, raw, words, present, absent):
    """Decode chunks of several tensors, each one's in frames one behind the other, into `raw` u8, which `words` are
    the words of. Returns how many tensors are as they were packed, before the first that isn't; and of that one the
    number of the chunk at fault, counted from the job's first, and the fault. Never reads or writes outside its arrays.

    jobs: of heads.JOB, what is to be decoded; told: Heads; absent: the number of the frequent word that stands where
    none is `present`, in the only job."""
    width = np.int64(words.itemsize)
    for t in range(len(jobs)):
        job, of = jobs[t], told.facts[jobs[t].tensor]
        shape = of.cols, of.low, of.padding, of.mantissa, of.width
        columns = told.columns[of.column : of.column + of.columns]
        order = told.order[2 * of.column : 2 * (of.column + of.columns)]
        starts = told.starts[of.start : of.start + (heads.STARTS if of.columns > 0 else 0)]
        coder = told.tables[of.table : of.table + of.tables], told.lone[of.table : of.table + of.tables]
        at, place, end, row, k = job.begin, job.place, job.place + job.nbytes, of.row + job.row, 0
        while place < end:
            begin, after, seed = at, min(place + of.height * of.cols * width, end), U64(job.seed + k)
            at = job.end
            if job.directory != heads.FRAMELESS:
                begin += heads.FRAME
                if begin > job.end:
                    return t, k, MISPLACED
                at = begin + np.int64(read32(directory, U64(job.directory + heads.ENTRY * k)))
                if at > job.end or at - begin != np.int64(read32(data, U64(begin - heads.FRAME))):
                    return t, k, MISPLACED
                if min(at - begin, after - place) <= SHORT:
                    return t, k, BRIEF
            coded, bare = data[begin:at], raw[place:after]
            if job.directory != heads.FRAMELESS and long_checksum(coded, seed) != load(data, U64(begin - 16)):
                return t, k, CODED_SUM
            way = np.uint8(RAW) if of.skip == 0 else coded[0] if begin < at else NO_WAY
            if way == RAW:
                if len(coded) != len(bare) + of.skip:
                    return t, k, MISFIT
                for i in range(len(bare)):
                    bare[i] = coded[i + of.skip]
            elif way == CODED or way == CODED | ESCAPES:
                last, part = min(row + of.height, of.row + of.rows), words[place // width : after // width]
                here, classes = (told.rows[row:last], columns, order, starts), told.classes[:, row:last]
                fault = _decode_coded(coded, frequent, shape, here, classes, coder, part, present, absent)
                if fault:
                    return t, k, fault
            else:
                return t, k, WAYLESS
            if job.directory != heads.FRAMELESS and long_checksum(bare, seed) != load(data, U64(begin - 8)):
                return t, k, RAW_SUM
            place, row, k = after, row + of.height, k + 1
        if at < job.end:
            return t, k, MISPLACED
    return len(jobs), 0, 0


@inlined
def _decode_coded(data, frequent, shape, scales, classes, coder, words, present, absent):
    """Undo `encode` into `words`; the number of a fault, or 0."""
    tables, lone = coder
    cols, low, padding, mantissa, width = shape
    rows, columns, order, starts = scales
    n = len(words)
    if len(data) < HEAD:
        return CUT
    at = HEAD + np.int64(read32(data, U64(1)))
    if at > len(data):
        return CUT
    sizes, symbols = np.empty(len(lone), np.int64), np.empty(n, np.uint8)
    cursor, line = np.empty(len(lone), np.int64), np.empty(cols, np.uint8)
    segment_sizes(n, cols, rows, starts, sizes)
    if present is None:
        if not decode_symbols(data[HEAD:at], sizes, tables, lone, symbols):
            return UNSOUND
    else:
        here, places = sizes.copy(), np.empty(n, np.uint8)
        _present_in(present, n, cols, rows, order, starts, here, cursor, places)
        some = 0
        for t in range(len(here)):
            some += here[t]
        dense = np.empty(some, np.uint8)
        if not decode_symbols(data[HEAD:at], here, tables, lone, dense):
            return UNSOUND
        k = 0
        for i in range(n):
            symbols[i] = absent
            if places[i]:
                symbols[i] = dense[k]
                k += 1
    plane, kept, many, kept_cols, kept_classes = symbols[:0], words, n, cols, classes[:, :]
    if frequent is not None:
        plane = np.empty(n, np.uint8)
        many = unsorted(symbols, n, cols, rows, order, starts, sizes, cursor, len(frequent), plane)
        kept = np.zeros(many, words.dtype)
        kept_cols, kept_classes = max(many, 1), classes[:, : min(many, 1)]
    packed = field_bytes(width, many)
    if at + packed > len(data):
        return CUT
    fields = unpack_fields(data[at : at + packed], width, many)
    at += packed
    whole = data[:0]  # the highest tails, where all of them are kept and there are no others
    if len(classes) == 1 and frequent is None and at + 2 * n <= len(data) and _all_whole(classes[0]):
        whole = data[at : at + 2 * n]
        at += 2 * n
    else:
        at = unpack_tails(data, at, kept_cols, kept_classes, kept)
        if at > len(data):
            return CUT
    begin = 0
    if frequent is not None:
        begin = len(frequent)
        fields = _spread(kept, fields, plane, begin, words)
    put_together(
        symbols, fields, whole, cols, low, padding, mantissa, begin, rows, columns, order, starts, sizes, cursor, line,
        words,
    )  # fmt: skip
    if frequent is not None:
        for i in range(n):
            if plane[i] < begin:
                words[i] = frequent[plane[i]]
    return _escapes(data, at, low + padding, words)


@inlined
def _spread(kept, fields, plane, frequent, words):
    """Put the words that aren't frequent ones in their places among `words`; their fields in these places come back.
    The others have neither bits nor fields yet."""
    spread, k = np.zeros(len(words), np.uint8), 0
    for i in range(len(words)):
        words[i] = 0
        if plane[i] >= frequent:
            words[i] = kept[k]
            spread[i] = fields[k]
            k += 1
    return spread


@inlined
def _escapes(data, at, step_shift, words):
    """Read the end of a chunk from byte `at` on: its escapes, if it has any, and nothing else."""
    if data[0] & ESCAPES:
        if at + 4 > len(data):
            return CUT
        count = np.int64(read32(data, U64(at)))
        at += 4
        if at + ESCAPE_BYTES * count > len(data):
            return CUT
        if not add_escapes(data, at, count, step_shift, words):
            return STRAY
        at += ESCAPE_BYTES * count
    return TOO_LONG if at < len(data) else 0
