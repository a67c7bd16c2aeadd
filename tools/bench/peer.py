#!/usr/bin/env python3
"""PyTorch or OpenVINO in a process of its own: commands on standard input, answers in JSON on standard output.

peer.py torch|openvino MODEL --precision f32|bf16 --threads N [--setting unet=compile,decode=channels_last] [--cache DIR]

The commands are those of crates/diffusion/examples/measure.rs, and

    load HEIGHT WIDTH BATCH             every network that a picture takes, ready for latents of this size
    picture HEIGHT WIDTH STEPS GUIDANCE SEED PROMPT...      sizes in pixels; `save` then writes its bytes
"""
import argparse
import json
import os
import sys
import time

import folders
import inputs
import numpy as np


class Peer:
    """What both have in common; networks take and give numpy arrays."""

    def __init__(self, a):
        self.a, self.last = a, np.zeros(0, np.float32)
        self.configs = {}

    def config(self, part):
        if part not in self.configs:
            self.configs[part] = folders.config(self.a.model, part)
        return self.configs[part]

    def unet(self, h, w, batch):
        return self.timed("unet", inputs.unet(self.config("unet"), h, w, batch))

    def decode(self, h, w):
        return self.timed("decode", [inputs.latents(h, w)])

    def encode(self, height, width):
        return self.timed("encode", [inputs.image(height, width)])

    def text(self, rows):
        names, ids = folders.text_encoders(self.a.model), [inputs.token_ids()]
        for name in names:
            self.prepare(name, ids)
        start = time.perf_counter()
        for _ in range(rows):
            for name in names:
                outputs = self.run(name, ids)
        seconds = time.perf_counter() - start
        self.last = outputs[0]
        return dict(seconds=seconds)

    def timed(self, name, values):
        self.prepare(name, values)
        start = time.perf_counter()
        outputs = self.run(name, values)
        seconds = time.perf_counter() - start
        self.last = outputs[0]
        return dict(seconds=seconds)

    def load(self, h, w, batch):
        start = time.perf_counter()
        self.prepare("unet", inputs.unet(self.config("unet"), h, w, batch))
        self.prepare("decode", [inputs.latents(h, w)])
        for name in folders.text_encoders(self.a.model):
            self.prepare(name, [inputs.token_ids()])
        return dict(seconds=time.perf_counter() - start)

    def picture(self, height, width, steps, guidance, seed, *prompt):
        import pictures

        start = time.perf_counter()
        self.last = pictures.paint(self, height, width, steps, guidance, seed, " ".join(map(str, prompt)))
        return dict(seconds=time.perf_counter() - start)

    def save(self, path):
        np.ascontiguousarray(self.last).tofile(path)
        return {}

    def memory(self):
        with open("/proc/self/status") as status:
            return dict(bytes=next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024)


class Torch(Peer):
    def __init__(self, a):
        super().__init__(a)
        import torch

        torch.set_num_threads(a.threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.dtype = dict(f32=torch.float32, bf16=torch.bfloat16)[a.precision]
        self.settings = dict(pair.split("=") for pair in a.setting.split(",") if pair)
        self.settings.setdefault("encode", self.settings.get("decode", "eager"))
        self.modules = {}

    def prepare(self, name, _values):
        import networks

        if name in self.modules:
            return
        setting = self.settings.get(name, "eager")
        module = networks.load(self.a.model, name, self.dtype)
        if setting != "eager":
            module = module.to(memory_format=self.torch.channels_last)
        if "compile" in setting:
            import torch._inductor.config as inductor

            inductor.freezing = setting == "compile+freezing"
            module = self.torch.compile(module, dynamic=False)
        self.modules[name] = setting, module

    def run(self, name, values):
        setting, module = self.modules[name]
        tensors = [self.torch.from_numpy(np.asarray(value)) for value in values]
        tensors = [t.to(self.dtype) if t.is_floating_point() else t for t in tensors]
        if setting != "eager":
            tensors = [t.to(memory_format=self.torch.channels_last) if t.dim() == 4 else t for t in tensors]
        outputs = module(*tensors)
        return [t.float().numpy() for t in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def peak(self):
        """Operations a second of a large matrix product in this precision, and bytes a second of a copy, read and written."""
        x = self.torch.randn(2048, 2048).to(self.dtype)
        best = min(self.seconds(lambda: x @ x) for _ in range(10))
        big, other = self.torch.ones(1 << 26), self.torch.ones(1 << 26)
        copy = min(self.seconds(lambda: other.copy_(big)) for _ in range(5))
        return dict(flops=2 * 2048**3 / best, copy=8 * (1 << 26) / copy)

    def seconds(self, work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


class OpenVino(Peer):
    def __init__(self, a):
        super().__init__(a)
        import openvino

        self.openvino, self.core = openvino, openvino.Core()
        self.hints = dict(INFERENCE_PRECISION_HINT=a.precision, INFERENCE_NUM_THREADS=a.threads, PERFORMANCE_HINT="LATENCY")
        self.compiled = {}

    def prepare(self, name, values):
        """Compiles for the shapes of just these values: OpenVINO is fastest where they are fixed."""
        shapes = [np.shape(value) for value in values]
        if self.compiled.get(name, (None,))[0] == shapes:
            return
        self.compiled.pop(name, None)
        model = self.core.read_model(folders.converted(self.a.model, self.a.cache, name))
        model.reshape({port: self.openvino.PartialShape(list(shape)) for port, shape in zip(model.inputs, shapes)})
        self.compiled[name] = shapes, self.core.compile_model(model, "CPU", self.hints).create_infer_request()

    def run(self, name, values):
        # What the request returns are views of its memory: copied, because the next call writes there.
        return [out.copy() for out in self.compiled[name][1].infer([np.asarray(value) for value in values]).values()]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("engine", choices=["torch", "openvino"])
    ap.add_argument("model")
    ap.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--setting", default="", help="of torch: NETWORK=eager|channels_last|compile|compile+freezing, with commas")
    ap.add_argument("--cache", help="of openvino: the folder with the converted networks")
    a = ap.parse_args()
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = dict(torch=Torch, openvino=OpenVino)[a.engine](a)
    print(json.dumps(dict(ready=True)), file=answers)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "quit":
            break
        try:
            values = [json.loads(word) if word.replace(".", "").isdigit() else word for word in words]
            answer = getattr(peer, command)(*values)
        except Exception as error:  # noqa: BLE001: the engine must live on, and the other side tells of it
            import traceback

            traceback.print_exc()
            answer = dict(error=f"{type(error).__name__}: {error}")
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
