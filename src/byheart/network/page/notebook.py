"""What a notebook shows of an audit: numbers, the worst examples, how memorization is spread; without scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from byheart import page
from byheart.network.page.charts import histogram
from byheart.network.page.summary import facts, words_of, worst

if TYPE_CHECKING:
    from byheart.network.audit import Audit


def notebook_html(audit: Audit) -> str:
    """Return a piece of HTML with a style of its own, that asks for no network and stays below 300 kB."""
    names = audit.label_names
    return page.render(
        "network/page/notebook.html",
        title=f"Audit of {audit.provenance['model']}",
        how_many=words_of(audit)[-1],
        facts=facts(audit),
        worst=worst(audit, names),
        spread=Markup(histogram(audit.table["score"].to_numpy(dtype=float), audit.table["flagged"].to_numpy())),
    )
