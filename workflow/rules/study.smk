# A study: errors of linear heads on every encoder and of the baselines, or metrics of generators; then the verdicts.


rule probe:
    input:
        unpack(lambda w: PLAN.probe_inputs(w.encoder)),
    output:
        f"{RESULTS}/probe/{{encoder}}.json",
    log:
        f"{LOGS}/probe/{{encoder}}.log",
    wildcard_constraints:
        encoder="|".join(PLAN.probed()) or "(?!)",
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    params:
        key=lambda w: PLAN.probe_key(w.encoder),
    message:
        "probe {wildcards.encoder}"
    shell:
        "caloforge probe --encoder {wildcards.encoder} > {log} 2>&1"


rule study:
    input:
        PLAN.study_inputs(),
    output:
        f"{RESULTS}/study/metrics.json",
        f"{RESULTS}/study/summary.md",
    log:
        f"{LOGS}/study/metrics.log",
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
    params:
        key=PLAN.study_key(),
    message:
        "judge the study"
    shell:
        "caloforge study > {log} 2>&1"
