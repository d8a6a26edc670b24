"""Which objects a text names: words and their synonyms, in the singular and the plural.

CHAIR's rules (Rohrbach et al. 2018, arXiv:1809.02156): the longest expression counts ("hot dog" is no dog); "baby" and "adult"
before an animal, and "passenger" before a vehicle, are no object; where "toilet" is named, "seat" is none.

Where it differs: there is no tokenizer or lemmatiser to download. Words are runs of letters, and plurals are made from the
vocabulary by the rules of English.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from mmalign.errors import UserError

COCO: Mapping[str, Sequence[str]] = {
    name.strip(): [word.strip() for word in words.split(",") if word.strip()]
    for name, _, words in (
        line.partition(":")
        for line in """\
person: man, woman, boy, girl, child, kid, baby, toddler, infant, adult, lady, guy, gentleman, people, pedestrian, player, \
batter, pitcher, catcher, umpire, skier, snowboarder, surfer, skateboarder, rider, cyclist, biker, chef, waiter, officer, \
policeman, fireman, worker, driver, passenger, spectator, soldier, bride, groom, student, teacher, teenager
bicycle: bike, cycle
car: automobile, sedan, suv, minivan, hatchback, taxi, cab, limousine
motorcycle: motorbike, scooter, moped
airplane: plane, aeroplane, aircraft, airliner, jet, biplane
bus: minibus, trolleybus
train: locomotive, subway train, tram, streetcar, caboose
truck: lorry, pickup, firetruck, fire truck, fire engine, semi truck, dump truck
boat: ship, ferry, canoe, kayak, sailboat, yacht, raft, rowboat, motorboat, gondola
traffic light: stoplight, traffic signal, stop light
fire hydrant: hydrant
stop sign:
parking meter:
bench: pew
bird: pigeon, seagull, gull, duck, goose, swan, owl, eagle, parrot, ostrich, sparrow, crow, penguin, flamingo, peacock
cat: kitten, kitty
dog: puppy, pup, hound, poodle, terrier, retriever, bulldog
horse: pony, foal, stallion, mare, colt
sheep: lamb, ewe, ram
cow: calf, bull, cattle, ox
elephant:
bear: panda, polar bear, grizzly
zebra:
giraffe:
backpack: knapsack, rucksack
umbrella: parasol
handbag: purse, wallet
tie: necktie, bow tie, bowtie
suitcase: luggage, briefcase
frisbee: flying disc
skis: ski
snowboard:
sports ball: ball, baseball, basketball, football, soccer ball, tennis ball, volleyball
kite:
baseball bat: bat
baseball glove: mitt, catcher's mitt
skateboard:
surfboard: longboard
tennis racket: racket, racquet, tennis racquet
bottle: flask
wine glass: wineglass, goblet
cup: mug, teacup, coffee cup
fork:
knife: knives, pocketknife
spoon: teaspoon
bowl:
banana:
apple:
sandwich: burger, hamburger, cheeseburger, sub
orange: tangerine, clementine
broccoli:
carrot:
hot dog: hotdog, frankfurter
pizza:
donut: doughnut, bagel
cake: cupcake, cheesecake, birthday cake
chair: seat, stool, armchair, recliner
couch: sofa, loveseat, settee
potted plant: houseplant, flowerpot
bed: mattress, bunk bed
dining table: table, desk, coffee table
toilet: toilet seat, urinal, commode
tv: television, tv screen, monitor
laptop: notebook computer, laptop computer
mouse: computer mouse
remote: remote control
keyboard:
cell phone: phone, cellphone, smartphone, mobile phone, telephone, iphone
microwave: microwave oven
oven: stove, stove top
toaster:
sink: washbasin, basin
refrigerator: fridge, freezer
book: novel, textbook
clock: alarm clock, wall clock
vase:
scissors: scissor, pair of scissors
teddy bear: stuffed bear, stuffed animal, teddy
hair drier: hair dryer, hairdryer, blow dryer
toothbrush:""".splitlines()
    )
}
"""The 80 classes of COCO, by their names there, and words for them."""

ANIMALS = frozenset(("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"))
VEHICLES = frozenset(("airplane", "bus", "train", "truck", "boat", "car"))
NO_OBJECTS = ("home plate", "train track", "hot dog stand", "bus stop", "bus station", "train station", "car park")
"""Expressions that begin like an object of COCO and are none."""

_IRREGULAR = {
    "child": "children", "foot": "feet", "goose": "geese", "mouse": "mice", "ox": "oxen", "person": "persons", "sheep": "sheep",
    "people": "people", "cattle": "cattle", "broccoli": "broccoli", "scissors": "scissors",
    "skis": "skis", "luggage": "luggage", "aircraft": "aircraft", "knives": "knives",
}  # fmt: skip

_DETERMINERS = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "my", "your", "our"),
        *("some", "any", "each", "every", "no", "another", "several", "many", "few"),
        *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    )
)


class Vocabulary:
    """Classes of objects and the words that name them.

    classes: by class, words beside its own name. others: expressions that begin like one of these and name no class.
    verbs: words that are more often verbs; they name something only right behind an article, another determiner or a number.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], others: Sequence[str] = (), verbs: Sequence[str] = ()):
        told = [(expression, None) for expression in others]
        told += [(word, name) for name, words in classes.items() for word in (name, *words)]
        # What is told goes before what is made of it: where "glasses" has a class, it is not the plural of "glass".
        made = [(form, name) for word, name in told for form in plurals(word)]
        self._named: dict[tuple[str, ...], str | None] = {}
        for expression, name in [*told, *made]:
            self._named.setdefault(_words(expression), name)
        self._verbs = {_words(form) for verb in verbs for form in (verb, *plurals(verb))}
        self._longest = max(map(len, self._named), default=1)

    @classmethod
    def read(cls, path: str) -> Self:
        """From a file in the layout of CHAIR's `synonyms.txt`: a line a class, its words with commas, the name first."""
        file = Path(path)
        if not file.is_file():
            raise UserError(f"no such file: {path}")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        rows = [[word.strip() for word in line.split(",")] for line in lines]
        return cls({row[0]: row[1:] for row in rows if row[0]}, NO_OBJECTS)

    def class_of(self, name: str) -> str:
        """The class that a word or expression names. Raises UserError for one that names none."""
        found = self._named.get(_words(name))
        if found is None:
            raise UserError(f"'{name}' is no object of the vocabulary: add it to the file of `synonyms`")
        return found

    def mentions(self, text: str) -> list[str]:
        """The class of every object that a text names, as often as it does."""
        words, at = _words(text), 0
        found: list[tuple[tuple[str, ...], str]] = []
        while at < len(words):
            size = next((n for n in range(self._longest, 0, -1) if words[at : at + n] in self._named), 1)
            said, before, following = (
                words[at : at + size],
                words[max(0, at - 1) : at],
                words[at + size : at + size + 1],
            )
            named = self._named.get(said)
            if named and not self._acts(said, before) and not self._modifies(words[at], following):
                found.append((said, named))
            at += size
        in_toilet = any(named == "toilet" for _, named in found)
        return [named for said, named in found if not (in_toilet and said in (("seat",), ("seats",)))]

    def _acts(self, said: tuple[str, ...], before: tuple[str, ...]) -> bool:
        """Whether a word is a verb here."""
        return said in self._verbs and not _DETERMINERS.intersection(before)

    def _modifies(self, word: str, following: tuple[str, ...]) -> bool:
        """Whether a word says of which kind the next thing is, and names none itself."""
        named = self._named.get(following)
        return (word in ("baby", "adult") and named in ANIMALS) or (word == "passenger" and named in VEHICLES)


def plurals(expression: str) -> list[str]:
    """An expression with its last word in the plural, in the ways that there may be."""
    before, space, word = expression.rpartition(" ")
    return [f"{before}{space}{form}" for form in _plurals(word)]


def _plurals(word: str) -> Sequence[str]:
    if word in _IRREGULAR:
        return [_IRREGULAR[word]]
    if word.endswith("man") and word != "human":
        return [f"{word[:-2]}en"]
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return [f"{word}es"]
    if re.search(r"[^aeiou]y$", word):
        return [f"{word[:-1]}ies"]
    if re.search(r"[^aeiou]o$", word):  # tomatoes, but pianos
        return [f"{word}es", f"{word}s"]
    if found := re.fullmatch(r"(.*[^f])fe?", word):  # shelves, but roofs
        return [f"{found[1]}ves", f"{word}s"]
    return [f"{word}s"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z]+", text.lower()))
