"""The endpoints beside chat through the official `openai` and `anthropic` packages for Python, unmodified.

BASE_URL, API_KEY, MODEL  as in `.demo/env`; the model is the bundled one
QUESTIONS                 provider-runtime/models/questions.json, unless set
SCRIPTED_MODEL            a model that answers from the script in `network/sdk.rs`
VECTORS_MODEL             the bundled model of vectors

Every document and every event is validated strictly by the SDK's own types.
"""

import json
import math
import os
from pathlib import Path

import anthropic
import openai
import pydantic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from collected import http_client

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
SCRIPTED = os.environ["SCRIPTED_MODEL"]
VECTORS = os.environ["VECTORS_MODEL"]
QUESTIONS = json.loads(
    Path(os.environ.get("QUESTIONS") or Path(__file__).parents[3] / "provider-runtime/models/questions.json").read_text("utf-8")
)
QUESTION, ANSWER = QUESTIONS[0]["question"], QUESTIONS[0]["answer"]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
# What Open Responses requires of a response object, null where there is nothing to say.
REQUIRED = """id object created_at completed_at status incomplete_details model previous_response_id instructions output error
tools tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty top_logprobs temperature
reasoning usage max_output_tokens max_tool_calls store background service_tier metadata safety_identifier prompt_cache_key""".split()


@pytest.fixture
def client():
    with openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0, http_client=http_client()) as client:
        yield client


@pytest.fixture
def claude():
    with anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY, max_retries=0) as client:
        yield client


def strict(kind, document):
    return pydantic.TypeAdapter(kind).validate_json(json.dumps(document), strict=True)


def sent(raw):
    """The data of each event of a stream, as it was sent."""
    lines = [line.removeprefix("data: ") for line in raw.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# chats: what they say is tested elsewhere


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2, "logprobs": True, "top_logprobs": 2},
        {"messages": [{"role": "user", "content": "the weather?"}], "tools": [{"type": "function", "function": {"name": "get_weather"}}]},
    ],
    ids=["plain", "logprobs", "tools"],
)
def test_every_chat_and_every_chunk_has_the_sdks_own_types(client, more):
    ask = {"model": SCRIPTED, "messages": [{"role": "user", "content": "hello"}], **more}
    strict(ChatCompletion, client.chat.completions.create(**ask).to_dict())
    with client.chat.completions.with_streaming_response.create(**ask, stream=True, stream_options={"include_usage": True}) as raw:
        chunks = [strict(ChatCompletionChunk, chunk) for chunk in sent(raw)]
    assert len(chunks) > 3 and chunks[-1].usage.completion_tokens > 0


# completions


def test_completions_go_on_from_several_prompts(client):
    reply = client.completions.create(model=SCRIPTED, prompt=["hello", "hello again"], n=2, echo=True, max_tokens=50)
    strict(Completion, reply.to_dict())
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith("hello again") for choice in reply.choices] == [False, False, True, True]
    assert (reply.object, reply.choices[0].finish_reason) == ("text_completion", "stop")
    assert reply.usage.completion_tokens == 4 * 3 and reply.id.startswith("cmpl-")


