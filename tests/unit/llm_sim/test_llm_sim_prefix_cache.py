"""The prefix cache finds what a real one would find: whole blocks from the start, except for the last token."""

from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.prefix_cache import BLOCK, PrefixCache

PROMPTS = st.lists(st.sampled_from("ab"), max_size=5 * BLOCK)


def test_a_new_prompt_finds_nothing() -> None:
    assert PrefixCache(100).cached(["a"] * 100) == 0


@given(PROMPTS, PROMPTS, PROMPTS)
def test_what_is_found_is_the_common_beginning_in_whole_blocks(
    common: list[str], one: list[str], other: list[str]
) -> None:
    cache = PrefixCache(1000)
    cache.fill(common + one)

    found = cache.cached(common + other)

    shared = 0
    while shared < min(len(common + one), len(common + other)) and (common + one)[shared] == (common + other)[shared]:
        shared += 1
    assert found == min(shared, max(len(common + other) - 1, 0)) // BLOCK * BLOCK


def test_the_last_token_is_always_computed() -> None:
    cache = PrefixCache(100)
    prompt = ["a"] * (2 * BLOCK)
    cache.fill(prompt)

    assert cache.cached(prompt) == BLOCK
    assert cache.cached([*prompt, "b"]) == 2 * BLOCK


@given(st.lists(PROMPTS), st.integers(0, 6))
def test_it_never_holds_more_than_its_capacity(prompts: list[list[str]], capacity: int) -> None:
    cache = PrefixCache(capacity)

    for prompt in prompts:
        cache.fill(prompt)
        assert len(cache) <= capacity


def test_the_end_of_a_text_is_let_go_before_its_beginning_and_the_unused_before_the_used() -> None:
    cache = PrefixCache(4)
    old, new = ["old"] * (3 * BLOCK), ["new"] * (2 * BLOCK)
    cache.fill(old)

    cache.fill(new)

    assert cache.cached([*old, "?"]) == 2 * BLOCK
    assert cache.cached([*new, "?"]) == 2 * BLOCK
