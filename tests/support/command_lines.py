"""One line of the command line for every command that a route takes as it is, and the commands that have none."""

LINES = {
    "OpenBudget": "budgets open lake --label Lake --currency eur --limit 1000.00 --threshold 90 --starts 2026-01-01 --ends 2027-01-01",
    "FundBudget": "budgets fund lake 10",
    "ReserveFunds": "budgets reserve lake 10",
    "CommitFunds": "budgets commit lake r1 --spent 9.99",
    "ReleaseFunds": "budgets release lake r1",
    "CloseBudget": "budgets close lake",
    "ChangeSettings": "budgets change lake --label Sea --threshold 50 --ends 2027-01-01",
    "RequestApproval": "approvals request Raise --command budgets.fund_budget -i budget_id=lake -i amount_minor=5 --quorum 2 --hours 1",
    "CarryOutRequest": "approvals carry-out apr-1",
    "ApproveRequest": "approvals approve apr-1 --for usr-app -m fine",
    "RejectRequest": "approvals reject apr-1 -m 'too much'",
    "WithdrawRequest": "approvals withdraw apr-1",
    "ExpireRequest": "approvals expire apr-1",
    "EscalateRequest": "approvals escalate apr-1",
    "VoidRequest": "approvals void apr-1 --because 'the agent was stopped'",
    "DelegateAuthority": "approvals delegate usr-ben --until 2026-03-17 --from 2026-03-03 --type pii_access --risk medium -m holiday",
    "RevokeAuthority": "approvals revoke d-1 -m back",
    "RegisterDataset": "datasets register d --name D --pii low --column id:bigint --column 'a:struct<b:int>:high' --owner usr-a=steward "
    "--tag gold --upstream e --sla PT24H",
    "SyncDataset": "datasets sync d -",
    "DescribeDataset": "datasets classify d --pii high --jurisdiction EU --domain sales --environment production",
    "ChangeSchema": "datasets schema d --column id:bigint --column email::high",
    "AssignOwner": "datasets own d usr-a --role steward",
    "RemoveOwner": "datasets own d usr-a --remove",
    "RecordOwnerContact": "datasets own d ext-a --contact-name 'A B' --contact-email a@b.example",
    "TagDataset": "datasets tag d gold silver",
    "RecordLineage": "datasets derive d e --column id=customer_id",
    "RemoveLineage": "datasets derive d e --remove",
    "AgreeFreshness": "datasets sla d PT24H",
    "RecordRefresh": "datasets refresh d --rows 12",
    "RecordUsage": "datasets use d --count 3",
    "RecordContract": "datasets contract d -",
    "DeprecateDataset": "datasets deprecate d --reason old --replaced-by e",
    "ReinstateDataset": "datasets reinstate d",
    "DefineTerm": "terms define clv --name 'Customer lifetime value' --definition 'What a customer is worth' --synonym LTV",
    "ReviseTerm": "terms revise clv --definition 'What a customer will be worth'",
    "LinkTerm": "terms link clv d amount",
    "UnlinkTerm": "terms unlink clv d amount",
    "RegisterAgent": "agents register agt-bot --label Bot --purpose 'Finds stale tables' --model small-7b --owner usr-ana --provider us",
    "Delegate": "agents delegate agt-helper --by agt-bot",
    "RevokeDelegation": "agents revoke agt-helper --by agt-bot",
    "StopAgent": "agents stop agt-bot --because 'it runs wild'",
    "ResumeAgent": "agents resume agt-bot --because mended",
    "RegisterPipeline": "pipelines register p --label P --domain sales --environment staging --owner usr-a --pii low --jurisdiction EU",
    "DeployVersion": "pipelines deploy p --model a=- --input d --output e",
    "ReportFailure": "pipelines fail p 'It doubles rows'",
    "RetirePipeline": "pipelines retire p 'Nobody reads it'",
    "ProposePolicy": "policies propose pii --title P --outcome require_approval --approver-role admin --quorum 2 --action 'catalog.*'",
    "ActivatePolicies": "policies activate four_eyes@1 --retire old_rule",
    "RetirePolicy": "policies retire four_eyes",
    "RegisterActor": "actors register agt-bot --kind agent --role agent --owner usr-ada --name Bot",
    "ChangeRoles": "actors roles usr-ana --role analyst --role approver",
    "SuspendActor": "actors suspend usr-ana",
    "ReinstateActor": "actors reinstate usr-ana",
    "Notify": "inbox send usr-ana 'The lake moves' 'On Friday' --about dataset:crm.people",
    "MarkRead": "inbox read n1",
    "RemoveWebhook": "webhooks remove siem",
    "CancelExport": "exports cancel exp-1 --comment 'Nobody needs it'",
    "DefineProfile": "exports define-profile ecb-onsite --disclose contact --withhold access.actor_registered",
    "RevokeKey": f"keys revoke {'0' * 64} --because lost --compromised-since 17",
    "ReplayDeadLetter": "dead-letters replay 5c1f",
    "DiscardDeadLetter": "dead-letters discard 5c1f --because 'Released by hand'",
    "RevokeApiKey": "api-keys revoke 0a1b2c3d --actor usr-ana",
}
BESIDE_A_ROUTE = set(
    (
        "AddKey AddWebhook AdoptDefaults CommitIndex CompensateSaga EndSaga FailExport FailStep FinishStep IssueApiKey ParkStep "
        "RecordDeadLetter RecordDownload RecordImpact RecordTest RegisterArtifact RequestAction RequestExport RollBackDataset "
        "RollBackPipeline RollBackPolicies RollBackSettings RotateKey SealExport SealPack SettleReplay StartSaga TimeOutSaga"
    ).split()
)
"""The server completes these, or asks them itself: with the bytes it was sent, the pack it writes, the secret it makes, or what it
knows of the rest. Keys are signed here, for the ledger that the server says it keeps (tests/test_request_signing.py); whoever asks for
an export waits for it (tests/test_export_command.py)."""
