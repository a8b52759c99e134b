"""Are completions parsed and answered as the OpenAI API does?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulations.live.openai_api import Answer, ApiError, CompletionRequest, parse_request


def parsed(kind: Any = "text", **fields: Any) -> CompletionRequest:
    return parse_request(kind, json.dumps({"model": "m", **fields}).encode())


def refused(kind: Any = "text", **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parsed(kind, **fields)
    return caught.value


def events(data: bytes) -> list[Any]:
    return [
        "end" if event == b"data: [DONE]" else json.loads(event.removeprefix(b"data: "))
        for event in data.split(b"\n\n")[:-1]
    ]


def test_a_prompt_of_token_ids_has_as_many_tokens_and_ends_after_sixteen_by_default() -> None:
    asked = parsed(prompt=[5, 6, 7])
    assert (asked.prompt_tokens, asked.max_tokens, asked.stream, asked.ignore_eos) == (3, 16, False, False)


def test_a_text_has_a_token_per_four_characters() -> None:
    assert parsed(prompt="hello there!").prompt_tokens == 3
    assert parsed(prompt=["hello there"]).prompt_tokens == 3
    assert parsed(prompt=[[1, 2]]).prompt_tokens == 2


def test_a_chat_has_the_tokens_of_its_messages_and_of_the_template_and_no_default_end() -> None:
    asked = parsed("chat", messages=[{"role": "user", "content": "12345678"}, {"role": "assistant", "content": None}])
    assert asked.prompt_tokens == 3 + (4 + 2) + 4
    assert asked.max_tokens is None
    parts = [{"type": "text", "text": "12345678"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert parsed("chat", messages=[{"role": "user", "content": parts}]).prompt_tokens == 3 + 4 + 2


def test_max_completion_tokens_wins_over_the_older_name_in_chats() -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert parsed("chat", **chat, max_completion_tokens=5, max_tokens=9).max_tokens == 5
    assert parsed("chat", **chat, max_tokens=9).max_tokens == 9


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": "7"}, "max_tokens"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens"),
        ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "stream": "yes"}, "stream"),
        ({"prompt": "x", "stream_options": []}, "stream_options"),
        ({"prompt": "x", "model": None}, "model"),
        ({"prompt": "x", "model": 3}, "model"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    body = json.loads(error.body())["error"]
    assert (error.status, body["type"], body["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize("messages", [None, [], "hi", [3], [{"content": "no role"}]])
def test_chats_without_proper_messages_are_refused(messages: object) -> None:
    assert refused("chat", messages=messages).status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError):
        parse_request("text", body)


def test_a_stream_has_an_event_per_token_then_the_reason_the_counts_and_the_end() -> None:
    asked = parsed(prompt=[1, 2], stream=True, stream_options={"include_usage": True})
    answer = Answer(asked, "7", 1000.0)
    told = events(answer.opening() + answer.tokens(2) + answer.closing(1, "length", 3))
    assert [event["choices"][0]["finish_reason"] for event in told[:3]] == [None, None, "length"]
    assert told[3]["choices"] == []
    assert told[3]["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert told[4] == "end"
    assert {event["id"] for event in told[:4]} == {"cmpl-7"}


def test_a_chat_stream_begins_with_the_role_and_counts_only_when_asked() -> None:
    asked = parsed("chat", messages=[{"role": "user", "content": "hi"}], stream=True)
    answer = Answer(asked, "7", 1000.0)
    told = events(answer.opening() + answer.closing(1, "stop", 1))
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert told[1]["object"] == "chat.completion.chunk"
    assert told[1]["choices"][0]["finish_reason"] == "stop"
    assert told[2:] == ["end"]


def test_a_whole_answer_has_the_text_and_the_counts() -> None:
    text = json.loads(Answer(parsed(prompt=[1]), "7", 1000.0).whole("length", 3))
    assert text["choices"][0]["text"] == "token token token"
    assert text["usage"]["completion_tokens"] == 3
    chat = json.loads(Answer(parsed("chat", messages=[{"role": "user", "content": "a"}]), "7", 1.0).whole("stop", 1))
    assert chat["object"] == "chat.completion"
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "token"}
