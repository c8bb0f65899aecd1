"""Distill, mix, train, test, deploy: the four steps of Llama-2-7B-32K-Instruct, on one machine.

    python benchmarks/instruct.py            (make instruct-demo)

A small trained model plays the large one. It is served on loopback, answers questions over HTTP,
and its answers train the demo's extended model, beside questions over documents and summaries.
Every step is a command of this project, printed as it is called; run again, it continues. Needs
`make demo` first. Writes runs/demo/instruct and benchmarks/results/instruct.md.
"""

import argparse
import ast
import contextlib
import datetime
import http.server
import importlib.util
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence

import llama_jax
from llama_jax.core import files
from llama_jax.core.provenance import commit, versions
from llama_jax.serving.language_model import LanguageModel

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path("runs/demo/instruct")
LESSONS = FOLDER / "lessons"
RESULT = ROOT / "benchmarks" / "results" / "instruct.md"
TAUGHT, ASKED, HELD_OUT = 5000, 1500, 300

KINDS = {
    "an animal": "fox otter horse goat mouse lion tiger whale",
    "a fruit": "apple pear plum cherry lemon mango melon grape",
    "a metal": "iron copper gold silver zinc lead nickel tin",
    "a tool": "hammer saw axe drill knife shovel rake chisel",
    "a color": "red blue green yellow purple pink brown black",
}
OPENINGS = ("", "Please: ", "Tell me, ", "Quick question: ", "I wonder: ", "Hello. ", "Once more: ")
QUESTIONS = (
    "what is {}?",
    "what kind of thing is {}?",
    "which kind is {} of?",
    "name the kind of {}.",
    "say what {} is.",
    "is {} an animal, a tool, or what?",
)
CLOSINGS = ("", " Thanks.", " Be brief.", " One sentence.", " I forgot.")


def lessons() -> list[tuple[str, str]]:
    """Returns all (question, answer), in random order."""
    found = [
        (opening + question.format(word) + closing, f"It is {kind}.")
        for kind, words in KINDS.items()
        for word in words.split()
        for opening in OPENINGS
        for question in QUESTIONS
        for closing in CLOSINGS
    ]
    random.Random(0).shuffle(found)
    return found


def write_lessons() -> None:
    """Writes what the teacher learns, what it is asked, what nobody sees, and the other sources."""
    found = lessons()
    assert len(found) >= TAUGHT + ASKED + HELD_OUT
    pairs = [
        {"prompt": f"[INST]  {question}  [/INST]", "completion": f"  {answer}"}
        for question, answer in found
    ]
    _write_lines(LESSONS / "taught.jsonl", pairs[:TAUGHT])
    _write_lines(LESSONS / "held_out.jsonl", pairs[-HELD_OUT:])
    asked = [[question] for question, _ in found[TAUGHT : TAUGHT + ASKED]]
    files.write_json(LESSONS / "asked.json", asked)
    modules = _modules()
    _write_lines(LESSONS / "mqa.jsonl", list(_questions(modules)))
    _write_lines(LESSONS / "booksum" / "alignments.jsonl", list(_summaries(modules)))


def _write_lines(path: pathlib.Path, records: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, "\n".join(map(json.dumps, records)).encode())


def _modules() -> dict[str, tuple[str, str]]:
    """Returns what the modules of the standard library say of themselves, and their beginnings."""
    found = {}
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].strip()
            if 20 <= len(said) <= 300:
                found[path.stem] = (" ".join(said.split()), text[len(said) + 6 :][:1200])
    return found


def _questions(modules: dict[str, tuple[str, str]]) -> Iterator[dict]:
    names = list(modules)
    for i, (name, (said, _)) in enumerate(modules.items()):
        others = [names[(i + k) % len(names)] for k in range(1, 3)]
        yield {
            "question": f"what is the module {name} for",
            "answers": [said],
            "ctxs": [{"title": o, "text": modules[o][0], "hasanswer": False} for o in others],
            "nq_annotated_gold": {"title": name, "long_answer": said, "chunked_long_answer": said},
        }


def _summaries(modules: dict[str, tuple[str, str]]) -> Iterator[dict]:
    for name, (said, text) in modules.items():
        for kind, content in (("chapter", text), ("summary", said)):
            (LESSONS / "booksum" / kind).mkdir(parents=True, exist_ok=True)
            (LESSONS / "booksum" / kind / name).write_text(content)
        yield {"chapter_path": f"chapter/{name}", "summary_path": f"summary/{name}"}


