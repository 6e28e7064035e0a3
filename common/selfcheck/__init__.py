"""A check of a machine that this project has never run on: are its devices right, and how fast are they?

`correctness` compares devices with the CPU, `speed` measures, `machine` says what is there, `report` keeps the results,
`__main__` is the command. See docs/gpu.md.
"""
