"""File faults: damaged, lost, foreign and old files of every asset and the history, disks that are full or closed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from contexts.assembly.history import HISTORY
from faults.child import Outcome, Point
from faults.pipeline import read_file
from faults.row import Row, require
from faults.trial import ASSETS, USERS, Trial, last_lines

_NAMED = "the message names file and remedy, the other shard is fresh; after the remedy all is as unbroken"
_REBUILT = "the next night rebuilds it, as unbroken"
_PASSED_OVER = "no context waits for it; after the remedy, too"
_FLIP_FOUND = "every reader refuses it by name or reads the same; no process dies"
_DISK_PAGES = 40

_WRITTEN = tuple(asset for asset in ASSETS if asset != "tip_reactions")
"""The assets whose files a night of a trial replaces: no user has reacted to a tip."""

Damage = Callable[[Path, Random], None]


def truncate(path: Path, chance: Random) -> None:
    """Cut a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(1, len(content))])


def empty(path: Path, _: Random) -> None:
    """Leave no byte of a file."""
    path.write_bytes(b"")


def replace_by_foreign(path: Path, _: Random) -> None:
    """Put a Parquet file of another program in a file's place."""
    pq.write_table(pa.table({"user_id": ["ann"], "n": [1]}), path)


def replace_by_neighbour(path: Path, _: Random) -> None:
    """Put the file of another shard in a file's place."""
    other = path.parent.parent / ("shard=0001" if path.parent.name == "shard=0000" else "shard=0000")
    path.write_bytes((other / path.name).read_bytes())


def replace_by_folder(path: Path, _: Random) -> None:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()


def flip(path: Path, chance: Random) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def place_of(trial: Trial, places: Sequence[str]) -> tuple[str, int]:
    """The asset and the shard of a trial, which takes them in turn."""
    return places[trial.number % len(places)], trial.number // len(places) % 2


def lose(trial: Trial) -> None:
    """Lose the file of an asset."""
    trial.path(*place_of(trial, ASSETS)).unlink()
    trial.recover()


def damage_asset(damage: Damage) -> Callable[[Trial], None]:
    """Damage the file of an asset; run a night, the remedy, and a night."""

    def run(trial: Trial) -> None:
        asset, shard = place_of(trial, ASSETS)
        damage(trial.path(asset, shard), trial.chance)
        outcome = trial.night()
        require_named(trial, outcome, asset, shard)
        trial.require_fresh(trial.users_in(1 - shard))
        repair(trial, asset, shard)
        trial.recover()

    return run


def require_named(trial: Trial, outcome: Outcome, asset: str, shard: int) -> None:
    """Require that a night failed, and that its message names the file and the remedy."""
    path = trial.path(asset, shard)
    remedy = "move it away" if path.is_dir() else f"python -m assets rebuild {asset} --shard {shard}"
    trial.require_failed(outcome, str(path), remedy)


def repair(trial: Trial, asset: str, shard: int) -> None:
    """Do what the message says."""
    if trial.path(asset, shard).is_dir():
        trial.path(asset, shard).rmdir()
        return
    outcome = trial.run("rebuild", asset, "--shard", str(shard))
    require(outcome.status == 0, f"the remedy ended with {outcome.status}: {last_lines(outcome.output)}")


def damage_history(damage: Damage) -> Callable[[Trial], None]:
    """Damage a file of the history, in the shard of each trial in turn."""

    def run(trial: Trial) -> None:
        shard = trial.number % 2
        damage(trial.path(HISTORY, shard), trial.chance)
        outcome = trial.night()
        require("Traceback" not in outcome.output, last_lines(outcome.output))
        trial.require_fresh(trial.users_in(1 - shard))
        if outcome.status:
            trial.require_failed(outcome, str(trial.path(HISTORY, shard)), "move it away")
            trial.path(HISTORY, shard).rmdir()
        else:
            trial.require_fresh(USERS)
        trial.recover()

    return run


def restore_old(trial: Trial) -> None:
    """Put back the file of an asset from before the last night, whose changes no delta will bring again."""
    asset, shard = place_of(trial, ASSETS)
    trial.recover()
    trial.path(asset, shard).write_bytes((trial.stage.root / asset / f"shard={shard:04d}/data.parquet").read_bytes())
    trial.recover()


def flip_and_read(trial: Trial) -> None:
    """Flip a random bit of a file and read everything in it, in a process of its own."""
    asset, shard = place_of(trial, (*ASSETS, HISTORY))
    path = trial.path(asset, shard)
    arguments = (str(path), asset, shard, tuple(trial.users_in(shard)))
    before = trial.stage.once(f"{asset}/{shard}", lambda: trial.start(*arguments, call=read_file).wait())
    flip(path, trial.chance)
    after = trial.start(*arguments, call=read_file).wait()
    require(not after.was_killed, f"the reader of {asset} died of signal {-after.status}")
    require(after.status in (0, 1), f"the reader of {asset} failed: {last_lines(after.output)}")
    require("does not name" not in after.output, after.output)
    require(after.status == 1 or after.output == before.output, f"{asset} was read as other data")


