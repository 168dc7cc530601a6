"""The commands, a line of help each; `NAME.py` beside this holds the command NAME.

Its `run` takes the words after the command and returns the exit code, or raises a `ValueError` of one line for wrong
input. Nothing is imported here, so that neither `--help` nor a mistyped command imports torch.
"""

COMMANDS = {
    "render": "render a script into clips, previews and a contact sheet",
    "check": "say what a script would become, without rendering: shots, words, time, memory",
    "convert": "write a script of any form as YAML",
    "film": "join the clips of a folder to one film, with timelines for editing programs",
    "studio": "open a page to write a script, see drafts, pick takes and finish them",
    "draft": "draft many takes of every shot cheaply, to pick those that `render` finishes",
    "distill": "distill a teacher into a student of a few stages",
    "adapt": "train a teacher on every grid of a schedule, before distilling with its scores",
    "decoder": "distill a model's VAE decoder into a small, much faster one",
    "encode": "encode videos into a cache of latents on every grid",
    "spectrum": "measure which grids the noise allows, and find a schedule for a budget",
    "evaluate": "judge models side by side: quality, diversity, motion, cost, and a page of clips",
    "vbench": "make the clips that VBench and VBench-2.0 judge",
    "synthesize": "let a teacher make the clips that a student is trained on",
    "plan": "count what a schedule costs to sample and to train, without weights",
    "export": "export a student as a diffusers LoRA or pipeline folder, with a model card",
    "bench": "measure what a part of the machinery costs on this machine: clip, draft, mmd, training",
    "doctor": "say what this machine has: devices, attention, decoders, encoders",
}

EXTRAS = {"film": "film", "studio": "studio", "evaluate": "evaluation"}
"""What a command needs where that is not `train`."""
