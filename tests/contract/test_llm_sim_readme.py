"""The README of the simulator tells the truth: its commands run, and their answers have the lines that it shows."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from troupe.llm_sim.process import running
from troupe.llm_sim.settings import LlmSimSettings

README = Path(__file__).parents[2] / "llm-sim" / "README.md"
EXAMPLE = re.compile(r"```sh\n(?P<command>.*?)```\n\n```(?:json|text)\n(?P<shown>.*?)```", re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands need curl")
async def test_every_command_answers_as_shown() -> None:
    text = README.read_text()
    examples = list(EXAMPLE.finditer(text))
    assert len(examples) == text.count("```sh\n") > 10

    async with running(LlmSimSettings(listen="127.0.0.1:0")) as simulator:
        for example in examples:
            command = example["command"].replace("127.0.0.1:7072", simulator.address)
            answer = await _output(command)
            for line in example["shown"].splitlines():
                assert line in answer, f"{command}\nanswered\n{answer}"


async def _output(command: str) -> str:
    shell = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await shell.communicate()
    return (output + errors).decode()
