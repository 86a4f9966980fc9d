"""Makes bench/results/README.md of all the JSON files there.

    python bench/results.py

Needs nothing but Python. `rivals.py` uses it for the table that it prints, and `rivals.py all` at its end.
"""

import json
import os
import pathlib
import sys

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
OURS = "mobilenet"

HEAD = """# Beside other engines

Made by `python bench/results.py` of the files in this folder, each written by one run of
[bench/rivals.py](../rivals.py): every engine timed in turns, medians over the rounds. *Ours over the fastest* is our
time divided by that of the fastest other engine: the median of what it was within each round, so that a clock that
drifts between rounds does not count. Below 1 we are faster. Memory is the most that the process had at once.
"""


def records(folder):
    """The files that hold turns, by name; others (the cold start) have a form of their own."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "results" in record:
            found[path.stem] = record
    return found


def ours(record):
    return next((row for row in record["results"] if row["engine"] == OURS), None)


def fastest(record):
    """The other engine that took least, against ours if we took part."""
    rivals = [row for row in record["results"] if row["engine"] != OURS]
    return min(rivals, key=lambda row: row["time_over_ours"] or row["ms_median"], default=None)


def ratio(record):
    """Our time over that of the fastest other engine; nothing if either is missing."""
    rival = fastest(record)
    if ours(record) is None or rival is None:
        return None
    return 1 / rival["time_over_ours"]


def job(record):
    """Words for what was measured."""
    row = record["results"][0]
    what = {"infer": "inference", "train": "training step"}[row["what"]]
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return f"{what}, {row['precision']}, α = {row['width']:g}, {row['resolution']}×{row['resolution']}, batch {row['batch']}, {threads}"


def order(record):
    row = record["results"][0]
    return (row["what"], row["precision"] != "f32", -row["threads"], -row["width"], row["batch"])


def milliseconds(row):
    return f"{row['ms_median']:.2f}"


def table(record):
    """Every engine of one file, in plain columns."""
    lines = [f"{'engine':<14} {'version':<13} {'ms (median)':>12} {'ms (min)':>10} {'images/s':>10} {'× ours':>8} {'peak MiB':>9}"]
    for row in record["results"]:
        over = row["time_over_ours"]
        lines.append(
            f"{row['engine']:<14} {row['version']:<13} {row['ms_median']:>12.2f} {row['ms_min']:>10.2f}"
            f" {row['images_per_s']:>10.1f} {'' if over is None else f'{over:.2f}':>8} {row['peak_rss_mib']:>9}"
        )
    lines += [f"{each['engine']:<14} skipped: {each['reason']}" for each in record.get("skipped", [])]
    if ratio(record) is not None:
        lines.append(f"ours over the fastest ({fastest(record)['engine']}): {ratio(record):.2f}")
    return "\n".join(lines)


def cells(*values):
    return "| " + " | ".join(values) + " |"


def overview(named):
    lines = [cells("job", "ours, ms", "fastest other of that run", "its ms", "ours over it", "memory, ours over its"), "|---|---|---|---|---|---|"]
    for record in named:
        own, rival = ours(record), fastest(record)
        if rival is None:
            continue
        if own is None:
            lines.append(cells(job(record), "not measured", rival["engine"], milliseconds(rival), "", ""))
            continue
        memory = "" if own["peak_rss_mib"] is None else f"{own['peak_rss_mib'] / rival['peak_rss_mib']:.2f}"
        found = f"{ratio(record):.2f}"
        lines.append(
            cells(
                job(record),
                milliseconds(own),
                rival["engine"],
                milliseconds(rival),
                f"**{found}**" if ratio(record) < 1 else found,
                memory,
            )
        )
    return lines


def not_won(named):
    lines = []
    for record in named:
        found = ratio(record)
        if ours(record) is None:
            lines.append(f"- {job(record)}: not measured")
        elif found is not None and found >= 1:
            rows = [row for row in record["results"] if row["engine"] != OURS and row["time_over_ours"] <= 1]
            by = ", ".join(f"{row['engine']} ({1 / row['time_over_ours']:.2f})" for row in rows)
            lines.append(f"- {job(record)}: ours over {by}")
    return lines


def details(name, record):
    lines = [f"### {job(record)[:1].upper()}{job(record)[1:]}", ""]
    lines += [cells("engine", "version", "ms", "fastest", "images/s", "its time over ours", "peak MiB"), "|---|---|---|---|---|---|---|"]
    for row in sorted(record["results"], key=lambda row: row["ms_median"]):
        over = row["time_over_ours"]
        lines.append(
            cells(
                row["engine"],
                row["version"],
                milliseconds(row),
                f"{row['ms_min']:.2f}",
                f"{row['images_per_s']:.1f}",
                "" if over is None else f"{over:.2f}",
                str(row["peak_rss_mib"]),
            )
        )
    rounds = "1 round" if record["rounds"] == 1 else f"{record['rounds']} rounds"
    commit = f", commit {record['commit']}" if record.get("commit") else ""
    lines += ["", f"[{name}.json]({name}.json): {record['date']}{commit}, {rounds} of {record['seconds']:g} s each.", ""]
    skipped = record.get("skipped", [])
    if skipped:
        lines += ["Not timed: " + "; ".join(f"{each['engine']} ({each['reason']})" for each in skipped) + ".", ""]
    return lines


def place(record):
    """Words for the machine."""
    found = record["machine"]
    words = [found["cpu"], f"{found['cores']} cores"]
    if found.get("instructions"):
        words.append(" ".join(found["instructions"]))
    if found.get("l2_cache"):
        words.append(f"L2 {found['l2_cache']}" + (f", L3 {found['l3_cache']}" if found.get("l3_cache") else ""))
    if found.get("memory_gib"):
        words.append(f"{found['memory_gib']:g} GiB")
    return ", ".join([*words, found["system"]])


def page(folder):
    """The page of all files, grouped by machine."""
    groups = {}
    for name, record in records(folder).items():
        groups.setdefault(place(record), []).append((name, record))
    lines = [HEAD]
    for number, (words, group) in enumerate(groups.items(), 1):
        group.sort(key=lambda each: order(each[1]))
        lines += [f"## Machine {number}", "", words + ".", "", *overview([record for _, record in group]), ""]
        lost = not_won([record for _, record in group])
        lines += ["Not won:", "", *lost, ""] if lost else ["Nothing was lost.", ""]
        for name, record in group:
            lines += details(name, record)
    return "\n".join(lines).rstrip() + "\n"


def write(folder=RESULTS):
    path = pathlib.Path(folder) / "README.md"
    path.write_text(page(folder), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(f"written to {os.path.relpath(write(*sys.argv[1:]))}")
