# Raw HDF5 -> one immutable Zarr part per file. The raw file is ancient(): its content counts (params), not its date.
def raw_file(wildcards):
    files = PLAN.files.get(wildcards.dataset, {})
    if wildcards.part not in files:
        raise ValueError(
            f"data/store/{wildcards.dataset}/{wildcards.part}.json: no raw file makes this part"
        )
    return ancient(files[wildcards.part].path)


rule ingest:
    input:
        raw_file,
    output:
        "data/store/{dataset}/{part}.json",
    log:
        "logs/ingest/{dataset}/{part}.log",
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        key=lambda w: PLAN.ingest_key(w.dataset, w.part),
    message:
        "ingest {wildcards.dataset}/{wildcards.part}"
    shell:
        "caloforge ingest --plan {PLAN_FILE} --dataset {wildcards.dataset} --part {wildcards.part} > {log} 2>&1"


rule ingest_sample:
    input:
        f"{RESULTS}/generate/{{sample}}.h5",
    output:
        f"{RESULTS}/ingest/{{sample}}.json",
    log:
        f"logs/{PLAN.config.experiment}/ingest/{{sample}}.log",
    resources:
        mem_mb=2000,
        runtime=60,
    message:
        "ingest generated sample {wildcards.sample}"
    shell:
        "caloforge ingest --plan {PLAN_FILE} --sample {wildcards.sample} > {log} 2>&1"
