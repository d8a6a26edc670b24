"""The judge behind an endpoint: a server in a thread that answers well, badly, late or not at all."""

import base64
import io
import json
import re
import time

import pytest
from endpoint import YES, Server
from PIL import Image

from mmalign import RunFailure, UserError
from mmalign.records import Answer, Fact, Prompt
from mmalign_lvlm import facts
from mmalign_lvlm.judges.client import _GIVE_UP
from mmalign_lvlm.judges.http import AGAIN, HttpJudge, _verdict

NO = "no"


@pytest.fixture
def server():
    with Server() as made:
        yield made


@pytest.fixture
def judge(server, tmp_path):
    def build(**options):
        usual = {"timeout": 5, "retries": 3, "backoff": 0.001, "cache": str(tmp_path / "cache")}
        return HttpJudge(server.url, "some-model", **{**usual, **options})

    return build


def questions(count, picture):
    return [(Prompt("Describe.", images=(picture,)), Fact("existence", f"There are {i} dogs.")) for i in range(count)]


def said(verdicts):
    return [verdict.said for verdict in verdicts]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes", "yes"),
        ("**No.** There is none", "no"),
        ("no, it is blue", "no"),
        ("Yes - it is red", "yes"),
        ("yes\nIt is red", "yes"),
        ("No idea", None),
        ("Yes and no", None),
        ("no-one can tell", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_only_a_plain_yes_or_no_is_a_verdict(text, verdict):
    found = _verdict(text)
    assert (found and found.said) == verdict


def test_what_is_asked_and_what_is_understood(server, judge, picture_files, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    answers = ["Yes", "no.", "**No**, it is not", '"yes"']
    server.say = lambda body, number: answers[int(body["messages"][0]["content"][1]["text"].split()[8])]
    made = judge(key_variable="SOME_KEY", body={"temperature": None, "top_p": 0.5}, price=(2.0, 10.0))
    assert said(made.verify(questions(4, picture_files[0]))) == ["yes", "no", "no", "yes"]
    path, body = server.bodies[0]
    assert (path, set(server.keys)) == ("/v1/chat/completions", {"Bearer secret"})
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "some-model",
        "max_tokens": 512,
        "top_p": 0.5,
    }
    (message,) = body["messages"]
    address = message["content"][0]["image_url"]["url"]
    shown = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    assert (shown.size, shown.getpixel((0, 0))) == ((40, 24), (255, 0, 0))
    assert made.spent() == {
        "asked again": 0,
        "requests": 4,
        "tokens read": 400,
        "tokens written": 12,
        "money": pytest.approx((400 * 2 + 12 * 10) / 1e6),
    }


def test_it_answers_in_words_with_the_pictures_in_sight(server, judge, picture_files):
    """What benchmarks ask of a judge, which rates answers or compares explanations."""
    server.say = lambda body, number: "" if "hard" in str(body["messages"][0]["content"][-1]) else " Rating: 4 "
    asked = [Prompt("Rate it."), Prompt("Rate it.", images=[picture_files[0]]), Prompt("A hard one.")]
    made = judge(retries=1)
    assert made.ask(asked) == ["Rating: 4", "Rating: 4", None]
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for _, body in server.bodies]
    assert sorted(kinds) == [["image_url", "text"], ["text"], ["text"], ["text"]]


@pytest.mark.parametrize(
    "trouble", [(500, {}), (429, {"Retry-After": "0"}), None, "", "Perhaps, who knows? It depends."], ids=str
)
def test_trouble_that_passes_is_waited_for(server, judge, picture_files, trouble):
    server.say = lambda body, number: trouble if number <= 2 else NO
    assert said(judge().verify(questions(1, picture_files[0]))) == ["no"]
    assert len(server.bodies) == 3


