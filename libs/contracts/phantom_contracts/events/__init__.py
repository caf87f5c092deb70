"""Event models, one module a writing service. An event says what happened, in the past tense."""
