#!/usr/bin/env python3
"""Learn a vocabulary and a small Llama from made conversations: tokenizer.json and model.pt.

    train.py [--steps N] [--work DIR] [--threads N] [--seed N]
"""
import argparse
import math
import pathlib
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dialogues import conversation
from model import VOCABULARY, Llama

BEGIN, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BATCH, POOL, LONGEST = 16, 16, 160
RATE, LAST_RATE = 3e-3, 1e-4
QUESTION_WEIGHT = 0.1


def learn_vocabulary(rng):
    """Byte-level BPE as GPT-2 has it, so that every text can be read and written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = (" ".join(part for turn in conversation(rng) for part in turn) for _ in range(20000))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN, TURN, END], initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def pieces(rng):
    """A conversation as (text, is an answer): as ChatML, or one question that is simply continued."""
    turns = conversation(rng)
    yield BEGIN, False
    if rng.random() < 0.25:
        asked, answer = turns[0]
        yield asked, False
        yield " " + answer + END, True
        return
    if rng.random() < 0.15:
        system = rng.choice(["You are a helpful assistant.", "You describe pictures.", "Be brief."])
        yield f"{TURN}system\n{system}{END}\n", False
    for asked, answer in turns:
        yield f"{TURN}user\n{asked}{END}\n{TURN}assistant\n", False
        yield answer + END, True
        yield "\n", False


def row(tokenizer, rng):
    """The tokens of a conversation, and how much each of them counts."""
    tokens, weights = [], []
    for text, answer in pieces(rng):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokens += ids
        weights += [1.0 if answer else QUESTION_WEIGHT] * len(ids)
    return tokens[:LONGEST], weights[:LONGEST]


def batches(tokenizer, rng):
    """Without end. Conversations of one length go together: mixed, more than half of what is computed would be padding."""
    while True:
        rows = sorted((row(tokenizer, rng) for _ in range(BATCH * POOL)), key=lambda row: len(row[0]))
        pool = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(pool)
        for chosen in pool:
            width = max(len(tokens) for tokens, _ in chosen)
            tokens = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in chosen])
            weights = torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in chosen])
            yield tokens, weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("work"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = learn_vocabulary(rng)
    tokenizer.save(str(args.work / "tokenizer.json"))
    model = Llama()
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    mean = None
    for step, (tokens, weight) in zip(range(1, args.steps + 1), batches(tokenizer, rng)):
        rate = LAST_RATE + (RATE - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 50)
        logits = model(tokens[:, :-1])
        losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        loss = (losses * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}  loss {mean:.3f}", flush=True)
        if step % 250 == 0:
            torch.save(model.state_dict(), args.work / "model.pt")
    torch.save(model.state_dict(), args.work / "model.pt")


if __name__ == "__main__":
    main()
