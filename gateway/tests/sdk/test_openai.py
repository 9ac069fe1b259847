"""The official `openai` package for Python, unmodified, against a running gateway.

BASE_URL, API_KEY, MODEL  as in `.demo/env`; the model is the bundled one
QUESTIONS                 provider-runtime/models/questions.json, unless set
POOR_KEY                  a key of an account without credit
IDLE_MODEL                a model of the catalogue that nobody serves
LIMITED_KEY               a fresh key that may ask once a minute
"""

import asyncio
import json
import os
import time
from pathlib import Path

import openai
import pytest

from collected import http_client

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
QUESTIONS = json.loads(
    Path(os.environ.get("QUESTIONS") or Path(__file__).parents[3] / "provider-runtime/models/questions.json").read_text("utf-8")
)

poor = pytest.mark.skipif("POOR_KEY" not in os.environ, reason="POOR_KEY is not set")
limited = pytest.mark.skipif("LIMITED_KEY" not in os.environ, reason="LIMITED_KEY is not set")
idle = pytest.mark.skipif("IDLE_MODEL" not in os.environ, reason="IDLE_MODEL is not set")


@pytest.fixture
def client():
    with openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0, http_client=http_client()) as client:
        yield client


def one_of_each_topic():
    first = {}
    for entry in QUESTIONS:
        first.setdefault(entry["topic"], entry)
    return list(first.values())


def ask(question):
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0}


@pytest.mark.parametrize("entry", one_of_each_topic(), ids=lambda entry: entry["topic"])
def test_a_chat_answers_word_for_word(client, entry):
    reply = client.chat.completions.create(**ask(entry["question"]))
    choice = reply.choices[0]
    assert choice.message.content == entry["answer"]
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert (reply.object, reply.model) == ("chat.completion", MODEL)
    assert reply.id.startswith("chatcmpl-") and abs(reply.created - time.time()) < 60
    assert reply.usage.prompt_tokens > 0 and reply.usage.completion_tokens > 0
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_with_usage_says_the_same(client):
    entry = QUESTIONS[0]
    whole = client.chat.completions.create(**ask(entry["question"]))
    chunks = list(client.chat.completions.create(**ask(entry["question"]), stream=True, stream_options={"include_usage": True}))

    assert chunks[0].choices[0].delta.role == "assistant"
    *answer, last = chunks
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set and len(chunk.choices) == 1 for chunk in answer)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == entry["answer"]
    assert [chunk.choices[0].finish_reason for chunk in answer if chunk.choices[0].finish_reason] == ["stop"]
    assert answer[-1].choices[0].finish_reason == "stop"
    assert last.choices == [] and last.usage == whole.usage
    assert {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks} == {
        (last.id, last.created, MODEL, "chat.completion.chunk")
    }
    assert len(answer) > 3, "it came in pieces"


def test_a_stream_without_usage_has_none(client):
    chunks = list(client.chat.completions.create(**ask("Hello!"), stream=True))
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set and chunk.choices for chunk in chunks)


def test_an_answer_may_be_cut_by_max_tokens(client):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = client.chat.completions.create(**ask(QUESTIONS[0]["question"]), **{name: 3})
        assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 3)
        assert QUESTIONS[0]["answer"].startswith(reply.choices[0].message.content)


