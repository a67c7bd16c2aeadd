#!/usr/bin/env python3
"""Write what transformers' CLIPTokenizer makes of many texts, under several ways to write its files.

    tokenizer.py CLIP_FOLDER models/tiny-scenes/tokenizer crates/diffusion/tests/goldens/tokenizer.json [--many N]

CLIP_FOLDER has CLIP's vocab.json and merges.txt. --many adds N random texts and every code point, for a comparison that is not committed.
Made with transformers 5.23.0 and tokenizers 0.23.3.
"""
import argparse
import json
import pathlib
import random
import shutil
import tempfile

from transformers import CLIPTokenizer

END, BEGIN = "<|endoftext|>", "<|startoftext|>"
TEXTS = [
    "", " ", "\n\t ", "a", "A photo of a CAT", "a red circle on a blue background", "beautiful sunset, mountains, 8k, trending on artstation",
    "it's the dog's; we've they'll I'd I'm you're don't can't", "IT'S THE DOG'S WE'VE", "''s '' 's' 't't 'll'll rock'n'roll 'S 'RE", "!'s !'ve x's've",
    "(masterpiece:1.2), [[best]] {quality}", "12345 3.14 1,000,000 x2 2x ½ ² Ⅷ ٣ ৪", "!!! hello!", "wow!!!!!!??!?!", "a!b!c", "... --- *** ///",
    "café naïve jalapeño", "cafe\u0301 nai\u0308ve", "A\u030a \u212b \u00c5", "e\u0301\u0301\u0327", "q\u0323\u0307 q\u0307\u0323", "İstanbul ıIiİ", "ΣΑΣ ὈΔΥΣΣΕΎΣ σς",
    "straße STRASSE ẞ", "Ǆ ǅ ǆ ﬁ ﬀ", "Привет, мир! Ёлка ёж й", "日本語のプロンプト、猫。", "中文提示词：一只猫", "한국어 프롬프트 각 \u1100\u1161\u11a8", "العَرَبِيَّة مرحبا",
    "हिन्दी क्षत्रिय नमस्ते", "ไทย สวัสดี", "עברית שָׁלוֹם", "👍 👍🏽 👩‍👩‍👧‍👦 🇯🇵 ❤️ 🏳️‍🌈", "a👍b", "™©®€£¥§¶†‡•", "zero\u200bwidth\u200djoin\ufeffbom", "nb\u00a0sp\u2003em\u3000ideo\u2028line",
    "tab\tnew\nline\r\nret\x0bvt\x0cff\x85nel", "\x00\x01\x02 \x1f\x7f\x80\x9f", "\u180e\u2060\u200e\u061c", "\x1c\x1d\x1e\x1f", "soft\u00adhyphen", "𝓗𝓮𝓵𝓵𝓸 𝟘𝟙 𐍈 𠜎", "\U0010ffff\ue000\ufffd\uffff",
    f"a {END} b", f"{BEGIN}cat", f"{END}{END}", f"a{END}b{BEGIN}c", f"  {END}  x  {BEGIN}  ", "a<|ENDOFTEXT|>b", "<|EndOfText|>!", "!<|endoftext|>!", "!<|STARTOFTEXT|>!", "<|endoftext|", "<|endoftext|>>|", "<<|endoftext|>",
    "<|end\u00a0oftext|>", "<|endoftext|>'s", "word</w> </w> </W>", "\\n \\\" \"quoted\" 'single'", "a_b-c+d=e~f`g^h", "http://example.com/x?y=1&z=%20#f", "CamelCaseWORDS mixedUP123abc",
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "a" * 300, "ab" * 150, "x" * 63 + " " + "y" * 64, "pneumonoultramicroscopicsilicovolcanoconiosis" * 4, "é" * 100, "漢" * 60, "!" * 90, "?!" * 60,
    "the quick brown fox jumps over the lazy dog " * 12, "1" * 80, "'s" * 40, "\u0301\u0301 a", "a\u0334\u0301", "\u0f71\u0f72\u0f74", "\u1e9b\u0323", "\u0344 \u037e \u0387 \u1fef \u2126", "\ufb1d\ufb2a \u2adc",
]


def added(content, **flags):
    return dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False) | flags


