"""Tokens lose nothing, and a plain word is one."""

from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.tokens import tokenize


@given(st.text())
def test_the_pieces_of_a_text_joined_are_the_text(text: str) -> None:
    pieces = tokenize(text)

    assert "".join(pieces) == text
    assert all(pieces)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)))
def test_words_of_up_to_eight_letters_are_one_token_each(words: list[str]) -> None:
    assert len(tokenize(" ".join(words))) == len(words)


@given(st.lists(st.integers(0, 99_999_999)))
def test_numbers_of_up_to_eight_digits_are_one_token_each(numbers: list[int]) -> None:
    assert len(tokenize(" ".join(map(str, numbers)))) == len(numbers)


def test_the_space_goes_with_the_word_after_it() -> None:
    assert tokenize("Hello, my world!\n") == ["Hello", ",", " my", " world", "!", "\n"]