def test_the_async_client_asks_several_at_once():
    async def run():
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0) as client:

            async def whole(entry):
                return (await client.chat.completions.create(**ask(entry["question"]))).choices[0].message.content

            async def streamed(entry):
                stream = await client.chat.completions.create(**ask(entry["question"]), stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            entries = one_of_each_topic()[:4]
            asked = [way(entry) for entry in entries for way in (whole, streamed)]
            assert await asyncio.gather(*asked) == [entry["answer"] for entry in entries for _ in range(2)]

    asyncio.run(run())


def test_a_stream_may_be_left(client):
    with client.chat.completions.create(**ask(QUESTIONS[0]["question"]), stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(**ask(QUESTIONS[0]["question"])).choices[0].message.content == QUESTIONS[0]["answer"]


def test_models_are_listed_and_found_by_names_with_a_slash(client):
    listed = {model.id: model for model in client.models.list()}
    assert MODEL in listed and "/" in MODEL
    # The SDK asks for `models/lumbung%2Fpadi`.
    assert client.models.retrieve(MODEL) == listed[MODEL]
    assert (listed[MODEL].object, listed[MODEL].owned_by) == ("model", MODEL.split("/")[0])
    plain = client.get(f"/models/{MODEL}", cast_to=object)
    assert plain["id"] == MODEL


def test_every_answer_names_its_request(client):
    raw = client.chat.completions.with_raw_response.create(**ask("Hello!"))
    assert raw.request_id and raw.headers["x-request-id"] == raw.request_id
    again = client.chat.completions.with_raw_response.create(**ask("Hello!"))
    assert again.request_id != raw.request_id
    assert raw.parse()._request_id == raw.request_id


def test_a_wrong_key_is_an_authentication_error():
    for key in ("sk-wrong", API_KEY[:-1], API_KEY + "x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=0).chat.completions.create(**ask("Hello!"))
        assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
        assert caught.value.request_id and key not in str(caught.value)


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**{**ask("Hello!"), "model": "nobody/nothing"})
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/nothing")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "wizard", "content": "Hello!"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages", "context_length_exceeded"),
        ({"store": True}, "store", "unsupported_parameter"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_names_the_parameter(client, change, param, code):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{**ask("Hello!"), **change}, stream=stream)
        assert (caught.value.status_code, caught.value.param, caught.value.code) == (400, param, code)
        assert caught.value.type == "invalid_request_error" and caught.value.request_id


def test_an_endpoint_that_is_not_offered_says_so_in_the_same_shape(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model=MODEL, prompt="a barn")
    assert isinstance(caught.value.body, dict) and caught.value.body["message"]


def test_wishes_about_providers_are_passed_beside_the_request(client):
    for provider in (
        {"sort": "throughput", "order": ["nobody"], "data_collection": "allow"},
        {"sort": {"by": "latency", "partition": "none"}, "max_price": {"prompt": 100}, "preferred_min_throughput": {"p50": 1}},
    ):
        reply = client.chat.completions.create(**ask(QUESTIONS[0]["question"]), extra_body={"provider": provider})
        assert reply.choices[0].message.content == QUESTIONS[0]["answer"]
    for provider, param in (({"only": ["nobody"]}, "provider.only"), ({"zdr": True}, "provider.zdr")):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(**ask("Hello!"), extra_body={"provider": provider})
        assert (caught.value.param, caught.value.code) == (param, "no_allowed_provider")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ask("Hello!"), extra_body={"provider": {"sort": "beauty"}})
    assert (caught.value.param, caught.value.code) == ("provider.sort", "invalid_value")


def test_models_to_fall_back_on_and_suffixes(client):
    entry = QUESTIONS[0]
    for model in ("nobody/nothing", f"{MODEL}:nitro", f"{MODEL}:floor"):
        request = {**ask(entry["question"]), "model": model, "extra_body": {"models": [MODEL]}}
        reply = client.chat.completions.create(**request)
        assert (reply.model, reply.choices[0].message.content) == (MODEL, entry["answer"])
        chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        assert {chunk.model for chunk in chunks} == {MODEL}


def test_a_choice_is_explained(client):
    raw = client.chat.completions.with_raw_response.create(**ask("Hello!"), extra_headers={"X-Lumbung-Explain": "1"})
    why = json.loads(raw.headers["x-lumbung-explain"])
    assert (why["model"], why["attempt"], why["by"]) == (MODEL, 1, "balance")
    assert why["candidates"][0]["slots"] > 0
    assert "x-lumbung-explain" not in client.chat.completions.with_raw_response.create(**ask("Hello!")).headers


@poor
def test_out_of_credit_is_not_tried_again():
    asked = []
    counting = openai.DefaultHttpxClient(event_hooks={"request": [asked.append]})
    client = openai.OpenAI(base_url=BASE_URL, api_key=os.environ["POOR_KEY"], max_retries=3, http_client=counting)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ask("Hello!"))
    assert (caught.value.status_code, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(asked) == 1


@limited
def test_beyond_its_rate_a_key_is_told_when_to_come_back():
    client = openai.OpenAI(base_url=BASE_URL, api_key=os.environ["LIMITED_KEY"], max_retries=0)
    first = client.chat.completions.with_raw_response.create(**ask("Hello!"))
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ask("Hello!"))
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (429, "rate_limit_exceeded", "requests")
    assert 50 <= float(caught.value.response.headers["retry-after"]) <= 60
    assert "x-should-retry" not in caught.value.response.headers


@idle
def test_a_model_without_a_provider_is_unavailable_for_now(client):
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**{**ask("Hello!"), "model": os.environ["IDLE_MODEL"]})
    assert caught.value.status_code == 503
    assert float(caught.value.response.headers["retry-after"]) > 0
    assert isinstance(caught.value.code, str)
