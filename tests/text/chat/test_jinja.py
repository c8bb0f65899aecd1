"""Templates that people publish: transformers' text and masks, and nothing typed is special."""

import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jax.core.errors import DataError
from llama_jax.text.chat import sandbox
from llama_jax.text.chat.chat import load_chat, read_template
from llama_jax.text.chat.conversation import Message, Refused
from llama_jax.text.chat.sandbox import Sandbox

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GENERATION = """
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content|trim + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# Loops with break, a namespace, a filter with options, a macro: what larger templates use.
LARGE = """{% macro turn(role, said) %}<|im_start|>{{ role }}
{{ said | trim }}<|im_end|>
{% endmacro %}
{% set ns = namespace(count=0) %}
{% for m in messages if m.role != 'tool' %}
    {% if ns.count > 50 %}{% break %}{% endif %}
    {% set ns.count = ns.count + 1 %}
{{ turn(m['role'], m['content']) -}}
{% endfor %}
{% if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
REWRITES = (
    "{% for m in messages %}{{ m.role if loop.last else '-' }}: {{ m.content }}\n{% endfor %}"
)
TEMPLATES = {"llama2": LLAMA2, "chatml": CHATML, "generation": GENERATION, "large": LARGE}
SYSTEM = Message("system", "Be brief.")
TWO = [
    Message("user", " Hi? "),
    Message("assistant", "Yes. "),
    Message("user", "And é\n5?"),
    Message("assistant", "No"),
]


@pytest.fixture
def load(tokenizer, tmp_path):
    opened = []

    def make(text, **options):
        path = tmp_path / f"{len(opened)}.jinja"
        path.write_text(text)
        opened.append(load_chat(str(path), tokenizer, **options))
        return opened[-1]

    yield make
    for chat in opened:
        chat.close()


@pytest.fixture(scope="module")
def theirs(folder):
    """transformers' tokenizer of the same pieces."""
    transformers = pytest.importorskip("transformers")
    from llama_jax.converters import sentencepiece_json

    value, special = sentencepiece_json.convert(folder / "tokenizer.model")
    (folder / "theirs").mkdir(exist_ok=True)
    (folder / "theirs/tokenizer.json").write_text(json.dumps(value))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special, "pad_token": None}
    (folder / "theirs/tokenizer_config.json").write_text(json.dumps(config))
    return transformers.AutoTokenizer.from_pretrained(str(folder / "theirs"))


def as_json(messages):
    return [{"role": message.role, "content": message.text} for message in messages]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [False, True])
def test_ids_and_prompts_are_those_of_transformers(name, system, load, theirs):
    chat, messages = load(TEMPLATES[name]), [SYSTEM] * system + TWO

    def want(messages, **options):
        template = TEMPLATES[name]
        return theirs.apply_chat_template(
            as_json(messages), chat_template=template, tokenize=True, return_dict=True, **options
        )

    assert chat.encode(messages).ids == want(messages)["input_ids"]
    prompt = want(messages[:-1], add_generation_prompt=True)["input_ids"]
    assert chat.prompt(messages[:-1]) == prompt


