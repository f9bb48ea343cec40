"""What choices are made by: how far MiniLM's embeddings move on text that is neither recorded nor evaluated.

That is sentences of paragraphs that `recorded(PARAGRAPHS)` leaves out, and some of everyday subjects that were written
for this. The first are of the kind that statistics come from, the others aren't; the evaluated sentences are for
README's figures alone.

    python bench/held_out.py --stats FILE [--bits 2.9 2.4] [--schemes grid trellis auto]

The statistics are those of `python bench/encoder.py --stats FILE`. Prints 1 - cosine for each.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from threadpoolctl import threadpool_limits

import mc
from encoder import PARAGRAPHS, apart, embed, load
from mc.lossy.requests import Target
from mc.plan.goals import Goal
from models import NAMES, paths
from sentences import recorded

COUNT = 150  # held-out sentences
EVERYDAY = (
    "The baker opens at five, long before the first tram runs.",
    "We hung the washing between two apple trees.",
    "Her brother repairs clocks in a cellar by the canal.",
    "There is a hole in my left boot and it has begun to rain.",
    "The lighthouse keeper wrote down every ship that passed.",
    "Could you turn the music down while the baby is asleep?",
    "The dentist said that two of my teeth have to go.",
    "Peel the potatoes, slice them thinly and fry them in butter.",
    "Cheese keeps longer if it is wrapped in paper.",
    "The airline lost our suitcases somewhere over the Atlantic.",
    "A storm tore the roof off the stadium last Tuesday.",
    "The glacier has lost half of its ice since my father was a boy.",
    "Mars has two small moons that look like potatoes.",
    "Iron rusts faster in salt water.",
    "Light from the galaxy took ten million years to reach us.",
    "Antibiotics do nothing against the flu.",
    "A broken wrist usually heals within six weeks.",
    "The surgeon had operated all night and drank cold tea.",
    "Swallows fly low when the weather is about to change.",
    "An elephant remembers where water was found years ago.",
    "Our hens stop laying when the days grow short.",
    "The goalkeeper saved two penalties and was carried off the pitch.",
    "She swims a mile in the lake before breakfast.",
    "The violinist broke a string in the second movement.",
    "That painting is a forgery, and not a good one.",
    "His latest thriller is set in a submarine.",
    "The bank refused us a mortgage without giving a reason.",
    "Inflation fell to three percent in the autumn.",
    "The union called off the strike after a night of talks.",
    "Shares in the airline fell when fuel became dearer.",
    "The mayor promised a tunnel and built a roundabout.",
    "Parliament voted to lower the speed limit in towns.",
    "The lease ends in June unless both sides agree to renew it.",
    "He was acquitted because the only witness had emigrated.",
    "The king fled the city disguised as a miller.",
    "Canals carried coal long before railways did.",
    "My phone no longer charges unless I hold the cable just so.",
    "Delete the old backups before the server runs out of room.",
    "The update broke the printer in the office upstairs.",
    "Which of these two bicycles is better for a child of eight?",
    "How many litres of paint do I need for a room of this size?",
    "Thank you for the flowers; they are still on my desk.",
    "I waited an hour for a table and the food was cold.",
    "The instructions are in seven languages and clear in none.",
    "Our neighbour plays the trumpet, but never after nine.",
    "The twins start school in September.",
    "She left the village at sixteen and never wrote.",
    "Farmers burn the stubble after the harvest.",
)  # fmt: skip
SENTENCE = re.compile(r"[A-Z].{30,180}?[.?!](?= [A-Z])")


def held_out() -> list[str]:
    """Sentences of paragraphs that nothing is recorded on, taken evenly."""
    used = set(recorded(PARAGRAPHS))
    found = [match[0] for text in recorded() if text not in used and (match := SENTENCE.search(text))]
    return [found[index * len(found) // COUNT] for index in range(COUNT)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare embeddings on held-out and everyday sentences.")
    parser.add_argument("--stats", type=Path, required=True, metavar="FILE")
    parser.add_argument("--bits", type=float, nargs="+", default=[2.9, 2.4])
    parser.add_argument("--schemes", nargs="+", default=["grid", "trellis"])
    given = parser.parse_args()
    source = paths()[NAMES.index("minilm-f32")]
    with threadpool_limits(1, "blas"), tempfile.TemporaryDirectory() as place:
        original, texts = load(source), (held_out(), EVERYDAY)
        wanted = [embed(original, one) for one in texts]
        print("scheme\tbits\theld out\teveryday", flush=True)
        for scheme in given.schemes:
            for bits in given.bits:
                quantized, floats = Path(place) / "q.safetensors", Path(place) / "f.safetensors"
                if scheme == "auto":
                    mc.auto(source, quantized, goal=Goal("bits", bits), stats=given.stats, pack=False)
                else:
                    limit = Target("bits", bits)
                    mc.quantize(source, quantized, scheme=scheme, limit=limit, objective="gram", stats=given.stats)
                mc.dequantize(quantized, floats)
                tensors = load(floats)
                figures = [f"{apart(tensors, *pair):.4f}" for pair in zip(wanted, texts, strict=True)]
                print(scheme, bits, *figures, sep="\t", flush=True)


if __name__ == "__main__":
    main()
