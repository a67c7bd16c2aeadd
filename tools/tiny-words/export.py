#!/usr/bin/env python3
"""Write what train.py made as GGUF: tiny-words.gguf.

    export.py OUT [--work DIR]
"""
import argparse
import json
import pathlib

import gguf
import torch

from model import CONTEXT, EPSILON, GROUPS, HEAD, HEADS, INNER, LAYERS, THETA, VOCABULARY, WIDTH
from train import BEGIN, END, TURN

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("work"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(args.out / "tiny-words.gguf", "llama")
    writer.add_name("tiny-words")
    writer.add_description("Answers with captions of the little scenes that tiny-scenes paints.")
    writer.add_license("apache-2.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    tokenizer = json.loads((args.work / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    kinds = [gguf.TokenType.CONTROL if token in (BEGIN, TURN, END) else gguf.TokenType.NORMAL for token in tokens]
    # A vocabulary that came out smaller is filled up, so that it is as long as the matrix.
    for i in range(len(tokens), VOCABULARY):
        tokens.append(f"[unused{i}]")
        kinds.append(gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[BEGIN])
    writer.add_eos_token_id(vocabulary[END])
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)

    for name, tensor in torch.load(args.work / "model.pt").items():
        array = tensor.float().numpy()
        writer.add_tensor(name, array.astype("float16") if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = args.out / "tiny-words.gguf"
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
