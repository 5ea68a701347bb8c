"""Edges where a trace, or a what-if, was once wrong without a word: twelve points, each with the test that saw it."""

# 1. A checkpoint without one of its weights.

# 2. Answers that are not of this forward: other threads, and hooks of the user's own.

# 3. Interventions on routers that answer in a way of their own.

# 4. Interventions on routers that limit the choice to groups.

# 5. Llama 4 in half precision.

# 6. The checkpoint's own generation settings.

# 7. A token that skips the experts, and a what-if in train mode.

# 8. A table whose rows were sorted.

# 9. A typed U+FFFD, and what is named a share.

# 10. A sentence where a traceback came.

# 11. A small table that names a large expert.

# 12. Invisible characters before a formula.
