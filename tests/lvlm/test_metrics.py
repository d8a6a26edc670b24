"""Benchmarks: golden numbers by hand, and the rules by which answers are read."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign import plugins
from mmalign.builtin.statistics import estimates, summed
from mmalign.errors import UserError
from mmalign.records import Fact, Prompt, Samples, Verdict
from mmalign_lvlm.metrics import faithscore, mmhal, pope, visco
from mmalign_lvlm.metrics.amber import Amber, dimension_of
from mmalign_lvlm.metrics.chair import Chair, ObjectHalBench
from mmalign_lvlm.metrics.visco_correction import ViscoCorrection, correction
from mmalign_lvlm.metrics.vocabulary import COCO, NO_OBJECTS, Vocabulary, plurals


def asked(*pairs: tuple[dict, str]) -> Samples:
    return Samples([Prompt("?", metadata) for metadata, _ in pairs], [text for _, text in pairs])


def numbers(metric, samples, judge=None) -> dict:
    rows = metric.counts(samples, judge) if judge else metric.counts(samples)
    return {name: found["mean"] for name, found in estimates(metric.numbers, rows).items()}


# ---- objects in texts


@pytest.fixture(scope="module")
def coco() -> Vocabulary:
    return Vocabulary(COCO, NO_OBJECTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man rides two bicycles.", ["person", "bicycle"]),
        ("Hot dogs and a dog", ["hot dog", "dog"]),
        ("a traffic light above cell phones", ["traffic light", "cell phone"]),
        ("a baby elephant and an adult bear", ["elephant", "bear"]),
        ("a baby and a passenger train", ["person", "train"]),
        ("the seat of the toilet", ["toilet"]),
        ("a seat", ["chair"]),
        ("He stands on home plate beside the train tracks.", []),
        ("knives, children, sheep, buses, sandwiches", ["knife", "person", "sheep", "bus", "sandwich"]),
        ("a polar bear, a teddy bear", ["bear", "teddy bear"]),
        ("A carpet and a doggy category", []),
        ("two computer mice and wolves beside the calves", ["mouse", "cow"]),
        ("", []),
    ],
)
def test_objects_are_found_by_chair_s_rules(coco, text, expected):
    assert coco.mentions(text) == expected


def test_the_vocabulary_has_the_80_classes_of_coco_and_no_word_twice(coco):
    assert len(COCO) == 80
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)?", name) for name in COCO)
    words = [word for name, others in COCO.items() for word in (name, *others)]
    assert len(words) == len(set(words))
    assert all(coco.mentions(name) == [name] for name in COCO)
    assert all(coco.mentions(form) == [name] for name in COCO for form in plurals(name))


def test_plurals_of_o_and_f_and_words_that_look_like_one():
    own = Vocabulary(dict.fromkeys(("tomato", "piano", "shelf", "roof", "giraffe", "glass", "glasses"), ()))
    text = "tomatoes and pianos, bookshelf, shelves, roofs, a giraffe and giraffes; a glass, her glasses"
    assert own.mentions(text) == ["tomato", "piano", "shelf", "roof", "giraffe", "giraffe", "glass", "glasses"]


def test_a_vocabulary_can_be_a_file_with_a_line_a_class(tmp_path):
    (tmp_path / "synonyms.txt").write_text("person, human, folk\nunicorn\n\n")
    own = Vocabulary.read(str(tmp_path / "synonyms.txt"))
    assert own.mentions("two humans and unicorns, a dog") == ["person", "unicorn"]
    with pytest.raises(UserError, match="'dragon' is no object of the vocabulary"):
        own.class_of("dragon")
    with pytest.raises(UserError, match="no such file"):
        Vocabulary.read(str(tmp_path / "absent.txt"))
    (tmp_path / "latin.txt").write_bytes("fenêtre\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 text"):
        Vocabulary.read(str(tmp_path / "latin.txt"))


# ---- CHAIR


def test_chair_against_the_golden_numbers():
    a = ({"objects": ["dog"]}, "A dog, a dog and a cat.")
    b = ({"objects": ["car"]}, "A car.")
    found = numbers(Chair(), asked(a, b))
    assert (found["chair_i"], found["chair_s"]) == (1 / 4, 1 / 2)
    assert found["recall"] == 1
    assert found["mentions"] == 2


def test_what_reference_captions_name_is_there():
    picture = {"objects": ["dog"], "references": ["A puppy chases a ball."]}
    assert numbers(Chair(), asked((picture, "The dog has a ball and a frisbee.")))["chair_i"] == 1 / 3


def test_captions_without_objects_hallucinate_none():
    found = numbers(Chair(), asked(({"objects": ["dog"]}, "It is beautiful here.")))
    assert (found["chair_i"], found["chair_s"], found["recall"], found["mentions"]) == (0, 0, 0, 0)


def test_object_halbench_counts_an_object_once_and_leaves_refusals_out():
    a = ({"objects": ["dog", "person"]}, "There is a dog, a dog and two cats.")
    refusal = ({"objects": ["car"]}, "I cannot say what this is.")
    short = ({"objects": ["car"]}, "A cat.")
    found = numbers(ObjectHalBench(), asked(a, refusal, short))
    assert found["chair_i"] == 50
    assert found["chair_s"] == 100  # of one response that names an object
    assert found["recall"] == 25  # of four objects in three pictures


def test_a_prompt_that_tells_no_objects_is_named():
    with pytest.raises(UserError, match="nothing tells the objects of prompt '\\?': use prompts of coco-images"):
        numbers(Chair(), asked(({}, "A dog.")))


# ---- POPE


def test_pope_against_the_golden_numbers():
    rows = [("yes", "Yes")] * 40 + [("no", "Yes")] * 10 + [("no", "No")] * 35 + [("yes", "No")] * 15
    found = numbers(pope.Pope(), asked(*(({"label": label}, said) for label, said in rows)))
    assert found["accuracy"] == 0.75
    assert found["precision"] == 0.8
    assert found["recall"] == pytest.approx(0.727273, abs=1e-6)
    assert found["f1"] == pytest.approx(0.761905, abs=1e-6)
    assert found["yes_ratio"] == 0.5
    assert set(found) == {"accuracy", "precision", "recall", "f1", "yes_ratio"}


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ("Yes, there is a dog.", "yes"),
        ("No, there is none.", "no"),
        ("There is not. Yes!", "no"),
        ("Yes. It is not small.", "yes"),
        ("Yes, and it is not small.", "no"),
        ("Nobody knows", "yes"),
        ("", "yes"),
    ],
)
def test_an_answer_means_what_pope_reads_in_it(answer, meaning):
    assert pope.meant(answer) == meaning


def test_splits_are_told_apart_and_together():
    rows = [("random", "yes", "Yes"), ("random", "no", "No"), ("popular", "no", "Yes"), ("popular", "yes", "Yes")]
    found = numbers(pope.Pope(), asked(*(({"split": split, "label": label}, said) for split, label, said in rows)))
    assert (found["random/accuracy"], found["popular/accuracy"], found["accuracy"]) == (1, 0.5, 0.75)
    assert found["popular/precision"] == 0.5


def test_nothing_said_yes_has_no_precision_and_fails_nowhere():
    found = numbers(pope.Pope(), asked(({"label": "yes"}, "No")))
    assert (found["precision"], found["f1"], found["yes_ratio"]) == (0, 0, 0)


PICTURES = {
    "a": frozenset({"dog", "car", "cup"}),
    "b": frozenset({"dog", "car", "bed"}),
    "c": frozenset({"dog", "cat", "sink"}),
    "d": frozenset({"cat", "sink", "vase"}),
    "e": frozenset({"dog", "bed", "cat"}),
}


@given(st.sampled_from(["random", "popular", "adversarial"]), st.integers(0, 100))
def test_questions_are_half_about_what_is_there(split, seed):
    made = list(pope.questions(PICTURES, split, seed=seed))
    assert len(made) == len(set(made)) == 30
    for picture, group in itertools.groupby(made, key=lambda question: question.picture):
        assert [question.label for question in group] == ["yes"] * 3 + ["no"] * 3
        assert picture in PICTURES
    assert all((q.label == "yes") == (q.object in PICTURES[q.picture]) for q in made)


def test_negatives_are_what_is_frequent_or_what_goes_together():
    def negatives(split):
        return {q.object for q in pope.questions(PICTURES, split, each=1) if q.picture == "d" and q.label == "no"}

    assert negatives("popular") == {"dog"}  # in four pictures
    assert negatives("adversarial") == {"dog"}  # twice with a cat, once with a sink
    alone = {
        "x": frozenset({"fork"}),
        "y": frozenset({"fork", "knife"}),
        "z": frozenset({"tie"}),
        "w": frozenset({"tie"}),
    }
    assert [q.object for q in pope.questions(alone, "adversarial", each=1) if q.picture == "x"][1] == "knife"
    assert [q.object for q in pope.questions(alone, "popular", each=1) if q.picture == "x"][1] == "tie"


# ---- AMBER


@pytest.fixture
def amber(tmp_path):
    (tmp_path / "relation.json").write_text(
        json.dumps({"dog": ["puppy", "tail"], "beach": ["sand"], "sea": [], "cat": []})
    )
    (tmp_path / "safe_words.txt").write_text("sea\n")
    return Amber(str(tmp_path / "relation.json"), str(tmp_path / "safe_words.txt"))


def test_amber_s_descriptions_by_hand(amber):
    picture = {"type": "generative", "truth": ["dog", "beach"], "hallu": ["cat", "sea"]}
    found = numbers(amber, asked((picture, "Two puppies and a cat by the sea."), (picture, "A dog on sand.")))
    assert found["chair"] == pytest.approx(100 / 5)  # puppy, cat, sea, dog, sand: the cat
    assert found["cover"] == 75
    assert found["hal"] == 50
    assert found["cog"] == 50  # cat and sea, of twice two
    assert set(found) == {"chair", "cover", "hal", "cog"}


def test_words_that_are_more_often_verbs_count_behind_a_determiner(tmp_path):
    words = {word: [] for word in ("can", "watch", "leave", "dog")}
    (tmp_path / "relation.json").write_text(json.dumps(words))
    own = Amber(str(tmp_path / "relation.json")).vocabulary
    assert own.mentions("Two dogs can be seen; he watches, about to leave.") == ["dog"]
    assert own.mentions("A dog, a can, two watches and the leaves") == ["dog", "can", "watch", "leave"]


def test_amber_s_questions_by_hand(amber):
    kind = "discriminative-hallucination"
    rows = [("no", "No"), ("no", "Yes"), ("no", "No"), ("yes", "No"), ("yes", "Yes"), ("no", "No way")]
    found = numbers(amber, asked(*(({"type": kind, "truth": truth}, said) for truth, said in rows)))
    precision, recall = 2 / 3, 2 / 4
    assert found["precision"] == pytest.approx(100 * precision)
    assert found["existence/recall"] == pytest.approx(100 * recall)
    assert found["f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall + 1e-4))
    assert found["existence/f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall + 1e-3))
    assert found["accuracy"] == 50
    assert "amber" not in found


def test_the_score_is_of_descriptions_and_questions_together(amber):
    picture = {"type": "generative", "truth": ["dog"], "hallu": []}
    question = {"type": "discriminative-attribute-state", "truth": "no"}
    found = numbers(amber, asked((picture, "A dog and a cat."), (question, "No")))
    assert found["amber"] == pytest.approx((100 - 50 + found["f1"]) / 2)
    assert "attribute/f1" in found
    assert dimension_of("relation") == "relation"


def test_amber_s_files_that_are_missing_or_others_are_named(amber, tmp_path):
    relation = str(tmp_path / "relation.json")
    with pytest.raises(UserError, match=r"safe_words: cannot read .*absent\.txt"):
        Amber(relation, str(tmp_path / "absent.txt"))
    for content in ('["dog"]', '{"dog": "puppy"}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(UserError, match=r"relation: .*other\.json must hold one object, by word a list of words"):
            Amber(str(tmp_path / "other.json"))


# ---- judged


class Says:
    """A judge that says what it is told to, and notes what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def ask(self, prompts):
        self.asked += [prompt.text for prompt in prompts]
        return [self.answers.pop(0) for _ in prompts]


