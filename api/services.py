"""Everything a running Aureus is made of, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from api.authentication import Authenticator
from api.errors import ApiError
from api.identity_provider import IdentityProvider
from api.joining import Joining
from commands.path import CommandPath
from domain.contexts import CONTEXTS
from domain.kernel import Decider
from infra import circuit
from infra.access_store import AccessStore
from infra.blobs import BlobStore, LocalBlobs
from infra.embedded import EmbeddedPostgres
from infra.fields import Fields
from infra.holdings import holdings_of
from infra.hooks import HookStore
from infra.key_encryption import KeyEncryptionKeys
from infra.keystore import FileKeystore, verify
from infra.last_used import LastUsed
from infra.ledger import Ledger
from infra.limit_settings import Front
from infra.limiting import Limiter
from infra.measures import commands
from infra.metrics import Metrics
from infra.oidc import Provider
from infra.opa import OpaServer
from infra.opening import open_ledger
from infra.own_witness import OwnWitness
from infra.packing.shelf import Shelf
from infra.passwords import Passwords
from infra.pkcs11_keys import open_keystore
from infra.policy_bundle import Bundle
from infra.policy_sets import GovernedPolicies
from infra.proofs import Proofs
from infra.read_models import create_read_models
from infra.read_queries import Reads
from infra.resources import Alarms, Sampler
from infra.s3_blobs import S3Blobs
from infra.scim_users import ScimUsers
from infra.scratch import Scratch
from infra.sealed_secrets import SealedSecrets
from infra.second_factor import SecondFactors
from infra.settings import Settings, SettingsError
from infra.slowing import Slowing
from infra.standing import Standing
from infra.tasks import ended
from infra.tiles import Tiles
from infra.timestamps import Timestamping
from infra.tokens import TokenIssuer
from infra.tracing import traced
from infra.vault_records import VaultRecords
from infra.verifier.notes import LOG, VerifierKey
from infra.webhooks import HttpWebhooks, WebhookStore
from infra.witnessing import FOLLOWER_SECONDS, ROUND_SECONDS, Witnessing
from projections.engine import Projection
from streams.archive import Archivist
from streams.erasing import Eraser
from streams.exports import Exporter, Outside
from streams.feeds import Feeds
from streams.jobs import Carrier, Worker
from streams.listening import brought_by_kafka
from streams.notifications import Courier
from streams.progress import Progress, watch
from streams.reactions import reactions, sweeps
from streams.reactor import Reactor, place_reactions
from streams.replays import Replayer
from streams.resources import Watchman
from streams.sagas import sagas
from streams.vault import Rewrapper
from streams.ways import follow_kafka, follow_ledger, relay_ledger

READ_WAIT_SECONDS: Final = 5.0
DEFAULT_POLICIES: Final = Path(__file__).parent.parent / "policies"


def deciders() -> tuple[Decider[Any, Any, Any], ...]:
    """The deciders of every context."""
    found: list[Decider[Any, Any, Any]] = []
    for context in CONTEXTS:
        module = import_module(f"commands.{context}")
        found.extend(module.DECIDERS if hasattr(module, "DECIDERS") else (module.DECIDER,))
    return tuple(found)


def projections() -> tuple[Projection, ...]:
    """The projections of every context."""
    return tuple(import_module(f"projections.{context}").PROJECTION for context in CONTEXTS)


@dataclass(frozen=True)
class Services:
    """What requests are served with."""

    settings: Settings
    dsn: str
    keystore: FileKeystore
    ledger: Ledger
    tiles: Tiles
    proofs: Proofs
    witnessing: Witnessing
    timestamping: Timestamping | None
    shelf: Shelf
    path: CommandPath
    reads: Reads
    policy: GovernedPolicies
    fields: Fields
    blobs: BlobStore
    tokens: TokenIssuer
    passwords: Passwords
    second_factors: SecondFactors
    slowing: Slowing
    last_used: LastUsed
    webhooks: WebhookStore
    hooks: HookStore
    scim: ScimUsers
    vault: VaultRecords
    scratch: Scratch
    standing: Standing
    provider: IdentityProvider | None
    authenticator: Authenticator
    limiter: Limiter
    metrics: Metrics
    projections: tuple[Projection, ...]
    progress: Progress
    feeds: Feeds

    @property
    def shared_secrets(self) -> tuple[SealedSecrets, SealedSecrets]:
        """Those of webhooks and of hooks, which other systems know as well."""
        return self.webhooks.secrets, self.hooks.secrets

    async def wait_for(self, position: int) -> None:
        """Waits until the read models have reached a position; ApiError 503 when they take too long."""
        if self.progress.position < position and not await self.progress.wait_for(position, READ_WAIT_SECONDS):
            raise ApiError(
                503,
                "read_models_behind",
                f"The read models have not reached position {position} yet.",
                {"retry-after": "1"},
                position=position,
                remedy="Try again in a moment; `aureus projections status` shows whether one has stopped.",
            )


@asynccontextmanager
async def open_services(settings: Settings, *, run_projections: bool = True) -> AsyncIterator[Services]:
    """Starts or adopts PostgreSQL, opens the ledger, the policies and the read models."""
    async with AsyncExitStack() as stack:
        blobs = await open_blobs(settings, stack)
        dsn, keystore, ledger = await _open_ledger(settings, stack)
        vault = VaultRecords(ledger)
        # With Kafka the workers move read models and nothing else: what else goes on in the background is this process's.
        background = run_projections or settings.kafka is not None
        tiles, proofs = await _open_tiles(dsn, ledger, stack, follow=background)
        witnessing, timestamping = _open_anchors(settings, ledger, proofs, stack, follow=background)
        all_projections = projections()
        reads, progress = await _open_reads(dsn, all_projections, stack)
        policy = await _open_policies(settings, stack)
        await witnessing.asked()  # before anything is written
        metrics = _open_metrics(dsn, all_projections, stack)
        await _move_read_models(settings, ledger, dsn, all_projections, progress, metrics, stack, moves=run_projections)
        stack.push_async_callback((feeds := _feeds(settings, ledger, reads, progress, all_projections)).close)
        path = CommandPath(traced(ledger), policy, deciders(), verify)
        await _react(ledger, dsn, path, reads, stack, react=background)
        access, passwords, webhooks = await _open_secrets(dsn, vault.vault.keks, stack, deliver=background)
        scim, hooks = await _open_beside(dsn, vault, stack)
        limiter = _open_limiter(settings.front, stack)
        metrics.add(*(each.readings for each in (circuit, limiter, ledger, policy.measured, witnessing, feeds)), commands(path.ended))
        services = Services(
            settings=settings,
            dsn=dsn,
            keystore=keystore,
            ledger=ledger,
            tiles=tiles,
            proofs=proofs,
            witnessing=witnessing,
            timestamping=timestamping,
            shelf=Shelf(settings.exports_dir),
            path=path,
            reads=reads,
            policy=policy,
            fields=Fields(ledger, policy),
            blobs=blobs,
            tokens=(tokens := TokenIssuer(keystore.token, ledger.name, lifetime_seconds=settings.tokens.access_seconds)),
            passwords=passwords,
            second_factors=SecondFactors(access, vault.vault.keks),
            slowing=Slowing(access),
            last_used=(last_used := _note_uses(access, stack)),
            webhooks=webhooks,
            hooks=hooks,
            scim=scim,
            vault=vault,
            scratch=Scratch(dsn, ledger.name, settings.tenant, vault.vault.keks, embedded=settings.database_url is None),
            standing=(standing := Standing(reads.many, partial(holdings_of, reads))),
            provider=(provider := _open_provider(settings, path, reads, progress, scim, stack)),
            authenticator=Authenticator(tokens, reads.many, standing, providers=provider, noted=last_used.note),
            limiter=limiter,
            metrics=metrics,
            projections=all_projections,
            progress=progress,
            feeds=feeds,
        )
        if background:
            _work(services, stack)
        yield services


def _open_metrics(dsn: str, all_projections: tuple[Projection, ...], stack: AsyncExitStack) -> Metrics:
    metrics = Metrics(dsn, (projection.name for projection in all_projections))
    stack.push_async_callback(metrics.close)
    return metrics


def _feeds(settings: Settings, ledger: Ledger, reads: Reads, progress: Progress, all_projections: tuple[Projection, ...]) -> Feeds:
    return Feeds(ledger, reads, progress, all_projections, brought_by_kafka(settings.kafka, ledger.name))


async def _open_ledger(settings: Settings, stack: AsyncExitStack) -> tuple[str, FileKeystore, Ledger]:
    """The database's address, the keys, and the ledger."""
    dsn = settings.database_url or await _open_postgres(settings, stack)
    keystore = open_keystore(settings)
    ledger = await open_ledger(dsn, keystore, settings.origin, vault_keys_url=settings.vault_keys_url)
    stack.push_async_callback(ledger.close)
    return dsn, keystore, ledger


