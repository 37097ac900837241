# Do adversarial examples crafted on public ancestors still fool a merged model?
#
#   tasks ─► data ─┬─► P ─► heads ─► F_1 … F_T, multi-task ─► merged M_1 … M_K ─┐
#                  └──────────► adversarial examples on P, F_t ────────────────┴─► outcomes ─► tables, figures
#
# params.yaml is the study (or another: snakemake --configfile studies/smoke.yaml …).
# A phase is a target of its own: snakemake all_data | all_models | all_merged | all_adversarial | all_outcomes |
# all_explained | report.
# They are the stages of dvc.yaml.


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/attack.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/explain.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.input,


onstart:
    if workflow.local_exec:
        spare_the_scheduler(workflow.scheduler)
        require_device_of(workflow.dag.needrun_jobs())
        start_warm_processes()


onsuccess:
    stop_warm_processes()


onerror:
    stop_warm_processes()
