"""`aureus lineage`: what a dataset is made from and what is made from it, as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import client_of, output_of

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

app = typer.Typer()


@app.command()
def lineage(
    context: typer.Context,
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="Such as model.jaffle_shop.customers.")],
    upstream: Annotated[bool, typer.Option("--upstream", help="What it is made from.")] = False,
    downstream: Annotated[bool, typer.Option("--downstream", help="What is made from it.")] = False,
    depth: Annotated[int, typer.Option("--depth", min=1, max=20, help="How many steps away.")] = 5,
    columns: Annotated[bool, typer.Option("--columns", help="Column by column, where that is known.")] = False,
) -> None:
    """Show what a dataset is made from, and what is made from it; both when neither is asked for."""
    direction = "both" if upstream == downstream else "upstream" if upstream else "downstream"
    out = output_of(context)
    graph = client_of(context).one(path("datasets", dataset_id, "lineage"), direction=direction, depth=depth, columns=columns)
    if out.as_json:
        return out.json(graph)
    for way in ("upstream", "downstream") if direction == "both" else (direction,):
        out.console.print(_tree(graph, way))
    return None


def _tree(graph: dict[str, Any], direction: str) -> Tree:
    """The graph from its dataset outwards; a dataset that several lead to is opened once."""
    from rich.text import Text
    from rich.tree import Tree

    near, far = ("downstream_id", "upstream_id") if direction == "upstream" else ("upstream_id", "downstream_id")
    nodes = {node["dataset_id"]: node for node in graph["nodes"]}
    opened: set[str] = set()

    def grow(branch: Tree, dataset_id: str) -> None:
        opened.add(dataset_id)
        for edge in sorted((edge for edge in graph["edges"] if edge[near] == dataset_id), key=lambda edge: str(edge[far])):
            label = _label(edge[far], nodes.get(edge[far]))
            if edge[far] in opened:
                branch.add(label.append("  see above", style="dim"))
                continue
            twig = branch.add(label)
            for pair in edge.get("columns", []):
                twig.add(Text(f"{pair['column']} <- {pair.get('upstream_column') or 'the whole of it'}", style="dim"))
            grow(twig, edge[far])

    root = Tree(_label(graph["dataset_id"], nodes.get(graph["dataset_id"])).append(f"  {direction}", style="bold cyan"))
    grow(root, graph["dataset_id"])
    return root


def _label(dataset_id: str, node: dict[str, Any] | None) -> Text:
    from rich.text import Text

    text = Text(dataset_id, style="bold")
    if node is None or not node["registered"]:
        return text.append("  not in the catalog", style="yellow")
    told = [f"pii {node['pii_level']}", node["jurisdiction"], *([node["status"]] if node["status"] == "deprecated" else [])]
    return text.append("  " + ", ".join(told), style="dim")