def test_what_stands_in_a_generation_block_is_learned_as_transformers_masks_it(load, theirs):
    want = theirs.apply_chat_template(
        as_json([SYSTEM, *TWO]),
        chat_template=GENERATION,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    found = load(GENERATION).encode([SYSTEM, *TWO])
    assert found.weights.tolist() == want["assistant_masks"]


@pytest.mark.parametrize(("named", "published"), [("llama2_chat", LLAMA2), ("chatml", CHATML)])
@pytest.mark.parametrize("loss", ["all", "completion", "last"])
def test_named_templates_are_the_published_ones_and_learn_the_same(
    named, published, loss, load, tokenizer
):
    ours, chat = load_chat(named, tokenizer), load(published)
    for messages in (TWO, [SYSTEM, *TWO], TWO[:2]):
        want, got = chat.encode(messages, loss), ours.encode(messages, loss, bos=False)
        assert (got.ids, got.weights.tolist()) == (want.ids, want.weights.tolist())
        assert ours.prompt(messages[:-1], bos=False) == chat.prompt(messages[:-1])
    assert ours.stop_ids == chat.stop_ids


def test_named_templates_are_those_of_the_real_tokenizer_of_llama2(shared, tmp_path):
    from llama_jax.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(shared / "tokenizers/llama2/tokenizer.model")
    (tmp_path / "chat_template.jinja").write_text(LLAMA2)
    chat, ours = load_chat(str(tmp_path), tokenizer), load_chat("llama2_chat", tokenizer)
    assert ours.encode(TWO).ids == chat.encode(TWO).ids
    # <s> [INST] Hi? [/INST] Yes. </s>: Meta's ids.
    ids = [1, 518, 25580, 29962, 6324, 29973, 518, 29914, 25580, 29962, 3869, 29889, 29871, 2]
    found = ours.encode(TWO[:2])
    assert found.ids == ids and found.weights.tolist() == [0] * 10 + [1] * 4
    chat.close()


def test_a_template_that_rewrites_what_was_said_cannot_tell_answers(load):
    chat = load(REWRITES)
    with pytest.raises(Refused, match="writes earlier messages in another way") as refused:
        chat.encode(TWO)
    assert refused.value.reason == "unknown answers"
    assert chat.encode(TWO, "all").weights.all()


def test_generation_blocks_must_be_as_many_as_answers(load):
    chat = load("{% for m in messages %}{{ m.content }}{% endfor %}{% if 0 %}{% generation %}{% "
                "endgeneration %}{% endif %}")  # fmt: skip
    with pytest.raises(Refused, match="marks 0 answers of 2 as generation"):
        chat.encode(TWO)


def test_nothing_that_is_typed_becomes_a_special_token(load, tokenizer):
    # U+2581 is how sentencepiece writes a space.
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")
    typed = st.text(characters, max_size=4)
    spelled = st.sampled_from(["<s>", "</s>", "<|im_end|>", "<|im_start|>", "\ue000", "<|im_"])
    said = st.lists(typed | spelled, min_size=1, max_size=4).map("".join).filter(str.strip)
    chats = [load(text) for text in (LLAMA2, CHATML, GENERATION)]

    @settings(max_examples=60)
    @given(said, said)
    def check(first, second):
        messages = [Message("user", first), Message("assistant", second)]
        for chat in chats:
            plain = [message._replace(text="a") for message in messages]
            found, want = chat.encode(messages), chat.encode(plain)
            assert [i for i in found.ids if tokenizer.is_control(i)] == [
                i for i in want.ids if tokenizer.is_control(i)
            ]
        assert second in tokenizer.decode(chats[1].encode(messages).ids)

    check()


def test_the_day_is_given_or_refused(load):
    text = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    ids = load(text, date="2023-07-18").prompt(TWO[:1])
    assert ids == load("18 Jul 2023{% for m in messages %}{{ m.content }}{% endfor %}").prompt(
        TWO[:1]
    )
    with pytest.raises(Refused, match="asks for the day it is"):
        load(text, date="").prompt(TWO[:1])
    assert load(text).prompt(TWO[:1])


BOMBS = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "in time",
    "{{ 'a' * 10**11 }}": "more memory than it may have",
    "{% set ns = namespace(a='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}"
    "{% endfor %}": "more memory than it may have",
    "{{ '%1000000000000d' % 1 }}": "more memory than it may have",
    "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}": "writes more than 67108864",
    "{{ raise_exception('roles!') }}": "refuses the conversation: roles!",
    "{{ ().__class__.__mro__ }}": "refuses the conversation: access to attribute '__class__'",
    "{{ namespace(__init__=1) }}": "'__init__' cannot be set",
    "{{ messages.append(1) }}": "refuses the conversation: .*append",
    "{{ messages[0].text.x }}": "refuses the conversation: .* has no attribute 'text'",
    "{{ 1 // 0 if messages else 2 }}": "fails: ZeroDivisionError",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_does_harm_is_one_sentence_and_the_next_one_works(bomb):
    seconds = 4.0 if BOMBS[bomb] == "in time" else 60.0  # However slow the machine is.
    box = Sandbox("{% if bad %}" + bomb + "{% else %}fine{% endif %}", seconds=seconds)
    with pytest.raises(Refused, match=BOMBS[bomb]) as refused:
        box.render(bad=True, messages=[{"content": "a"}])
    assert refused.value.reason == "chat template failed"
    assert box.render(bad=False, messages=[]) == "fine"
    box.close()


def test_the_process_does_not_see_what_is_secret_and_ends_with_its_owner(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    box = Sandbox("a")
    assert box.render(x=1) == "a"
    process = pathlib.Path(f"/proc/{box._process.pid}")
    if process.exists():
        assert b"SOME_TOKEN" not in (process / "environ").read_bytes()
    running = box._process
    del box
    assert running.poll() is not None


def test_half_a_character_is_carried_through():
    box = Sandbox("{{ x }}")
    assert box.render(x="a\ud800é\ue000") == "a\ud800é\ue000"
    box.close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jinja", b"{% if %}", "the chat template's line 1"),
        ("a.jinja", b"\xff", "is not UTF-8: byte 0"),
        ("a.jinja", b" \n", "holds no chat template"),
        ("tokenizer_config.json", b"{}", "holds no chat template"),
        ("tokenizer_config.json", b"[]", "holds no chat template"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "x"}]}', "holds no chat template"),
        ("tokenizer_config.json", b"{", "JSON"),
    ],
)
def test_a_file_that_holds_no_template_is_one_sentence(
    name, content, sentence, tmp_path, tokenizer
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        load_chat(str(tmp_path / name), tokenizer)


def test_an_enormous_template_is_not_read(tmp_path):
    path = tmp_path / "a.jinja"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="no chat template is that large"):
        read_template(path)


def test_a_template_is_found_by_name_file_or_folder(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"'chatlm' is no chat template; .*Did you mean 'chatml'"):
        load_chat("chatlm", tokenizer)
    with pytest.raises(ValueError, match=r"holds no chat_template\.jinja and no tokenizer_config"):
        load_chat(str(tmp_path), tokenizer)
    several = [{"name": "tool", "template": "x"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    chat = load_chat(str(tmp_path), tokenizer)
    assert chat.encode(TWO).ids == load_chat("chatml", tokenizer).encode(TWO, bos=False).ids
    chat.close()


def test_limits_are_far_above_what_conversations_need():
    assert sandbox.LARGEST_TEXT >= 64 << 20 and sandbox.MEMORY >= 1 << 30
