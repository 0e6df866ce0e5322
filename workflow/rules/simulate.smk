# Raw HDF5 showers from Geant4 or the parametric engine. Only files named by the plan match, never a user's.


rule simulate:
    output:
        raw="data/raw/{simulated}.h5",
        record="data/raw/{simulated}.h5.json",
    log:
        "logs/simulate/{simulated}.log",
    wildcard_constraints:
        simulated=SIMULATED,
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
    params:
        key=lambda w: PLAN.simulate_key(*PLAN.simulated[w.simulated]),
    message:
        "simulate {wildcards.simulated}"
    shell:
        "caloforge simulate --file {wildcards.simulated} > {log} 2>&1"
