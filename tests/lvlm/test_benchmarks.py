"""Official files of benchmarks, as small ones in the same layout, become prompts with what is known of their pictures."""

import base64
import json

import pytest

from mmalign.errors import UserError
from mmalign.records import Samples
from mmalign_lvlm import benchmarks
from mmalign_lvlm.metrics.chair import Chair
from mmalign_lvlm.visco import ViscoCorrections, ViscoPrompts

QUESTIONS = [
    {"question_id": 1, "image": "COCO_val2014_1.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "COCO_val2014_1.jpg", "text": "Is there an oven in the image?", "label": "no"},
]
CATEGORIES = [{"id": i, "name": name} for i, name in enumerate(("dog", "car", "cup", "bed", "oven", "tie"))]


@pytest.fixture
def write(tmp_path):
    def written(name, content, lines=False):
        text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


@pytest.fixture
def coco(write):
    pictures = {1: (0, 1, 2), 2: (0, 1, 3), 3: (4, 5, 3), 4: (0,)}
    seen = [(image, kind) for image, kinds in pictures.items() for kind in (*kinds, kinds[0])]
    instances = {
        "images": [{"id": i, "file_name": f"COCO_val2014_{i}.jpg"} for i in pictures],
        "annotations": [{"image_id": image, "category_id": kind, "bbox": []} for image, kind in seen],
        "categories": CATEGORIES,
    }
    captions = {"annotations": [{"image_id": 1, "id": 7, "caption": "A puppy by a truck."}]}
    return write("instances_val2014.json", instances), write("captions_val2014.json", captions)


def prompts(source):
    return [source[i]["prompt"] for i in range(len(source))]


def test_pope_reads_lines_of_objects_and_takes_the_split_from_the_name(write):
    files = [write(f"coco_pope_{split}.json", QUESTIONS, lines=True) for split in ("random", "adversarial")]
    first, second, third, _ = prompts(benchmarks.PopePrompts(files, "val2014", "{prompt} Answer yes or no."))
    assert first.text == "Is there a dog in the image? Answer yes or no."
    assert dict(first.metadata) == {"label": "yes", "split": "random"}
    assert str(first.images[0]) == "val2014/COCO_val2014_1.jpg"
    assert (second.metadata["label"], third.metadata["split"]) == ("no", "adversarial")


def test_questions_like_pope_s_are_made_of_annotations(coco):
    made = prompts(benchmarks.PopeQuestions(coco[0], "val2014", size=3))
    assert len(made) == 3 * 3 * 6  # splits, pictures with three objects, questions
    assert any("an oven" in prompt.text for prompt in made)
    assert {prompt.metadata["split"] for prompt in made} == {"random", "popular", "adversarial"}
    assert made == prompts(benchmarks.PopeQuestions(coco[0], "val2014", size=3))


def test_coco_s_pictures_tell_their_objects_and_references(coco):
    everything = prompts(benchmarks.CocoImages(coco[0], "val2014", coco[1]))
    assert len(everything) == 4
    assert everything[0].metadata == {"objects": ["car", "cup", "dog"], "references": ["A puppy by a truck."]}
    assert len(benchmarks.CocoImages(coco[0], "val2014", size=2)) == 2
    found = Chair().counts(Samples(everything[:1], ["A dog, a truck and a bed."]))[0]
    assert (found["mentions"], found["hallucinated"]) == (3, 1)


def test_object_halbench_holds_its_pictures_itself(write, coco):
    row = {"image_id": "1", "question": "What is here?", "image": base64.b64encode(b"picture").decode()}
    (prompt,) = prompts(benchmarks.ObjectHalBenchPrompts(write("obj.jsonl", [row], lines=True), *coco))
    assert (prompt.text, prompt.images[0]) == ("What is here?", b"picture")
    assert prompt.metadata["objects"] == ["car", "cup", "dog"]
    unknown = write("other.jsonl", [{**row, "image_id": 9}], lines=True)
    with pytest.raises(UserError, match=r"other\.jsonl: row 1: the annotations have no image 9"):
        benchmarks.ObjectHalBenchPrompts(unknown, *coco)


def test_mmhal_finds_its_pictures_by_the_end_of_their_address(write):
    row = {
        "question_type": "attribute",
        "question": "Which colour?",
        "gt_answer": "Red.",
        "image_content": ["Bus"],
        "image_src": "https://example.org/a/b/c_o.jpg",
        "model_answer": "",
    }
    (prompt,) = prompts(benchmarks.MmhalPrompts(write("response_template.json", [row]), "images"))
    assert str(prompt.images[0]) == "images/c_o.jpg"
    assert prompt.metadata == {"gt_answer": "Red.", "image_content": ["Bus"], "question_type": "attribute"}


def test_amber_joins_queries_and_annotations_by_their_id(write):
    queries = [
        {"id": 1, "image": "AMBER_1.jpg", "query": "Describe."},
        {"id": 2, "image": "AMBER_2.jpg", "query": "Is it?"},
    ]
    known = [
        {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
        {"id": 2, "type": "relation", "truth": "no"},
    ]
    first, second = prompts(
        benchmarks.AmberPrompts(write("query_all.json", queries), write("annotations.json", known), "i")
    )
    assert first.metadata == {"type": "generative", "truth": ["dog"], "hallu": ["cat"]}
    assert second.metadata == {"type": "relation", "truth": "no"}
    with pytest.raises(UserError, match="row 2: the annotations have no id 2"):
        benchmarks.AmberPrompts(write("query_all.json", queries), write("some.json", known[:1]), "i")


def test_visco_asks_for_a_critique_of_each_step(write):
    row = {
        "question": "How many?",
        "image": base64.b64encode(b"p").decode(),
        "response": {"reasoning": ["One.", "Two."], "answer": "2"},
        "answer_correctness": True,
        "reasoning_correctness": [True, True],
        "reasoning_critic": [["", "", ""], ["", "", ""]],
        "meta_data": {},
    }
    (prompt,) = prompts(ViscoPrompts(write("test.jsonl", [row], lines=True)))
    assert "1. One.\n2. Two." in prompt.text
    assert '{"step_1": {"correctness"' in prompt.text
    assert prompt.metadata["reasoning"] == ["One.", "Two."]


def test_visco_asks_for_another_answer_with_the_critique_before_it(write):
    row = {
        "question": "How many?",
        "image": base64.b64encode(b"p").decode(),
        "label": 4,
        "response": {"reasoning": ["Two and two.", "Five."], "answer": "5"},
        "answer_correctness": False,
        "reasoning_correctness": [True, False],
        "reasoning_critic": [["", "", ""], ["It is four.", "4", "four"]],
    }
    (prompt,) = prompts(ViscoCorrections(write("test.jsonl", [row], lines=True)))
    assert "1. Two and two.\n   This is correct.\n2. Five.\n   This is incorrect. It is four." in prompt.text
    assert 'answered "5"' in prompt.text
    assert "The answer is incorrect" in prompt.text
    assert (prompt.images, prompt.metadata) == (
        (b"p",),
        {"question": "How many?", "label": 4, "answer_correctness": False},
    )
    with pytest.raises(UserError, match="row 1: no 'label'"):
        ViscoCorrections(write("old.jsonl", [{k: v for k, v in row.items() if k != "label"}], lines=True))


def test_files_that_are_something_else_are_named(tmp_path, write):
    with pytest.raises(UserError, match=r"cannot read .*absent\.json"):
        benchmarks.PopePrompts(str(tmp_path / "absent.json"), "i")
    (tmp_path / "torn.json").write_text('{"image": "a"}\n{"imag')
    with pytest.raises(UserError, match=r"torn\.json: not JSON"):
        benchmarks.PopePrompts(str(tmp_path / "torn.json"), "i")
    with pytest.raises(UserError, match=r"row 1: no 'label'; it has image"):
        benchmarks.PopePrompts(write("p.json", [{"image": "a"}], lines=True), "i")
    with pytest.raises(UserError, match="row 1: label must be yes or no, not 'maybe'"):
        benchmarks.PopePrompts(write("q.json", [{**QUESTIONS[0], "label": "maybe"}], lines=True), "i")
    with pytest.raises(UserError, match="must hold objects"):
        benchmarks.rows(write("r.json", [1, 2]))
    with pytest.raises(UserError, match="has no annotations, categories"):
        benchmarks.Annotations(write("s.json", {"images": []}))
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match="not UTF-8 text"):
        benchmarks.rows(str(tmp_path / "latin.json"))
    bad = write("t.jsonl", [{"question": "?", "image": "no base64!", "image_id": 1}], lines=True)
    with pytest.raises(UserError, match="row 1: `image` is no picture in base64"):
        benchmarks.picture(benchmarks.rows(bad)[0])


def test_cells_of_another_kind_are_named_by_their_row(write, coco):
    """Whoever takes one file for another is told which one."""
    instances, captions = coco
    with pytest.raises(UserError, match=r"instances_val2014\.json: not in the layout .*no 'caption'"):
        benchmarks.Annotations(instances, instances)
    odd = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "category_id": 0}]}
    with pytest.raises(UserError, match=r"odd\.json: not in the layout .*no 2"):
        benchmarks.Annotations(write("odd.json", {**odd, "categories": CATEGORIES}), captions)
    visco = {"question": "?", "image": "", "response": "It is two."}
    with pytest.raises(UserError, match=r"v\.jsonl: row 1: not in the layout"):
        ViscoPrompts(write("v.jsonl", [visco], lines=True))
    mmhal = {"question": "?", "gt_answer": "", "image_content": [], "question_type": "", "image_src": None}
    with pytest.raises(UserError, match=r"m\.json: row 1: not in the layout"):
        benchmarks.MmhalPrompts(write("m.json", [mmhal]), "images")


def test_a_template_with_another_place_is_refused(write):
    row = {"question": "?", "image": "", "response": {"reasoning": ["One."], "answer": "2"}}
    known = {"answer_correctness": True, "reasoning_correctness": [True], "reasoning_critic": [[]]}
    file = write("test.jsonl", [{**row, **known}], lines=True)
    for template in ("{question} {step}", 'Write {"step_1": ...}', "{question"):
        with pytest.raises(UserError, match=r"template: \{question\}, \{answer\}, \{steps\} have a place in it"):
            ViscoPrompts(file, template)