def _work(services: Services, stack: AsyncExitStack) -> None:
    """What goes on in the background: packs, archive segments, erasures, replays, and keys that are wrapped again."""
    settings, shelf, reads = services.settings, services.shelf, services.reads
    ledger, dsn, path, progress = services.ledger, services.dsn, services.path, services.progress
    carrier: Carrier = import_module("api.bulk").JobCarrier(services)  # it knows every route, and the routes know this module
    work = {
        "exports": Exporter(ledger, dsn, path, reads, progress, shelf, services.witnessing, Outside(settings)).run(),
        "archive": Archivist(ledger, dsn, path, progress, services.tiles, services.proofs, services.blobs, settings).run(),
        "erasures": Eraser(ledger, dsn, path, reads, progress, shelf, services.blobs, services.scim).run(),
        "replays": Replayer(dsn, path, reads, progress, services.scratch, services.projections).run(),
        "jobs": Worker(ledger, dsn, path, reads, progress, services.blobs, carrier).run(),
        "vault": Rewrapper(dsn, path, services.vault, services.shared_secrets, services.second_factors).run(),
    }
    work["resources"] = _watchman(services).run()
    for name, running in work.items():
        stack.push_async_callback(ended, asyncio.create_task(running, name=name))


def _watchman(services: Services) -> Watchman:
    """Who tells the operator's administrators when this machine runs short of something."""
    settings, chosen = services.settings, services.settings.operations
    sampler = Sampler((settings.home, settings.postgres_dir), services.reads, (services.reads.busy,))
    alarms = Alarms(dict(chosen.alert_percent))
    services.metrics.add(alarms.readings)
    tenant = chosen.operator_tenant or settings.tenant
    return Watchman(sampler, alarms, services.path, services.reads, tenant, chosen.alert_every_seconds)


