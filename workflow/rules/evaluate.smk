# Every sample, the Geant4 floor and every head against the held-out showers; then one table of all rows.
def subject_inputs(wildcards):
    name = wildcards.subject
    inputs = {"parts": reference_parts()}
    if name in PLAN.config.samples:
        inputs["sample"] = str(PATHS.sample_part(name))
    elif name in PLAN.config.runs:
        inputs["prediction"] = str(PATHS.prediction(name))
    return inputs


rule evaluate:
    input:
        unpack(subject_inputs),
    output:
        f"{RESULTS}/evaluate/{{subject}}.json",
    log:
        f"logs/{PLAN.config.experiment}/evaluate/{{subject}}.log",
    wildcard_constraints:
        subject="|".join(PLAN.subjects()) or "(?!)",
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        key=lambda w: PLAN.evaluation_key(),
    message:
        "evaluate {wildcards.subject}"
    shell:
        "caloforge evaluate --plan {PLAN_FILE} --subject {wildcards.subject} > {log} 2>&1"


rule metrics:
    input:
        [str(PATHS.evaluation(subject)) for subject in PLAN.subjects()],
    output:
        f"{RESULTS}/metrics.json",
    log:
        f"logs/{PLAN.config.experiment}/metrics.log",
    resources:
        mem_mb=1000,
        runtime=10,
    message:
        "collect the metric rows"
    shell:
        "caloforge metrics --plan {PLAN_FILE} > {log} 2>&1"
