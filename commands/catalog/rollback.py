"""When a dataset may have its earlier settings back, and what of the later ones goes with them."""

from commands.catalog.intents import RollBackDataset
from commands.catalog.profiles import schema_difference
from domain.catalog import Dataset, DatasetRolledBack, DatasetSettings
from domain.kernel import Asked
from domain.rollback import require_version, restorable, settings_digest


def rolled_back(dataset: Dataset, command: RollBackDataset, asked: Asked) -> DatasetRolledBack:
    require_version(asked, command.to_version)
    held = dataset.settings
    restored: DatasetSettings = restorable(command, held, asked.past.settings)
    upstreams = {upstream.dataset_id for upstream in restored.upstreams}
    return DatasetRolledBack(
        dataset_id=dataset.dataset_id,
        to_version=command.to_version,
        snapshot=restored,
        snapshot_sha256=settings_digest(restored),
        revision=None if restored.columns == held.columns else dataset.schema_version + 1,
        **schema_difference(held.columns, restored.columns),
        upstreams_removed=tuple(sorted(dataset.upstreams.keys() - upstreams)),
        meanings_removed=tuple(meaning for meaning in held.meanings if meaning not in restored.meanings),
    )
