"""Tables for people, JSON and YAML for programs."""

import json

import pytest
import yaml

from troupe.cli.output import Format, document, natural, output, printable, table
from troupe.v1.control_plane_pb2 import RevisionInfo

TWO = [RevisionInfo(revision_id="a", generation=1), RevisionInfo(revision_id="b", generation=2)]


def test_messages_follow_protobufs_json_mapping() -> None:
    assert document({"items": TWO, "more": True}) == {
        "items": [{"revisionId": "a", "generation": "1"}, {"revisionId": "b", "generation": "2"}],
        "more": True,
    }


def test_a_list_is_an_array_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    output(Format.JSON).items(TWO, str)
    assert [one["revisionId"] for one in json.loads(capsys.readouterr().out)] == ["a", "b"]


def test_a_list_is_a_stream_of_documents_in_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    output(Format.YAML).items(TWO, str)
    assert [one["revisionId"] for one in yaml.safe_load_all(capsys.readouterr().out)] == ["a", "b"]


def test_an_empty_list_is_an_empty_stream(capsys: pytest.CaptureFixture[str]) -> None:
    output(Format.YAML).items([], str)
    output(Format.JSON).items([], str)
    assert capsys.readouterr().out == "[]\n"


def test_an_event_is_one_line_in_either_format(capsys: pytest.CaptureFixture[str]) -> None:
    for form in (Format.JSON, Format.YAML):
        output(form).event(TWO[0])
    assert capsys.readouterr().out == '{"revisionId": "a", "generation": "1"}\n' * 2


def test_people_get_what_is_made_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    output(Format.TABLE).item(TWO[0], lambda: "revision a")
    assert capsys.readouterr().out == "revision a\n"


def test_a_table_that_is_piped_has_no_colour_no_fold_and_no_trailing_space(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    output(Format.TABLE).say(table(("NAME", "N"), [(long, "1"), ("[bold]y[/]", "12")], right=("N",)))
    assert capsys.readouterr().out.splitlines() == [
        f"NAME{' ' * 300}N",
        f"{long}    1",
        f"[bold]y[/]{' ' * 293}12",
    ]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\r\x9b1mc\u202ed\n\té👩\u200d🚀") == "a[31mb1mcd\n\té👩\u200d🚀"


def test_names_are_ordered_as_people_count() -> None:
    names = ["worker-10", "worker-2", "a", "worker", "2b", "10b", "worker-2-1"]
    assert sorted(names, key=natural) == ["2b", "10b", "a", "worker", "worker-2", "worker-2-1", "worker-10"]
