"""Kill `draft` and `render` at random moments, and see that nothing is lost: the same bytes, no stage computed twice.

    .venv/bin/python -m tools.kill_drafts configs/scripts/demo.yaml --out out/killed --kills 30

Drafts of every shot are made, a take of each is picked, and the picks are finished; each command is killed (SIGKILL)
again and again, a random time after it has begun its work, and started anew, until so many kills are spent. Then the
folder is compared with plain renders of the same takes. Stages are counted by what the commands tell as JSON: they tell
a stage when it is on the disk, so one that was computed twice is told twice.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from swd_video.studio.folder import PICKS_NAME
from swd_video.studio.picks import pick_takes
from swd_video.studio.script import load_script

_SUFFIXES = {".mp4", ".webp", ".json"}
_WITH_TIMES = {"render.json", "drafts.json", "film.json", "picks.json"}


class Killer:
    """Runs commands and kills them, as long as there are kills to spend.

    Attributes:
        left: Kills that are left.
        told: How often each stage of each take was told to be done.
    """

    def __init__(self, kills: int, seed: int, longest: float) -> None:
        self.left, self.told = kills, Counter[tuple[str, int, int]]()
        self._random, self._longest = random.Random(seed), longest

    def run(self, words: list[str], share: int) -> None:
        """Run a command to its end; up to `share` times it is killed before."""
        while True:
            process = subprocess.Popen(
                [sys.executable, "-m", "swd_video.cli.main", *words, "--json-progress"],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            timer = threading.Timer(
                self._random.uniform(0, self._longest), process.send_signal, [signal.SIGKILL]
            )
            assert process.stderr is not None
            other = []
            for line in process.stderr:
                if not line.startswith("{"):
                    other.append(line)
                    continue
                event = json.loads(line)
                if event["event"] == "plan" and share:
                    timer.start()
                if event["event"] == "stage":
                    self.told[event["shot"], event["take"], event["stage"]] += 1
            timer.cancel()
            code = process.wait()
            if code == 0:
                return
            if code != -signal.SIGKILL:
                raise SystemExit(f"{' '.join(words)}: ended with {code}: {''.join(other)}")
            share, self.left = share - 1, self.left - 1
            print(f"killed {words[0]}: {self.left} left, {sum(self.told.values())} stages done", flush=True)


def main() -> int:
    """Kill, compare, and return 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--longest", type=float, default=2.0, help="seconds from the beginning of work to a kill"
    )
    arguments = parser.parse_args()
    script = load_script(arguments.script)
    picks = {shot.id: 1 + index % arguments.seeds for index, shot in enumerate(script.shots)}
    killed, plain = arguments.out / "killed", arguments.out / "plain"
    words = [str(arguments.script), "--batch", str(arguments.batch), "--out"]
    killer = Killer(arguments.kills, 0, arguments.longest)
    killer.run(["draft", *words, str(killed), "--seeds", str(arguments.seeds)], arguments.kills // 2)
    pick_takes(script, killed, [f"{shot_id}:{take}" for shot_id, take in picks.items()])
    killer.run(["render", *words, str(killed)], killer.left)
    twice = [key for key, count in killer.told.items() if count > 1]
    plain.mkdir(parents=True)
    shutil.copyfile(killed / PICKS_NAME, plain / PICKS_NAME)
    Killer(0, 0, 1).run(["render", *words, str(plain)], 0)
    names = {path.name for path in plain.iterdir() if path.suffix in _SUFFIXES} - _WITH_TIMES
    differ = [
        name
        for name in sorted(names)
        if not (killed / name).is_file() or (killed / name).read_bytes() != (plain / name).read_bytes()
    ]
    print(
        f"{arguments.kills - killer.left} kills, {sum(killer.told.values())} stages, {len(twice)} told twice; "
        f"{len(names)} files, {len(differ)} differ"
    )
    for what in (*twice, *differ):
        print(what)
    return 1 if twice or differ else 0


if __name__ == "__main__":
    sys.exit(main())
