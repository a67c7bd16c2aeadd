#!/usr/bin/env python3
"""What Jinja, set up as transformers sets it up, makes of the chat templates in crates/llm-worker/tests/templates: goldens.json.

    templates.py            (pip install jinja2)
"""
import json
import pathlib

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "crates/llm-worker/tests/templates"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How warm it is; \"now\" & <here>, in °C.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"place": "the <sea>", "days": 2}}}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
USER = {"role": "user", "content": "  How warm is it?  "}
ANSWER = {"role": "assistant", "content": "Warm.\n"}
CASES = {
    "question": ([USER], None),
    "conversation": ([SYSTEM, USER, ANSWER, {"role": "user", "content": "And é?"}], None),
    "tools": ([SYSTEM, USER], [WEATHER]),
    "called": ([USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": '{"degrees": 17}', "name": "weather", "tool_call_id": "abcdefghi"}], [WEATHER]),
    "twice": ([USER, {"role": "user", "content": "Well?"}], None),
}


class Refused(Exception):
    pass


def raise_exception(message):
    raise Refused(message)


def to_json(value, indent=None):
    return json.dumps(value, ensure_ascii=False, indent=indent)


def main():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    # The day of the test is put in where this stands.
    environment.globals["strftime_now"] = lambda form: "@" + form + "@"
    goldens = []
    for path in sorted(FOLDER.glob("*.jinja")):
        template = environment.from_string(path.read_text())
        for case, (messages, tools) in CASES.items():
            golden = {"template": path.stem, "case": case, "messages": messages, "tools": tools or []}
            try:
                golden["rendered"] = template.render(messages=messages, tools=tools, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
            except Refused as refused:
                golden["refused"] = str(refused)
            goldens.append(golden)
    (FOLDER / "goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n")
    print(len(goldens), "goldens with Jinja", jinja2.__version__)


if __name__ == "__main__":
    main()
