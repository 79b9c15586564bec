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
    "duties",
    "evidence",
    "exports",
    "grants",
    "groups",
    "hooks",
    "jobs",
    "keys",
    "notifications",
    "pipelines",
    "policies",
    "projects",
    "reactions",
    "replays",
    "sessions",
    "subjects",
    "vault",
)
