# Caloforge: raw calorimeter showers -> trusted fast-simulation models. One file per stage, in the order of work.
import re
import time

from snakemake.utils import min_version

min_version("9.0")

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from pipeline.config import ConfigError
from pipeline.failures import failures
from pipeline.plan import Plan
from pipeline.quarantine import check_quarantine, quarantined
from pipeline.wildcards import of_wildcards

try:
    PLAN = Plan.of_workflow(config)
    check_quarantine(PLAN)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

PATHS = PLAN.paths
RESULTS = str(PATHS.results)
LOGS = f"logs/{PLAN.config.experiment}"
STARTED = time.time()
SIMULATED = "|".join(map(re.escape, PLAN.simulated)) or "(?!)"
RECIPE_FOLDERS = {PATHS.recipe_folder(r).name: r for r in PLAN.config.preprocessing}


wildcard_constraints:
    dataset=r"[A-Za-z0-9_]+",
    spec="|".join(key[:8] for key in PATHS.reading_keys.values()),
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
        PLAN.targets(),


onsuccess:
    for file in quarantined(PLAN):
        logger.warning(f"in quarantine, and left out: {file['reason']}")


onerror:
    for line in failures(PLAN, STARTED):
        logger.error(line)


include: "workflow/rules/simulate.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/study.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/paper.smk"
