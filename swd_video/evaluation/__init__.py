"""Judges of clips: adherence, fidelity, diversity, motion and cost; none may have trained the student."""