def flip_before_a_night(trial: Trial) -> None:
    """Flip a random bit of an asset's file; the night refuses the file, or reads the same and is as unbroken."""
    asset, shard = place_of(trial, ASSETS)
    flip(trial.path(asset, shard), trial.chance)
    outcome = trial.night()
    if outcome.status:
        require_named(trial, outcome, asset, shard)
        trial.require_fresh(trial.users_in(1 - shard))
        repair(trial, asset, shard)
    trial.recover()


def forbid_file(trial: Trial) -> None:
    """Take the right to read a file from a process that is not root's."""
    asset, shard = place_of(trial, ASSETS)
    with owned_by_nobody(trial):
        trial.path(asset, shard).chmod(0)
        outcome = trial.night(_AS_NOBODY)
        trial.require_failed(outcome, str(trial.path(asset, shard)), "the right to read")
        trial.require_fresh(trial.users_in(1 - shard))
    trial.path(asset, shard).chmod(0o644)
    trial.recover()


def forbid_folder(trial: Trial) -> None:
    """Take the right to write in a shard's folder from a process that is not root's."""
    asset, shard = place_of(trial, _WRITTEN)
    folder = trial.path(asset, shard).parent
    with owned_by_nobody(trial):
        folder.chmod(0o555)
        outcome = trial.night(_AS_NOBODY)
        trial.require_failed(outcome, str(folder), "the right to read and write")
        trial.require_fresh(trial.users_in(1 - shard))
    folder.chmod(0o755)
    trial.recover()


_AS_NOBODY = Point("faults.pipeline:at_work", then="nobody")


@contextmanager
def owned_by_nobody(trial: Trial) -> Iterator[None]:
    """Give the trial's folder to the user of processes that gave up the rights of root."""
    if os.getuid() == 0:
        _give(trial.root, 65534)
    yield
    if os.getuid() == 0:
        _give(trial.root, 0)


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def fill_disk(trial: Trial) -> None:
    """Fill the disk: a file system in memory, if this process may mount one, else a limit of each file's size."""
    if os.getuid() == 0 and _mount(trial):
        try:
            filler = trial.root / "filler"
            _fill(filler)
            outcome = trial.night()
            trial.require_failed(outcome, str(trial.root), "No space left on device", "Free space")
            filler.unlink()
            trial.require_whole()
            trial.recover()
        finally:
            subprocess.run(["umount", trial.root], check=True)
        return
    point = Point("contexts.files:FileStore._make_folder", trial.number % 12 + 1, "full")
    outcome = trial.night(point)
    trial.require_failed(outcome, str(trial.root), "File too large")
    trial.require_whole()
    trial.recover()


def limit_files(trial: Trial) -> None:
    """Let every write of a file fail half-way, from one of them on."""
    outcome = trial.night(Point("contexts.files:FileStore._make_folder", trial.number + 1, "full"))
    trial.require_failed(outcome, str(trial.root), "File too large")
    require(not list(trial.root.rglob("*.tmp")), "scratch files are left")
    trial.require_whole()
    trial.recover()


def _mount(trial: Trial) -> bool:
    """Move the trial's folder to a small file system in memory; False if this process may not mount one."""
    copy = trial.root.with_suffix(".copy")
    trial.root.rename(copy)
    trial.root.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={_size(copy) + 4096 * _DISK_PAGES}", "tmpfs"]
    is_mounted = subprocess.run(["mount", *options, trial.root], check=False, capture_output=True).returncode == 0
    shutil.copytree(copy, trial.root, dirs_exist_ok=True)
    shutil.rmtree(copy)
    return is_mounted


def _size(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


ROWS = (
    Row("lost file", "every asset", _REBUILT, lose, 6),
    Row("truncated file", "every asset", _NAMED, damage_asset(truncate), 6, 1),
    Row("empty file", "every asset", _NAMED, damage_asset(empty), 6),
    Row("file of another program", "every asset", _NAMED, damage_asset(replace_by_foreign), 6),
    Row("file of another shard", "every asset", _NAMED, damage_asset(replace_by_neighbour), 6),
    Row("folder in a file's place", "every asset", _NAMED, damage_asset(replace_by_folder), 6),
    Row("older copy restored", "every asset", _REBUILT, restore_old, 12, 1),
    Row("flipped bit, read", "every asset, history", _FLIP_FOUND, flip_and_read, 300, 2),
    Row("flipped bit, before a night", "every asset", _NAMED, flip_before_a_night, 12),
    Row("lost file", "history", _PASSED_OVER, damage_history(lambda path, _: path.unlink()), 2),
    Row("truncated file", "history", _PASSED_OVER, damage_history(truncate), 2),
    Row("empty file", "history", _PASSED_OVER, damage_history(empty), 2),
    Row("file of another program", "history", _PASSED_OVER, damage_history(replace_by_foreign), 2),
    Row("folder in a file's place", "history", _NAMED, damage_history(replace_by_folder), 2),
    Row("file that may not be read", "every asset", _NAMED, forbid_file, 6),
    Row("folder that may not be written", "every asset", _NAMED, forbid_folder, 6),
    Row("disk full", "data root", "the message names file and remedy; nothing is half; then as unbroken", fill_disk),
    Row(
        "quota exceeded in a write",
        "any file",
        "the message names the file; nothing is half; then as unbroken",
        limit_files,
        6,
        1,
    ),
)
