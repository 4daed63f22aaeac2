"""The output of the listing commands: networks, layers, heads, this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featx.errors import shown as brief_text
from featx.extraction.planning import Plan
from featx.files import size_text
from featx.printing import count_text, one_line, short_count, table
from featx.slices import listed
from featx.typing import JsonObject


def backbones_text(found: Sequence[Any], others: int = 0) -> str:
    """Render what `featx.list_backbones` found; `others` counts the networks not shown."""
    reasons = others > 0
    rows = [
        [
            info.name,
            count_text(info.features),
            short_count(info.parameters),
            short_count(info.macs),
            "x".join(map(str, info.input_size)) if info.input_size else "-",
            "-" if info.top1 is None else f"{info.top1:.1f}",
            "yes" if info.local else "no",
            *([info.recommended] if reasons else [info.licence or "-"]),
        ]
        for info in found
    ]
    head = ["name", "features", "parameters", "macs", "pixels", "top-1", "here"]
    lines = [table([*head, "for" if reasons else "licence"], rows)]
    if reasons:
        lines.append(
            f"and {others:,} more: `featx backbones PATTERN` (part of a name, or a glob), --here, "
            "--sort, --all"
        )
    else:
        lines.append(f"{len(rows):,} networks" if len(rows) != 1 else "1 network")
    lines.append("top-1: published ImageNet-1k accuracy in %; macs: multiply-adds of one image")
    return "\n".join(lines)


def domain_text(found: Sequence[Any]) -> str:
    """Render published weights by domain: what they are, and the command that uses them."""
    parts = []
    for info in found:
        own = info.weights
        features = "" if info.features is None or own.layer else f", {info.features:,} features"
        lines = {
            "trained on": own.trained_on,
            "network": f"{own.backbone}, {own.pixels} pixels{features}",
            "licence": own.licence or "not stated: ask the authors",
            "from": own.source if own.file in own.obtain else f"{own.source}, {own.file}",
            "first": own.obtain,
            "then": own.command,
        }
        shown = [f"  {name:<11}{text}" for name, text in lines.items() if text]
        parts.append("\n".join([f"{own.name} ({own.domain})", *shown]))
    return "\n".join([*parts, "featx ships none of these; read the licence before you use them"])


def layers_text(rows: Sequence[Any], default: str) -> str:
    """Render the layers of a network: map, its size as float16, and the vector after pooling."""
    lines = [
        [
            row.name or "(all)",
            row.type,
            "x".join(map(str, row.map or row.shape)) or "-",
            "-" if row.map_bytes is None else f"{row.map_bytes / 1024:,.1f}",
            "-" if row.above is None else f"{100 * row.above:.0f}",
            count_text(row.n_features),
            "-" if row.n_bytes is None else size_text(row.n_bytes),
        ]
        for row in rows
    ]
    head = ["layer", "type", "output", "map KiB", "above %", "features", "vector"]
    return (
        f"{table(head, lines)}\n"
        "output: channels x height x width of a map, else tokens x features or features; map KiB: "
        "one image's map in float16;\n"
        "above: share of multiply-adds between the layer and the classifier; `featx tune` trains "
        "these;\n"
        "features: length after --pool avg; vector: one image's features in float32\n"
        f"default: {default}"
    )


def heads_text(heads: Mapping[str, Any]) -> str:
    """Render the heads with one line each on when to use it."""
    width = max(map(len, heads))
    lines = []
    for task in ("classification", "regression"):
        lines.append(f"{task}:")
        lines += [f"  {n:<{width}}  {h.when}" for n, h in heads.items() if h.task == task]
    lines.append("your own: module:attribute, a scikit-learn estimator or pipeline")
    return "\n".join(lines)


def doctor_text(found: Mapping[str, Any]) -> str:
    """Render what `featx.doctor.diagnose` found, each thing once."""
    versions = [f"{name} {version or 'missing'}" for name, version in found["versions"].items()]
    lines = ["versions", *_wrapped(versions), "devices"]
    lines += [f"  {_device(device, found['cpu'])}" for device in found["devices"]]
    lines.append(f"  compiler: {found['cpu']['compiler'] or 'missing'}")
    lines.append("folders")
    lines += [f"  {name}: {_folder(folder)}" for name, folder in found["folders"].items()]
    lines.append("weights on this machine")
    lines += _wrapped(found["weights"] or ["none"])
    lines.append("extras")
    complete = [name for name, lacks in found["extras"].items() if not lacks]
    lines += [f"  complete: {', '.join(complete)}"] if complete else []
    lines += [
        f"  {name}: missing {', '.join(lacks)}" for name, lacks in found["extras"].items() if lacks
    ]
    lines += ["to do", *(f"  {line}" for line in found["advice"])] if found["advice"] else []
    return "\n".join(lines)


_CLASSES = 12
_SHOWN = 8  # findings of a kind
_NAMED = 3  # failed images, and groups of equal ones, on one screen


def info_text(found: Mapping[str, Any]) -> str:
    """Render the summary of a cache on one screen."""
    spec, record = found["spec"], found["provenance"]
    parts = f" in {found['parts']} parts" if found["parts"] else ""
    rows = [
        ("network", f"{record.get('backbone') or spec.get('architecture')}, {spec['precision']}"),
        *(("weights", line) for line in _weights(record.get("weights"))),
        ("features", ", ".join(f"{tap} {width:,}" for tap, width in found["taps"].items())),
        ("pixels", _pixels(spec.get("preprocess"), spec.get("decode"))),
        ("classes", _counts(found["classes"])),
        ("split", _counts(found["split"])),
        ("columns", listed(found["columns"], 40)),
        ("source", str(record.get("source") or "")),
        ("written", f"{record.get('finished', '')} {record.get('command', '')}".strip()[:120]),
        ("failed", _failed(found)),
        ("equal", _equal(found)),
        ("fingerprint", found["fingerprint"][:16]),
    ]
    lines = [f"{found['cache']}: {found['rows']:,} rows, {size_text(found['bytes'])}{parts}"]
    lines += [f"  {title:<12}{value}" for title, value in rows if value]
    return "\n".join([*lines, "  --all shows every recorded value"])


def _weights(record: object) -> list[str]:
    if not isinstance(record, dict):
        return []
    named = [str(record[key]) for key in ("source", "tag", "licence") if record.get(key)]
    notes = record.get("notes")
    return [", ".join(named), *(str(note) for note in (notes if isinstance(notes, list) else []))]


def _pixels(preprocess: object, decode: object) -> str:
    """Size, resize and decoding; "" for vectors that no pictures were read for."""
    if not isinstance(preprocess, dict) or not isinstance(decode, dict):
        return ""
    sizes = [preprocess.get(key) for key in ("input_size", "resize_size")]
    if not all(isinstance(size, list) for size in sizes):
        return ""
    crop, whole = ("x".join(map(str, size or ())) for size in sizes)
    extra = [
        f"{key} {decode[key]}" for key in ("mode", "bits", "bands", "pages") if decode.get(key)
    ]
    views = preprocess.get("views")
    if isinstance(views, list) and views != ["none"]:
        extra.append(f"views {', '.join(map(str, views))}")
    how = f"({preprocess.get('resize')}, {preprocess.get('interpolation')})"
    return ", ".join([f"{crop} of {whole} {how}", *extra])


def _name(name: str) -> str:
    """Write the name of a class or a split on one line; one of blanks in quotes."""
    if not name:
        return "(none)"
    return brief_text(one_line(name), 60) if name.strip() else repr(name)


def _counts(counts: Mapping[str, int]) -> str:
    named = [*counts.items()][:_CLASSES]
    shown = [f"{_name(name)} {n:,}" for name, n in named]
    more = f" and {len(counts) - _CLASSES} more" if len(counts) > _CLASSES else ""
    return (f"{len(counts)}: " if len(counts) > 2 else "") + ", ".join(shown) + more


def _failed(found: Mapping[str, Any]) -> str:
    named = [f"{name}: {reason}" for name, reason in list(found["failures"].items())[:_NAMED]]
    return _some(found["failed"], named)


def _equal(found: Mapping[str, Any]) -> str:
    named = [" = ".join(ids[:3]) for ids in found["duplicate_ids"][:_NAMED]]
    return _some(found["duplicates"] or 0, named)


def _some(count: int, named: Sequence[str]) -> str:
    more = f"; and {count - len(named):,} more" if count > len(named) else ""
    return f"{count:,}: {'; '.join(named)}{more}" if count else ""


def _device(device: Mapping[str, Any], cpu: Mapping[str, Any]) -> str:
    memory = "" if device["memory"] is None else f", {size_text(device['memory'])} of memory"
    cores = ""
    if device["device"] == "cpu":
        cores = f", {cpu['cores']} core{'s' * (cpu['cores'] != 1)}"
        cores += ", bf16 in hardware" if cpu["native_bf16"] else ""
    others = ", ".join(p for p in device["precisions"] if p != device["precision"])
    return (
        f"{device['device']}: {device['name']}{cores}{memory}; runs {device['precision']}"
        f"{f' ({others} on request)' if others else ''}"
    )


def _folder(folder: Mapping[str, Any]) -> str:
    if not folder["writable"]:
        return f"{folder['path']} (cannot be written)"
    return folder["path"] if folder["exists"] else f"{folder['path']} (will be made)"


def _wrapped(items: Sequence[str], width: int = 78) -> list[str]:
    lines = [""]
    for item in items:
        more = f"{lines[-1]}, {item}" if lines[-1] else item
        if len(more) > width and lines[-1]:
            lines[-1] += ","
            lines.append(item)
        else:
            lines[-1] = more
    return [f"  {line}" for line in lines]


def tree(values: dict[str, Any], indent: str = "") -> str:
    """Render nested dictionaries, one value a line."""
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", tree(value, indent + "  ")] if value else []
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{name}:", *(tree(item, indent + "  ") for item in value)]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {'none' if shown == '' else shown}")
    return "\n".join(lines)


def extract_text(found: JsonObject) -> str:
    """Render what a run of `featx.extract` did."""
    changes = ", ".join(f"{n} {name}" for name, n in found["difference"].items() if n)
    cache = found["cache"] + (f" (shard {found['shard']})" if found["shard"] else "")
    if found["dry_run"]:
        return (
            f"{cache}: would embed {found['embedded']}, reuse {found['reused']}, "
            f"drop {found['removed']} ({changes or 'no difference'})"
            + (f"\n  {Plan(**found['plan']).describe()}" if found["plan"] else "")
            + ignored_text(found)
        )
    if not found["embedded"]:
        did = f"nothing to embed, {found['reused']} rows reused, no forward pass"
    else:
        did = (
            f"{found['embedded']} embedded ({found['device']}, {found['precision']}), "
            f"{found['reused']} reused"
        )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items() if share)
    return (
        f"{cache}: {did}, {found['failed']} failed, {found['removed']} removed; "
        f"{_widths_text(found['taps'])}\n"
        f"  since last time: {changes or 'no difference'}\n"
        f"  {_time_text(found)}"
        + (f"; time of the threads: {shares}" if found["embedded"] else "")
        + ignored_text(found)
    )


def _time_text(found: JsonObject) -> str:
    """Say the time since the start, and how fast images were embedded once that had begun."""
    seconds = found["seconds"]
    text = f"{seconds['total']:.1f} s in all"
    if not found["embedded"]:
        return text
    start = seconds["total"] - seconds["compile"] - seconds["run"]
    compiling = f", compiling {seconds['compile']:.1f} s" if seconds["compile"] else ""
    return (
        f"{text}, {found['embedded'] / seconds['total']:.1f} img/s: starting {start:.1f} s"
        f"{compiling}, then {found['images_per_second']:.1f} img/s"
    )


def ignored_text(found: JsonObject, most: int = 12) -> str:
    r"""Say which files of a source were passed over, by extension, most frequent first.

    Examples
    --------
    >>> ignored_text({"ignored": 5, "ignored_by_extension": {".txt": 1, ".heic": 4}})
    '\n  5 ignored: .heic 4, .txt 1'
    """
    if not found["ignored"]:
        return ""
    kinds = sorted(found["ignored_by_extension"].items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{name} {count}" for name, count in kinds]
    return f"\n  {found['ignored']} ignored" + (f": {listed(shown, most)}" if shown else "")


def _widths_text(taps: dict[str, int]) -> str:
    widths = ", ".join(f"{name} {width}" for name, width in taps.items())
    return f"features: {widths}" if len(taps) > 1 else f"{sum(taps.values())} features"


def merge_text(found: JsonObject) -> str:
    """Render what `featx.cache.merge` wrote."""
    where = f"in {found['parts']} parts" if found["parts"] else "in one file"
    of = f" of {len(found['sources'])} caches" if len(found["sources"]) > 1 else ""
    without = f"; without shard {listed(found['missing'])}" if found["missing"] else ""
    return f"{found['cache']}: {found['rows']} rows{of} {where}{without}"


def audit_text(found: Any) -> str:
    """Render what `featx.audit` found: counts, the first of each kind, and the rate."""
    told = found.to_dict()
    names = ("conflicts", "near_duplicates", "label_issues", "outliers", "failed")
    counts = ", ".join(f"{told[name]} {name.replace('_', ' ')}" for name in names)
    lines = [f"{told['rows']} rows: {counts}"]
    for kind in dict.fromkeys(finding["kind"] for finding in found.findings):
        some = [finding for finding in found.findings if finding["kind"] == kind]
        rows = [[_cell(f[c]) for c in ("id", "score", "label", "suggested", "other")] for f in some]
        lines += ["", kind, table(["id", "score", "label", "suggested", "other"], rows[:_SHOWN])]
        if len(some) > _SHOWN:
            lines.append(f"and {len(some) - _SHOWN} more; --out FILE has them all")
    lines += [f"warning ({w['code']}): {w['message']}" for w in told["warnings"]]
    if (rate := told["error_rate"]) is not None:
        shares = [f"{100 * rate[name]:.1f} %" for name in ("value", "low", "high")]
        lines += ["", f"wrong labels: {shares[0]} (95 % interval {shares[1]} to {shares[2]})"]
    elif told["label_issues"]:
        lines += ["", "flags are not a rate: --review 100 --review-out FILE draws rows to look at"]
    return "\n".join(lines)


def search_text(found: Sequence[Any]) -> str:
    """Render what `featx.search` found, a table for each query."""
    parts = []
    for match in found:
        rows = [[near.id, _cell(near.label), f"{near.similarity:.4f}"] for near in match.matches]
        parts.append(f"{match.query}\n{table(['id', 'label', 'similarity'], rows)}")
    return "\n\n".join(parts)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
