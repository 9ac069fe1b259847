"""What the official SDK makes of limits: its own exception, and a wait of as long as it was told.

BASE_URL, MODEL
PACED_KEY                  a key with 240 tokens a minute
ONE_KEY                    a key that may ask once at a time
"""

import os
import threading
import time

import openai
import pytest

BASE_URL = os.environ["BASE_URL"]
# With the message about 225 tokens, as far as can be said beforehand; the answer has a few.
ASK = {"model": os.environ["MODEL"], "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 200}


def client(key, retries):
    return openai.OpenAI(base_url=BASE_URL, api_key=os.environ[key], max_retries=retries)


def test_a_rate_is_a_rate_limit_error_that_says_when_and_the_sdk_waits_as_long():
    client("PACED_KEY", 0).chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as caught:
        client("PACED_KEY", 0).chat.completions.create(**ASK)
    error = caught.value
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "tokens")
    told = float(error.response.headers["retry-after-ms"]) / 1000
    assert 0 < told <= 60 and told <= float(error.response.headers["retry-after"]) < told + 1
    assert "x-should-retry" not in error.response.headers
    assert int(error.response.headers["x-ratelimit-limit-tokens"]) == 240

    begun = time.monotonic()
    reply = client("PACED_KEY", 2).chat.completions.create(**ASK)
    assert reply.choices[0].message.content
    assert told - 0.5 < time.monotonic() - begun < told + 5


def test_too_many_at_once_is_one_too():
    running = client("ONE_KEY", 0).chat.completions.create(**ASK, stream=True)
    next(iter(running))
    with pytest.raises(openai.RateLimitError) as caught:
        client("ONE_KEY", 0).chat.completions.create(**ASK)
    assert caught.value.code == "rate_limit_exceeded"
    assert float(caught.value.response.headers["retry-after"]) == 1
    waiting = threading.Thread(target=lambda: [chunk for chunk in running])
    waiting.start()
    assert client("ONE_KEY", 5).chat.completions.create(**ASK).choices[0].message.content
    waiting.join()
