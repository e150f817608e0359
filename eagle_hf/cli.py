"""`eagle-hf`: one sub-command per step."""

import argparse
import sys
from pathlib import Path

DTYPE_CHOICES = ["auto", "bfloat16", "float16", "float32"]


def main(arguments: list[str] | None = None) -> int:
    """Run a sub-command: its exit status, 0 unless it says otherwise; errors that a caller can mend are one line on stderr and 2."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError) as error:
        print(f"eagle-hf {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the same command goes on from the last finished step", file=sys.stderr
        )
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="eagle-hf", description="Draft heads for Hugging Face causal LMs."
    )
    commands = top.add_subparsers(dest="command", required=True)

    quick = commands.add_parser(
        "quickstart",
        help="see generate get faster, with the project's head and with one trained on this machine",
    )
    quick.add_argument(
        "--folder",
        type=Path,
        default=Path("quickstart"),
        help="where everything is kept (default: quickstart)",
    )
    quick.add_argument("--minutes", type=float, default=5.0, help="training budget (default: 5)")
    quick.add_argument(
        "--prompts",
        type=int,
        default=480,
        help="user turns that the target answers for training (default: 480)",
    )
    quick.add_argument("--no-train", action="store_true", help="stop after the project's own head")
    quick.set_defaults(run=run_quickstart)

    measure = commands.add_parser(
        "evaluate", help="tau, acceptance, speed and equality by category"
    )
    measure.add_argument("--head", required=True, help="folder or hub id of the draft head")
    measure.add_argument("--target", required=True, help="hub id, folder, .gguf file, or smollm2")
    measure.add_argument("--adapter", help="PEFT adapter laid over the target")
    measure.add_argument(
        "--categories",
        nargs="+",
        default=["chat", "code", "math"],
        help="bundled categories or .jsonl files",
    )
    measure.add_argument("--per-category", type=int, default=8, help="prompts of each (default: 8)")
    measure.add_argument("--max-new-tokens", type=int, default=64)
    measure.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    measure.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPE_CHOICES,
        help="auto (default): what this machine is fastest in",
    )
    measure.add_argument(
        "--tree",
        help="policy:depth:top_k:nodes, e.g. dynamic:4:4:16 or chain:4:1:4 (default: the head's own)",
    )
    measure.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/evaluation"),
        help="folder of report.md, metrics.json and the plot",
    )
    measure.set_defaults(run=run_evaluate)

    plan = commands.add_parser(
        "plan", help="measure this machine and a drafter's acceptance; choose trees by cost"
    )
    drafter = plan.add_mutually_exclusive_group(required=True)
    drafter.add_argument(
        "--head",
        help="folder of the draft head; plan.json is written there unless --out says otherwise",
    )
    drafter.add_argument("--draft", help="instead: a smaller model, hub id, folder or .gguf file")
    drafter.add_argument(
        "--self-speculation", action="store_true", help="instead: the target itself behind a window"
    )
    plan.add_argument(
        "--sinks", type=int, default=16, help="first tokens that such a window keeps (default: 16)"
    )
    plan.add_argument(
        "--window",
        type=int,
        default=496,
        help="newest tokens that it keeps (default: 496); 0: a draft model's whole cache",
    )
    plan.add_argument("--target", required=True, help="hub id, folder, .gguf file, or smollm2")
    plan.add_argument("--adapter", help="PEFT adapter laid over the target")
    plan.add_argument(
        "--categories",
        nargs="+",
        default=["chat", "code", "math"],
        help="bundled categories or .jsonl files",
    )
    plan.add_argument(
        "--per-category",
        type=int,
        default=10,
        help="prompts of each that acceptance is measured on (default: 10); behind a window, as many texts of the longest length",
    )
    plan.add_argument("--max-new-tokens", type=int, default=64)
    plan.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="of the answers that acceptance is measured on; 0 is greedy (default)",
    )
    plan.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPE_CHOICES,
        help="auto (default): what this machine is fastest in",
    )
    plan.add_argument(
        "--batches",
        nargs="+",
        type=int,
        default=[1, 4, 8],
        help="batch sizes to measure (default: 1 4 8)",
    )
    plan.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        default=[256, 2048, 8000],
        help="context lengths to measure, in tokens",
    )
    plan.add_argument(
        "--trace",
        type=Path,
        help="keep in this .npz what the head proposed along the answers, to replay policies on",
    )
    plan.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="afterwards decode so many times in every cell, promised against measured; 0: do not (default: 3)",
    )
    plan.add_argument(
        "--out",
        type=Path,
        help="folder for plan.json and plan.png (default: the head's; needed without one)",
    )
    plan.set_defaults(run=run_plan)

    check = commands.add_parser(
        "check",
        help="what eagle_hf, vLLM, SGLang, llama.cpp and OpenVINO will do with a saved head; exit status 1 for an error",
    )
    check.add_argument(
        "head", metavar="FOLDER_OR_ID", help="folder or hub id of a head, in any dialect"
    )
    check.add_argument(
        "--target", help="its target, to compare with: hub id, folder, .gguf file, or smollm2"
    )
    check.add_argument(
        "--fix",
        type=Path,
        metavar="OUT",
        help="write the head, corrected, to this new folder; the exit status is then its",
    )
    check.set_defaults(run=run_check)

    export = commands.add_parser("export", help="write a head as one engine reads it")
    export.add_argument(
        "head", metavar="HEAD", help="folder or hub id of a draft head, in any dialect"
    )
    export.add_argument(
        "--to", required=True, choices=["speculators", "vllm", "sglang", "llamacpp", "openvino"]
    )
    export.add_argument(
        "--target",
        help="hub id or folder of the target: speculators names it, SGLang may need it, and the head is held against its config",
    )
    export.add_argument("--out", type=Path, required=True, help="new folder")
    export.set_defaults(run=run_export)

    serve = commands.add_parser(
        "serve-command", help="print how to serve a target with a drafter, and what to know before"
    )
    serve.add_argument(
        "head",
        metavar="HEAD",
        nargs="?",
        help="folder or hub id of the draft head, or of the smaller model; none for ngram",
    )
    serve.add_argument(
        "--engine", required=True, choices=["vllm", "sglang", "llamacpp", "openvino"]
    )
    serve.add_argument("--method", default="eagle3", choices=["eagle3", "draft-model", "ngram"])
    serve.add_argument(
        "--target", help="hub id or folder of the target (default: what the head's card names)"
    )
    serve.add_argument(
        "--tree",
        help="policy:depth:top_k:nodes, e.g. dynamic:4:4:16 or chain:4:1:4 (default: the head's own)",
    )
    serve.add_argument("--tp", type=int, default=1, help="GPUs that share the target (default: 1)")
    serve.set_defaults(run=run_serve_command)

    merge = commands.add_parser(
        "merge", help="write a head with a LoRA merged in, as engines load it"
    )
    merge.add_argument(
        "--head", required=True, help="folder or hub id of the head that the adapter was trained on"
    )
    merge.add_argument(
        "--adapter", required=True, help="PEFT adapter, or a checkpoint of a LoRA run"
    )
    merge.add_argument("--out", type=Path, required=True, help="new folder of the merged head")
    merge.set_defaults(run=run_merge)
    return top


def run_quickstart(options) -> None:
    from eagle_hf.quickstart import quickstart

    quickstart(
        options.folder, minutes=options.minutes, prompts=options.prompts, train=not options.no_train
    )


def run_evaluate(options) -> None:
    from eagle_hf.data.suites import load_suite
    from eagle_hf.evaluation.offline import by_category, evaluate, sampling_at
    from eagle_hf.evaluation.report import markdown_table, write_report
    from eagle_hf.head.configuration import TreeConfig
    from eagle_hf.head.modeling import Eagle3DraftHead
    from eagle_hf.provenance import machine
    from eagle_hf.target import load_target
    from eagle_hf.target.dtypes import default_device
    from eagle_hf.target.gguf import gguf_file

    gguf_file(options.target)  # what is mistyped is told before anything is opened
    tree = TreeConfig.parse(options.tree) if options.tree else "auto"
    prompts = load_suite(options.categories, options.per_category)
    head = Eagle3DraftHead.from_pretrained(options.head, tree=tree)
    device = default_device()
    target, tokenizer = load_target(
        options.target, options.adapter, dtype=options.dtype, device=device
    )
    head.to(device, target.dtype)
    answers = evaluate(
        target,
        tokenizer,
        head,
        prompts,
        max_new_tokens=options.max_new_tokens,
        **sampling_at(options.temperature),
    )
    summaries = by_category(answers)
    facts = {
        "target": options.target,
        "head": options.head,
        "tree": "by machine" if head.tree_by_machine else str(head.tree),
        "temperature": options.temperature,
        "max_new_tokens": options.max_new_tokens,
        **machine(target),
    }
    write_report(options.out, summaries, facts)
    print(markdown_table(summaries))
    for answer in answers:
        if answer.difference is not None:
            kind = "a tie" if answer.difference.is_tie else "a difference"
            print(
                f"{answer.prompt['id']}: {kind} at token {answer.difference.position}, top-2 gap {answer.difference.gap:.1e}"
            )
    whole = summaries["all"]
    print(
        f"a round costs {whole.overhead_ms:.1f} ms, {whole.overhead_share:.1%} of it, besides the forwards of target and head; report in {options.out}"
    )


def run_plan(options) -> None:
    from eagle_hf.decoding.dispatch import check_target
    from eagle_hf.decoding.timing import check_lengths, given_tree
    from eagle_hf.evaluation.offline import sampling_at
    from eagle_hf.head.configuration import TreeConfig
    from eagle_hf.measuring.clock import draw_speeds
    from eagle_hf.measuring.plans import (
        DEPTH,
        describe,
        make_plan,
        measure_plan,
        questions,
        record_answers,
    )
    from eagle_hf.target import load_target
    from eagle_hf.target.dtypes import default_device

    out = options.out or Path(options.head or "")
    if not (options.out or options.head) or not out.is_dir():
        raise ValueError(
            f"{options.out or options.head or 'nothing'} was given as a folder for plan.json and is none; give --out an existing one"
        )
    if options.repeats < 0:
        raise ValueError(
            f"repeats is {options.repeats}; give how often every cell is decoded, or 0 to leave that out"
        )
    if options.repeats and options.max_new_tokens <= DEPTH + 2:
        raise ValueError(
            f"max_new_tokens is {options.max_new_tokens}, which two rounds may emit: too few to time; give {DEPTH + 3} or more, or --repeats 0"
        )
    device = default_device()
    target, tokenizer = load_target(
        options.target, options.adapter, dtype=options.dtype, device=device
    )
    assistant = drafter_of(options, target, tokenizer, target.dtype, device)
    check_lengths(target, options.lengths)
    with given_tree(assistant, TreeConfig()):
        check_target(target, assistant)
    starts = questions(
        tokenizer, assistant, options.categories, options.per_category, max(options.lengths)
    )
    trace = record_answers(
        target,
        tokenizer,
        assistant,
        starts,
        options.max_new_tokens,
        **sampling_at(options.temperature),
    )
    if options.trace:
        trace.save(options.trace)
    plan = make_plan(target, assistant, trace, options.batches, options.lengths, progress=print)
    plan.save(out)
    print(f"\n{describe(plan)}\n", flush=True)
    if options.repeats:
        draw_speeds(
            out / "plan.png",
            measure_plan(
                target,
                tokenizer,
                assistant,
                plan,
                options.max_new_tokens,
                options.repeats,
                progress=print,
            ),
        )
    loaded = (
        ""
        if options.head and out == Path(options.head)
        else f"assistant.plan = eagle_hf.Plan.load({str(out)!r}); "
    )
    print(
        f'\nthe plan is in {out}; use it: {loaded}assistant.tree = TreeConfig("adaptive", depth=6, top_k=8, nodes=63)'
    )


def drafter_of(options, target, tokenizer, dtype, device):
    """The assistant that a plan is for; tokenizer: the target's."""
    from eagle_hf.decoding.windowed import SelfSpeculation, WindowedDraft
    from eagle_hf.head.modeling import Eagle3DraftHead
    from eagle_hf.target import load_target

    if options.head:
        return Eagle3DraftHead.from_pretrained(options.head, dtype=dtype).to(device)
    if options.draft:
        model, own = load_target(options.draft, dtype=dtype, device=device)
        strangers = len(own.get_vocab().items() ^ tokenizer.get_vocab().items())
        if strangers:
            print(
                f"note: the tokenizers differ in {strangers} entries; what the target reads otherwise is drafted in vain",
                file=sys.stderr,
            )
        common = min(
            len(tokenizer), *(part.config.get_text_config().vocab_size for part in (model, target))
        )
        return WindowedDraft(
            model, options.sinks, options.window or None, vocab_size=None if strangers else common
        )
    return SelfSpeculation(options.sinks, options.window)


