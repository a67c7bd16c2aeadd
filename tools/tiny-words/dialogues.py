#!/usr/bin/env python3
"""Made conversations about the little scenes that tiny-scenes paints: somebody asks for a picture, the answer is its caption.

Captions come out of the grammar of `../tiny-scenes/scenes.py` itself, so that an answer is a prompt which that model knows.
Run alone it prints forty conversations.
"""
import pathlib
import random
import re
import sys
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tiny-scenes"))
from scenes import COLORS, SHAPES, TERRAINS, TIMES, Scene

ASKED = """Describe a picture of {}|Describe {}|Describe a painting of {}|Describe an image of {}|Describe a scene with {}|Write a
    prompt for a picture of {}|Write a prompt: {}|A picture of {}|A picture of {}, please|Paint {}|Draw {}|Draw me {}|I want a picture of
    {}|I would like to see {}|Show me {}|Tell me about a picture of {}|Imagine {}|Can you describe {}?|What does a picture of {} look
    like?|Give me {}|Make a picture of {}|Create an image of {}|Please describe a picture of {}|Suggest a picture with {}|{}"""
ASKED = [re.sub(r"\s+", " ", form).strip() for form in ASKED.split("|")]
ANYTHING = """Describe a picture|Describe a picture of something|Surprise me|Paint something|Draw anything|Hello|Hi|What can you paint?|What
    should I paint?|Give me a prompt|Write a prompt|Another one|One more|Tell me something|Anything|What do you see?"""
ANYTHING = [re.sub(r"\s+", " ", form).strip() for form in ANYTHING.split("|")]
LANDSCAPES = ["a landscape", "a little landscape", "a scene", "nature", "a view", "the outdoors"]
FIGURES = ["a shape", "some shapes", "something simple", "a coloured shape", "geometry", "a figure"]
# Other words that people have for what the scenes hold; the answer says it in the scenes' own.
WHEN = {
    "day": ["on a sunny day", "on a clear day", "during the day", "in the morning", "at noon", "at day", "in the sun"],
    "sunset": ["at sunset", "in the evening", "at dusk", "when the sun sets"],
    "night": ["at night", "in the moonlight", "on a moonlit night", "under the moon", "by night"],
}
WHEN_ALONE = {
    "day": ["a sunny day", "a clear day", "the morning", "daylight", "a day"],
    "sunset": ["a sunset", "the evening", "the sunset", "dusk"],
    "night": ["the night", "a moonlit night", "night", "the moon", "moonlight", "the night sky"],
}
WHERE = {
    "mountains": ["mountains", "the mountains", "a mountain", "peaks"],
    "snowy mountains": ["snowy mountains", "the snowy mountains", "snow", "winter", "mountains with snow"],
    "hills": ["hills", "the hills", "green hills", "a meadow", "the countryside"],
    "sea": ["the sea", "the ocean", "the sea", "water", "waves", "the seaside"],
    "desert": ["the desert", "a desert", "dunes", "sand"],
}
THINGS = {
    "a boat": (["sea"], ["a boat", "a ship", "a sailing boat", "the boat"]),
    "a house": (["mountains", "snowy mountains", "hills"], ["a house", "a cottage", "the house", "a home"]),
    "a tree": (["mountains", "snowy mountains", "hills"], ["a tree", "the tree", "a forest"]),
    "a cactus": (["desert"], ["a cactus", "the cactus", "cacti"]),
    "clouds": (TERRAINS, ["clouds", "a cloud", "a cloudy sky"]),
}


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def landscape(rng, wanted=None):
    """What was asked for, and a scene's caption that has it. `wanted` is what an earlier turn fixed."""
    wanted = dict(wanted or {})
    parts = []
    if not wanted:
        kinds = rng.choice([("where", "when"), ("where", "when"), ("where", "when"), ("where",), ("when",), ("thing",), ("thing", "when"), ("thing", "where"), ("where", "thing", "when"), ()])
        thing = rng.choice(list(THINGS)) if "thing" in kinds else None
        where = rng.choice(THINGS[thing][0] if thing else TERRAINS)
        when = rng.choice([t for t in TIMES if not (thing == "clouds" and t == "night")])
        if "where" in kinds:
            wanted["where"] = where
            parts.append(rng.choice(WHERE[where]))
        if thing:
            wanted["thing"] = thing
            word = rng.choice(THINGS[thing][1])
            parts = [parts[0] + " with " + word] if parts and rng.random() < 0.6 else [word + rng.choice([" on ", " in ", " and "]) + parts[0]] if parts else [word]
        if "when" in kinds:
            wanted["when"] = when
            parts = [parts[0] + " " + rng.choice(WHEN[when])] if parts else [rng.choice(WHEN_ALONE[when])]
            if len(kinds) > 1 and rng.random() < 0.2 and "where" in kinds and not thing:
                parts = [rng.choice(WHEN_ALONE[when]) + rng.choice([" over ", " at ", " in "]) + rng.choice(WHERE[where])]
        if not kinds:
            parts = [rng.choice(LANDSCAPES)]
    return (parts[0] if parts else ""), wanted, caption(rng, wanted)


