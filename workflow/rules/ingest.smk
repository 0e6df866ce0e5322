# Raw HDF5 -> one immutable Zarr part per file. The raw file is ancient(): its content counts (params), not its date.


rule ingest:
    input:
        raw=of_wildcards(lambda w: ancient(PLAN.raw_file(w.dataset, w.part))),
        record=of_wildcards(lambda w: PLAN.simulation_record(w.dataset, w.part)),
    output:
        "data/store/{dataset}-{spec}/{part}.json",
    log:
        "logs/ingest/{dataset}-{spec}/{part}.log",
    threads: 4
    resources:
        mem_mb=lambda w, threads, attempt: (1000 + 250 * threads) * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    params:
        key=of_wildcards(lambda w: PLAN.ingest_key(w.dataset, w.part)),
    message:
        "ingest {wildcards.dataset}/{wildcards.part}"
    shell:
        "caloforge ingest --dataset {wildcards.dataset} --part {wildcards.part}"
        " --threads {threads} > {log} 2>&1"


rule ingest_sample:
    input:
        f"{RESULTS}/generate/{{sample}}.h5",
    output:
        f"{RESULTS}/ingest/{{sample}}.json",
    log:
        f"{LOGS}/ingest/{{sample}}.log",
    threads: 4
    resources:
        mem_mb=lambda w, threads, attempt: (1000 + 250 * threads) * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    message:
        "ingest generated sample {wildcards.sample}"
    shell:
        "caloforge ingest --sample {wildcards.sample} --threads {threads} > {log} 2>&1"
