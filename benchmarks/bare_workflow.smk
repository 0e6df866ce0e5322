# What somebody would write who needs these jobs once, for one experiment: the same files and edges, nothing else.
PARTS = [f"f{i:04d}" for i in range(config["files"])]
STORE = expand("store/{part}.json", part=PARTS)
PREFIX = expand("preprocessed/{part}.json", part=PARTS)
MODELS = ["train/representation.json", "train/generator.json"]
EVALUATIONS = ["evaluate/floor.json", "evaluate/known_fault.json", "evaluate/generator.json"]


rule all:
    input:
        MODELS,
        "metrics.json",
        "report.html",


rule ingest:
    input:
        "raw/{part}.h5",
    output:
        "store/{part}.json",
    shell:
        "ingest {input} {output}"


rule preprocess:
    input:
        "store/{part}.json",
    output:
        "preprocessed/{part}.json",
    shell:
        "preprocess {input} {output}"


rule merge:
    input:
        PREFIX,
    output:
        "merge.json",
    shell:
        "merge {output}"


rule train:
    input:
        STORE,
        PREFIX,
        "merge.json",
    output:
        "train/{run}.json",
    shell:
        "train {wildcards.run} {output}"


rule generate:
    input:
        STORE,
        "train/generator.json",
    output:
        "generate/generator.h5",
    shell:
        "generate {output}"


rule ingest_sample:
    input:
        "generate/generator.h5",
    output:
        "ingest/generator.json",
    shell:
        "ingest {input} {output}"


rule evaluate:
    input:
        STORE,
        lambda w: "ingest/generator.json" if w.subject == "generator" else [],
    output:
        "evaluate/{subject}.json",
    shell:
        "evaluate {wildcards.subject} {output}"


rule metrics:
    input:
        EVALUATIONS,
    output:
        "metrics.json",
    shell:
        "collect {output}"


rule figures:
    input:
        MODELS,
        EVALUATIONS,
        "metrics.json",
    output:
        "figures/{figure}.pdf",
    shell:
        "draw {wildcards.figure} {output}"


rule report:
    input:
        expand("figures/{figure}.pdf", figure=["hits", "linearity"]),
        MODELS,
        EVALUATIONS,
        "metrics.json",
    output:
        "report.html",
    shell:
        "report {output}"
