"""lm-eval scores a target equally with its head and without, and its texts are the same.

Skipped where lm-eval is not installed: `make test-lm-eval` installs it.
"""

import json
import sys
from copy import deepcopy
from importlib import util
from pathlib import Path

import pytest
import yaml
from tiny import letter_tokenizer

from eagle_hf import TreeConfig
from eagle_hf.hub import add_custom_generate

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

RECIPES = Path(__file__).parents[2] / "recipes"
HEAD = Path(__file__).parents[2] / "model_cards" / "smollm2-135m-instruct-eagle3"
NEW = 24  # tokens of an answer
TEXTS = ("abc", "zyxw", "kkk", "hello", "qrs", "mnop", "dd", "vowel")


@pytest.fixture(scope="module")
def recipe():
    spec = util.spec_from_file_location("score_with_lm_eval", RECIPES / "score_with_lm_eval.py")
    module = util.module_from_spec(spec)
    sys.modules["score_with_lm_eval"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_module_cache(monkeypatch, tmp_path):
    """transformers copies remote code into a cache of modules; here into one of the test's own."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )


@pytest.fixture(scope="module")
def models(target, trained_head):
    """(target, tokenizer, a head that is often right), in float64."""
    head = deepcopy(trained_head)
    head.tree = TreeConfig(depth=3, top_k=2, nodes=5)  # not by what this machine's tokens cost
    return target, letter_tokenizer(), head


@pytest.fixture(scope="module")
def tasks(models, tmp_path_factory):
    """A folder with the task `letters`, of which the target knows every second answer."""
    target, tokenizer, _ = models
    folder = tmp_path_factory.mktemp("tasks")
    lines = []
    for number, text in enumerate(TEXTS):
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        output = target.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        own = tokenizer.decode(output[0, len(text) :], skip_special_tokens=True)
        answer = own if number % 2 else "unknown"
        lines.append(json.dumps({"text": text, "answer": answer}) + "\n")
    (folder / "letters.jsonl").write_text("".join(lines))
    task = {
        "task": "letters",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "letters.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "max_gen_toks": NEW, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "letters.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.fixture
def arguments(recipe, tasks, tmp_path):
    return recipe.ScoreArguments(
        target="", head="", output_dir=str(tmp_path), tasks=["letters"], include_path=str(tasks)
    )


def scored_both_ways(recipe, models, arguments, batch):
    """(the only row of one batch size, rounds and acceptance of the head)."""
    target, tokenizer, head = models
    manager = recipe.open_tasks(arguments)
    drafting = recipe.WithHead(target, head)
    plain = recipe.score(target, tokenizer, manager, batch, arguments)
    fast = recipe.score(drafting, tokenizer, manager, batch, arguments)
    (row,) = recipe.compare(plain, fast, batch, drafting.total.tau)
    return row, drafting.total


@pytest.mark.parametrize("batch", [1, 4])
def test_scores_and_answers_are_the_same_with_a_head(recipe, models, arguments, batch):
    row, total = scored_both_ways(recipe, models, arguments, batch)
    assert row["plain"] == row["with_head"] == 0.5
    assert row["same_answers"] == row["questions"] == len(TEXTS)
    assert total.trials[0] > NEW  # the head did draft
    if batch == 1:  # rows of a batch with lm-eval's stopping criterion go in lockstep
        assert row["tau"] > 1.2


class WithAnotherText:
    """A head that would change the target's answers."""

    def __init__(self, target):
        self.target = target

    def generate(self, **inputs):
        return self.target.generate(**inputs, bad_words_ids=[[20], [21], [22], [23]])

    def __getattr__(self, name):
        return getattr(self.target, name)


def test_another_text_would_be_seen(recipe, models, arguments):
    target, tokenizer, _ = models
    manager = recipe.open_tasks(arguments)
    plain = recipe.score(target, tokenizer, manager, 1, arguments)
    other = recipe.score(WithAnotherText(target), tokenizer, manager, 1, arguments)
    (row,) = recipe.compare(plain, other, 1, 1.0)
    assert row["with_head"] < row["plain"]
    assert row["same_answers"] < row["questions"]


def test_a_published_head_is_scored_without_a_line_of_python(recipe, models, arguments, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    target, tokenizer, head = models
    head.save_pretrained(tmp_path / "published")
    add_custom_generate(tmp_path / "published")
    results = simple_evaluate(
        HFLM(target, tokenizer=tokenizer, batch_size=1),
        tasks=["letters"],
        task_manager=recipe.open_tasks(arguments),
        gen_kwargs=f"custom_generate={tmp_path / 'published'},trust_remote_code=True",
        bootstrap_iters=0,
    )
    assert results["results"]["letters"]["exact_match,none"] == 0.5


def test_a_task_that_generates_nothing_is_refused(recipe, models, arguments, tasks, tmp_path):
    task = yaml.safe_load((tasks / "letters.yaml").read_text())
    for name in ("generation_kwargs", "metric_list"):
        del task[name]
    task |= {"task": "likely", "output_type": "loglikelihood", "metric_list": [{"metric": "acc"}]}
    (tmp_path / "likely.yaml").write_text(yaml.safe_dump(task))
    arguments.include_path = str(tmp_path)
    arguments.tasks = ["likely"]
    target, tokenizer, _ = models
    with pytest.raises(ValueError, match="likely is scored by loglikelihood: nothing is generated"):
        recipe.score(target, tokenizer, recipe.open_tasks(arguments), 1, arguments)


def not_found(name):
    return None


def test_without_lm_eval_the_recipe_says_what_to_install(recipe, arguments, monkeypatch):
    monkeypatch.setattr(recipe, "find_spec", not_found)
    with pytest.raises(ValueError, match="lm-eval, which is not installed; pip install lm_eval"):
        recipe.open_tasks(arguments)


@pytest.mark.slow
def test_the_recipe_scores_the_reference_head(recipe, monkeypatch, tmp_path, capsys):
    flags = f"--target smollm2 --head {HEAD} --output_dir {tmp_path} --limit 4"
    monkeypatch.setattr(sys, "argv", ["score_with_lm_eval.py", *flags.split()])
    recipe.main()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["identical"]
    assert [row["batch"] for row in metrics["rows"]] == [1, 4]
    for row in metrics["rows"]:
        assert row["same_answers"] == 4
        assert row["plain"] == 0.5  # two of the first four questions are answered
        assert row["tau"] > 1.05
    assert "| reading | exact_match,stripped | 1 | 0.5000 | 0.5000 | 4 of 4 |" in (
        capsys.readouterr().out
    )
