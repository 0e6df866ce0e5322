# One job per run, or a chain of `slices`; fine-tuning is an edge to the parent's model.
def run_inputs(run):
    spec = PLAN.config.runs[run]
    inputs = {
        "parts": [str(p) for d in spec.data for p in PLAN.part_manifests(d)],
        "prefix": [
            str(p) for d in spec.data for p in PLAN.prefix_manifests(spec.recipe, d)
        ],
        "transforms": [str(PATHS.transform(spec.recipe, d)) for d in spec.data],
    }
    if spec.start_from:
        inputs["parent"] = str(PATHS.model(spec.start_from))
    return inputs


def slice_inputs(wildcards):
    index = int(getattr(wildcards, "slice", PLAN.config.runs[wildcards.run].slices))
    inputs = run_inputs(wildcards.run)
    if index > 1:
        inputs["previous"] = str(PATHS.slice(wildcards.run, index - 1))
    return inputs


rule train:
    input:
        unpack(slice_inputs),
    output:
        f"{RESULTS}/train/{{run}}/model.json",
    log:
        f"logs/{PLAN.config.experiment}/train/{{run}}.log",
    threads: lambda w: PLAN.config.runs[w.run].training.threads
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        key=lambda w: PLAN.run_key(w.run),
    message:
        "train {wildcards.run}"
    shell:
        "caloforge train --plan {PLAN_FILE} --run {wildcards.run} > {log} 2>&1"


rule train_slice:
    input:
        unpack(slice_inputs),
    output:
        f"{RESULTS}/train/{{run}}/slice-{{slice}}.json",
    log:
        f"logs/{PLAN.config.experiment}/train/{{run}}-{{slice}}.log",
    threads: lambda w: PLAN.config.runs[w.run].training.threads
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        key=lambda w: PLAN.run_key(w.run),
    message:
        "train {wildcards.run}, slice {wildcards.slice}"
    shell:
        "caloforge train --plan {PLAN_FILE} --run {wildcards.run} --slice {wildcards.slice} > {log} 2>&1"
