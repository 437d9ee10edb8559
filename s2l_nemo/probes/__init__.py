"""Measures what Section 3.1 and Appendix E of the paper claim: pure functions, tested against exact enumeration.

Axes: N rollouts of one prompt, T steps of a response, K directions, D draws of a perturbation, V vocabulary, U units
(prompts) over which intervals are taken. A step after the end of a rollout has score 0: the policy has no choice left.
docs/probes.md says what each formula means, and what is wrong in the paper's text.
"""
