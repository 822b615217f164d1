"""The words of a conversation: entries of its history, a model's answers, what they used.

All are immutable values that `msgspec` encodes as JSON or MessagePack; the tags and field names are what stores
hold, so a change to one needs an upcaster in `history`.
"""

from msgspec import Struct

from troupe.dataplane.tools.call import ToolCall, ToolMessage


class UserMessage(Struct, frozen=True, tag="user"):
    """What somebody said to the agent. `message_id` names the turn that it began."""

    text: str
    message_id: str


class AssistantMessage(Struct, frozen=True, tag="assistant", omit_defaults=True):
    """What the model said, or the calls that it asked for, or both."""

    text: str
    message_id: str
    tool_calls: tuple[ToolCall, ...] = ()


Entry = UserMessage | AssistantMessage | ToolMessage
"""One entry of a history. A tool entry follows the assistant entry that asked for it, before any other kind."""


class TokenUsage(Struct, frozen=True, omit_defaults=True):
    """Tokens of one model call, as the model server counted them; all 0 where it does not count."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Of `prompt`, those that came from a prefix cache."""


class ModelAnswer(Struct, frozen=True, omit_defaults=True):
    """A model's complete answer to one call."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    """`stop`, `tool_calls`, `length`, `content_filter`, or a word of the server's own."""
    usage: TokenUsage = TokenUsage()


class Usage(Struct, frozen=True, omit_defaults=True):
    """What several model calls and their tools used; `+` sums."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0

    @classmethod
    def of(cls, answer: ModelAnswer) -> "Usage":
        """One model call and the tool calls that it asked for."""
        return cls(
            prompt_tokens=answer.usage.prompt,
            completion_tokens=answer.usage.completion,
            cached_prompt_tokens=answer.usage.cached,
            model_calls=1,
            tool_calls=len(answer.tool_calls),
        )

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens + other.cached_prompt_tokens,
            model_calls=self.model_calls + other.model_calls,
            tool_calls=self.tool_calls + other.tool_calls,
        )
