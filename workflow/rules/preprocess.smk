# The recipe's per-shower steps for each part, and the fit of the rest from the merged statistics.


rule preprocess:
    input:
        "data/store/{dataset}-{spec}/{part}.json",
    output:
        "data/preprocessed/{folder}/{dataset}-{spec}/{part}.json",
    log:
        "logs/preprocess/{folder}/{dataset}-{spec}/{part}.log",
    wildcard_constraints:
        folder="|".join(RECIPE_FOLDERS) or "(?!)",
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    params:
        key=of_wildcards(lambda w: PLAN.recipe_key(RECIPE_FOLDERS[w.folder])),
        recipe=of_wildcards(lambda w: RECIPE_FOLDERS[w.folder]),
    message:
        "preprocess {wildcards.dataset}/{wildcards.part} by {params.recipe}"
    shell:
        "caloforge preprocess --dataset {wildcards.dataset} --part {wildcards.part}"
        " --recipe {params.recipe} --threads {threads} > {log} 2>&1"


rule merge:
    input:
        lambda w: PLAN.prefix_manifests(w.recipe, w.dataset),
    output:
        f"{RESULTS}/merge/{{recipe}}/{{dataset}}.json",
    log:
        f"{LOGS}/merge/{{recipe}}/{{dataset}}.log",
    threads: lambda w: PLAN.config.preprocessing[w.recipe].rounds
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 30 * attempt,
    params:
        key=lambda w: PLAN.recipe_key(w.recipe),
    message:
        "merge statistics of {wildcards.dataset} and fit {wildcards.recipe}"
    shell:
        "caloforge merge --recipe {wildcards.recipe} --dataset {wildcards.dataset}"
        " --threads {threads} > {log} 2>&1"
