"""Which settings would have done better on a recorded trace: search on its first part, and a look at what came later.

``space`` what may be tried -> ``search`` trials in batches, asked and told in order -> ``outcome`` what each cost and
attained -> ``advice`` which one to take, if any -> ``settings_file`` how to write it down.
"""
