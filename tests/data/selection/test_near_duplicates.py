"""Near-duplicates: none that is alike stays, none that is not goes."""

import random

import pytest

from eagle_hf.data import optional
from eagle_hf.data.selection.near_duplicates import (
    NearDuplicateRule,
    band_length,
    jaccard,
    shingles_of,
)
from eagle_hf.data.selection.selecting import select_prompts

STORY = "Write a short story about a lighthouse keeper who finds a letter in a bottle"


def prompts_of(*texts):
    """Prompts of one turn each."""
    return [
        {"id": f"mine-{number}", "turns": [text], "category": "other", "source": "mine"}
        for number, text in enumerate(texts)
    ]


def kept_ids(prompts, threshold=0.8):
    """Ids of the prompts that pass."""
    selection = select_prompts(prompts, [NearDuplicateRule(threshold)])
    return [prompt["id"] for prompt in selection.prompts]


def random_words(generator, count):
    """Words of six letters, as text."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(generator.choices(letters, k=6)) for _ in range(count))


def test_shingles_are_pieces_of_five_letters():
    assert len(shingles_of("abcdefg")) == 3
    assert shingles_of("cdefg") in shingles_of("abcdefg")
    assert len(shingles_of("abcdeabcde")) == 5
    assert len(shingles_of("abc")) == 1
    assert shingles_of("abc") != shingles_of("abd")


def test_similarity_is_that_of_the_sets_of_pieces():
    first = "the quick brown fox jumps over the lazy dog"
    second = "the quick brown fox jumped over the lazy dog"
    pieces = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (first, second)]
    wanted = len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])
    assert jaccard(shingles_of(first), shingles_of(second)) == wanted


def test_bands_are_as_long_as_the_threshold_allows():
    assert [band_length(threshold) for threshold in (0.05, 0.6, 0.8, 1.0)] == [1, 3, 5, 128]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_pairs_just_above_the_threshold_are_all_found(threshold):
    pytest.importorskip("rensa")
    generator = random.Random(2)
    pairs = 0
    missed = 0
    while pairs < 300:
        words = random_words(generator, 60).split()
        other = list(words)
        for place in generator.sample(range(60), generator.randint(0, 25)):
            other[place] = random_words(generator, 1)
        first, second = prompts_of(" ".join(words), " ".join(other))
        texts = (first["turns"][0], second["turns"][0])
        similarity = jaccard(shingles_of(texts[0]), shingles_of(texts[1]))
        if threshold <= similarity < threshold + 0.05:
            pairs += 1
            rule = NearDuplicateRule(threshold)
            rule.objection(first)
            missed += rule.objection(second) is None
    assert missed == 0


def test_of_near_duplicates_the_first_one_is_used():
    pytest.importorskip("rensa")
    prompts = prompts_of(STORY, STORY.upper() + "!!", STORY + " today", "Explain photosynthesis")
    assert kept_ids(prompts) == ["mine-0", "mine-3"]


def test_the_reason_names_the_earlier_prompt_and_how_alike_they_are():
    pytest.importorskip("rensa")
    rule = NearDuplicateRule()
    first, second = prompts_of(STORY, STORY + ".")
    assert rule.objection(first) is None
    assert rule.objection(second) == "1.00 alike with 'mine-0'"


def test_the_decision_is_that_of_the_exact_similarity():
    pytest.importorskip("rensa")
    generator = random.Random(0)
    base = random_words(generator, 40)
    words = base.split()
    variants = [base]
    for changed in range(1, 20):
        copy = list(words)
        for place in generator.sample(range(40), changed):
            copy[place] = random_words(generator, 1)
        variants.append(" ".join(copy))
    rule = NearDuplicateRule(0.6)
    first, *others = prompts_of(*variants)
    rule.objection(first)
    for prompt in others:
        similarity = jaccard(shingles_of(base), shingles_of(prompt["turns"][0]))
        is_removed = rule.objection(prompt) is not None
        if similarity >= 0.6:
            assert is_removed
        elif is_removed:
            # It may be alike with another variant, but never with the first one.
            assert "mine-0" not in rule.objection(prompt)


def test_thousands_of_different_prompts_all_stay():
    pytest.importorskip("rensa")
    generator = random.Random(1)
    prompts = prompts_of(*[random_words(generator, 12) for _ in range(2000)])
    assert len(kept_ids(prompts)) == 2000


def test_text_without_spaces_is_compared_too():
    pytest.importorskip("rensa")
    text = "请写一个关于灯塔看守人的短篇故事他在瓶子里发现了一封来自远方朋友的信"
    assert kept_ids(prompts_of(text, text + "吧", "请解释光合作用是如何进行的")) == [
        "mine-0",
        "mine-2",
    ]


@pytest.mark.parametrize("threshold", [0, 1.1, -1])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="it must be above 0 and at most 1"):
        NearDuplicateRule(threshold)


def test_a_missing_library_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional, "import_module", missing)
    with pytest.raises(ValueError, match=r"near-duplicates needs rensa.*pip install 'eagle_hf\[da"):
        NearDuplicateRule()
