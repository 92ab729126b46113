"""Recurrent language models whose core can be swapped.

    config        every setting of a run, typed and checked
    data          a text → tokens → ids → batches
    model         ids → embedding → cores → logits; the cores live here
    evaluation    how well a model predicts a text
    generation    continue a prompt
    training      loss, carried state, optimizer, and what is watched meanwhile
    run_folder    what a run leaves behind, and how it is read back
    experiment    config → run
    sweep         grid → jobs, each a run in a process of its own
    comparison    folders of runs → table, best run, pictures
    sweep         many runs, and what they came to

``data`` and ``model`` never import each other.
"""
