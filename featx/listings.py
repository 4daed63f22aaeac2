"""What the listing commands print: networks, layers, heads, this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featx.files import size_text
from featx.printing import count_text, short_count, table


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


def layers_text(rows: Sequence[Any], default: str) -> str:
    """Render the layers of a network: map, its size as float16, and the vector after pooling."""
    lines = [
        [
            row.name or "(all)",
            row.type,
            "x".join(map(str, row.map or row.shape)) or "-",
            "-" if row.map_bytes is None else f"{row.map_bytes / 1024:,.1f}",
            count_text(row.n_features),
            "-" if row.n_bytes is None else size_text(row.n_bytes),
        ]
        for row in rows
    ]
    head = ["layer", "type", "output", "map KiB", "features", "vector"]
    return (
        f"{table(head, lines)}\n"
        "output: channels x height x width of a map, else tokens x features or features; map KiB: "
        "one image's map in float16;\n"
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
        ("columns", ", ".join(found["columns"])),
        ("source", str(record.get("source") or "")),
        ("written", f"{record.get('finished', '')} {record.get('command', '')}".strip()[:120]),
        ("failed", _failed(found)),
        ("equal", _equal(found)),
        ("fingerprint", found["fingerprint"][:16]),
    ]
    lines = [f"{found['cache']}: {found['rows']:,} rows, {size_text(found['bytes'])}{parts}"]
    lines += [f"  {title:<12}{value}" for title, value in rows if value]
    return "\n".join([*lines, "  --all shows every recorded value"])


def _weights(record: Any) -> list[str]:
    if not isinstance(record, dict):
        return []
    named = [str(record[key]) for key in ("source", "tag", "licence") if record.get(key)]
    notes = record.get("notes")
    return [", ".join(named), *(str(note) for note in (notes if isinstance(notes, list) else []))]


def _pixels(preprocess: Any, decode: Any) -> str:
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


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name or '(none)'} {n:,}" for name, n in list(counts.items())[:_CLASSES]]
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
