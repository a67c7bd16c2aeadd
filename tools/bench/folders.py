"""What a diffusers folder says of its networks, and where they stand converted; without PyTorch, which OpenVINO's process need not load."""
import json
import pathlib


def json_file(folder, name):
    return json.loads((pathlib.Path(folder) / name).read_text())


def config(folder, part):
    return json_file(folder, f"{part}/config.json")


def text_encoders(folder):
    return [part for part in ("text_encoder", "text_encoder_2") if (pathlib.Path(folder) / part).is_dir()]


def networks(folder):
    return ["unet", "decode", "encode", *text_encoders(folder)]


def converted(folder, cache, network):
    """The file of a network in OpenVINO's format."""
    return pathlib.Path(cache) / "openvino" / pathlib.Path(folder).resolve().name / f"{network}.xml"
