"""The questions that auditors ask first, as queries on a replay: they came with Aureus and ask the same everywhere."""

from typing import Final

from domain.replays import Parameter, SavedQuery

_SINCE: Final = Parameter(name="since", description="From then on, such as 2026-04-01", default="-infinity")
_BEFORE: Final = Parameter(name="before", description="Before then, such as 2026-07-01", default="infinity")

BUILT_IN: Final = (
    SavedQuery(
        query_id="who-approved-what",
        title="Every vote on a request in a period: who, for whom, on what, and what they said",
        sql="""
            SELECT (vote->>'at')::timestamptz AS at, vote->>'approver' AS approver, vote->>'on_behalf_of' AS on_behalf_of,
                vote->>'decision' AS decision, approval_id, requester, command, stream, risk_level, vote->>'comment' AS comment
            FROM approvals CROSS JOIN LATERAL jsonb_array_elements(decisions) AS vote
            WHERE (vote->>'at')::timestamptz >= $1 AND (vote->>'at')::timestamptz < $2
            ORDER BY 1, approval_id
        """,
        parameters=(_SINCE, _BEFORE),
    ),
    SavedQuery(
        query_id="own-request-approved",
        title="Requests that their requester, or whoever answers for the requester, agreed to: there should be none",
        sql="""
            SELECT approval_id, requester, requester_owner, vote->>'approver' AS approver, vote->>'at' AS at, command
            FROM approvals CROSS JOIN LATERAL jsonb_array_elements(decisions) AS vote
            WHERE vote->>'decision' = 'agreed' AND vote->>'approver' IN (requester, requester_owner)
            ORDER BY approval_id
        """,
    ),
    SavedQuery(
        query_id="changes-by-actor",
        title="How often each actor changed what, and when first and last, in a period",
        sql="""
            SELECT actor, type, count(*) AS changes, min(at) AS first_at, max(at) AS last_at
            FROM events WHERE type NOT LIKE 'actions.%' AND at >= $1 AND at < $2
            GROUP BY actor, type ORDER BY actor, changes DESC, type
        """,
        parameters=(_SINCE, _BEFORE),
    ),
    SavedQuery(
        query_id="changes-of-a-stream",
        title="All that happened to one thing: when, by whom, and what was recorded",
        sql="SELECT position, at, version, type, actor, data FROM events WHERE stream = $1 ORDER BY version",
        parameters=(Parameter(name="stream", description="Such as dataset:customers or budget:eu-lake"),),
    ),
    SavedQuery(
        query_id="blocked-attempts",
        title="What was refused in a period: to whom, on what, by which rule or policies, and why",
        sql="""
            SELECT "timestamp" AS at, actor_id, action, stream, code, message, ARRAY(
                SELECT result->>'policy' FROM jsonb_array_elements(policy_results) AS result WHERE result->>'outcome' = 'block'
            ) AS blocked_by
            FROM actions WHERE outcome = 'blocked' AND "timestamp" >= $1 AND "timestamp" < $2
            ORDER BY "timestamp", id
        """,
        parameters=(_SINCE, _BEFORE),
    ),
    SavedQuery(
        query_id="policies-in-force",
        title="Which version of which policy judged at the replay's position, and who proposed it",
        sql="""
            SELECT policy_id, version, type, title, owner, proposed_by, proposed_at, changed_at AS in_force_since, sha256
            FROM policy_versions WHERE status = 'in_force' ORDER BY policy_id
        """,
    ),
    SavedQuery(
        query_id="budgets-by-what-is-left",
        title="Open budgets, those with the least left of their limit first; amounts in minor units",
        sql="""
            SELECT budget_id, label, currency, limit_minor, reserved_minor, spent_minor, available_minor,
                round(100.0 * available_minor / nullif(limit_minor, 0), 1) AS percent_left
            FROM budgets WHERE status = 'open' ORDER BY percent_left NULLS FIRST, budget_id
        """,
    ),
    SavedQuery(
        query_id="personal-data-and-owners",
        title="Datasets with personal data, how sensitive, under which law, and who owns them",
        sql="""
            SELECT dataset_id, pii_level, jurisdiction, domain, environment, owner_ids, registered_by, registered_at
            FROM datasets WHERE pii_level <> 'none' ORDER BY array_position(ARRAY['high', 'low'], pii_level), dataset_id
        """,
    ),
    SavedQuery(
        query_id="dataset-through-time",
        title="One dataset as it stood, from each change to the next",
        sql="""
            SELECT from_at, to_at, from_position, pii_level, jurisdiction, domain, environment, status, owner_ids, tags, schema_version
            FROM datasets_history WHERE dataset_id = $1 ORDER BY from_position
        """,
        parameters=(Parameter(name="dataset", description="Its id, such as customers"),),
    ),
    SavedQuery(
        query_id="who-held-which-roles",
        title="Every actor with the roles held at the replay's position, and who answers for it",
        sql="SELECT actor_id, kind, status, roles, owner, registered_at, changed_at FROM actors ORDER BY kind, actor_id",
    ),
    SavedQuery(
        query_id="agents-stopped",
        title="Agents that were stopped, why, by which event, and since when they act again",
        sql="""
            SELECT agent_id, owner, status, stop->>'by' AS stopped_by, stop->>'at' AS stopped_at, stop->>'reason' AS reason,
                stop->>'position' AS position, resumed_at
            FROM agents WHERE stop IS NOT NULL ORDER BY agent_id
        """,
    ),
)
