#!/usr/bin/env python3
"""A GGUF of Llama's architecture with random weights: a real size for speed, or a very small one for tests.

    random_gguf.py OUT --like llama-1b|small [--type f16|q8_0|q4_0] [--seed N]      (pip install gguf)

What it writes is noise. `llama-1b` has the shape of Llama 3.2 1B, whose speed it has. `small` is the model of the worker's tests:
its vocabulary is bytes, and it prefers printable ones.
"""
import argparse
import pathlib
import sys

import gguf
import numpy as np

SHAPES = {
    # width, layers, heads, groups, head, inner, vocabulary, context
    "llama-1b": (2048, 16, 32, 8, 64, 8192, 128256, 131072),
    "small": (64, 2, 2, 1, 32, 128, 288, 1024),
}
TYPES = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
SPECIAL = ["<|begin|>", "<|im_start|>", "<|im_end|>"]


def characters():
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    names = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}
    return [names[b] for b in range(256)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--like", choices=SHAPES, required=True)
    parser.add_argument("--type", choices=TYPES, default="f16")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    width, layers, heads, groups, head, inner, vocabulary, context = SHAPES[args.like]
    rng = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_name(f"random weights in the shape of {args.like}")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(FILE_TYPES[args.type])
    tokens = SPECIAL + characters()
    unused = vocabulary - len(tokens)
    # Of so many words each is as likely as any byte; what is written is to be seen.
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * 256
    kinds += [gguf.TokenType.UNUSED if args.like == "small" else gguf.TokenType.NORMAL] * unused
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + [f"[unused{i}]" for i in range(unused)])
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)

    def matrix(name, rows, columns, std=0.02, weights=None):
        data = rng.standard_normal((rows, columns), dtype=np.float32) * std if weights is None else weights
        kind = TYPES[args.type]
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        print(name, file=sys.stderr)

    def norm(name):
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    matrix("token_embd.weight", vocabulary, width, 1.0 if args.like == "small" else 0.02)
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight")
        std = 1 / np.sqrt(width) if args.like == "small" else 0.02
        matrix(f"blk.{i}.attn_q.weight", heads * head, width, std)
        matrix(f"blk.{i}.attn_k.weight", groups * head, width, std)
        matrix(f"blk.{i}.attn_v.weight", groups * head, width, std)
        matrix(f"blk.{i}.attn_output.weight", width, heads * head, std)
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.ffn_gate.weight", inner, width, std)
        matrix(f"blk.{i}.ffn_up.weight", inner, width, std)
        matrix(f"blk.{i}.ffn_down.weight", width, inner, std)
    norm("output_norm.weight")
    if args.like == "small":
        # Printable bytes are likely, all others never are but where a grammar wants them.
        weights = np.zeros((vocabulary, width), dtype=np.float32)
        printable = [len(SPECIAL) + byte for byte in range(32, 127)]
        weights[printable] = rng.standard_normal((len(printable), width), dtype=np.float32) * 0.5
        matrix("output.weight", vocabulary, width, weights=weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(args.out, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