async def _open_postgres(settings: Settings, stack: AsyncExitStack) -> str:
    postgres = EmbeddedPostgres(settings.postgres_dir)
    dsn = await asyncio.to_thread(postgres.start)
    stack.push_async_callback(asyncio.to_thread, postgres.stop)
    return dsn


async def _open_reads(dsn: str, all_projections: tuple[Projection, ...], stack: AsyncExitStack) -> tuple[Reads, Progress]:
    await create_read_models(dsn, all_projections)
    reads = Reads(dsn, all_projections)
    await reads.open()
    stack.push_async_callback(reads.close)
    progress = Progress(reads)
    stack.push_async_callback(ended, asyncio.create_task(watch(progress, dsn, reads), name="progress"))
    return reads, progress


async def _move_read_models(
    settings: Settings,
    ledger: Ledger,
    dsn: str,
    all_projections: tuple[Projection, ...],
    progress: Progress,
    metrics: Metrics,
    stack: AsyncExitStack,
    *,
    moves: bool,
) -> None:
    """Straight from the ledger or through Kafka; unless it `moves` them itself, others do."""
    if settings.kafka is not None:
        relays = relay_ledger(settings.kafka, ledger, dsn, stack)
        metrics.relays = [relay.name for relay in relays]
        metrics.add(*(relay.readings for relay in relays))
        if moves:
            metrics.add((await follow_kafka(settings.kafka, ledger, dsn, all_projections, progress, stack)).readings)
    elif moves:
        follow_ledger(ledger, dsn, all_projections, progress, stack)


async def _react(ledger: Ledger, dsn: str, path: CommandPath, reads: Reads, stack: AsyncExitStack, *, react: bool) -> None:
    """Everybody gives new reactions their place; only one who reacts carries them out."""
    answering, following = reactions(CONTEXTS), sagas(CONTEXTS)
    await place_reactions(dsn, [*answering, *following], ledger.head.size)
    if react:
        reactor = Reactor(ledger, dsn, path, reads, answering, sweeps(CONTEXTS), following)
        stack.push_async_callback(ended, asyncio.create_task(reactor.run(), name="reactions"))


async def _open_tiles(dsn: str, ledger: Ledger, stack: AsyncExitStack, *, follow: bool) -> tuple[Tiles, Proofs]:
    tiles = Tiles(dsn)
    await tiles.open()
    stack.push_async_callback(tiles.close)
    if follow:
        stack.push_async_callback(ended, asyncio.create_task(tiles.follow(ledger.appended()), name="tiles"))
    return tiles, Proofs(tiles, ledger.store)


