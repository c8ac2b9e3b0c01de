"""One HTML file that a person can read, print and send: figures and styles inside, nothing fetched from outside.

Takes rows, figures and descriptions as the tasks and plots return them; measures nothing itself.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from .goals import Check
from .tables import Table
from .tasks import OURS
from .tasks.description import ReadDescription


@dataclass(frozen=True)
class Illustration:
    """
    A figure with its caption.

    Args:
        figure (`matplotlib.figure.Figure`): Embedded as a picture.
        caption (`str`): What to see in it.
        alt (`str`): The same for a reader who cannot see it.
    """

    figure: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """
    A part of the report.

    Args:
        heading (`str`): Its title.
        prose (`str`, *optional*): Paragraphs, separated by empty lines.
        tables, illustrations (*optional*): Shown in this order.
        descriptions (`list[ReadDescription]`, *optional*): Shown as cards: true type, text, right or wrong, genes.
    """

    heading: str
    prose: str = ""
    tables: Sequence[Table] = ()
    illustrations: Sequence[Illustration] = ()
    descriptions: Sequence[ReadDescription] = field(default=())


def write_report(
    path: str | Path,
    title: str,
    summary: str,
    checks: Sequence[Check],
    sections: Sequence[Section],
    metadata: Mapping[str, object],
) -> Path:
    """
    Writes the report as one HTML file.

    Args:
        path (`str` or `Path`):
            The file to write; its folder must exist.
        title (`str`):
            Heading of the page.
        summary (`str`):
            A few plain sentences for a reader who stops here; empty lines separate paragraphs.
        checks (`list[Check]`):
            Goals and what was measured. Goals that were missed are named above the table, in words.
        sections (`list[Section]`):
            The body, in order.
        metadata (`dict`):
            Footer: seed, versions, data hash, seconds. Entries that are `None` are shown as "unknown".

    Returns:
        `Path`: the file written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"path is {str(path)!r} but the folder {str(path.parent)!r} does not exist: create it first")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"paragraphs": _paragraphs, "picture": _picture}
    source = resources.files(__package__).joinpath("templates", "report.html").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        title=title,
        summary=summary,
        checks=checks,
        missed=[check for check in checks if not check.reached],
        sections=sections,
        metadata={name: "unknown" if value is None else value for name, value in metadata.items()},
        ours=OURS,
    )
    path.write_text(page, encoding="utf-8")
    return path


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _picture(figure: Figure) -> str:
    """The figure as a `data:` address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
