"""Messages of a chat as a prompt: control tokens come from the tokenizer's template alone, never from what was said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from r3mem.errors import InputError
from r3mem.plain_data.text_ids import check_characters, control_tokens, ids_going_on, text_ids

#: Messages of a chat, in order: ``{"role": ..., "content": ...}``.
Chat = Sequence[Mapping[str, Any]]

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "model")


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of messages.

    Args:
        prompt: What was given as a prompt.
    """
    return isinstance(prompt, list | tuple) and bool(prompt) and all(isinstance(each, Mapping) for each in prompt)


def chat_ids(messages: Chat, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a chat, ready for the model's turn.

    Args:
        messages: ``{"role": ..., "content": ...}``; content is a string or a list of text parts.
        tokenizer: Has the template.

    Raises:
        InputError: No template, a message that has more than role and text, or a template that changes what was said.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no chat template, so messages cannot be a prompt: give a string")
    said = [_content(message, i) for i, message in enumerate(messages)]
    ids: list[int] = []
    controls = control_tokens(tokenizer)
    numbers = {name: number for number, name in controls.items()}
    names = "|".join(re.escape(name) for name in sorted(numbers, key=len, reverse=True))
    plain, strip_next = "", False

    def spell(text: str) -> list[int]:
        return ids_going_on(text, tokenizer, ids) if ids else text_ids(text, tokenizer)

    for piece, of_template in _pieces(messages, said, tokenizer):
        if not of_template or not names:
            plain += piece
            continue
        for part in re.split(f"({names})", piece):
            if part not in numbers:
                plain += part
                continue
            token = tokenizer.added_tokens_decoder.get(numbers[part])
            plain = plain.lstrip() if strip_next else plain
            plain = plain.rstrip() if token is not None and token.lstrip else plain
            ids += [*(spell(plain) if plain else ()), numbers[part]]
            plain, strip_next = "", token is not None and token.rstrip
    plain = plain.lstrip() if strip_next else plain
    return [*ids, *(spell(plain) if plain else ())]


def _content(message: Mapping[str, Any], i: int) -> str:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InputError(f"message {i}: role is one of {', '.join(ROLES)}, not {role!r}")
    others = sorted(set(message) - {"role", "content"})
    if others:
        raise InputError(f"message {i}: only role and content are read, and it has {', '.join(map(str, others))}")
    if isinstance(content, list | tuple):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"message {i}: parts of content are {{'type': 'text', 'text': ...}}, nothing else is read")
        content = "".join(map(str, texts))
    if not isinstance(content, str):
        raise InputError(f"message {i}: content is a string, not {type(content).__name__}: leave the message out")
    check_characters(content)
    return content


def _pieces(
    messages: Sequence[Mapping[str, Any]], said: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, bool]]:
    """The chat as the template writes it: ``(text, whether it is the template's)``, in order.

    Where contents stand is found with placeholders; that they stand there unchanged is checked with the contents.
    """
    roles = [str(message["role"]) for message in messages]
    salt = "r3mem"
    while any(salt in text for text in said):
        salt += "x"
    marks = [f"{salt}{i}end" for i in range(len(said))]
    rendered, marked = (_rendered(roles, contents, tokenizer) for contents in (said, marks))
    found = re.split(f"({'|'.join(marks)})", marked)
    for stripped in (False, True):
        contents = {mark: text.strip() if stripped else text for mark, text in zip(marks, said, strict=True)}
        pieces = [(contents.get(piece, piece), piece not in contents) for piece in found]
        if "".join(text for text, _ in pieces) == rendered:
            return pieces
    raise InputError(
        "the tokenizer's chat template changes what was said, or writes another chat for it: content cannot be kept "
        "apart from the template's control tokens. Give the prompt as a string"
    )


def _rendered(roles: Sequence[str], contents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # Templates raise what they like: jinja2's errors, or their own words.
        raise InputError(f"the tokenizer's chat template refuses these messages ({error})") from error
