"""Class names: clip-art folders onto emoji sub-categories, small classes merged."""

from collections import Counter, defaultdict

from .words import singular

BY_NAME = "?"  # the name decides where an emoji sub-category is called so; what follows is the fallback
FOLDERS: dict[str, str] = {
    "animals": "?animal-mammal", "animals/amphibian": "animal-amphibian", "animals/birds": "animal-bird",
    "animals/bugs": "animal-bug", "animals/dinosaurs": "animal-reptile", "animals/fantasy": "?person-fantasy",
    "animals/fish": "animal-marine", "animals/mammals": "animal-mammal",
    "buildings": "?place-building", "buildings/furniture": "household", "buildings/homes": "place-building",
    "containers": "?household", "decorations": "ornament", "education": "?office",
    "education/books": "book-paper",
    "electronics": "?computer", "electronics/battery": "computer", "electronics/bulb": "light & video",
    "food": "?food-prepared", "food/beverages": "drink", "food/breads_and_carbs": "food-prepared",
    "food/dairy": "food-prepared", "food/desserts": "food-sweet", "food/fruit": "?food-fruit",
    "food/meats_and_eggs": "food-prepared", "food/vegetables": "food-vegetable",
    "geography": "?place-map", "geography/astronomy": "sky & weather", "office": "?office",
    "office/telephone": "phone", "people": "?person", "people/bodypart": "body-parts",
    "people/clothing": "clothing", "people/smilies": "face-smiling", "people/stickmen": "person-activity",
    "plants": "?plant-other", "plants/flowers": "plant-flower", "plants/trees": "plant-other",
    "recreation": "?arts & crafts", "recreation/art": "arts & crafts", "recreation/games": "?game",
    "recreation/holiday": "?event", "recreation/holiday/valentines": "heart",
    "recreation/holiday/christmas": "event", "recreation/music": "?musical-instrument",
    "recreation/party": "?event", "recreation/religion": "religion", "recreation/sports": "?sport",
    "recreation/toys": "?game", "science": "?science", "science/astronomy": "sky & weather",
    "science/medicine": "medical", "signs_and_symbols": "?other-symbol",
    "signs_and_symbols/awards": "award-medal",
    "signs_and_symbols/clocks": "time", "signs_and_symbols/hazard": "warning",
    "signs_and_symbols/map_symbols": "?transport-sign", "signs_and_symbols/money": "money",
    "signs_and_symbols/weather": "sky & weather", "tools": "?tool", "tools/weapons": "tool",
    "transportation": "?transport-ground", "transportation/aiga-symbols": "transport-sign",
    "transportation/boating": "transport-water", "transportation/roadsigns": "transport-sign",
    "transportation/vehicles": "?transport-ground", "unsorted": "?other-object",
}  # fmt: skip
MORE_NAMES = {
    "plane": "transport-air", "aircraft": "transport-air", "boat": "transport-water",
    "sailboat": "transport-water",
    "man": "person", "woman": "person", "lady": "person", "girl": "person", "boy": "person", "head": "person",
    "car": "transport-ground", "hummer": "transport-ground", "sedan": "transport-ground",
    "cake": "food-sweet",
    "ice cream": "food-sweet", "cone": "food-sweet", "candy": "food-sweet", "hat": "clothing",
    "cap": "clothing",
    "shoe": "clothing", "shirt": "clothing", "butterfly": "animal-bug", "bird": "animal-bird", "lizard":
    "animal-reptile", "frog": "animal-amphibian", "leaf": "plant-other", "tree": "plant-other",
    "rose": "plant-flower",
    "flower": "plant-flower", "fish": "animal-marine", "church": "place-religious", "lamp": "light & video",
    "lightbulb": "light & video", "phone": "phone", "flag": "other-symbol", "gun": "tool",
    "sign": "transport-sign", "cloud": "sky & weather", "heart": "heart", "clock": "time",
    "book": "book-paper",
    "pencil": "writing", "pen": "writing", "house": "place-building", "castle": "place-building",
    "note": "music",
    "seagull": "animal-bird", "crayfish": "animal-marine", "crawfish": "animal-marine",
    "toad": "animal-amphibian",
    "table": "household", "chair": "household", "skeleton": "person-fantasy", "knot": "transport-water",
    "padlock": "lock",
    "chef": "person-role", "wing": "body-parts", "pumpkin": "food-vegetable", "sunshine": "sky & weather",
    "rating": "other-symbol", "dulcimer": "musical-instrument", "card": "game", "piece": "game", "cloudy sky":
    "sky & weather", "map": "place-map", "cassette": "computer", "toy": "game", "monster": "person-fantasy",
    "apple": "food-fruit", "cherry": "food-fruit", "cow": "animal-mammal", "cat": "animal-mammal",
    "sun": "sky & weather",
    "angel": "person-fantasy", "devil": "person-fantasy", "fairy": "person-fantasy", "virus": "animal-bug",
    "envelope": "mail", "scissors": "office", "magnet": "tool", "arrow": "other-symbol",
    "grape": "food-fruit",
    "stone": "place-geographic", "hill": "place-geographic", "mountain": "place-geographic",
    "rock": "place-geographic",
}  # fmt: skip
NOT_BY_NAME = {
    "person",
    "symbol",
    "sign",
    "music",
    "light",
    "hole",
    "scroll",
    "key",
    "ring",
    "top",
    "man",
    "people",
}
NEAREST = {  # classes that stay small even after merging within their category
    "ornament": "other-symbol",
    "Smileys & Emotion (other)": "face-concerned",
    "Animals & Nature (other)": "animal-reptile",
}


def name_table(names: dict[str, str]) -> dict[str, str]:
    """Emoji names of one or two words -> sub-category, plus a small hand-made table."""
    table = {
        name: label for name, label in names.items() if len(name.split()) <= 2 and name not in NOT_BY_NAME
    }
    return table | MORE_NAMES


def clipart_label(folder: str, name: str, table: dict[str, str]) -> str:
    """The sub-category of a clip-art drawing by its folder and, where the folder is mixed, by its name."""
    while folder not in FOLDERS:
        folder = folder.rpartition("/")[0]
    label = FOLDERS[folder]
    if not label.startswith(BY_NAME):
        return label
    words = [singular(word) for word in name.lower().replace("-", " ").split()]
    for cut in ("with", "of", "in", "on", "for", "from"):
        if cut in words[1:]:
            words = words[: words.index(cut, 1)]
    for word in (" ".join(words[-2:]), words[-1]):
        if word in table:
            return table[word]
    return label.removeprefix(BY_NAME)


def merge_small(labels: dict[str, str], category_of: dict[str, str], minimum: int) -> dict[str, str]:
    """Concept -> final class: classes below the minimum join their category's rest, then the nearest one."""
    counts = Counter(labels.values())
    merged = {
        c: label if counts[label] >= minimum else f"{category_of[label]} (other)"
        for c, label in labels.items()
    }
    for _ in range(3):
        counts = Counter(merged.values())
        small = {label for label in counts if counts[label] < minimum}
        if not small:
            return merged
        merged = {
            c: _nearest(label, counts, category_of) if label in small else label
            for c, label in merged.items()
        }
    return merged


def _nearest(label: str, counts: Counter[str], category_of: dict[str, str]) -> str:
    if label in NEAREST and NEAREST[label] in counts:
        return NEAREST[label]
    category = label.removesuffix(" (other)")
    siblings: dict[str, int] = defaultdict(int)
    for other, count in counts.items():
        if other != label and category_of.get(other) == category:
            siblings[other] = count
    return max(sorted(siblings), key=lambda other: siblings[other]) if siblings else "Objects (other)"
