#!/usr/bin/env python3
"""Let the official Python packages of OpenAI and Ollama talk to a queen, unchanged, and look at what they get.

    check.py RBEE        RBEE: the program, beside which llm-worker-cpu lies

Starts a queen of its own in a folder of its own, and stops it. Exits with 1 where anything is not as those packages
expect it.
"""
import base64
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib

import ollama
import openai

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def png(width, height, pixel):
    """A PNG of RGBA pixels, `pixel(x, y)` each; by hand, so that no other package is needed."""
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(width)) for y in range(height))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def is_png(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n"), data[:20]
    return struct.unpack(">II", data[16:24])


@check
def models_are_listed(client, _):
    names = [model.id for model in client.models.list()]
    assert "tiny-scenes" in names and "tiny-words" in names, names
    assert client.models.retrieve("tiny-words").id == "tiny-words"


@check
def an_unknown_model_is_not_found(client, _):
    for ask in (
        lambda: client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}]),
        lambda: client.images.generate(model="no-such-model", prompt="a star"),
        lambda: client.models.retrieve("no-such-model"),
    ):
        try:
            ask()
        except openai.NotFoundError as error:
            assert error.code == "model_not_found", error.code
        else:
            raise AssertionError("an unknown model was taken")


@check
def a_wrong_value_is_a_bad_request(client, _):
    try:
        client.images.generate(model="tiny-scenes", prompt="a star", size="100x100")
    except openai.BadRequestError as error:
        assert error.param == "size", error.param
    else:
        raise AssertionError("a size that is no multiple of eight was taken")


@check
def a_question_is_answered(client, _):
    ask = dict(model="tiny-words", messages=[{"role": "user", "content": "Describe a picture of the sea at night."}])
    answer = client.chat.completions.create(**ask, temperature=0)
    text = answer.choices[0].message.content
    assert "sea" in text and answer.choices[0].finish_reason == "stop", answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    stream = client.chat.completions.create(**ask, temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == text, (streamed, text)
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    print(f"    {text}")


@check
def an_answer_follows_a_schema(client, _):
    schema = {
        "type": "object",
        "properties": {"scene": {"type": "string", "enum": ["sea", "forest"]}, "night": {"type": "boolean"}},
        "required": ["scene", "night"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny-words",
        messages=[{"role": "user", "content": "the sea at night"}],
        response_format={"type": "json_schema", "json_schema": {"name": "scene", "schema": schema, "strict": True}},
    )
    value = json.loads(answer.choices[0].message.content)
    assert value["scene"] in ("sea", "forest") and isinstance(value["night"], bool), value


@check
def a_function_is_called(client, _):
    tool = {
        "type": "function",
        "function": {
            "name": "paint",
            "parameters": {
                "type": "object",
                "properties": {"size": {"type": "string", "enum": ["small", "large"]}},
                "required": ["size"],
            },
        },
    }
    answer = client.chat.completions.create(
        model="tiny-words",
        messages=[{"role": "user", "content": "paint the sea"}],
        tools=[tool],
        tool_choice="required",
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "paint" and answer.choices[0].finish_reason == "tool_calls", answer
    assert json.loads(call.function.arguments)["size"] in ("small", "large")


@check
def a_text_is_continued(client, _):
    answer = client.completions.create(model="tiny-words", prompt="a beautiful", max_tokens=5)
    assert answer.choices[0].text and answer.choices[0].finish_reason in ("stop", "length"), answer
    pieces = client.completions.create(model="tiny-words", prompt="a beautiful", max_tokens=5, seed=1, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices)


@check
def texts_have_embeddings(client, _):
    answer = client.embeddings.create(model="tiny-words", input=["the sea at night", "a red circle"])
    first, second = (item.embedding for item in answer.data)
    assert len(first) == len(second) > 8 and first != second


@check
def pictures_are_painted(client, _):
    answer = client.images.generate(model="tiny-scenes", prompt="a red circle on a blue background", n=2,
                                    response_format="b64_json")
    assert [is_png(base64.b64decode(image.b64_json)) for image in answer.data] == [(128, 128)] * 2
    answer = client.images.generate(model="tiny-scenes", prompt="a red circle", size="128x64", response_format="url")
    with urllib.request.urlopen(answer.data[0].url) as response:
        assert is_png(response.read()) == (128, 64)


@check
def pictures_come_in_parts(client, _):
    stream = client.images.generate(model="tiny-scenes", prompt="a red circle", stream=True, partial_images=2)
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert is_png(base64.b64decode(events[-1].b64_json)) == (128, 128)


@check
def a_picture_is_edited(client, _):
    image = png(128, 128, lambda x, y: (0, 0, 200, 255))
    mask = png(128, 128, lambda x, y: (0, 0, 0, 0 if 32 <= x < 96 and 32 <= y < 96 else 255))
    answer = client.images.edit(
        model="tiny-scenes", prompt="a yellow star on a blue background", response_format="b64_json",
        image=("image.png", io.BytesIO(image)), mask=("mask.png", io.BytesIO(mask)),
    )
    assert is_png(base64.b64decode(answer.data[0].b64_json)) == (128, 128)


@check
def ollama_lists_chats_and_writes(_, client):
    assert "tiny-words" in [model.model for model in client.list().models]
    messages = [{"role": "user", "content": "Describe a picture of the sea at night."}]
    whole = client.chat(model="tiny-words", messages=messages, options={"temperature": 0})
    assert whole.done and "sea" in whole.message.content, whole
    pieces = client.chat(model="tiny-words", messages=messages, options={"temperature": 0}, stream=True)
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    written = client.generate(model="tiny-words", prompt="a beautiful", raw=True, options={"num_predict": 5})
    assert written.done and written.response and written.eval_count <= 5, written
    try:
        client.chat(model="no-such-model", messages=messages)
    except ollama.ResponseError as error:
        assert error.status_code == 404, error
    else:
        raise AssertionError("an unknown model was taken")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(url, queen):
    deadline = time.time() + 60
    while time.time() < deadline:
        if queen.poll() is not None:
            sys.exit(f"the queen ended with {queen.returncode}")
        try:
            urllib.request.urlopen(f"{url}/ready").close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the queen was not ready after a minute")


def main():
    rbee = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [rbee, "queen", "--port", str(port), "--hive-port", "0", "--data-dir", folder]
        log = open(f"{folder}/queen.log", "w")
        queen = subprocess.Popen(command, stdout=log, stderr=log)
        failed = []
        try:
            wait_until_ready(url, queen)
            clients = (openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120),
                       ollama.Client(host=url, timeout=120))
            for function in CHECKS:
                name = function.__name__.replace("_", " ")
                try:
                    function(*clients)
                    print(f"ok    {name}")
                except Exception as error:  # what fails is told, and the rest is looked at too
                    failed.append(name)
                    print(f"FAIL  {name}: {type(error).__name__}: {error}")
        finally:
            queen.terminate()
            queen.wait(60)
        if failed:
            print(open(f"{folder}/queen.log").read()[-4000:])
        print(f"{len(CHECKS) - len(failed)} passed, {len(failed)} failed")
        sys.exit(1 if failed else 0)


main()