@pytest.mark.parametrize("trouble", [(503, {}), None, "I cannot tell.", "yesterday", "Nothing"], ids=str)
def test_trouble_that_stays_is_no_verdict_and_spoils_no_other(server, judge, picture_files, trouble):
    server.say = lambda body, number: trouble if "1 dogs" in json.dumps(body) else YES
    made = judge(retries=2)
    assert said(made.verify(questions(3, picture_files[0]))) == ["yes", "none", "yes"]
    assert len(server.bodies) == 2 + 3
    assert made.spent()["no answer"] == 1
    # Nothing of it is kept: another day it is asked again.
    server.say = lambda body, number: NO
    assert said(judge(retries=2).verify(questions(3, picture_files[0]))) == ["yes", "no", "yes"]
    assert len(server.bodies) == 2 + 3 + 1


def test_a_silent_server_is_no_verdict(server, judge, picture_files):
    server.say = lambda body, number: time.sleep(0.5) or YES
    made = judge(timeout=0.05, retries=1)
    assert said(made.verify(questions(2, picture_files[0]))) == ["none", "none"]
    assert made.spent()["requests"] == 4


def test_nonsense_is_answered_with_what_is_wanted(server, judge, picture_files):
    server.say = lambda body, number: YES if len(body["messages"]) > 1 else "A lovely picture!"
    assert said(judge().verify(questions(1, picture_files[0]))) == ["yes"]
    _, body = server.bodies[1]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [message["content"] for message in body["messages"][1:]] == ["A lovely picture!", AGAIN]


def test_a_bad_request_is_not_repeated(server, judge, picture_files):
    server.say = lambda body, number: (400, {})
    assert said(judge().verify(questions(2, picture_files[0]))) == ["none", "none"]
    assert len(server.bodies) == 2


@pytest.mark.parametrize(("trouble", "reason"), [((400, {}), "HTTP 400: sorry"), (None, "Remote|Connection")], ids=str)
def test_why_there_is_no_answer_is_said_once(server, judge, picture_files, capsys, trouble, reason):
    server.say = lambda body, number: trouble
    judge(retries=1).verify(questions(3, picture_files[0]))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"warning: {server.url}: a question stays without answer: ({reason})", line)


def test_a_refusal_that_stops_in_the_middle_is_no_verdict(server, judge, picture_files):
    server.say = lambda body, number: (503, {"Content-Length": "100"})
    assert said(judge(timeout=0.1, retries=0).verify(questions(1, picture_files[0]))) == ["none"]


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"message": {"content": [{"type": "text", "text": "yes"}]}}]},
        {"choices": [{"message": "yes"}]},
        {"choices": []},
        ["yes"],
        "yes",
    ],
    ids=str,
)
def test_an_answer_of_another_form_is_no_verdict(server, judge, picture_files, answer):
    server.raw = json.dumps(answer).encode()
    assert said(judge(retries=0).verify(questions(1, picture_files[0]))) == ["none"]


def test_a_bill_of_another_form_is_not_counted(server, judge, picture_files):
    server.raw = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": ["much"]}).encode()
    made = judge()
    assert said(made.verify(questions(1, picture_files[0]))) == ["yes"]
    assert made.spent()["tokens read"] == 0


@pytest.mark.parametrize("status", [401, 404, 302])
def test_a_wrong_key_or_address_is_told_at_once(server, judge, picture_files, status):
    server.say = lambda body, number: (status, {"Location": "http://127.0.0.1:1/"})
    with pytest.raises(UserError, match=f"HTTP {status}: sorry: check url, model and key_variable"):
        judge(concurrency=1).verify(questions(50, picture_files[0]))
    assert len(server.bodies) < 50


def test_what_was_asked_before_is_not_asked_again(server, judge, picture_files):
    red, blue = picture_files
    first = judge().verify(questions(3, red))
    made = judge()
    assert made.verify(questions(3, red)) == first
    assert (len(server.bodies), made.spent()) == (3, {"asked again": 0, "from cache": 3})
    made.verify(questions(3, blue))  # another picture,
    judge(body={"seed": 1}).verify(questions(3, red))  # another request,
    judge(template="{fact} Yes or no?").verify(questions(3, red))  # or another question
    judge(cache=None).verify(questions(3, red))  # or no cache
    assert len(server.bodies) == 3 * 5


