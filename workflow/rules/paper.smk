# `snakemake paper`: figures, tables and HEPData in one folder, each linked to its data. Not among the default targets.


rule paper:
    input:
        **PLAN.paper_inputs(),
    output:
        f"{RESULTS}/paper/figures.json",
    log:
        f"{LOGS}/paper/figures.log",
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
    params:
        key=PLAN.paper_key(),
    message:
        "gather the paper's figures, tables and HEPData"
    shell:
        "caloforge paper > {log} 2>&1"
