"""Text that MiniLM's function is measured on, and other text that its layers' inputs are recorded on.

`EVALUATED` are 100 sentences of this project's own writing, about everyday things, science, law, money, software and
small talk; none is recorded on. `recorded()` takes paragraphs of the language reference that Python brings
along for its `help()` (`pydoc_data.topics`) and of the docstrings of its standard library: text about programming,
so that what was recorded differs from what is evaluated in subject and in style. It depends on Python's version.
"""

from __future__ import annotations

import importlib
import inspect

MODULES = (
    "argparse", "ast", "asyncio", "base64", "bisect", "calendar", "cmath", "collections", "concurrent.futures", "csv",
    "ctypes", "datetime", "decimal", "difflib", "doctest", "email.message", "enum", "fractions", "functools", "gettext",
    "heapq", "http.client", "imaplib", "inspect", "ipaddress", "itertools", "json", "locale", "logging", "mailbox",
    "math", "multiprocessing", "optparse", "os", "pathlib", "pickle", "random", "re", "sched", "selectors", "shutil",
    "smtplib", "socket", "sqlite3", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "tokenize", "turtle", "typing", "unittest", "urllib.parse", "urllib.request", "uuid", "warnings",
    "weakref", "xml.dom.minidom", "xml.etree.ElementTree", "zipfile",
)  # fmt: skip
SHORTEST, LONGEST = 60, 700  # characters of a paragraph