def test_the_same_question_many_times_at_once_is_kept_once(server, judge, picture_files, tmp_path):
    same = questions(1, picture_files[0]) * 20
    assert said(judge().verify(same)) == ["yes"] * 20
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".json"] == []


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_questions_at_once_than_allowed(server, judge, picture_files, limit):
    server.say = lambda body, number: time.sleep(0.03) or YES
    judge(concurrency=limit).verify(questions(9, picture_files[0]))
    assert 1 <= server.most <= limit
    assert limit == 1 or server.most > 1


def test_a_server_that_is_gone_ends_the_run(server, judge, picture_files):
    server.say = lambda body, number: (503, {})
    with pytest.raises(RunFailure, match=r"does not answer \(HTTP 503: sorry\).*--resume"):
        judge(retries=0, concurrency=2).verify(questions(5 * _GIVE_UP, picture_files[0]))
    assert len(server.bodies) < 2 * _GIVE_UP


def test_facts_of_each_segment(server, judge):
    text = "A dog runs. It is brown. Hm."
    answer = Answer(Prompt("Describe."), text, [(0, 11), (12, 24), (25, 28)])
    replies = {
        "A dog runs.": 'Sure! ```json\n{"objects": ["dog"], "attributes": [], "relations": [["dog", "on", "grass"]]}\n```',
        "It is brown.": '{"objects": [], "attributes": [["dog", "brown"]], "relations": []}',
        "Hm.": "There is nothing to list.",
    }
    server.say = lambda body, number: replies[body["messages"][0]["content"][0]["text"].splitlines()[-2][6:]]
    made = judge(retries=1)
    assert made.facts([answer]) == [
        [
            [Fact("existence", "There is a dog."), Fact("relation", "The dog is on the grass.")],
            [Fact("attribute", "The dog is brown.")],
            None,
        ]
    ]
    assert (len(server.bodies), made.spent()["nonsense"]) == (4, 2)
    assert all(part["type"] == "text" for _, body in server.bodies for part in body["messages"][0]["content"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"objects": ["Apple", "apple"], "attributes": [], "relations": []}',
            ["There is an Apple.", "There is an apple."],
        ),
        ('{"objects": ["dog", "dog"], "attributes": [], "relations": []}', ["There is a dog."]),
        ('{"objects": [], "attributes": [], "relations": []} and so on', []),
        ('{"objects": ["dog"], "attributes": []}', None),
        ('{"objects": "dog", "attributes": [], "relations": []}', None),
        ('{"objects": [" "], "attributes": [], "relations": []}', None),
        ('{"objects": [], "attributes": [["dog"]], "relations": []}', None),
        ('{"objects": [], "attributes": [], "relations": [["a", "b", 3]]}', None),
        ('{"objects": null, "attributes": [], "relations": []}', None),
        ('["dog"]', None),
        ('{"objects": [', None),
        ("{" * 100_000, None),
        ("", None),
    ],
)
def test_what_is_read_of_an_answer(text, expected):
    found = facts.read(text)
    assert (found if found is None else [fact.text for fact in found]) == expected


def test_mistakes_in_the_config_are_told_when_it_is_built(judge, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UserError, match="the environment has no NO_KEY"):
        judge(key_variable="NO_KEY")
    with pytest.raises(UserError, match=r"no place for the fact: write \{fact\}"):
        judge(template="yes or no?")
    with pytest.raises(UserError, match="no address of an endpoint"):
        HttpJudge("file:///etc/passwd", "model")


def test_an_unreadable_picture_is_named(judge, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png"):
        judge().verify(questions(1, tmp_path / "bad.png"))
