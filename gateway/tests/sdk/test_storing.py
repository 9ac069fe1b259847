"""Responses that the gateway keeps, through the official `openai` package for Python, unmodified.

BASE_URL, API_KEY, MODEL  of a gateway that keeps responses; the model is the bundled one
POOR_KEY                  of another account
QUESTIONS                 provider-runtime/models/questions.json
"""

import json
import os
from pathlib import Path

import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent

from collected import http_client

MODEL = os.environ["MODEL"]
QUESTIONS = json.loads(Path(os.environ["QUESTIONS"]).read_text("utf-8"))
(FIRST, ANSWER), (SECOND, _) = [(pair["question"], pair["answer"]) for pair in QUESTIONS[:2]]
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


@pytest.fixture
def client():
    with openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0, http_client=http_client()) as client:
        yield client


@pytest.fixture
def stranger():
    with openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["POOR_KEY"], max_retries=0, http_client=http_client()) as client:
        yield client


def strict(kind, document):
    return pydantic.TypeAdapter(kind).validate_json(json.dumps(document), strict=True)


def gone(client, id):
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=SECOND, previous_response_id=id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_response_is_kept_as_it_was_answered_until_it_is_deleted(client, stranger):
    reply = client.responses.create(model=MODEL, input=FIRST, temperature=0, instructions="Be brief.", metadata={"a": "b"})
    assert reply.store is True
    kept = client.responses.retrieve(reply.id)
    strict(Response, kept.to_dict())
    assert kept.to_dict() == reply.to_dict()
    gone(stranger, reply.id)
    client.responses.delete(reply.id)
    gone(client, reply.id)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_conversation_goes_on_as_if_all_of_it_had_been_sent(client, stream):
    def answer(**ask):
        ask = {"model": MODEL, "temperature": 0, **ask}
        if not stream:
            return client.responses.create(**ask)
        events = [strict(ResponseStreamEvent, event.to_dict()) for event in client.responses.create(**ask, stream=True)]
        assert {event.response.store for event in events if hasattr(event, "response")} == {ask.get("store", True)}
        return events[-1].response

    first = answer(input=FIRST)
    assert first.output_text == ANSWER and first.previous_response_id is None
    second = answer(input=[{"role": "user", "content": SECOND}], previous_response_id=first.id)
    assert (second.previous_response_id, second.store) == (first.id, True)
    third = answer(input=FIRST, previous_response_id=second.id, store=False)
    assert (third.previous_response_id, third.store) == (second.id, False)

    said = [{"role": "user", "content": FIRST}, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": SECOND}]
    whole = answer(input=said, store=False)
    assert (whole.output_text, whole.usage.input_tokens) == (second.output_text, second.usage.input_tokens)
    said += [{"role": "assistant", "content": second.output_text}, {"role": "user", "content": FIRST}]
    whole = answer(input=said, store=False)
    assert (whole.output_text, whole.usage.input_tokens) == (third.output_text, third.usage.input_tokens)

    assert client.responses.retrieve(second.id).output_text == second.output_text
    for id in (third.id, whole.id):  # the client did not want these kept
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(id)

    # What it answers, page by page: one item to a page, so that the SDK asks for each.
    items = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    for item in items:
        strict(ResponseItem, item.to_dict())
    assert [(item.role, item.content[0].text) for item in items] == [("user", FIRST), ("assistant", ANSWER), ("user", SECOND)]
    assert [item.id for item in client.responses.input_items.list(second.id)] == [item.id for item in reversed(items)]
    assert len({item.id for item in items}) == 3

    # A turn that is deleted is deleted for all that go on from it.
    client.responses.delete(first.id)
    assert client.responses.retrieve(second.id).id == second.id
    with pytest.raises(openai.BadRequestError) as caught:
        answer(input=FIRST, previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_tools_result_is_all_that_the_next_turn_must_say(client):
    ask = {"model": MODEL, "tools": [WEATHER], "temperature": 0}
    first = client.responses.create(input="The weather in Jakarta?", tool_choice="required", **ask)
    call = next(item for item in first.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "30 degrees"}
    second = client.responses.create(input=[result], tool_choice="none", max_output_tokens=20, previous_response_id=first.id, **ask)
    assert second.status in ("completed", "incomplete")
    kinds = [item.type for item in client.responses.input_items.list(second.id, order="asc")]
    assert kinds[0] == "message" and kinds[-2:] == ["function_call", "function_call_output"]


def test_what_is_wrong_is_named(client):
    first = client.responses.create(model=MODEL, input=FIRST, max_output_tokens=1)
    assert first.status == "incomplete" and client.responses.retrieve(first.id).status == "incomplete"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=[{"role": "user", "content": 7}], previous_response_id=first.id)
    assert caught.value.param == "input[0].content", "by the client's own numbers"
    for bad in ("resp_none", "resp_\0", ""):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input=FIRST, previous_response_id=bad)
        assert caught.value.param == "previous_response_id"
    for query, param in [({"limit": 0}, "limit"), ({"order": "x"}, "order"), ({"after": "msg_x"}, "after")]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.input_items.list(first.id, **query)
        assert caught.value.param == param
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.retrieve(first.id, stream=True)
    assert caught.value.param == "stream"
