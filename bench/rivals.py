"""Times `mobilenet bench` against other engines on this machine, in turns.

    python -m venv venv && venv/bin/pip install -r bench/requirements.txt
    cargo build --release
    cargo build --release --manifest-path bench/rust-rivals/Cargo.toml
    venv/bin/python bench/rivals.py infer --batch 1
    venv/bin/python bench/rivals.py train --batch 32 --precision bf16
    venv/bin/python bench/rivals.py all                  # every job of `JOBS`, about an hour

Clocks drift by more than ten per cent within minutes, so that only what is measured side by side
can be compared: every round times each engine for a few seconds, and a ratio is taken within its
round. The table gives medians over the rounds. Each engine runs in its own process; its peak memory
is that process's. All are given the same weights and images, and their logits are held against ours before
anything is timed. An engine that cannot run is listed with the reason. Results go to
bench/results/NAME.json, and `results.py` makes a page of them; the machine should do nothing else.
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import machine
import results

BENCH = pathlib.Path(__file__).resolve().parent
ENGINES = {
    "infer": "torch,torch-compile,onnxruntime,openvino,litert,ncnn,rten,tract",
    "train": "torch,torch-compile",
}
OURS = "mobilenet"
IN_RUST = ("rten", "tract")
# The file that an engine reads, and who makes it; PyTorch takes the weights as they are.
FILES = {"onnxruntime": "onnx", "openvino": "onnx", "rten": "onnx", "tract": "onnx", "ncnn": "ncnn", "litert": "tflite"}

# What, precision, batch, width, resolution; each with all cores and with one thread.
JOBS = [
    ("infer", "f32", 1, 1.0, 224),
    ("infer", "f32", 32, 1.0, 224),
    ("infer", "f32", 1, 0.25, 128),
    ("infer", "bf16", 1, 1.0, 224),
    ("infer", "bf16", 32, 1.0, 224),
    ("train", "f32", 32, 1.0, 224),
    ("train", "bf16", 32, 1.0, 224),
]

# The largest difference of a logit from ours in f32, as a share of the largest logit, that the same network may show.
TOLERANCE = {"f32": 1e-3, "bf16": 0.2}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["infer", "train", "all"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, help="default: 1 for infer, 32 for train")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", help=f"default: {ENGINES['infer']}; to train: {ENGINES['train']}")
    parser.add_argument("--binary", default=BENCH.parent / "target/release/mobilenet", type=pathlib.Path)
    parser.add_argument(
        "--rust-rivals", default=BENCH / "rust-rivals/target/release/rust-rivals", type=pathlib.Path
    )
    parser.add_argument("--results", default=BENCH / "results", type=pathlib.Path, help="the folder to write to")
    parser.add_argument("--name", help="of the file there; default: what is measured")
    parser.add_argument("--suffix", help="put behind that name: the machine's")
    return parser.parse_args()


def jobs(given):
    """What is to be measured, a set of arguments each."""
    if given.what != "all":
        given.batch = given.batch or {"infer": 1, "train": 32}[given.what]
        return [given]
    found = []
    for threads in sorted({given.threads, 1}, reverse=True):
        for what, precision, batch, width, resolution in JOBS:
            job = copy.copy(given)
            job.what, job.precision, job.batch = what, precision, batch
            job.width, job.resolution, job.threads, job.name = width, resolution, threads, None
            found.append(job)
    return found


class Unable(Exception):
    """Why an engine is left out."""


def ran(command, **options):
    """Standard output of a command that must succeed; else the last line of what it said."""
    found = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if found.returncode != 0:
        lines = (found.stderr or found.stdout).strip().splitlines() or [f"exit status {found.returncode}"]
        said = [line for line in lines if line.startswith("error")] or lines[-1:]
        raise Unable(said[0][:200])
    return found.stdout


class Network:
    """The network and the images of a job in a folder, in every form that an engine asks for."""

    def __init__(self, job, folder):
        self.job, self.folder, self.made = job, pathlib.Path(folder), {}
        self.prepare("weights")
        imported = ["import", self.folder / "network.pth", "-o", self.folder / "network.safetensors"]
        whole = ["--resolution", job.resolution, "--crop-fraction", "1"]
        ran([job.binary, *imported, *whole, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"])

    def prepare(self, form):
        shape = [self.job.width, self.job.resolution, self.job.batch]
        ran([sys.executable, BENCH / "prepare.py", form, self.folder, *shape])

    def make(self, form):
        """Makes the file once; raises again what went wrong the first time."""
        if form not in self.made:
            try:
                if form == "tflite":
                    model, path = self.folder / "network.safetensors", self.folder / "network.tflite"
                    ran([self.job.binary, "export", model, "--format", form, "-o", path])
                else:
                    self.prepare(form)
                self.made[form] = None
            except Unable as problem:
                self.made[form] = problem
        if self.made[form] is not None:
            raise Unable(f"no {form} file: {self.made[form]}")

    def log_probabilities(self):
        """Of the first image by our binary: logits less a constant."""
        import math

        model, image = self.folder / "network.safetensors", self.folder / "image.png"
        said = json.loads(ran([self.job.binary, "classify", "--json", "--model", model, "-k", 1000, image]))
        found = {each["class"]: math.log(max(each["probability"], 1e-37)) for each in said[0]["predictions"]}
        return [found[index] for index in range(len(found))]


class Ours:
    """`mobilenet bench`, started anew each time; it warms up as the rivals do."""

    def __init__(self, job):
        self.command = [str(job.binary), "bench", job.what, "--json"]
        for flag in ("threads", "batch", "precision", "width", "resolution"):
            self.command += [f"--{flag}", str(getattr(job, flag))]
        self.seconds, self.difference = job.seconds, None
        ran([*self.command, "--seconds", "0.01"])
        self.version = ran([job.binary, "--version"]).split()[-1]

    def measure(self):
        found = json.loads(ran([*self.command, "--seconds", str(self.seconds)]))
        return found["ms_median"], found["ms_min"], found["peak_rss_mib"]

    def close(self):
        pass


class Rival:
    """A process that waits to be asked: of engines.py, or of rust-rivals."""

    def __init__(self, engine, job, network):
        self.engine, self.seconds = engine, job.seconds
        if engine in FILES and (job.precision == "f32" or engine in ("openvino", "ncnn")):
            network.make(FILES[engine])
        # As a user would run it: OpenMP's threads spin for some milliseconds after each region, and
        # sleep long before the next engine's turn.
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
        self.process = subprocess.Popen(
            self.command(job, network),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if engine in IN_RUST else subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        found = self.answer()
        if "skipped" in found:
            self.close()
            raise Unable(found["skipped"])
        self.version, self.logits, self.difference = found["version"], found["logits"], None

    def command(self, job, network):
        if self.engine not in IN_RUST:
            job_of_it = [job.what, job.threads, job.width, job.precision, network.folder]
            return [sys.executable, str(BENCH / "engines.py"), self.engine, *map(str, job_of_it)]
        if job.precision != "f32":
            raise Unable(f"{self.engine} computes in f32")
        if not job.rust_rivals.exists():
            raise Unable("not built: cargo build --release --manifest-path bench/rust-rivals/Cargo.toml")
        shape = f"{job.batch},3,{job.resolution},{job.resolution}"
        files = [network.folder / "network.onnx", network.folder / "images.f32"]
        return [str(part) for part in (job.rust_rivals, self.engine, job.threads, *files, shape)]

    def answer(self):
        """The next line of JSON; libraries print lines of their own."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        said = self.process.stderr.read().strip().splitlines() if self.process.stderr else []
        raise Unable(said[-1][:200] if said else f"ended with status {self.process.wait()}")

    def check(self, ours, precision):
        """Refuses to compare with what computes something else."""
        import math

        largest = max(self.logits)
        shift = largest + math.log(sum(math.exp(logit - largest) for logit in self.logits))
        differences = [abs(logit - shift - own) for logit, own in zip(self.logits, ours, strict=True)]
        self.difference = max(differences)
        share = self.difference / max(map(abs, self.logits))
        print(f"{self.engine}: logits within {self.difference:.2g} of ours", file=sys.stderr, flush=True)
        if not share <= TOLERANCE[precision]:
            raise Unable(f"another result than ours: logits differ by {self.difference:.3g}")

    def measure(self):
        print(self.seconds, file=self.process.stdin, flush=True)
        found = self.answer()
        return 1e3 * statistics.median(found["times"]), 1e3 * min(found["times"]), found["peak_rss_mib"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start(job, network):
    """The engines that can do the job, ready, and the others with the reason."""
    engines, skipped = {}, []
    ours = network.log_probabilities()
    try:
        engines[OURS] = Ours(job)
    except Unable as problem:
        skipped.append({"engine": OURS, "reason": str(problem)})
    for name in (job.engines or ENGINES[job.what]).split(","):
        rival = None
        try:
            rival = Rival(name, job, network)
            rival.check(ours, job.precision)
            engines[name] = rival
        except Unable as problem:
            skipped.append({"engine": name, "reason": str(problem)})
            if rival is not None:
                rival.close()
    for each in skipped:
        print(f"{each['engine']}: skipped: {each['reason']}", file=sys.stderr, flush=True)
    return engines, skipped


def take_turns(job, engines):
    """A dictionary a round: (median, minimum, peak memory) by engine."""
    rounds = []
    for number in range(job.rounds):
        # Each round begins with another engine, so that none always follows the same one.
        names = list(engines)
        names = names[number % len(names) :] + names[: number % len(names)]
        rounds.append({name: engines[name].measure() for name in names})
        shown = ", ".join(f"{name} {rounds[-1][name][0]:.2f}" for name in engines)
        print(f"round {number + 1} of {job.rounds}: {shown} ms", file=sys.stderr, flush=True)
    return rounds


def summed_up(job, engines, rounds):
    found = []
    for name, engine in engines.items():
        medians = [timed[name][0] for timed in rounds]
        median = statistics.median(medians)
        over_ours = None
        if OURS in engines:
            over_ours = round(statistics.median(timed[name][0] / timed[OURS][0] for timed in rounds), 3)
        found.append(
            {
                "what": job.what,
                "engine": name,
                "version": engine.version,
                "precision": job.precision,
                "threads": job.threads,
                "batch": job.batch,
                "width": job.width,
                "resolution": job.resolution,
                "ms_median": round(median, 3),
                "ms_min": round(min(timed[name][1] for timed in rounds), 3),
                "images_per_s": round(1e3 * job.batch / median, 2),
                "time_over_ours": over_ours,
                "peak_rss_mib": max(timed[name][2] for timed in rounds),
                "logits_difference": engine.difference,
                "ms_of_rounds": [round(each, 3) for each in medians],
            }
        )
    return found


def run(job):
    size = f"{job.width:g}-{job.resolution}-b{job.batch}-t{job.threads}"
    name = job.name or f"{job.what}-{size}-{job.precision}"
    name += f"-{job.suffix}" if job.suffix else ""
    print(f"\n{name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        engines, skipped = start(job, Network(job, folder))
        if not engines:
            raise Unable("no engine can do this here")
        try:
            rounds = take_turns(job, engines)
        finally:
            for engine in engines.values():
                engine.close()
    record = {
        **machine.description(BENCH),
        "seconds": job.seconds,
        "rounds": job.rounds,
        "results": summed_up(job, engines, rounds),
        "skipped": skipped,
    }
    print(results.table(record))
    job.results.mkdir(exist_ok=True)
    path = job.results / f"{name}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {os.path.relpath(path)}")


def main():
    given = arguments()
    failed = 0
    for job in jobs(given):
        try:
            run(job)
        except Unable as problem:
            failed += 1
            print(f"not measured: {problem}", file=sys.stderr, flush=True)
    if given.what == "all":
        print(f"written to {os.path.relpath(results.write(given.results))}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
