#!/usr/bin/env python3
"""Write CLIP's merges as pairs of 16-bit token numbers, the form in which crates/diffusion has them built in.

    clip_merges.py bpe_simple_vocab_16e6.txt.gz crates/diffusion/src/tokenizer/clip_merges.bin

The input is https://github.com/openai/CLIP/blob/main/clip/bpe_simple_vocab_16e6.txt.gz (MIT licence).
"""
import gzip
import struct
import sys

printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
count = 256 - len(printing)
base = [chr(b) for b in printing] + [chr(256 + n) for n in range(count)]
vocab = {token: i for i, token in enumerate(base + [b + "</w>" for b in base])}
merges = gzip.open(sys.argv[1]).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
with open(sys.argv[2], "wb") as out:
    for merge in merges:
        a, b = merge.split()
        out.write(struct.pack("<HH", vocab[a], vocab[b]))
        assert a + b not in vocab
        vocab[a + b] = len(vocab)
