"""Names that read better than the first keyword of emojilib."""

import re

HAIR = {
    "1f9b0": "{} with red hair",
    "1f9b1": "{} with curly hair",
    "1f9b2": "bald {}",
    "1f9b3": "{} with white hair",
}
PERSON = {"1f468": "man", "1f469": "woman", "1f9d1": "person"}
FAMILY = {
    "1f468": "man",
    "1f469": "woman",
    "1f466": "boy",
    "1f467": "girl",
    "1f9d1": "adult",
    "1f9d2": "child",
}
BEARD = {
    "1f9d4": "person with a beard",
    "1f9d4-200d-2642": "man with a beard",
    "1f9d4-200d-2640": "woman with a beard",
}
NAMES = {
    **BEARD,
    "1f923": "face rolling on the floor laughing",
    "1f385": "Santa Claus",
    "1f936": "Mrs. Claus",
    "1f9d1-200d-1f384": "person dressed as Santa Claus",
    "1f5fb": "Mount Fuji",
    "1f5fc": "Tokyo Tower",
    "1f5fd": "Statue of Liberty",
    "1f5fe": "map of Japan",
    "1f44c": "hand making an OK sign",
    "1f44d": "thumbs up hand",
    "1f44e": "thumbs down hand",
    "1f645": "person gesturing no",
    "1f646": "person gesturing OK",
    "2620": "skull and crossbones",
    "1f3b1": "pool eight ball",
    "1f470-200d-2640": "woman with a veil",
    "1f470-200d-2642": "man with a veil",
    "1f470": "person with a veil",
    "1f935": "person in a tuxedo",
    "1f935-200d-2642": "man in a tuxedo",
    "1f935-200d-2640": "woman in a tuxedo",
    "1f48f": "kissing couple",
    "1f469-200d-2764-200d-1f48b-200d-1f468": "woman and man kissing",
    "1f468-200d-2764-200d-1f48b-200d-1f468": "two men kissing",
    "1f469-200d-2764-200d-1f48b-200d-1f469": "two women kissing",
    "1f491": "couple with a heart",
    "1f469-200d-2764-200d-1f468": "woman and man with a heart between them",
    "1f468-200d-2764-200d-1f468": "two men with a heart between them",
    "1f469-200d-2764-200d-1f469": "two women with a heart between them",
    "1f440": "pair of eyes",
    "1f453": "pair of glasses",
    "1f576": "pair of sunglasses",
    "1f456": "pair of jeans",
    "1fa73": "pair of shorts",
    "2702": "pair of scissors",
    "1f9e6": "pair of socks",
    "1f9e4": "pair of gloves",
    "1f962": "pair of chopsticks",
    "1f94a": "boxing glove",
    "1f4f5": "no mobile phones sign",
    "1f51e": "no one under eighteen sign",
    "1f6ad": "no smoking sign",
    "1f6af": "no littering sign",
    "1f6b1": "non-potable water sign",
    "1f6b3": "no bicycles sign",
    "1f6b7": "no pedestrians sign",
    "26d4": "no entry sign",
    "1f6ab": "prohibition sign",
    "1f6b0": "potable water sign",
    "1f6ae": "litter in bin sign",
    "1f6bb": "restroom sign",
    "1f6b9": "men's room sign",
    "1f6ba": "women's room sign",
    "1f6bc": "baby symbol",
    "1f6c2": "passport control sign",
    "1f6c3": "customs sign",
    "1f6c4": "baggage claim sign",
    "1f6c5": "left luggage sign",
    "1f4a4": "letters zzz for sleeping",
    "1f4a2": "anger symbol",
    "1f4a5": "explosion",
    "1f4a6": "sweat droplets",
    "1f4a8": "puff of dashing air",
    "1f4ab": "dizzy star",
    "1f411": "sheep",
    "1f30f": "globe showing Asia and Australia",
    "1f30d": "globe showing Europe and Africa",
    "1f30e": "globe showing the Americas",
    "1f47e": "alien monster",
    "1f6f8": "flying saucer",
    "1f3c2": "snowboarder",
    "26f7": "skier",
    "1f0cf": "joker playing card",
    "1f004": "mahjong tile with a red dragon",
    "1f3b4": "flower playing card",
    "1f4db": "name badge",
    "1f530": "Japanese symbol for a beginner",
    "2705": "white check mark on a green square",
    "2714": "heavy check mark",
    "274c": "red cross mark",
    "2611": "check box with a check mark",
    "1f6d0": "place of worship sign",
    "267f": "wheelchair symbol",
    "1f94d": "lacrosse stick and ball",
    "1f3d1": "field hockey stick and ball",
    "1f3d2": "ice hockey stick and puck",
    "1f3cf": "cricket bat and ball",
    "1f492": "wedding chapel with a heart",
    "1f3ad": "two theater masks",
    "1f3b3": "bowling ball and pins",
    "1f3c0": "basketball ball",
    "1f3d0": "volleyball ball",
    "26be": "baseball ball",
    "1f94e": "softball ball",
    "1f3be": "tennis racket and ball",
    "1f373": "egg frying in a pan",
    "1f9ca": "ice cube",
    "1f525": "burning flame",
    "1f9c2": "salt shaker",
    "1f94f": "flying disc",
    "26bd": "soccer ball",
    "1f3c8": "American football ball",
    "1f3c9": "rugby ball",
    "1f33b": "sunflower",
    "1f331": "green seedling",
    "1f405": "tiger",
    "1f3e3": "Japanese post office",
    "1f465": "two busts in silhouette",
    "1f3d5": "campsite with a tent",
    "1f305": "sunrise over the sea",
    "1f307": "sunset over buildings",
    "1f4cf": "straight ruler",
    "1f489": "syringe",
    "1f9bd": "manual wheelchair",
    "1f575": "detective",
}
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ARTICLES = (  # emojilib leaves the article out
    (r"\b(tipping|raising) hand\b", r"\1 a hand"), (r"\browing boat\b", "rowing a boat"),
    (r"\bbouncing ball\b", "bouncing a ball"), (r"\bfeeding baby\b", "feeding a baby"),
    (r"\bin suit levitating\b", "in a suit levitating"), (r"\bin lotus\b", "in the lotus"),
    (r"\bwearing turban\b", "wearing a turban"), (r"\bgetting (massage|haircut)\b", r"getting a \1"),
    (r"\bwith headscarf\b", "with a headscarf"), (r"\bwith probing cane\b", "with a white cane"),
    (r"\bwith white cane\b", "with a white cane"), (r"\bin (motorized|manual) wheelchair\b",
    r"in a \1 wheelchair"),
    (r"\btaking bath\b", "taking a bath"), (r"\bin tuxedo\b", "in a tuxedo"), (r"\bwith veil\b",
    "with a veil"),
    (r"\bin steamy room\b", "in a steamy room"), (r"\bwith skullcap\b", "with a skullcap"),
    (r"^(person|man|woman) (blond|red|curly|white) hair\b", r"\1 with \2 hair"), (r"\bok\b", "OK"),
    (r"\bbehind (large|small|rain|cloud)", r"behind a \1"), (r"a rain cloud", "a rain cloud"),
    (r"\b(\w+) s\b", r"\1's"), (r"\bjapanese\b", "Japanese"), (r"\bdavid\b", "David"), (r"\bamerican\b",
    "American"),
    (r"\bchristmas\b", "Christmas"), (r"^(woman|man|person) (dancing|walking)", r"\1 \2"),
)  # fmt: skip


