"""Who may do what: rights, tokens, tickets, and which names and origins a hub answers to. Knows nothing of HTTP."""