def forms(pad):
    text = dict(bos_token=BEGIN, eos_token=END, unk_token=END, pad_token=pad)
    old = {k: added(text[k], normalized=True) for k in ("bos_token", "eos_token", "unk_token")} | dict(pad_token=pad)
    typed = {k: v if isinstance(v, str) else v | {"__type": "AddedToken"} for k, v in old.items()}
    number = lambda start, end: {str(start): added(BEGIN, normalized=True, special=True), str(end): added(END, special=True)}
    yield "strings", lambda n: {"tokenizer_config.json": text, "special_tokens_map.json": text}
    yield "objects", lambda n: {"tokenizer_config.json": typed, "special_tokens_map.json": old}
    yield "config-objects", lambda n: {"tokenizer_config.json": typed}
    yield "nothing", lambda n: {}
    yield "map-only", lambda n: {"special_tokens_map.json": {k: added(v) for k, v in text.items()}}
    yield "decoder", lambda n: {"tokenizer_config.json": text | {"added_tokens_decoder": number(n - 2, n - 1) | ({"0": added("!", special=True)} if pad == "!" else {})}, "special_tokens_map.json": old}
    yield "strip", lambda n: {"special_tokens_map.json": dict(eos_token=added(END, lstrip=True, rstrip=True), bos_token=added(BEGIN, rstrip=True, normalized=True), pad_token=pad)}
    yield "single", lambda n: {"special_tokens_map.json": dict(eos_token=added(END, single_word=True), bos_token=added(BEGIN, single_word=True, normalized=True), unk_token=added(END, single_word=True), pad_token=added(pad, single_word=True))}
    yield "extra", lambda n: {"tokenizer_config.json": text | dict(additional_special_tokens=["<cat-toy>", "The Style"]), "added_tokens.json": {"<cat-toy>": n, "The Style": n + 1, "plain": n + 2}}


def random_text(rng):
    pools = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " \t\n\u00a0\u3000", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", "'", "\u0300\u0301\u0308\u0323\u0327\u0334",
             "éñüßİıſKÅΣσςДж", "日本語中文한국어각", "👍❤️\u200d🏽", "\x00\x07\x1f\x7f\x85\u200b"]
    parts = []
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.12:
            parts.append(rng.choice([END, BEGIN, END.upper(), "'s", "'ll", "'Re", "!", " ", "<|", "|>"]))
        elif rng.random() < 0.1:
            parts.append("".join(chr(rng.choice([*range(0xd800), *range(0xe000, 0x30000)])) for _ in range(rng.randint(1, 4))))
        else:
            pool = rng.choice(pools)
            parts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 10))))
    return "".join(parts)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("clip"); ap.add_argument("tiny"); ap.add_argument("out"); ap.add_argument("--many", type=int, default=0)
    a = ap.parse_args()
    rng = random.Random(0)
    texts = TEXTS + [random_text(rng) for _ in range(120)]
    done = []
    for vocabulary, source in (("clip", a.clip), ("tiny-scenes", a.tiny)):
        for pad in (END, "!"):
            for form, files in forms(pad):
                if vocabulary == "clip" and form != "strings":
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    folder = pathlib.Path(folder)
                    for name in ("vocab.json", "merges.txt"):
                        shutil.copy(pathlib.Path(source) / name, folder)
                    written = files(len(json.load(open(folder / "vocab.json"))))
                    for name, content in written.items():
                        (folder / name).write_text(json.dumps(content))
                    tokenizer = CLIPTokenizer.from_pretrained(folder)
                plain = form == "strings"
                mine = texts if plain and vocabulary == "clip" else [t for t in TEXTS if "<" in t or "!" in t] + ["a <cat-toy> b", "in the  STYLE of the style", "plain plains Plain"]
                if a.many and plain:
                    mine = mine + [random_text(rng) for _ in range(a.many)] + ["".join(f"a{chr(c)}b " for c in range(s, s + 64) if not 0xd800 <= c < 0xe000) for s in range(0, 0x110000, 64)]
                ids = lambda text: tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
                done.append(dict(name=f"{vocabulary} {form} {pad}", vocabulary=vocabulary, files={k: json.dumps(v) for k, v in written.items()},
                                 special=[tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id], cases=[[t, ids(t)] for t in mine]))
    with open(a.out, "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(d, ensure_ascii=True, separators=(",", ":")) for d in done) + "\n]\n")


main()
