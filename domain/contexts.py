"""The contexts Aureus governs, by name: the one list a new context is added to.

Each name stands for one module per folder: `domain.<name>` (events, state), `commands.<name>` (DECIDER),
`projections.<name>` (PROJECTION), `api.<name>` (router) and `api.cli.<name>` (app).
"""

from typing import Final

CONTEXTS: Final = (
    "access",
    "agents",
    "catalog",
    "approvals",
    "archive",
    "backups",
    "budgets",
    "evidence",
    "exports",
    "keys",
    "notifications",
    "pipelines",
    "policies",
    "reactions",
    "replays",
    "subjects",
    "vault",
)
