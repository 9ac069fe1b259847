"""Tools, structured output and log-probabilities through the official `openai` package for Python, unmodified.

The variables are those of test_openai.py.
"""

import json
import math
import re
from typing import Literal, Optional

import openai
import pydantic
import pytest

from test_openai import MODEL, ask, client  # noqa: F401  (a fixture)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Harvest(pydantic.BaseModel):
    kind: Literal["rice", "maize"]
    sacks: int = pydantic.Field(ge=0, le=20)
    dry: bool
    note: Optional[Literal["good", "bad"]]


class get_weather(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=12)


def weather(city="Paris"):
    return ask(f"What is the weather in {city}?") | {"tools": [WEATHER]}


def test_a_tool_is_called_and_its_result_read(client):
    for stream in (False, True):
        request = weather()
        if stream:
            with client.chat.completions.stream(**request) as events:
                kinds = [event.type for event in events]
                reply = events.get_final_completion()
            assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
        else:
            reply = client.chat.completions.create(**request)
        choice = reply.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        [call] = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", "get_weather")
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        assert call.id.startswith("call_")
        told = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"temperature": 21})}
        messages = [*request["messages"], choice.message.model_dump(exclude_none=True, exclude={"parsed"}), told]
        answer = client.chat.completions.create(**{**request, "messages": messages})
        # So small a model mixes up digits.
        assert re.fullmatch(r"It is \d+ degrees in Paris\.", answer.choices[0].message.content)
        assert answer.choices[0].finish_reason == "stop"


def test_calls_are_streamed_in_openais_order(client):
    chunks = list(client.chat.completions.create(**weather("Tokyo"), stream=True, stream_options={"include_usage": True}))
    *answer, last = chunks
    deltas = [chunk.choices[0].delta for chunk in answer]
    assert (deltas[0].role, deltas[0].content, deltas[0].tool_calls) == ("assistant", None, None)
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    head, *rest = calls
    assert (head.index, head.type, head.function.name, head.function.arguments) == (0, "function", "get_weather", "")
    assert head.id and all((call.index, call.id, call.type, call.function.name) == (0, None, None, None) for call in rest)
    assert json.loads("".join(call.function.arguments for call in rest)) == {"city": "Tokyo"}
    assert len(rest) > 1, "the arguments came in pieces"
    assert [chunk.choices[0].finish_reason for chunk in answer][-1] == "tool_calls"
    assert last.usage.completion_tokens > 0


def test_who_calls_is_the_clients_choice(client):
    none = client.chat.completions.create(**weather(), tool_choice="none", max_tokens=30)
    assert none.choices[0].message.tool_calls is None and none.choices[0].message.content is not None
    other = {"type": "function", "function": {"name": "now", "strict": True}}
    named = {"type": "function", "function": {"name": "now"}}
    tools = {"tools": [WEATHER, other], "tool_choice": named, "parallel_tool_calls": False}
    reply = client.chat.completions.create(**weather() | tools)
    [call] = reply.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("now", "{}")
    tools = {"tools": [openai.pydantic_function_tool(get_weather)], "tool_choice": "required", "parallel_tool_calls": False}
    required = client.chat.completions.create(**ask("Tell me about rice.") | tools)
    [call] = required.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_an_answer_is_parsed_into_a_type(client):
    for seed in range(4):
        reply = client.chat.completions.parse(
            **ask("Tell me about rice.") | {"temperature": 1, "seed": seed}, response_format=Harvest
        )
        assert isinstance(reply.choices[0].message.parsed, Harvest)
    with client.chat.completions.stream(**ask("Tell me about rice."), response_format=Harvest) as events:
        done = [event.parsed for event in events if event.type == "content.done"]
    assert len(done) == 1 and isinstance(done[0], Harvest)


def test_a_tools_arguments_are_parsed_into_a_type(client):
    tool = openai.pydantic_function_tool(get_weather)
    reply = client.chat.completions.parse(**ask("What is the weather in Rome?") | {"tools": [tool]})
    [call] = reply.choices[0].message.tool_calls
    assert call.function.parsed_arguments == get_weather(city="Rome")


def test_json_mode_is_json(client):
    reply = client.chat.completions.create(**ask("Tell me about rice."), response_format={"type": "json_object"}, max_tokens=200)
    text = reply.choices[0].message.content
    assert text.startswith("{")
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_the_limit_cuts_a_form_too(client):
    form = {"type": "json_schema", "json_schema": {"name": "h", "strict": True, "schema": Harvest.model_json_schema()}}
    reply = client.chat.completions.create(**ask("?"), response_format=form, max_tokens=3)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 3)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ask("?"), response_format=Harvest, max_tokens=3)


def test_log_probabilities_are_natural_in_a_form_too(client):
    for more in ({}, {"response_format": {"type": "json_object"}, "max_tokens": 20}, {"tools": [WEATHER], "tool_choice": "required"}):
        reply = client.chat.completions.create(**ask("What is the weather in Rome?") | more, logprobs=True, top_logprobs=3)
        content = reply.choices[0].logprobs.content
        assert len(content) == reply.usage.completion_tokens
        for token in content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3
            assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1.0001
    chunks = list(client.chat.completions.create(**weather(), stream=True, logprobs=True, stream_options={"include_usage": True}))
    told = sum(len(chunk.choices[0].logprobs.content) for chunk in chunks[:-1] if chunk.choices[0].logprobs)
    assert told == chunks[-1].usage.completion_tokens


def test_several_choices_are_summed(client):
    request = ask("Tell me about rice.") | {"temperature": 2, "seed": 3, "max_tokens": 20}
    reply = client.chat.completions.create(**request, n=4, logprobs=True)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in reply.choices)
    again = client.chat.completions.create(**request, n=4)
    assert [choice.message.content for choice in again.choices] == [choice.message.content for choice in reply.choices]
    assert len({choice.message.content for choice in reply.choices}) > 1


def test_the_final_message_is_gone_on_with(client):
    whole = client.chat.completions.create(**ask("What is SSE?")).choices[0].message.content
    begun = whole[: len(whole) // 2].rsplit(" ", 1)[0]
    messages = [{"role": "user", "content": "What is SSE?"}, {"role": "assistant", "content": begun}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    rest = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, extra_body=extra)
    assert begun + rest.choices[0].message.content == whole


def test_what_the_template_does_not_heed_is_refused(client):
    for more, param in (
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "chat_template_kwargs.enable_thinking"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ask("?"), **more)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_a_developer_speaks_as_the_system(client):
    as_role = lambda role: [{"role": role, "content": "Be brief."}, {"role": "user", "content": "What is SSE?"}]
    replies = [client.chat.completions.create(model=MODEL, messages=as_role(role), temperature=0) for role in ("system", "developer")]
    assert replies[0].usage == replies[1].usage
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content


def test_labels_change_nothing_and_are_checked(client):
    labels = {"user": "u", "metadata": {"k": "v"}, "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "k"}
    replies = [client.chat.completions.create(**ask("What is SSE?"), **more) for more in ({}, labels)]
    assert replies[0].usage == replies[1].usage
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content
    for wrong, param in (({"metadata": {"k": 5}}, "metadata.k"), ({"user": 5}, "user"), ({"service_tier": {}}, "service_tier")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ask("?"), **wrong)
        assert caught.value.param == param
