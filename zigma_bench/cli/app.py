"""The application: all commands in groups, each with examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zigma_bench.cli import (
    about,
    bench,
    catalogue,
    data,
    data_check,
    find_batch,
    images,
    leftovers,
    merge,
    models,
    pack,
    plugins,
    reproduce,
    status,
    suites,
    why,
)
from zigma_bench.cli.fastest import fastest
from zigma_bench.cli.help import (
    COMPARE,
    CONTEXT,
    EXTEND,
    LOOK_UP,
    MACHINE,
    RESULTS,
    PanelGroup,
    add_command,
    command_group,
)
from zigma_bench.plugins.files import add_folder

app = typer.Typer(
    name="zigma-bench",
    cls=PanelGroup,
    help="Compare scan orders, mixers and backbones of state-space diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=CONTEXT,
)


FOLDER_HELP = (
    "A folder whose *.py files are plugins, each named after its file. Can be anywhere in a command, and repeated. "
    "Sets ZIGMA_BENCH_PLUGIN_FOLDER."
)


@app.callback()
def _main(
    folders: Annotated[list[Path] | None, typer.Option("--plugins", metavar="DIR", help=FOLDER_HELP)] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    for folder in folders or ():  # only without `__main__`, which removes --plugins from the arguments first
        add_folder(folder)
    if version:  # together with other arguments; `__main__` handles a single --version
        from zigma_bench import __version__

        print(f"zigma-bench {__version__}")
        raise typer.Exit()


QUICK = "suites/quickstart.yaml"
add_command(app, "run", suites.run, (
    f"run {QUICK}",
    f"run {QUICK} --only zigzag --set budget.images=20000",
    "run suites/emoji.yaml --smoke",
), COMPARE)  # fmt: skip
add_command(app, "plan", suites.plan, (f"plan {QUICK}", f"plan {QUICK} --set seeds=[0,1,2] --json"), COMPARE)
add_command(app, "report", suites.report, (
    "report",
    "report results/quickstart --format markdown",
    "report results/efficiency --plot lengths.svg",
    "report results/quickstart --tests suites/quickstart.yaml",
), COMPARE)  # fmt: skip
add_command(app, "sheet", suites.sheet, ("sheet results/quickstart --out sheet.png",), COMPARE)
add_command(app, "pack", pack.pack, ("pack results/quickstart/main", "pack results/quickstart/main --remove"), COMPARE)
add_command(app, "unpack", pack.unpack, ("unpack results/quickstart/main",), COMPARE)
add_command(app, "train", suites.train, (f"train {QUICK} --only zigzag",), COMPARE)
add_command(app, "sample", models.sample, (
    f"sample {QUICK}",
    "sample models/dit --out drawn --count 8 --class 207 --guidance 4",
), COMPARE)  # fmt: skip
add_command(app, "quality", images.quality, (
    f"quality {QUICK}",
    f"quality --samples photos --reference {QUICK} --metrics fd-efflite0,kid-efflite0",
    "quality --samples photos --save-statistics photos.npz --metrics fd-efflite0",
), COMPARE)  # fmt: skip
add_command(app, "find-batch", find_batch.find_batch, (f"find-batch {QUICK} --memory 8",), COMPARE)

add_command(app, "status", status.status, (
    "status",
    "status results/quickstart --name main",
    "status results/quickstart --watch",
), RESULTS)  # fmt: skip
add_command(app, "why", why.why, (
    f"why {QUICK} zigzag",
    f"why {QUICK} zigzag --set train.learning_rate=1e-3",
), RESULTS)  # fmt: skip
add_command(app, "gc", leftovers.remove_leftovers, ("gc", "gc results --remove"), RESULTS)
add_command(app, "reproduce", reproduce.reproduce, (
    "reproduce results/emoji/main/zigma-raster-seed-0-4058372f/quality-df839715",
    "reproduce record.json --tolerance 0.05 --out again",
), RESULTS)  # fmt: skip
add_command(app, "merge", merge.merge, ("merge results other-machine/results",), RESULTS)

suites_group = command_group("The suites of a folder.")
add_command(suites_group, "list", suites.list_suites, ("suites list", "suites list my_suites --json"))
app.add_typer(suites_group, name="suites", rich_help_panel=LOOK_UP)

scans = command_group("Scan orders: list, draw and compare them.")
add_command(scans, "list", catalogue.list_scans, ("scans list",))
add_command(scans, "show", catalogue.show_scan, (
    "scans show zigzag --grid 8x12 --set paths=8",
    "scans show hilbert --png hilbert.png",
))  # fmt: skip
add_command(scans, "compare", catalogue.compare_scans, ("scans compare raster zigzag hilbert:paths=8 --grid 32x32",))
add_command(
    scans,
    "gallery",
    catalogue.scan_gallery,
    (
        "scans gallery --png scans.png",
        "scans gallery raster zigzag hilbert --grid 8x8 --svg three.svg",
    ),
)
app.add_typer(scans, name="scans", rich_help_panel=LOOK_UP)

backbones = command_group("Denoising networks: list them, show their size and cost.")
add_command(backbones, "list", catalogue.list_backbones, ("backbones list",))
add_command(backbones, "show", catalogue.show_backbone, (
    "backbones show zigma",
    "backbones show zigma/B/2 --grid 32x32 --scan zigzag --set paths=8",
))  # fmt: skip
app.add_typer(backbones, name="backbones", rich_help_panel=LOOK_UP)

mixers = command_group("Sequence operators of a block.")
add_command(mixers, "list", catalogue.list_mixers, ("mixers list",))
app.add_typer(mixers, name="mixers", rich_help_panel=LOOK_UP)

data_group = command_group("Data sets: list, check and encode them.")
add_command(data_group, "list", catalogue.list_data_sets, ("data list",))
add_command(data_group, "check", data_check.check_data, (
    f"data check {QUICK}",
    "data check faceshq --from FOLDER",
))  # fmt: skip
add_command(data_group, "encode", data.encode, ("data encode suites/emoji.yaml",))
app.add_typer(data_group, name="data", rich_help_panel=LOOK_UP)

metrics = command_group("Metrics of quality.")
add_command(metrics, "list", catalogue.list_metrics, ("metrics list",))
app.add_typer(metrics, name="metrics", rich_help_panel=LOOK_UP)

plugins_group = command_group("Plugins: list, create and check them.")
add_command(plugins_group, "list", plugins.list_plugins, ("plugins list",))
add_command(plugins_group, "new", plugins.new_plugin, ("plugins new my-scan --kind scan",))
add_command(plugins_group, "check", plugins.check_plugin, ("plugins check zigzag", "plugins check metric:fid"))
app.add_typer(plugins_group, name="plugins", rich_help_panel=EXTEND)
add_command(app, "import", models.import_model, ("import dit DiT-XL-2-256x256.pt --out models/dit",), EXTEND)

bench_group = command_group("Speed of operators and of whole training steps.")
add_command(bench_group, "ops", bench.bench_operators, ("bench ops --op conv --shape 1x64x64 --seconds 0.1",))
add_command(bench_group, "step", bench.bench_whole_steps, (
    "bench step --device cpu --shape 1x16 --path raster --repeats 3",
))  # fmt: skip
app.add_typer(bench_group, name="bench", rich_help_panel=MACHINE)
add_command(app, "fastest", fastest, (
    "fastest --tokens 4096",
    "fastest --grid 90x160 --mode training --memory 24",
    "fastest --tokens 64 --device cpu --seconds 20 --json",
), MACHINE)  # fmt: skip
add_command(app, "doctor", about.doctor, ("doctor",), MACHINE)
add_command(app, "schema", about.schema, ("schema",), MACHINE)
