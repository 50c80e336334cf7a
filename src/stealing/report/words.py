"""What options mean: an option in, plain words from the first line of its YAML file out."""

from collections.abc import Sequence
from dataclasses import dataclass

from stealing.report.runs import RunGroup
from stealing.settings.options import first_line

LONGEST_NAME = 40
"""Most characters before the colon of a first line that count as a name, and not as a sentence."""


@dataclass(frozen=True)
class Meaning:
    """What an option is, for a reader who does not know its name.

    Attributes:
        name: a few words, such as `Top-k`. The name of the option if its file has none.
        sentence: what the option does. Empty if its file does not say it.
    """

    name: str
    sentence: str = ""


def meaning(group: str, choice: str) -> Meaning:
    """Return what a choice means by the first lines of its files.

    A first line is a comment of the form `# Name: sentence.`; the name may be absent.

    Args:
        group: of the option, such as `defense`.
        choice: an option, or several that are joined by `+`; settings may follow it after a space.
    """
    names = []
    sentences = []
    for option in choice.split()[0].split("+"):
        part = _option_meaning(group, option)
        names.append(part.name)
        if part.sentence:
            sentences.append(part.sentence)
    return Meaning(" + ".join(names), " ".join(sentences))


def _option_meaning(group: str, option: str) -> Meaning:
    line = first_line(group, option)
    # A long text before a colon is the first half of a sentence, and no name.
    name, colon, sentence = line.partition(": ")
    if colon and len(name) <= LONGEST_NAME:
        return Meaning(name, f"{sentence[:1].upper()}{sentence[1:]}")
    return Meaning(option, line)


def plain_names(group: str, choices: Sequence[str]) -> dict[str, str]:
    """Return a plain name for each choice, numbered if one option was tried with several settings.

    Args:
        group: of the options.
        choices: options, with the settings that tell them apart, such as `topk k=4`.
    """
    # Two strengths of an option have one plain name, and a reader has to tell them apart.
    different = list(dict.fromkeys(choices))
    by_name = dict[str, list[str]]()
    for choice in different:
        by_name.setdefault(meaning(group, choice).name, []).append(choice)
    names = dict[str, str]()
    for name, alike in by_name.items():
        for number, choice in enumerate(alike, 1):
            names[choice] = name if len(alike) == 1 else f"{name}, strength {number}"
    return names


def option_glossary(groups: Sequence[RunGroup]) -> dict[str, str]:
    """Return what attacks, plans and defenses mean, with the strengths that were tried."""
    strengths_of = dict[str, dict[str, None]]()
    for group in groups:
        for name, strength in strengths(group).items():
            strengths_of.setdefault(name, {})[strength] = None
    entries = dict[str, str]()
    for kind in ("attack", "defense", "plan"):
        for group in groups:
            for option in group.choices[kind].split()[0].split("+"):
                words = _option_meaning(kind, option)
                if words.sentence:
                    entries[option] = f"{words.name}. {words.sentence}"
    for name, tried in strengths_of.items():
        if name in entries:
            entries[name] += f" Here: {'; '.join(tried)}."
    return entries


def strengths(group: RunGroup) -> dict[str, str]:
    """Return the settings of each defense of a group, by its name; its secret is left out."""
    settings = (group.joined["defense"] or {}).get("settings", {})
    named = dict[str, str]()
    for name, values in settings.items():
        words = []
        for setting, value in values.items():
            # The variable's name is kept out of reports.
            if setting not in ("_target_", "secret"):
                words.append(f"{setting}={value}")
        if words:
            named[name] = " ".join(words)
    return named
