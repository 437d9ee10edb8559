"""Groups of rollouts for a person to read: on the console, or as a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from s2l_nemo.errors import UserError
from s2l_nemo.files import write_text_atomic
from s2l_nemo.records.dump import RolloutRow, iterate_rollouts

_COLORS = {"learner": "cyan", "explorer": "yellow"}  # of samplers; others have the explorer's
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --learner: #0072b2; --explorer: #b5651d }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem }
h1 { font-size: 1.25rem } h2 { font-size: 1.05rem; margin-top: 2rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 0.9rem/1.45 ui-monospace, monospace; margin: 0 }
.prompt { border: 1px solid var(--line); padding: 0.75rem; border-radius: 0.4rem }
article { border-left: 0.3rem solid var(--explorer); padding: 0.2rem 0 0.2rem 0.75rem; margin: 1rem 0 }
article.learner { border-color: var(--learner) }
article p { margin: 0 0 0.3rem; font-size: 0.85rem }
.right { font-weight: 700 }
"""


def read_groups(file: Path, prompt: int | None, most: int | None = None) -> list[list[RolloutRow]]:
    """The groups of one step in the order in which they were trained on; with `prompt`, the one of that id.

    `most`: how many of the first ones are read; None: all. Raises UserError if the file is missing or broken, or has no
    such prompt.
    """
    groups: dict[int, list[RolloutRow]] = {}
    for row in iterate_rollouts(file):
        if most is not None and len(groups) == most and row.prompt_id not in groups:
            break
        groups.setdefault(row.prompt_id, []).append(row)
    if prompt is None:
        return list(groups.values())
    if prompt not in groups:
        some = ", ".join(map(str, list(groups)[:8]))
        raise UserError(f"prompt={prompt} is not in {file}: choose one of {some}{', ...' if len(groups) > 8 else ''}")
    return [groups[prompt]]


def facts(row: RolloutRow, longest: int | None = None) -> str:
    """One line on a completion: sampler, reward, advantage, what the grader read (cut at `longest`), tokens."""
    said = "no answer found" if row.extracted is None else f"answer {_cut(row.extracted, longest)!r}"
    parts = [
        row.source,
        "no reward" if row.reward is None else f"reward {row.reward:g}",
        f"advantage {row.advantage:+.3f}",
        said,
    ]
    parts.append(f"{len(row.token_ids)} tokens{', cut at the limit' if row.finish_reason == 'length' else ''}")
    if row.grader_error is not None:
        parts.append(f"the check failed: {row.grader_error}")
    if not row.kept:
        parts.append("left out by the filter")
    return " | ".join(parts)


def title(group: Sequence[RolloutRow]) -> str:
    """One line on a group: its step, prompt and right answer, and how many of each sampler are right."""
    sources = dict.fromkeys(row.source for row in group)
    right = [
        f"{source} {sum((row.reward or 0) > 0 for row in rows)}/{len(rows)}"
        for source in sources
        for rows in [[row for row in group if row.source == source]]
    ]
    return f"step {group[0].step}, prompt {group[0].prompt_id}, answer {group[0].answer!r}: {', '.join(right)} right"


def to_console(group: Sequence[RolloutRow]) -> RenderableType:
    """The prompt, then each completion in the color of its sampler."""
    parts: list[RenderableType] = [Text(title(group), "bold"), Panel(Text(group[0].prompt), title="prompt")]
    for row in group:
        color = _COLORS.get(row.source, _COLORS["explorer"])
        parts.append(Panel(Text(row.response), title=Text(facts(row)), title_align="left", border_style=color))
    return Stack(*parts)


def write_html(path: Path, groups: Sequence[Sequence[RolloutRow]]) -> None:
    """The same as one page without scripts or outside files, all or nothing."""
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title(groups[0]))}</title>"]
    parts.append("<meta name='viewport' content='width=device-width'>" + f"<style>{_STYLE}</style><h1>Rollouts</h1>")
    for group in groups:
        parts.append(f"<h2>{html.escape(title(group))}</h2>{group_html(group)}")
    write_text_atomic(path, "\n".join(parts) + "\n")


def group_html(group: Sequence[RolloutRow], longest: int | None = None) -> str:
    """The prompt, then each completion, as HTML in which every text is escaped.

    A text of more than `longest` characters is cut there, and says how many are left out.
    """
    parts = [f"<pre class='prompt'>{html.escape(_cut(group[0].prompt, longest))}</pre>"]
    for row in group:
        kind = "learner" if row.source == "learner" else "explorer"
        mark = " class='right'" if (row.reward or 0) > 0 else ""
        parts.append(f"<article class='{kind}'><p{mark}>{html.escape(facts(row, longest))}</p>")
        parts.append(f"<pre>{html.escape(_cut(row.response, longest))}</pre></article>")
    return "\n".join(parts)


def _cut(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    return f"{text[:longest]}\n[{len(text) - longest:,} more characters are left out here]"
