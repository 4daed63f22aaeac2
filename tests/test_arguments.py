"""Signatures of the public functions: explicit, described, and the same in the shell."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import typer

import featx
from featx.arguments import several, typed
from featx.cache import import_vectors
from featx.cli import app
from featx.errors import FeatxError, OptionError
from featx.exporting import export
from featx.extraction.options import ExtractOptions
from featx.fitting.options import FitOptions
from featx.model import Model
from featx.serve import serve

PUBLIC = [getattr(featx, name) for name in featx.__all__ if name != "FeatxError"]
METHODS = [Model.predict, Model.explain, Model.export, Model.score, serve]
ARGUMENTS = (
    "self",
    "source",
    "cache",
    "caches",
    "model",
    "path",
    "out",
    "head",
    "heads",
    "pattern",
    "update",
)

# Options that one side alone has, and why.
SHELL_ALONE = {"as_json", "quiet"}  # a library logs, and prints nothing
LIBRARY_ALONE = {
    "progress",  # the shell shows it on a terminal
    "token",  # of serve: in the shell it may come from the environment
    "limits",  # of serve: an option for each in the shell
    "ready",
}
OTHER_NAME = {"layer": "layers", "name": "names"}  # repeatable in the shell
LIBRARY = {
    "extract": featx.extract,
    "fit": featx.fit,
    "train": featx.train,
    "evaluate": featx.evaluate,
    "compare": featx.compare,
    "report": featx.report,
    "predict": Model.predict,
    "explain": Model.explain,
    "drift": featx.drift,
    "export": Model.export,
}


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def shell_options() -> dict[str, dict[str, Any]]:
    """Name and default of every option of each command."""
    group = typer.main.get_command(app)
    return {
        name: {p.name: p.default for p in command.params if p.name}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("function", [*PUBLIC, *METHODS], ids=lambda f: f.__qualname__)
def test_public_functions_name_type_and_describe_every_option(function: Any) -> None:
    text = inspect.getdoc(function) or ""
    for name, parameter in parameters(function).items():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), name
        if name == "self":
            continue
        assert parameter.annotation is not parameter.empty, f"{name} has no type"
        described = text.split("Parameters\n")[-1]
        assert name in described, f"{name} is not in the docstring of {function.__qualname__}"


@pytest.mark.parametrize("command", LIBRARY)
def test_shell_and_library_have_the_same_options(command: str) -> None:
    shell = {OTHER_NAME.get(k, k): v for k, v in shell_options()[command].items()}
    library = parameters(LIBRARY[command])
    assert set(shell) - SHELL_ALONE - {"model", "picture"} == (
        set(library) - LIBRARY_ALONE - {"self", "path", "model", "picture"} | ({"out"} & set(shell))
    )
    for name, default in shell.items():
        if (
            name in library
            and name not in ("out", "heads")
            and library[name].default is not (inspect.Parameter.empty)
        ):
            there = library[name].default
            assert (default or None) == (there or None), name


def test_serve_has_the_same_options_in_shell_and_library() -> None:
    found = {OTHER_NAME.get(name, name) for name in shell_options()["serve"]}
    shell = {name for name in found if not name.startswith("max_")}
    assert shell - {"quiet"} == set(parameters(serve)) - LIBRARY_ALONE | {"token"}


@pytest.mark.parametrize(
    ("function", "options"), [(featx.extract, ExtractOptions), (featx.fit, FitOptions)]
)
def test_functions_have_the_fields_and_defaults_of_their_options(
    function: Callable[..., Any], options: type
) -> None:
    given = {n: p.default for n, p in parameters(function).items() if n not in ARGUMENTS}
    given.pop("report", None)
    assert given == {f.name: f.default for f in options.__dataclass_fields__.values()}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": 0.5}, "mean must be a list of numbers; got 0.5"),
        ({"layers": 3}, "layers must be text or a list of texts; got 3"),
        ({"layers": ["a", 3]}, "layers must be text or a list of texts"),
        ({"threads": "2"}, "threads must be a whole number; got '2'"),
        ({"threads": 2.5}, "threads must be a whole number; got 2.5"),
        ({"batch_size": "lots"}, "batch_size must be a whole number or auto; got 'lots'"),
        ({"force": 1}, "force must be True or False; got 1"),
        ({"input_size": True}, "input_size must be a whole number; got True"),
        ({"dtype": "float"}, "dtype must be one of float32, float16; got 'float'; did you mean"),
        ({"backbone": None}, "backbone must be text; got None"),
        ({"weights": 3}, "weights must be text or a path; got 3"),
        ({"bacbone": "x"}, "no option 'bacbone'; did you mean backbone"),
    ],
)
def test_wrong_types_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"extract.*{message}") as caught:
        featx.extract("photos", "c.h5", **options)
    assert isinstance(caught.value, TypeError | FeatxError)
    assert "\n" not in str(caught.value)


def test_other_functions_refuse_wrong_types_too() -> None:
    for call, message in (
        (lambda: featx.fit("c.h5", folds="5"), "fit: folds must be a whole number; got '5'"),
        (
            lambda: featx.fit("c.h5", fit_on="al"),
            "fit_on must be one of auto, all, train; got 'al'",
        ),
        (lambda: featx.fit(3), "fit: cache must be text or a path or Cache; got 3"),
        (lambda: featx.evaluate("m", "c", seed=0.5), "evaluate: seed must be a whole number"),
        (lambda: featx.compare("c.h5", memory="disk"), "compare: memory must be one of auto"),
        (lambda: featx.open_cache(None), "open_cache: path must be text or a path; got None"),
        (lambda: featx.load_model(3), "load_model: path must be text or a path; got 3"),
        (lambda: featx.list_backbones(3), "list_backbones: pattern must be text; got 3"),
        (lambda: featx.load_backbone("resnet18", in_chans="1"), "in_chans must be a whole"),
        (lambda: featx.write_cache(3, [[1.0]]), "write_cache: cache must be text or a path; got 3"),
        (lambda: featx.write_cache("c", [[1.0]], ids="a"), "ids must be a list .* or an array"),
        (lambda: featx.write_cache("c", [[1.0]], columns=["a"]), "columns must be a dictionary"),
        (lambda: import_vectors("a.npz", "c.h5", vectors=2), "vectors must be text; got 2"),
        (lambda: export(None, "m.onnx", weight=1), "unexpected keyword"),
    ):
        with pytest.raises(TypeError, match=message):
            call()  # type: ignore[no-untyped-call]


def test_numbers_of_numpy_and_paths_are_taken() -> None:
    @typed
    def take(
        n: int, x: float, names: str | Sequence[str] = (), kind: Literal["a", "b"] | None = None
    ) -> tuple[Any, ...]:
        return n, x, names, kind

    assert take(np.int64(3), np.float32(0.5), np.array(["a"]))[0] == 3
    assert take(3, 1, ["a", "b"], "b") == (3, 1, ["a", "b"], "b")
    with pytest.raises(OptionError, match="take: kind must be one of a, b; got 'c'"):
        take(1, 2, kind="c")  # type: ignore[arg-type]


def test_one_layer_is_a_list_of_one(tmp_path: Path) -> None:
    assert ExtractOptions.of(layers="blocks.15").layers == ("blocks.15",)
    assert ExtractOptions.of(layers=["a", "b"], mean=[0.5], weights=tmp_path / "w").layers == (
        "a",
        "b",
    )
    assert ExtractOptions.of(weights=tmp_path / "w").weights == str(tmp_path / "w")
    assert several("c.h5") == ["c.h5"]


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert featx.__version__ == version("featx")
