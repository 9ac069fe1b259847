"""Answers in a form: generated JSON Schemas, and tools that must be called, against a running gateway with the bundled
model at temperature 1. Every finished answer is validated by two validators that are not ours.

BASE_URL, API_KEY, MODEL  as in `.demo/env`; the model is the bundled one
SCHEMAS                   how many schemas; 30 unless set
"""

import json
import os
import random
import re
import sys
import urllib.error
import urllib.request

import jsonschema
import jsonschema_rs

URL = os.environ["BASE_URL"] + "/chat/completions"
HEADERS = {"authorization": f"Bearer {os.environ['API_KEY']}", "content-type": "application/json"}
COUNT = int(os.environ.get("SCHEMAS", "30"))
WORDS = ("name", "age", "city", "rice", "barn", "kind", "a/b", "naïve", 'quo"te', "tags", "size", "x")
FORMATS = ("date", "time", "date-time", "duration", "hostname", "email", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = (r"^[a-z]{1,8}$", r"^\d{3}-\d{2,4}$", r"^(ab|cd)+e?$", r"^[^\"\\]{0,5}$", r"^\w+@\w+\.com$", r"^[A-F\d_.-]{2,6}$", "é")


def post(body):
    request = urllib.request.Request(URL, json.dumps(body).encode(), HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def string(rng):
    schema = {"type": "string"}
    kind = rng.random()
    if kind < 0.3:
        schema["format"] = rng.choice(FORMATS)
    elif kind < 0.55:
        schema["pattern"] = rng.choice(PATTERNS)
        if rng.random() < 0.3:
            schema["maxLength"] = 12
    else:
        schema["minLength"] = rng.randint(0, 4)
        schema["maxLength"] = schema["minLength"] + rng.randint(0, 12)
    return schema


def number(rng):
    schema = {"type": rng.choice(("integer", "number"))}
    low = rng.choice((0, 1, -5, 10, 0.5, -1000))
    schema[rng.choice(("minimum", "exclusiveMinimum"))] = low
    schema[rng.choice(("maximum", "exclusiveMaximum"))] = low + rng.choice((2, 7, 90, 12345))
    if rng.random() < 0.2:
        return {"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": rng.choice((2, 5, 7))}
    return schema


def leaf(rng):
    kind = rng.random()
    if kind < 0.4:
        return string(rng)
    if kind < 0.7:
        return number(rng)
    if kind < 0.8:
        return {"enum": rng.sample(["red", "grün", 3, -1.5, None, True, "", [1, "a"], {"k": "v"}], rng.randint(1, 4))}
    if kind < 0.87:
        return {"const": rng.choice(("fixed", 7, None, {"a": [True]}))}
    return {"type": rng.choice(("boolean", "null", ["boolean", "null"]))}


def schema(rng, depth):
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        return leaf(rng)
    if kind < 0.65:
        return obj(rng, depth)
    if kind < 0.85:
        low = rng.randint(0, 2)
        array = {"type": "array", "items": schema(rng, depth - 1), "minItems": low, "maxItems": low + rng.randint(0, 2)}
        if rng.random() < 0.25:
            array["prefixItems"] = [leaf(rng)]
        return array
    if kind < 0.95:
        return {"anyOf": [schema(rng, depth - 1) for _ in range(rng.randint(2, 3))]}
    return {"oneOf": [{"type": "string", "maxLength": 5}, {"type": "boolean"}]}


def obj(rng, depth):
    names = rng.sample(WORDS, rng.randint(1, 4))
    made = {"type": "object", "properties": {name: schema(rng, depth - 1) for name in names}, "additionalProperties": False}
    made["required"] = names if rng.random() < 0.6 else rng.sample(names, rng.randint(0, len(names)))
    if rng.random() < 0.2:
        made["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
        made["maxProperties"] = len(names) + 1
        made["required"] = names
    if rng.random() < 0.2:
        made["title"], made["description"] = "A title", "What it is"
    return made


def whole(rng):
    made = obj(rng, 3)
    if rng.random() < 0.2:
        made["properties"]["tree"] = {"$ref": "#/$defs/tree"}
        if "maxProperties" in made:  # which goes with required properties only
            made["required"], made["maxProperties"] = [*made["required"], "tree"], made["maxProperties"] + 1
        children = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}
        made["$defs"] = {"tree": {"type": "object", "properties": {"n": number(rng), "c": children}, "required": ["n"], "additionalProperties": False}}
    return made


def validate(schema, value):
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(value)
    jsonschema_rs.validator_for({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, validate_formats=True).validate(value)


def ask(seed, **more):
    question = {"role": "user", "content": "Tell me about rice."}
    return {"model": os.environ["MODEL"], "messages": [question], "temperature": 1, "seed": seed, "max_tokens": 300, **more}


def check_schemas():
    finished = 0
    for seed in range(COUNT):
        made = whole(random.Random(seed))
        form = {"type": "json_schema", "json_schema": {"name": "made", "strict": True, "schema": made}}
        status, answer = post(ask(seed, response_format=form))
        assert status == 200, (seed, status, answer, made)
        choice = answer["choices"][0]
        if choice["finish_reason"] == "length":
            assert answer["usage"]["completion_tokens"] == 300, answer
            continue
        assert choice["finish_reason"] == "stop", answer
        text = choice["message"]["content"]
        try:
            validate(made, json.loads(text))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {text}\n{json.dumps(made)}") from error
        between = re.sub(r'"(\\.|[^"\\])*"', "", text)
        assert not re.search(r"\s", between), f"not compact: {text}"
        finished += 1
    assert finished * 2 >= COUNT, f"{finished} of {COUNT} answers came to an end"
    return f"{COUNT} schemas, {finished} finished answers, all valid"


def check_json_object():
    finished = 0
    for seed in range(COUNT // 3):
        status, answer = post(ask(seed, response_format={"type": "json_object"}, max_tokens=400))
        assert status == 200, answer
        if answer["choices"][0]["finish_reason"] == "stop":
            assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict), answer
            finished += 1
    return f"{finished} of {COUNT // 3} JSON objects finished, all objects"


def check_required_tools():
    tools = {
        "get_weather": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False},
        "add": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": [1, 2]}}, "required": ["a", "b"], "additionalProperties": False},
        "now": None,
    }
    given = [
        {"type": "function", "function": {"name": name, "strict": True} | ({"parameters": parameters} if parameters else {})}
        for name, parameters in tools.items()
    ]
    made = 0
    for seed in range(COUNT):
        named = seed % 3 == 2
        choice = {"type": "function", "function": {"name": "add"}} if named else "required"
        parallel = seed % 2 == 0
        body = ask(seed, tools=given, tool_choice=choice, parallel_tool_calls=parallel)
        status, answer = post(body)
        assert status == 200, answer
        choice = answer["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls" or (parallel and choice["finish_reason"] == "length"), answer
        assert choice["message"]["content"] is None and calls, answer
        assert parallel or len(calls) == 1, answer
        assert len({call["id"] for call in calls}) == len(calls), answer
        for call in calls if choice["finish_reason"] == "tool_calls" else calls[:-1]:
            name = call["function"]["name"]
            assert name == "add" or not named, answer
            arguments = json.loads(call["function"]["arguments"])
            validate(tools[name] or {"type": "object", "maxProperties": 0}, arguments)
            made += 1
    return f"{COUNT} requests that must call, {made} calls, all valid"


def check_refusals():
    refused = (
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
        {"type": "string", "format": "iri"},
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/s.json"}}},
        {"type": "object", "x-guidance": {"lenient": True}, "properties": {"a": {"type": "string"}}},
        {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "number", "multipleOf": 0.1},
        {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "flavour"},
    )
    for schema in refused:
        form = {"type": "json_schema", "json_schema": {"name": "made", "strict": True, "schema": schema}}
        status, answer = post(ask(0, response_format=form))
        assert status == 400 and answer["error"]["param"] == "response_format.json_schema.schema", (schema, status, answer)
        assert answer["error"]["type"] == "invalid_request_error", answer
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "minProperties": 2}}}
    status, answer = post(ask(0, tools=[tool]))
    assert status == 400 and answer["error"]["param"] == "tools[0].function.parameters", answer
    # Without `strict`, the model writes the arguments as it sees fit.
    tool["function"]["strict"] = False
    status, answer = post(ask(0, tools=[tool], tool_choice="required", parallel_tool_calls=False))
    assert status == 200, answer
    return f"{len(refused)} schemas refused by name"


if __name__ == "__main__":
    for check in (check_refusals, check_schemas, check_json_object, check_required_tools):
        print(check.__name__, check(), flush=True)
    sys.exit(0)
