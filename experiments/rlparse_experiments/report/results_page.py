"""Write a page of results from run folders: ``python -m rlparse_experiments.report.results_page RUN …``.

Every figure on the page is read from a run's ``results.json`` and ``config.json``; nothing is typed in by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlparse_experiments.run_folder import RunFolder

CONVENTIONS = ("nyu", "prpn", "evalb")


def describe_parser(config: dict[str, Any]) -> str:
    """Name who built a run's parses, in words."""
    settings = config["settings"]
    kind = settings["parser"]["kind"]
    names = {
        "tracker": "learned (Tracker, policy gradient)",
        "boundary": "learned (phrase boundaries, policy gradient)",
        "easy_first": "learned (easy-first merges, policy gradient)",
        "shared_tracker": "learned (the encoder's own Tracker)",
        "gumbel": "learned (straight-through Gumbel)",
        "left": "left-branching",
        "right": "right-branching",
        "balanced": "balanced",
        "random": "random (uniform over trees, one for every sentence)",
        "random_per_epoch": "random (uniform over trees, drawn anew every time)",
        "gold": "gold",
        "gold_or_right": "gold where there is one, else right-branching",
        "none": f"no trees ({settings['encoder'].get('architecture', 'unknown encoder')})",
    }
    system = settings["agent"].get("system", "")
    notes = []
    if settings["encoder"]["hide_premise"]:
        notes.append("hypothesis only")
    if settings["corpus"]["parsed_only"]:
        notes.append("parsed pairs only")
    return "; ".join([f"{system}: {names[kind]}" if system else names[kind], *notes])


def results_table(runs: Sequence[Path]) -> list[str]:
    """Build a Markdown table with a row for every run, and the trivial trees' scores below.

    Raises:
        CheckpointError: A folder is not a run, or not a finished one.
    """
    head = ["trees", "training pairs", "dev accuracy", *(f"F1 ({c})" for c in CONVENTIONS), "depth", "epochs"]
    head += ["seed", "minutes", "peak GiB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    tables = []
    for path in runs:
        folder = RunFolder(path)
        results, config = folder.read(folder.results_file), folder.read(folder.config_file)
        parses = results.get("parses") or {
            "against_gold": {},
            "depth": {},
        }  # of an encoder that reads no trees
        learned = parses["against_gold"].get("learned", {})
        depth = parses["depth"].get("learned")
        cells = [
            describe_parser(config),
            f"{results['train_examples']:,}",
            f"{100 * results['dev_accuracy']:.2f}",
            *(f"{100 * learned[c]:.2f}" if c in learned else "–" for c in CONVENTIONS),
            "–" if depth is None else f"{depth:.2f}",
            f"{config['settings']['agent']['epochs']:g}",
            str(results["seed"]),
            f"{results['seconds'] / 60:.1f}",
            f"{results['peak_memory_gib']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        tables.append(parses)
    tables = [parses for parses in tables if parses["against_gold"]]
    if tables:
        lines += ["", "Trivial trees against the same gold parses:", ""]
        lines += [
            "| trees | " + " | ".join(f"F1 ({c})" for c in CONVENTIONS) + " | depth |",
            "|---|---|---|---|---|",
        ]
        for kind, scores in tables[0]["against_gold"].items():
            if kind != "learned":
                depth = tables[0]["depth"][kind]
                shown = " | ".join(f"{100 * scores[c]:.2f}" for c in CONVENTIONS)
                lines.append(f"| {kind.replace('_', ' ')} | {shown} | {depth:.2f} |")
    lines += ["", "Commands:", "", "```text"]
    return [*lines, *map(command_of, runs), "```"]


def command_of(path: Path) -> str:
    """Give the command that made a run, with the threads it used and the commit it ran at."""
    folder = RunFolder(path)
    config = folder.read(folder.config_file)
    commit = (config["commit"] or "unknown")[:9]
    return f"{config['command']}   # threads {config['settings']['threads']}, commit {commit}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the runs given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    print("\n".join(results_table(parser.parse_args(argv).runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