PICTURE = {"image_content": ["Cat", "Sofa"], "gt_answer": "One {cat}.", "question_type": "counting"}


def test_mmhal_against_the_golden_numbers():
    judge = Says(*(f"It says so.\nRating: {r}" for r in (0, 2, 3, 6)))
    found = numbers(mmhal.Mmhal(), asked(*[(PICTURE, "Two cats.")] * 4), judge)
    assert (found["score"], found["hallucination"]) == (2.75, 0.5)
    assert found["informativeness"] == pytest.approx(41.6667, abs=1e-4)
    assert found["score/counting"] == 2.75
    assert all(part in judge.asked[0] for part in ("Cat, Sofa", "One {cat}.", "Two cats.", "Question: ?"))


@pytest.mark.parametrize("nonsense", [None, "", "I rate it 4", "Rating: 4 or rating: 5", "Rating: 7", "Rating: 42"])
def test_a_judge_that_gives_no_rating_is_no_verdict(nonsense):
    rows = mmhal.Mmhal().counts(asked((PICTURE, "a"), (PICTURE, "b")), Says(nonsense, "rating: 3, and again Rating: 3"))
    assert rows[0] is None
    assert rows[1]["rating"] == 3


class Finds:
    """A judge that finds the facts of each piece, a word each, and holds those in capitals for true."""

    def facts(self, answers):
        def of(answer, start, end):
            words = answer.text[start:end].strip(".").split()
            return None if "unreadable" in words else [Fact("existence", word) for word in words if word != "well"]

        return [[of(answer, *span) for span in answer.spans] for answer in answers]

    def verify(self, questions):
        known = {"maybe": "none", "moot": "moot"}
        return [Verdict(known.get(fact.text, "yes" if fact.text.isupper() else "no")) for _, fact in questions]


