"""What does a client ask for, and what is it answered: the OpenAI API's completions as values and JSON, without HTTP.

After the API reference of OpenAI (completions, chat completions, streaming, errors) with the two fields that vLLM adds
and load generators need: a prompt may be a list of token ids, and ``ignore_eos`` asks for all of ``max_tokens``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["text", "chat"]

CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb for English; nothing is tokenised here."""

CHAT_PROMPT_TOKENS, CHAT_MESSAGE_TOKENS = 3, 4
"""Tokens that a chat template adds per prompt and per message, as OpenAI's cookbook counts them for GPT-4."""

DEFAULT_MAX_TOKENS = 16
"""What the completions API generates when nothing is said; chat goes on to the end of the context."""

_WORD = " token"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: For people.
        kind: OpenAI's type of error.
        param: The field that is wrong, if one is.
        code: OpenAI's code, for programs.
    """

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None,
    ) -> None:  # fmt: skip
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        super().__init__(message)

    def body(self) -> bytes:
        """Return the JSON body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def overloaded(message: str) -> ApiError:
    """Return the error of an engine that cannot take the request now."""
    return ApiError(503, message, "service_unavailable_error", code="service_unavailable")


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What was asked.

    Attributes:
        kind: Which of the two APIs.
        model: As the client calls it.
        prompt_tokens: At least 1.
        max_tokens: At least 1; None for as many as the context holds.
        ignore_eos: Whether exactly ``max_tokens`` are to come.
        stream: Whether tokens are sent as they come.
        include_usage: Whether a stream ends with the counts.
    """

    kind: Kind
    model: str
    prompt_tokens: int
    max_tokens: int | None
    ignore_eos: bool
    stream: bool
    include_usage: bool


def parse_request(kind: Kind, body: bytes) -> CompletionRequest:
    """Return what the body asks for.

    Raises:
        ApiError: If it is not JSON, or a field is missing, of the wrong type or out of range; naming the field.
    """
    try:
        said = json.loads(body)
    except ValueError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(said, dict):
        raise ApiError(400, "The body of the request must be a JSON object.")
    model = _typed(said, "model", str, required=True)
    choices = _typed(said, "n", int)
    if choices not in (None, 1):
        raise ApiError(400, "Only one choice is generated here.", param="n", code="unsupported_value")
    prompt_tokens = _prompt_tokens(said) if kind == "text" else _chat_tokens(said)
    if not prompt_tokens:
        field = "prompt" if kind == "text" else "messages"
        raise ApiError(400, f"'{field}' is empty.", param=field, code="invalid_value")
    options = _typed(said, "stream_options", dict) or {}
    return CompletionRequest(
        kind=kind,
        model=model,
        prompt_tokens=prompt_tokens,
        max_tokens=_max_tokens(kind, said),
        ignore_eos=bool(_typed(said, "ignore_eos", bool)),
        stream=bool(_typed(said, "stream", bool)),
        include_usage=bool(_typed(options, "include_usage", bool)),
    )


def _typed(said: Mapping[str, Any], field: str, wanted: type, *, required: bool = False) -> Any:
    value = said.get(field)
    if value is None:
        if required:
            raise ApiError(
                400, f"You must provide a '{field}' parameter.", param=field, code="missing_required_parameter"
            )
        return None
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        what = f"'{field}' must be of type {wanted.__name__}, got {type(value).__name__}."
        raise ApiError(400, what, param=field, code="invalid_type")
    return value


def _max_tokens(kind: Kind, said: Mapping[str, Any]) -> int | None:
    field = (
        "max_completion_tokens" if kind == "chat" and said.get("max_completion_tokens") is not None else "max_tokens"
    )
    most: int | None = _typed(said, field, int)
    if most is None:
        return None if kind == "chat" else DEFAULT_MAX_TOKENS
    if most < 1:
        raise ApiError(400, f"'{field}' must be at least 1, got {most}.", param=field, code="integer_below_min_value")
    return most


def _prompt_tokens(said: Mapping[str, Any]) -> int:
    prompt = said.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]  # a batch of one
    if isinstance(prompt, str):
        return _text_tokens(prompt)
    if isinstance(prompt, list) and all(type(token) is int for token in prompt):
        return len(prompt)
    if prompt is None:
        raise ApiError(400, "You must provide a 'prompt' parameter.", param="prompt", code="missing_required_parameter")
    what = "'prompt' must be one string or one list of token ids."
    raise ApiError(400, what, param="prompt", code="invalid_type")


def _chat_tokens(said: Mapping[str, Any]) -> int:
    messages: list[Any] = _typed(said, "messages", list, required=True)
    tokens = 0
    for position, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, "A message needs a 'role'.", param=f"messages[{position}]", code="invalid_type")
        tokens += CHAT_MESSAGE_TOKENS + _content_tokens(content)
    return tokens + CHAT_PROMPT_TOKENS if messages else 0


def _content_tokens(content: object) -> int:
    if isinstance(content, str):
        return _text_tokens(content)
    if isinstance(content, list):  # parts; only text has a length here
        return sum(_text_tokens(str(part.get("text") or "")) for part in content if isinstance(part, dict))
    return 0


def _text_tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class Answer:
    """The bodies of one answer. What is the same for every token is put together once.

    Args:
        asked: The request.
        answer_id: Number that no other answer of this engine has.
        created_at: Seconds since the Unix epoch.
    """

    __slots__ = ("_asked", "_head", "_token", "id")

    def __init__(self, asked: CompletionRequest, answer_id: str, created_at: float) -> None:
        chat = asked.kind == "chat"
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{answer_id}"
        self._asked = asked
        name = ("chat.completion" if chat else "text_completion") + (".chunk" if chat and asked.stream else "")
        self._head = {"id": self.id, "object": name, "created": int(created_at), "model": asked.model}
        self._token = self._event([self._choice(_WORD, None)])

    def opening(self) -> bytes:
        """Return what a stream begins with, before any token: a chat names the role."""
        if self._asked.kind == "text":
            return b""
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def tokens(self, count: int) -> bytes:
        """Return the events of ``count`` tokens that are not the last."""
        return self._token * count

    def closing(self, count: int, reason: str, generated: int) -> bytes:
        """Return the events of the last ``count`` tokens, the reason for the end, the counts if wanted, and the end."""
        parts = [self._token * (count - 1), self._event([self._choice(_WORD, reason)])]
        if self._asked.include_usage:
            parts.append(self._event([], self._usage(generated)))
        return b"".join((*parts, b"data: [DONE]\n\n"))

    def whole(self, reason: str, generated: int) -> bytes:
        """Return the body of an answer that is not streamed."""
        text = (_WORD * generated).lstrip()
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self._asked.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return json.dumps({**self._head, "choices": [choice], "usage": self._usage(generated)}).encode()

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        body = {"delta": {"content": text}} if self._asked.kind == "chat" else {"text": text}
        return {"index": 0, **body, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, int] | None = None) -> bytes:
        content: dict[str, Any] = {**self._head, "choices": choices}
        if usage is not None:
            content["usage"] = usage
        return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"

    def _usage(self, generated: int) -> dict[str, int]:
        prompt = self._asked.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def models_body(model: str, revision: str, context_tokens: int, created_at: float) -> bytes:
    """Return the list of models that an engine serves: one."""
    entry = {
        "id": model,
        "object": "model",
        "created": int(created_at),
        "owned_by": "foresail",
        "root": model,
        "revision": revision,
        "max_model_len": context_tokens,
    }
    return json.dumps({"object": "list", "data": [entry]}).encode()
