"""Pages of drafts: all takes of a shot as moving pictures, side by side. A page needs no other file and no network."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swd_video.files import whole_file
from swd_video.pages import page_template
from swd_video.studio.draft_report import DraftReport, DraftResult
from swd_video.studio.folder import DRAFTS_PAGE_NAME, drop_other_pages, in_pages
from swd_video.studio.model import ScriptModel
from swd_video.studio.script import Script

SHOTS_ON_A_PAGE = 50
_TEMPLATE = Path(__file__).with_name("drafts.html.jinja")


def write_pages(out: Path, script: Script, model: ScriptModel, report: DraftReport) -> list[Path]:
    """Write `drafts.html`, and for many shots `drafts_2.html` and so on; those of an earlier, longer script go.

    Returns:
        The pages, each of which appeared when it was whole.

    Raises:
        OSError: A preview cannot be read, or a page not be written.
    """
    template = page_template(_TEMPLATE)
    pages = in_pages(out / DRAFTS_PAGE_NAME, report.by_shot(), SHOTS_ON_A_PAGE)
    for page, shots in pages.items():
        shown = ({"shot": shot, "takes": _takes(results, report, out)} for shot, results in shots)
        parts = template.generate(
            title=script.title,
            model=model.name,
            report=report,
            of_stages=len(model.schedule),
            shots=shown,
            pages=[other.name for other in pages],
            here=page.name,
        )
        # Bit by bit, as its pictures are inside.
        with whole_file(page) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(parts)
    drop_other_pages(out / DRAFTS_PAGE_NAME, pages)
    return list(pages)


def _takes(results: Sequence[DraftResult], report: DraftReport, out: Path) -> Iterator[dict[str, Any]]:
    for result in results:
        entry = result.as_dict(report.is_picked(result))
        picture = None
        if result.is_there:
            data = (out / result.file).read_bytes()
            picture = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        yield entry | {"picture": picture, "error": result.error, "name": result.clip.name}
