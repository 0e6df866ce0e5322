# One job per run, or a chain of `slices`; fine-tuning is an edge to the parent's model.


rule train:
    input:
        unpack(lambda w: PLAN.train_inputs(w.run)),
    output:
        f"{RESULTS}/train/{{run}}/model.json",
    log:
        f"{LOGS}/train/{{run}}.log",
    threads: lambda w: PLAN.train_threads(w.run)
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=0,
    params:
        key=lambda w: PLAN.run_key(w.run),
    message:
        "train {wildcards.run}"
    shell:
        "caloforge devices {resources.gpu} caloforge train --run {wildcards.run} > {log} 2>&1"


rule train_slice:
    input:
        unpack(lambda w: PLAN.train_inputs(w.run, int(w.slice))),
    output:
        f"{RESULTS}/train/{{run}}/slice-{{slice}}.json",
    log:
        f"{LOGS}/train/{{run}}-{{slice}}.log",
    threads: lambda w: PLAN.train_threads(w.run)
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=0,
    params:
        key=lambda w: PLAN.run_key(w.run),
    message:
        "train {wildcards.run}, slice {wildcards.slice}"
    shell:
        "caloforge devices {resources.gpu} caloforge train --run {wildcards.run} --slice {wildcards.slice} > {log} 2>&1"
