"""Short conversations become long ones: like with like, within a length, none lost."""

import itertools
import random
import subprocess
import sys
from collections import Counter

from llama_jax.data.recipes import long_conversations, similarity
from llama_jax.text.chat.conversation import Message

RIVERS = ["How long is the river Elv?", "How deep is the river Elv?", "Is the river Elv long?"]
BREAD = ["Give a recipe for rye bread", "A recipe for bread with rye, please", "rye bread recipe"]


def talk(question, answer="Yes.", system=""):
    return [Message("system", system), Message("user", question), Message("assistant", answer)]


def build(conversations, length=10_000, threshold=0.3, dropped=None):
    return list(
        long_conversations.build(
            "a.json",
            conversations,
            length=length,
            measure=lambda document: len(document.text),
            threshold=threshold,
            dropped=Counter() if dropped is None else dropped,
        )
    )


def learned(document):
    return [document.text[start:stop] for start, stop in document.answers]


def test_similar_questions_are_joined_and_others_are_not():
    mixed = [RIVERS[0], BREAD[0], RIVERS[1], BREAD[1], "Why?", BREAD[2], RIVERS[2]]
    found = build([talk(question, f"To {question}") for question in mixed])
    assert [learned(document) for document in found] == [
        [f"To {question}" for question in RIVERS],
        [f"To {question}" for question in BREAD],
        ["To Why?"],
    ]
    assert found[0].text.startswith(
        f"<human>: {RIVERS[0]}\n<bot>: To {RIVERS[0]}\n<human>: {RIVERS[1]}\n<bot>: "
    )


def test_only_conversations_under_one_instruction_are_joined():
    found = build(
        [talk(RIVERS[0], system="A"), talk(RIVERS[1], system="B"), talk(RIVERS[0], system="A")]
    )
    assert [(d.meta["system"], d.meta["conversations"]) for d in found] == [("A", 2), ("B", 1)]
    assert [document.text.count("A\n\n") for document in found] == [1, 0]
    split = build([talk(RIVERS[0], system="A")] * 3, length=110)
    assert [document.meta["conversations"] for document in split] == [2, 1]
    assert all(document.text.startswith("<human>: A\n\nHow long") for document in split)


def test_no_joined_conversation_is_longer_and_the_next_would_not_fit():
    random_ = random.Random(0)
    talks = [talk("the same question", "x" * random_.randrange(1, 200)) for _ in range(100)]
    found = build(talks, length=500)
    assert Counter(a for d in found for a in learned(d)) == Counter(t[2].text for t in talks)
    assert all(len(document.text) <= 500 for document in found)
    for document, following in itertools.pairwise(found):
        first = following.text.split("\n<human>")[0]
        assert len(document.text) + 1 + len(first) > 500
    alone = build([talk("long", "y" * 600), talk("long", "z")], length=500)
    assert [d.meta["conversations"] for d in alone] == [1, 1]


def test_conversations_without_a_question_or_an_answer_are_counted():
    dropped = Counter()
    odd = [[], [Message("system", "S")], [Message("assistant", "Hi")], [Message("user", "Hi")]]
    odd += [[Message("user", "Hi"), Message("assistant", "  ")]]
    assert build(odd, dropped=dropped) == []
    assert dropped == {"no question": 3, "no answer": 2}


def test_similarity_is_of_words_by_their_rarity():
    frequency = Counter({"the": 4, "cat": 2, "dog": 2})
    sets = frozenset({"the", "cat"}), frozenset({"the", "dog"})
    assert similarity.similarity(*sets, frequency) == 0.25 / 1.25
    assert similarity.similarity(sets[0], sets[0], frequency) == 1
    assert similarity.similarity(frozenset(), frozenset(), frequency) == 1


def test_groups_hold_every_text_once_and_follow_their_definition():
    random_ = random.Random(1)
    texts = [" ".join(random_.choices("abcdefghij", k=5)) for _ in range(120)]
    groups = similarity.group(texts, 0.4)
    assert sorted(i for group in groups for i in group) == list(range(120))
    words = [frozenset(text.split()) for text in texts]
    frequency = Counter(word for found in words for word in found)
    for group in groups:
        assert group == sorted(group)
        for i in group[1:]:
            likeness = {
                g[0]: similarity.similarity(words[i], words[g[0]], frequency)
                for g in groups
                if g[0] < i
            }
            assert likeness[group[0]] == max(likeness.values()) >= 0.4
    assert 1 < len(groups) < 120


def test_the_order_of_hashes_changes_nothing():
    random_, words = random.Random(0), [f"word{i}" for i in range(200)]
    texts = [" ".join(random_.choices(words, k=30)) for _ in range(100)]
    code = f"from llama_jax.data.recipes import similarity as s\nprint(s.group({texts!r}, 0.05))"
    results = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(results) == 1


def test_a_question_that_nobody_answered_does_not_stand_before_the_next():
    open_ = [*talk(RIVERS[0]), Message("user", "And why?")]
    (document,) = build([open_, talk(RIVERS[1])])
    roles = [message.role for message in document.messages]
    assert roles == ["user", "assistant"] * 2 and "And why?" not in document.text