def _open_anchors(
    settings: Settings, ledger: Ledger, proofs: Proofs, stack: AsyncExitStack, *, follow: bool
) -> tuple[Witnessing, Timestamping | None]:
    """Whoever moves the read models has the checkpoints cosigned as they come; the others only look, that they stop writing as well."""
    every_seconds = ROUND_SECONDS if follow else FOLLOWER_SECONDS
    witnessing = Witnessing(ledger, proofs, settings.witnesses or (), settings.witnesses_required, every_seconds=every_seconds)
    stack.push_async_callback(witnessing.close)
    if follow and settings.brings_witness:

        def log_key() -> VerifierKey:
            return VerifierKey(ledger.name, LOG, ledger.sealer.signers.log.public)

        own = OwnWitness(settings.witness_dir, log_key, lambda place: witnessing.add(place, own=True))
        ledger.on_signers.append(lambda _signers: own.learn_key())
        stack.push_async_callback(ended, asyncio.create_task(own.run(), name="own-witness"))
    if not (follow and settings.timestamps):
        return witnessing, None
    timestamping = Timestamping(ledger, settings.timestamps)
    stack.push_async_callback(timestamping.authority.close)
    stack.push_async_callback(ended, asyncio.create_task(timestamping.run(), name="timestamps"))
    return witnessing, timestamping


def _open_limiter(policy: Front, stack: AsyncExitStack) -> Limiter:
    """Counts of this process, and those in Redis where one is named; whether it answers shows with the first count."""
    if policy.redis_url is None:
        return Limiter(policy)
    from infra.limiting_redis import RedisWindows  # noqa: PLC0415 - its library takes long to load, and few have a Redis

    limiter = Limiter(policy, RedisWindows(policy.redis_url, policy.query_window_seconds))
    stack.push_async_callback(limiter.close)
    return limiter


def _open_provider(
    settings: Settings, path: CommandPath, reads: Reads, progress: Progress, scim: ScimUsers, stack: AsyncExitStack
) -> IdentityProvider | None:
    """What logs people in who are known elsewhere. Nothing is fetched yet: Aureus starts without its provider."""
    if settings.oidc is None:
        return None
    opened = IdentityProvider(Provider(settings.oidc), Joining(settings.oidc, settings.tenant, path, reads, progress, scim))
    stack.push_async_callback(opened.provider.close)
    return opened


async def open_blobs(settings: Settings, stack: AsyncExitStack) -> BlobStore:
    if settings.s3 is None:
        return LocalBlobs(settings.blobs_dir)
    blobs = S3Blobs(settings.s3, settings.blobs_dir)
    stack.push_async_callback(blobs.close)
    await blobs.check()
    return blobs


async def _open_policies(settings: Settings, stack: AsyncExitStack) -> GovernedPolicies:
    opa = OpaServer(settings.opa_url, settings.opa_token) if settings.opa_url else None
    if opa is not None:
        stack.push_async_callback(opa.close)
    policies = GovernedPolicies(Bundle.read(settings.policies or DEFAULT_POLICIES), engine=opa.engine if opa else None)
    stack.push_async_callback(policies.close)
    try:
        await policies.start()
    except ConnectionError as error:
        if opa is None:
            raise
        raise SettingsError("AUREUS_OPA_URL", f"{error}.", "Start it, or unset this: then a worker process judges.") from error
    return policies


async def _open_secrets(
    dsn: str, keks: KeyEncryptionKeys, stack: AsyncExitStack, *, deliver: bool
) -> tuple[AccessStore, Passwords, WebhookStore]:
    """What is kept beside the ledger: what actors prove themselves by, and webhooks with their secrets."""
    access = AccessStore(dsn)
    await access.open()
    stack.push_async_callback(access.close)
    passwords = Passwords(access)
    stack.callback(passwords.close)
    webhooks = WebhookStore(dsn, keks)
    await webhooks.open()
    stack.push_async_callback(webhooks.close)
    if deliver:
        port = HttpWebhooks()
        stack.push_async_callback(port.close)
        stack.push_async_callback(ended, asyncio.create_task(Courier(webhooks, port).run(), name="webhooks"))
    return access, passwords, webhooks


def _note_uses(access: AccessStore, stack: AsyncExitStack) -> LastUsed:
    """What is used is written down now and then, and a last time at the end."""
    last_used = LastUsed(access)
    stack.push_async_callback(last_used.flush)
    stack.push_async_callback(ended, asyncio.create_task(last_used.run(), name="last-used"))
    return last_used


async def _open_beside(dsn: str, vault: VaultRecords, stack: AsyncExitStack) -> tuple[ScimUsers, HookStore]:
    """What other systems say of people, and what they report: kept beside the ledger as well."""
    scim, hooks = ScimUsers(dsn, vault), HookStore(dsn, vault.vault.keks)
    for store in (scim, hooks):
        await store.open()
        stack.push_async_callback(store.close)
    return scim, hooks


def now() -> datetime:
    return datetime.now(UTC)
