# Figures are functions of tables; the report gathers them.
rule figures:
    input:
        tables=[str(PATHS.metrics)] * bool(PLAN.config.evaluation)
        + [str(PATHS.evaluation(subject)) for subject in PLAN.subjects()],
        models=[str(PATHS.model(run)) for run in PLAN.config.runs],
    output:
        report(
            f"{RESULTS}/figures/{{figure}}.pdf",
            caption="../report/{figure}.rst",
            category="Figures",
        ),
        f"{RESULTS}/figures/{{figure}}.png",
        f"{RESULTS}/figures/{{figure}}.json",
    log:
        f"logs/{PLAN.config.experiment}/figures/{{figure}}.log",
    wildcard_constraints:
        figure="|".join(PLAN.figures()) or "(?!)",
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        key=lambda w: PLAN.figures_key(),
    message:
        "draw {wildcards.figure}"
    shell:
        "caloforge figures --plan {PLAN_FILE} --figure {wildcards.figure} > {log} 2>&1"


rule report:
    input:
        figures=[str(PATHS.figure(figure)) for figure in PLAN.figures()],
        metrics=[str(PATHS.metrics)] * bool(PLAN.config.evaluation),
        models=[str(PATHS.model(run)) for run in PLAN.config.runs],
    output:
        f"{RESULTS}/report.html",
    log:
        f"logs/{PLAN.config.experiment}/report.log",
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        key=PLAN.report_key(),
    message:
        "write the report"
    shell:
        "caloforge report --plan {PLAN_FILE} > {log} 2>&1"