EVALUATED = (
    "The ferry to the island leaves every two hours until nightfall.",
    "Two boats a day still carry mail and bread across the strait.",
    "She planted tomatoes along the south wall, where the bricks stay warm.",
    "Slugs ate most of our lettuce after the rain in June.",
    "A good loaf needs little more than flour, water, salt and patience.",
    "Bake the fish for twenty minutes and rest it under foil.",
    "My grandmother kept her recipes on the backs of old envelopes.",
    "The soup was far too salty, so we ate the bread alone.",
    "Where can I get a decent cup of coffee near the station?",
    "The nearest pharmacy closes at six on Saturdays.",
    "Our train was cancelled and nobody told us why.",
    "How long does it take to fly from Lisbon to Nairobi?",
    "Passengers must show a valid passport before boarding.",
    "I left my umbrella on the bus again.",
    "Traffic on the ring road came to a standstill after the accident.",
    "The cyclist was not hurt, but her wheel was bent.",
    "Electric cars are quiet enough to startle people who are crossing the street.",
    "The bridge will be closed for repairs until the end of March.",
    "He sold his motorcycle to pay for a piano.",
    "The orchestra tuned for a minute, and then the lights went out.",
    "Her second album was recorded in a disused chapel.",
    "The novel follows three sisters through a winter without heating.",
    "I could not finish that film; the hero was too stupid.",
    "The museum shows bronze masks from the fourteenth century.",
    "A thief cut the painting from its frame and left the frame hanging.",
    "The home team equalised in the last minute of extra time.",
    "She ran the marathon in under three hours at the age of fifty.",
    "Chess players often resign long before the king is in danger.",
    "The coach blamed the defeat on the wet grass.",
    "Snow is expected above eight hundred metres tonight.",
    "The river rose two metres in a day and flooded the market square.",
    "After the earthquake, people slept in their gardens for a week.",
    "It has not rained here since the beginning of May.",
    "Black holes bend the light of the stars behind them.",
    "The telescope found water vapour in the air of a distant planet.",
    "Sound travels faster in water than in air.",
    "An electron has no known inner structure.",
    "Entropy tells how many questions are needed to learn the state of a system.",
    "The reaction releases heat, so the flask has to be cooled with ice.",
    "Copper conducts electricity better than iron does.",
    "Penicillin was discovered because somebody forgot to wash a dish.",
    "Vaccination ended smallpox within two centuries.",
    "The patient complained of a dull pain below the ribs.",
    "Take one tablet with food twice a day, and no alcohol.",
    "Sleeping less than six hours a night weakens the memory.",
    "Octopuses taste with their arms.",
    "Wolves returned to the valley a century after the last one had been shot.",
    "Bees find their way home by the position of the sun.",
    "The oldest trees in that forest were seedlings when Rome fell.",
    "Whales sing at frequencies that carry for hundreds of miles.",
    "My cat refuses to drink from any bowl but mine.",
    "The dog barks whenever the postman comes up the stairs.",
    "The central bank raised interest rates by a quarter of a point.",
    "Rents in the capital have doubled within ten years.",
    "The company lost a third of its value after the audit.",
    "Please find attached the invoice for the month of September.",
    "She invested her savings in government bonds.",
    "The minister resigned over an unpaid tax bill.",
    "Voters rejected the new constitution by a narrow margin.",
    "The treaty forbids the testing of weapons in space.",
    "A witness swore that the door had been locked from the inside.",
    "The tenant shall return the flat in the state in which it was received.",
    "The court held that a contract signed under threat is void.",
    "The judge sentenced him to four years for fraud.",
    "Under the empire, the province paid its taxes in grain.",
    "The war began with a quarrel over a harbour.",
    "Printing made books cheap enough for merchants and farmers.",
    "The pyramids were already ancient when Cleopatra was born.",
    "Nobody knows who built the stone circles on the moor.",
    "What is the difference between a virus and a bacterium?",
    "How do I remove red wine from a white shirt?",
    "Why is the sky dark at night if there are so many stars?",
    "Can you recommend a quiet hotel with a view of the sea?",
    "Who wrote the letters that were found in the attic?",
    "The web server refuses connections as soon as the disk is full.",
    "Restart the router and wait until the green light stops blinking.",
    "My laptop gets hot whenever I join a video call.",
    "The password has to contain a digit and be changed every year.",
    "A hash table finds an entry in constant time on average.",
    "The compiler warns about a variable that is never read.",
    "Neural networks store what they have learned in large matrices of numbers.",
    "Rounding the weights to four bits hardly changed the answers.",
    "The robot sorts parcels by size without ever tiring.",
    "Satellites measure the height of the sea to within a few centimetres.",
    "The factory makes ten thousand bolts an hour.",
    "A nurse on the night shift noticed the alarm first.",
    "Teachers in the village school also drive the bus.",
    "He has been looking for work since the mine closed.",
    "The interview went well, although I forgot the name of the manager.",
    "Children learn a second language more easily than their parents.",
    "The word for bread is almost the same in all these languages.",
    "Translating a poem means losing either the rhyme or the meaning.",
    "Happy birthday! I hope that you like the scarf.",
    "Sorry I'm late; the lift was out of order.",
    "That was the worst service I have ever had in a restaurant.",
    "The staff were friendly and the room was spotless.",
    "This kettle broke after a week and the shop will not take it back.",
    "Best headphones I have owned, worth every penny.",
    "We are expecting our first child in the spring.",
    "He never said goodbye; one morning his chair was empty.",
)  # fmt: skip


def recorded(limit: int | None = None) -> list[str]:
    """Paragraphs to record inputs on, at most `limit` of them, evenly taken from all: always the same ones."""
    topics = importlib.import_module("pydoc_data.topics").topics
    texts = [topics[name] for name in sorted(topics)]
    for name in MODULES:
        module = importlib.import_module(name)
        found = [module, *(one for _, one in sorted(vars(module).items()) if getattr(one, "__module__", "") == name)]
        texts += [doc for one in found if isinstance(doc := inspect.getdoc(one), str)]
    paragraphs = [" ".join(part.split()) for text in texts for part in text.split("\n\n")]
    fitting = list(dict.fromkeys(part for part in paragraphs if SHORTEST <= len(part) <= LONGEST))
    if limit is None or limit >= len(fitting):
        return fitting
    return [fitting[index * len(fitting) // limit] for index in range(limit)]