def caption(rng, wanted):
    """A caption of the scenes' grammar with everything that is wanted in it."""
    thing = wanted.get("thing")
    while True:
        time = wanted.get("when") or rng.choice([t for t in TIMES if not (thing == "clouds" and t == "night")])
        terrain = wanted.get("where") or rng.choice(THINGS[thing][0] if thing else TERRAINS)
        extras = [thing] if thing else []
        for other, (places, _) in THINGS.items():
            if other != thing and terrain in places and rng.random() < 0.15 and not (other == "clouds" and time == "night") and len(extras) < 2:
                extras.append(other)
        text = Scene.caption(types.SimpleNamespace(rng=rng, time=time, terrain=terrain, extras=extras))
        # The grammar also makes "calm the sea"; an answer is to be English.
        if not re.search(r"(beautiful|calm|peaceful) (the|a) ", text):
            return text


def figure(rng):
    """The same of one or two shapes on a plain background."""
    kinds = rng.choice([("color", "shape"), ("color", "shape"), ("color", "shape", "ground"), ("color", "shape", "ground"), ("shape",), ("color",), ("ground",), ("size", "color", "shape"), ("two",), ("two", "ground"), ()])
    ground, color = rng.sample(list(COLORS), 2)
    shape = rng.choice(SHAPES)
    size = rng.choice(["small", "large"]) if "size" in kinds else rng.choice(["", "", "", "small", "large"])
    if "two" in kinds:
        other, second = rng.choice([c for c in COLORS if c != ground]), rng.choice(SHAPES)
        asked = f"{article(color + ' ' + shape)} and {article(other + ' ' + second)}"
        text = f"{asked} on a {ground} background"
    else:
        words = [w for w in (size, color, shape) if w]
        text = f"{article(' '.join(words))} on a {ground} background"
        asked = [w for w, k in ((size, "size"), (color, "color"), (shape, "shape")) if k in kinds]
        if kinds == ("color",):
            asked = rng.choice([f"something {color}", f"a {color} shape", color])
        else:
            asked = article(" ".join(asked)) if asked else ""
    if "ground" in kinds:
        on = rng.choice([f"on a {ground} background", f"on {ground}", f"with a {ground} background"])
        asked = f"{asked} {on}" if asked else rng.choice([f"something {on}", f"a {ground} background"])
    fix = lambda t: re.sub(r"\ba (?=orange )", "an ", t)
    return fix(asked or rng.choice(FIGURES)), fix(text)


def ask(rng, topic):
    text = rng.choice(ASKED).format(topic)
    if not text.endswith("?"):
        text += rng.choice([".", ".", ".", "", "!"])
    return text[0].upper() + text[1:] if rng.random() < 0.85 else text


def follow_up(rng, wanted):
    """A second question that changes one thing of the first picture."""
    wanted = dict(wanted)
    if rng.random() < 0.6:
        wanted["when"] = rng.choice([t for t in TIMES if not (wanted.get("thing") == "clouds" and t == "night")])
        asked = rng.choice(["And {}?", "Now {}.", "The same {}.", "{}, please."]).format(rng.choice(WHEN[wanted["when"]]))
    else:
        things = [t for t, (places, _) in THINGS.items() if wanted.get("where") in places and not (t == "clouds" and wanted.get("when") == "night")]
        if not things:
            return None
        wanted["thing"] = rng.choice(things)
        asked = rng.choice(["And with {}?", "Now with {}.", "Add {}.", "The same with {}."]).format(rng.choice(THINGS[wanted["thing"]][1]))
    return asked[0].upper() + asked[1:], wanted, caption(rng, wanted)


def conversation(rng):
    """Turns of (question, answer)."""
    turns, wanted = [], None
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        more = follow_up(rng, wanted) if wanted and rng.random() < 0.5 else None
        if more:
            asked, wanted, answer = more
        elif rng.random() < 0.08:
            asked = rng.choice(ANYTHING)
            asked += "" if asked.endswith("?") else rng.choice([".", "", "!"])
            wanted, answer = None, landscape(rng)[2] if rng.random() < 0.6 else figure(rng)[1]
        elif rng.random() < 0.62:
            topic, wanted, answer = landscape(rng)
            asked = ask(rng, topic)
        else:
            wanted = None
            topic, answer = figure(rng)
            asked = ask(rng, topic)
        turns.append((asked, answer))
    return turns


if __name__ == "__main__":
    rng = random.Random(1)
    for _ in range(40):
        for asked, answer in conversation(rng):
            print(f"{asked}  ->  {answer}")