def test_completions_stream(client):
    chunks = list(client.completions.create(model=SCRIPTED, prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}))
    *answer, last = chunks
    assert "".join(chunk.choices[0].text for chunk in answer) == "Hello to you"
    assert [chunk.choices[0].finish_reason for chunk in answer if chunk.choices[0].finish_reason] == ["stop"]
    assert last.choices == [] and last.usage.completion_tokens == 3
    assert {chunk.object for chunk in chunks} == {"text_completion"} and len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [({"suffix": "x"}, "suffix"), ({"best_of": 5}, "best_of"), ({"prompt": []}, "prompt"), ({"max_tokens": 0}, "max_tokens")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_completion_names_the_parameter(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": SCRIPTED, "prompt": "x", **change})
    assert caught.value.param == param


def test_completions_tell_log_probabilities_side_by_side(client):
    reply = client.completions.create(model=SCRIPTED, prompt="hello", logprobs=2)
    strict(Completion, reply.to_dict())
    told = reply.choices[0].logprobs
    assert "".join(told.tokens) == reply.choices[0].text and told.text_offset == [0, 5, 8]
    assert len(told.token_logprobs) == len(told.top_logprobs) == 3 and all(value < 0 for value in told.token_logprobs)


# responses


def test_a_response_answers_word_for_word(client):
    reply = client.responses.create(model=MODEL, input=QUESTION, temperature=0, metadata={"a": "b"})
    strict(Response, reply.to_dict())
    assert reply.output_text == ANSWER
    assert (reply.status, reply.store, reply.metadata) == ("completed", False, {"a": "b"})
    assert [name for name in REQUIRED if name not in reply.model_fields_set | set(reply.model_extra)] == []
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens > 0


def test_a_response_streams_the_same(client):
    with client.responses.with_streaming_response.create(model=MODEL, input=QUESTION, temperature=0, stream=True) as raw:
        events = [strict(ResponseStreamEvent, event) for event in sent(raw)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert "".join(event.delta for event in events[4:-4]) == ANSWER
    assert events[-1].response.output_text == ANSWER and events[-1].response.usage.output_tokens > 0


def test_the_stream_helper_puts_a_response_together(client):
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == ANSWER and len(deltas) > 1


def test_a_response_may_be_cut(client):
    reply = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=3)
    strict(Response, reply.to_dict())
    assert (reply.status, reply.incomplete_details.reason, reply.usage.output_tokens) == ("incomplete", "max_output_tokens", 3)
    assert ANSWER.startswith(reply.output_text)


def test_a_response_may_go_on_with_a_conversation(client):
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    again = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    reply = client.responses.create(model=MODEL, input=again, instructions="Answer.", temperature=0, store=False)
    assert reply.status in ("completed", "incomplete") and reply.instructions == "Answer."


FUNCTION = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}


def test_a_response_calls_tools_and_takes_their_results(client):
    ask = {"model": SCRIPTED, "input": "the weather?", "tools": [FUNCTION], "reasoning": {"effort": "low"}}
    reply = client.responses.create(**ask)
    strict(Response, reply.to_dict())
    thought, said, call = reply.output
    assert [item.type for item in reply.output] == ["reasoning", "message", "function_call"]
    assert (thought.content[0].text, said.content[0].text) == ("Which city?", "Let me see.")
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", {"city": "Jakarta"}, "completed")
    assert reply.usage.output_tokens_details.reasoning_tokens > 0 and reply.tools[0].name == "get_weather"

    with client.responses.with_streaming_response.create(**ask, stream=True) as raw:
        events = [strict(ResponseStreamEvent, event) for event in sent(raw)]
    assert "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta") == call.arguments
    last = events[-1].response
    assert [item.type for item in last.output] == [item.type for item in reply.output]
    assert last.usage == reply.usage

    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    again = client.responses.create(**{**ask, "input": [{"role": "user", "content": "hello"}, *reply.output, result]})
    assert again.output_text == "Hello to you"


def test_a_response_is_parsed_into_a_type(client):
    class Person(pydantic.BaseModel):
        name: str
        age: int

    reply = client.responses.parse(model=SCRIPTED, input="a person", text_format=Person)
    assert reply.output_parsed == Person(name="Ada", age=36)


def test_a_response_tells_log_probabilities(client):
    reply = client.responses.create(model=SCRIPTED, input="hello", include=["message.output_text.logprobs"], top_logprobs=2)
    strict(Response, reply.to_dict())
    told = reply.output[0].content[0].logprobs
    assert "".join(entry.token for entry in told) == "Hello to you" and len(told[0].top_logprobs) == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": []}, "input"),
        ({"temperature": 9}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_response_request_names_the_parameter(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": MODEL, "input": "Hello!", **change})
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


# messages


def say(question, **more):
    said = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": question}]}
    return {**said, "extra_body": {"temperature": 0}, **more}  # which this SDK knows no more


def test_a_message_answers_word_for_word(claude):
    reply = claude.messages.create(**say(QUESTION))
    strict(Message, reply.to_dict())
    assert [(block.type, block.text) for block in reply.content] == [("text", ANSWER)]
    assert (reply.role, reply.stop_reason, reply.stop_sequence, reply.type) == ("assistant", "end_turn", None, "message")
    assert reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0 and reply.id.startswith("msg_")


def test_a_message_streams_the_same(claude):
    whole = claude.messages.create(**say(QUESTION))
    with claude.messages.with_streaming_response.create(**say(QUESTION), stream=True) as raw:
        events = [strict(RawMessageStreamEvent, event) for event in sent(raw) if event["type"] != "ping"]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"] and kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == ANSWER
    assert events[-2].usage.output_tokens == whole.usage.output_tokens
    with claude.messages.stream(**say(QUESTION)) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason, final.usage.output_tokens) == (ANSWER, "end_turn", whole.usage.output_tokens)


def test_a_message_ends_as_it_was_told(claude):
    cut = claude.messages.create(**say(QUESTION, max_tokens=3))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    stopped = claude.messages.create(**say("hello", model=SCRIPTED, stop_sequences=["never", "to"]))
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", "to", "Hello ")


def test_a_message_uses_tools_and_takes_their_results(claude):
    tool = {"name": "get_weather", "description": "The weather", "input_schema": WEATHER}
    ask = say("the weather?", model=SCRIPTED, tools=[tool], tool_choice={"type": "any"})
    reply = claude.messages.create(**ask)
    strict(Message, reply.to_dict())
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use"]
    use = reply.content[-1]
    assert (use.name, use.input, reply.stop_reason) == ("get_weather", {"city": "Jakarta"}, "tool_use")
    with claude.messages.stream(**ask) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert (final.content[-1].input, final.stop_reason) == (use.input, "tool_use")
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}, {"type": "text", "text": "hello"}]}
    turns = [*ask["messages"], {"role": "assistant", "content": reply.content}, result]
    again = claude.messages.create(**{**ask, "messages": turns, "tool_choice": {"type": "auto"}})
    assert again.content[0].text == "Hello to you"


