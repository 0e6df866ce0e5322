# Samples at the held-out conditions (raw files again), from trained models or without any, and predicted labels.


rule generate:
    input:
        unpack(lambda w: PLAN.generate_inputs(w.sample)),
    output:
        f"{RESULTS}/generate/{{sample}}.h5",
    log:
        f"{LOGS}/generate/{{sample}}.log",
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
        gpu=0,
    params:
        key=lambda w: PLAN.sample_key(w.sample),
    message:
        "generate {wildcards.sample}"
    shell:
        "caloforge devices {resources.gpu} caloforge generate --sample {wildcards.sample} > {log} 2>&1"


rule predict:
    input:
        unpack(lambda w: PLAN.predict_inputs(w.run)),
    output:
        f"{RESULTS}/predict/{{run}}.json",
    log:
        f"{LOGS}/predict/{{run}}.log",
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
        gpu=0,
    params:
        key=lambda w: PLAN.conditions_key(),
    message:
        "predict with {wildcards.run}"
    shell:
        "caloforge devices {resources.gpu} caloforge predict --run {wildcards.run} > {log} 2>&1"
