"""Which words after a number are its unit, and which units are the same."""

from __future__ import annotations

import re

_SAME = """
cm centimeter centimetre; mm millimeter millimetre; m meter metre; km kilometer kilometre; dm decimeter
decimetre; in inch inches; ft foot feet; yd yard; mi mile; nm nanometer nanometre; g gram gramme; kg kilogram
kilogramme kilo; mg milligram; lb pound lbs; oz ounce; ton tonne; l liter litre L; ml milliliter millilitre mL;
gal gallon; qt quart; pt pint; cup; tablespoon tbsp; teaspoon tsp; cc; s sec second; min minute mins; h hr hour
hrs; day; week wk; month; year yr; decade; century centuries; ms millisecond; dollar USD buck; cent; euro EUR €;
pound_sterling £; yuan RMB 元; rupee; yen; peso; coin; penny pennies; quarter_coin; deg degree; rad radian; mph;
kph; Hz hertz; J joule; kJ kilojoule; W watt; kW; V volt; A ampere amp; N newton; Pa pascal; K kelvin; C; mol
mole; sq_unit; unit; point; percent; person people persons 人; student pupil; child children kid; man men; woman
women; boy; girl; friend; worker; member; apple; orange; banana; egg; book 本; page; ball; marble; card; coin;
toy; pencil; pen; cookie; candy candies; cake; pie; slice; piece; bag; box boxes; bottle; can; ticket; car; bus
buses; bike; dog; cat; bird; fish fishes; chicken; cow; sheep; flower; tree; plant; house; room; table; chair;
seat; row; step; stair; hole; block; tile; square; triangle; circle; cube; item; thing; object; pair; set;
group; team; game; round; time; way; solution; root; digit; number; integer; vertex vertices; edge; face; side;
diagonal; subset; element; function; pattern; path; route; word; letter; sequence; pizza; sandwich; sandwiches;
glass glasses; jar; crate; shirt; shoe; dress dresses; lap; mark; vote; song; question; problem; trip; stamp;
sticker; bead; photo picture; message; call; email; post; gift present;
个; 种; 天; 小时; 分钟; 米; 厘米; 平方厘米; 千米; 克; 千克
"""
_CANONICAL = {word: group.split()[0] for group in _SAME.split(";") for word in group.split()}
_FILLERS_WORDS = """
of per a an the each in total altogether long wide high tall deep old apart away every only
"""
_FILLERS = frozenset(_FILLERS_WORDS.split())
_POWERS = {"square": "2", "squared": "2", "sq": "2", "sq.": "2", "cubic": "3", "cubed": "3"}
_COMPOUND = {"mi/h": "mph", "km/h": "kph", "kmh": "kph"}
_TOKEN = re.compile(r"[A-Za-z]+\.?|[^\W\d_a-zA-Z]+|€|£|\^\s*\{?\s*-?\d\s*\}?|/|\\cdot|·|-(?=[A-Za-z])|\S")
_COUNTED = re.compile(
    r"(.*[\d}])\s*(?:\\(?:text|mbox|textrm|mathrm)\s*\{\s*([A-Za-z][A-Za-z' -]*)\}|\s([A-Za-z][A-Za-z' -]*))"
)
_FUNCTION_WORD_LIST = """
or and more less least most than not no is are was were be if when only but to from at about approximately between
for with without possible impossible because any all some other others either neither both
halves thirds fourths fifths sixths sevenths eighths ninths tenths twelfths hundredths thousandths millionths tens
plus minus times negatives
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())


def counted(answer: str, question: str) -> tuple[str, str]:
    """(number, what is counted) of an answer such as 12 eggs; (answer, "") of others.

    Counted is what the question names, or one word in the plural.
    """
    match = _COUNTED.fullmatch(answer)
    if match is None:
        return answer, ""
    words = (match[2] or match[3]).lower().split()
    if not words or _FUNCTION_WORDS.intersection(words) or canonical_unit(" ".join(words)) is not None:
        return answer, ""
    named = {_stem(word) for word in re.findall("[a-z]+", question.lower())}
    plural = len(words) == 1 and len(words[0]) > 3 and words[0].endswith("s")
    if not plural and any(_stem(word) not in named for word in words):
        return answer, ""
    return match[1], " ".join(map(_stem, words))


def _stem(word: str) -> str:
    word = word.strip("'-")
    return re.sub("(?:ies|es|s|y|e)$", "", word) if len(word) > 3 else word


def canonical_unit(words: str) -> str | None:
    """One spelling for each unit (`centimeters squared` is cm^2); None if the words are no unit.

    Fillers, as in `dollars per day` and `5 apples in total`, are part of it.
    """
    parts: list[str] = []
    power, named = "", False
    for token in _TOKEN.findall(words.strip().rstrip(".")):
        word = token.rstrip(".")
        if word.lower() in _POWERS and (parts or word.lower() != "squared"):
            if parts and word.lower().endswith("ed"):
                parts.append("^" + _POWERS[word.lower()])
            else:
                power = "^" + _POWERS[word.lower()]
        elif (unit := _unit(word)) is not None:
            parts.append(unit + power)
            power, named = "", True
        elif token.startswith("^"):
            parts.append("^" + re.sub(r"[^\d-]", "", token))
        elif token in ("/", "-", r"\cdot", "·") or word.lower() in _FILLERS:
            parts.append("/" if token == "/" or word.lower() in ("per", "each", "every") else "")
        else:
            return None
    joined = "".join(parts)
    return _COMPOUND.get(joined, joined) if named else None


def _unit(word: str) -> str | None:
    for form in (word, word.lower() if len(word) > 2 else word):
        for stem in (form, form[:-1] if form.endswith("s") and len(form) > 2 else form):
            if stem in _CANONICAL:
                return _CANONICAL[stem]
    return None
