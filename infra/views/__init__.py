"""The renderings of an export, by name. What counts are the entries: a rendering is how somebody reads them."""

from typing import Final

from infra.views.cloudevents import CLOUDEVENTS
from infra.views.ocsf import OCSF
from infra.views.openlineage import OPENLINEAGE
from infra.views.parquet import EventsParquet
from infra.views.prov import Prov
from infra.views.report import HTML, PDF
from infra.views.view import About, View, ViewEvent, Writing

__all__ = ["VIEWS", "About", "View", "ViewEvent", "Writing"]

VIEWS: Final[tuple[View, ...]] = (EventsParquet(), OPENLINEAGE, Prov(), OCSF, CLOUDEVENTS, HTML, PDF)
