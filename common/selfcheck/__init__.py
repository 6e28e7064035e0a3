"""A check of a machine that this project has never run on: are its devices right, and how fast are they?

    python -m common.selfcheck [--gpus 0,1] [--quick]

`correctness` compares devices with the CPU, `speed` measures, `machine` says what is there, `report` keeps the results,
`command` is the command. See docs/gpu.md.
"""
