# Every sample, the Geant4 floor and every head against the held-out showers; then one table of all rows.


rule evaluate:
    input:
        unpack(lambda w: PLAN.evaluate_inputs(w.subject)),
    output:
        f"{RESULTS}/evaluate/{{subject}}.json",
    log:
        f"{LOGS}/evaluate/{{subject}}.log",
    wildcard_constraints:
        subject="|".join(PLAN.subjects()) or "(?!)",
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    params:
        key=lambda w: PLAN.evaluation_key(),
    message:
        "evaluate {wildcards.subject}"
    shell:
        "caloforge evaluate --subject {wildcards.subject} --threads {threads} > {log} 2>&1"


rule metrics:
    input:
        [PATHS.evaluation(subject) for subject in PLAN.subjects()],
    output:
        f"{RESULTS}/metrics.json",
    log:
        f"{LOGS}/metrics.log",
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
    params:
        key=PLAN.subjects(),
    message:
        "collect the metric rows"
    shell:
        "caloforge metrics > {log} 2>&1"
