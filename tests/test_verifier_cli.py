"""The verifier as people run it: one file on a machine that has Python and pynacl, the command line's own, and how they come by both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import nacl
import pytest

from infra.bundle_verifier import FILE, CannotBundle, bundled
from infra.verifier.main import NOT_VERIFIED, VERIFIED, WRONG, main
from tests.support.by_hand import ROOT, Key, verifier_key
from tests.support.kernel import ADM
from tests.support.packs import AUD
from tests.support.reference_pack import everything
from tests.support.running import running
from tests.support.typed import typed
from tests.test_verifier import grown, written
from tests.test_verifier_pack import ledger, of_orders, without

PACKAGES: Final = Path(nacl.__file__).parent.parent
ONLY: Final = ("nacl", "cffi", "_cffi_backend*", "pycparser")
"""What pynacl is made of."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with aureus_verify.py, packs, and a trust file; `site/` is all that is installed there."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "site").mkdir()
    for name in ONLY:
        for found in PACKAGES.glob(name):
            (folder / "site" / found.name).symlink_to(found)
    (folder / FILE.name).write_text(bundled(), encoding="utf-8")
    pack = of_orders()
    pack.write(folder / "pack.zip")
    without("entries/000000.tsv", 7)(pack)
    pack.write(folder / "holed.zip")
    everything(ledger()).write(folder / "all.zip")
    trust = {"format": "aureus-trust/v1", "ledger": "aureus.example/by-hand", "root_keys": [ROOT.id], "witnesses": []}
    (folder / "trust.json").write_text(json.dumps({**trust, "witnesses_required": 0}))
    lonely = {**trust, "witnesses": [verifier_key("w.example", Key(30))], "witnesses_required": 1}
    (folder / "lonely.json").write_text(json.dumps(lonely))
    (folder / "wrong.json").write_text("{}")
    (folder / "notes.txt").write_text("not a pack")
    written(grown(300), folder / "tiles")
    return folder


def verify(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the one file with an interpreter that knows no packages but pynacl's."""
    command = [sys._base_executable, "-S", FILE.name, *arguments]  # type: ignore[attr-defined]
    environment = {"PYTHONPATH": str(machine / "site"), "PATH": os.defpath}
    return subprocess.run(command, cwd=machine, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_one_file_verifies_a_pack_where_nothing_else_is_installed(machine: Path) -> None:
    done = verify(machine, "pack.zip", "--keys", "trust.json")
    assert (done.returncode, done.stderr) == (VERIFIED, "")
    assert done.stdout.startswith(
        "Verified 11 events of aureus.example/by-hand: 11 signatures, all valid under keys valid at their positions"
    )
    assert "nothing missing in the range" in done.stdout
    assert "fields     open 1, withheld 1, erased 1" in done.stdout


def test_it_says_what_is_missing(machine: Path) -> None:
    done = verify(machine, "holed.zip", "--keys", "trust.json")
    assert done.returncode == NOT_VERIFIED
    assert "position 7: missing: position 7, an event of about:dataset:orders, is missing (version 3 of dataset:orders)" in done.stdout


def test_it_verifies_tiles_in_several_processes(machine: Path) -> None:
    done = verify(machine, "tiles", "--root-key", ROOT.id, "--processes", "2", "--checkpoint", "tiles/checkpoint", "--json")
    assert (done.returncode, done.stderr) == (VERIFIED, "")
    result = json.loads(done.stdout)
    assert (result["ok"], result["what"], result["events"], result["mode"]) == (True, "tiles", 300, "full")
    assert json.loads(verify(machine, "tiles", "--fast", "--json").stdout)["mode"] == "tree"


WRONGS: Final[dict[str, tuple[str, ...]]] = {
    "no pack": ("notes.txt",),
    "no file": ("nowhere.zip",),
    "no tile directory": ("site",),
    "no trust file": ("pack.zip", "--keys", "wrong.json"),
    "a trust file that is not there": ("pack.zip", "--keys", "nowhere.json"),
    "a root key that is none": ("pack.zip", "--root-key", "abc"),
    "a checkpoint that is not there": ("pack.zip", "--checkpoint", "nowhere.txt"),
    "no process": ("pack.zip", "--processes", "0"),
    "nothing": (),
}


@pytest.mark.parametrize("arguments", WRONGS.values(), ids=WRONGS)
def test_a_wrong_command_ends_with_2_and_a_sentence(
    machine: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(machine)
    try:
        code: Any = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == WRONG
    assert capsys.readouterr().err.strip()


def test_too_few_witnesses_are_not_enough(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(machine / "all.zip"), "--keys", str(machine / "lonely.json")]) == NOT_VERIFIED
    assert "witness: 0 of the witnesses cosigned it, and 1 are required" in capsys.readouterr().out


def test_two_modules_with_one_name_do_not_fit_into_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text('"""A."""\nfrom infra.verifier.other import b\n\ndef a(): b()\n')
    monkeypatch.setattr("infra.bundle_verifier.MODULES", tmp_path)
    bundled.cache_clear()
    try:
        twice, whole = "def a(): pass\ndef b(): pass\n", "from infra.verifier import main\nb = 1\n"
        for other, why in ((twice, "a is defined in"), (whole, "names are imported")):
            (tmp_path / "other.py").write_text(f'"""B."""\n{other}')
            with pytest.raises(CannotBundle, match=why):
                bundled()
    finally:
        monkeypatch.undo()
        bundled.cache_clear()


# -- from a running Aureus


@pytest.mark.anyio
@pytest.mark.slow
async def test_the_whole_ledger_a_pack_and_the_program_come_from_a_running_aureus(database_url: str, machine: Path, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM, AUD)
        root_key = aureus.services.keystore.root.key_id
        answer = await aureus.get("/v1/verifier", AUD)
        assert (answer.status_code, answer.text) == (200, bundled())
        assert answer.headers["content-type"].startswith("text/x-python")
        async with typed(aureus, tmp_path / "cli", AUD) as aureus_line:
            trust, kept = tmp_path / "trust.json", tmp_path / "kept.txt"
            await aureus_line("trust", "export", "-o", str(trust))
            assert json.loads(trust.read_text())["root_keys"] == [root_key]
            kept.write_text(await aureus_line("log", "checkpoint"))
            whole = await aureus_line.json("verify", "--keys", str(trust), "--checkpoint", str(kept))
            assert (whole["ok"], whole["what"], whole["root_key"]) == (True, "ledger", root_key)
            told = await aureus_line("verify", "--fast", "--root-key", "0" * 64, exit_code=NOT_VERIFIED)
            assert "its root key is" in told
            pack = await aureus_line.json("verify", str(machine / "pack.zip"), "--keys", str(machine / "trust.json"))
            assert (pack["ok"], pack["what"]) == (True, "pack")
            holed = await aureus_line("verify", str(machine / "holed.zip"), exit_code=NOT_VERIFIED)
            assert "version 3 of dataset:orders" in holed
            await aureus_line("verify", str(machine / "notes.txt"), exit_code=WRONG)
            await aureus_line("trust", "verifier", "-o", str(tmp_path / FILE.name))
            assert (tmp_path / FILE.name).read_text(encoding="utf-8") == bundled()
            await aureus_line("trust", "verifier", "-o", str(tmp_path / "no" / "where"), exit_code=WRONG)
