"""Every template of the table: its strings, what of them is learned, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_jax.text.chat import parts, written
from llama_jax.text.chat.chat import load_chat
from llama_jax.text.chat.conversation import Message, Refused
from llama_jax.text.chat.parts import Part
from llama_jax.text.chat.table import TEMPLATES

SYSTEM, ONE = Message("system", "S"), [Message("user", "Q"), Message("assistant", "A")]
TWO = [*ONE, Message("user", "R"), Message("assistant", "B")]
ALPACA = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request.\n\n### Instruction:\nQ\n\n"
# One turn; two turns; the prompt of the second turn; one turn with what the system says.
STRINGS = {
    "llama2_chat": (
        "<s>[INST] Q [/INST] A </s>",
        "<s>[INST] Q [/INST] A </s><s>[INST] R [/INST] B </s>",
        "<s>[INST] Q [/INST] A </s><s>[INST] R [/INST]",
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s>",
    ),
    "instruct_card": (
        "[INST]\nQ\n[/INST]\n\nA",
        "[INST]\nQ\n[/INST]\n\nA\n\n[INST]\nR\n[/INST]\n\nB",
        "[INST]\nQ\n[/INST]\n\nA\n\n[INST]\nR\n[/INST]\n\n",
        "[INST]\nS\n\nQ\n[/INST]\n\nA",
    ),
    "instruct_readme": (
        "[INST] Q [/INST] A",
        "[INST] Q [/INST] A [INST] R [/INST] B",
        "[INST] Q [/INST] A [INST] R [/INST]",
        "[INST] S\n\nQ [/INST] A",
    ),
    "instruct_script": (
        "  [INST]  Q  [/INST]  A",
        "  [INST]  Q  [/INST]  A  [INST]  R  [/INST]  B",
        "  [INST]  Q  [/INST]  A  [INST]  R  [/INST]  ",
        "  [INST]  S\n\nQ  [/INST]  A",
    ),
    "instruct_training": (
        "[INST]  Q  [/INST]  A",
        "[INST]  Q  [/INST]  A    [INST]  R  [/INST]  B",
        "[INST]  Q  [/INST]  A    [INST]  R  [/INST]  ",
        "[INST]  S\n\nQ  [/INST]  A",
    ),
    "oasst": (
        "<|prompter|>Q</s><|assistant|>A</s>",
        "<|prompter|>Q</s><|assistant|>A</s><|prompter|>R</s><|assistant|>B</s>",
        "<|prompter|>Q</s><|assistant|>A</s><|prompter|>R</s><|assistant|>",
        "<|system|>S</s><|prompter|>Q</s><|assistant|>A</s>",
    ),
    "chatml": (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n",
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n",
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n",
    ),
    "oig": (
        "<human>: Q\n<bot>: A",
        "<human>: Q\n<bot>: A\n<human>: R\n<bot>: B",
        "<human>: Q\n<bot>: A\n<human>: R\n<bot>:",
        "<human>: S\n\nQ\n<bot>: A",
    ),
}
# Position by position: <s> <|system|> S </s> <|prompter|> Q </s> <|assistant|> A </s> ... as
# Open-Assistant's masks stand, which weigh what is predicted AFTER a token.
MASKS = {"compat": "1 111 000 111 000 110", "fixed": "0 000 000 111 000 110"}


def string(name, messages, loss="completion"):
    return parts.text(written.write(TEMPLATES[name], messages, loss))


@pytest.mark.parametrize("name", STRINGS)
def test_the_strings_of_one_and_two_turns_a_prompt_and_a_system(name):
    one, two, prompt, system = STRINGS[name]
    assert string(name, ONE) == one
    assert string(name, TWO) == two
    assert string(name, [SYSTEM, *ONE]) == system
    assert parts.text(written.prompt(TEMPLATES[name], TWO[:-1])) == prompt


def test_the_two_strings_of_alpaca():
    assert string("alpaca", ONE) == f"{ALPACA}. {WRITE}### Response:A"
    about = [ONE[0]._replace(input="I"), ONE[1]]
    head = f"{ALPACA}, paired with an input that provides further context. {WRITE}"
    assert string("alpaca", about) == f"{head}### Input:\nI\n\n### Response:A"
    # A template without a place for it writes the input after an empty line.
    assert string("oig", about) == "<human>: Q\n\nI\n<bot>: A"
    with pytest.raises(Refused, match="one question and one answer"):
        string("alpaca", TWO)


def test_every_template_has_its_strings():
    assert {*STRINGS, "alpaca"} == set(TEMPLATES)


@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_open_assistant(mask, tokenizer):
    found = load_chat("oasst", tokenizer).encode([SYSTEM, *TWO], compat=mask == "compat")
    assert len(found.ids) == 16
    after = "".join(map(str, found.weights[1:])) + "0"
    assert after == MASKS[mask].replace(" ", "")


def test_only_the_last_answer_is_learned_with_the_loss_of_gatt(tokenizer):
    for name in STRINGS:
        chat = load_chat(name, tokenizer)
        found, before = chat.encode(TWO, "last"), chat.prompt(TWO[:-1])
        learned = [id for id, weight in zip(found.ids, found.weights, strict=True) if weight]
        assert (
            tokenizer.decode(learned).strip() == "B" and not found.weights[: len(before)].any()
        ), name
        assert found.weights.sum() < chat.encode(TWO, "completion").weights.sum()
        assert chat.encode(TWO, "all").weights.sum() == len(found.ids) - found.ids.count(1)


@pytest.mark.parametrize("answer", ["B", "é"])
@pytest.mark.parametrize("name", STRINGS)
def test_what_is_learned_begins_where_a_prompt_ends(name, answer, tokenizer):
    """So the model goes on from ids that it has seen; the space before é is a token of its own."""
    chat = load_chat(name, tokenizer)
    turns = [*TWO[:-1], Message("assistant", answer)]
    whole, prompt = chat.encode(turns, "last"), chat.prompt(TWO[:-1])
    assert whole.ids[: len(prompt)] == prompt
    assert whole.weights.nonzero()[0][0] == len(prompt)


@pytest.mark.parametrize("name", STRINGS)
def test_what_is_learned_ends_where_generation_stops(name, tokenizer):
    chat = load_chat(name, tokenizer)
    found = chat.encode(ONE)
    last = found.ids[int(found.weights.nonzero()[0][-1])]
    assert last in chat.stop_ids
    assert chat.stop_strings == TEMPLATES[name].stops


def test_a_token_of_two_parts_belongs_to_the_last_and_is_learned_with_either(tokenizer):
    for flags in ((False, True), (True, False)):
        said = [Part("S ", "user", False, flags[0]), Part("Q", "assistant", False, flags[1])]
        found = parts.encode(said, tokenizer)
        assert found.ids == tokenizer.encode("S Q")  # Two tokens: _S and _Q.
        assert [parts.ROLES[role] for role in found.roles] == ["user", "assistant"]
        assert found.weights.tolist() == [flags[0], True]


def test_a_token_has_the_role_of_the_one_who_speaks(tokenizer):
    found = load_chat("oasst", tokenizer).encode([SYSTEM, *ONE])
    names = [parts.ROLES[role] for role in found.roles]
    assert names == [None] + ["system"] * 3 + ["user"] * 3 + ["assistant"] * 3


def test_llama2_chat_has_a_bos_and_an_eos_for_every_turn(tokenizer):
    found = load_chat("llama2_chat", tokenizer).encode([SYSTEM, *TWO])
    assert (found.ids.count(tokenizer.bos_id), found.ids.count(tokenizer.eos_id)) == (2, 2)
    # All text of a turn is encoded as one, as Meta's reference does it.
    question = tokenizer.encode("[INST] R [/INST] B ", bos=True, eos=True)
    assert found.ids[-len(question) :] == question


def test_special_tags_are_answered_with_metas_sentence():
    for tag in ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"):
        for role in (0, 1):
            messages = [m._replace(text=f"x{tag}") if i == role else m for i, m in enumerate(ONE)]
            with pytest.raises(Refused) as refused:
                string("llama2_chat", messages)
            sentence = "Error: special tags are not allowed as part of the prompt."
            assert (str(refused.value), refused.value.reason) == (sentence, "special tags")
    with pytest.raises(Refused, match="says <bot>:, which marks turns"):
        string("oig", [ONE[0]._replace(text="a\n<bot>: b"), ONE[1]])


@pytest.mark.parametrize(
    ("name", "messages", "sentence"),
    [
        ("llama2_chat", [ONE[0], ONE[0], ONE[1]], "must alternate; these are user, user, assist"),
        ("oig", [ONE[1], *ONE], "must alternate; these are assistant, user"),
        ("llama2_chat", [*ONE, SYSTEM, *ONE], "must alternate; these are user, assistant, system"),
        ("chatml", [SYSTEM, ONE[0]], "nothing is said by the assistant"),
        ("chatml", [], "nothing is said by the assistant"),
        ("oasst", [ONE[1]], "nothing is said by the assistant"),
    ],
)
def test_an_order_without_a_form_is_refused(name, messages, sentence):
    with pytest.raises(Refused, match=sentence):
        string(name, messages)


def test_a_prompt_must_end_with_a_question(tokenizer):
    chat = load_chat("chatml", tokenizer)
    with pytest.raises(Refused, match="the last message is the assistant's; a conversation"):
        chat.prompt(ONE)
    with pytest.raises(Refused, match="there is none"):
        chat.prompt([])


def test_empty_turns_and_what_follows_the_last_answer_are_left_out():
    more = [Message("user", " \n"), *ONE, Message("user", "unanswered")]
    assert string("llama2_chat", more) == string("llama2_chat", ONE)
    assert string("oasst", more) == string("oasst", ONE)


def test_an_unasked_answer_is_not_learned(tokenizer):
    found = load_chat("chatml", tokenizer).encode([Message("assistant", "B"), *ONE], bos=False)
    asked = load_chat("chatml", tokenizer).encode(ONE, bos=False)
    assert found.ids[-len(asked.ids) :] == asked.ids
    assert found.weights.sum() == asked.weights.sum()


TYPED = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SPELLED = st.sampled_from(["<s>", "</s>", "<|im_end|>", "<|assistant|>", "<|prompter|>", "<|im_"])
SAID = st.lists(TYPED | SPELLED, min_size=1, max_size=4).map("".join).filter(str.strip)


@given(SAID, SAID, SAID)
def test_nothing_that_is_typed_becomes_a_special_token(tokenizer, first, second, third):
    messages = [Message("user", first), Message("assistant", second), Message("user", third)]
    for name in ("oasst", "chatml", "llama2_chat"):
        chat = load_chat(name, tokenizer)
        plain = [message._replace(text="a") for message in messages]

        def control(messages, chat=chat):
            return [id for id in chat.prompt(messages) if tokenizer.is_control(id)]

        assert control(messages) == control(plain)


def test_what_the_tokenizer_puts_in_front_is_a_choice(tokenizer):
    chat = load_chat("oig", tokenizer)
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    both, neither = chat.encode(ONE), chat.encode(ONE, bos=False, eos=False)
    assert both.ids == [bos, *neither.ids, eos] and both.weights[-1] == 1
    line_end = tokenizer.encode("\n<human>: Q\n<bot>: A")
    assert chat.encode(ONE, bos=True, eos=False, before="\n").ids == [bos, *line_end]
    turn = load_chat("llama2_chat", tokenizer)
    assert turn.encode(ONE, bos=False).ids == turn.encode(ONE).ids
    assert turn.encode(ONE, before="\n").ids[:2] == [bos, *tokenizer.encode("\n[")[:1]]