def test_faithscore_is_a_mean_of_answers_shares():
    found = numbers(faithscore.FaithScore(), asked(({}, "CAT DOG. CUP mouse."), ({}, "bed.")), Finds())
    assert found["faithscore"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["sentences"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["facts"] == 5 / 2


def test_answers_without_facts_and_facts_without_verdict():
    rows = faithscore.FaithScore().counts(
        asked(({}, "well."), ({}, ""), ({}, "maybe."), ({}, "CAT maybe moot."), ({}, "unreadable."), ({}, "moot.")),
        Finds(),
    )
    assert [row and (row["true"], row["all true"]) for row in rows] == [(0, 1), (0, 1), None, (1, 1), None, (0, 1)]


STEPS = {
    "question": "How many?",
    "reasoning": ["There are two.", "Two and two is five.", "So five."],
    "answer_correctness": False,
    "reasoning_correctness": [True, False, False],
    "reasoning_critic": [["", "", ""], ["It is four.", "4", "four"], ["No.", "n", "four"]],
}


def said(answer, *steps):
    rows = {f"step_{i}": {"correctness": c, "explanation": f"e{i}"} for i, c in enumerate(steps, start=1)}
    return "Here it is: ```json\n" + json.dumps({"answer_correctness": answer, **rows}) + "\n```"


def test_viscore_against_the_golden_number():
    metric = visco.Visco()
    one, two, three = ({"called": c, "wrong": w, "found": f} for f, c, w in ((6, 10, 10), (5, 10, 10), (3, 10, 10)))
    sums = summed(
        [
            {f"answers {key}": value for key, value in one.items()},
            {f"steps {key}": value for key, value in two.items()},
            {"explained": three["found"]},
        ]
    )
    found = metric.numbers(sums)
    assert (found["answer_f1"], found["thought_f1"], found["explanation_f1"]) == pytest.approx((0.6, 0.5, 0.3))
    assert found["viscore"] == pytest.approx(0.448140, abs=1e-6)


def test_a_critique_by_hand():
    judge = Says("Yes.", "no", "yes, it does")
    found = numbers(visco.Visco(), asked((STEPS, said("incorrect", "incorrect", False, "correct"))), judge)
    assert found["answer_f1"] == 1
    assert found["thought_f1"] == pytest.approx(2 * (1 / 2) * (1 / 2))  # one of two called, one of two wrong
    assert found["explanation_f1"] == pytest.approx(1 / 3)  # two thirds of a step, of two and of two
    assert len(judge.asked) == 3
    assert "e2" in judge.asked[0]
    assert "It is four." in judge.asked[0]
    assert "Two and two is five." in judge.asked[0]


def test_a_critique_that_cannot_be_read_finds_nothing():
    found = numbers(visco.Visco(), asked((STEPS, "All of it is fine.")), Says())
    assert set(found.values()) == {0}
    assert visco.critique('{"a":' * 100_000 + "}", 1) == visco.Critique(None, [visco.Step(None, "")])
    assert visco.critique('{"Step_1": "wrong", "answer_correctness": {"correctness": "Correct"}}', 1) == visco.Critique(
        True, [visco.Step(None, "")]
    )


def test_a_critique_whose_match_nobody_judged_is_left_out():
    samples = asked((STEPS, said("incorrect", "correct", "incorrect", "correct")))
    assert visco.Visco().counts(samples, Says(None, "dunno", "")) == [None]
    assert visco.Visco().counts(samples, Says(None, "yes", ""))[0]["explained"] == 1


def answered(before: bool, answer: str) -> tuple[dict, str]:
    return {"question": "How many?", "label": 4, "answer_correctness": before}, answer


def test_correction_is_what_is_put_right_less_what_is_spoilt():
    judge = Says("Yes.", "no", "yes", "no", "Yes", None, "no idea")
    samples = asked(*(answered(right, "4") for right in (False, False, False, True, True, True, False)))
    rows = ViscoCorrection().counts(samples, judge)
    assert [row is None for row in rows] == [False] * 5 + [True] * 2  # what nobody judged is on neither side
    found = {name: one["mean"] for name, one in estimates(ViscoCorrection().numbers, rows).items()}
    assert found == pytest.approx({"corrected": 2 / 3, "spoilt": 1 / 2, "correction": 2 / 3 - 1 / 2})
    assert "The right answer: 4\nThe answer: 4\n" in judge.asked[0]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_correction_is_between_all_spoilt_and_all_corrected_and_none_of_an_empty_side(corrected, left, spoilt, kept):
    found = correction(corrected, corrected + left, spoilt, spoilt + kept)
    if corrected + left and spoilt + kept:
        assert -1 <= found <= 1
        assert (found == 1) == (left == 0 and spoilt == 0)
        assert (found == -1) == (corrected == 0 and kept == 0)
        assert correction(spoilt, spoilt + kept, corrected, corrected + left) == -found
    else:
        assert found is None


def test_without_a_side_there_is_no_correction_score():
    one_sided = asked(answered(False, "4"), answered(False, "3"))
    assert numbers(ViscoCorrection(), one_sided, Says("yes", "no")) == {"corrected": 1 / 2, "spoilt": 0}


def test_an_answer_that_only_begins_with_yes_or_no_is_neither():
    """The judges of facts and the metrics read alike."""
    samples = asked((STEPS, said("incorrect", "correct", "incorrect", "correct")))
    assert visco.Visco().counts(samples, Says("No mistake is named alike.", "Yes and no.", "yes"))[0]["explained"] == 1


# ---- what is offered


def test_every_metric_says_what_it_is_and_no_measure_depends_on_the_order_of_samples():
    offered = plugins.load().catalogue.offers("metric")
    assert {"chair", "object-halbench", "pope", "amber", "mmhal", "faithscore", "visco", "captions"} <= set(offered)
    for name, offer in offered.items():
        assert offer.spec.load().__doc__, f"{name} has no docstring"
    rows = Chair().counts(asked(({"objects": ["dog"]}, "A dog and a cat."), ({"objects": ["cat"]}, "A bed.")))
    assert estimates(Chair().numbers, rows) == estimates(Chair().numbers, rows[::-1])
