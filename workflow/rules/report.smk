# Figures are functions of tables; the report gathers them.
rule figures:
    input:
        PLAN.tables(),
    output:
        report(
            f"{RESULTS}/figures/{{figure}}.pdf",
            caption="../report/{figure}.rst",
            category="Figures",
        ),
        f"{RESULTS}/figures/{{figure}}.png",
        f"{RESULTS}/figures/{{figure}}.json",
    log:
        f"{LOGS}/figures/{{figure}}.log",
    wildcard_constraints:
        figure="|".join(PLAN.figures()) or "(?!)",
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
    params:
        key=lambda w: PLAN.figures_key(),
    message:
        "draw {wildcards.figure}"
    shell:
        "caloforge figures --figure {wildcards.figure} > {log} 2>&1"


rule report:
    input:
        figures=[PATHS.figure(figure) for figure in PLAN.figures()],
        tables=PLAN.tables(),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{LOGS}/report.log",
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
    params:
        key=PLAN.report_key(),
    message:
        "write the report"
    shell:
        "caloforge report > {log} 2>&1"
