"""Trees and rounds as text, for people who would rather look than read."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw_tree(parents: Mapping[str, str | None], labels: Mapping[str, str] | None = None) -> list[str]:
    """Lines of a tree: `parents` maps each device to its parent (None: a root). A device whose parent is not among the
    keys stands on its own, marked with «?»."""
    labels = labels or {}
    children: dict[str | None, list[str]] = {}
    for name, parent in sorted(parents.items()):
        children.setdefault(parent if parent in parents else None, []).append(name)
    lines: list[str] = []

    def draw(name: str, before: str, branch: str, below: str) -> None:
        lost = parents[name] is not None and parents[name] not in parents
        lines.append(f"{before}{branch}{labels.get(name, name)}{' ?' if lost else ''}")
        following = children.get(name, [])
        for number, child in enumerate(following):
            last = number == len(following) - 1
            draw(child, before + below, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in children.get(None, []):
        draw(root, "", "", "")
    return lines


def tree_depth(parents: Mapping[str, str | None]) -> int:
    """Edges on the longest way from a device to its root."""

    def depth(name: str) -> int:
        steps, at = 0, parents.get(name)
        while at is not None and steps <= len(parents):
            steps, at = steps + 1, parents.get(at)
        return steps

    return max((depth(name) for name in parents), default=0)


def round_line(record: dict[str, Any], rounds: int) -> str:
    """One finished and evaluated round, from a document of the daemon (report.record_document)."""
    parts = [f"round {record['round']:>3}/{rounds}", f"loss {record['loss']:.4f}"]
    if "accuracy" in record:
        parts.append(f"accuracy {record['accuracy']:.4f}")
    if record["round"]:
        parts += [f"{record['participants']} devices", f"{record['seconds']:.2f} s", f"{record['bytes'] / 1024:.0f} KB"]
    return "  ".join(parts)


def figures() -> Any:
    """What makes figures. Raises ConfigError without matplotlib (extra `plot`)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        from edgefl.errors import ConfigError

        raise ConfigError("drawing needs matplotlib", hint="pip install 'edgefl[plot]'") from None
    return Figure


HISTORY_PANELS = (
    ("loss", ("loss", "train_loss")),
    ("accuracy", ("accuracy",)),
    ("devices", ("participants",)),
    ("seconds", ("seconds",)),
    ("MB", ("bytes",)),
    ("epsilon", ("epsilon",)),
)
"""Label of an axis, and what is drawn on it; a panel of which no round knows anything is left out."""


def draw_history(records: list[dict[str, Any]], name: str, path: Path) -> Path:
    """Every round of an application (documents of the daemon), as a file whose name tells its kind: .png, .svg, .pdf;
    as history.png where the path is a directory, or has no ending. The file that was written.

    Raises ConfigError without matplotlib, UsageError for another kind of file.
    """
    new_figure = figures()
    if path.is_dir() or not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        path /= "history.png"
    kind = path.suffix[1:].lower()
    if kind not in ("png", "svg", "pdf"):
        from edgefl.errors import UsageError

        raise UsageError(f"a plot is no {path.suffix} file", hint="name a .png, .svg or .pdf file, or a directory")
    rounds = [record for record in records if record["round"] > 0]  # round 0 is the model before any training
    panels = []
    for label, columns in HISTORY_PANELS:
        lines = {}
        for column in columns:
            known = [record for record in (records if "loss" in column else rounds) if column in record]
            if known:
                scale = 1e-6 if column == "bytes" else 1.0
                lines[column] = [r["round"] for r in known], [r[column] * scale for r in known]
        if lines:
            panels.append((label, lines))
    figure = new_figure(figsize=(8, 0.6 + 1.7 * max(1, len(panels))), layout="constrained")
    first = None
    for number, (label, lines) in enumerate(panels):
        axes = first = figure.add_subplot(len(panels), 1, number + 1, sharex=first)
        for column, (x, y) in lines.items():
            axes.plot(x, y, marker=".", label=column.replace("_", " "))
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize="small")
    figure.suptitle(name)
    figure.supxlabel("round")
    figure.savefig(path, format=kind, dpi=120)
    return path


