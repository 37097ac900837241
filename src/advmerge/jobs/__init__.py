"""How the workflow's jobs are run: started in 20 ms, on a device of their own, ended with the run that wanted them."""
