"""System prompts."""

import pytest

from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.dataplane.agent.template import MAX_LENGTH, SystemPrompt


def compiled(source: str) -> SystemPrompt:
    return SystemPrompt(source, agent="clerk", namespace="shop", labels={"team": "sales"})


def test_a_prompt_sees_its_agent_and_session() -> None:
    prompt = compiled("You are {{ agent }} of {{ namespace }}/{{ labels.team }}, talking in {{ session }}.")
    assert prompt.render("s1") == "You are clerk of shop/sales, talking in s1."
    assert prompt.render("s1") == prompt.render("s1")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Hello\n{{ agent", "line 2: unexpected end of template"),
        ("Hello\n\n{% if agent %}", "line 3: "),
        ("Hello\n{{ agnet }}", r"line 2: there is no 'agnet' here; a system prompt sees agent, labels, namespace"),
        ("Hello\n{{ labels.town }}", "line 2: .*has no attribute 'town'"),
        ("\n\n{{ 1 / 0 }}", "line 3: division by zero"),
        ("{% include 'secrets' %}", "line 1: no loader"),
        ("{{ agent.__class__.__mro__ }}", "line 1: access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ labels.update({'a': 'b'}) }}", "line 1: .*not safe|line 1: access to attribute 'update'"),
        (f"{{{{ 'x' * {MAX_LENGTH + 1} }}}}", "renders to"),
    ],
)
def test_a_wrong_template_is_found_when_it_is_compiled(source: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as raised:
        compiled(source)
    assert raised.value.reason == "BAD_TEMPLATE"
    assert raised.value.resource == "Agent/shop/clerk"
    assert "\n" not in str(raised.value)


def test_a_template_that_fails_for_one_session_fails_that_turn() -> None:
    prompt = compiled("{% if session == 'bad' %}\n{{ 1 / 0 }}{% endif %}")
    assert prompt.render("good") == ""
    with pytest.raises(FailedPrecondition, match="line 2: division by zero"):
        prompt.render("bad")
