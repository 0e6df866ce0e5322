# Trained models applied to the held-out conditions: generated showers (raw files again) and predicted labels.
def reference_parts():
    return [str(p) for p in PLAN.part_manifests(PLAN.config.evaluation.reference)]


rule generate:
    input:
        model=lambda w: str(PATHS.model(PLAN.config.samples[w.sample].run)),
        parts=lambda w: reference_parts(),
    output:
        f"{RESULTS}/generate/{{sample}}.h5",
    log:
        f"logs/{PLAN.config.experiment}/generate/{{sample}}.log",
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=0,
    params:
        key=lambda w: PLAN.sample_key(w.sample),
    message:
        "generate {wildcards.sample}"
    shell:
        "caloforge generate --plan {PLAN_FILE} --sample {wildcards.sample} > {log} 2>&1"


rule predict:
    input:
        model=f"{RESULTS}/train/{{run}}/model.json",
        parts=lambda w: reference_parts(),
    output:
        f"{RESULTS}/predict/{{run}}.json",
    log:
        f"logs/{PLAN.config.experiment}/predict/{{run}}.log",
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        key=lambda w: PLAN.conditions_key(),
    message:
        "predict with {wildcards.run}"
    shell:
        "caloforge predict --plan {PLAN_FILE} --run {wildcards.run} > {log} 2>&1"
