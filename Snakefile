# Caloforge: raw calorimeter showers -> trusted fast-simulation models. One file per stage, in the order of work.
import os
import sys

from snakemake.utils import min_version

min_version("9.0")

# Jobs call the `caloforge` beside this Python, whether or not the environment is activated.
os.environ["PATH"] = (
    os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
)

from pipeline.plan import Plan

PLAN, PLAN_FILE = Plan.of_workflow(config)
PATHS = PLAN.paths
RESULTS = str(PATHS.results)


wildcard_constraints:
    dataset=r"[A-Za-z0-9_]+",
    part=r"[A-Za-z0-9._+-]+",
    recipe=r"[A-Za-z0-9_]+",
    run=r"[A-Za-z0-9_]+",
    sample=r"[A-Za-z0-9_]+",
    figure=r"[a-z_]+",
    slice=r"\d+",


localrules:
    all,


rule all:
    default_target: True
    input:
        [str(path) for path in PLAN.targets()],


include: "workflow/rules/simulate.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
