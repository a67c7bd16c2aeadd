"""A small Llama: RMS norms, rotary positions, grouped queries, SwiGLU, one matrix for the words at both ends."""
import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, WIDTH, LAYERS, HEADS, GROUPS, INNER, CONTEXT = 768, 128, 5, 4, 2, 384, 1024
EPSILON, THETA = 1e-5, 10000.0
HEAD = WIDTH // HEADS


def rotate(x):
    """Rotary positions over neighbouring pairs, as in Meta's own checkpoints and llama.cpp's `norm` kind."""
    length = x.shape[-2]
    rate = THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    angle = torch.outer(torch.arange(length), rate)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return F.rms_norm(x, (WIDTH,), self.weight, EPSILON)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.attn_q, self.attn_output = linear(WIDTH, WIDTH), linear(WIDTH, WIDTH)
        self.attn_k, self.attn_v = linear(WIDTH, GROUPS * HEAD), linear(WIDTH, GROUPS * HEAD)
        self.ffn_gate, self.ffn_up, self.ffn_down = linear(WIDTH, INNER), linear(WIDTH, INNER), linear(INNER, WIDTH)

    def forward(self, x):
        h = self.attn_norm(x)
        heads = lambda linear: linear(h).unflatten(-1, (-1, HEAD)).transpose(1, 2)
        q, k, v = rotate(heads(self.attn_q)), rotate(heads(self.attn_k)), heads(self.attn_v)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attn_output(seen.transpose(1, 2).flatten(-2))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    """Modules carry the names that GGUF gives their weights."""

    def __init__(self):
        super().__init__()
        self.token_embd = nn.Embedding(VOCABULARY, WIDTH)
        self.blk = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_norm = Norm()
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x)
        return F.linear(self.output_norm(x), self.token_embd.weight)
