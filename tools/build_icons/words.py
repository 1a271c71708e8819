"""English for captions: articles, plurals, which words are words."""

import re
from functools import cache

from wordfreq import zipf_frequency

PREPOSITIONS = {
    "with", "of", "in", "on", "at", "from", "for", "under", "behind", "without", "to", "over", "above",
    "near",
    "around", "between", "into", "across", "through", "as", "and", "or", "by",
}  # fmt: skip
PEOPLE = {
    "person",
    "people",
    "men",
    "women",
    "man",
    "woman",
    "face",
    "boy",
    "girl",
    "hand",
    "index",
    "child",
    "baby",
    "couple",
    "cat",
    "bear",
}
MASS = {
    "rice", "bread", "cheese", "sushi", "bacon", "money", "clothing", "fire", "snow", "fog", "rain",
    "music", "soccer",
    "tennis", "golf", "hockey", "football", "basketball", "baseball", "softball", "volleyball",
    "cricket", "yoga",
    "hair", "soap", "salt", "butter", "honey", "milk", "sake", "garlic", "ginger", "broccoli", "corn",
    "popcorn",
    "fishing", "skiing", "surfing", "water", "sand", "love", "justice", "furniture", "luggage", "grass",
    "wheat",
    "chess", "poker", "karate", "judo", "smoke", "paper", "wood", "jazz", "spaghetti", "pasta",
    "sunshine", "ice",
    "tofu", "seafood", "food", "meat", "beef", "pork", "lightning", "weather", "electricity", "traffic",
    "coffee",
    "beer", "wine", "tea", "bubble tea", "mistletoe", "holly", "ivy", "aerobics", "mathematics", "physics",
    "beyblade", "lacrosse", "roller skating", "stick and ball", "stick and puck", "pantyhose",
    "underwear", "toast", "ice cream", "juggling", "knitting",
}  # fmt: skip
SINGULAR_S = {
    "bus", "glass", "dress", "compass", "cactus", "octopus", "lens", "gas", "canvas", "christmas",
    "iris", "walrus",
    "hibiscus", "abacus", "virus", "cross", "princess", "boss", "lotus", "crocus", "menorah", "platypus",
    "circus",
    "hippopotamus", "asparagus", "mattress", "fleur-de-lis", "papyrus", "campus", "harness", "hostess",
    "waitress",
    "stylus", "chassis", "class", "kiss", "business", "press", "crocs", "abs", "us", "canvass",
    "brontosaurus",
    "stegosaurus", "tyrannosaurus", "hummus", "citrus", "rhinoceros", "fortress", "duchess", "actress",
    "albatross",
    "chris", "paris", "texas", "jesus", "mars", "uranus", "venus", "eris", "molasses", "caduceus",
    "santa claus",
}  # fmt: skip
PLURALS = {
    "people",
    "men",
    "women",
    "children",
    "teeth",
    "feet",
    "geese",
    "mice",
    "lice",
    "hooves",
    "dice",
    "fireworks",
}
PAIRS = {
    "scissors", "glasses", "pants", "jeans", "pliers", "binoculars", "tweezers", "shorts", "sunglasses",
    "trousers",
    "headphones", "tongs", "chopsticks", "goggles",
}  # fmt: skip
COLOURS = {
    "black",
    "white",
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "brown",
    "gray",
    "grey",
}
PROPER = (
    "mount fuji",
    "mount hood",
    "tokyo tower",
    "santa claus",
    "mrs. claus",
    "st.",
    "van gogh",
    "africa",
    "europe",
)
THE = {"white house", "sun", "moon", "earth", "moon phases"}
VOWEL_EXCEPTIONS = ("uni", "use", "euro", "one", "ufo", "uk", "us ", "u-", "ukulele", "utensil", "urin")
SILENT_H = ("hour", "honest", "heir", "herb ")
DETERMINERS = {
    "half",
    "a", "an", "the", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "some",
    "no", "my", "many",
    "several",
}  # fmt: skip


@cache
def frequency(word: str) -> float:
    """How common a word is in English (Zipf scale, 0 = unknown)."""
    return float(zipf_frequency(word, "en"))


def known(word: str, floor: float = 2.3) -> bool:
    """Whether a word is English, directly or as a plural or a joined compound."""
    if frequency(word) >= floor:
        return True
    if word.endswith("s") and frequency(word[:-1]) >= floor:
        return True
    return any(
        len(word) > 6 and min(frequency(word[:i]), frequency(word[i:])) >= 3.6
        for i in range(3, len(word) - 2)
    )


def head_of(name: str) -> str:
    """The noun that decides about the article."""
    words = name.lower().split()
    for index, word in enumerate(words):
        if word == "and" and words[index - 1] in COLOURS:
            continue
        if index and word in PREPOSITIONS:
            return words[index - 1]
        if index and word.endswith("ing") and words[index - 1] in PEOPLE and word != "ring":
            return words[index - 1]
    return words[-1]


def is_plural(word: str) -> bool:
    """Whether a noun is plural by its form."""
    if word in PLURALS:
        return True
    return (
        word.endswith("s")
        and not word.endswith(("ss", "us", "is", "'s"))
        and word not in SINGULAR_S
        and len(word) > 3
    )


def with_article(name: str) -> str:
    """A noun phrase as it stands in a sentence."""
    words = name.lower().split()
    lowered = " ".join(words)
    if words[0] in DETERMINERS or f"{lowered} ".startswith(tuple(f"{start} " for start in PROPER)):
        return name
    if lowered in THE or lowered.startswith(("statue of", "eiffel tower", "us capitol")):
        return f"the {name}"
    head = head_of(name)
    if head in PAIRS and head == words[-1] and words[0] != "pair":
        return f"a pair of {name}"
    if is_plural(head):
        return f"some {name}" if len(words) == 1 else name
    if head in MASS or lowered in MASS:
        return f"some {name}" if len(words) == 1 and not head.endswith("ing") else name
    if (
        len(words) == 1
        and head.endswith("ing")
        and head not in {"ring", "wing", "king", "building", "string", "swing"}
    ):
        return name
    return f"{indefinite(name)} {name}"


def indefinite(name: str) -> str:
    """a or an."""
    lowered = name.lower()
    if lowered.startswith(SILENT_H):
        return "an"
    if lowered[0] in "aeiou" and not lowered.startswith(VOWEL_EXCEPTIONS):
        return "an"
    first = lowered.split()[0]
    if re.fullmatch(r"[fhlmnrsx](-.*)?|[fhlmnrsx]\d+|x-ray", first):
        return "an"
    return "a"


def singular(word: str) -> str:
    """A rough singular."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    return word[:-1] if is_plural(word) and word not in PLURALS else word
