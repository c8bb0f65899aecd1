"""The shipped recipes of data, on real slices of what they are for."""

import importlib.util
import json
from pathlib import Path

import pytest

from llama_jax import prepare
from llama_jax.config import load
from llama_jax.config.prepare import PrepareConfig
from llama_jax.core.files import read_json
from llama_jax.data.tokens import TokenStore
from llama_jax.text.tokenizer import load_tokenizer

CONFIGS = Path(__file__).parents[3] / "configs"
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def recipe(shared, tmp_path):
    """Returns a recipe by name, for the real tokenizer and an output of this test."""

    def make(name):
        spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        config.output = str(tmp_path / name)
        config.tokenizer = str(shared / "tokenizers/llama2/tokenizer.model")
        return config

    return make


def documents(folder, tokenizer):
    """Yields the ids of every document."""
    store = TokenStore(folder, tokenizer)
    for i in range(store.manifest.documents):
        yield store.read(*store.offsets[i : i + 2].tolist()).tolist()


def test_phase_1_holds_long_documents_in_the_form_of_the_released_model(recipe, shared):
    config = recipe("data_llama2_7b_32k_phase1")
    for name, folder in (("books", "/book"), ("arxiv", "/arxiv"), ("redpajama", "")):
        config.sources[name].path = f"{shared}/data/redpajama{folder}"
    config.sources.ul2.path = f"{shared}/data/redpajama/c4-rp"
    config.decontaminate.sets = str(shared / "data/eval_sets")
    prepare.prepare(load.parse(PrepareConfig, config))
    output = Path(config.output)
    tokenizer = load_tokenizer(output / "tokenizer")
    report = read_json(output / "report.json")
    assert report["redpajama"]["dropped"]["too few words"] > 1000
    for name in ("books", "arxiv", "redpajama"):
        found = list(documents(output / name / "train", tokenizer))
        assert len(found) == report[name]["documents"] > 0
        for ids in found:
            assert ids[:3] == [1, 29871, 13] and tokenizer.eos_id not in ids
            assert len(tokenizer.decode(ids).split()) >= 2000
    dialogues = [tokenizer.decode(ids) for ids in documents(output / "ul2/train", tokenizer)]
    assert len(dialogues) > 100
    assert all("<human>: " in text and "<bot>: " in text for text in dialogues)
    assert read_json(output / "contamination.json")["n"] == 13


def test_phase_2_packs_examples_of_a_task_into_32k_tokens(recipe, shared, tmp_path):
    config = recipe("data_llama2_7b_32k_phase2")
    config.sources.natural_instructions.path = f"{shared}/data/natural_instructions"
    config.sources.p3.path = str(FIXTURES / "p3.jsonl")
    config.sources.pile.path = str(FIXTURES / "pile.jsonl")
    config.sources.books.path = f"{shared}/data/redpajama/book"
    config.sources.arxiv.path = f"{shared}/data/redpajama/arxiv"
    config.decontaminate.sets = str(shared / "data/eval_sets")
    prepare.prepare(load.parse(PrepareConfig, config))
    output = Path(config.output)
    tokenizer = load_tokenizer(output / "tokenizer")
    lengths, tasks = [], set()
    for ids in documents(output / "natural_instructions/train", tokenizer):
        assert ids[:3] == [1, 29871, 13] and tokenizer.eos_id not in ids
        text = tokenizer.decode(ids)
        tasks.add(text[:200])
        lengths.append(len(ids))
        assert text.count("Definition: ") == 1
    assert max(lengths) <= 32_768
    # Only the last text of a task has room for more.
    assert sum(length < 30_000 for length in lengths) <= len(tasks)
    assert sum(length > 30_000 for length in lengths) >= 5
    store = TokenStore(output / "natural_instructions/train", tokenizer)
    assert 0 < store.read_weights(0, 32_768).mean() < 0.9


def test_orca_8k_has_the_ids_and_the_mask_of_the_released_model(recipe, tmp_path):
    config = recipe("data_llama2_13b_orca_8k")
    talk = {"instruction": "Be kind.", "conversation": [{"input": "Hi", "output": "Hello."}]}
    (tmp_path / "talks.jsonl").write_text("\n".join([json.dumps(talk)] * 20))
    config.sources.orca_chat.path = str(tmp_path / "talks.jsonl")
    config.sources.fanfics.path = str(FIXTURES / "fanfics.jsonl")
    config.sources.red_pajama.path = str(FIXTURES / "redpajama.jsonl")
    prepare.prepare(load.parse(PrepareConfig, config))
    tokenizer = load_tokenizer(Path(config.output) / "tokenizer")
    assert tokenizer.vocab_size == 32_006
    store = TokenStore(Path(config.output) / "orca_chat/train", tokenizer)
    ids, weights = store[0]["tokens"].tolist(), store[0]["weights"].tolist()
    system, prompter, assistant = 32_003, 32_005, 32_001
    assert [i for i in ids if i >= 32_000] == [system, prompter, assistant]
    assert ids[0] == 1 and ids.count(2) == 3 and ids[-1] == 2
    # The system's part is learned, the question is not, the answer and its end are.
    asked, answered = ids.index(prompter), ids.index(assistant)
    assert weights[1 : asked + 1] == [1] * asked
    assert not any(weights[asked + 1 : answered + 1])
    assert weights[answered + 1 :] == [1] * (len(ids) - answered - 1)


def test_answers_of_multi_document_questions_are_kept_beside_the_tokens(recipe, tmp_path):
    config = recipe("data_llama2_7b_32k_mqa")
    record = (
        '{"prompt": "Read.\\n\\nDocument [1](Title: A) It is blue.\\n\\nQuestion: which?\\n", '
        '"completion": "Answer: blue\\nLong Answer: It is blue.\\nGold Document ID: 1"}\n'
    )
    (tmp_path / "a.jsonl").write_text(record * 300)
    config.sources.mqa.path = str(tmp_path / "a.jsonl")
    prepare.prepare(load.parse(PrepareConfig, config))
    folder = Path(config.output) / "mqa/train"
    tokenizer = load_tokenizer(Path(config.output) / "tokenizer")
    store = TokenStore(folder, tokenizer)
    ids, weights = (read(*store.offsets[:2].tolist()) for read in (store.read, store.read_weights))
    learned = tokenizer.decode([int(id) for id in ids[weights == 1]])
    assert learned.strip().startswith("Answer: blue\nLong Answer")
