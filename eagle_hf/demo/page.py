"""The page: a Gradio app that asks nothing of any other server.

Gradio's fonts, its usage statistics and its check for new versions are off, and no component is
used that fetches a script from elsewhere (plots, maps and 3D models do).
"""

import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eagle_hf.data.optional import require
from eagle_hf.demo.comparison import Comparison, compare
from eagle_hf.demo.models import BY_MACHINE, DemoModels, Question
from eagle_hf.demo.views import (
    drafted_html,
    legend_html,
    message,
    plain_html,
    status_html,
    tree_html,
)
from eagle_hf.provenance import cpu_name, dtype_name
from eagle_hf.target import execution_device

STYLE = Path(__file__).with_name("demo.css")
TITLE = "The target alone, and with its draft head"
READY = "The target answers alone first, then with the head: each has the machine to itself."
TREES = (
    ("chosen by this machine", BY_MACHINE),
    ("chain of 4 drafts", "chain:4:1:4"),
    ("tree of 8 drafts", "dynamic:3:5:8"),
    ("tree of 16 drafts", "dynamic:4:8:16"),
    ("tree of 48 drafts", "dynamic:6:8:48"),
)
EXAMPLES = (
    "Explain why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "A train travels 60 km in 45 minutes. How fast is it in km/h? Think step by step.",
)
MAX_NEW_TOKENS = 512
Panels = tuple[str, str, str, str]  # status, both answers, tree


def load_gradio() -> Any:
    """The module gradio.

    Raises:
        ValueError: it is not installed.
    """
    return require("gradio", "gradio", "the demo", extra="demo")


def build_page(models: DemoModels) -> Any:
    """Make the page; nothing is served yet.

    Args:
        models: who answers.

    Returns:
        A `gradio.Blocks`.

    Raises:
        ValueError: gradio is not installed.
    """
    gr = load_gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        _add_html(gr, f"<h1>{TITLE}</h1>{description_html(models)}")
        questions = _add_question(gr)
        with gr.Row():
            run = gr.Button("Answer", variant="primary", scale=0, elem_id="run")
            stop = gr.Button("Stop", scale=0, elem_id="stop")
        panels = _add_answers(gr, models)
        answering = gr.on(
            [run.click, questions[0].submit],
            partial(answer, models),
            questions,
            panels,
            show_progress="hidden",
            concurrency_limit=1,
            api_visibility="private",
        )
        ended = stop.click(None, cancels=[answering], queue=False, api_visibility="private")
        ended.then(stopped, None, panels[0], queue=False, api_visibility="private")
    return page


def answer(
    models: DemoModels,
    prompt: str,
    tree: str | None,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> Iterator[Panels]:
    """Answer a question of the page, frame by frame; what is wrong with it becomes a message."""
    shown = Comparison.empty(models.tokenizer)
    try:
        question = Question(prompt, tree or "", temperature, max_new_tokens, seed)
        for shown in compare(models, question):
            yield panels_of(models, shown)
    except ValueError as error:
        yield with_error(panels_of(models, shown), error)
    except RuntimeError as error:  # such as memory that does not suffice
        traceback.print_exc()
        yield with_error(panels_of(models, shown), error)


def with_error(panels: Panels, error: Exception) -> Panels:
    """The panels with an error's text as the status."""
    return (message(str(error), "error"), *panels[1:])


def panels_of(models: DemoModels, shown: Comparison) -> Panels:
    """What every panel shows of a comparison."""
    return (
        status_html(shown, dtype_name(models.target)),
        plain_html(shown),
        drafted_html(shown),
        tree_html(shown.drafted, models.tokenizer),
    )


def stopped() -> str:
    """The status after the stop button."""
    return message("Stopped.")


def description_html(models: DemoModels) -> str:
    """Who answers, and on what."""
    device = execution_device(models.target)
    place = cpu_name() if device.type == "cpu" else str(device)
    return message(
        f"Target {models.target_name} in {dtype_name(models.target)} on {place}, head "
        f"{models.head_name}. The head drafts, the target decides: both answers are the target's."
    )


def _add_html(gr: Any, html: str, name: str | None = None) -> Any:
    """A stretch of HTML, by its id where it changes."""
    return gr.HTML(html, elem_id=name, js_on_load=None)


def _add_question(gr: Any) -> list[Any]:
    """Add the prompt and its settings, in the order of `answer`."""
    prompt = gr.Textbox(label="Prompt", value=EXAMPLES[0], lines=2, max_lines=8, elem_id="prompt")
    gr.Examples([[text] for text in EXAMPLES], [prompt], label="Examples")
    with gr.Row():
        tree = gr.Dropdown(
            list(TREES),
            value=BY_MACHINE,
            label="Drafts",
            info="or type policy:depth:top_k:nodes",
            allow_custom_value=True,
            elem_id="tree",
        )
        temperature = gr.Slider(
            0, 2, value=0, step=0.1, label="Temperature", info="0 is greedy", elem_id="temperature"
        )
        tokens = gr.Slider(
            16, MAX_NEW_TOKENS, value=128, step=16, label="New tokens", info="at most"
        )
        seed = gr.Number(value=0, precision=0, label="Seed", info="of sampled answers")
    return [prompt, tree, temperature, tokens, seed]


def _add_answers(gr: Any, models: DemoModels) -> list[Any]:
    """Add the panels of the answers, in the order of `Panels`."""
    nothing = Comparison.empty(models.tokenizer)
    _, plain_panel, drafted_panel, tree_panel = panels_of(models, nothing)
    status = _add_html(gr, message(READY), "status")
    with gr.Row():
        with gr.Column():
            plain = _add_html(gr, plain_panel, "plain")
        with gr.Column():
            drafted = _add_html(gr, drafted_panel, "drafted")
    _add_html(gr, legend_html())
    tree = _add_html(gr, tree_panel, "last-tree")
    return [status, plain, drafted, tree]
