"""The command line `frugal`: thin, each command loads only what it needs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

ClickException = typer.BadParameter.__mro__[2]  # newer versions of typer carry their own click
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
MISSED, REFUSED = 1, 2  # exit codes: a failed run or a mark not reached; input that is not allowed
OF_BATCHING = ("model", "device")  # options of a benchmark beside 'merging', which has them all

Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N")]


@app.callback()
def frugal():
    """Name a diffusion model, choose a method that makes it cheaper, measure what it saves and what it costs."""


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="path of a notebook, or a chapter's name such as 05_experiments")],
    output: Annotated[Path | None, typer.Argument(help="where to write the run; by default in _build/runs")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME VALUE", help="may be repeated")
    ] = None,
):
    """Run a notebook with papermill; unknown parameters and values that are not allowed are refused first."""
    from frugal import notebook as notebooks

    path = notebooks.find(notebook)
    given = {name: notebooks.literal(value) for name, _, value in (word.partition("=") for word in parameter or [])}
    notebooks.check(path, given)
    try:
        written = notebooks.run(path, output or notebooks.default_output(path), given)
    except notebooks.CellFailed as failure:
        typer.echo(failure, err=True)
        raise typer.Exit(MISSED)
    typer.echo(f"written to {written}")


@app.command()
def train(
    name: Annotated[str | None, typer.Argument(help="the network, such as faces-ldm")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="whatever is below its goals, resumed, until the time is up; run it again and again")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="wall-clock minutes; the recipe's own by default, 9 with --all")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint or committed weights")
    ] = False,
    guidance: Annotated[
        float | None,
        typer.Option(help="with --resume: a last cycle to its own prediction under perturbed-attention guidance, 1 to 3"),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network: minutes at first, then faster steps")
    ] = False,
    device: Device = "auto",
):
    """Train an embedded network by its recipe, or all that need it: progress, checkpoints, loss curve and model card."""
    from frugal.models import train_all, training

    if everything == (name is not None):
        raise ValueError(f"name: got {name!r}, allowed is a name, or --all")
    if everything:
        if resume or compiled or guidance is not None:
            raise ValueError("--all: got --resume, --guidance or --compile as well, which it chooses by itself")
        train_all.train_all(train_all.TURN if minutes is None else minutes, device)
        return
    training.train(name, minutes=minutes, resume=resume, device=device, guidance=guidance, compiled=compiled)


@app.command()
def evaluate(
    name: Annotated[str | None, typer.Argument(help="judge, or an embedded model such as faces-ldm")] = None,
    samples: Annotated[int | None, typer.Option(help="of a generator; 512 unless told, 2048 on a GPU")] = None,
    marks: Annotated[
        bool, typer.Option("--marks", help="all models: what each reaches of its goals; measures what has no marks yet")
    ] = False,
):
    """Measure a network's marks and print them; the exit code is 1 where one is missed."""
    from frugal.measure import evaluate as evaluation

    if marks == (name is not None):
        raise ValueError(f"name: got {name!r}, allowed is a name, or --marks for all")
    if marks and samples is not None:
        raise ValueError("--samples: got it with --marks, where it changes nothing")
    if not (evaluation.standing() if marks else evaluation.evaluate(name, samples)):
        raise typer.Exit(MISSED)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="thesis: its three models, ten ratios and 200 steps, in four precisions; steps: samplers on the embedded models")],
    minutes: Annotated[float, typer.Option(help="wall-clock minutes; what is left is measured next time")] = 9.0,
    weights: Annotated[
        str, typer.Option(help="random: times and memory; hub: quality as well, with the published weights")
    ] = "random",
    device: Device = "auto",
):
    """Measure what is missing of an experiment until the time is up; the exit code is 1 where nothing could be measured."""
    from frugal.measure import sweep as sweeps

    if not sweeps.sweep(name, minutes, weights=weights, device=device).useful:
        raise typer.Exit(MISSED)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(help="faces (images drawn a second), noop (tomesd on a UNet2DModel), prediction (of speed-ups), merging, "
                       "or batching (of states, at the price of one)"),
    ],
    model: Annotated[str | None, typer.Option(help="merging: a model, by default stable-diffusion-v1-5; batching: by default faces-ldm")] = None,
    weights: Annotated[str | None, typer.Option(help="merging: random (published architectures), auto, embedded or hub")] = None,
    ratios: Annotated[str | None, typer.Option(help="merging: such as 0.3,0.5")] = None,
    resolutions: Annotated[str | None, typer.Option(help="merging: pixels, such as 512,768")] = None,
    backends: Annotated[str | None, typer.Option(help="merging: fused, math or fused,math")] = None,
    method: Annotated[str | None, typer.Option(help="merging: tome, weighted, prune or todo")] = None,
    reuse: Annotated[int | None, typer.Option(help="merging: steps for which a choice of tokens is good, 1 to 10")] = None,
    against: Annotated[str | None, typer.Option(help="merging: tomesd, or none")] = None,
    batch: Annotated[int | None, typer.Option(help="merging: rows of a step")] = None,
    rounds: Annotated[int | None, typer.Option(help="merging: interleaved rounds")] = None,
    memory: Annotated[bool | None, typer.Option(help="merging: measure peak memory as well")] = None,
    layer: Annotated[bool | None, typer.Option("--layer", help="merging: one attention layer alone, against the ideal")] = None,
    quality: Annotated[bool | None, typer.Option("--quality", help="merging: images of faces-sd at equal work, against tomesd")] = None,
    dtype: Annotated[str | None, typer.Option(help="merging: float32, float16 or bfloat16")] = None,
    images: Annotated[int | None, typer.Option(help="merging --quality: how many, by default 128")] = None,
    device: Annotated[str | None, typer.Option(help="merging, batching: auto, cpu, mps, cuda or cuda:N")] = None,
):
    """Run a named benchmark; the exit code is 1 where its target is missed."""
    given = {key: value for key, value in locals().items() if key != "name" and value is not None}
    if name == "merging":
        from frugal.measure import bench_merging

        met = bench_merging.asked(**given)
    elif name == "batching":
        from frugal.measure import batching

        if unused := [key for key in given if key not in OF_BATCHING]:
            raise ValueError(f"--{unused[0]}: got it for benchmark 'batching', allowed are --model and --device")
        met = batching.asked(**given)
    else:
        from frugal.measure import bench as benchmarks

        if given and name in benchmarks.BENCHMARKS:
            [option, *_] = given
            others = " and 'batching'" if option in OF_BATCHING else ""
            raise ValueError(f"--{option}: got it for benchmark {name!r}, allowed is it for 'merging'{others}")
        met = benchmarks.bench(name)
    if not met:
        raise typer.Exit(MISSED)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="what draws images, such as faces-ldm (its autoencoder comes with it): a name, a hub id or a diffusers folder")],
    folder: Annotated[Path, typer.Argument(help="where the ordinary diffusers folder is assembled")],
):
    """Assemble a whole diffusers pipeline folder from the model's parts."""
    from frugal.models import zoo

    zoo.export(name, folder)


def joined(words: list[str]) -> list[str]:
    """papermill's `-p name value` as the single word `-p name=value`, since typer's repeated options take one value."""
    found, rest = [], iter(words)
    for word in rest:
        found.append(word)
        if word in ("-p", "--parameter"):
            name, value = next(rest, None), next(rest, None)
            if value is None:
                raise ValueError(f"option {word}: got {name or 'nothing'}, allowed is a name and a value")
            found.append(f"{name}={value}")
    return found


def main(words: list[str] | None = None) -> None:
    """The entry point: whatever refuses its input ends in one clear line and exit code 2."""
    words = sys.argv[1:] if words is None else words
    try:
        sys.exit(app(joined(words), standalone_mode=False) if words else app())
    except ClickException as misused:  # typer's own refusals, which it would draw as a box
        refused = misused.format_message()
    except (ValueError, OSError) as error:
        refused = error
    print(" ".join(str(refused).split("\n")), file=sys.stderr)
    sys.exit(REFUSED)