def polished(name: str) -> str:
    """Articles, apostrophes, capitals and clock times that emojilib leaves out."""
    clock = re.fullmatch(r"(\w+) (o clock|thirty)", name)
    if clock and clock[1] in NUMBERS:
        return (
            f"clock showing {clock[1]} o'clock"
            if clock[2] == "o clock"
            else f"clock showing half past {clock[1]}"
        )
    for pattern, replacement in ARTICLES:
        name = re.sub(pattern, replacement, name)
    return name


def hair_name(code: str) -> str | None:
    """Names of hair styles and of families, which are spelled by their parts."""
    parts = [part for part in code.split("-") if part != "200d"]
    if len(parts) == 2 and parts[1] in HAIR and parts[0] in PERSON:
        return HAIR[parts[1]].format(PERSON[parts[0]])
    if len(parts) > 1 and all(part in FAMILY for part in parts):
        return "family of " + _listing([FAMILY[part] for part in parts])
    return None


def _listing(people: list[str]) -> str:
    counted: list[str] = []
    for person in dict.fromkeys(people):
        plural = {"man": "men", "woman": "women", "child": "children"}.get(person, f"{person}s")
        article = "an" if person[0] in "aeiou" else "a"
        counted.append(f"two {plural}" if people.count(person) > 1 else f"{article} {person}")
    return counted[0] if len(counted) == 1 else ", ".join(counted[:-1]) + " and " + counted[-1]
