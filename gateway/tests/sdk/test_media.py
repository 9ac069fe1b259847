"""Pictures and sounds through the official `openai` and `anthropic` packages for Python, unmodified, to a server beside a
provider, which gets what was sent.

BASE_URL, API_KEY  as in `.demo/env`
SEEING_MODEL       a model that takes pictures and sounds
SCRIPTED_MODEL     a model that takes text
ASKED_URL          where the server shows the last body that it got
"""

import json
import os

import anthropic
import httpx2
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from collected import http_client

BASE_URL, API_KEY = os.environ["BASE_URL"], os.environ["API_KEY"]
SEEING, READING = os.environ["SEEING_MODEL"], os.environ["SCRIPTED_MODEL"]
DATA, ELSEWHERE = "data:image/png;base64,iVBORw0KGgo=", "https://example.org/a.png?x=1"
CONTENT = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
    {"type": "image_url", "image_url": {"url": ELSEWHERE}},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
]


@pytest.fixture
def client():
    with openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0, http_client=http_client()) as client:
        yield client


def asked():
    return json.loads(httpx2.get(os.environ["ASKED_URL"]).text)


def strict(kind, document):
    return pydantic.TypeAdapter(kind).validate_json(json.dumps(document), strict=True)


def test_parts_of_a_chat_reach_the_server(client):
    ask = {"model": SEEING, "messages": [{"role": "user", "content": CONTENT}], "max_tokens": 20}
    reply = client.chat.completions.create(**ask)
    strict(ChatCompletion, reply.to_dict())
    assert asked()["messages"][0]["content"] == CONTENT
    details = reply.usage.prompt_tokens_details
    assert (reply.usage.prompt_tokens, details.image_tokens, details.audio_tokens, details.text_tokens) == (3000, 2900, 50, 40)
    *_, last = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    strict(ChatCompletionChunk, last.to_dict())
    assert last.usage == reply.usage and asked()["messages"][0]["content"] == CONTENT


def test_parts_of_a_response_reach_the_server(client):
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": DATA, "detail": "low"},
        {"type": "input_image", "image_url": ELSEWHERE, "detail": "auto"},
    ]
    reply = client.responses.create(model=SEEING, input=[{"role": "user", "content": content}])
    strict(Response, reply.to_dict())
    images = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url, detail in [(DATA, "low"), (ELSEWHERE, "auto")]]
    assert asked()["messages"][0]["content"] == [CONTENT[0], *images]
    assert reply.output_text == "A picture."


def test_images_of_a_message_reach_the_server():
    claude = anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY, max_retries=0)
    sources = [{"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}, {"type": "url", "url": ELSEWHERE}]
    content = [{"type": "image", "source": source} for source in sources]
    reply = claude.messages.create(model=SEEING, max_tokens=20, messages=[{"role": "user", "content": content}])
    assert asked()["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": url}} for url in [DATA, ELSEWHERE]]
    assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens) == (2985, 10)


def test_a_model_that_takes_text_says_where_there_is_something_else(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=READING, messages=[{"role": "user", "content": CONTENT}])
    assert (caught.value.param, caught.value.code) == ("messages[0].content[1]", "unsupported_content")