def test_a_message_is_thought_about_where_the_model_thinks(claude):
    tool = {"name": "get_weather", "description": "The weather", "input_schema": WEATHER}
    thinking = {"type": "enabled", "budget_tokens": 2000}
    reply = claude.messages.create(**say("the weather?", model=SCRIPTED, max_tokens=4000, tools=[tool], thinking=thinking))
    strict(Message, reply.to_dict())
    assert (reply.content[0].type, reply.content[0].thinking) == ("thinking", "Which city?")
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(**say(QUESTION, thinking={**thinking, "budget_tokens": 1024}, max_tokens=1500))
    assert "'thinking'" in caught.value.message


def test_tokens_are_counted_before(claude):
    counted = claude.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": QUESTION}])
    assert counted.input_tokens == claude.messages.create(**say(QUESTION, max_tokens=1)).usage.input_tokens
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.count_tokens(model=SCRIPTED, messages=[{"role": "user", "content": QUESTION}])
    assert "tokenizer" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (anthropic.BadRequestError, {"max_tokens": 0}),
        (anthropic.BadRequestError, {"messages": []}),
        (anthropic.BadRequestError, {"extra_body": {"top_k": 3}}),
        (anthropic.NotFoundError, {"model": "nobody/nothing"}),
    ],
)
def test_errors_have_anthropics_shape(claude, kind, change):
    with pytest.raises(kind) as caught:
        claude.messages.create(**say("Hello!", **change))
    body = caught.value.body
    assert body["type"] == "error" and isinstance(body["error"]["message"], str)
    names = {anthropic.BadRequestError: "invalid_request_error", anthropic.NotFoundError: "not_found_error"}
    assert body["error"]["type"] == names[kind]


def test_a_wrong_key_is_an_authentication_error():
    for key in ({"api_key": "sk-wrong"}, {"auth_token": "sk-wrong"}):
        with pytest.raises(anthropic.AuthenticationError) as caught:
            anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), max_retries=0, **key).messages.create(**say("Hello!"))
        assert caught.value.body["error"]["type"] == "authentication_error"


# embeddings


def test_vectors_come_the_same_either_way(client):
    texts = ["a barn", "rice", "a barn"]
    packed = client.embeddings.create(model=VECTORS, input=texts)  # asks for base64 by default
    plain = client.embeddings.create(model=VECTORS, input=texts, encoding_format="float")
    strict(CreateEmbeddingResponse, plain.to_dict())
    for one, other in zip(packed.data, plain.data, strict=True):
        assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(one.embedding, other.embedding, strict=True))
    assert plain.data[0].embedding == plain.data[2].embedding != plain.data[1].embedding
    assert [item.index for item in plain.data] == [0, 1, 2]
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0
    few = client.embeddings.create(model=VECTORS, input="a barn", dimensions=2)
    assert len(few.data[0].embedding) == 2


def test_wordings_of_a_question_have_the_nearest_vectors(client):
    texts = ["What is a lumbung?", "Tell me what a lumbung is.", "What is the capital of France?", "Which city is the capital of France?"]
    vectors = [item.embedding for item in client.embeddings.create(model=VECTORS, input=texts).data]
    alike = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in vectors] for one in vectors]
    assert all(math.isclose(alike[at][at], 1, abs_tol=1e-3) for at in range(4)), "of length one"
    for at in range(4):
        assert max((other for other in range(4) if other != at), key=lambda other: alike[at][other]) == at ^ 1


def test_token_ids_and_shorter_vectors(client):
    reply = client.embeddings.create(model=VECTORS, input=[[5, 6, 7], [8]], dimensions=32)
    assert (reply.usage.prompt_tokens, [len(item.embedding) for item in reply.data]) == (4, [32, 32])
    for item in reply.data:
        assert math.isclose(sum(number * number for number in item.embedding), 1, abs_tol=1e-3), "of length one again"
    flat = client.embeddings.create(model=VECTORS, input=[5, 6, 7], dimensions=32)
    assert flat.data[0].embedding == reply.data[0].embedding


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [[99_999]]}, "input"),
        ({"input": "rice " * 3000}, "input"),
        ({"dimensions": 100_000}, "dimensions"),
        ({"dimensions": 129}, "dimensions"),
        ({"model": MODEL}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_embedding_names_the_parameter(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": VECTORS, "input": "x", **change})
    assert caught.value.param == param