@contextlib.contextmanager
def served(model: LanguageModel) -> Iterator[str]:
    """Yields the address at which a model answers POST /inference, on loopback, one at a time."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                text = model.generate(
                    asked["prompt"].rstrip(),
                    max_new_tokens=asked["max_tokens"],
                    temperature=asked["temperature"],
                    stop=asked["stop"],
                )
            body = json.dumps({"output": {"choices": [{"text": text.strip()}]}}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Says nothing of every request."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def exact_matches(path: pathlib.Path, limit: int) -> float:
    """Returns the share of held-out questions that a checkpoint answers exactly, greedily."""
    model = llama_jax.load(path)
    asked = [json.loads(line) for line in (LESSONS / "held_out.jsonl").read_text().splitlines()]
    asked = asked[: limit or None]
    answers = model.generate(
        [each["prompt"] for each in asked], max_new_tokens=16, temperature=0.0, stop="[INST]"
    )
    right = [
        answer.strip() == each["completion"].strip()
        for answer, each in zip(answers, asked, strict=True)
    ]
    return sum(right) / len(right)


def command(door: str, *words: str, recipe: str = "", flags: Sequence[str] = ()) -> float:
    """Runs a command of this project and returns its seconds; ends with it if it fails."""
    config = [f"--config={ROOT / 'configs' / recipe}.py"] if recipe else []
    line = ["-m", f"llama_jax.{door}", *words, *config, *flags]
    print("\n$ python " + " ".join(line).replace(f"{ROOT}/", ""), flush=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    if code := subprocess.run([sys.executable, *line], env=environment).returncode:
        raise SystemExit(code)
    return time.perf_counter() - begin


def is_the_same_in_transformers(folder: pathlib.Path) -> str:
    """Returns whether transformers answers as we do from the exported folder, if it is here."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            return f"not checked: {package} is not installed"
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = llama_jax.load(folder, dtype="float32")
    asked = json.loads((LESSONS / "held_out.jsonl").read_text().splitlines()[0])["prompt"]
    ids = ours.tokenizer.encode(asked, bos=True)
    theirs = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0][len(ids) :]
    expected = ours.generate(asked, max_new_tokens=16, temperature=0.0)
    said = ours.tokenizer.decode([id for id in theirs.tolist() if id != ours.tokenizer.eos_id])
    return "the same answer" if said.strip() == expected.strip() else f"{said!r}, not {expected!r}"


def page(asked: int, seconds: dict[str, float], rates: dict[str, float], deployed: str) -> str:
    """Returns the results as Markdown."""
    found = files.read_json(FOLDER / "evaluation" / "results.json")["results"]["answers"]
    rows = [f"| {name} | {found[name]['loss']:.3f} | {rate:.1%} |" for name, rate in rates.items()]
    times = [f"| {name} | {value:.0f} |" for name, value in seconds.items()]
    versions_ = versions()
    return "\n".join(
        [
            "# Distill, mix, train, test, deploy",
            "",
            f"{datetime.date.today()}, commit {commit()[:12]}, `python benchmarks/instruct.py`;",
            f"{os.cpu_count()} CPU cores, {platform.machine()}; jax {versions_['jax']}, "
            f"Python {platform.python_version()}.",
            "",
            f"{asked:,} questions answered over HTTP; {HELD_OUT} held-out questions, greedily:",
            "",
            "| model | loss of the right answer | exactly right |",
            "|---|---:|---:|",
            *rows,
            "",
            f"The exported folder in transformers: {deployed}.",
            "",
            "| step | seconds |",
            "|---|---:|",
            *times,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="of both trainings, for a quick try")
    parser.add_argument("--warmup", type=int, default=10, help="steps, for a quick try")
    parser.add_argument("--limit", type=int, default=0, help="of questions, for a quick try")
    parser.add_argument("--output", type=pathlib.Path, default=RESULT)
    options = parser.parse_args()
    if not pathlib.Path("runs/demo/extend/config.json").is_file():
        raise SystemExit("error: runs/demo/extend is not there. Type: make demo")
    steps = [f"--config.steps={options.steps}"] if options.steps else []
    steps.append(f"--config.optim.warmup_steps={options.warmup}")
    student, teacher, exported = (FOLDER / name for name in ("student", "teacher", "huggingface"))
    seconds = {}

    write_lessons()
    seconds["the teacher's lessons"] = command("prepare", recipe="demo_lessons")
    seconds["training the teacher"] = command("train", recipe="demo_teacher", flags=steps)
    with served(llama_jax.load(teacher)) as url:
        flags = [f"--config.teacher.url={url}", f"--config.limit={options.limit}"]
        seconds["distilling"] = command("distill", recipe="demo_distill", flags=flags)
    seconds["mixing"] = command("prepare", recipe="demo_instruct_data")
    seconds["training the student"] = command("train", recipe="demo_instruct", flags=steps)
    seconds["evaluating"] = command("evaluate", recipe="demo_instruct_evaluate")
    paths = {"student before": pathlib.Path("runs/demo/extend"), "student after": student}
    rates = {
        name: exact_matches(path, options.limit)
        for name, path in (paths | {"teacher": teacher}).items()
    }
    if not exported.exists():
        command("convert", str(student), str(exported), "--format=hf")
    command("runs", "list", str(FOLDER))
    text = page(options.limit or ASKED, seconds, rates, is_the_same_in_transformers(exported))
    files.write_bytes(options.output, text.encode())
    print(f"\n{text}")


if __name__ == "__main__":
    main()
