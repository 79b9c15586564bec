"""YAML that people send, read without surprises: no code, no anchors, no key twice, and a date stays the text that was written."""

from typing import Any, Final

import yaml

from commands.importing import DocumentRefused, Problem

KIND: Final = "YAML document"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Anchors are refused because a few lines of them can describe more than fits into memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias: yaml.AliasEvent = self.get_event()  # type: ignore[no-untyped-call]
            raise _refused(alias.start_mark, f"it refers to the anchor {alias.anchor}", "Write the value out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), "a key")
            raise _refused(node.start_mark, f"{twice} stands twice in one mapping", "Write it once.")
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: bytes) -> Any:
    """The one document in `text`; DocumentRefused says on which line it cannot be read, and why."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        raise _refused(error.problem_mark, error.problem or "it cannot be read", "Correct the YAML.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refused(None, str(error).partition("\n")[0], "Send YAML in UTF-8.") from None
    except RecursionError:
        raise _refused(None, "it is nested too deeply", "Flatten it.") from None


def _refused(mark: Any, rule: str, remedy: str) -> DocumentRefused:
    return DocumentRefused(KIND, [Problem(f"line {mark.line + 1}" if mark else "/", rule, remedy)])
