"""Times `mobilenet bench` against other engines on this machine, in turns.

    python -m venv venv && venv/bin/pip install -r bench/requirements.txt
    cargo build --release
    venv/bin/python bench/rivals.py train --batch 32
    venv/bin/python bench/rivals.py infer --batch 1 --name infer-1

Clocks drift by more than ten per cent within minutes, so that only what is measured side by side
can be compared: every round times each engine for a few seconds, and a ratio is taken within its
round. The table gives medians over the rounds. Each engine runs in its own process; its peak memory
is that process's. Results go to bench/results/NAME.json; the machine should do nothing else.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

BENCH = pathlib.Path(__file__).resolve().parent
ENGINES = {"infer": "torch,onnxruntime,openvino", "train": "torch"}
OURS = "mobilenet"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["infer", "train"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, help="default: 1 for infer, 32 for train")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", help="of torch, torch-compile, onnxruntime, openvino")
    parser.add_argument("--binary", default=BENCH.parent / "target/release/mobilenet", type=pathlib.Path)
    parser.add_argument("--name", help="of the file in bench/results; default: what is measured")
    given = parser.parse_args()
    given.batch = given.batch or {"infer": 1, "train": 32}[given.what]
    given.engines = (given.engines or ENGINES[given.what]).split(",")
    size = f"{given.width:g}-{given.resolution}"
    given.name = given.name or f"{given.what}-{size}-b{given.batch}-t{given.threads}-{given.precision}"
    return given


class Ours:
    """`mobilenet bench`, started anew each time; it warms up as the rivals do."""

    def __init__(self, given):
        self.command = [str(given.binary), "bench", given.what, "--json"]
        for flag in ("threads", "batch", "precision", "width", "resolution", "seconds"):
            self.command += [f"--{flag}", str(getattr(given, flag))]
        version = subprocess.run([str(given.binary), "--version"], check=True, capture_output=True, text=True)
        self.version = version.stdout.split()[-1]

    def measure(self):
        output = subprocess.run(self.command, check=True, capture_output=True, text=True).stdout
        found = json.loads(output)
        return found["ms_median"], found["ms_min"], found["peak_rss_mib"]


class Rival:
    """A process of engines.py that waits to be asked."""

    def __init__(self, engine, given):
        self.seconds = given.seconds
        shape = [given.threads, given.batch, given.width, given.resolution, given.precision]
        command = [sys.executable, str(BENCH / "engines.py"), engine, given.what, *map(str, shape)]
        # As a user would run it: OpenMP's threads spin for some milliseconds after each region, and
        # sleep long before the next engine's turn.
        environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.version = self.answer(engine)["version"]

    def answer(self, what):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{what} ended; its message stands above")
        return json.loads(line)

    def measure(self):
        print(self.seconds, file=self.process.stdin, flush=True)
        found = self.answer("a rival")
        times = found["times"]
        return 1e3 * statistics.median(times), 1e3 * min(times), found["peak_rss_mib"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def machine():
    """What a reader needs to place the figures."""
    model = platform.processor()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": model, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def commit():
    command = ["git", "-C", str(BENCH), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() or None


def parameters(given):
    """Refuses to compare two different networks: the binary's count is held against the module's."""
    command = [str(given.binary), "summary", "--json", "--width", str(given.width)]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["params"]
    count = "import sys; from network import MobileNet; print(sum(p.numel() for p in MobileNet(float(sys.argv[1])).parameters()))"
    found = subprocess.run(
        [sys.executable, "-c", count, str(given.width)], check=True, capture_output=True, text=True, cwd=BENCH
    )
    theirs = int(found.stdout)
    if ours != theirs:
        raise SystemExit(f"not the same network: {ours} parameters here, {theirs} in bench/network.py")


def main():
    given = arguments()
    parameters(given)
    engines = {OURS: Ours(given)}
    for engine in given.engines:
        engines[engine] = Rival(engine, given)
    rounds = []
    for number in range(given.rounds):
        # Each round begins with another engine, so that none always follows the same one.
        names = list(engines)
        names = names[number % len(names) :] + names[: number % len(names)]
        rounds.append({name: engines[name].measure() for name in names})
        shown = ", ".join(f"{name} {rounds[-1][name][0]:.2f}" for name in engines)
        print(f"round {number + 1} of {given.rounds}: {shown} ms", file=sys.stderr, flush=True)
    for engine in given.engines:
        engines[engine].close()

    results = []
    for name in engines:
        medians = [found[name][0] for found in rounds]
        median = statistics.median(medians)
        results.append(
            {
                "what": given.what,
                "engine": name,
                "version": engines[name].version,
                "precision": given.precision,
                "threads": given.threads,
                "batch": given.batch,
                "width": given.width,
                "resolution": given.resolution,
                "ms_median": round(median, 3),
                "ms_min": round(min(found[name][1] for found in rounds), 3),
                "images_per_s": round(1e3 * given.batch / median, 2),
                "time_over_ours": round(statistics.median(r[name][0] / r[OURS][0] for r in rounds), 3),
                "peak_rss_mib": max(found[name][2] for found in rounds),
                "ms_of_rounds": [round(m, 3) for m in medians],
            }
        )
    print(f"{'engine':<14} {'version':<12} {'ms (median)':>12} {'ms (min)':>10} {'images/s':>10} {'× ours':>8} {'peak MiB':>9}")
    for row in results:
        print(
            f"{row['engine']:<14} {row['version']:<12} {row['ms_median']:>12.2f} {row['ms_min']:>10.2f}"
            f" {row['images_per_s']:>10.1f} {row['time_over_ours']:>8.2f} {row['peak_rss_mib']:>9}"
        )
    path = BENCH / "results" / f"{given.name}.json"
    path.parent.mkdir(exist_ok=True)
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "seconds": given.seconds,
        "rounds": given.rounds,
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
