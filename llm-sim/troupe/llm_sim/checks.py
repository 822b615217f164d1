"""What a request may not say although each field of it is well formed: the rules of the OpenAI API between fields."""

from collections.abc import Sequence

from troupe.llm_sim.errors import bad_request
from troupe.llm_sim.protocol import AssistantMessage, ChatRequest, ChosenTool, Message, ToolMessage


def check(request: ChatRequest) -> None:
    """Raises ApiError 400 for the first rule that does not hold."""
    _check_options(request)
    _check_tools(request)
    _check_order(request.messages)


def _check_options(request: ChatRequest) -> None:
    if request.stream_options and not request.stream:
        raise bad_request("'stream_options' is only allowed when 'stream' is set to true.", "stream_options")
    if request.n not in (None, 1):
        raise bad_request("The simulator gives one choice: leave 'n' out or set it to 1.", "n", "unsupported_value")
    if request.logprobs:
        raise bad_request("The simulator has no log probabilities.", "logprobs", "unsupported_value")
    if request.response_format and request.response_format.type != "text":
        raise bad_request(
            "The simulator answers in plain text: use a tool to get JSON.", "response_format.type", "unsupported_value"
        )


def _check_tools(request: ChatRequest) -> None:
    if not request.tools:
        if request.tool_choice not in (None, "none"):
            raise bad_request("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
        if request.parallel_tool_calls is not None:
            raise bad_request(
                "'parallel_tool_calls' is only allowed when 'tools' are specified.", "parallel_tool_calls"
            )
        return
    names = {tool.function.name for tool in request.tools}
    if isinstance(request.tool_choice, ChosenTool) and request.tool_choice.function.name not in names:
        name = request.tool_choice.function.name
        raise bad_request(f"Tool choice '{name}' is not among 'tools'.", "tool_choice", "invalid_value")


def _check_order(messages: Sequence[Message]) -> None:
    waiting: set[str] = set()
    for place, message in enumerate(messages):
        here = f"messages[{place}]"
        match message:
            case ToolMessage(tool_call_id=call):
                if call not in waiting:
                    raise bad_request(
                        "A message with role 'tool' must answer a call of the preceding message with 'tool_calls'; "
                        f"there is no open call '{call}'.",
                        f"{here}.tool_call_id",
                    )
                waiting.remove(call)
            case _ if waiting:
                raise _unanswered(waiting, here)
            case AssistantMessage(tool_calls=calls) if calls:
                waiting = {call.id for call in calls}
            case AssistantMessage(content=None):
                raise bad_request("An assistant message needs 'content' or 'tool_calls'.", f"{here}.content")
            case _:
                pass
    if waiting:
        raise _unanswered(waiting, "messages")


def _unanswered(waiting: set[str], param: str) -> Exception:
    return bad_request(
        "An assistant message with 'tool_calls' must be followed by tool messages that answer each 'tool_call_id'; "
        f"not answered: {', '.join(sorted(waiting))}.",
        param,
    )