def run_check(options) -> int:
    from eagle_hf.hub.check import check

    report = check(options.head, options.target)
    print(report.text())
    if options.fix:
        from eagle_hf.hub.fix import fix

        changes = fix(options.head, options.fix, options.target) or ["nothing had to be changed"]
        print(
            "\n".join(
                [
                    "",
                    f"{options.fix} holds the head, corrected:",
                    *(f"  {change}" for change in changes),
                ]
            )
        )
        report = check(options.fix, options.target)
    return int(report.failed)


def run_export(options) -> None:
    from transformers import AutoConfig

    from eagle_hf.head.modeling import Eagle3DraftHead
    from eagle_hf.hub.export import export_head, named_target

    name = (
        named_target(options.head)
        if options.to == "speculators" and not options.target
        else options.target
    )
    target = AutoConfig.from_pretrained(name) if name else None
    export_head(
        Eagle3DraftHead.from_pretrained(options.head, dtype="auto"),
        options.out,
        options.to,
        name,
        target,
    )
    print(f"the head is in {options.out}")


def run_serve_command(options) -> None:
    from eagle_hf.head.configuration import TreeConfig
    from eagle_hf.hub.export import named_target
    from eagle_hf.hub.serve import head_settings, serve_command

    eagle3 = options.method == "eagle3" and options.head is not None
    config, dialect = head_settings(options.head) if eagle3 else (None, "eagle_hf")
    target = options.target or (named_target(options.head) if eagle3 else None)
    if target is None:
        raise ValueError("the target is missing; name it: --target")
    tree = TreeConfig.parse(options.tree) if options.tree else None
    print(
        serve_command(
            target, options.head, options.engine, options.method, config, dialect, tree, options.tp
        ).text()
    )


def run_merge(options) -> None:
    from eagle_hf.training.merging import merge_saved

    merge_saved(options.head, options.adapter, options.out)
    print(f"the merged head is in {options.out}")


if __name__ == "__main__":
    sys.exit(main())
