# Every sample, the Geant4 floor and every head against the held-out showers, looks into runs; one table of all rows.


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


rule examine:
    input:
        unpack(lambda w: PLAN.examine_inputs(w.run)),
    output:
        f"{RESULTS}/examine/{{run}}.json",
    log:
        f"{LOGS}/examine/{{run}}.log",
    wildcard_constraints:
        run="|".join(PLAN.config.examined()) or "(?!)",
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
        gpu=0,
    params:
        key=lambda w: PLAN.examine_key(w.run),
    message:
        "look into {wildcards.run}"
    shell:
        "caloforge devices {resources.gpu} caloforge examine --run {wildcards.run} > {log} 2>&1"


rule metrics:
    input:
        PLAN.evaluations(),
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
