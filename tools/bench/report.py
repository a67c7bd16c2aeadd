"""The machine in words, and a run as a page of Markdown."""
import os
import platform

TITLES = {"ours": "rbee", "torch": "PyTorch", "openvino": "OpenVINO"}


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            facts = dict(map(str.strip, line.split(":", 1)) for line in file if ":" in line)
        return f"{facts['model name']}, model {facts['model']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def machine():
    import importlib.metadata

    versions = {}
    for package in ("torch", "diffusers", "transformers", "openvino"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return dict(processor=processor(), cores=os.cpu_count(), versions=versions)


def markdown(result):
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"{machine['processor']}, {machine['cores']} cores; {versions}. Model {result['model']}, pictures of {result['steps']} steps, guidance {result['guidance']}."]
    for run in result["runs"]:
        lines += ["", *facts(run), "", *table(run)]
    return "\n".join(lines) + "\n"


def facts(run):
    words = [f"{run['size']}, {run['precision']}, {run['threads']} threads."]
    for name, peak in run["peaks"].items():
        if peak:
            copy = f", copy {peak['copy'] / 1e9:.0f} GB/s" if "copy" in peak else ""
            kind = "multiply-adds in registers" if name == "ours" else f"a matrix product of PyTorch's in {run['precision']}"
            words.append(f"{kind}: {peak['flops'] / 1e9:.0f} GFLOP/s{copy}.")
    words += [f"{TITLES[name]}: {note}." for name, note in run["notes"].items()]
    return [" ".join(words)]


def table(run):
    names = [name for name in TITLES if any(name in row["engines"] for row in run["rows"])]
    peers = [name for name in names if name != "ours"] if "ours" in names else []
    head = ["part", *(f"{TITLES[n]}, least" for n in names), *(f"{TITLES[n]}, median" for n in names), *(f"ours / {TITLES[n]}" for n in peers)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in run["rows"]:
        found = row["engines"]
        cells = [f"{row['part']}, {row['unit']}"]
        for name in names:
            db = found.get(name, {}).get("db")
            cells.append(number(found[name]["least"]) + (f" ({db:.1f} dB)" if db is not None else "") if name in found else "")
        cells += [number(found[name]["median"]) if name in found else "" for name in names]
        cells += [f"{found['ours']['least'] / found[name]['least']:.2f}" if "ours" in found and name in found else "" for name in peers]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def number(value):
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"