def draw_fleet(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Repair, traffic, depth and load of a document of `edgefl sim fleet`, as PNG files in a directory.

    Raises ConfigError without matplotlib.
    """
    new_figure = figures()
    directory.mkdir(parents=True, exist_ok=True)
    series, load = document["timeline"], document["load"]
    title = f"simulated, {document['nodes']:,} devices, seed {document['seed']}"
    paths = []

    def line(axes: Any, name: str, label: str) -> None:
        points = [(t, y) for t, y in zip(series["time_s"], series[name], strict=True) if y is not None]
        axes.plot([t for t, _ in points], [y for _, y in points], marker=".", label=label)

    def save(name: str, axes: Any, **settings: Any) -> None:
        axes.set(title=f"{name} ({title})", **settings)
        axes.title.set_fontsize("medium")
        axes.grid(visible=True, alpha=0.3)
        paths.append(directory / f"{name}.png")
        axes.figure.savefig(paths[-1], format="png", dpi=120)

    def over_time() -> Any:
        axes = new_figure(figsize=(9, 3.6), layout="constrained").subplots()
        axes.axvspan(0, max(0.5, series["faults_s"]), color="tab:red", alpha=0.2, label="faults")
        axes.set(xlabel="seconds since the faults began")
        return axes

    axes = over_time()
    for name, label in (
        ("lookups_correct", "lookups right"),
        ("attached", "members with a way to the root"),
        ("trees_whole", "trees whole"),
    ):
        line(axes, name, label)
    axes.legend()
    save("repair", axes, ylabel="share", ylim=(0, 1.03), xlim=(-15, max(series["time_s"], default=0)))

    axes = over_time()
    line(axes, "bytes_per_node_s", "sent by a device")
    save("traffic", axes, ylabel="bytes per second", yscale="log")

    axes = over_time()
    line(axes, "depth_mean", "mean")
    line(axes, "depth_max", "max")
    axes.legend()
    save("depth", axes, ylabel="depth of trees", ylim=(0, None))

    axes = new_figure(figsize=(9, 3.6), layout="constrained").subplots()
    axes.bar(range(len(load["children_histogram"])), load["children_histogram"], width=0.9)
    save("load", axes, xlabel="children of a device over all applications", ylabel="devices", yscale="log")
    return paths


def draw_scale(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Hops, stretch, depth and load of a document of `edgefl sim scale`, as PNG files in a directory.

    Raises ConfigError without matplotlib.
    """
    new_figure = figures()
    directory.mkdir(parents=True, exist_ok=True)
    growth, trees = document["growth"], document["trees"]
    nodes = [step["nodes"] for step in growth]
    title = f"{document['model']}, {document['nodes']:,} devices"
    paths = []

    def figure(name: str) -> tuple[Any, Any, Any]:
        drawn = new_figure(figsize=(9, 3.6), layout="constrained")
        drawn.suptitle(f"{name} ({title})", fontsize="medium")
        left, right = drawn.subplots(1, 2)
        return drawn, left, right

    def save(drawn: Any, name: str) -> None:
        for axes in drawn.axes:
            axes.grid(visible=True, alpha=0.3)
        paths.append(directory / f"{name}.png")
        drawn.savefig(paths[-1], format="png", dpi=120)

    for name, unit, worst in (("hops", "hops", "p99"), ("stretch", "stretch", "p95")):
        drawn, left, right = figure(name)
        left.semilogx(nodes, [step[name]["mean"] for step in growth], marker="o", label="mean")
        left.semilogx(nodes, [step[name][worst] for step in growth], marker="s", label=worst)
        left.set(xlabel="devices", ylabel=unit, ylim=(0, None))
        left.legend()
        histogram = document[name]["histogram"]
        step = 1.0 if name == "hops" else 0.25
        begin = 0.0 if name == "hops" else 1.0 + step / 2
        right.bar([begin + number * step for number in range(len(histogram))], histogram, width=step * 0.9)
        right.set(xlabel=unit, ylabel="routes")
        save(drawn, name)

    drawn, left, right = figure("depth of trees")
    for rule, row in (("as shipped", trees), ("nearest of 5", trees["nearest_of_five"])):
        left.plot(row["depth"]["histogram"], marker=".", label=rule)
        sizes = [part for part in row["depth"]["by_members"] if part["mean"] is not None]
        names = ["more" if part["members_below"] is None else f"< {part['members_below']:,}" for part in sizes]
        right.plot(names, [part["mean"] for part in sizes], marker="o", label=rule)
    left.set(xlabel="depth", ylabel="members")
    right.set(xlabel="members of the application", ylabel="mean depth", ylim=(0, None))
    left.legend()
    save(drawn, "depth")

    drawn, left, right = figure("load")
    left.bar(range(len(trees["children_histogram"])), trees["children_histogram"], width=0.9)
    left.set(xlabel="children of a device over all applications", ylabel="devices", yscale="log")
    roots = document["roots"]
    for name in ("alike", "mixed"):
        right.plot(roots[name]["histogram"], marker="o", label=name)
    right.set(xlabel=f"roots of a device ({roots['apps']} applications)", ylabel="devices", yscale="log")
    right.legend()
    save(drawn, "load")
    return paths


def draw_game(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Epsilon, cost beside the optimum and the time of a round over the epochs of a document of `edgefl sim game`, one
    line for each of its runs, as a PNG file in a directory.

    Raises ConfigError without matplotlib.
    """
    drawn = figures()(figsize=(12, 3.6), layout="constrained")
    directory.mkdir(parents=True, exist_ok=True)
    runs = document.get("runs", [document])
    drawn.suptitle(f"{document['model']}, {document['players']:,} players", fontsize="medium")
    columns = (("eps_rel", "epsilon"), ("cost_over_optimum", "cost / optimum"), ("round_time_s", "seconds of a round"))
    for axes, (name, label) in zip(drawn.subplots(1, len(columns)), columns, strict=True):
        for run in runs:
            axes.plot(run[name], label=f"{run['rule']}, lambda {run['delay_weight']:g}")
        axes.set(xlabel="epoch", ylabel=label, yscale="log" if name == "eps_rel" else "linear")
        axes.grid(visible=True, alpha=0.3)
    drawn.axes[0].legend(fontsize="small")
    path = directory / "game.png"
    drawn.savefig(path, format="png", dpi=120)
    return [path]


def draw_edges(document: Mapping[str, Any], path: Path) -> None:
    """A document of `edgefl tree APP --json`: its devices below their parents, each edge in the colour of what it costs
    the child, the caption with its epsilon. PNG or SVG, by the name of the file; PNG if it says nothing.

    Raises ConfigError without matplotlib.
    """
    new_figure = figures()
    rows = {row["node"]: row for row in document["devices"]}
    places = tree_places({node: row["parent"] for node, row in rows.items()})
    width = max((x for x, _ in places.values()), default=0.0) + 1
    depth = max((y for _, y in places.values()), default=0) + 1
    drawn = new_figure(figsize=(min(40.0, max(6.0, 0.5 * width)), max(3.5, 1.3 * depth)), layout="constrained")
    axes = drawn.subplots()
    edges = [(node, row["parent"], row["cost_s"]) for node, row in rows.items() if row["parent"] in places]
    known = [cost_s for _, _, cost_s in edges if cost_s is not None]
    colours = axes.scatter([], [], c=[], cmap="plasma", vmin=0.0, vmax=max(known, default=0.0) or 1.0)
    for node, parent, cost_s in edges:
        (x, y), (above_x, above_y) = places[node], places[parent]
        colour, style = ("0.6", ":") if cost_s is None else (colours.to_rgba(cost_s), "-")
        axes.plot([x, above_x], [-y, -above_y], color=colour, linestyle=style, linewidth=2.5, zorder=1)
    for node, (x, y) in places.items():
        answered = rows[node]["answered"]
        axes.scatter(x, -y, s=60, facecolor="0.2" if answered else "white", edgecolor="0.2", zorder=2)
        axes.annotate(node[:4], (x, -y), (0, 7), textcoords="offset points", ha="center", fontsize="x-small")
    drawn.colorbar(colours, ax=axes, label="what the parent costs, s")
    epsilon = document["epsilon_of_all"]
    caption = textwrap.fill(f"epsilon {epsilon['share']:.2%}: {epsilon['meaning']}", max(50, int(4 * width)))
    silent = sum(not row["answered"] for row in rows.values())
    axes.set_title(f"{document['name']}: {len(rows)} devices" + (f", {silent} did not answer" if silent else ""))
    axes.set_xlabel(caption, fontsize="small")
    axes.margins(0.06, 0.15)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    drawn.savefig(path, format="svg" if path.suffix.lower() == ".svg" else "png", dpi=120)


def tree_places(parents: Mapping[str, str | None]) -> dict[str, tuple[float, int]]:
    """Where to draw each device: (x, depth). Leaves stand side by side, parents above the middle of their children.
    A device whose parent is not among the keys stands at the top; what is in a cycle is left out."""
    children: dict[str | None, list[str]] = {}
    for name, parent in sorted(parents.items()):
        children.setdefault(parent if parent in parents else None, []).append(name)
    depths: dict[str, int] = {}  # in the order of a walk: every device after its parent
    ahead = [(top, 0) for top in reversed(children.get(None, []))]
    while ahead:
        name, depth = ahead.pop()
        depths[name] = depth
        ahead += [(child, depth + 1) for child in reversed(children.get(name, []))]
    columns = itertools.count()
    columns_of = {name: float(next(columns)) for name in depths if name not in children}
    for name in reversed(depths):
        below = [columns_of[child] for child in children.get(name, [])]
        if below:
            columns_of[name] = (below[0] + below[-1]) / 2
    return {name: (columns_of[name], depth) for name, depth in depths.items()}


CURVE_COSTS = (("time_s", "seconds", 1.0), ("bytes", "megabytes", 1e6), ("device_seconds", "device-seconds", 1.0))
"""What a curve is drawn against: column, unit, and how many of the column's are one of these."""


def draw_curves(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Accuracy against time, bytes and device-seconds of training of a document of `edgefl sim train`, all curves in
    one, as SVG files in a directory. Costs are on a logarithmic scale.

    Raises ConfigError without matplotlib.
    """
    new_figure = figures()
    import matplotlib as mpl

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    strategies = {curve["strategy"] for curve in document["curves"]} - {"none"}
    for column, unit, size in CURVE_COSTS:
        axes = new_figure(figsize=(9, 4.2), layout="constrained").subplots()
        for curve in document["curves"]:
            named = len(strategies) > 1 and curve["strategy"] != "none"
            label = f"{curve['topology']}, {curve['strategy']}" if named else curve["topology"]
            axes.plot([value / size for value in curve[column]], curve["accuracy"], label=label)
        title = f"accuracy against {unit} (simulated, {document['nodes']:,} devices, seed {document['seed']})"
        axes.set(title=title, xlabel=unit, ylabel="accuracy", ylim=(0, 1), xscale="log")
        axes.title.set_fontsize("medium")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="best", fontsize="small")
        paths.append(directory / f"accuracy-{column.replace('_', '-')}.svg")
        with mpl.rc_context({"svg.hashsalt": "edgefl", "svg.fonttype": "none"}):  # the same run, the same file
            axes.figure.savefig(paths[-1], format="svg", metadata={"Date": None})
    return paths
